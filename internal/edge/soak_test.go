//go:build soak

package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/trysail/trysail"
)

// TestSoak serves clients of all kinds for SOAKTIME (ten minutes), while versions, scale and pods change, and pods are killed.
// Every answer carries what identifies its request. None may be missing or another's, except of requests that were under way when a
// pod was killed; memory, descriptors and goroutines are the same in the end as at the beginning.
func TestSoak(t *testing.T) {
	took := 10 * time.Minute
	if text := os.Getenv("SOAKTIME"); text != "" {
		var err error
		if took, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	s := &soak{t: t, pods: map[*soakPod]bool{}}
	s.e = testEdge(t, func(c *Config) { c.AccessLog = func(string, time.Time, []byte) { s.lines.Add(1) } })
	t.Cleanup(func() {
		for p := range s.pods {
			p.kill()
		}
	})
	s.deploy(3)
	s.load(took / 10)
	before := s.rest()
	s.load(took - took/10)
	after := s.rest()
	t.Logf("%s: %d requests in %v, by kind %v, %d lines of log", engine, s.total(), took, s.answers, s.lines.Load())
	t.Logf("%d redeploys, %d changes of scale, %d kills, which cut %d requests", s.deploys, s.scales, s.killed, s.excused)
	t.Logf("before %+v, after %+v", before, after)
	if after.files > before.files+10 || after.goroutines > before.goroutines+10 || after.heap > before.heap+before.heap/5+4<<20 {
		t.Errorf("not flat: before %+v, after %+v", before, after)
	}
	for _, kind := range soakKinds {
		if s.answers[kind.name] == 0 {
			t.Errorf("no %s", kind.name)
		}
	}
}

// soak is the state of the test.
type soak struct {
	t     *testing.T
	e     *Edge
	lines atomic.Int64
	next  atomic.Int64 // id

	mu                               sync.Mutex
	answers                          map[string]int // by kind
	pods                             map[*soakPod]bool
	serving                          []*soakPod
	kills                            []span
	version                          int
	deploys, scales, killed, excused int
}

type span struct{ from, to time.Time }

func (s *soak) total() (n int) {
	for _, v := range s.answers {
		n += v
	}
	return n
}

// footprint is what the process holds.
type footprint struct {
	files, goroutines int
	heap              uint64
}

// rest waits until nothing goes on, and measures.
func (s *soak) rest() (f footprint) {
	s.mu.Lock()
	for p := range s.pods {
		p.srv.SetKeepAlivesEnabled(false)
		p.srv.SetKeepAlivesEnabled(true)
	}
	s.mu.Unlock()
	for range 50 { // until what is left of clients and idle connections to pods is gone
		time.Sleep(100 * time.Millisecond)
		runtime.GC()
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{len(entries), runtime.NumGoroutine(), m.HeapAlloc}
}

// soakPod is a pod, all connections of which are known.
type soakPod struct {
	srv   *http.Server
	l     net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	spec  trysail.Target
	done  chan struct{}
}

func (s *soak) startPod() *soakPod {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	p := &soakPod{conns: map[net.Conn]bool{}, done: make(chan struct{})}
	p.l = &soakListener{l, p}
	p.srv = &http.Server{Handler: http.HandlerFunc(soakServe)}
	p.spec = testTarget(fmt.Sprintf("pod-%d", s.next.Add(1)), l.Addr())
	p.spec.Version = s.version
	go func() {
		defer close(p.done)
		_ = p.srv.Serve(p.l)
	}()
	s.pods[p] = true
	return p
}

type soakListener struct {
	net.Listener
	pod *soakPod
}

func (l *soakListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.pod.mu.Lock()
		l.pod.conns[c] = true
		l.pod.mu.Unlock()
		c = &soakConn{c, l.pod}
	}
	return c, err
}

type soakConn struct {
	net.Conn
	pod *soakPod
}

func (c *soakConn) Close() error {
	c.pod.mu.Lock()
	delete(c.pod.conns, c.Conn)
	c.pod.mu.Unlock()
	return c.Conn.Close()
}

// kill ends a pod as the kernel does it: its connections are reset.
func (p *soakPod) kill() {
	p.l.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	p.mu.Unlock()
	p.srv.Close()
	<-p.done
}

// soakServe is what a pod does: the path says how to answer, the field Id what for.
func soakServe(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Id")
	w.Header().Set("Id", id)
	switch {
	case r.URL.Path == "/ws":
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, append([]byte(id+":"), b...)) != nil {
				return
			}
		}
	case r.Method == http.MethodPost:
		if r.URL.Path == "/early" { // does not want the body
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, id)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, _ = w.Write(body)
		}
	case r.URL.Path == "/stream":
		for i := range 10 {
			fmt.Fprintf(w, "%s-%d\n", id, i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	default:
		size, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(soakBody(id, size))
	}
}

