package reconcile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// Rules are the numbers that Plan decides by. They do not change while the program runs.
type Rules struct {
	// Region and Domain make the services' host names.
	Region, Domain string
	// ActivationTimeout is how long a deployment, or an update, may take to become healthy.
	ActivationTimeout time.Duration
	// DrainTimeout is how long requests in flight to a pod that is no longer wanted may take.
	DrainTimeout time.Duration
}

const (
	// maxStarts is how often a slot of a new version is started before the deployment is canceled, as on AWS.
	maxStarts = 3
	// settleTime is how long a pod without public endpoint must run to count as healthy: there is nothing to probe. On a
	// busy machine the end of a program that ends at once is known a second or two later.
	settleTime = 3 * time.Second
	// suspectAfter is how long a pod that was healthy may fail its health checks before a replacement is started.
	suspectAfter = 30 * time.Second
	// forgiveAfter is how long a pod must have been healthy for the failures before it to be forgotten.
	forgiveAfter = 10 * time.Minute
	// maxBackoff bounds the wait before a crashed pod of the ACTIVE version is started again.
	maxBackoff = 5 * time.Minute
	// tryTime is how long trying variations of the health check may take; so long before the end of the window it begins.
	tryTime = 20 * time.Second
	// soFarAfter is how long a pod may take to come up before it is told what keeps it from being healthy. So often it is
	// looked at again: no event tells of a probe that failed once more.
	soFarAfter = 2 * time.Second
	// crashedDrain is how long requests in flight to a pod that failed may take: parts of it may still answer.
	crashedDrain = time.Second
)

// Images is how far the images of a version are.
type Images struct {
	Ready   bool
	Tries   int       // that failed
	RetryAt time.Time // of the next try
	Final   bool      // another try cannot help
	Pulling string    // how far the pull under way is, in words; may be empty
}

// World is everything that Plan looks at: what shall be and what is, of one service.
type World struct {
	Now     time.Time
	Service trysail.Service
	// Pods are the records of all pods that have not ended, and of the ended ones of the current and next version.
	Pods []trysail.PodRecord
	// Observed is what the engine has; Health is what the edge says of its targets.
	Observed map[trysail.PodID]trysail.Pod
	Health   map[trysail.PodID]trysail.TargetHealth
	Images   map[int]Images // by version
	// Tried are the pods in which variations of the health check have been tried.
	Tried map[trysail.PodID]bool
	// Hopeless is true when it is certain that no further start of the next version can work.
	Hopeless bool
	// Evidence is what has been recorded of the next version. Plan does not look at it.
	Evidence trysail.DeploymentEvidence
}

// Plan returns the steps that lead from what is to what shall be, in order, and when to look again even if nothing
// happens (zero: no need). It is a pure function, and carrying its steps out twice does no harm.
func Plan(w World, r Rules) (steps []Step, wake time.Time) {
	p := &planner{World: w, rules: r, stopping: map[trysail.PodID]bool{}}
	switch {
	case w.Service.State == trysail.ServiceDeleting:
		p.delete()
	case w.Service.Disabled:
		p.disable()
	case w.Service.Forward != nil && w.Service.Forward.Stop:
		p.leave()
	default:
		p.run()
	}
	return p.steps, p.wake
}

// planner collects the steps. Its methods only read the World.
type planner struct {
	World
	rules Rules
	steps []Step
	wake  time.Time
	// stopping are the pods that this plan stops.
	stopping map[trysail.PodID]bool
}

func (p *planner) add(s Step) { p.steps = append(p.steps, s) }

// stop plans that a pod shall not run any more. failed says that something was wrong with it.
func (p *planner) stop(rec trysail.PodRecord, reason string, failed bool) {
	if !p.stopping[rec.ID] {
		p.stopping[rec.ID] = true
		p.add(StopPod{Pod: rec, Reason: reason, Failed: failed})
	}
}

// wakeAt asks for another look at t. A time that has passed is not waited for.
func (p *planner) wakeAt(t time.Time) {
	if t.After(p.Now) && (p.wake.IsZero() || t.Before(p.wake)) {
		p.wake = t
	}
}

// delete ends all pods, then the service.
func (p *planner) delete() {
	p.stopAll("the service is being deleted")
	p.route(trysail.RouteNone)
	p.finishPods()
	if p.unended() == 0 {
		p.add(RemoveService{})
	}
}

