package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	forwarding "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Knocker = (*Engine)(nil)

const (
	// knockTime bounds one call of Knock, someTime what is done with some of the ports, insideTime their first tries from inside,
	// and dialTime a connection from here. What listens and says nothing is known to do so after half a second, a node's patience.
	knockTime  = 10 * time.Second
	someTime   = 6 * time.Second
	insideTime = 3 * time.Second
	dialTime   = time.Second
	// maxKnocks bounds the ports of one call, maxKnocking how many of them are tried at a time.
	maxKnocks   = 64
	maxKnocking = 16
	// closedPort is one on which nobody listens (tcpmux): it shows that refusals are told of.
	closedPort = 1
	// maxForwardError bounds what is read of the reason why a port cannot be forwarded, in bytes.
	maxForwardError = 4 << 10
)

// Knock implements engine.Knocker. A connection from here meets what listens for everybody; one that the pod's node
// makes within the pod's network, as kubectl port-forward has it made, meets what listens on localhost as well.
func (e *Engine) Knock(ctx context.Context, id trysail.PodID, ports []int) ([]trysail.Knock, error) {
	p := e.watch.pod(id)
	if p == nil || p.Status.PodIP == "" || p.Status.Phase != corev1.PodRunning {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	ports = ports[:min(len(ports), maxKnocks)]
	knocks := make([]trysail.Knock, len(ports))
	for i, port := range ports {
		knocks[i].Port = port
		if len(p.Spec.Containers) == 1 && len(p.Spec.InitContainers) == 0 {
			knocks[i].Container = p.Spec.Containers[0].Name
		}
	}
	f, err := e.forward(ctx, p.Name)
	if err != nil {
		err = fmt.Errorf("trying the ports of a pod from inside: %w", e.api.explain(err))
	}
	// The first port is the one that matters most: it does not wait for the others, with which a busy node may take long.
	most := min(1, len(knocks))
	for i, some := range [][]trysail.Knock{knocks[:most], knocks[most:]} {
		if i > 0 && ctx.Err() != nil {
			return knocks[:most], err // the others have not been tried
		}
		if err == nil && len(some) > 0 {
			err = e.knockBothWays(ctx, f, p.Status.PodIP, some)
		} else {
			knockOutside(ctx, p.Status.PodIP, some)
		}
	}
	return knocks, err
}

// knockOutside tries ports from here.
func knockOutside(ctx context.Context, addr string, knocks []trysail.Knock) {
	each(knocks, func(k *trysail.Knock) { k.Outside = dial(ctx, addr, k.Port) })
}

// knockBothWays tries ports first from inside, then from here, and from inside once more where only that was answered: whoever begins
// or ends meanwhile shall not count as one who listens for the pod alone. If there is an error, what the inside says is not known.
func (e *Engine) knockBothWays(ctx context.Context, f *forwarder, addr string, knocks []trysail.Knock) error {
	ctx, cancel := context.WithTimeout(ctx, someTime)
	defer cancel()
	first, cancelFirst := context.WithTimeout(ctx, insideTime)
	defer cancelFirst()
	inside := e.within(first, f, knocks, func(trysail.Knock) bool { return true })
	knockOutside(ctx, addr, knocks)
	again := e.within(ctx, f, knocks, func(k trysail.Knock) bool {
		return k.Outside != trysail.ReachOK && inside[k.Port] == trysail.ReachOK
	})
	// That nothing has gone wrong means something only if the connection still tells of what does.
	control := e.within(ctx, f, []trysail.Knock{{Port: closedPort}}, func(trysail.Knock) bool { return true })
	if control[closedPort] != trysail.ReachRefused {
		return fmt.Errorf("trying %d ports of a pod from inside: the cluster does not say in time which are closed", len(knocks))
	}
	for i := range knocks {
		k := &knocks[i]
		k.Inside = inside[k.Port]
		if second, tried := again[k.Port]; tried {
			k.Inside = second
		}
	}
	return nil
}

// within tries ports from inside of a pod. It gives up with ctx, whatever the connection does then, and knows nothing.
func (e *Engine) within(ctx context.Context, f *forwarder, knocks []trysail.Knock, wanted func(trysail.Knock) bool) map[int]trysail.ReachResult {
	var tries []trysail.Knock
	for _, k := range knocks {
		if wanted(k) {
			tries = append(tries, trysail.Knock{Port: k.Port})
		}
	}
	done := make(chan map[int]trysail.ReachResult, 1)
	e.wg.Go(func() {
		each(tries, func(k *trysail.Knock) { k.Inside = f.try(ctx, k.Port) })
		results := map[int]trysail.ReachResult{}
		for _, k := range tries {
			results[k.Port] = k.Inside
		}
		done <- results
	})
	select {
	case results := <-done:
		return results
	case <-ctx.Done():
		return nil
	}
}

// each does something with all ports, some at a time.
func each(knocks []trysail.Knock, do func(*trysail.Knock)) {
	seats := make(chan struct{}, maxKnocking)
	var wg sync.WaitGroup
	for i := range knocks {
		seats <- struct{}{}
		wg.Go(func() {
			defer func() { <-seats }()
			do(&knocks[i])
		})
	}
	wg.Wait()
}

// dial connects from here.
func dial(ctx context.Context, addr string, port int) trysail.ReachResult {
	d := net.Dialer{Timeout: dialTime}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
	switch {
	case err == nil:
		_ = conn.Close()
		return trysail.ReachOK
	case errors.Is(err, syscall.ECONNREFUSED):
		return trysail.ReachRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return trysail.ReachUnreachable
	}
	return trysail.ReachTimeout
}

// forwarder is a connection to the API server by which ports of one pod are reached.
type forwarder struct {
	httpstream.Connection

	mu   sync.Mutex // guards next
	next int
}

func (e *Engine) forward(ctx context.Context, pod string) (*forwarder, error) {
	address := e.api.core.Get().Namespace(e.api.namespace).Resource("pods").Name(pod).SubResource("portforward").URL()
	transport, holder, err := websocket.RoundTripperFor(e.api.config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, req, forwarding.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, err
	}
	tunnel, err := spdy.NewClientConnection(portforward.NewTunnelingConnection("knock", conn))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	// What waits for an answer then waits no longer than that.
	context.AfterFunc(ctx, func() { _, _ = conn.Close(), tunnel.Close() })
	return &forwarder{Connection: tunnel}, nil
}

// try connects to a port on the pod's localhost and says nothing there.
func (f *forwarder) try(ctx context.Context, port int) trysail.ReachResult {
	if ctx.Err() != nil {
		return trysail.ReachTimeout
	}
	f.mu.Lock()
	f.next++
	id := strconv.Itoa(f.next)
	f.mu.Unlock()
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, id)
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errs, err := f.CreateStream(headers)
	if err != nil {
		return trysail.ReachTimeout
	}
	defer f.RemoveStreams(errs)
	_ = errs.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := f.CreateStream(headers)
	if err != nil {
		return trysail.ReachTimeout
	}
	defer f.RemoveStreams(data)
	_ = data.Close() // we have nothing to say, so the other side ends it
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _, _ = errs.Reset(), data.Reset() })
	defer stop()
	wg.Go(func() { _, _ = io.Copy(io.Discard, data) })
	defer data.Reset() //nolint:errcheck // it ends the copying
	text, err := io.ReadAll(io.LimitReader(errs, maxForwardError))
	switch {
	case strings.Contains(string(text), "connection refused"):
		return trysail.ReachRefused
	case err != nil || len(text) > 0 || ctx.Err() != nil:
		return trysail.ReachTimeout
	}
	return trysail.ReachOK
}
