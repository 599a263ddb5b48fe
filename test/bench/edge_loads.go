package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// edgeRequest is what all loads but wrk's send.
const edgeRequest = "GET / HTTP/1.1\r\nHost: " + tlsHost + "\r\n\r\n"

// idleConns is how many connections the memory of one is measured with, after as many others. They come at a pace at which no
// server is pressed.
const (
	idleConns = 1000
	idlePause = 3 * time.Millisecond
)

// raiseFiles lets this program and those that it starts have many connections.
func raiseFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

var wrkTail = regexp.MustCompile(`99%\s+([0-9.]+)(us|ms|s)`)

// wrkLoad asks for a path, as often as it can, over connections that are kept.
func wrkLoad(path string, conns int, more ...string) load {
	return func(ctx context.Context, s side, window time.Duration) (got result, err error) {
		url := strings.Replace(s.addr+path, "//127.0.0.1:", "//"+tlsHost+":", 1) // the name that the certificates are for
		args := append([]string{"-t1", "--latency", "-c" + strconv.Itoa(conns), "-d" + strconv.Itoa(max(int(window.Seconds()), 1)) + "s", "-H", "Host: " + tlsHost}, more...)
		out, err := exec.CommandContext(ctx, "wrk", append(args, url)...).CombinedOutput()
		if err != nil {
			return got, fmt.Errorf("running wrk: %w\n%s", err, out)
		}
		perSecond, total, tail := wrkRate.FindSubmatch(out), wrkTotal.FindSubmatch(out), wrkTail.FindSubmatch(out)
		if perSecond == nil || total == nil || tail == nil || regexp.MustCompile(`Non-2xx|Socket errors`).Match(out) {
			return got, fmt.Errorf("wrk says:\n%s", out)
		}
		var err1, err2, err3 error
		got.rate, err1 = strconv.ParseFloat(string(perSecond[1]), 64)
		got.total, err2 = strconv.ParseFloat(string(total[1]), 64)
		got.p99, err3 = time.ParseDuration(string(tail[1]) + string(tail[2]))
		return got, errors.Join(err1, err2, err3)
	}
}

// hostScript makes wrk ask for one name after the other.
func hostScript(dir string) (string, error) {
	name := filepath.Join(dir, "hosts.lua")
	return name, os.WriteFile(name, fmt.Appendf(nil, `local n = 0
request = function()
  n = (n * 7 + 11) %% %d
  return "GET / HTTP/1.1\r\nHost: shop-" .. n .. ".example.com\r\n\r\n"
end
`, edgeHosts), 0o600)
}

// dialSide connects to a side, with TLS if it speaks that.
func dialSide(ctx context.Context, s side, cfg *tls.Config) (net.Conn, error) {
	scheme, addr, _ := cutScheme(s.addr)
	if scheme == "http" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	if cfg == nil {
		cfg = &tls.Config{ServerName: tlsHost, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	}
	return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
}

func cutScheme(url string) (scheme, rest string, ok bool) { return strings.Cut(url, "://") }

// edgeConn is a connection that a load keeps.
type edgeConn struct {
	net.Conn
	br *bufio.Reader
}

func openConn(ctx context.Context, s side) (*edgeConn, error) {
	c, err := dialSide(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	return &edgeConn{c, bufio.NewReaderSize(c, 2048)}, nil
}

// ask sends a request and reads its answer.
func (c *edgeConn) ask() error {
	if _, err := io.WriteString(c, edgeRequest); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, %w", res.StatusCode, err)
	}
	return nil
}

// openConns opens so many, some at a time, and returns what CPU that took the side. Those that were opened are to be closed by
// closeConns even if there is an error.
func openConns(ctx context.Context, s side, n int) ([]*edgeConn, time.Duration, error) {
	before, err := s.cpu()
	if err != nil {
		return nil, 0, err
	}
	conns, errs := make([]*edgeConn, n), make([]error, 8)
	var next atomic.Int64
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for at := next.Add(1) - 1; int(at) < n && errs[i] == nil; at = next.Add(1) - 1 {
				if conns[at], errs[i] = openConn(ctx, s); errs[i] == nil {
					errs[i] = conns[at].ask()
				}
			}
		})
	}
	group.Wait()
	after, err := s.cpu()
	return conns, after - before, errors.Join(errors.Join(errs...), err)
}

