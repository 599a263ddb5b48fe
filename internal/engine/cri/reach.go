package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/podnet"
)

const (
	maxReaches = 16 // things that are tried at once
	reachTime  = time.Second
)

// Reach implements engine.Witness. Things beyond the first sixteen are left out.
func (e *Engine) Reach(ctx context.Context, id trysail.PodID, things []trysail.Reach) ([]trysail.Reach, error) {
	p := e.witness.pod(id)
	if p == nil {
		return nil, fmt.Errorf("nothing is known of pod %s", id)
	}
	pid, err := e.cgroups.sandboxProcess(p.id, p.sandbox)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", id, err)
	}
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("opening the network of pod %s: %w", id, err)
	}
	defer namespace.Close()
	names, err := e.podResolver(p)
	if err != nil {
		return nil, fmt.Errorf("reading how pod %s resolves names: %w", id, err)
	}
	tried := make([]trysail.Reach, min(len(things), maxReaches))
	errs := make([]error, len(tried))
	var wg sync.WaitGroup
	for i := range tried {
		wg.Go(func() {
			errs[i] = podnet.Within(namespace, func() error {
				tried[i] = names.reach(ctx, things[i])
				return nil
			})
		})
	}
	wg.Wait()
	return tried, errors.Join(errors.Join(errs...), ctx.Err())
}

// podResolver reads the files that the pod's containers have as /etc/hosts and /etc/resolv.conf.
func (e *Engine) podResolver(p *watchedPod) (*resolver, error) {
	conf, err := os.ReadFile(filepath.Join(e.cfg.root(), "io.containerd.grpc.v1.cri", "sandboxes", p.sandbox, "resolv.conf"))
	if err != nil {
		return nil, err
	}
	hosts, err := os.ReadFile(filepath.Join(e.cfg.podDir(string(p.id)), "hosts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err // without the file no container can have been started
	}
	return newResolver(string(conf), string(hosts)), nil
}

// reach resolves and connects, in the network of its thread.
func (r *resolver) reach(ctx context.Context, thing trysail.Reach) trysail.Reach {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	began := time.Now()
	out := trysail.Reach{Host: thing.Host, Port: thing.Port}
	addrs, result := r.lookup(ctx, thing.Host)
	out.Result = result
	if len(addrs) > 0 {
		out.Addr = addrs[0]
	}
	if result == trysail.ReachOK && thing.Port != 0 {
		out.Addr, out.Result = connect(ctx, addrs, thing.Port)
	}
	out.Took = time.Since(began)
	return out
}

// connect tries the addresses one after the other, each with its share of the time, and returns the one that works; if
// none does, what came of the first.
func connect(ctx context.Context, addrs []netip.Addr, port int) (at netip.Addr, result trysail.ReachResult) {
	deadline, _ := ctx.Deadline()
	for i, addr := range addrs {
		share := time.Until(deadline) / time.Duration(len(addrs)-i)
		dialer := net.Dialer{Timeout: max(share, time.Millisecond)}
		// With a literal address the socket is made in this goroutine, and so in the network of its thread.
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, uint16(port)).String()) //nolint:gosec // a port
		if err == nil {
			conn.Close()
			return addr, trysail.ReachOK
		}
		if i == 0 {
			result = connectResult(err)
		}
	}
	return addrs[0], result
}

func connectResult(err error) trysail.ReachResult {
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return trysail.ReachRefused
	case timeout != nil && timeout.Timeout(), errors.Is(err, context.Canceled):
		return trysail.ReachTimeout
	}
	return trysail.ReachUnreachable
}
