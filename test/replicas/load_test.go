//go:build cluster

package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// workers is how many clients send requests to each edge, one after the other.
const workers = 4

// tally counts the requests to one edge.
type tally struct {
	mu     sync.Mutex
	sent   int
	failed map[string]int
	// refused are those to an edge that takes no connections: whoever has a choice takes another one.
	refused int
	slowest time.Duration
}

func (t *tally) note(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
	t.slowest = max(t.slowest, took)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		t.refused++
	} else if err != nil {
		t.failed[err.Error()]++
	}
}

// reset begins anew.
func (t *tally) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent, t.refused, t.slowest, t.failed = 0, 0, 0, map[string]int{}
}

func (t *tally) read() (sent, failed, refused int, slowest time.Duration, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for text, n := range t.failed {
		failed += n
		why += fmt.Sprintf("%d× %s; ", n, text)
	}
	return t.sent, failed, t.refused, t.slowest, why
}

// begun counts the failed requests but for those whose connection was closed before anything came back.
func (t *tally) begun() (failed int, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for text, n := range t.failed {
		if !strings.HasSuffix(text, ": EOF") && !strings.HasSuffix(text, "connection reset by peer") {
			failed += n
			why += fmt.Sprintf("%d× %s; ", n, text)
		}
	}
	return failed, why
}

// load is requests to all edges at all times. They are POST requests, which nobody sends a second time by himself.
type load struct {
	tallies []*tally
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

func startLoad(ctx context.Context, servers []*kit.Server, url string) (*load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{stop: cancel}
	for _, s := range servers {
		client, err := s.HTTPClient(false)
		if err != nil {
			cancel()
			return nil, err
		}
		client.Timeout = 90 * time.Second
		t := &tally{}
		t.reset()
		l.tallies = append(l.tallies, t)
		for i := range workers {
			target := url
			if i == 0 {
				target += "sleep?d=300ms" // some are in flight for longer
			}
			l.wg.Go(func() {
				for ctx.Err() == nil {
					began := time.Now()
					err := send(ctx, client, target)
					if ctx.Err() != nil {
						return
					}
					t.note(time.Since(began), err)
					select {
					case <-ctx.Done():
					case <-time.After(10 * time.Millisecond):
					}
				}
			})
		}
	}
	return l, nil
}

func send(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %.60s", resp.Status, text)
	}
	return err
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}
