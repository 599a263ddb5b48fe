// Package cri is the engine for one machine: containerd as a supervised child process, spoken to through CRI, the
// interface that Kubernetes uses too.
//
//	Engine ──gRPC──▶ containerd (child.go) ──▶ one shim per pod ──▶ runc ──▶ containers
//
// The shims and the containers are nobody's children: they outlive both containerd and this process, and a new Engine
// on the same directories finds them again. What CRI does not do is done here: limits for a pod as a whole
// (cgroup.go), what happens inside pods (witness.go), exit codes of containers that ended while containerd was down (journal.go), which
// network pods are in (network.go; package podnet has the rest), rotation of log files (rotate.go). Images do not come to containerd from registries, but as files
// that are linked into its store (import.go).
package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	containerdlog "github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/podnet"
)

// Engine implements engine.Engine. Make one with New, then call Start once and Close once.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	host    host
	cgroups *cgroups
	child   *child
	journal *journal
	network *podnet.Network
	watch   broadcast
	witness *witness
	locks   keyLocks
	// unpacking keeps two images from unpacking a layer that they share twice.
	unpacking sharedLocks

	conn       *grpc.ClientConn
	runtime    runtimeapi.RuntimeServiceClient
	images     runtimeapi.ImageServiceClient
	containerd *containerd.Client // for what CRI has no words for: the import of images

	killsBefore int64 // for want of memory, of the whole machine, when the engine was opened

	lock *os.File // of Config.lockFile, held while open
	// end ends what runs in the background, for which Close waits.
	end chan struct{}
	wg  sync.WaitGroup

	mu       sync.Mutex // guards all below; nothing waits while holding it
	pulls    map[string]*pull
	stopping map[trysail.PodID]bool
	cache    podCache
}

var (
	_ engine.Engine   = (*Engine)(nil)
	_ engine.Pruner   = (*Engine)(nil)
	_ engine.Progress = (*Engine)(nil)
)

const (
	// readyTime is how long containerd may take until it can run pods.
	readyTime = 60 * time.Second
	// startFailures is how often containerd may end before it is ready until Open gives up.
	startFailures = 3
)

// Open makes an engine and waits until it can run pods. ctx bounds the wait alone; end the engine with Close.
// Errors: *ProblemError for what a person must change on the machine.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Images == nil {
		return nil, errors.New("engine: nobody supplies images")
	}
	cfg = cfg.withDefaults()
	// Containerd's client library writes to a log of its own what it also returns.
	if err := containerdlog.SetLevel("panic"); err != nil {
		return nil, err
	}
	daemon := cfg.Executable
	if cfg.Executable == "" {
		daemon = "/proc/self/exe" // also when the file was replaced meanwhile
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cfg.Executable = strings.TrimSuffix(self, " (deleted)")
	}
	h, problems := probe(ctx, cfg)
	for _, p := range problems {
		if p.Fatal {
			return nil, &ProblemError{Problems: problems}
		}
		log.WarnContext(ctx, "something about this machine is not as it should be", "problem", p.Text, "fix", p.Fix)
	}
	groups, err := currentCgroups(cfg)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, log: log, host: h, cgroups: groups,
		end: make(chan struct{}), pulls: map[string]*pull{}, stopping: map[trysail.PodID]bool{},
		cache:       newPodCache(),
		witness:     newWitness(groups, cfg.bundles()),
		killsBefore: machineKills(),
	}
	if err := e.open(ctx, daemon); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// open does what needs Close when it fails.
func (e *Engine) open(ctx context.Context, daemon string) (err error) { //nolint:contextcheck // what it starts outlives ctx
	for _, dir := range []string{e.cfg.linkDir(), e.cfg.execDir()} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing what a crash left: %w", err)
		}
	}
	for _, dir := range []string{e.cfg.Dir, e.cfg.StateDir, e.cfg.linkDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the engine's directories: %w", err)
		}
	}
	if e.lock, err = lockFile(e.cfg.lockFile()); err != nil {
		return err
	}
	subnet, err := chooseSubnet(e.cfg)
	if err != nil {
		return err
	}
	e.cfg.Subnet = subnet
	if e.cfg.Subnet6, err = chooseSubnet6(e.cfg); err != nil {
		return err
	}
	if err := checkSubnets(ctx, e.cfg, e.log); err != nil {
		return err
	}
	network, err := e.cfg.network(e.log)
	if err != nil {
		return err
	}
	if err := writeConfig(e.cfg, e.host, network); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	if e.network, err = podnet.Open(ctx, network); err != nil {
		return err
	}
	if e.cfg.NetworkOpen != nil {
		if err := e.cfg.NetworkOpen(e.network); err != nil {
			return err
		}
	}
	if e.journal, err = openJournal(e.cfg.journalFile()); err != nil {
		return err
	}
	if err := e.dial(); err != nil {
		return err
	}
	own := e.background()
	e.child = &child{cfg: e.cfg, executable: daemon, log: e.log, beforeStart: func() error { return e.journal.harvest(e.cfg.bundles(), e.cgroups.containerOOM) }}
	e.wg.Go(func() { e.child.run(own) })
	if err := e.waitReady(ctx); err != nil {
		return fmt.Errorf("waiting for containerd: %w", err)
	}
	if err := e.ensurePause(ctx); err != nil {
		return fmt.Errorf("importing the pause image: %w", err)
	}
	if err := e.adopt(ctx); err != nil {
		return fmt.Errorf("adopting the pods that are there: %w", err)
	}
	e.wg.Go(func() { e.followEvents(own) })
	e.wg.Go(func() { e.followKills(own) })
	e.wg.Go(func() { e.witness.run(own) })
	e.wg.Go(func() { e.maintain(own) })
	return nil
}