// soakBody is a body that no other request has.
func soakBody(id string, size int) []byte {
	return bytes.Repeat([]byte(id+" "), size/(len(id)+1)+1)[:size]
}

// apply tells the edge who serves. s.mu is held.
func (s *soak) apply() {
	r := loggedRoute()
	for _, p := range s.serving {
		r.Targets = append(r.Targets, p.spec)
	}
	s.e.Apply(r)
}

// deploy replaces all pods by n of the next version, and ends the old ones when their requests have.
func (s *soak) deploy(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.serving
	s.version++
	s.serving = nil
	for range n {
		s.serving = append(s.serving, s.startPod())
	}
	s.apply()
	s.deploys++
	s.retire(old)
}

// retire ends pods that are not asked any more. s.mu is held.
func (s *soak) retire(old []*soakPod) {
	for _, p := range old {
		delete(s.pods, p)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := s.e.Drain(ctx, "web", p.spec.Pod); err != nil {
				s.t.Errorf("draining: %v", err)
			}
			p.kill()
		}()
	}
}

// scale changes how many pods there are.
func (s *soak) scale(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.serving) < n {
		s.serving = append(s.serving, s.startPod())
	}
	gone := slices.Clone(s.serving[n:])
	s.serving = s.serving[:n]
	s.apply()
	s.scales++
	s.retire(gone)
}

// killOne kills a pod that is asked, and replaces it somewhat later, as the reconciler does.
func (s *soak) killOne() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.serving) < 2 {
		return
	}
	p := s.serving[0]
	from := time.Now()
	p.kill()
	s.kills = append(s.kills, span{from, time.Now()})
	s.killed++
	time.Sleep(200 * time.Millisecond) // the others bear it
	delete(s.pods, p)
	s.serving = append(slices.Clone(s.serving[1:]), s.startPod())
	s.apply()
}

// soakKinds are the kinds of clients: how many there are, and what each does again and again.
var soakKinds = []struct {
	name    string
	clients int
	do      func(*soakClient) error
}{
	{"small", 8, func(c *soakClient) error { return c.get(c.h1, rand.IntN(2000), "") }},
	{"small over HTTP/2", 2, func(c *soakClient) error { return c.get(c.h2, rand.IntN(2000), "") }},
	{"large", 2, func(c *soakClient) error { return c.get(c.h1, 1<<20+rand.IntN(1<<20), "") }},
	{"head", 1, func(c *soakClient) error { return c.get(c.h1, 1000, http.MethodHead) }},
	{"stream", 4, (*soakClient).stream},
	{"post", 4, (*soakClient).post},
	{"pipeline", 2, (*soakClient).pipeline},
	{"websocket", 3, (*soakClient).webSocket},
	{"slow", 4, (*soakClient).slow},
	{"reset", 3, (*soakClient).reset},
	{"new connection", 2, func(c *soakClient) error { c.h1.CloseIdleConnections(); return c.get(c.h1, 100, "") }},
}

// soakClient is one of the clients.
type soakClient struct {
	s      *soak
	h1, h2 *http.Client
	ctx    context.Context //nolint:containedctx // that of the load
}

func (c *soakClient) id() string { return fmt.Sprintf("id%d", c.s.next.Add(1)) }

