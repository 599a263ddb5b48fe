package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

// watch knows the pods of the namespace and all nodes, as the API server last told. Lost connections, expired watches
// and a busy server are the informers' business: they begin again, more slowly each time.
type watch struct {
	pods, nodes cache.SharedIndexInformer
	log         *slog.Logger

	mu      sync.Mutex    // guards changes
	changes chan struct{} // closed with the next change
}

func newWatch(api *client, log *slog.Logger, see func(before, now *corev1.Pod)) *watch {
	w := &watch{log: log, changes: make(chan struct{})}
	ours := func(o *metav1.ListOptions) { o.LabelSelector = labelManagedBy + "=" + manager }
	w.pods = cache.NewSharedIndexInformer(cache.NewFilteredListWatchFromClient(api.core, "pods", api.namespace, ours), &corev1.Pod{}, 0, cache.Indexers{})
	w.nodes = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(api.core, "nodes", "", fields.Everything()), &corev1.Node{}, 0, cache.Indexers{})
	for _, i := range []cache.SharedIndexInformer{w.pods, w.nodes} {
		_ = i.SetTransform(slim)
		_ = i.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
			if ctx.Err() == nil {
				w.log.InfoContext(ctx, "watching the cluster goes on after an error", "what", r.TypeDescription(), "error", err)
			}
		})
	}
	_, _ = w.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if now, ok := o.(*corev1.Pod); ok {
				see(nil, now)
			}
			w.tell()
		},
		UpdateFunc: func(a, b any) {
			before, _ := a.(*corev1.Pod)
			if now, ok := b.(*corev1.Pod); ok {
				see(before, now)
			}
			w.tell()
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if before, ok := o.(*corev1.Pod); ok {
				see(before, nil)
			}
			w.tell()
		},
	})
	_, _ = w.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { w.tell() },
		DeleteFunc: func(any) { w.tell() },
		UpdateFunc: func(a, b any) {
			before, _ := a.(*corev1.Node)
			now, _ := b.(*corev1.Node)
			if before == nil || now == nil || isAwayNode(before) != isAwayNode(now) || before.Spec.Unschedulable != now.Spec.Unschedulable {
				w.tell()
			}
		},
	})
	return w
}

// slim drops what nobody reads from the copies that are kept.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		o.ManagedFields = nil
	case *corev1.Node:
		o.ManagedFields, o.Status.Images, o.Annotations = nil, nil, nil
	}
	return o, nil
}

func (w *watch) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { w.pods.RunWithContext(ctx) })
	wg.Go(func() { w.nodes.RunWithContext(ctx) })
	wg.Wait()
}

// synced waits until everything is known.
func (w *watch) synced(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), w.pods.HasSynced, w.nodes.HasSynced) {
		return fmt.Errorf("listing the cluster's pods and nodes: %w (see packaging/kubernetes for the permissions that are needed)", ctx.Err())
	}
	return nil
}

// tell wakes all who wait for a change.
func (w *watch) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changes)
	w.changes = make(chan struct{})
}

// changed is closed with the next change.
func (w *watch) changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes
}

// errEnough ends a wait.
var errEnough = errors.New("enough")

// lookEvery is how often a wait looks even if nothing changes.
const lookEvery = time.Second

// wait calls look with the pod, nil while there is none, after every change and now and then, until it returns an error.
// errEnough ends the wait well.
func (w *watch) wait(ctx context.Context, id trysail.PodID, look func(*corev1.Pod) error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		changed := w.changed()
		if err := look(w.pod(id)); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

func (w *watch) pod(id trysail.PodID) *corev1.Pod {
	for _, p := range w.allPods() {
		if p.Name == string(id) {
			return p
		}
	}
	return nil
}

func (w *watch) node(name string) *corev1.Node {
	o, ok, err := w.nodes.GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil
	}
	n, _ := o.(*corev1.Node)
	return n
}

// nodesByAddr says on which node each address is.
func (w *watch) nodesByAddr() map[netip.Addr]string {
	nodes := map[netip.Addr]string{}
	for _, p := range w.allPods() {
		if addr, err := netip.ParseAddr(p.Status.PodIP); err == nil && p.DeletionTimestamp == nil {
			nodes[addr] = p.Spec.NodeName
		}
	}
	return nodes
}

func (w *watch) allPods() []*corev1.Pod   { return objects[corev1.Pod](w.pods) }
func (w *watch) allNodes() []*corev1.Node { return objects[corev1.Node](w.nodes) }

func objects[T any, P interface {
	*T
	runtime.Object
}](informer cache.SharedIndexInformer) (list []P) {
	for _, o := range informer.GetStore().List() {
		if p, ok := o.(P); ok {
			list = append(list, p)
		}
	}
	return list
}