// disable ends all pods; the edge answers 503.
func (p *planner) disable() {
	p.route(trysail.RouteDisabled)
	p.stopAll("the service is being disabled")
	p.finishPods()
	if p.Service.State != trysail.ServiceDisabled && p.unended() == 0 {
		p.add(Settle{trysail.ServiceDisabled})
	}
}

// leave ends all pods of a service that has moved to another installation; its requests are sent on.
func (p *planner) leave() {
	p.stopAll("the service has moved to another installation")
	p.route(trysail.RouteServe)
	p.finishPods()
}

// run keeps the current version at its capacity and brings the next one up.
func (p *planner) run() {
	if p.begin() {
		return
	}
	p.noteHealth()
	switched := false
	if p.Service.Next != nil {
		switched = p.activate(p.Service.Next)
	}
	if !switched {
		if p.Service.Current != nil {
			p.maintain(p.Service.Current)
		} else if p.Service.State == trysail.ServiceUpdating {
			p.add(Settle{trysail.ServiceReady})
		}
		p.stopStrays()
		p.route(trysail.RouteServe)
	}
	p.finishPods()
}

// begin handles what has just been asked for, and reports whether the rest has to wait for that to be recorded.
// A request that nobody has looked at yet has no detail message.
func (p *planner) begin() bool {
	s := &p.Service
	switch {
	case s.Next != nil && (s.State != trysail.ServiceDeploying || s.Detail.Message == ""):
		p.add(Begin{s.Next.Version})
		return true
	case s.Next == nil && s.State == trysail.ServicePending:
		p.add(Settle{trysail.ServiceReady})
		return true
	case s.State == trysail.ServiceUpdating && s.Detail.Message == "":
		p.add(BeginUpdate{})
		return true
	}
	return false
}

// noteHealth records first healths and stops pods that crashed.
func (p *planner) noteHealth() {
	var healthy []trysail.PodRecord
	for _, rec := range p.live() {
		switch {
		case p.crashed(rec.ID):
			p.stop(rec, crashReason(p.Observed[rec.ID]), true)
		case rec.HealthyAt.IsZero() && p.ready(rec) && p.isCurrent(rec.Version):
			healthy = append(healthy, rec)
		}
	}
	if len(healthy) > 0 {
		p.add(MarkHealthy{healthy})
	}
}

// activate brings version d up. It reports whether all its pods are healthy and the switch is planned.
func (p *planner) activate(d *trysail.Deployment) bool {
	if p.Hopeless {
		p.add(Fail{Version: d.Version})
		return false
	}
	tried := p.tryFixes(d)
	if !p.Now.Before(d.Deadline) {
		if tried || !p.Now.Before(d.Deadline.Add(tryTime)) {
			p.add(Fail{Version: d.Version, TookTooLong: true})
		}
		p.wakeAt(d.Deadline.Add(tryTime))
		return false
	}
	p.wakeAt(d.Deadline)
	if !p.images(d) {
		if im := p.Images[d.Version]; im.Final || im.Tries >= maxStarts {
			p.add(Fail{Version: d.Version})
		} else {
			p.detail(trysail.DetailCreatingDeployment, cmp.Or(im.Pulling, "Pulling images"))
		}
		return false
	}
	var create, healthy []trysail.PodRecord
	for slot := range p.Service.Scale {
		in := p.slot(d.Version, p.Service.Power, slot)
		if rec, ok := p.best(in.live); ok {
			if p.ready(rec) {
				healthy = append(healthy, rec)
			}
			continue
		}
		if len(in.live) > 0 {
			continue // it crashed, and that is to be recorded first
		}
		starts := len(in.all)
		if starts >= maxStarts {
			p.add(Fail{Version: d.Version})
			return false
		}
		if at := in.lastEnd().Add(time.Duration(starts) * time.Second); starts > 0 && p.Now.Before(at) {
			p.wakeAt(at)
			continue
		}
		create = append(create, p.newPod(d.Version, slot, starts+1))
	}
	if len(create) > 0 {
		p.add(CreatePods{Version: d.Version, Pods: create})
	}
	if len(healthy) == p.Service.Scale {
		p.routeTo(d, trysail.RouteServe)
		p.add(Activate{Version: d.Version, Healthy: healthy})
		return true
	}
	p.detail(p.progress(d, len(healthy)))
	return false
}