// load has all clients work while things change.
func (s *soak) load(took time.Duration) {
	if s.answers == nil {
		s.answers = map[string]int{}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), took)
	defer cancel()
	var group sync.WaitGroup
	for _, kind := range soakKinds {
		for range kind.clients {
			c := &soakClient{s: s, h1: testClient(s.t, s.e, false), h2: testClient(s.t, s.e, true), ctx: s.t.Context()}
			group.Go(func() {
				defer c.h1.CloseIdleConnections()
				defer c.h2.CloseIdleConnections()
				for ctx.Err() == nil {
					began := time.Now()
					err := kind.do(c)
					s.note(kind.name, began, err)
				}
			})
		}
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(500*time.Millisecond + rand.N(time.Second)):
			switch rand.IntN(3) {
			case 0:
				s.deploy(1 + rand.IntN(4))
			case 1:
				s.scale(1 + rand.IntN(5))
			case 2:
				s.killOne()
			}
		}
	}
	group.Wait()
}

// note counts an answer. A failure is excused if a pod was killed meanwhile, but not a wrong answer.
func (s *soak) note(kind string, began time.Time, err error) {
	ended := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.answers[kind]++
		return
	}
	if !errors.Is(err, errMixedUp) {
		for _, k := range s.kills {
			if began.Before(k.to) && ended.After(k.from) {
				s.excused++
				return
			}
		}
	}
	s.t.Errorf("%s: %v", kind, err)
}

var errMixedUp = errors.New("an answer to something else")

// sameAnswer compares an answer with what it should be.
func sameAnswer(header, id string, got, want []byte) error {
	if header != id || !bytes.HasPrefix(want, got) {
		return fmt.Errorf("%w: for %s it has %s and %.60q", errMixedUp, id, header, got)
	}
	if len(got) != len(want) {
		return fmt.Errorf("for %s came %d bytes of %d", id, len(got), len(want))
	}
	return nil
}

func (c *soakClient) do(h *http.Client, method, path string, body io.Reader, id string) (status int, header string, answer []byte, err error) {
	req, err := http.NewRequestWithContext(c.ctx, method, "https://"+testHost+path, body)
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Id", id)
	res, err := h.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	if res.StatusCode >= 500 {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return res.StatusCode, res.Header.Get("Id"), answer, err
}

func (c *soakClient) get(h *http.Client, size int, method string) error {
	id := c.id()
	want := soakBody(id, size)
	if method == http.MethodHead {
		want = nil
	}
	_, header, got, err := c.do(h, method, fmt.Sprint("/", size), nil, id)
	if err != nil {
		return err
	}
	return sameAnswer(header, id, got, want)
}

func (c *soakClient) stream() error {
	id := c.id()
	var want bytes.Buffer
	for i := range 10 {
		fmt.Fprintf(&want, "%s-%d\n", id, i)
	}
	_, header, got, err := c.do(c.h1, http.MethodGet, "/stream", nil, id)
	if err != nil {
		return err
	}
	return sameAnswer(header, id, got, want.Bytes())
}

func (c *soakClient) post() error {
	id := c.id()
	body := soakBody(id, rand.IntN(100_000))
	reader := io.Reader(bytes.NewReader(body))
	if rand.IntN(2) == 0 {
		reader = io.MultiReader(reader) // of unknown length
	}
	_, header, got, err := c.do(c.h1, http.MethodPost, "/echo", reader, id)
	if err != nil {
		return err
	}
	return sameAnswer(header, id, got, body)
}

// dial opens a bare connection.
func (c *soakClient) dial() (*tls.Conn, *net.TCPConn, error) {
	raw, err := net.Dial("tcp", c.s.e.HTTPSAddr())
	if err != nil {
		return nil, nil, err
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: testHost})
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if err := conn.Handshake(); err != nil {
		raw.Close()
		return nil, nil, err
	}
	return conn, raw.(*net.TCPConn), nil
}