// background returns a context that lives until Close.
func (e *Engine) background() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	e.wg.Go(func() {
		<-e.end
		cancel()
	})
	return ctx
}

// Network is the pods' network. It is closed with the engine.
func (e *Engine) Network() *podnet.Network { return e.network }

// Close stops containerd and releases the directories. The pods run on. It is called once, when no other call is under way.
func (e *Engine) Close() error {
	close(e.end)
	e.wg.Wait()
	e.witness.close()
	if e.network != nil {
		e.network.Close()
	}
	var errs []error
	if e.conn != nil {
		errs = append(errs, e.conn.Close())
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}

// dial makes the connection. It is established by the first call, and again by itself.
func (e *Engine) dial() (err error) {
	e.conn, err = grpc.NewClient("unix://"+e.cfg.socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithUnaryInterceptor(markSilence),
		// The socket is not there yet when the first attempt is made; the usual back-off of a second is too long.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
	)
	if err != nil {
		return err
	}
	e.runtime = runtimeapi.NewRuntimeServiceClient(e.conn)
	e.images = runtimeapi.NewImageServiceClient(e.conn)
	e.containerd, err = containerd.NewWithConn(e.conn)
	return err
}

// waitReady returns when CRI can run pods, or when it is clear that it will not.
func (e *Engine) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		err := e.status(ctx)
		if err == nil {
			return nil
		}
		if _, fails, why := e.child.state(); fails >= startFailures {
			return why
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// status is nil if CRI says that it can run pods and connect them.
func (e *Engine) status(ctx context.Context) error {
	st, err := e.runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("asking containerd for its status: %w", err)
	}
	for _, c := range st.GetStatus().GetConditions() {
		if (c.Type == runtimeapi.RuntimeReady || c.Type == runtimeapi.NetworkReady) && !c.Status {
			return fmt.Errorf("containerd is not ready: %s: %s: %s", c.Type, c.Reason, c.Message)
		}
	}
	return nil
}

// Check implements engine.Engine.
func (e *Engine) Check(ctx context.Context) error {
	if pid, _, err := e.child.state(); pid == 0 {
		return fmt.Errorf("containerd does not run: %w", cmp.Or(err, errors.New("it is being started")))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return e.status(ctx)
}

// Node implements engine.Engine.
func (e *Engine) Node(context.Context) (trysail.Node, error) {
	name := e.cfg.NodeName
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return trysail.Node{}, err
		}
	}
	memory, err := memTotal()
	if err != nil {
		return trysail.Node{}, err
	}
	return trysail.Node{Name: name, OS: runtime.GOOS, Architecture: runtime.GOARCH, CPUs: runtime.NumCPU(), Memory: memory}, nil
}

// memTotal is how many bytes of memory the machine has.
func memTotal() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("asking for the machine's memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit), nil //nolint:gosec // no machine has 8 EiB
}

// adopt puts in order what an earlier process has left: limits that it did not come to set, cgroups and leases of pods
// that are gone.
func (e *Engine) adopt(ctx context.Context) error {
	sandboxes, err := e.listSandboxes(ctx, "")
	if err != nil {
		return err
	}
	known, ids := map[trysail.PodID]bool{}, map[string]bool{}
	for _, s := range sandboxes {
		id := podID(s)
		known[id], ids[s.Id] = true, true
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY || e.witness.pod(id) == nil {
			e.witness.open(id, s.Id, true) // beside it there may be the rest of a start that got stuck
		}
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			if err := e.cgroups.limitCPU(id, limitsOf(s).MilliCPU); err != nil {
				e.log.WarnContext(ctx, "cannot limit the CPU of a pod", "pod", id, "error", err)
			}
			if err := e.admit(ctx, id, s.Id); err != nil {
				e.log.WarnContext(ctx, "cannot put a pod into the network", "pod", id, "error", err)
			}
		}
	}
	containers, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, c := range containers.Containers {
		ids[c.Id] = true
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			e.witness.started(trysail.PodID(c.Labels[labelPod]), c.Labels[labelContainer], c.Id, false)
		}
	}
	for _, id := range e.cgroups.pods() {
		if !known[id] {
			// Its processes go first: as long as one is left, it has an address that a new pod may get.
			if err := e.removeCgroup(ctx, id); err != nil {
				e.log.WarnContext(ctx, "cannot remove the cgroup of a pod that is gone", "pod", id, "error", err)
			}
		}
	}
	if err := e.journal.keep(known, ids); err != nil {
		return err
	}
	for pid, id := range shims(e.cfg.socket()) {
		if !ids[id] {
			e.killShim(pid, id)
		}
	}
	return releaseLeases(e.cfg.leaseDir(), ids)
}

// maintain does what has to be done from time to time, until ctx ends.
func (e *Engine) maintain(ctx context.Context) {
	slow := time.NewTicker(time.Minute)
	defer slow.Stop()
	strays := map[int]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-slow.C:
			if err := trimDaemonLog(e.cfg); err != nil {
				e.log.WarnContext(ctx, "cannot trim containerd's log", "error", err)
			}
			if err := e.killStrays(ctx, strays); err != nil && ctx.Err() == nil {
				e.log.WarnContext(ctx, "cannot look for stray shims", "error", err)
			}
		}
	}
}

// lockFile takes the lock that keeps two engines off one directory. Closing the file releases it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another process uses the engine's directory: locking %s: %w", path, err)
	}
	return f, nil
}
