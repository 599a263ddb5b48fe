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
	namespace   string

	mu      sync.Mutex                        // guards all below
	changes chan struct{}                     // closed with the next change
	waiting map[string]map[chan struct{}]bool // by name of the pod that somebody waits for
	feeds   map[*feed]bool
}

// The index of the pods by their service's id.
const byService = "service"

func serviceIndex(o any) ([]string, error) {
	if p, ok := o.(*corev1.Pod); ok {
		return []string{p.Labels[labelServiceID]}, nil
	}
	return nil, nil
}

func newWatch(api *client, log *slog.Logger, see func(before, now *corev1.Pod), seeNode func(before, now *corev1.Node)) *watch {
	w := &watch{log: log, namespace: api.namespace, changes: make(chan struct{}), waiting: map[string]map[chan struct{}]bool{}, feeds: map[*feed]bool{}}
	ours := func(o *metav1.ListOptions) { o.LabelSelector = labelManagedBy + "=" + manager }
	w.pods = cache.NewSharedIndexInformer(cache.NewFilteredListWatchFromClient(api.core, "pods", api.namespace, ours), &corev1.Pod{}, 0, cache.Indexers{byService: serviceIndex})
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
				w.tell(now)
			}
		},
		UpdateFunc: func(a, b any) {
			before, _ := a.(*corev1.Pod)
			if now, ok := b.(*corev1.Pod); ok {
				see(before, now)
				w.tell(now)
			}
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if before, ok := o.(*corev1.Pod); ok {
				see(before, nil)
				w.tell(before)
			}
		},
	})
	_, _ = w.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if now, ok := o.(*corev1.Node); ok {
				seeNode(nil, now)
			}
			w.tell(nil)
		},
		DeleteFunc: func(any) {
			seeNode(nil, nil)
			w.tell(nil)
		},
		UpdateFunc: func(a, b any) {
			before, _ := a.(*corev1.Node)
			now, _ := b.(*corev1.Node)
			seeNode(before, now)
			if before == nil || now == nil || isAwayNode(before) != isAwayNode(now) || before.Spec.Unschedulable != now.Spec.Unschedulable {
				w.tell(nil)
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

// tell wakes all who wait for a change of the pod, or of any if it is nil: nodes concern all of theirs.
func (w *watch) tell(p *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changes)
	w.changes = make(chan struct{})
	for f := range w.feeds {
		f.note(p)
	}
	if p != nil {
		wake(w.waiting[p.Name])
		return
	}
	for _, all := range w.waiting {
		wake(all)
	}
}

func wake(waiting map[chan struct{}]bool) {
	for c := range waiting {
		select {
		case c <- struct{}{}:
		default:
		}
	}
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
	changed, stop := w.attend(string(id))
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
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

// attend returns a channel that gets something after each change of the pod, and what ends that.
func (w *watch) attend(pod string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[pod] == nil {
		w.waiting[pod] = map[chan struct{}]bool{}
	}
	w.waiting[pod][c] = true
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.waiting[pod], c); len(w.waiting[pod]) == 0 {
			delete(w.waiting, pod)
		}
	}
}

func (w *watch) pod(id trysail.PodID) *corev1.Pod {
	o, ok, err := w.pods.GetStore().GetByKey(w.namespace + "/" + string(id))
	if err != nil || !ok {
		return nil
	}
	p, _ := o.(*corev1.Pod)
	return p
}

// servicePods are the pods of one service.
func (w *watch) servicePods(id string) (list []*corev1.Pod) {
	all, err := w.pods.GetIndexer().ByIndex(byService, id)
	if err != nil {
		return nil // there is that index
	}
	for _, o := range all {
		if p, ok := o.(*corev1.Pod); ok {
			list = append(list, p)
		}
	}
	return list
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
