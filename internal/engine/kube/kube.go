// Package kube runs pods on the nodes of a Kubernetes cluster, in one namespace of it.
//
// A pod of ours is a pod of the cluster, by the same name, that is started once and never restarted: what follows from
// its end is decided where all of Trysail's decisions are made. docs/adr/018-kubernetes-engine.md has the reasons.
//
// What the cluster has is known from watches of it (watch.go), never by asking again and again. Starting (start.go,
// object.go) and stopping (stop.go) change it and wait until the watch shows the effect. Around them: how the cluster
// puts the states of pods and nodes (status.go), the images, which nodes fetch from Trysail (images.go), the logs, which
// are followed into files (follow.go, logfile.go), what keeps others from disturbing services (budget.go), who reaches
// whom (policy.go, isolate.go), what pods use (usage.go) and what can be seen when one fails: what the cluster tells of it
// (witness.go), what the kernel counted (counters.go), which of its ports are open (knock.go), what is in its images (fetch.go,
// examine.go).
package kube

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// Config says which cluster to use, and how. Fields without a default are required.
type Config struct {
	// Kubeconfig is a file that says where the cluster is and who we are there. Empty means that this program runs in a
	// pod of the cluster.
	Kubeconfig string
	// Namespace holds everything of this installation, and belongs to it alone. It must exist.
	Namespace string
	// Dir is the engine's own directory on this machine, made if need be with mode 0700.
	Dir string
	// Images supplies the content of images, for the nodes.
	Images engine.Images
	// Registry is the host[:port] at which the cluster's nodes reach PullHandler by HTTPS.
	Registry string
	// RoomTime is how long a pod that fits on no node waits for one. Zero means a minute.
	RoomTime time.Duration
	// PullPassword is what nodes fetch images with, the same for all servers of an installation. Empty means one that is made
	// at the first start and kept in Dir.
	PullPassword string
	// Resolver is the address of the pods' name server. Empty means the cluster's own.
	Resolver string
	// Isolate makes network policies, which say who reaches whom: as on one machine, as far as the cluster can say that.
	// Without it there are none of ours.
	Isolate bool
	// Edges are the networks from which requests of edges come to the pods. Empty means the addresses of this machine, or, in
	// a pod of the cluster, the namespace that it is in.
	Edges []netip.Prefix
	// EdgePorts are the ports of the edge, which pods reach.
	EdgePorts []uint16
	// PodNetwork is where pods of the cluster have their addresses from, besides what nodes name as theirs; may be invalid.
	PodNetwork netip.Prefix
	// Continue says how to go on with the log of a container that another server may have followed before. Nil means that there
	// is no other server: what is in dir is all.
	Continue func(dir, container string) (Continuation, error)
}

// Continuation is how to go on with the log of a container.
type Continuation struct {
	// Number is that of the file to begin.
	Number int
	// End says where a stream ("stdout", "stderr") ends: when its last line was written, and how many lines have that time.
	// The time is zero if there is none.
	End func(stream string) (last time.Time, count int)
	// Begin is called before anything of a stream is written, with the time of its first line.
	Begin func(stream string, at time.Time) error
}

// openTime bounds how long Open waits for the cluster.
const openTime = 30 * time.Second

// Engine runs pods in a cluster. Its methods are safe for concurrent use.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	api    *client
	watch  *watch
	pulls  *pulls
	follow *follower
	usage  *usageReader
	sample *sampler
	owner  owner

	isolation *isolation

	ctx  context.Context //nolint:containedctx // of what runs between calls; Close ends it
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex // guards all below
	busy     map[trysail.PodID]chan struct{}
	stopping map[trysail.PodID]bool
	records  map[trysail.PodID]record // of pods whose logs are kept on this machine

	published map[string]publication // by service
}

var (
	_ engine.Engine  = (*Engine)(nil)
	_ engine.Witness = (*Engine)(nil)
	_ engine.Adopter = (*Engine)(nil)
	_ engine.Scoped  = (*Engine)(nil)

	_ engine.Progress = (*Engine)(nil)
	_ engine.Examiner = (*Engine)(nil)
)

