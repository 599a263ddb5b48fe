package http1

import "time"

// watcher waits for what a client does that has nothing to do but to wait.
type watcher struct {
	done chan struct{} // closed when it has ended; the rest is set by then
	n    int
	left bool // the client did, or closed its side, which looks the same
}

// watch begins to read from the client; what comes belongs to the next request. It does nothing if there is no room for it.
func (c *conn) watch() {
	if c.watcher != nil || c.n == len(c.in) {
		return
	}
	if c.loop != nil && !c.sock.readable { // the loop sees it
		c.watched = true
		return
	}
	heavy := c.heavy
	c.leave()
	c.heavy = heavy // it is just a pod that takes its time
	w := &watcher{done: make(chan struct{})}
	c.watcher = w
	c.readBy(time.Time{})
	u, room := c.x.up, c.in[c.n:]
	go func() {
		var err error
		w.n, err = c.net.Read(room)
		w.left = err != nil && !isTimeout(err)
		close(w.done)
		if w.left {
			c.x.poke(u)
		}
	}()
}

// unwatch ends the watch.
func (c *conn) unwatch() {
	w := c.watcher
	c.watched = false
	if w == nil {
		return
	}
	c.watcher = nil
	_ = c.net.SetReadDeadline(longAgo)
	<-w.done
	c.readBy(time.Time{})
	c.n += w.n
	if w.left {
		c.closeAfter = true
	}
}

// clientLeft reports whether the watch has seen that.
func (c *conn) clientLeft() bool {
	if c.watcher == nil {
		return false
	}
	select {
	case <-c.watcher.done:
		return c.watcher.left
	default:
		return false
	}
}
