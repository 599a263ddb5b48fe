package ship

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// otlpServer is a receiver that understands what the official types understand, and nothing else. LogsData has the form of
// a request; the type of the request itself would bring a whole gateway with it.
type otlpServer struct {
	inbox
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	requests int
	records  []*logspb.ResourceLogs
	// answer may answer a request instead; it returns whether it has.
	answer func(w http.ResponseWriter, n int, req *logspb.LogsData) bool
	header http.Header
}

func newOTLPServer(t *testing.T, answer func(w http.ResponseWriter, n int, req *logspb.LogsData) bool) *otlpServer {
	t.Helper()
	s := &otlpServer{t: t, answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *otlpServer) destination(options string) string { return "otlp+" + s.URL + options }

func (s *otlpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			s.t.Error(err)
			return
		}
		body = z
	}
	text, err := io.ReadAll(body)
	var req logspb.LogsData
	if err == nil {
		err = protojson.Unmarshal(text, &req)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/json" {
		s.t.Errorf("%s %s %v: %v", r.Method, r.URL, r.Header, err)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	s.mu.Lock()
	s.requests++
	n := s.requests
	s.header = r.Header
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, n, &req) {
		return
	}
	s.keep(&req)
	_, _ = io.WriteString(w, "{}")
}

func (s *otlpServer) keep(req *logspb.LogsData) {
	s.mu.Lock()
	s.records = append(s.records, req.ResourceLogs...)
	s.mu.Unlock()
	s.add(bodies(req)...)
}

func bodies(req *logspb.LogsData) (list []string) {
	for _, res := range req.ResourceLogs {
		for _, scope := range res.ScopeLogs {
			for _, rec := range scope.LogRecords {
				list = append(list, rec.Body.GetStringValue()+string(rec.Body.GetBytesValue()))
			}
		}
	}
	return list
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		m[kv.Key] = kv.Value.GetStringValue()
	}
	return m
}

func TestOTLP_SaysWhoseLineItIs(t *testing.T) {
	server := newOTLPServer(t, nil)
	r := newRig(t)
	at := time.Now().Add(-time.Minute).UTC()
	r.raw("id-web", "web-v3-0-a", "app.log", at.Format(time.RFC3339Nano)+" stderr F not \xff text\n")
	r.raw("id-web", "access", "ACCESS.log", at.Add(time.Second).Format(time.RFC3339Nano)+" stdout F {\"status\":200}\n")
	if err := r.logs.Append("id-web", []string{"app"}, at.Add(2*time.Second), "[deployment:3] ü"); err != nil {
		t.Fatal(err)
	}
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("# ours\nAuthorization: Bearer s3cret\n\nX-Scope: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"?compression=none", "?headers=" + headers} {
		r.start(r.config(t.TempDir(), server.destination(options)))
		r.wait("the lines are there", func() bool { return len(server.all()) >= 3 })
		server.mu.Lock()
		got := server.records
		server.records = nil
		auth := server.header.Get("Authorization")
		server.mu.Unlock()
		server.inbox = inbox{}
		want := []struct {
			resource, record map[string]string
			body             string
		}{
			{
				map[string]string{"service.name": "web", "service.version": "10", "service.instance.id": "web-v3-0-a", "container.name": "app", "host.name": "node"},
				map[string]string{"trysail.log": "container", "log.iostream": "stderr"},
				"not \xff text",
			},
			{map[string]string{"service.name": "web", "host.name": "node"}, map[string]string{"trysail.log": "access"}, `{"status":200}`},
			{map[string]string{"service.name": "web", "container.name": "app", "host.name": "node"}, map[string]string{"trysail.log": "system"}, "[deployment:3] ü"},
		}
		if len(got) != 3 || (auth == "Bearer s3cret") != strings.HasPrefix(options, "?headers") {
			t.Fatalf("%d resources, %q", len(got), auth)
		}
		for i, res := range got {
			rec := res.ScopeLogs[0].LogRecords[0]
			if d := cmp.Diff(want[i].resource, attributes(res.Resource.Attributes)); d != "" {
				t.Errorf("resource %d (-want +got):\n%s", i, d)
			}
			if d := cmp.Diff(want[i].record, attributes(rec.Attributes)); d != "" {
				t.Errorf("record %d (-want +got):\n%s", i, d)
			}
			if body := rec.Body.GetStringValue() + string(rec.Body.GetBytesValue()); body != want[i].body {
				t.Errorf("body %q, want %q", body, want[i].body)
			}
			if want := at.Add(time.Duration(i) * time.Second); !time.Unix(0, int64(rec.TimeUnixNano)).Equal(want) || rec.ObservedTimeUnixNano == 0 {
				t.Errorf("time %d, want %v", rec.TimeUnixNano, want)
			}
		}
	}
}

