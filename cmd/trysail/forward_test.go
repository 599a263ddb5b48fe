package main

import (
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trysail/trysail/internal/store"
)

// leading is what a server knows of who leads.
type leading struct {
	server      store.Server
	ours, known bool
}

// follower answers "here", and passes on what needs the leader.
func follower(t *testing.T, l *leading, rootFile string) *httptest.Server {
	t.Helper()
	f := newForwarder(func() (store.Server, bool, bool) { return l.server, l.ours, l.known }, rootFile, slog.New(slog.NewTextHandler(t.Output(), nil)))
	here := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "here "+r.URL.Path) })
	mux := http.NewServeMux()
	mux.Handle("/", f.those(here, needsLeader))
	mux.Handle("/v2/", f.under(peerPulls, here))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func call(t *testing.T, s *httptest.Server, path string, header map[string]string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "api.example.com"
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestForwarder_AsksTheLeaderForWhatItAloneHas(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, strings.Join([]string{"leader", r.Host, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get(forwarded), string(b)}, " "))
	})
	leader := httptest.NewTLSServer(echo)
	defer leader.Close()
	rootFile := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(rootFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leader.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	// A loopback address would be asked by plain HTTP; this one leads there, too.
	address := strings.Replace(leader.Listener.Addr().String(), "127.0.0.1", "0.0.0.0", 1)
	l := &leading{server: store.Server{Address: address}, known: true}
	s := follower(t, l, rootFile)
	session := map[string]string{"X-Amz-Target": "Trysail_20261120.CreateExecSession", "Authorization": "AWS4-HMAC-SHA256 Signature=x"}
	for _, c := range []struct {
		what, path string
		header     map[string]string
		want       string
	}{
		{"a command", "/", session, "leader api.example.com / AWS4-HMAC-SHA256 Signature=x 1 body"},
		{"the store", "/", map[string]string{"X-Amz-Target": "Lightsail_20161128.GetContainerServices"}, "here /"},
		{"logs", "/", map[string]string{"X-Amz-Target": "Lightsail_20161128.GetContainerLog"}, "here /"},
		{"an exec session", "/exec/token", nil, "leader api.example.com /exec/token  1 body"},
		{"an image", "/v2/x/manifests/y", nil, "leader api.example.com " + peerPulls + "/v2/x/manifests/y  1 body"},
		{"what another server has passed on", "/", map[string]string{"X-Amz-Target": "Trysail_20261120.CreateExecSession", forwarded: "1"}, "here /"},
	} {
		if status, text := call(t, s, c.path, c.header); status != http.StatusOK || text != c.want {
			t.Errorf("%s: %d %q, want %q", c.what, status, text, c.want)
		}
	}
	l.ours = true
	if _, text := call(t, s, "/", session); text != "here /" {
		t.Errorf("this server leads, and somebody else is asked: %q", text)
	}
	if _, text := call(t, s, "/v2/x", nil); text != "here /v2/x" {
		t.Errorf("this server leads, and somebody else is asked: %q", text)
	}
	*l = leading{}
	status, text := call(t, s, "/", session)
	if status != http.StatusServiceUnavailable || !strings.Contains(text, `"__type":"ServiceException"`) || !strings.Contains(text, "takes over within 12 seconds") {
		t.Errorf("nobody leads: %d %q", status, text)
	}
}

func TestForwarder_TrustsOurOwnServersOnly(t *testing.T) {
	stranger := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "stranger") }))
	defer stranger.Close()
	rootFile := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(rootFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	address := strings.Replace(stranger.Listener.Addr().String(), "127.0.0.1", "0.0.0.0", 1)
	s := follower(t, &leading{server: store.Server{Address: address}, known: true}, rootFile)
	status, text := call(t, s, "/exec/token", nil)
	if status != http.StatusServiceUnavailable || strings.Contains(text, "stranger") {
		t.Errorf("a server that the local CA has not signed for: %d %q", status, text)
	}
}
