package trysail

import (
	"net/netip"
	"time"
)

// PodID names one pod for ever: it is never reused, so a repeated Start or Stop can do no harm.
// It consists of lower-case letters, digits and dashes, and is at most 63 characters long.
type PodID string

// Limits bounds what one pod may use. All its containers share it.
type Limits struct {
	MilliCPU int64 // thousandths of a CPU
	Memory   int64 // bytes
}

// PodSpec is all an engine needs to run a pod.
type PodSpec struct {
	ID         PodID
	Service    string
	ServiceID  string
	Version    int
	Limits     Limits
	Containers []ContainerSpec // 1–10; they share one network namespace
	// LogDir is where the engine leaves each container's output, in a file <container name>.log in CRI format
	// (time stream P|F text), as it is written. The directory outlives the pod.
	LogDir string
}

// ContainerSpec is one container of a pod.
type ContainerSpec struct {
	Name        string
	Image       string // by digest: name@sha256:…
	Command     []string
	Environment map[string]string
}

// ContainerState is how far a container has come.
type ContainerState string

// The states of a container.
const (
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerExited  ContainerState = "exited"
)

// ContainerStatus is what the engine sees of one container of a pod.
type ContainerStatus struct {
	Name       string         `json:"name"`
	State      ContainerState `json:"state"`
	StartedAt  time.Time      `json:"startedAt,omitzero"`  // zero if it never started
	FinishedAt time.Time      `json:"finishedAt,omitzero"` // zero unless exited
	ExitCode   int            `json:"exitCode"`            // meaningful when exited; ≥ 128 for signals
	// OOMKilled is true only when the kernel killed the container's first process for want of memory.
	OOMKilled bool `json:"oomKilled,omitzero"`
	// StartError is the runtime's text when the container could not be started at all.
	StartError string `json:"startError,omitzero"`
}

// Pod is one running (or ended, but not yet removed) copy of a deployment, as the engine sees it.
type Pod struct {
	ID        PodID
	ServiceID string
	Version   int
	CreatedAt time.Time
	// Addr is the pod's address; invalid while it has none.
	Addr netip.Addr
	// Lost is true when the pod as a whole is gone (its sandbox died), whatever the containers say.
	Lost bool
	// Leaving is true when the pod should be replaced while it still serves: its node is being emptied, or is not heard of.
	Leaving    bool
	Containers []ContainerStatus // ordered by name; a container that was not created yet is absent
}

// Running reports whether the pod exists and all n containers that it should have are running.
func (p *Pod) Running(n int) bool {
	if p.Lost || len(p.Containers) < n {
		return false
	}
	for _, c := range p.Containers {
		if c.State != ContainerRunning {
			return false
		}
	}
	return true
}

// Crashed reports whether any part of the pod has ended. Containers are long-running: one that ends, even with
// exit code 0, takes its pod with it.
func (p *Pod) Crashed() bool {
	if p.Lost {
		return true
	}
	for _, c := range p.Containers {
		if c.State == ContainerExited {
			return true
		}
	}
	return false
}

// PodRecord is what the store keeps of a pod: that it shall exist, and later why it ended. It is written before the
// pod is started and outlives it.
type PodRecord struct {
	ID        PodID
	ServiceID string
	Version   int
	Power     Power
	// Slot is which of the scale's places the pod fills: 0 … scale-1.
	Slot int
	// Attempt counts the starts of this slot for this version and power, from 1.
	Attempt   int
	CreatedAt time.Time
	HealthyAt time.Time // when it first became healthy; zero before
	StopAt    time.Time // when it was decided that it shall stop; zero while it shall run
	EndedAt   time.Time // when it was gone; zero before
	// Reason says why it was stopped: one sentence.
	Reason string
	// Failed is true when it was stopped because something was wrong with it (crash, health check), not because it
	// was no longer wanted.
	Failed bool
	// HoldUntil is until when a failed pod is kept, out of rotation, so that a person can look into it; zero if it is not.
	HoldUntil time.Time
	// Evidence is what was seen of a failed pod before it was removed; nil otherwise.
	Evidence *PodEvidence
}