// tryFixes has variations of the health check tried in the pods that run and are not healthy, when the window is about to
// close. It reports whether there is none left in which that has not been done.
func (p *planner) tryFixes(d *trysail.Deployment) bool {
	at := d.Deadline.Add(-min(tryTime, p.rules.ActivationTimeout/2))
	if p.wakeAt(at); p.Now.Before(at) || d.PublicEndpoint == nil {
		return d.PublicEndpoint == nil
	}
	var pods []trysail.PodRecord
	for _, rec := range p.live() {
		if o := p.Observed[rec.ID]; rec.Version == d.Version && !p.Tried[rec.ID] && o.Running(len(d.Containers)) && !p.ready(rec) {
			pods = append(pods, rec)
		}
	}
	if len(pods) > 0 {
		p.add(TryFixes{pods})
	}
	return len(pods) == 0
}

// progress says in words how far the activation is, and what is in its way so far.
func (p *planner) progress(d *trysail.Deployment, healthy int) (code, message string) {
	starting := false
	for _, rec := range p.live() {
		o, ok := p.Observed[rec.ID]
		starting = starting || rec.Version == d.Version && (!ok || !o.Running(len(d.Containers)))
	}
	code, message = trysail.DetailEvaluatingHealthCheck, "Waiting for the containers to settle"
	switch {
	case starting:
		code, message = trysail.DetailCreatingDeployment, "Starting "+nodes(p.Service.Scale)
	case d.PublicEndpoint != nil:
		message = fmt.Sprintf("%d of %s healthy: waiting for GET %s on port %d of container %s",
			healthy, nodes(p.Service.Scale), d.PublicEndpoint.HealthCheck.Path, d.PublicEndpoint.ContainerPort, d.PublicEndpoint.ContainerName)
	}
	if soFar := p.soFar(d); soFar != "" {
		message += " (so far: " + soFar + ")"
	}
	return code, message
}

// soFar is what keeps a version from being healthy as far as can be seen; empty if nothing is known. It is no verdict:
// the next probe may take it back.
func (p *planner) soFar(d *trysail.Deployment) string {
	var seen []string
	var failed *trysail.PodRecord
	attempt := 1
	for _, rec := range p.Pods {
		if rec.Version != d.Version {
			continue
		}
		if rec.Failed {
			failed = &rec
		}
		attempt = max(attempt, rec.Attempt)
		if !rec.Live() || d.PublicEndpoint == nil {
			continue
		}
		p.wakeAt(p.Now.Add(soFarAfter))
		h := p.Health[rec.ID]
		if late := p.Now.Sub(rec.CreatedAt) >= soFarAfter; late && !h.Healthy && h.Probes > 0 && !h.Last.OK && len(seen) == 0 {
			seen = append(seen, outcome(h.Last))
		}
	}
	if failed != nil {
		seen = append([]string{fmt.Sprintf("start %d of %d, as %s", attempt, maxStarts, failed.Reason)}, seen...)
	}
	return strings.Join(seen, "; ")
}

// outcome puts a probe that did not pass into words. What the program wrote is not among them: the words are shown to
// whoever may look at the service.
func outcome(probe trysail.Probe) string {
	switch probe.Kind() {
	case trysail.ProbeAnswer:
		return fmt.Sprintf("it answers %d", probe.Status)
	case trysail.ProbeRefused:
		return "nothing takes connections on that port"
	case trysail.ProbeTimeout:
		return "no answer in time"
	case trysail.ProbeReset, trysail.ProbeEOF:
		return "the connection is closed without an answer"
	case trysail.ProbeTLS, trysail.ProbeNotHTTP:
		return "the answer is in another protocol"
	default:
		return "the pod cannot be reached"
	}
}

// maintain keeps version d, which is ACTIVE, at the service's capacity, and ends an update.
func (p *planner) maintain(d *trysail.Deployment) {
	updating := p.Service.State == trysail.ServiceUpdating
	var create []trysail.PodRecord
	complete, given := true, false // every slot has a ready pod; a slot was started too often during this update
	for slot := range p.Service.Scale {
		in := p.slot(d.Version, p.Service.Power, slot)
		best, ok := p.best(in.live)
		if ok && p.ready(best) && !p.leaving(best.ID) {
			p.stopOthers(in.live, best)
			continue
		}
		complete = complete && ok && p.ready(best) // what leaves serves until its replacement does
		given = given || updating && in.failuresSince(d.Deadline.Add(-p.rules.ActivationTimeout)) >= maxStarts
		if slices.ContainsFunc(in.live, func(r trysail.PodRecord) bool { return !p.suspect(r) }) {
			continue // a pod is on its way, or has crashed and that is to be recorded first
		}
		if at := in.retryAt(); p.Now.Before(at) {
			p.wakeAt(at)
			continue
		}
		create = append(create, p.newPod(d.Version, slot, len(in.all)+1))
	}
	if len(create) > 0 && !given && p.images(d) {
		p.add(CreatePods{Version: d.Version, Pods: create})
	}
	if f := p.Service.Forward; f != nil && f.Back && complete {
		p.add(EndForward{})
	}
	extra := p.extras(d)
	if complete {
		for _, rec := range extra {
			p.stop(rec, "the service's capacity changed", false)
		}
	}
	if !updating {
		return
	}
	p.wakeAt(d.Deadline)
	switch {
	case complete && len(extra) == 0:
		p.add(Settle{trysail.ServiceRunning})
	case complete:
		// The pods of the old capacity are being stopped.
	case given:
		p.add(Revert{fmt.Sprintf("a node was started %d times and failed each time", maxStarts)})
	case !p.Now.Before(d.Deadline):
		p.add(Revert{"it took too long"})
	}
}

