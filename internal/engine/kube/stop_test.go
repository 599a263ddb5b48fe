package kube

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
)

// TestEngine_StopEndsFollowing: what the watch tells late of a pod that has been stopped does not make its log be followed once
// more, by two at a time.
func TestEngine_StopEndsFollowing(t *testing.T) {
	pod := testPod("a-1", "a")
	pod.UID = "u"
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", ContainerID: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	e := &Engine{
		cfg: Config{Dir: t.TempDir()}, log: slog.New(slog.DiscardHandler), watch: newTestWatch(t), busy: map[trysail.PodID]chan struct{}{},
		stopping: map[trysail.PodID]bool{}, records: map[trysail.PodID]record{"a-1": {LogDir: t.TempDir()}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := e.watch.pods.GetIndexer().Delete(pod); err != nil {
			t.Error(err)
		}
		e.watch.tell(pod)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Success"}`))
	}))
	defer server.Close()
	e.api = newTestClient(t, server.URL)
	e.ctx, e.stop = context.WithCancel(t.Context())
	defer e.stop()
	e.sample, e.follow = newSampler(e), newFollower(e)
	if err := e.watch.pods.GetIndexer().Add(pod); err != nil {
		t.Fatal(err)
	}
	last := make(chan struct{}) // closed when the last line has been read
	e.follow.active["a-1"] = map[string]chan struct{}{"web": last}
	stopped := make(chan error, 1)
	go func() {
		_, err := e.Stop(t.Context(), "a-1", time.Second)
		stopped <- err
	}()
	following := func() int {
		e.follow.mu.Lock()
		defer e.follow.mu.Unlock()
		return len(e.follow.active)
	}
	for following() != 0 {
		select {
		case err := <-stopped:
			t.Fatalf("it did not wait for the last line: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	e.follow.see(pod)
	if n := following(); n != 0 {
		t.Errorf("%d pods are followed after their end", n)
	}
	close(last)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
