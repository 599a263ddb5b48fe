package trysail

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// What is recorded of a version so that a cause can be named, now or later. It is stored as JSON with the version and
// its pods: fields are added, never renamed. The Trim methods bound what one record can take.

// The limits of recorded evidence.
const (
	MaxLogTail      = 50       // lines of each container
	MaxLogTailBytes = 64 << 10 // of the lines of all containers
	MaxEvidenceLine = 2048     // bytes of one line
	MaxProbeBody    = 300      // bytes of a body that a probe keeps
	maxOutcomes     = 24       // distinct outcomes of probes, and of trials
	maxSockets      = 32       // sockets that were seen in a pod
	maxReaches      = 16       // things that a pod tries to reach
	maxKnocks       = 64       // ports of a pod that were tried
	maxMoments      = 64       // of a time line
	maxFindings     = 16       // of one autopsy
)

// ContainerEvidence is what was seen of one container of a pod.
type ContainerEvidence struct {
	// Cgroup is its own, nil when it could not be read. Peak leaves out copies of files, as far as they were seen: the
	// kernel drops them before it kills anybody.
	Cgroup *CgroupCounters `json:"cgroup,omitempty"`
	// OpenFiles is the most open files that one of its processes was seen with, FileLimit how many that may have.
	OpenFiles int64 `json:"openFiles,omitempty"`
	FileLimit int64 `json:"fileLimit,omitempty"`
	// Daemons are the names of processes that were seen in it without a parent other than its first process, which did
	// not start them as far as is known: programs that went into the background.
	Daemons []string `json:"daemons,omitempty"`
	// Executable is the program that its first process ran when it was last seen.
	Executable string    `json:"executable,omitempty"`
	LastLogAt  time.Time `json:"lastLogAt,omitzero"` // when it wrote its last line
	// NoSocketsAt is when its processes were last seen to have no socket at all; zero if they had one, or nobody counted.
	NoSocketsAt time.Time `json:"noSocketsAt,omitzero"`
}

// CgroupCounters are the kernel's own counters of a pod or a container.
type CgroupCounters struct {
	OOMKills  int64 `json:"oomKills,omitempty"`  // processes killed for want of memory, whosever want
	LimitHits int64 `json:"limitHits,omitempty"` // how often the memory limit was reached
	Memory    int64 `json:"memory,omitempty"`    // bytes in use when last seen
	Peak      int64 `json:"peak,omitempty"`      // most bytes in use; 0 if unknown
	Limit     int64 `json:"limit,omitempty"`     // bytes; 0 if there is none
	// MemoryStall is how long all processes waited for memory at once (PSI full); 0 where the kernel does not measure it.
	MemoryStall time.Duration `json:"memoryStall,omitempty"`

	CPU              time.Duration `json:"cpu,omitempty"`              // time that was used
	Throttled        time.Duration `json:"throttled,omitempty"`        // time that threads had to wait for their share
	Periods          int64         `json:"periods,omitempty"`          // of the scheduler in which it ran
	ThrottledPeriods int64         `json:"throttledPeriods,omitempty"` // those in which it used up its share

	// Sampled is true if the counters were read now and then only, and may be older than what happened last.
	Sampled bool `json:"sampled,omitempty"`

	ProcessLimit     int64 `json:"processLimit,omitempty"`
	ProcessLimitHits int64 `json:"processLimitHits,omitempty"` // forks that were refused
}

// ProbeKind is what came of a probe, in one word.
type ProbeKind string

// The kinds of a probe's outcome.
const (
	ProbeAnswer      ProbeKind = "answer"      // an HTTP status
	ProbeRefused     ProbeKind = "refused"     // nobody listens
	ProbeTimeout     ProbeKind = "timeout"     // no answer in time
	ProbeReset       ProbeKind = "reset"       // the connection was cut
	ProbeEOF         ProbeKind = "eof"         // it was closed without an answer, or in the middle of one
	ProbeTLS         ProbeKind = "tls"         // one side speaks TLS and the other does not, or the handshake broke
	ProbeNotHTTP     ProbeKind = "not-http"    // an answer in another protocol
	ProbeUnreachable ProbeKind = "unreachable" // no way to the pod
	ProbeOther       ProbeKind = "other"
)