// extras lists the live pods of version d that are not of the service's capacity.
func (p *planner) extras(d *trysail.Deployment) []trysail.PodRecord {
	var list []trysail.PodRecord
	for _, rec := range p.live() {
		if rec.Version == d.Version && (rec.Power != p.Service.Power || rec.Slot >= p.Service.Scale) {
			list = append(list, rec)
		}
	}
	return list
}

// stopOthers stops what else fills a slot: a suspect whose replacement is ready, or the replacement of a suspect that
// recovered.
func (p *planner) stopOthers(live []trysail.PodRecord, best trysail.PodRecord) {
	for _, rec := range live {
		if rec.ID == best.ID || p.crashed(rec.ID) {
			continue
		}
		switch {
		case p.leaving(rec.ID):
			p.stop(rec, "its node was to be emptied, or was not heard of, and it was replaced", false)
		case p.suspect(rec):
			p.stop(rec, "it failed its health checks and was replaced", true)
		default:
			p.stop(rec, "the pod that it was to replace recovered", false)
		}
	}
}

// stopStrays stops the pods of versions that are neither current nor next.
func (p *planner) stopStrays() {
	for _, rec := range p.live() {
		if !p.isCurrent(rec.Version) && !p.isNext(rec.Version) {
			p.stop(rec, fmt.Sprintf("version %d is no longer wanted", rec.Version), false)
		}
	}
}

func (p *planner) stopAll(reason string) {
	for _, rec := range p.live() {
		p.stop(rec, reason, false)
	}
}

// finishPods starts and ends pods as their records say. The route has been set before.
func (p *planner) finishPods() {
	known := map[trysail.PodID]bool{}
	for _, rec := range p.Pods {
		if !rec.EndedAt.IsZero() {
			continue
		}
		known[rec.ID] = true
		o, seen := p.Observed[rec.ID]
		switch {
		case p.held(rec):
			p.wakeAt(rec.HoldUntil)
		case !rec.Live() && rec.Failed:
			p.add(EndPod{Pod: rec, Drain: crashedDrain})
		case !rec.Live():
			p.add(EndPod{Pod: rec, Drain: p.rules.DrainTimeout})
		case p.stopping[rec.ID]:
		case !seen || !o.Crashed() && len(o.Containers) < p.containers(rec.Version):
			p.add(StartPod{rec})
		}
	}
	for id, o := range p.Observed {
		if !known[id] {
			p.add(EndPod{Pod: trysail.PodRecord{ID: id, ServiceID: o.ServiceID, Version: o.Version}})
		}
	}
}

// held reports whether a failed pod is kept for a look. It makes way for the next deployment, and goes with the service.
func (p *planner) held(rec trysail.PodRecord) bool {
	return p.Now.Before(rec.HoldUntil) && p.Service.Next == nil && !p.Service.Disabled && p.Service.State != trysail.ServiceDeleting && !p.crashed(rec.ID)
}

// unended counts the pods that exist in any way.
func (p *planner) unended() int {
	n := len(p.Observed)
	for _, rec := range p.Pods {
		if _, seen := p.Observed[rec.ID]; rec.EndedAt.IsZero() && !seen {
			n++
		}
	}
	return n
}

// images asks for the images of d and reports whether they are there.
func (p *planner) images(d *trysail.Deployment) bool {
	im := p.Images[d.Version]
	switch {
	case im.Ready:
	case p.Now.Before(im.RetryAt):
		p.wakeAt(im.RetryAt)
	default:
		p.add(PrepareImages{d.Version})
	}
	return im.Ready
}