// PodEvidence is what was seen of a pod that failed.
type PodEvidence struct {
	Lost       bool              `json:"lost,omitzero"`        // the pod as a whole was gone
	StartError string            `json:"startError,omitzero"`  // why the engine could not start the pod at all
	Containers []ContainerStatus `json:"containers,omitempty"` // as last seen
	Health     TargetHealth      `json:"health,omitzero"`      // as last seen by the edge; zero without a public endpoint
	// LogTail holds the last lines of each container that wrote any.
	LogTail map[string][]string `json:"logTail,omitempty"`
	// Listeners are the sockets that listened in the pod when the evidence was gathered; nil when it was not possible to
	// look.
	Listeners []Listener `json:"listeners,omitzero"`

	At       time.Time                    `json:"at,omitzero"`       // when the evidence was gathered
	Cgroup   *CgroupCounters              `json:"cgroup,omitempty"`  // of the pod as a whole; nil when it could not be read
	Details  map[string]ContainerEvidence `json:"details,omitempty"` // by container
	Probes   Transcript                   `json:"probes,omitempty"`  // over the pod's whole life
	Trials   []Trial                      `json:"trials,omitempty"`  // what was tried beyond the health check
	Sockets  SocketHistory                `json:"sockets,omitempty"` // over the pod's whole life
	Reaches  []Reach                      `json:"reaches,omitempty"` // what it needs, tried from its network
	Knocks   []Knock                      `json:"knocks,omitempty"`  // its ports that were tried, where sockets cannot be seen
	Machine  *MachineState                `json:"machine,omitempty"`
	Stop     *StopEvidence                `json:"stop,omitempty"` // nil unless we had asked it to end before the evidence was gathered
	TimeLine []Moment                     `json:"timeLine,omitempty"`
}

// Listener is a socket in a pod on which somebody waits for connections.
type Listener struct {
	Address   netip.AddrPort `json:"address"`
	Process   string         `json:"process,omitzero"`   // name of the program, "" if unknown
	Container string         `json:"container,omitzero"` // of the program, "" if unknown
	UDP       bool           `json:"udp,omitzero"`
}

// Live reports whether the pod shall be running.
func (p *PodRecord) Live() bool { return p.StopAt.IsZero() }

// Node is a machine that runs pods.
type Node struct {
	Name         string
	OS           string // "linux"
	Architecture string // GOARCH
	CPUs         int
	Memory       int64 // bytes
}

// Usage is one sample of what a pod uses.
type Usage struct {
	Pod    PodID
	At     time.Time
	CPU    time.Duration // CPU time since the pod started
	Memory int64         // bytes in use now
	Limits Limits

	// Throttled is how long threads of the pod had to wait because it had used up its share of the CPU. Periods are those
	// of the scheduler in which it ran, ThrottledPeriods those in which it was held back. All 0 where it is not known.
	Throttled        time.Duration
	Periods          int64
	ThrottledPeriods int64
}

// RouteMode is what the edge does with requests for a host.
type RouteMode int

// The modes of a route.
const (
	RouteNone     RouteMode = iota // 404: the service has nothing to serve
	RouteServe                     // send requests to the serving targets
	RouteDisabled                  // 503: the service is disabled
)

// Route is everything the edge has to know of one service. It is declarative: applying it twice changes nothing.
type Route struct {
	Service   string
	ServiceID string // names the service's access log
	Host      string
	Domains   []string // that lead there as well; ordered
	Mode      RouteMode
	Targets   []Target // all that shall be probed; those with Serving are in rotation
	// AccessLog makes the edge write a line for each request, AccessLogHealthChecks for its own health checks as well.
	AccessLog, AccessLogHealthChecks bool
	Rules                            EdgeRules
}

// Target is an address that the edge may send requests to.
type Target struct {
	Pod     PodID
	Version int
	Addr    netip.AddrPort
	TLS     bool // speak TLS to it (port declared HTTPS), without verifying its certificate
	Check   HealthCheck
	// Activating makes the edge probe fast, and failures do not make a target unhealthy that never was healthy.
	Activating bool
	// Serving puts the target in rotation as long as it is healthy.
	Serving bool
	// Unchecked targets are not probed and count as healthy.
	Unchecked bool
	// Trust says how the target's certificate is verified; nil means not at all.
	Trust *TargetTrust
	// PresumeHealthy makes a target that the edge did not know before begin as healthy: it was, before a restart.
	PresumeHealthy bool
}

// TargetHealth is what the edge's probes say of a target.
type TargetHealth struct {
	Healthy bool      `json:"healthy,omitzero"`
	Since   time.Time `json:"since,omitzero"`  // of the last change of Healthy, or of the first probe
	Probes  int       `json:"probes,omitzero"` // how many probes have ended
	Last    Probe     `json:"last,omitzero"`   // the newest
	// Transcript is what came of all of them.
	Transcript Transcript `json:"-"`
}

// Probe is one health check with its outcome.
type Probe struct {
	At       time.Time     `json:"at,omitzero"`
	Took     time.Duration `json:"took,omitzero"`
	OK       bool          `json:"ok,omitzero"`
	Status   int           `json:"status,omitzero"`   // HTTP status; 0 if there was no answer
	Location string        `json:"location,omitzero"` // of a redirect
	Body     string        `json:"body,omitzero"`     // first bytes of the answer's body, at most 300
	Error    string        `json:"error,omitzero"`    // why there was no answer: "connection refused", "timed out after 2s", …; empty if there was one
}
