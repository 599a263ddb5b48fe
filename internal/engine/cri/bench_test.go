package cri_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

// BenchmarkPodStart measures from the call of Start to the pod's first answer over HTTP, image present.
func BenchmarkPodStart(b *testing.B) {
	images := serveImages(b)
	r := newRig(b, nil)
	if err := r.engine.Prepare(b.Context(), images.program); err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name       string
		milliCPU   int64
		containers int
	}{{"nano", 250, 1}, {"large", 2000, 1}, {"large-5-containers", 2000, 5}} {
		b.Run(bb.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				spec := podSpec(trysail.PodID(fmt.Sprintf("bench-%s-%d", bb.name, i)), images.program, "serve 8080")
				for n := 1; n < bb.containers; n++ {
					spec.Containers = append(spec.Containers, trysail.ContainerSpec{Name: fmt.Sprintf("extra%d", n), Image: images.program})
				}
				spec.Limits = trysail.Limits{MilliCPU: bb.milliCPU, Memory: 512 << 20}
				if err := r.engine.Start(b.Context(), spec); err != nil {
					b.Fatal(err)
				}
				awaitHTTP(b, r.pod(spec.ID), 8080)
				b.StopTimer()
				if _, err := r.engine.Stop(b.Context(), spec.ID, 0); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// awaitHTTP returns when the pod answers.
func awaitHTTP(tb testing.TB, p trysail.Pod, port int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/hostname", p.Addr, port), nil)
		if err != nil {
			tb.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("pod %s does not answer: %v", p.ID, err)
		case <-time.After(time.Millisecond):
		}
	}
}
