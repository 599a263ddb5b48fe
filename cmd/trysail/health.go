package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// healthTime bounds one check of one part.
	healthTime = 3 * time.Second
	// healthFresh is how long an answer is given again. Nobody has to sign for /healthz, so asking it often must not
	// keep the engine busy.
	healthFresh = 200 * time.Millisecond
)

// part is something that must work for the server to count as healthy.
type part struct {
	name  string
	check func(context.Context) error
}

// health answers GET /healthz: 200 when all parts work, else 503 with one line per part that does not.
type health struct {
	parts []part

	mu    sync.Mutex // guards what follows; held during a check, so that there is one at a time
	at    time.Time
	wrong []string
}

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	wrong := h.ask(r.Context())
	if len(wrong) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(wrong, "\n"))
		return
	}
	fmt.Fprintln(w, "ok")
}

// ask checks all parts at once and returns what is wrong.
func (h *health) ask(ctx context.Context) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.at.IsZero() && time.Since(h.at) < healthFresh {
		return h.wrong
	}
	// The answer is for whoever comes next as well, so it must not depend on the patience of this client.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTime)
	defer cancel()
	errs := make([]error, len(h.parts))
	var group sync.WaitGroup
	for i, p := range h.parts {
		group.Go(func() { errs[i] = p.check(ctx) })
	}
	group.Wait()
	h.wrong = nil
	for i, err := range errs {
		if err != nil {
			h.wrong = append(h.wrong, fmt.Sprintf("%s: %s", h.parts[i].name, strings.ReplaceAll(err.Error(), "\n", "; ")))
		}
	}
	h.at = time.Now()
	return h.wrong
}
