package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/edge"
)

// measureEdge compares the engines of the edge with nginx and, unless it shall be short, with HAProxy and Caddy. What is compared
// runs in turns in one run, on the same backend and this machine's CPUs. Counters and access logs are on, except in the bare
// engine; the edge routes ten thousand names.
func measureEdge(ctx context.Context, t *table, o options, dir string) (err error) {
	wanted, err := regexp.Compile(o.part)
	if err = errors.Join(err, raiseFiles()); err != nil {
		return err
	}
	dir, err = os.MkdirTemp(dir, "edge-")
	if err != nil {
		return err
	}
	sides, missing, stop, err := edgeSides(ctx, dir, !o.short)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, m := range missing {
		t.add("not measured", m, "")
	}
	secure := existing(sides, "nginx", "haproxy", "caddy", edge.EngineNetHTTP, edge.EngineHTTP1, edge.EngineLoops)
	plain := existing(sides, "nginx, plain", "haproxy, plain", "caddy, plain", bareEngine, bareLoops)
	ours := existing(sides, "nginx", edge.EngineHTTP1, edge.EngineLoops)
	for _, s := range secure {
		agreed, err := agreement(ctx, s.addr)
		if err != nil {
			return err
		}
		t.add("OpenSSL and "+s.name+" agree on", agreed, "")
	}
	b := edgeBench{t: t, window: o.window, rounds: 5}
	if o.short {
		b.window, b.rounds = min(o.window, 2*time.Second), 3
	}
	// Idle connections first, while the processes are fresh.
	for _, s := range append(slices.Clone(secure), plain...) {
		if !wanted.MatchString("idle connections") {
			break
		}
		each, err := idleCost(ctx, s)
		if err != nil {
			return fmt.Errorf("idle connections of %s: %w", s.name, err)
		}
		t.add("memory of an idle connection, "+s.name, fmt.Sprintf("%.1f KB", each/1024), "")
	}
	script, err := hostScript(dir)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		what  string
		sides []side
		load  load
	}{
		{"requests over TLS", secure, wrkLoad("/", 64)},
		{"requests over plain HTTP", plain, wrkLoad("/", 64)},
		{"requests to 10,000 names over TLS", ours, wrkLoad("/", 64, "-s", script)},
		{"1 MB bodies over TLS", secure, wrkLoad("/large", 16)},
		{"1 MB bodies over plain HTTP", plain, wrkLoad("/large", 16)},
		{"1,000 requests/s over TLS", secure, pacedLoad(1000, 64)},
		{"new TLS connections with a request, full", secure, connectionLoad(false, "X25519")},
		{"new TLS connections with a request, resumed", secure, connectionLoad(true, "X25519")},
		{"the same, full, post-quantum", existing(sides, edge.EngineHTTP1, "caddy"), connectionLoad(false, "X25519MLKEM768")},
		{"the same, resumed, post-quantum", existing(sides, edge.EngineHTTP1, "caddy"), connectionLoad(true, "X25519MLKEM768")},
		{"requests over 5,000 TLS connections", ours, activeLoad(5000)},
		{"requests over TLS beside 1,000 slow clients", ours, slowLoad(1000)},
	} {
		if o.short && strings.Contains(part.what, "000") || !wanted.MatchString(part.what) {
			continue
		}
		if err := b.compare(ctx, part.what, part.sides, part.load); err != nil {
			return fmt.Errorf("%s: %w", part.what, err)
		}
	}
	if !wanted.MatchString("busy heap") {
		return nil
	}
	return b.busyHeap(ctx, sides)
}

// existing are those of the names that there are.
func existing(sides map[string]side, names ...string) (list []side) {
	for _, name := range names {
		if s, ok := sides[name]; ok {
			list = append(list, s)
		}
	}
	return list
}

// agreement is what a client of OpenSSL, as wrk is one, agrees on with a server: version, suite and key exchange.
func agreement(ctx context.Context, url string) (string, error) {
	_, addr, _ := cutScheme(url)
	cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", addr, "-servername", tlsHost)
	cmd.Stdin = strings.NewReader("")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running openssl: %w\n%s", err, out)
	}
	suite := regexp.MustCompile(`New, (\S+), Cipher is (\S+)`).FindSubmatch(out)
	group := regexp.MustCompile(`Server Temp Key: (.*)`).FindSubmatch(out)
	if suite == nil || group == nil {
		return "", fmt.Errorf("openssl says:\n%s", out)
	}
	return fmt.Sprintf("%s, %s, %s", suite[1], suite[2], group[1]), nil
}

// result is what a load got.
type result struct {
	rate, total float64
	p99         time.Duration // 0: not measured
	setup       time.Duration // CPU of the side that does not count: for connections that were opened before
}

// load is something that is done to a side for a while.
type load func(context.Context, side, time.Duration) (result, error)

type edgeBench struct {
	t      *table
	window time.Duration
	rounds int
}

// compare measures the sides in turns. The first is what the others are compared with.
func (b *edgeBench) compare(ctx context.Context, what string, sides []side, do load) error {
	rates, costs, tails := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for range b.rounds {
		for _, s := range sides {
			before, err := s.cpu()
			if err != nil {
				return err
			}
			got, err := do(ctx, s, b.window)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", s.name, err)
			}
			after, err := s.cpu()
			if err != nil {
				return err
			}
			rates[s.name] = append(rates[s.name], got.rate)
			costs[s.name] = append(costs[s.name], float64((after-before-got.setup).Nanoseconds())/1000/got.total)
			tails[s.name] = append(tails[s.name], float64(got.p99.Microseconds())/1000)
		}
	}
	first := sides[0].name
	for _, s := range sides {
		tail := ""
		if p99 := middle(tails[s.name]); p99 > 0 {
			tail = fmt.Sprintf(", p99 %.1f ms", p99)
		}
		b.t.add(what+", "+s.name, fmt.Sprintf("%.1f µs of CPU each, %.0f/s%s", middle(costs[s.name]), middle(rates[s.name]), tail),
			fmt.Sprintf("CPU %.2f, rate %.2f of %s", middle(costs[s.name])/middle(costs[first]), middle(rates[s.name])/middle(rates[first]), first))
	}
	return nil
}

// busyHeap measures how long our own engines stop when their program has 256 MB of small objects and replaces two million of
// them a second, and what that does to requests.
func (b *edgeBench) busyHeap(ctx context.Context, sides map[string]side) error {
	ours := existing(sides, edge.EngineHTTP1, edge.EngineLoops)
	for _, s := range ours {
		if _, err := s.tell("heap"); err != nil {
			return err
		}
	}
	if err := b.compare(ctx, "1,000 requests/s with a busy heap", append(existing(sides, "nginx"), ours...), pacedLoad(1000, 64)); err != nil {
		return err
	}
	for _, s := range ours {
		worst, err := s.tell("pauses")
		if err != nil {
			return err
		}
		b.t.add("longest pause for garbage collection, "+s.name, "at most "+worst+" µs", "")
	}
	return nil
}