// probeWords tells the kind by the words of Probe.Error.
var probeWords = [...]struct {
	prefix string
	kind   ProbeKind
}{
	{"connection refused", ProbeRefused},
	{"timed out", ProbeTimeout},
	{"connection reset", ProbeReset},
	{"closed without an answer", ProbeEOF},
	{"broke off", ProbeEOF},
	{`not HTTP: "\x15\x03`, ProbeTLS}, // a TLS alert in answer to plain HTTP
	{"not HTTP", ProbeNotHTTP},
	{"malformed answer", ProbeNotHTTP},
	{"malformed HTTP", ProbeNotHTTP},
	{"the header of the answer is too long", ProbeNotHTTP},
	{"only 1xx answers", ProbeNotHTTP},
	{"not TLS", ProbeTLS},
	{"TLS handshake", ProbeTLS},
	{"no route to host", ProbeUnreachable},
	{"network is unreachable", ProbeUnreachable},
	{"no connection within", ProbeUnreachable},
}

// Kind tells what came of the probe.
func (p Probe) Kind() ProbeKind {
	if p.Status != 0 {
		return ProbeAnswer
	}
	for _, w := range probeWords {
		if strings.HasPrefix(p.Error, w.prefix) {
			return w.kind
		}
	}
	return ProbeOther
}

// ProbeOutcome is one distinct outcome of the probes of a target.
type ProbeOutcome struct {
	Kind     ProbeKind     `json:"kind"`
	OK       bool          `json:"ok,omitempty"`
	Status   int           `json:"status,omitempty"`
	Location string        `json:"location,omitempty"`
	Body     string        `json:"body,omitempty"`  // of the newest, at most MaxProbeBody bytes
	Error    string        `json:"error,omitempty"` // of the newest
	Count    int           `json:"count"`
	First    time.Time     `json:"first"`
	Last     time.Time     `json:"last"`
	Took     time.Duration `json:"took"` // the newest
	Longest  time.Duration `json:"longest"`
}

// Transcript is the outcomes of the probes of a target, each once, in the order in which they came first.
type Transcript []ProbeOutcome

// Add records a probe. Outcomes beyond the first couple of dozen that are alike in nothing are counted with the last.
func (t Transcript) Add(p Probe) Transcript {
	kind := p.Kind()
	i := slices.IndexFunc(t, func(o ProbeOutcome) bool {
		return o.Kind == kind && o.OK == p.OK && o.Status == p.Status && o.Location == cut(p.Location, MaxProbeBody)
	})
	switch {
	case i >= 0:
	case len(t) >= maxOutcomes:
		i = len(t) - 1
	default:
		t = append(t, ProbeOutcome{Kind: kind, OK: p.OK, Status: p.Status, Location: cut(p.Location, MaxProbeBody), First: p.At})
		i = len(t) - 1
	}
	o := &t[i]
	o.Count++
	o.Last, o.Took, o.Longest = p.At, p.Took, max(o.Longest, p.Took)
	o.Body, o.Error = cut(p.Body, MaxProbeBody), cut(p.Error, MaxProbeBody)
	return t
}

// Newest is the outcome that came last; ok is false if there is none.
func (t Transcript) Newest() (newest ProbeOutcome, ok bool) {
	for _, o := range t {
		if !ok || !o.Last.Before(newest.Last) {
			newest, ok = o, true
		}
	}
	return newest, ok
}

// Trial is a request that is tried once in a pod that is not healthy, to find out what would work. Zero fields are as
// in the health check.
type Trial struct {
	Port  int    `json:"port,omitempty"`
	TLS   bool   `json:"tls,omitempty"`
	Path  string `json:"path,omitempty"`
	Host  string `json:"host,omitempty"`  // the Host header
	Proto string `json:"proto,omitempty"` // X-Forwarded-Proto
	// Timeout is how long to wait for the answer.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Result is what came of it; zero before.
	Result ProbeOutcome `json:"result,omitzero"`
}

