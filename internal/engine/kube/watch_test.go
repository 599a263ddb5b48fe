package kube

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

// newTestWatch makes a watch that nothing fills but the test.
func newTestWatch(t *testing.T) *watch {
	t.Helper()
	api := newTestClient(t, "http://127.0.0.1:1")
	return newWatch(api, slog.New(slog.DiscardHandler), func(_, _ *corev1.Pod) {}, func(_, _ *corev1.Node) {})
}

func testPod(name, service string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{labelServiceID: service}}}
}

func TestWatch_FindsPodsByNameAndByService(t *testing.T) {
	w := newTestWatch(t)
	for _, p := range []*corev1.Pod{testPod("a-1", "a"), testPod("a-2", "a"), testPod("b-1", "b")} {
		if err := w.pods.GetIndexer().Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if p := w.pod("a-2"); p == nil || p.Name != "a-2" {
		t.Errorf("a-2 is %v", p)
	}
	if p := w.pod("a"); p != nil {
		t.Errorf("there is a pod a: %v", p)
	}
	var names []string
	for _, p := range w.servicePods("a") {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if want := []string{"a-1", "a-2"}; !slices.Equal(names, want) {
		t.Errorf("service a has %q, want %q", names, want)
	}
	if list := w.servicePods("c"); len(list) != 0 {
		t.Errorf("service c has %v", list)
	}
	if err := w.pods.GetIndexer().Delete(testPod("a-1", "a")); err != nil {
		t.Fatal(err)
	}
	if list := w.servicePods("a"); len(list) != 1 {
		t.Errorf("service a has %v", list)
	}
}

func TestWatch_WakesWhoWaitsForThePod(t *testing.T) {
	w := newTestWatch(t)
	mine, stop := w.attend("a-1")
	other, stopOther := w.attend("b-1")
	woken := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	w.tell(testPod("a-1", "a"))
	if !woken(mine) || woken(other) {
		t.Error("the change of a pod wakes who waits for it, and nobody else")
	}
	w.tell(nil)
	if !woken(mine) || !woken(other) {
		t.Error("the change of a node wakes all")
	}
	stop()
	stopOther()
	if len(w.waiting) != 0 {
		t.Errorf("%d pods are still waited for", len(w.waiting))
	}
}

// TestWatch_WaitSeesEveryChange: a change between a look and the wait for the next one is not missed.
func TestWatch_WaitSeesEveryChange(t *testing.T) {
	w := newTestWatch(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	looks := 0
	err := w.wait(ctx, "a-1", func(p *corev1.Pod) error {
		looks++
		if p != nil {
			return errEnough
		}
		if err := w.pods.GetIndexer().Add(testPod("a-1", "a")); err != nil {
			return err
		}
		w.tell(testPod("a-1", "a"))
		return nil
	})
	if err != nil || looks != 2 {
		t.Errorf("%d looks, %v", looks, err)
	}
}

func TestEngine_ServiceChangesNameServicesOnce(t *testing.T) {
	e := &Engine{watch: newTestWatch(t), stopping: map[trysail.PodID]bool{}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	step := 0
	for ids := range e.ServiceChanges(ctx) {
		slices.Sort(ids)
		switch step++; step {
		case 1:
			if ids != nil {
				t.Errorf("it begins with %q, not with all", ids)
			}
			for _, p := range []*corev1.Pod{testPod("a-1", "a"), testPod("b-1", "b"), testPod("a-2", "a")} {
				if err := e.watch.pods.GetIndexer().Add(p); err != nil {
					t.Fatal(err)
				}
				e.watch.tell(p)
			}
		case 2:
			if want := []string{"a", "b"}; !slices.Equal(ids, want) {
				t.Errorf("changes of %q, want %q", ids, want)
			}
			pods, err := e.ServicePods(ctx, "a")
			if err != nil || len(pods) != 2 || pods[0].ServiceID != "a" {
				t.Errorf("service a has %+v, %v", pods, err)
			}
			e.watch.tell(testPod("a-1", "a"))
			e.watch.tell(nil) // a node
		case 3:
			if ids != nil {
				t.Errorf("after the change of a node: %q, not all", ids)
			}
			cancel()
		}
	}
	if step != 3 || len(e.watch.feeds) != 0 {
		t.Errorf("%d changes, %d feeds left", step, len(e.watch.feeds))
	}
}

// TestFeed_TakingNothingIsNotAll: a change may be taken with those before it, and then wakes for nothing.
func TestFeed_TakingNothingIsNotAll(t *testing.T) {
	f := &feed{wake: make(chan struct{}, 1), services: map[string]bool{}}
	if ids := f.take(); ids == nil || len(ids) != 0 {
		t.Errorf("took %#v", ids)
	}
}
