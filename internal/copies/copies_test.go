package copies_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail/internal/copies"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/metrics"
)

// files is a Part in memory.
type files struct {
	mu  sync.Mutex
	all map[string]map[string]string // by origin and name
}

func newFiles() *files { return &files{all: map[string]map[string]string{}} }

func (f *files) add(origin, name, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[origin] == nil {
		f.all[origin] = map[string]string{}
	}
	f.all[origin][name] += text
}

func (f *files) of(origin string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.all[origin])
}

func (f *files) Origins() (list []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for origin := range f.all {
		list = append(list, origin)
	}
	return list, nil
}

func (f *files) Files(origin string) (map[string]int64, error) {
	sizes := map[string]int64{}
	for name, text := range f.of(origin) {
		sizes[name] = int64(len(text))
	}
	return sizes, nil
}

func (f *files) Sort(names []string) { slices.Sort(names) }

func (f *files) Piece(origin, name string, from int64) (data []byte, next int64, at time.Time, err error) {
	text := f.of(origin)[name][from:]
	data = []byte(text[:min(len(text), 1<<20)])
	return data, from + int64(len(data)), time.Now(), nil
}

func (f *files) AddPiece(origin, name string, from, next int64, data []byte, _ time.Time) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have := int64(len(f.all[origin][name]))
	if from > have || next <= have {
		return have, nil
	}
	if f.all[origin] == nil {
		f.all[origin] = map[string]string{}
	}
	f.all[origin][name] += string(data[have-from:])
	return next, nil
}

// bed is several servers, with a network that can fail.
type bed struct {
	*testing.T

	mu      sync.Mutex
	peers   map[string]copies.Peer // by identity: those that run
	cut     map[string]bool        // by identity: whose requests do not arrive
	servers map[string]*server
}

type server struct {
	self   string
	files  *files
	copies *copies.Copies
	stop   func()
}

func newBed(t *testing.T) *bed {
	return &bed{T: t, peers: map[string]copies.Peer{}, cut: map[string]bool{}, servers: map[string]*server{}}
}

// RoundTrip is the network as a server sees it whose requests say who it is.
func (b *bed) RoundTrip(r *http.Request) (*http.Response, error) {
	from := r.Header.Get("From")
	b.mu.Lock()
	cut := b.cut[from]
	for self, p := range b.peers {
		cut = cut || b.cut[self] && strings.HasPrefix(r.URL.String(), p.URL)
	}
	b.mu.Unlock()
	if cut {
		return nil, errors.New("the network is down")
	}
	return http.DefaultTransport.RoundTrip(r)
}

type network struct {
	*bed

	self string
}

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("From", n.self)
	return n.bed.RoundTrip(r)
}

func (b *bed) setCut(self string, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut[self] = cut
}

// start starts a server with what it had.
func (b *bed) start(self string, f *files) *server { return b.startAs(self, f, "secret") }

func (b *bed) startAs(self string, f *files, token string) *server {
	b.Helper()
	s := &server{self: self, files: f}
	s.copies = copies.New(copies.Config{
		Self: self, Client: &http.Client{Transport: network{b, self}}, Interval: 10 * time.Millisecond,
		Token: func(context.Context) (string, error) { return token, nil }, Log: slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Peers: func() (list []copies.Peer) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for other, p := range b.peers {
				if other != self {
					list = append(list, p)
				}
			}
			return list
		},
	})
	s.copies.Add("files", f)
	api := httptest.NewServer(s.copies.Handler())
	b.Cleanup(api.Close)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.copies.Run(ctx) }()
	b.mu.Lock()
	b.peers[self] = copies.Peer{ID: fmt.Sprint(self, time.Now().UnixNano()), Name: "name of " + self, URL: api.URL}
	b.servers[self] = s
	b.mu.Unlock()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		b.mu.Lock()
		delete(b.peers, self)
		b.mu.Unlock()
		api.Close()
	})
	b.Cleanup(s.stop)
	return s
}