// detail sets the state detail if it is not that already.
func (p *planner) detail(code, message string) {
	if d := (trysail.StateDetail{Code: code, Message: message}); d != p.Service.Detail {
		p.add(SetDetail{d})
	}
}

// route tells the edge about the current version's pods, and those of the next that want probing; and the private network
// about those that are healthy.
func (p *planner) route(mode trysail.RouteMode) { p.setRoute(p.Service.Current, mode) }

// routeTo makes the edge serve version d although it is not the current one yet.
func (p *planner) routeTo(d *trysail.Deployment, mode trysail.RouteMode) { p.setRoute(d, mode) }

func (p *planner) setRoute(serve *trysail.Deployment, mode trysail.RouteMode) {
	s := &p.Service
	private := p.private(serve, mode)
	if mode == trysail.RouteServe && (serve == nil || serve.PublicEndpoint == nil) {
		mode = trysail.RouteNone
	}
	hosts := s.Hosts(p.rules.Region, p.rules.Domain)
	r := trysail.Route{
		Service: s.Name, ServiceID: s.ID, Host: hosts[0], Domains: hosts[1:], Mode: mode,
		AccessLog: s.Settings.AccessLog, AccessLogHealthChecks: s.Settings.AccessLogHealthChecks,
		Rules: s.Settings.EdgeRules,
	}
	if len(r.Domains) == 0 {
		r.Domains = nil
	}
	for _, d := range []*trysail.Deployment{s.Current, s.Next} {
		if d == nil || d.PublicEndpoint == nil || s.Disabled || s.State == trysail.ServiceDeleting {
			continue
		}
		for _, rec := range p.live() {
			o := p.Observed[rec.ID]
			if rec.Version != d.Version || !p.reachable(rec) {
				continue
			}
			serving := mode == trysail.RouteServe && d.Version == serve.Version && p.everHealthy(rec)
			r.Targets = append(r.Targets, target(d, rec, o.Addr, serving))
		}
	}
	if s.Forward != nil && mode == trysail.RouteServe {
		for i := range r.Targets {
			r.Targets[i].Serving = false
		}
		r.Targets = append(r.Targets, s.Forward.Targets(r.Host, serve.Version)...)
	}
	p.add(SetRoute{Route: r, Private: private})
}

// reachable reports whether the pod can be sent anything: it has an address, and nothing of it has ended or is about to.
func (p *planner) reachable(rec trysail.PodRecord) bool {
	o := p.Observed[rec.ID]
	return o.Addr.IsValid() && !o.Crashed() && !p.stopping[rec.ID]
}

// private is what other services reach of version d: its healthy pods at the ports that it opens. It needs no public
// endpoint.
func (p *planner) private(d *trysail.Deployment, mode trysail.RouteMode) trysail.PrivateService {
	s := trysail.PrivateService{Service: p.Service.Name}
	if d == nil || mode != trysail.RouteServe {
		return s
	}
	for _, rec := range p.live() {
		if rec.Version == d.Version && p.reachable(rec) && p.ready(rec) {
			s.Pods = append(s.Pods, p.Observed[rec.ID].Addr)
		}
	}
	for _, c := range d.Containers {
		for number, protocol := range c.Ports {
			port, err := strconv.ParseUint(number, 10, 16)
			switch {
			case err != nil: // it was validated
			case protocol == trysail.ProtocolUDP:
				s.UDP = append(s.UDP, uint16(port))
			default:
				s.TCP = append(s.TCP, uint16(port))
			}
		}
	}
	slices.SortFunc(s.Pods, netip.Addr.Compare)
	slices.Sort(s.TCP)
	slices.Sort(s.UDP)
	s.TCP, s.UDP = slices.Compact(s.TCP), slices.Compact(s.UDP)
	return s
}

func target(d *trysail.Deployment, rec trysail.PodRecord, addr netip.Addr, serving bool) trysail.Target {
	ep := d.PublicEndpoint
	protocol := d.Containers[ep.ContainerName].Ports[strconv.Itoa(ep.ContainerPort)]
	return trysail.Target{
		Pod: rec.ID, Version: rec.Version, Addr: netip.AddrPortFrom(addr, uint16(ep.ContainerPort)), //nolint:gosec // validated: 1–65535
		TLS: protocol == trysail.ProtocolHTTPS, Check: ep.HealthCheck,
		Activating: !serving, Serving: serving, PresumeHealthy: !rec.HealthyAt.IsZero(),
	}
}