func (c *soakClient) pipeline() error {
	conn, _, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	var ids []string
	var b strings.Builder
	for range 5 {
		ids = append(ids, c.id())
		fmt.Fprintf(&b, "GET /500 HTTP/1.1\r\nHost: %s\r\nId: %s\r\n\r\n", testHost, ids[len(ids)-1])
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return err
	}
	br := bufio.NewReader(conn)
	for _, id := range ids {
		if err := checkAnswer(br, id, soakBody(id, 500)); err != nil {
			return err
		}
	}
	return nil
}

func checkAnswer(br *bufio.Reader, id string, want []byte) error {
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return sameAnswer(res.Header.Get("Id"), id, got, want)
}

func (c *soakClient) webSocket() error {
	id := c.id()
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, "wss://"+testHost+"/ws", &websocket.DialOptions{HTTPClient: c.h1, HTTPHeader: http.Header{"Id": {id}}})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(1 << 20)
	if got := res.Header.Get("Id"); got != id {
		return fmt.Errorf("%w: %s for %s", errMixedUp, got, id)
	}
	for i := range 20 {
		message := soakBody(fmt.Sprint(id, ".", i), rand.IntN(50_000))
		if err := conn.Write(ctx, websocket.MessageBinary, message); err != nil {
			return err
		}
		_, got, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, append([]byte(id+":"), message...)) {
			return fmt.Errorf("%w: %.50q", errMixedUp, got)
		}
	}
	return conn.Close(websocket.StatusNormalClosure, "")
}

// slow sends a request and reads its answer in small pieces.
func (c *soakClient) slow() error {
	conn, raw, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = raw.SetReadBuffer(4096)
	id := c.id()
	request := fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: %s\r\nId: %s\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n%s", testHost, id, soakBody(id, 2000))
	for len(request) > 0 {
		n := min(len(request), 1+rand.IntN(100))
		if _, err := io.WriteString(conn, request[:n]); err != nil {
			return err
		}
		request = request[n:]
		time.Sleep(rand.N(5 * time.Millisecond))
	}
	return checkAnswer(bufio.NewReaderSize(&slowReader{conn}, 16), id, soakBody(id, 2000))
}

type slowReader struct{ r io.Reader }

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(rand.N(2 * time.Millisecond))
	return s.r.Read(p[:min(len(p), 64)])
}

// reset breaks off, somewhere. Nothing is expected of that, but that nobody else notices.
func (c *soakClient) reset() error {
	conn, raw, err := c.dial()
	if err != nil {
		return err
	}
	defer raw.Close()
	id := c.id()
	request := []string{
		"GET /1000000 HTTP/1.1\r\nHost: %s\r\nId: %s\r\n\r\n",
		"GET /stream HTTP/1.1\r\nHost: %s\r\nId: %s\r\n\r\n",
		"POST /echo HTTP/1.1\r\nHost: %s\r\nId: %s\r\nContent-Length: 100000\r\n\r\nsome",
		"POST /echo HTTP/1.1\r\nHost: %s\r\nId: %s\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nzz",
		"POST /early HTTP/1.1\r\nHost: %s\r\nId: %s\r\nContent-Length: 100000\r\n\r\nsome",
		"GET /1 HTTP/1.1\r\nHost: %s\r\nId: %s\r\n\r\nGET /2 HTTP/1.1\r\n",
	}[rand.IntN(6)]
	_, _ = fmt.Fprintf(conn, request, testHost, id)
	if rand.IntN(2) == 0 {
		b := make([]byte, 100+rand.IntN(50_000))
		_ = conn.SetReadDeadline(time.Now().Add(rand.N(50 * time.Millisecond)))
		n, _ := io.ReadFull(conn, b)
		if text := string(b[:n]); n > 200 && strings.HasPrefix(text, "HTTP/1.1 200") && !strings.Contains(text, id) {
			return fmt.Errorf("%w: %q has no %s", errMixedUp, text[:200], id)
		}
	}
	if rand.IntN(2) == 0 {
		_ = raw.SetLinger(0)
	}
	return nil
}
