package edge

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// arrivalTime is how long a client that has connected, and has not asked for anything yet, may keep a server from stopping.
const arrivalTime = 2 * time.Second

// arrivals are the connections of a server. http.Server.Shutdown closes those whose request has come and is not served yet,
// so that whoever connects a moment before gets no answer. arrivals tell when there are none.
type arrivals struct {
	server   *http.Server
	listener net.Listener
	ended    chan struct{} // closed when nothing is accepted any more
	conns    sync.Map      // net.Conn → *arrival: see of
}

// of returns what is known of a connection, nil if there is nothing.
func (a *arrivals) of(c net.Conn) *arrival {
	v, _ := a.conns.Load(c)
	known, _ := v.(*arrival)
	return known
}

// arrival is one connection.
type arrival struct {
	// due is set while a request may have come that has not reached the handler.
	due atomic.Bool
}

// arrivalKey finds the arrival of a request in its context.
type arrivalKey struct{}

// watchArrivals must be called before the server serves, on that listener.
func watchArrivals(s *http.Server, l net.Listener) *arrivals {
	a := &arrivals{server: s, listener: l, ended: make(chan struct{})}
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		v := &arrival{}
		v.due.Store(true)
		a.conns.Store(c, v)
		return context.WithValue(ctx, arrivalKey{}, v)
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateClosed, http.StateHijacked:
			a.conns.Delete(c)
		case http.StateActive, http.StateIdle:
			if v := a.of(c); v != nil {
				v.due.Store(state == http.StateActive)
			}
		case http.StateNew:
		}
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, ok := r.Context().Value(arrivalKey{}).(*arrival); ok {
			v.due.Store(false)
		}
		next.ServeHTTP(w, r)
	})
	return a
}

// settle stops accepting, closes the connections that are idle, and waits until the requests of all others have reached
// the handler. The answers say that they are the last on their connections.
func (a *arrivals) settle(ctx context.Context) {
	_ = a.listener.Close() // the server notices
	<-a.ended
	a.server.SetKeepAlivesEnabled(false)
	limit := time.NewTimer(arrivalTime)
	defer limit.Stop()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for a.due() {
		select {
		case <-look.C:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (a *arrivals) due() (found bool) {
	a.conns.Range(func(_, v any) bool {
		known, ok := v.(*arrival)
		found = ok && known.due.Load()
		return !found
	})
	return found
}
