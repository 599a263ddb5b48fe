// Package engine declares what runs pods. Its implementations are cri (one machine) and the in-memory one of
// enginetest; both pass the same conformance suite, enginetest.Run.
package engine

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/trysail/trysail"
)

// ErrUnavailable is in the chain of an error that says nothing about the pod or the image: the engine itself does not
// answer at the moment (containerd restarts). The caller tries again, and the try does not count.
var ErrUnavailable = errors.New("the engine does not answer")

// Witness is an optional ability of an Engine: recording what happens inside its pods, so that a failure can be explained
// when the pod is gone.
type Witness interface {
	// Observe returns what has been seen inside the pod since it was started: Cgroup, Details, Sockets, Listeners (those
	// of this moment; nil when it is not possible to look), TimeLine, and Lost if something has put an end to the pod whose
	// containers seem to have ended by themselves; all else is left zero. The pod may have ended;
	// after Stop nothing is known of it any more. A pod that was there before the engine was opened is seen from then on.
	Observe(ctx context.Context, id trysail.PodID) (trysail.PodEvidence, error)
	// Settle says that the pod has become healthy: it need not be looked at often any more.
	Settle(id trysail.PodID)
	// Reach tries to resolve and to connect to each of the things from inside the pod's network, each for at most a
	// second, all at once.
	Reach(ctx context.Context, id trysail.PodID, things []trysail.Reach) ([]trysail.Reach, error)
	// Machine is how the machine is now. OOMKills counts from the opening of the engine; kills within a cgroup's limit
	// are among them.
	Machine(ctx context.Context) (trysail.MachineState, error)
}

// Knocker is an optional ability of an Engine that cannot see who listens in its pods: to find out by trying.
type Knocker interface {
	// Knock tries which ports of a running pod take connections: at its address, and at localhost inside of it. Nothing is
	// said to whoever answers. The results are there also with an error, as far as they go; there are none for a pod that
	// does not run.
	Knock(ctx context.Context, id trysail.PodID, ports []int) ([]trysail.Knock, error)
}

// Adopter is an optional ability of an Engine: to take over pods that another server has started.
type Adopter interface {
	// Adopt makes the engine keep the logs of a pod in a folder from now on, as PodSpec.LogDir says. Of a pod that it does
	// not have, or that it has started itself, it learns nothing new.
	Adopt(id trysail.PodID, logDir string) error
}

// Scoped is an optional ability of an Engine that may have very many pods: to speak of those of single services, so that
// the change of a pod costs the same however many others there are.
type Scoped interface {
	// ServicePods is Pods for one service.
	ServicePods(ctx context.Context, serviceID string) ([]trysail.Pod, error)
	// ServiceChanges is Changes with the ids of the services whose pods may have changed since the last time. None at all
	// (nil) means that those of any may have; that is what it begins with.
	ServiceChanges(ctx context.Context) iter.Seq[[]string]
}

// Pruner is an optional ability of an Engine: removing images.
type Pruner interface {
	// Prune removes the images that no pod uses and that are not in keep (names by digest; the digest decides), and
	// returns how many bytes that is about.
	Prune(ctx context.Context, keep []string) (freed int64, err error)
}

// Nodes is an optional ability of an Engine: saying what it runs pods on, and emptying one node for work on it.
type Nodes interface {
	// Nodes reports on every node, by name. A pod that has no node yet is on none.
	Nodes(ctx context.Context) ([]trysail.NodeState, error)
	// Cordon says whether the node takes new pods. While it does not, its pods are Leaving: whoever replaces them finds
	// places elsewhere. It returns when Nodes and Pods show it. Saying it again changes nothing. Errors: trysail.ErrNoNode,
	// trysail.ErrOnlyNode, ErrUnavailable.
	Cordon(ctx context.Context, node string, cordoned bool) error
}

// Engine runs pods on nodes. Every method is idempotent and safe for concurrent use.
type Engine interface {
	// Node reports what the machine has and can run.
	Node(ctx context.Context) (trysail.Node, error)
	// Pods lists every pod the engine has, whatever its state. A pod that Stop has removed is not listed.
	Pods(ctx context.Context) ([]trysail.Pod, error)
	// Prepare makes the image present on the node, so that Start does not have to wait for it.
	// image is a name by digest. Errors: *trysail.ImageError, ErrUnavailable.
	Prepare(ctx context.Context, image string) error
	// Start makes the pod exist and run. It returns when all its containers have been started, not when they are
	// healthy. Starting a pod that runs, or ran and ended, changes nothing. A container that cannot be started is not
	// an error of Start: its status carries the StartError. Errors: what keeps any pod from starting (the runtime is
	// broken, no room), ErrUnavailable; a later Start of the same pod continues.
	Start(ctx context.Context, spec trysail.PodSpec) error
	// Stop ends the pod, giving its containers grace between SIGTERM and SIGKILL, and removes it. Its log files stay.
	// killed names, in order, the containers that still ran after a grace of more than zero and were killed then, also if
	// Stop fails afterwards. Stopping an absent pod is not an error.
	Stop(ctx context.Context, id trysail.PodID, grace time.Duration) (killed []string, err error)
	// Changes yields when anything about a pod may have changed, until ctx ends. It is a hint: callers also poll.
	Changes(ctx context.Context) iter.Seq[struct{}]
	// Usage samples CPU and memory of every running pod.
	Usage(ctx context.Context) ([]trysail.Usage, error)
	// Check reports whether the engine works at this moment: nil, or why not.
	Check(ctx context.Context) error
}

// Images supplies an engine on this machine with the content of images. Image names are names by digest, the digest
// being that of a manifest for this machine's platform. Methods are safe for concurrent use. Every error is a
// *trysail.ImageError or that of ctx.
type Images interface {
	// Manifest returns the manifest, verified against the digest in the name.
	Manifest(ctx context.Context, image string) (mediaType string, content []byte, err error)
	// Blob makes a blob of the image a complete and verified file. progress, which may be nil, is told now and then how
	// many bytes of it are there. Who has been given the file calls Release when the content is needed no more: what was
	// fetched for it alone is removed then.
	Blob(ctx context.Context, image string, blob Descriptor, progress func(bytes int64)) (File, error)
}

// Descriptor names a blob.
type Descriptor struct {
	MediaType string
	Digest    string // sha256:…
	Size      int64  // bytes
}

// File is a blob as a file. It must not be written to.
type File struct {
	Path    string
	Release func()
}

// Progress is an optional ability of an Engine: saying how far a Prepare is.
type Progress interface {
	// Progress reports on an image that is being prepared; ok is false for any other.
	Progress(image string) (p trysail.Progress, ok bool)
}

// Examiner is an optional ability of an Engine: looking into an image before a container of it starts.
type Examiner interface {
	// Examine says what will go wrong with a container whose image has been prepared. ports are those that the
	// deployment opens. An error means that nothing could be seen.
	Examine(ctx context.Context, c trysail.ContainerSpec, ports []int) (trysail.Autopsy, error)
}