// SocketSpan is a listening socket and the time over which it was seen.
type SocketSpan struct {
	Listener
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// SocketHistory is the sockets that were seen in a pod, in the order in which they appeared.
type SocketHistory []SocketSpan

// See records who listens at a time.
func (h SocketHistory) See(at time.Time, now []Listener) SocketHistory {
	for _, l := range now {
		i := slices.IndexFunc(h, func(s SocketSpan) bool { return s.Address == l.Address && s.UDP == l.UDP })
		switch {
		case i >= 0:
			if l.Process != "" {
				h[i].Process = l.Process
			}
			if l.Container != "" {
				h[i].Container = l.Container
			}
			h[i].Last = at
		case len(h) < maxSockets:
			h = append(h, SocketSpan{Listener: l, First: at, Last: at})
		}
	}
	return h
}

// ReachResult is what came of trying to reach something from inside a pod.
type ReachResult string

// The results of trying to reach something.
const (
	ReachOK          ReachResult = "ok"
	ReachRefused     ReachResult = "refused"
	ReachTimeout     ReachResult = "timeout"
	ReachUnresolved  ReachResult = "nxdomain"  // the name does not exist
	ReachNoDNS       ReachResult = "dns-error" // the resolver did not answer
	ReachUnreachable ReachResult = "unreachable"
)

// Reach is what a container needs and whether it can be reached from the pod's network.
type Reach struct {
	Host   string        `json:"host"`
	Port   int           `json:"port,omitempty"` // 0: only the name was looked up
	Result ReachResult   `json:"result"`
	Addr   netip.Addr    `json:"addr,omitzero"` // what the name stands for
	Took   time.Duration `json:"took,omitempty"`
}

// Knock is a port of a pod that was tried, where nobody could see who listens.
type Knock struct {
	Port    int         `json:"port"`
	Outside ReachResult `json:"outside"`          // at the pod's address
	Inside  ReachResult `json:"inside,omitempty"` // before that, at localhost in the pod; empty if that could not be tried
	// Container is the one that it must belong to, "" if there are several.
	Container string `json:"container,omitempty"`
}

// MachineState is how the machine was when something failed.
type MachineState struct {
	At          time.Time `json:"at"`
	BootID      string    `json:"bootId,omitempty"`
	MemoryTotal int64     `json:"memoryTotal,omitempty"` // bytes
	MemoryFree  int64     `json:"memoryFree,omitempty"`  // bytes that programs can still get
	DiskPath    string    `json:"diskPath,omitempty"`    // of the file system that holds the containers
	DiskTotal   int64     `json:"diskTotal,omitempty"`   // bytes
	DiskFree    int64     `json:"diskFree,omitempty"`    // bytes
	CPUs        int       `json:"cpus,omitempty"`
	Load        float64   `json:"load,omitempty"` // runnable and waiting processes, mean of the last minute
	// OOMKills is how many processes of the whole machine were killed for want of memory since the pod was created.
	OOMKills int64 `json:"oomKills,omitempty"`
}

// StopEvidence is how a pod that was asked to end did so.
type StopEvidence struct {
	AskedAt time.Time     `json:"askedAt"` // SIGTERM
	Grace   time.Duration `json:"grace"`
	// Killed are the containers that were still there after the grace.
	Killed []string `json:"killed,omitempty"`
	// Cut is how many requests were in flight then.
	Cut int `json:"cut,omitempty"`
}

// Moment is one event of a time line.
type Moment struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Autopsy is what an image says about a container before it starts.
type Autopsy struct {
	// Program is the file that would run, Interpreter what the kernel or the #! line needs to run it.
	Program     string `json:"program,omitempty"`
	Interpreter string `json:"interpreter,omitempty"`
	// Kind is what Program is: elf, script, text, or another format's name.
	Kind string `json:"kind,omitempty"`
	// Architecture is the GOARCH that an ELF program is for.
	Architecture string   `json:"architecture,omitempty"`
	User         string   `json:"user,omitempty"`
	WorkingDir   string   `json:"workingDir,omitempty"`
	Exposed      []string `json:"exposed,omitempty"` // "80/tcp"
	// Shell is true if the first process will be a shell that passes no signal on to what it starts.
	Shell    bool      `json:"shell,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
	// Presumed is true if what runs the container was not looked at, only its image. What is certain of the image is
	// likely then, until a start has failed accordingly.
	Presumed bool `json:"presumed,omitempty"`
	// Incomplete says why not everything could be looked at; empty if it could.
	Incomplete string        `json:"incomplete,omitempty"`
	Took       time.Duration `json:"took,omitempty"`
}

// PullFailure is an image that could not be had, in the form that is stored.
type PullFailure struct {
	Image   string        `json:"image"` // as the user wrote it
	Code    DiagnosisCode `json:"code"`
	Message string        `json:"message"`
	Fix     string        `json:"fix,omitempty"`
	Text    string        `json:"text,omitempty"` // what the registry or the network said
	Final   bool          `json:"final,omitempty"`
	Tries   int           `json:"tries,omitempty"`
	At      time.Time     `json:"at,omitzero"`
}

// Room is what a deployment needs and what the machine has. Memory is in bytes, CPU in thousandths.
type Room struct {
	Needed Limits `json:"needed"`
	Free   Limits `json:"free"` // now, beside what runs
	// Later is what is free when the version that it replaces has stopped.
	Later Limits `json:"later"`
}

// Missing is something that a container names and that does not exist.
type Missing struct {
	Kind      string `json:"kind"` // secret, volume
	Name      string `json:"name"`
	Container string `json:"container"`
}

// Domain is what the world sees of a domain of the service.
type Domain struct {
	Name     string       `json:"name"`
	PointsTo []netip.Addr `json:"pointsTo,omitempty"` // empty: it does not resolve
	Ours     []netip.Addr `json:"ours,omitempty"`     // addresses of this machine
	// CAA are the issuers that the domain's CAA records allow, nil if there is no record; Issuer is ours.
	CAA    []string `json:"caa,omitempty"`
	Issuer string   `json:"issuer,omitempty"`
	// Port80 is what came of reaching port 80 from outside; empty if nobody tried.
	Port80 ReachResult `json:"port80,omitempty"`
}

// Neighbor is another service on this machine.
type Neighbor struct {
	Service string `json:"service"`
	Ports   []int  `json:"ports,omitempty"` // open ports of its containers
}

// DeploymentEvidence is what was seen of a version as a whole.
type DeploymentEvidence struct {
	Pull      *PullFailure       `json:"pull,omitempty"`
	Autopsies map[string]Autopsy `json:"autopsies,omitempty"` // by container
	Room      *Room              `json:"room,omitempty"`      // nil unless it did not fit
	Missing   []Missing          `json:"missing,omitempty"`
	Domains   []Domain           `json:"domains,omitempty"`
	Neighbors []Neighbor         `json:"neighbors,omitempty"`
	Machine   *MachineState      `json:"machine,omitempty"`
	// RestartedAt is when the machine restarted during the activation; zero if it did not.
	RestartedAt time.Time `json:"restartedAt,omitzero"`
	CanceledBy  string    `json:"canceledBy,omitempty"` // name of the caller
	CanceledAt  time.Time `json:"canceledAt,omitzero"`
	ReplacedBy  int       `json:"replacedBy,omitempty"` // version
	TimeLine    []Moment  `json:"timeLine,omitempty"`
}

// What the error of a start begins with when the pod could not be placed, or its node could not get an image, in an engine
// that has many nodes.
const (
	StartNoRoom  = "no room: "
	StartNoImage = "image pull: "
)

// Trim bounds the evidence, so that no container can fill the store with what it writes.
func (e *PodEvidence) Trim() {
	e.StartError = cut(e.StartError, MaxEvidenceLine)
	// What is changed is copied: others may be looking at it.
	e.Containers, e.LogTail, e.Details = slices.Clone(e.Containers), maps.Clone(e.LogTail), maps.Clone(e.Details)
	for i := range e.Containers {
		e.Containers[i].StartError = cut(e.Containers[i].StartError, MaxEvidenceLine)
	}
	e.trimTails()
	e.Probes = e.Probes[:min(len(e.Probes), maxOutcomes)]
	e.Trials = e.Trials[:min(len(e.Trials), maxOutcomes)]
	e.Sockets = e.Sockets[:min(len(e.Sockets), maxSockets)]
	if e.Listeners != nil {
		e.Listeners = e.Listeners[:min(len(e.Listeners), maxSockets)]
	}
	e.Reaches = e.Reaches[:min(len(e.Reaches), maxReaches)]
	e.Knocks = e.Knocks[:min(len(e.Knocks), maxKnocks)]
	e.TimeLine = trimMoments(e.TimeLine)
	for name, d := range e.Details {
		d.Daemons = d.Daemons[:min(len(d.Daemons), maxSockets)]
		e.Details[name] = d
	}
}

// trimTails keeps the newest lines of each container; all get the same share of the room.
func (e *PodEvidence) trimTails() {
	share := MaxLogTailBytes / max(1, len(e.LogTail))
	for name, tail := range e.LogTail {
		tail = slices.Clone(tail[max(0, len(tail)-MaxLogTail):])
		room := share
		first := len(tail)
		for first > 0 {
			line := cut(tail[first-1], MaxEvidenceLine)
			if room -= len(line); room < 0 {
				break
			}
			first--
			tail[first] = line
		}
		e.LogTail[name] = tail[first:]
	}
}

// Trim bounds the evidence.
func (e *DeploymentEvidence) Trim() {
	if e.Pull != nil {
		pull := *e.Pull
		pull.Text = cut(pull.Text, MaxEvidenceLine)
		e.Pull = &pull
	}
	e.Autopsies = maps.Clone(e.Autopsies)
	for name, a := range e.Autopsies {
		a.Findings = a.Findings[:min(len(a.Findings), maxFindings)]
		a.Exposed = a.Exposed[:min(len(a.Exposed), maxSockets)]
		e.Autopsies[name] = a
	}
	e.TimeLine = trimMoments(e.TimeLine)
}

func trimMoments(all []Moment) []Moment {
	all = slices.Clone(all[max(0, len(all)-maxMoments):])
	for i := range all {
		all[i].Text = cut(all[i].Text, MaxProbeBody)
	}
	return all
}

// cut bounds a text without breaking a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}
