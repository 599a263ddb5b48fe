package console

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// lookTime is how often the part of a page that changes by itself is made anew while somebody looks at it.
	lookTime = time.Second
	// streamTime is how long one stream lasts; the browser opens the next one by itself.
	streamTime = 5 * time.Minute
	// pingTime is how often a stream that has nothing to say shows that it is alive.
	pingTime = 15 * time.Second
	// maxStreams and maxStreamsEach bound the open streams of all and of one session.
	maxStreams     = 200
	maxStreamsEach = 20
)

// isStream reports whether the browser asks for what changes on a page, and not for the page.
func isStream(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Accept") == "text/event-stream"
}

// counter counts the open streams.
type counter struct {
	mu  sync.Mutex
	all int
	by  map[*session]int
}

func newCounter() *counter { return &counter{by: map[*session]int{}} }

func (n *counter) begin(s *session) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all >= maxStreams || n.by[s] >= maxStreamsEach {
		return false
	}
	n.all++
	n.by[s]++
	return true
}

func (n *counter) end(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all--
	if n.by[s]--; n.by[s] == 0 {
		delete(n.by, s)
	}
}

// stream sends the part "live" of a page each time it has changed, until the browser leaves or the session ends.
func (c *Console) stream(w http.ResponseWriter, v *visit, h handler) {
	if !c.streams.begin(v.session) {
		http.Error(w, "Too many live pages are open.", http.StatusTooManyRequests)
		return
	}
	defer c.streams.end(v.session)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if rc.Flush() != nil { // the browser need not wait for the first message
		return
	}
	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	end := time.NewTimer(streamTime)
	defer end.Stop()
	next := c.changes(v, h)
	sent := time.Now()
	for {
		message, ok := next()
		if !ok {
			return
		}
		if message == nil && time.Since(sent) >= pingTime {
			message = []byte(": still here\n\n")
		}
		if message != nil {
			sent = time.Now()
			_ = rc.SetWriteDeadline(sent.Add(time.Minute))
			if _, err := w.Write(message); err != nil || rc.Flush() != nil {
				return
			}
		}
		select {
		case <-v.Context().Done():
			return
		case <-c.done:
			return
		case <-end.C:
			return
		case <-tick.C:
		}
		// A key that was deleted, or a session that is over, ends the stream. Looking at a page does not prolong a session.
		if _, caller, ok, err := c.control.Identify(v.Context(), v.session.keyID); err != nil || !ok || !c.sessions.goesOn(v.Context(), v.session, time.Now()) {
			return
		} else {
			v.caller = caller
		}
	}
}

// changes returns what makes the next message of a stream: nil while there is nothing to tell; ok is false when there
// never will be.
func (c *Console) changes(v *visit, h handler) func() (message []byte, ok bool) {
	var last []byte
	var follow func() ([]logLine, string, error)
	return func() (message []byte, ok bool) {
		if follow != nil {
			return c.appended(v, follow)
		}
		p, err := h(v)
		if err == nil && p != nil && p.Follow != nil {
			follow = p.Follow
			return c.appended(v, follow)
		}
		if err != nil || p == nil || !p.Live {
			return nil, false
		}
		html, err := c.render(v, p, "live")
		if err != nil {
			c.log.ErrorContext(v.Context(), "console page failed", "path", v.URL.Path, "error", err)
			return nil, false
		}
		message = event("update", "", html)
		if bytes.Equal(message, last) {
			return nil, true
		}
		last = message
		return message, true
	}
}

// appended are the lines that came since.
func (c *Console) appended(v *visit, follow func() ([]logLine, string, error)) (message []byte, ok bool) {
	fresh, mark, err := follow()
	if err != nil {
		return nil, false
	}
	if len(fresh) == 0 {
		return nil, true
	}
	var html bytes.Buffer
	if err := c.templates["logs"].ExecuteTemplate(&html, "lines", fresh); err != nil {
		c.log.ErrorContext(v.Context(), "console page failed", "path", v.URL.Path, "error", err)
		return nil, false
	}
	return event("append", mark, html.Bytes()), true
}

// event is a message of a stream.
func event(name, id string, html []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\n", name)
	if id != "" {
		fmt.Fprintf(&b, "id: %s\n", id)
	}
	for line := range strings.SplitSeq(string(html), "\n") {
		b.WriteString("data: " + strings.TrimRight(line, "\r") + "\n")
	}
	b.WriteString("\n")
	return b.Bytes()
}