func closeConns(conns []*edgeConn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// idleCost is what a further connection costs that has had one request, in bytes.
func idleCost(ctx context.Context, s side) (each float64, err error) {
	var conns []*edgeConn
	defer func() { closeConns(conns) }()
	var memory [2]int64
	for i := range memory {
		for range idleConns {
			c, err := openConn(ctx, s)
			if err != nil {
				return 0, err
			}
			conns = append(conns, c)
			if err := c.ask(); err != nil {
				return 0, err
			}
			time.Sleep(idlePause)
		}
		time.Sleep(2 * time.Second)
		if memory[i], err = s.memory(); err != nil {
			return 0, err
		}
	}
	return float64(memory[1]-memory[0]) / idleConns, nil
}

// memory is the resident memory of a side, without what it is about to give back.
func (s side) memory() (sum int64, err error) {
	if s.role != nil {
		if _, err := s.tell("free"); err != nil {
			return 0, err
		}
	}
	for _, pid := range s.pids {
		m, err := kit.MemoryOf(pid)
		if err != nil {
			return 0, err
		}
		sum += m.RSS
	}
	return sum, nil
}

// tell makes an engine do something, and returns what it says.
func (s side) tell(what string) (string, error) {
	if _, err := fmt.Fprintln(s.role.stdin, what); err != nil {
		return "", err
	}
	answer, err := s.role.stdout.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// connectionLoad makes new connections, each with a request, on four tasks, with a key exchange that all know.
func connectionLoad(resumed bool, group string) load {
	curve := tls.X25519
	if group == tls.X25519MLKEM768.String() {
		curve = tls.X25519MLKEM768
	}
	return func(ctx context.Context, s side, window time.Duration) (result, error) {
		return repeat(4, window, func() func() error {
			cfg := &tls.Config{ServerName: tlsHost, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{curve}}
			if resumed {
				cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
			first := true
			return func() error {
				conn, err := dialSide(ctx, s, cfg)
				if err != nil {
					return err
				}
				defer conn.Close()
				state := conn.(*tls.Conn).ConnectionState() //nolint:errcheck,forcetypeassert // that is what the dialer makes
				if state.DidResume != (resumed && !first) {
					return fmt.Errorf("resumed: %v", state.DidResume)
				}
				first = false
				return (&edgeConn{conn, bufio.NewReaderSize(conn, 2048)}).ask()
			}
		})
	}
}

// repeat has tasks do something again and again. each is called once per task.
func repeat(tasks int, window time.Duration, each func() func() error) (result, error) {
	var total atomic.Int64
	errs := make([]error, tasks)
	began := time.Now()
	var group sync.WaitGroup
	for i := range tasks {
		do := each()
		group.Go(func() {
			for time.Since(began) < window && errs[i] == nil {
				errs[i] = do()
				total.Add(1)
			}
		})
	}
	group.Wait()
	n := float64(total.Load())
	return result{rate: n / time.Since(began).Seconds(), total: n}, errors.Join(errs...)
}

// pacedLoad sends so many requests per second over connections that are kept, and measures from when each was due. It is the
// same load for everybody, which p99 is compared at.
func pacedLoad(perSecond, conns int) load {
	return func(ctx context.Context, s side, window time.Duration) (got result, err error) {
		list, setup, err := openConns(ctx, s, conns)
		defer closeConns(list)
		if err != nil {
			return got, err
		}
		got.setup = setup
		interval := time.Second * time.Duration(conns) / time.Duration(perSecond)
		times, errs := make([][]time.Duration, conns), make([]error, conns)
		began := time.Now()
		var group sync.WaitGroup
		for i, c := range list {
			group.Go(func() {
				due := began.Add(interval * time.Duration(i) / time.Duration(conns))
				for ; time.Since(began) < window && errs[i] == nil; due = due.Add(interval) {
					time.Sleep(time.Until(due))
					errs[i] = c.ask()
					times[i] = append(times[i], time.Since(due))
				}
			})
		}
		group.Wait()
		all := slices.Sorted(slices.Values(slices.Concat(times...)))
		got.total = float64(len(all))
		got.rate = got.total / time.Since(began).Seconds()
		got.p99 = all[len(all)*99/100]
		return got, errors.Join(errs...)
	}
}

// activeLoad keeps so many connections busy, each of which asks about once a second.
func activeLoad(conns int) load {
	return func(ctx context.Context, s side, window time.Duration) (result, error) {
		list, setup, err := openConns(ctx, s, conns)
		defer closeConns(list)
		if err != nil {
			return result{}, err
		}
		next := 0
		got, err := repeat(8, window, func() func() error {
			mine := list[next*conns/8 : (next+1)*conns/8]
			next++
			at := 0
			return func() error {
				at++
				return mine[at%len(mine)].ask()
			}
		})
		got.setup = setup
		return got, err
	}
}

// slowLoad is wrk's, beside clients that send a byte of a request now and then.
func slowLoad(slow int) load {
	return func(ctx context.Context, s side, window time.Duration) (result, error) {
		list, setup, err := openConns(ctx, s, slow)
		defer closeConns(list)
		if err != nil {
			return result{}, err
		}
		stop := make(chan struct{})
		var group sync.WaitGroup
		group.Go(func() {
			for at := 0; ; at++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					_, _ = io.WriteString(list[at%slow], edgeRequest[at/slow:at/slow+1]) // it may have been closed
				}
			}
		})
		got, err := wrkLoad("/", 64)(ctx, s, window)
		close(stop)
		group.Wait()
		got.setup = setup
		return got, err
	}
}