// Open connects to the cluster. End it with Close; pods run on. Errors: what keeps it from working, in a form for the
// operator.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (e *Engine, err error) {
	if cfg.RoomTime == 0 {
		cfg.RoomTime = time.Minute
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, recordDir), 0o700); err != nil {
		return nil, fmt.Errorf("making the engine's directory: %w", err)
	}
	api, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	made := &Engine{
		cfg: cfg, log: log, api: api, busy: map[trysail.PodID]chan struct{}{}, stopping: map[trysail.PodID]bool{}, records: map[trysail.PodID]record{},
		published: map[string]publication{},
	}
	made.ctx, made.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, made.Close())
		}
	}()
	return made, made.open(ctx)
}

// open does what needs the cluster.
func (e *Engine) open(ctx context.Context) (err error) {
	if cfg := e.cfg; cfg.Continue == nil { // else who leads follows the logs
		if err := e.loadRecords(); err != nil {
			return err
		}
	}
	if e.pulls, err = newPulls(e.cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	err = whenThere(ctx, func() (err error) {
		if e.owner, err = e.api.establish(ctx); err != nil {
			return err
		}
		return e.applyPullSecret(ctx)
	})
	if err != nil {
		return err
	}
	e.follow = newFollower(e)
	e.usage = newUsageReader(e.api)
	e.sample = newSampler(e)
	budgets := newBudgets(e)
	e.isolation = newIsolation(e)
	e.watch = newWatch(e.api, e.log, func(before, now *corev1.Pod) { //nolint:contextcheck // what is followed ends with Close
		e.follow.see(now)
		budgets.see(before, now)
		e.isolation.see(before, now)
	}, e.isolation.seeNode)
	e.wg.Go(func() { e.watch.run(e.ctx) })
	if err := e.watch.synced(ctx); err != nil {
		return err
	}
	if err := whenThere(ctx, func() error { return e.isolation.establish(ctx) }); err != nil {
		return err
	}
	e.wg.Go(func() { budgets.run(e.ctx) })
	e.wg.Go(func() { e.sample.run(e.ctx) })
	e.wg.Go(func() { e.isolation.run(e.ctx) })
	return nil
}

// whenThere repeats do while the API server is away.
func whenThere(ctx context.Context, do func() error) error {
	const pause = 200 * time.Millisecond
	for {
		err := do()
		if !errors.Is(err, engine.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// Close ends what the engine does. Pods run on.
func (e *Engine) Close() error {
	e.stop()
	e.wg.Wait()
	if e.follow != nil {
		e.follow.wait()
	}
	return nil
}

// Node implements engine.Engine: it is the largest of the cluster's, since a pod must fit on one.
func (e *Engine) Node(ctx context.Context) (trysail.Node, error) {
	if err := ctx.Err(); err != nil {
		return trysail.Node{}, err
	}
	var largest trysail.Node
	for _, n := range e.watch.allNodes() {
		size := trysail.Node{
			Name: n.Name, OS: n.Status.NodeInfo.OperatingSystem, Architecture: n.Status.NodeInfo.Architecture,
			CPUs: int(n.Status.Allocatable.Cpu().Value()), Memory: n.Status.Allocatable.Memory().Value(),
		}
		if size.OS == "linux" && (size.Memory > largest.Memory || size.Memory == largest.Memory && size.Name < largest.Name) {
			largest = size
		}
	}
	if largest.Name == "" {
		return largest, errors.New("the cluster has no node that runs Linux")
	}
	return largest, nil
}

// Pods implements engine.Engine. While the API server does not answer it says what was last known.
func (e *Engine) Pods(ctx context.Context) ([]trysail.Pod, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var list []trysail.Pod
	for _, p := range e.watch.allPods() {
		list = append(list, e.podOf(p))
	}
	return list, nil
}

// Changes implements engine.Engine. It yields once at the beginning.
func (e *Engine) Changes(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for {
			changed := e.watch.changed()
			if !yield(struct{}{}) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

// Check implements engine.Engine.
func (e *Engine) Check(ctx context.Context) error { return e.api.check(ctx) }

// acquire waits until no other call works on the pod, and returns the function that lets the next one in.
func (e *Engine) acquire(ctx context.Context, id trysail.PodID) (release func(), err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e.mu.Lock()
		other := e.busy[id]
		if other == nil {
			mine := make(chan struct{})
			e.busy[id] = mine
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				delete(e.busy, id)
				e.mu.Unlock()
				close(mine)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-other:
		}
	}
}
