package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/edge/http1/cases"
)

// rawPod notes what it is asked for, and answers what a request's path says, a number of cases.Answers, or else "ok".
type rawPod struct {
	mu   sync.Mutex
	seen map[string][]string // "METHOD path body" by the field Case, as other fields may be broken
}

func newRawPod(t *testing.T) (*rawPod, net.Addr) {
	t.Helper()
	p := &rawPod{seen: map[string][]string{}}
	return p, acceptConns(t, p.serve)
}

// acceptConns is a pod made of bytes: serve gets each of its connections, and a minute for it.
func acceptConns(tb testing.TB, serve func(net.Conn)) net.Addr {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				serve(conn)
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		group.Wait()
	})
	return l.Addr()
}

func (p *rawPod) serve(conn net.Conn) {
	br := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			body = []byte("broken")
		}
		p.mu.Lock()
		name := req.Header.Get("X-Forwarded-Host")
		p.seen[name] = append(p.seen[name], req.Method+" "+req.URL.Path+" "+string(body))
		p.mu.Unlock()
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimPrefix(req.URL.Path, "/answer/"))
		if err != nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			continue
		}
		if _, err := io.WriteString(conn, cases.Answers[n].Says); err != nil || cases.Answers[n].Last {
			return
		}
	}
}

// of returns what the pod was asked for under a host.
func (p *rawPod) of(host string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[host]
}

// rawEdge is an edge before a rawPod with a host for each of n cases.
func rawEdge(t *testing.T, n int) (*Edge, *rawPod) {
	t.Helper()
	pod, addr := newRawPod(t)
	e := testEdge(t, func(c *Config) {
		c.HeaderTimeout, c.IdleTimeout, c.ResponseTimeout = 5*time.Second, 5*time.Second, 5*time.Second
		c.MaxHeaderBytes = 16 << 10
	})
	target := testTarget("a", addr)
	target.Check.IntervalSeconds = 300
	r := testRoute(target)
	for i := range n {
		r.Domains = append(r.Domains, rawHost(i))
	}
	e.Apply(r)
	return e, pod
}

func rawHost(i int) string { return fmt.Sprintf("case%d", i) }

// answersTo sends what a client sends, in one piece, and returns the statuses of the answers until the edge hangs up.
func answersTo(t *testing.T, e *Edge, send string, methods ...string) (list []string) {
	t.Helper()
	conn := dialTLS(t, e)
	defer conn.Close()
	_, _ = io.WriteString(conn, send) // the edge may have refused it before the end
	for br := bufio.NewReader(conn); ; {
		method := http.MethodGet
		if len(list) < len(methods) {
			method = methods[len(list)]
		}
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			if isTimeout(err) {
				t.Errorf("%.100q: still open after %v", send, list)
			}
			return list
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return append(list, res.Status[:3]+" broken")
		}
		if res.StatusCode >= 200 {
			list = append(list, res.Status[:3])
		}
	}
}

// TestRaw_Requests sends the heads of the table with another request behind. Our own engine answers as the table says; net/http, which
// takes and repairs more, must not see another number of requests than there are.
func TestRaw_Requests(t *testing.T) {
	t.Parallel()
	e, pod := rawEdge(t, len(cases.Requests))
	for i, tt := range cases.Requests {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			host := rawHost(i)
			own := strings.NewReplacer("Host: h\r\n", "Host: "+host+"\r\n", "Host:h\r\n", "Host:"+host+"\r\n", "http://h", "http://"+host, "HTTPS://h", "HTTPS://"+host).Replace(tt.Head)
			method, _, _ := strings.Cut(own, " ")
			follower := "GET /follower HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
			got := answersTo(t, e, own+follower, method)
			seen := pod.of(host)
			want := strconv.Itoa(tt.Status)
			routed := strings.Contains(own, host)
			switch {
			case strings.HasPrefix(own, "CONNECT") && tt.Status == 200:
				want = "405"
			case tt.Status == 200 && !routed:
				want = "404"
			}
			if strings.HasPrefix(own, "OPTIONS *") {
				want = "200"
			}
			if engine == EngineNetHTTP {
				if len(got) > 2 || len(seen) > 2 {
					t.Errorf("answers %v, the pod saw %q", got, seen)
				}
				return
			}
			cut := len(got) == 0 && tt.Status != 200 // a reset overtook the answer to a client that was still sending
			if !cut && (len(got) == 0 || got[0] != want) {
				t.Errorf("answers %v, want %s; the pod saw %q", got, want, seen)
			}
			if tt.Status != 200 && (len(got) > 1 || len(seen) > 0) {
				t.Errorf("answers %v, the pod saw %q", got, seen)
			}
		})
	}
}

// TestRaw_Chunks does the same with bodies in chunks. What is broken never looks whole to the pod.
func TestRaw_Chunks(t *testing.T) {
	t.Parallel()
	e, pod := rawEdge(t, len(cases.Chunks))
	for i, tt := range cases.Chunks {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			host := rawHost(i)
			got := answersTo(t, e, "POST /chunks HTTP/1.1\r\nHost: "+host+"\r\nTransfer-Encoding: chunked\r\n\r\n"+tt.Body+"GET /follower HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			seen := pod.of(host)
			switch {
			case tt.OK:
				if len(got) == 0 || got[0] != "200" || len(seen) == 0 || seen[0] != "POST /chunks "+tt.Data {
					t.Errorf("answers %v, the pod saw %q", got, seen)
				}
			case engine == EngineNetHTTP:
				if len(got) > 1 || len(seen) > 1 {
					t.Errorf("answers %v, the pod saw %q", got, seen)
				}
			case len(got) > 1 || len(got) == 1 && got[0] != "400" || len(seen) > 1 || len(seen) == 1 && seen[0] != "POST /chunks broken":
				t.Errorf("answers %v, the pod saw %q", got, seen)
			}
		})
	}
}

// TestRaw_Answers has pods answer what the table says, twice on one connection of a client.
func TestRaw_Answers(t *testing.T) {
	t.Parallel()
	e, pod := rawEdge(t, len(cases.Answers))
	for i, tt := range cases.Answers {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			host := rawHost(i)
			request := fmt.Sprintf("GET /answer/%d HTTP/1.1\r\nHost: %s\r\n", i, host)
			got := answersTo(t, e, request+"\r\n"+request+"Connection: close\r\n\r\n")
			want := strconv.Itoa(tt.Status)
			if tt.Broken {
				want += " broken"
			}
			for _, status := range got {
				if status != want && (engine != EngineNetHTTP || tt.Status == 200 && !tt.Broken) {
					t.Errorf("answers %v, want %s; the pod saw %q", got, want, pod.of(host))
				}
			}
			if len(got) == 0 && !tt.Broken || len(got) > 2 { // net/http cuts some before their head is out
				t.Errorf("answers %v", got)
			}
		})
	}
	t.Logf("%d cases on sockets with those of TestRaw_Requests and TestRaw_Chunks", len(cases.Requests)+len(cases.Chunks)+len(cases.Answers))
}