func (b *bed) until(what string, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(deadline) {
			b.Fatalf("it does not come about that %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

const (
	serverA = "AAAAAAAAAA"
	serverB = "BBBBBBBBBB"
	serverC = "CCCCCCCCCC"
)

func TestCopies_EveryServerHasEverything(t *testing.T) {
	b := newBed(t)
	a, other := b.start(serverA, newFiles()), b.start(serverB, newFiles())
	big := strings.Repeat("0123456789abcdef", 700_000) // several batches
	a.files.add(serverA, "big", big)
	other.files.add(serverB, "x/y", "one ")
	b.until("both have both", func() bool {
		return a.files.of(serverB)["x/y"] == "one " && other.files.of(serverA)["big"] == big
	})
	other.files.add(serverB, "x/y", "two")
	a.files.add(serverA, "new", "three")
	b.until("both have what is new", func() bool {
		return a.files.of(serverB)["x/y"] == "one two" && other.files.of(serverA)["new"] == "three"
	})
	a.stop()
	// Who comes later, gets what was left behind by the one that is gone.
	c := b.start(serverC, newFiles())
	b.until("the third one has everything", func() bool {
		return c.files.of(serverB)["x/y"] == "one two" && c.files.of(serverA)["big"] == big && c.files.of(serverA)["new"] == "three"
	})
	// Who comes back without its disk does not get back what is its own: it goes on by another name.
	again := b.start("AAAAAAAAA2", newFiles())
	b.until("it has what it had written before", func() bool { return again.files.of(serverA)["big"] == big })
}

func TestCopies_FreshGetsWhatHasJustBeenWritten(t *testing.T) {
	b := newBed(t)
	a, other := b.start(serverA, newFiles()), b.start(serverB, newFiles())
	b.until("they know each other", func() bool { return len(a.copies.Fresh(t.Context()))+len(other.copies.Fresh(t.Context())) == 0 })
	for i := range 20 {
		text := fmt.Sprintf("line %d;", i)
		<-time.After(250 * time.Millisecond) // longer than an answer is good for
		other.files.add(serverB, "log", text)
		if late := a.copies.Fresh(t.Context()); len(late) > 0 {
			t.Logf("busy machine: %v", late)
			continue
		}
		if got := a.files.of(serverB)["log"]; !strings.HasSuffix(got, text) {
			t.Fatalf("after %q was written and asked for, there is %q", text, got)
		}
	}
}

func TestCopies_FreshNamesWhoDoesNotAnswer(t *testing.T) {
	b := newBed(t)
	a, other := b.start(serverA, newFiles()), b.start(serverB, newFiles())
	b.until("they know each other", func() bool { return len(a.copies.Fresh(t.Context())) == 0 })
	before := time.Now()
	b.setCut(serverB, true)
	other.files.add(serverB, "log", "while it is cut off")
	var late []copies.Late
	b.until("somebody is missing", func() bool {
		late = a.copies.Fresh(t.Context())
		return len(late) > 0
	})
	if late[0].Name != "name of "+serverB || late[0].Self != serverB || late[0].Since.IsZero() || late[0].Since.After(before.Add(time.Minute)) {
		t.Errorf("missing are %+v", late)
	}
	b.setCut(serverB, false)
	b.until("it answers and its line is there", func() bool {
		return len(a.copies.Fresh(t.Context())) == 0 && a.files.of(serverB)["log"] == "while it is cut off"
	})
	// A server of which nobody knows where it is, is missing, too.
	b.mu.Lock()
	b.peers["nowhere"] = copies.Peer{ID: "x", Name: "nowhere"}
	b.mu.Unlock()
	if late := a.copies.Fresh(t.Context()); len(late) != 1 || late[0].Name != "nowhere" {
		t.Errorf("missing are %+v", late)
	}
}

func TestCopies_TheEndOfAServerWaitsForItsLastLines(t *testing.T) {
	b := newBed(t)
	a, other := b.start(serverA, newFiles()), b.start(serverB, newFiles())
	b.until("they know each other", func() bool { return len(a.copies.Fresh(t.Context()))+len(other.copies.Fresh(t.Context())) == 0 })
	a.files.add(serverA, "log", "last words")
	a.stop()
	if got := other.files.of(serverA)["log"]; got != "last words" {
		t.Errorf("after the end there is %q", got)
	}
}

func TestHandler_IsForServersOnly(t *testing.T) {
	b := newBed(t)
	a := b.start(serverA, newFiles())
	url := b.peers[serverA].URL + copies.Path
	send := func(method, path, token, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	head := func(origin string, size int) string {
		return fmt.Sprintf(`{"part":"files","origin":%q,"name":"log","from":0,"next":%d,"at":1,"size":%d}`+"\n", origin, size, size)
	}
	for _, token := range []string{"", "Bearer ", "Bearer wrong", "Bearer secretly", "secret", "Basic secret"} {
		for _, path := range []string{"", "state?origin=" + serverB, "latest?for=" + serverB} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				if status := send(method, path, token, head(serverB, 1)+"x"); status != http.StatusForbidden {
					t.Errorf("%s %q with %q: %d", method, path, token, status)
				}
			}
		}
	}
	const token = "Bearer secret"
	for what, body := range map[string]string{
		"no piece":       "hello\n",
		"half a piece":   head(serverB, 10) + "half",
		"a huge piece":   head(serverB, 1<<40) + "x",
		"no origin":      head("", 1) + "x",
		"a path":         head("../../etc/x", 1) + "x",
		"a long head":    strings.Repeat("x", 10_000) + "\n",
		"half a head":    `{"part":`,
		"another part":   strings.Replace(head(serverB, 1), `"files"`, `"secrets"`, 1) + "x",
		"back to before": strings.Replace(head(serverB, 1), `"from":0`, `"from":-5`, 1) + "x",
	} {
		if status := send(http.MethodPost, "", token, body); status != http.StatusInternalServerError {
			t.Errorf("%s: %d", what, status)
		}
	}
	if status := send(http.MethodGet, "state?origin=..", token, ""); status != http.StatusBadRequest {
		t.Errorf("the state of ..: %d", status)
	}
	if status := send(http.MethodPost, "latest?for="+serverC, token, ""); status != http.StatusConflict {
		t.Errorf("what is new for a server that nobody knows: %d", status)
	}
	if status := send(http.MethodPost, "", token, head(serverA, 1)+"x"); status != http.StatusOK {
		t.Errorf("its own: %d", status)
	}
	if status := send(http.MethodPost, "", token, head(serverB, 1)+"x"); status != http.StatusOK {
		t.Errorf("a good piece: %d", status)
	}
	if d := cmp.Diff(map[string]map[string]string{serverB: {"log": "x"}}, a.files.all); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestCopies_AStrangerGetsNothing(t *testing.T) {
	b := newBed(t)
	a := b.start(serverA, newFiles())
	stranger := b.startAs(serverB, newFiles(), "guess")
	a.files.add(serverA, "log", "mine")
	stranger.files.add(serverB, "log", "evil")
	b.until("both have tried", func() bool {
		return len(a.copies.Fresh(t.Context())) > 0 && len(stranger.copies.Fresh(t.Context())) > 0
	})
	if len(a.files.of(serverB)) > 0 || len(stranger.files.of(serverA)) > 0 {
		t.Error("servers with different secrets have given each other files")
	}
}

// TestCopies_OfLogsAndMetrics lets real stores give each other what they have.
func TestCopies_OfLogsAndMetrics(t *testing.T) {
	b := newBed(t)
	type stores struct {
		logs   *logs.Store
		points *metrics.Store
		*server
	}
	begin := func(self string) stores {
		s := stores{logs: logs.New(t.TempDir()), server: b.start(self, newFiles())}
		copied := t.TempDir()
		s.logs.Share(self, copied)
		var err error
		if s.points, err = metrics.Open(t.TempDir(), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		s.points.Share(self, copied)
		s.copies.Add("logs", s.logs)
		s.copies.Add("metrics", s.points)
		return s
	}
	all := []stores{begin(serverA), begin(serverB), begin(serverC)}
	now := time.Now()
	for i, s := range all {
		w := s.logs.NewAccessWriter()
		ctx, cancel := context.WithCancel(t.Context())
		for n := range 100 {
			w.Write("svc", now.Add(-time.Duration(3*n+i)*time.Millisecond), fmt.Appendf(nil, "request %d through %d", n, i))
		}
		cancel()
		w.Run(ctx)
		if err := s.logs.Append("svc", []string{"web"}, now, fmt.Sprintf("said by %d", i)); err != nil {
			t.Fatal(err)
		}
		s.points.Add("svc", 1, now.Add(-time.Minute), &metrics.Values{BytesIn: 1})
		if err := s.points.Flush(now); err != nil {
			t.Fatal(err)
		}
		s.points.Add("svc", 1, now, &metrics.Values{BytesIn: 10}) // not written yet
	}
	sum := func(s stores) (n int64) {
		_, err := s.points.Query(t.Context(), metrics.Query{ServiceID: "svc", From: now.Add(-time.Hour), To: now.Add(time.Hour), Period: time.Hour}, func(p *metrics.Bucket) { n += p.BytesIn })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, s := range all {
		b.until("nobody is missing", func() bool { return len(s.copies.Fresh(t.Context())) == 0 })
		b.until("all points are there", func() bool { return sum(s) == 33 })
		var text bytes.Buffer
		b.until("all lines are there", func() bool {
			text.Reset()
			for token := ""; ; {
				events, next, err := s.logs.Query(t.Context(), logs.Query{ServiceID: "svc", Container: logs.AccessLog, Limit: 7, Token: token})
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range events {
					fmt.Fprintln(&text, e.Text)
				}
				if token = next; token == "" {
					break
				}
			}
			return strings.Count(text.String(), "\n") == 300
		})
		for n := range 100 {
			for through := range all {
				if got := strings.Count(text.String(), fmt.Sprintf("request %d through %d\n", n, through)); got != 1 {
					t.Fatalf("server %d has request %d through %d %d times", i, n, through, got)
				}
			}
		}
		system, _, err := s.logs.Query(t.Context(), logs.Query{ServiceID: "svc", Container: "web"})
		if err != nil || len(system) != 3 {
			t.Errorf("server %d has the system lines %v, %v", i, system, err)
		}
	}
	for _, s := range all { // written, they count as before
		if err := s.points.Flush(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range all {
		b.until("all points are there, once", func() bool { return len(s.copies.Fresh(t.Context())) == 0 && sum(s) == 33 })
	}
	all[0].stop()
	for _, s := range all[1:] {
		if n := sum(s); n != 33 {
			t.Errorf("one is gone, and the sum is %d", n)
		}
	}
}