// TestOTLP_ReceiverInTrouble answers everything that a receiver may answer when it cannot at the moment.
func TestOTLP_ReceiverInTrouble(t *testing.T) {
	statuses := []int{429, 503, 500, 502, 504, 401, 404, 301}
	server := newOTLPServer(t, func(w http.ResponseWriter, n int, _ *logspb.LogsData) bool {
		if n > len(statuses) {
			return false
		}
		if n <= 2 {
			w.Header().Set("Retry-After", "0")
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(statuses[n-1])
		return true
	})
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 10)
	cfg := r.config(t.TempDir(), server.destination(""))
	w, err := newWorker(&cfg, cfg.Destinations[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, status := range statuses {
		_, err := w.round(t.Context())
		if err == nil || !strings.Contains(err.Error(), http.StatusText(status)) {
			t.Fatalf("round %d: %v", i, err)
		}
		if wait := w.failed(err); wait < minBackoff/2 || wait > maxBackoff*5/4 {
			t.Errorf("after %d failures the next try is in %v", i+1, wait)
		}
	}
	if _, err := w.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing, twice := server.missing(10); missing+twice > 0 || w.counts.Sent != 10 || w.counts.Rejected != 0 {
		t.Errorf("%d missing, %d twice, %+v", missing, twice, w.counts)
	}
}

func TestOTLP_WaitsAsLongAsItIsTold(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "1000000": maxRetryAfter,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	w := &worker{log: newRig(t).config(t.TempDir()).Log}
	if wait := w.failed(&busyError{after: 5 * time.Minute, err: errRejected}); wait != 5*time.Minute {
		t.Errorf("wait %v", wait)
	}
}

// TestOTLP_PoisonedLine is refused by the receiver for ever; the others must not stay behind it.
func TestOTLP_PoisonedLine(t *testing.T) {
	server := newOTLPServer(t, func(w http.ResponseWriter, _ int, req *logspb.LogsData) bool {
		poisoned := slices.Contains(bodies(req), "line 333")
		if poisoned {
			w.WriteHeader(http.StatusBadRequest)
		}
		return poisoned
	})
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 1000)
	s, _ := r.start(r.config(t.TempDir(), server.destination("")))
	r.wait("the batch is done", func() bool { return s.Status()[0].Sent == 999 && s.Status()[0].Rejected == 1 })
	if missing, twice := server.missing(1000); missing != 1 || twice != 0 {
		t.Errorf("%d missing, %d twice, %+v", missing, twice, s.Status())
	}
}

// TestOTLP_ReceiverThatRejectsEverything has a wrong key or path: nothing may be given up for that.
func TestOTLP_ReceiverThatRejectsEverything(t *testing.T) {
	var wrong atomic.Bool
	wrong.Store(true)
	server := newOTLPServer(t, func(w http.ResponseWriter, _ int, _ *logspb.LogsData) bool {
		if wrong.Load() {
			w.WriteHeader(http.StatusBadRequest)
		}
		return wrong.Load()
	})
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 100)
	s, _ := r.start(r.config(t.TempDir(), server.destination("")))
	r.wait("it fails", func() bool { return s.Status()[0].Failing != "" })
	wrong.Store(false)
	r.wait("all is sent", func() bool { return s.Status()[0].Sent == 100 && s.Status()[0].Failing == "" })
	if missing, _ := server.missing(100); missing > 0 || s.Status()[0].Rejected > 0 {
		t.Errorf("%d missing, %+v", missing, s.Status())
	}
}

func TestOTLP_PartialSuccess(t *testing.T) {
	for answer, want := range map[string]int{
		``: 0, `{}`: 0, `{"partialSuccess":{}}`: 0, `{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"x"}}`: 2,
		`{"partialSuccess":{"rejectedLogRecords":3}}`: 3, `{"partialSuccess":{"rejectedLogRecords":"-3"}}`: 0, `no json`: 0,
	} {
		if got := rejectedBy([]byte(answer)); got != want {
			t.Errorf("%s: %d, want %d", answer, got, want)
		}
	}
}

// TestOTLP_RequestIsWhatTheOfficialTypesWrite compares the two directions.
func TestOTLP_RequestIsWhatTheOfficialTypesWrite(t *testing.T) {
	o := &otlpSender{host: "node"}
	ours, err := json.Marshal(o.request([]record{{at: time.Unix(1, 2), service: "web", kind: kindAccess, text: []byte("a<b>\u2028")}}))
	if err != nil {
		t.Fatal(err)
	}
	var req logspb.LogsData
	if err := (protojson.UnmarshalOptions{DiscardUnknown: false}).Unmarshal(ours, &req); err != nil {
		t.Fatal(err)
	}
	theirs, err := protojson.Marshal(&req)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.NewDecoder(bytes.NewReader(ours)).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(bytes.NewReader(theirs)).Decode(&b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b, a); d != "" {
		t.Errorf("(-official +ours):\n%s", d)
	}
}
