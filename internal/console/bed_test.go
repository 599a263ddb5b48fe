package console_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/console"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/metrics"
	"github.com/trysail/trysail/internal/store"
)

// anyImage has every image but those named missing.
type anyImage struct{}

func (anyImage) Resolve(_ context.Context, name string) (trysail.Image, error) {
	if strings.HasPrefix(name, "missing") {
		return trysail.Image{}, &trysail.ImageError{Code: "IMG-NOTFOUND", Image: name, Message: "There is no such image.", Fix: "Correct the name.", Final: true}
	}
	return trysail.Image{Name: name, Digest: "sha256:" + strings.Repeat("ab", 32), Command: []string{"/app"}}, nil
}

// bed is a console on a real control and store, served over HTTP, with somebody who browses.
type bed struct {
	*testing.T
	control *control.Control
	store   *store.Store
	logs    *logs.Store
	server  *httptest.Server
	browser *http.Client
	key     control.AccessKey
	// installed is what is said to be on the disk.
	installed console.Installed
	admin     trysail.Caller
}

func newBed(t *testing.T) *bed {
	t.Helper()
	st, err := store.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	b := &bed{T: t, store: st, logs: logs.New(t.TempDir())}
	points, err := metrics.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.control = control.New(control.Config{
		Region: "us-east-1", Account: "111122223333", Domain: "example.com", Store: st, Logs: b.logs, Images: anyImage{}, Metrics: points,
		Log: slog.New(slog.DiscardHandler),
	})
	if b.key, err = b.control.EnsureAdminKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.admin = trysail.Caller{AccessKeyID: b.key.ID, Name: b.key.Name, Role: trysail.RoleAdmin}
	c, err := console.New(console.Config{
		Version: "1.2.3", Region: "us-east-1", Domain: "example.com", Endpoint: "http://127.0.0.1:4500",
		Installed: func(context.Context) console.Installed { return b.installed },
	}, b.control, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.server = httptest.NewServer(c)
	t.Cleanup(b.server.Close)
	t.Cleanup(c.Close) // first
	b.browser = b.newBrowser()
	return b
}

// newBrowser is a browser with cookies of its own that follows no redirect.
func (b *bed) newBrowser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	return &http.Client{Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is what the browser got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (b *bed) do(method, path string, form url.Values, change func(*http.Request)) answer {
	b.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.Context(), method, b.server.URL+path, body)
	if err != nil {
		b.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if change != nil {
		change(r)
	}
	resp, err := b.browser.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func (b *bed) get(path string) answer { b.Helper(); return b.do("GET", path, nil, nil) }

// page gets a page that must be there.
func (b *bed) page(path string) string {
	b.Helper()
	a := b.get(path)
	if a.status != 200 {
		b.Fatalf("GET %s: %d %s\n%s", path, a.status, a.header.Get("Location"), a.body)
	}
	return a.body
}

// signIn signs in with the admin key.
func (b *bed) signIn() {
	b.Helper()
	a := b.do("POST", "/console/sign-in", url.Values{"key": {b.key.ID}, "secret": {b.key.Secret}}, nil)
	if a.status != 303 || a.header.Get("Location") != "/console/" {
		b.Fatalf("signing in: %d %v\n%s", a.status, a.header, a.body)
	}
}

var tokenField = regexp.MustCompile(`name="csrf" value="([A-Za-z0-9_-]{86})"`)

// token is what forms must carry.
func (b *bed) token() string {
	b.Helper()
	m := tokenField.FindStringSubmatch(b.page("/console/"))
	if m == nil {
		b.Fatal("the page has no token")
	}
	return m[1]
}

// post sends a form with the token.
func (b *bed) post(path string, pairs ...string) answer {
	b.Helper()
	form := url.Values{"csrf": {b.token()}}
	for i := 0; i < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	return b.do("POST", path, form, nil)
}

// done sends a form that must lead to a page, and returns that.
func (b *bed) done(path string, pairs ...string) string {
	b.Helper()
	a := b.post(path, pairs...)
	if a.status != 303 {
		b.Fatalf("POST %s: %d\n%s", path, a.status, a.body)
	}
	return b.page(a.header.Get("Location"))
}

// has checks that a page says something, and lacks that it does not.
func (b *bed) has(page string, texts ...string) {
	b.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			b.Errorf("the page does not say %q:\n%s", text, page)
		}
	}
}

func (b *bed) lacks(page string, texts ...string) {
	b.Helper()
	for _, text := range texts {
		if strings.Contains(page, text) {
			b.Errorf("the page says %q:\n%s", text, page)
		}
	}
}

func (b *bed) update(fn func(*store.Tx) error) {
	b.Helper()
	if err := b.store.Update(b.Context(), fn); err != nil {
		b.Fatal(err)
	}
}

// create makes a service that is ready, without a deployment.
func (b *bed) create(name string) {
	b.Helper()
	if _, err := b.control.CreateContainerService(b.Context(), b.admin, control.CreateContainerServiceInput{ServiceName: name, Power: "nano", Scale: 2}); err != nil {
		b.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service(name)
		if err != nil {
			return err
		}
		s.State, s.Detail = trysail.ServiceReady, trysail.StateDetail{}
		return tx.UpdateService(s)
	})
}

// deploy adds a version in a state and lets the service follow.
func (b *bed) deploy(name, image string, state trysail.DeploymentState, change func(*trysail.Deployment)) *trysail.Deployment {
	b.Helper()
	d := &trysail.Deployment{
		State: state,
		Containers: map[string]trysail.Container{"web": {
			Image: image, Ports: map[string]trysail.Protocol{"80": trysail.ProtocolHTTP}, Environment: map[string]string{"GREETING": "hello", "DB_PASSWORD": "correct-horse"},
		}},
		PublicEndpoint: &trysail.PublicEndpoint{ContainerName: "web", ContainerPort: 80, HealthCheck: trysail.DefaultHealthCheck()},
		Digests:        map[string]string{image: "sha256:" + strings.Repeat("ab", 32)},
	}
	if change != nil {
		change(d)
	}
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service(name)
		if err != nil {
			return err
		}
		d.CreatedAt = tx.Now()
		if err := tx.InsertDeployment(s.ID, d); err != nil {
			return err
		}
		if state == trysail.DeploymentActive {
			if s.Current != nil {
				s.Current.State = trysail.DeploymentInactive
				if err := tx.UpdateDeployment(s.ID, s.Current); err != nil {
					return err
				}
			}
			s.State = trysail.ServiceRunning
		}
		if state == trysail.DeploymentActivating {
			s.State = trysail.ServiceDeploying
			s.Detail = trysail.StateDetail{Code: trysail.DetailCreatingDeployment}
		}
		return tx.UpdateService(s)
	})
	return d
}
