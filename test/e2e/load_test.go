//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
)

// disabled is what the answers 503 are counted as that may be.
const disabled = "503 while disabled"

// load keeps connections busy and counts what comes back.
type load struct {
	mu       sync.Mutex
	answers  map[string]int // by first line of the body, or disabled
	failures map[string]int // by what went wrong
	total    int
	// may503 is true while the service is disabled, or about to be or to stop being so.
	may503 bool

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startLoad sends requests to url on 16 connections, half of them HTTP/1.1, half HTTP/2, as fast as answers come.
// Every other request is a POST, which no client or proxy may silently send again once it was begun.
func startLoad(t *testing.T, c *client, url string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{answers: map[string]int{}, failures: map[string]int{}, cancel: cancel}
	for i := range 16 {
		h, err := c.server.HTTPClient(i%2 == 1) // a client each, so a connection each
		if err != nil {
			t.Fatal(err)
		}
		l.wg.Go(func() {
			defer h.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				l.once(ctx, h, url, n)
			}
		})
	}
	return l
}

func (l *load) once(ctx context.Context, h *http.Client, url string, n int) {
	l.mu.Lock()
	may503 := l.may503
	l.mu.Unlock()
	method, body := http.MethodGet, io.Reader(nil)
	if n%2 == 1 {
		// Not one of the reader types that net/http knows how to rewind.
		method, body = http.MethodPost, io.MultiReader(strings.NewReader("some body"))
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		panic(err) // the same URL for all
	}
	resp, err := h.Do(req)
	text := ""
	if err == nil {
		var b []byte
		b, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		text, _, _ = strings.Cut(string(b), "\n")
	}
	if ctx.Err() != nil {
		return // we broke it off ourselves
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	switch {
	case err != nil:
		l.failures[method+": "+err.Error()]++
	case resp.StatusCode == http.StatusOK && strings.HasPrefix(text, "version "):
		l.answers[text]++
	case resp.StatusCode == http.StatusServiceUnavailable && (may503 || l.may503):
		l.answers[disabled]++
	default:
		l.failures[fmt.Sprintf("%s: %s %s %s", method, resp.Proto, resp.Status, text)]++
	}
}

func (l *load) allow503(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.may503 = yes
}

// served counts the requests that a container has answered.
func (l *load) served() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for answer, times := range l.answers {
		if answer != disabled {
			n += times
		}
	}
	return n
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// TestLoad_NoRequestIsDropped changes a service in every way that it can be changed, at full load, and counts.
func TestLoad_NoRequestIsDropped(t *testing.T) {
	c := clientOf(t, shared.server)
	const name = "load"
	c.create(name, types.ContainerServicePowerNameSmall, 2)
	c.deploy(webDeployment(name, "web:1", nil))
	c.waitState(name, types.ContainerServiceStateRunning)
	began := time.Now()
	l := startLoad(t, c, c.url(name, "/"))
	stopped := false
	defer func() {
		if !stopped {
			l.stop()
		}
	}()

	update := func(in lightsail.UpdateContainerServiceInput, state types.ContainerServiceState) {
		t.Helper()
		in.ServiceName = aws.String(name)
		if _, err := c.api.UpdateContainerService(t.Context(), &in); err != nil {
			t.Fatal(err)
		}
		c.waitState(name, state)
	}
	running := types.ContainerServiceStateRunning
	redeploy := func(n int) {
		t.Helper()
		version := c.deploy(webDeployment(name, fmt.Sprintf("web:%d", n%3+1), map[string]string{"VERSION": fmt.Sprint(n)}))
		c.waitVersion(name, version, types.ContainerServiceDeploymentStateActive)
		c.waitState(name, running)
	}

	for n := 1; n <= 10; n++ {
		redeploy(n)
	}
	for _, scale := range []int32{3, 1, 4, 1, 2} {
		update(lightsail.UpdateContainerServiceInput{Scale: aws.Int32(scale)}, running)
	}
	update(lightsail.UpdateContainerServiceInput{Power: types.ContainerServicePowerNameMedium}, running)
	update(lightsail.UpdateContainerServiceInput{Power: types.ContainerServicePowerNameSmall}, running)
	l.allow503(true)
	update(lightsail.UpdateContainerServiceInput{IsDisabled: aws.Bool(true)}, types.ContainerServiceStateDisabled)
	update(lightsail.UpdateContainerServiceInput{IsDisabled: aws.Bool(false)}, running)
	l.allow503(false)
	for n := 11; n <= 20; n++ {
		redeploy(n)
	}
	c.eventually("100,000 answers", func() bool { return l.served() >= 100_000 })
	l.stop()
	stopped = true

	took := time.Since(began)
	t.Logf("%d requests in %s (%.0f a second) during 20 deployments, 5 changes of scale, 2 of power, 1 disable and enable",
		l.total, took.Round(time.Millisecond), float64(l.total)/took.Seconds())
	for _, answer := range slices.Sorted(maps.Keys(l.answers)) {
		t.Logf("%8d × %s", l.answers[answer], answer)
	}
	for what, n := range l.failures {
		t.Errorf("%8d × FAILED %s", n, what)
	}
	for n := 1; n <= 20; n++ {
		if l.answers[fmt.Sprintf("version %d", n)] == 0 {
			t.Errorf("version %d never answered", n)
		}
	}
	c.delete(name)
}
