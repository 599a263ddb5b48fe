package store_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy is a network between a store and its database that can fail.
type proxy struct {
	t      *testing.T
	l      net.Listener
	server string

	mu    sync.Mutex // guards all below
	cut   bool
	left  int // how many bytes may still pass; negative: any number
	conns map[net.Conn]bool
	flow  sync.RWMutex // held for writing while nothing moves
	wg    sync.WaitGroup
}

// behind puts a proxy before the server of a URL, and returns the URL through it.
func behind(t *testing.T, databaseURL string) (*proxy, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rest := databaseURL[strings.Index(databaseURL, "@")+1:]
	server, name, _ := strings.Cut(rest, "/")
	p := &proxy{t: t, l: l, server: server, conns: map[net.Conn]bool{}, left: -1}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.disconnect()
		p.wg.Wait()
	})
	return p, strings.TrimSuffix(databaseURL, rest) + l.Addr().String() + "/" + name
}

func (p *proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.server)
		p.mu.Lock()
		if err != nil || p.cut {
			in.Close()
			if out != nil {
				out.Close()
			}
		} else {
			p.conns[in], p.conns[out] = true, true
			p.wg.Go(func() { p.copy(in, out) })
			p.wg.Go(func() { p.copy(out, in) })
		}
		p.mu.Unlock()
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	for b := make([]byte, 32<<10); ; {
		n, err := from.Read(b)
		if n > 0 {
			p.flow.RLock()
			_, werr := to.Write(b[:n])
			p.flow.RUnlock()
			if p.pass(n); werr != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.mu.Lock()
				defer p.mu.Unlock()
				delete(p.conns, from)
			}
			return
		}
	}
}

// cutAfter lets only so many more bytes pass.
func (p *proxy) cutAfter(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = bytes
}

func (p *proxy) pass(n int) {
	p.mu.Lock()
	used := p.left >= 0 && n >= p.left
	if p.left >= 0 {
		p.left = max(p.left-n, 0)
	}
	p.mu.Unlock()
	if used {
		p.disconnect()
	}
}

// disconnect cuts all connections and lets none through until connect.
func (p *proxy) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *proxy) connect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.left = false, -1
}

// freeze holds everything back that is on its way, until the returned function is called.
func (p *proxy) freeze() (thaw func()) {
	p.flow.Lock()
	once := sync.OnceFunc(p.flow.Unlock)
	p.t.Cleanup(once)
	return once
}
