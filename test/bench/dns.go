package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/trysail/trysail/internal/dns"
	"github.com/trysail/trysail/test/kit"
)

const (
	// dnsRole in the environment makes this program the pods' name server and nothing else: its value is the address of
	// the one client.
	dnsRole    = "TRYSAIL_BENCH_DNS"
	dnsRounds  = 5
	dnsNames   = 100 // local ones
	dnsClients = 16  // sockets, each of which asks again when it has its answer
	// dnsPatience is how long an answer may take. Both sides answer all that they are asked here.
	dnsPatience = 2 * time.Second
)

// measureDNS measures the pods' name server beside unbound, of which each has the same local names and asks the same server
// for others. These are never asked for twice: one of the two has a cache.
func measureDNS(ctx context.Context, t *table, o options, dir string) (err error) {
	if dir, err = os.MkdirTemp(dir, "dns-"); err != nil {
		return err
	}
	client, err := ownAddress()
	if err != nil {
		return err
	}
	upstream, err := startUpstream()
	if err != nil {
		return err
	}
	defer upstream.Close()
	local := map[string]string{}
	for i := range dnsNames {
		local[dnsName(i)] = fmt.Sprintf("10.92.15.%d", i+1)
	}
	theirAddr, err := kit.FreeAddr()
	if err != nil {
		return err
	}
	theirs, err := kit.StartUnbound(ctx, dir, theirAddr, upstream.LocalAddr().String(), local)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.Close()) }()
	ours, err := startDNS(ctx, client, upstream.LocalAddr().String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()

	sides := []side{{"trysail", ours.addr, []int{ours.pid}, nil}, {"unbound", theirAddr, []int{theirs.PID}, nil}}
	var asked atomic.Int64
	for _, kind := range []struct {
		what string
		name func() string
	}{
		{"answers for private names", func() string { return dnsName(int(asked.Add(1) % dnsNames)) }},
		{"answers for other names", func() string { return fmt.Sprintf("host-%d.example.com.", asked.Add(1)) }},
	} {
		rates, costs := map[string][]float64{}, map[string][]float64{}
		for range dnsRounds {
			for _, s := range sides {
				before, err := s.cpu()
				if err != nil {
					return err
				}
				rate, total, err := askAll(client, s.addr, o.window, kind.name)
				if err != nil {
					return fmt.Errorf("measuring %s: %w", s.name, err)
				}
				after, err := s.cpu()
				if err != nil {
					return err
				}
				rates[s.name] = append(rates[s.name], rate)
				costs[s.name] = append(costs[s.name], float64((after-before).Nanoseconds())/1000/total)
			}
		}
		t.add(kind.what+" per second, unbound", fmt.Sprintf("%.0f", middle(rates["unbound"])), "")
		t.add(kind.what+" per second, trysail", fmt.Sprintf("%.0f", middle(rates["trysail"])), fmt.Sprintf("%.2f of unbound", middle(rates["trysail"])/middle(rates["unbound"])))
		t.add("CPU of each, unbound", fmt.Sprintf("%.1f µs", middle(costs["unbound"])), "")
		t.add("CPU of each, trysail", fmt.Sprintf("%.1f µs", middle(costs["trysail"])), fmt.Sprintf("%.2f of unbound", middle(costs["trysail"])/middle(costs["unbound"])))
	}
	return nil
}

func dnsName(i int) string { return fmt.Sprintf("service-%d.service.local.", i) }

// ownAddress is an address of this machine other than loopback: from there it is asked as by a pod.
func ownAddress() (netip.Addr, error) {
	c, err := net.Dial("udp4", "192.0.2.1:9") // which sends nothing
	if err != nil {
		return netip.Addr{}, fmt.Errorf("looking for an IPv4 address to ask from: %w", err)
	}
	defer c.Close()
	p, err := netip.ParseAddrPort(c.LocalAddr().String())
	return p.Addr(), err
}

// askAll asks from so many sockets for the time.
func askAll(from netip.Addr, addr string, window time.Duration, name func() string) (rate, total float64, err error) {
	server, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return 0, 0, err
	}
	var n atomic.Int64
	errs := make([]error, dnsClients)
	var group sync.WaitGroup
	began := time.Now()
	for i := range dnsClients {
		group.Go(func() {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, server)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			for id := uint16(1); time.Since(began) < window && errs[i] == nil; id++ {
				if errs[i] = askOne(c, id, name()); errs[i] == nil {
					n.Add(1)
				}
			}
		})
	}
	group.Wait()
	total = float64(n.Load())
	return total / time.Since(began).Seconds(), total, errors.Join(errs...)
}

// askOne asks for an address and looks whether there is one in the answer.
func askOne(c *net.UDPConn, id uint16, name string) error {
	b := dnsmessage.NewBuilder(make([]byte, 0, 128), dnsmessage.Header{ID: id, RecursionDesired: true})
	n, err := dnsmessage.NewName(name)
	if err == nil {
		err = errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}))
	}
	if err != nil {
		return err
	}
	query, err := b.Finish()
	if err != nil {
		return err
	}
	if _, err := c.Write(query); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(dnsPatience)); err != nil {
		return err
	}
	var answer [1232]byte
	size, err := c.Read(answer[:])
	if err != nil {
		return err
	}
	const header = 12
	if size < header || binary.BigEndian.Uint16(answer[:]) != id || binary.BigEndian.Uint16(answer[6:]) != 1 {
		return fmt.Errorf("not the answer for %s: % x", name, answer[:size])
	}
	return nil
}

// startUpstream answers every question with the same address, until it is closed.
func startUpstream() (net.PacketConn, error) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	for range 2 {
		go func() { // ends with the socket
			var buf [1232]byte
			for {
				n, from, err := c.ReadFrom(buf[:])
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if b := sameAnswer(buf[:n]); err == nil && b != nil {
					_, _ = c.WriteTo(b, from)
				}
			}
		}()
	}
	return c, nil
}

func sameAnswer(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true})
	err = errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers())
	if err == nil && q.Type == dnsmessage.TypeA {
		err = b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
	}
	answer, finishErr := b.Finish()
	if err != nil || finishErr != nil {
		return nil
	}
	return answer
}

// startDNS starts this program in the role of a name server.
func startDNS(ctx context.Context, client netip.Addr, upstream string) (*roleProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, upstream)
	cmd.Env = append(os.Environ(), dnsRole+"="+client.String())
	cmd.Stderr = os.Stderr
	return startRole(cmd)
}

// beDNS answers until standard input ends, and prints its address.
func beDNS(client string, args []string) error {
	from, err := netip.ParseAddr(client)
	if err != nil {
		return err
	}
	upstream, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	// Upstream has another address: the server takes one at its own for itself.
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	server, err := dns.Start(dns.Config{
		Addr: netip.MustParseAddrPort(addr), Clients: netip.PrefixFrom(from, 32),
		Upstreams: func() []netip.AddrPort { return []netip.AddrPort{upstream} },
		Log:       slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	for i := range dnsNames {
		name := dnsName(i)
		server.Set(name[:len(name)-len(".service.local.")], netip.AddrFrom4([4]byte{10, 92, 15, byte(i + 1)}))
	}
	fmt.Println(addr)
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, server.Close())
}
