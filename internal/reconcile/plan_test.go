package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

var rules = Rules{Region: "us-east-1", Domain: "localhost", ActivationTimeout: 5 * time.Minute, DrainTimeout: 30 * time.Second}

// model is a world in which steps take effect at once: what apply, the engine and the edge would do, without them.
type model struct {
	World
	t interface {
		Helper()
		Fatalf(string, ...any)
	}
	versions map[int]*trysail.Deployment
	route    trysail.Route
	private  trysail.PrivateService
	removed  bool
	serial   int
	// broken makes pods of a version crash, sick makes them fail their health checks.
	broken, sick map[int]bool
}

func newModel(t rapid.TB, scale int) *model {
	m := &model{
		t: t, versions: map[int]*trysail.Deployment{}, broken: map[int]bool{}, sick: map[int]bool{},
		World: World{
			Now: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Images: map[int]Images{}, Tried: map[trysail.PodID]bool{},
			Observed: map[trysail.PodID]trysail.Pod{}, Health: map[trysail.PodID]trysail.TargetHealth{},
			Service: trysail.Service{
				ID: "id", Name: "web", HostLabel: "abc", State: trysail.ServicePending,
				Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: scale},
			},
		},
	}
	return m
}

func (m *model) busy() bool {
	return m.Service.State == trysail.ServicePending || m.Service.State == trysail.ServiceDeploying ||
		m.Service.State == trysail.ServiceUpdating || m.Service.State == trysail.ServiceDeleting
}

// deploy does what control does.
func (m *model) deploy(endpoint bool) {
	d := &trysail.Deployment{
		Version: len(m.versions) + 1, State: trysail.DeploymentActivating,
		Containers: map[string]trysail.Container{"app": {Image: "app", Ports: map[string]trysail.Protocol{"80": trysail.ProtocolHTTP}}},
	}
	if endpoint {
		d.PublicEndpoint = &trysail.PublicEndpoint{ContainerName: "app", ContainerPort: 80, HealthCheck: trysail.DefaultHealthCheck()}
	}
	m.versions[d.Version] = d
	m.Service.Next, m.Service.State = d, trysail.ServiceDeploying
}

// round plans once and lets the steps take effect. It reports whether anything but the route was planned.
func (m *model) round() bool {
	steps, _ := Plan(m.World, rules)
	acted := false
	for _, s := range steps {
		if _, ok := s.(SetRoute); !ok {
			acted = true
		}
		m.apply(s)
		if m.removed {
			break
		}
	}
	return acted
}

// addrOf is the address of a pod: its serial number.
func addrOf(id trysail.PodID) netip.Addr {
	n, _ := strconv.ParseUint(strings.TrimPrefix(string(id), "p"), 10, 16)
	return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
}

// checkPrivate: other services are sent to healthy pods of one version alone, and that is the current one or the one
// whose activation follows.
func (m *model) checkPrivate(s trysail.PrivateService) {
	m.t.Helper()
	version := 0
	for _, rec := range m.Pods {
		if !slices.Contains(s.Pods, addrOf(rec.ID)) {
			continue
		}
		d := m.versions[rec.Version]
		switch h, probed := m.Health[rec.ID]; {
		case m.crashedNow(rec.ID):
			m.t.Fatalf("other services are sent to the crashed pod %s", rec.ID)
		case d.PublicEndpoint != nil && probed && !h.Healthy:
			m.t.Fatalf("other services are sent to %s, which is not healthy", rec.ID)
		case version != 0 && version != rec.Version:
			m.t.Fatalf("other services are sent to versions %d and %d", version, rec.Version)
		}
		version = rec.Version
	}
	if version != 0 && !slices.Equal(s.TCP, []uint16{80}) {
		m.t.Fatalf("open ports %v, want 80", s.TCP)
	}
}

func (m *model) apply(step Step) {
	svc := &m.Service
	switch s := step.(type) {
	case Begin:
		svc.State, svc.Detail.Message = trysail.ServiceDeploying, "begun"
		svc.Next.Deadline = m.Now.Add(rules.ActivationTimeout)
	case BeginUpdate:
		svc.Detail.Message = "begun"
		if svc.Current != nil {
			svc.Current.Deadline = m.Now.Add(rules.ActivationTimeout)
		}
	case SetDetail:
		svc.Detail = s.Detail
	case PrepareImages:
		m.Images[s.Version] = Images{Ready: true}
	case TryFixes:
		for _, p := range s.Pods {
			if h := m.Health[p.ID]; h.Healthy || m.Tried[p.ID] {
				m.t.Fatalf("fixes are tried in %s, health %v, tried %v", p.ID, h, m.Tried[p.ID])
			}
			m.Tried[p.ID] = true
		}
	case CreatePods:
		for _, p := range s.Pods {
			m.checkCreate(p)
			m.serial++
			p.ID, p.CreatedAt = trysail.PodID(fmt.Sprintf("p%04d", m.serial)), m.Now
			m.Pods = append(m.Pods, p)
		}
	case StartPod:
		if _, there := m.Observed[s.Pod.ID]; !there {
			m.Observed[s.Pod.ID] = trysail.Pod{
				ID: s.Pod.ID, Version: s.Pod.Version, Addr: addrOf(s.Pod.ID),
				Containers: []trysail.ContainerStatus{{Name: "app", State: trysail.ContainerRunning, StartedAt: m.Now}},
			}
		}
	case MarkHealthy:
		for _, p := range s.Pods {
			m.record(p.ID).HealthyAt = m.Now
		}
	case StopPod:
		m.checkStop(s)
		rec := m.record(s.Pod.ID)
		rec.StopAt, rec.Reason, rec.Failed = m.Now, s.Reason, s.Failed
	case EndPod:
		for _, target := range m.route.Targets {
			if target.Pod == s.Pod.ID {
				m.t.Fatalf("%s is ended while it has a route", s.Pod.ID)
			}
		}
		if slices.Contains(m.private.Pods, addrOf(s.Pod.ID)) {
			m.t.Fatalf("%s is ended while other services are sent to it", s.Pod.ID)
		}
		delete(m.Observed, s.Pod.ID)
		delete(m.Health, s.Pod.ID)
		if rec := m.record(s.Pod.ID); rec != nil {
			rec.EndedAt = m.Now
		}
	case SetRoute:
		m.route, m.private = s.Route, s.Private
		m.checkPrivate(s.Private)
		for _, target := range s.Route.Targets {
			if !target.Unchecked && m.crashedNow(target.Pod) {
				m.t.Fatalf("the route has the crashed pod %s", target.Pod)
			}
		}
		for _, target := range s.Route.Targets {
			if _, known := m.Health[target.Pod]; !known && target.PresumeHealthy {
				m.Health[target.Pod] = trysail.TargetHealth{Healthy: true, Since: m.Now}
			}
		}
	case Activate:
		m.checkActivate(s)
		if svc.Current != nil {
			svc.Current.State = trysail.DeploymentInactive
		}
		if m.Hopeless {
			m.t.Fatalf("version %d is activated although it is hopeless", s.Version)
		}
		svc.Next.State = trysail.DeploymentActive
		svc.Current, svc.Next, svc.State, svc.Detail = svc.Next, nil, trysail.ServiceRunning, trysail.StateDetail{}
		for _, p := range s.Healthy {
			m.record(p.ID).HealthyAt = m.Now
		}
	case Fail:
		for i := range m.Pods {
			if m.Pods[i].Version == s.Version && m.Pods[i].Live() {
				m.Pods[i].StopAt, m.Pods[i].Failed = m.Now, true
				if svc.Next.Hold > 0 {
					m.Pods[i].HoldUntil = m.Now.Add(svc.Next.Hold)
				}
			}
		}
		m.Hopeless = false
		svc.Next.State = trysail.DeploymentFailed
		svc.Next, svc.State, svc.Detail = nil, trysail.ServiceReady, trysail.StateDetail{}
		if svc.Current != nil {
			svc.State = trysail.ServiceRunning
		}
	case Revert:
		if svc.Fallback != nil {
			svc.Capacity, svc.Fallback = *svc.Fallback, nil
		}
		svc.State, svc.Detail = trysail.ServiceRunning, trysail.StateDetail{}
	case EndForward:
		m.Service.Forward = nil
	case Settle:
		svc.State, svc.Fallback, svc.Detail = s.State, nil, trysail.StateDetail{}
	case RemoveService:
		if len(m.Observed) > 0 {
			m.t.Fatalf("the service is removed with %d pods", len(m.Observed))
		}
		m.removed = true
	default:
		m.t.Fatalf("unknown step %v", step)
	}
}

func (m *model) record(id trysail.PodID) *trysail.PodRecord {
	for i := range m.Pods {
		if m.Pods[i].ID == id {
			return &m.Pods[i]
		}
	}
	return nil
}

// healthyServing counts the pods of a version that run, were healthy, and pass their health checks now.
func (m *model) healthyServing(version int) (ids []trysail.PodID) {
	for _, p := range m.Pods {
		o, there := m.Observed[p.ID]
		h, probed := m.Health[p.ID]
		if p.Version == version && p.Live() && there && !o.Crashed() && !p.HealthyAt.IsZero() && (!probed || h.Healthy) {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// checkCreate: a slot of a new version gets three starts, and a slot has no second pod unless the first is suspect or leaves.
func (m *model) checkCreate(p trysail.PodRecord) {
	if m.Service.Next != nil && m.Service.Next.Version == p.Version && p.Attempt > maxStarts {
		m.t.Fatalf("start %d of slot %d of version %d", p.Attempt, p.Slot, p.Version)
	}
	for _, other := range m.Pods {
		if other.Version == p.Version && other.Power == p.Power && other.Slot == p.Slot && other.Live() && !m.Observed[other.ID].Leaving && (other.HealthyAt.IsZero() || m.Health[other.ID].Healthy) {
			m.t.Fatalf("slot %d gets a second pod beside %s", p.Slot, other.ID)
		}
	}
}

// checkStop: the last healthy pod of the active version is never stopped while the service shall serve.
func (m *model) checkStop(s StopPod) {
	if m.Service.Disabled || m.Service.Forward != nil && m.Service.Forward.Stop || m.Service.State == trysail.ServiceDeleting || m.Service.Current == nil || s.Pod.Version != m.Service.Current.Version {
		return
	}
	if ids := m.healthyServing(s.Pod.Version); len(ids) == 1 && ids[0] == s.Pod.ID {
		m.t.Fatalf("the last healthy pod %s is stopped: %s", s.Pod.ID, s.Reason)
	}
}

// checkActivate: a switch needs scale healthy pods, all of them already in rotation, and a version that has not failed.
func (m *model) checkActivate(s Activate) {
	if m.versions[s.Version].State != trysail.DeploymentActivating {
		m.t.Fatalf("version %d in state %s is activated", s.Version, m.versions[s.Version].State)
	}
	if len(s.Healthy) != m.Service.Scale {
		m.t.Fatalf("activated with %d of %d pods", len(s.Healthy), m.Service.Scale)
	}
	for _, p := range s.Healthy {
		if m.crashedNow(p.ID) {
			m.t.Fatalf("activated with the crashed pod %s", p.ID)
		}
		if m.versions[s.Version].PublicEndpoint != nil && !slices.ContainsFunc(m.route.Targets, func(t trysail.Target) bool { return t.Pod == p.ID && t.Serving }) {
			m.t.Fatalf("activated before the edge serves %s", p.ID)
		}
	}
}

func (m *model) crashedNow(id trysail.PodID) bool {
	o, ok := m.Observed[id]
	return !ok || o.Crashed()
}

// world moves on: broken versions crash, others become healthy or sick.
func (m *model) pass(d time.Duration) {
	m.Now = m.Now.Add(d)
	for id, o := range m.Observed {
		if m.broken[o.Version] {
			m.crash(id)
		}
	}
	for _, target := range m.route.Targets {
		o := m.Observed[target.Pod]
		healthy := !m.sick[o.Version] && !o.Crashed()
		if h, ok := m.Health[target.Pod]; !ok || h.Healthy != healthy {
			m.Health[target.Pod] = trysail.TargetHealth{Healthy: healthy, Since: m.Now, Probes: 1}
		}
	}
}

func (m *model) crash(id trysail.PodID) {
	o := m.Observed[id]
	o.Containers = []trysail.ContainerStatus{{Name: "app", State: trysail.ContainerExited, ExitCode: 1, FinishedAt: m.Now}}
	m.Observed[id] = o
}

// settle runs rounds until nothing is planned, letting time pass in between.
func (m *model) settle() {
	for quiet := 0; quiet < 3 && !m.removed; {
		for i := 0; m.round(); i++ {
			if m.removed {
				return
			}
			if i > 100 {
				steps, _ := Plan(m.World, rules)
				m.t.Fatalf("the plan does not come to rest: %v", steps)
			}
		}
		quiet++
		if m.busy() {
			quiet = 0
		}
		m.pass(20 * time.Second)
	}
}

func TestPlan_ReachesWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, rapid.IntRange(1, 4).Draw(t, "scale"))
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			m.event(t)
			if m.removed {
				return
			}
			for range rapid.IntRange(0, 3).Draw(t, "rounds") {
				m.round()
				if m.removed {
					return
				}
			}
			m.pass(time.Duration(rapid.IntRange(0, 60).Draw(t, "seconds")) * time.Second)
		}
		// The world heals; then everything must come to rest in the state that was asked for.
		clear(m.broken)
		clear(m.sick)
		deleting := m.Service.State == trysail.ServiceDeleting
		m.pass(maxBackoff)
		m.settle()
		m.pass(maxBackoff)
		m.settle()
		m.checkRest(t, deleting)
	})
}

func (m *model) event(t *rapid.T) {
	s := &m.Service
	switch rapid.SampledFrom([]string{"deploy", "deploy", "scale", "power", "disable", "enable", "crash", "break", "sicken", "heal", "delete", "vanish", "doom", "nothing"}).Draw(t, "event") {
	case "deploy":
		if !m.busy() && !s.Disabled {
			m.deploy(rapid.Bool().Draw(t, "endpoint"))
			s.Next.Hold = time.Duration(rapid.IntRange(0, 60).Draw(t, "hold")) * time.Second
		}
	case "scale":
		m.update(trysail.Capacity{Power: s.Power, Scale: rapid.IntRange(1, 4).Draw(t, "scale")})
	case "power":
		m.update(trysail.Capacity{Power: rapid.SampledFrom([]trysail.Power{trysail.PowerNano, trysail.PowerMicro}).Draw(t, "power"), Scale: s.Scale})
	case "disable", "enable":
		if !m.busy() {
			s.Disabled, s.State = !s.Disabled, trysail.ServiceUpdating
		}
	case "crash":
		for id := range m.Observed {
			m.crash(id)
			break
		}
	case "vanish":
		for id := range m.Observed {
			delete(m.Observed, id)
			break
		}
	case "doom":
		m.Hopeless = s.Next != nil
	case "break":
		m.broken[len(m.versions)] = true
	case "sicken":
		m.sick[len(m.versions)] = true
	case "heal":
		clear(m.broken)
		clear(m.sick)
	case "delete":
		if !m.busy() && rapid.IntRange(0, 5).Draw(t, "really") == 0 {
			s.State = trysail.ServiceDeleting
		}
	}
}

func (m *model) update(c trysail.Capacity) {
	s := &m.Service
	if m.busy() || c == s.Capacity || s.Disabled {
		return
	}
	before := s.Capacity
	if s.Current != nil {
		s.Fallback = &before
	}
	s.Capacity, s.State = c, trysail.ServiceUpdating
}

func (m *model) checkRest(t *rapid.T, deleting bool) {
	s := &m.Service
	if deleting {
		if !m.removed {
			t.Fatalf("the deleted service is still there")
		}
		return
	}
	want, state := 0, trysail.ServiceReady
	switch {
	case s.Disabled:
		state = trysail.ServiceDisabled
	case s.Current != nil:
		want, state = s.Scale, trysail.ServiceRunning
	}
	if s.State != state || s.Next != nil || s.Detail != (trysail.StateDetail{}) || s.Fallback != nil {
		t.Fatalf("at rest the service is %+v, want state %s", *s, state)
	}
	if len(m.Observed) != want {
		t.Fatalf("at rest there are %d pods, want %d", len(m.Observed), want)
	}
	if s.Current != nil && s.Current.PublicEndpoint != nil && !s.Disabled {
		serving := 0
		for _, target := range m.route.Targets {
			if target.Serving && target.Version == s.Current.Version {
				serving++
			}
		}
		if m.route.Mode != trysail.RouteServe || serving != want {
			t.Fatalf("at rest the route is %+v, want %d serving targets", m.route, want)
		}
	}
	if steps, _ := Plan(m.World, rules); len(steps) != 1 {
		t.Fatalf("at rest the plan is %v, want the route alone", steps)
	}
}

// until runs rounds, letting a second pass after each, until done says so. It returns the seconds.
func (m *model) until(what string, done func() bool) int {
	m.t.Helper()
	for seconds := range 1000 {
		for m.round() {
			if done() {
				return seconds
			}
		}
		m.pass(time.Second)
	}
	m.t.Fatalf("never: %s; the service is %+v", what, m.Service)
	return 0
}

func activeModel(t *testing.T, scale int) *model {
	t.Helper()
	m := newModel(nil, scale)
	m.t = t
	m.deploy(true)
	m.until("version 1 is active", func() bool { return m.Service.State == trysail.ServiceRunning })
	return m
}

func TestPlan_CancelsAfterThreeStartsPerNode(t *testing.T) {
	m := activeModel(t, 2)
	m.broken[2] = true
	m.deploy(true)
	seconds := m.until("version 2 failed", func() bool { return m.versions[2].State == trysail.DeploymentFailed })
	starts := 0
	for _, p := range m.Pods {
		if p.Version == 2 {
			starts++
		}
	}
	if starts != 6 {
		t.Errorf("%d starts for 2 nodes, want 6", starts)
	}
	if seconds > 10 {
		t.Errorf("a crashing version took %d s to fail, want seconds", seconds)
	}
	if m.Service.State != trysail.ServiceRunning || m.Service.Current.Version != 1 || len(m.healthyServing(1)) != 2 {
		t.Errorf("the old version is not untouched: %+v", m.Service)
	}
}

func TestPlan_SettingsReachTheRoute(t *testing.T) {
	m := activeModel(t, 1)
	if m.route.AccessLog || m.route.ServiceID != m.Service.ID {
		t.Errorf("route %+v", m.route)
	}
	for _, want := range []trysail.ServiceSettings{{AccessLog: true}, {AccessLogHealthChecks: true}, {EdgeRules: trysail.EdgeRules{MaxBody: 1}}, {}} {
		m.Service.Settings = want
		m.round()
		if got := (trysail.ServiceSettings{AccessLog: m.route.AccessLog, AccessLogHealthChecks: m.route.AccessLogHealthChecks, EdgeRules: m.route.Rules}); !cmp.Equal(got, want) {
			t.Errorf("route %+v, want %+v", m.route, want)
		}
	}
}

func TestPlan_StartingSlowlyIsNotFailing(t *testing.T) {
	m := activeModel(t, 1)
	m.sick[2] = true
	m.deploy(true)
	seconds := m.until("version 2 failed", func() bool { return m.versions[2].State == trysail.DeploymentFailed })
	if want := int(rules.ActivationTimeout.Seconds()); seconds < want-1 || seconds > want+1 {
		t.Errorf("a running but unhealthy version failed after %d s, want %d", seconds, want)
	}
	if n := len(m.Pods); n != 2 {
		t.Errorf("%d pods were started, want one per version", n)
	}
}

func TestPlan_GoesBackWhenAnUpdateCannotRun(t *testing.T) {
	m := activeModel(t, 1)
	m.update(trysail.Capacity{Power: trysail.PowerMicro, Scale: 1})
	seconds := m.until("the update is reverted", func() bool {
		for id := range m.Observed { // whatever has the new power crashes
			if m.record(id).Power == trysail.PowerMicro {
				m.crash(id)
			}
		}
		return m.Service.State == trysail.ServiceRunning
	})
	if m.Service.Power != trysail.PowerNano || seconds > 20 {
		t.Errorf("after %d s the power is %s, want nano again within seconds", seconds, m.Service.Power)
	}
	if len(m.healthyServing(1)) != 1 {
		t.Error("the pod of the old power does not serve any more")
	}
}

func TestPlan_RestartsACrashedPodWithBackoff(t *testing.T) {
	m := activeModel(t, 1)
	m.broken[1] = true
	start, created := m.Now, 0
	for m.Now.Sub(start) < time.Hour {
		for m.round() {
		}
		m.pass(time.Second)
	}
	for _, p := range m.Pods {
		if p.CreatedAt.After(start) {
			created++
		}
	}
	// 1, 2, 4 … 256 s make nine starts in 511 s, then one every five minutes.
	if created < 15 || created > 25 {
		t.Errorf("%d restarts in an hour of crashing", created)
	}
	if m.Service.State != trysail.ServiceRunning {
		t.Errorf("state %s, want RUNNING: a crash is not a failed deployment", m.Service.State)
	}
}

func TestPlan_ReplacesASickPodBeforeItIsStopped(t *testing.T) {
	m := activeModel(t, 1)
	old := m.Pods[0].ID
	m.sick[1] = true
	m.until("a replacement is started", func() bool { return len(m.Observed) == 2 })
	if m.record(old).StopAt != (time.Time{}) {
		t.Error("the sick pod was stopped before its replacement was healthy")
	}
	clear(m.sick)
	m.until("one pod is left", func() bool { return len(m.Observed) == 1 })
}

// TestPlan_ReplacesAPodThatLeavesWhileItServes: the pod of a node that is emptied serves until another one does.
func TestPlan_ReplacesAPodThatLeavesWhileItServes(t *testing.T) {
	m := activeModel(t, 2)
	old := m.Pods[0].ID
	o := m.Observed[old]
	o.Leaving = true
	m.Observed[old] = o
	m.until("the old pod is stopped", func() bool {
		if n := len(m.healthyServing(1)); n < 2 {
			t.Fatalf("only %d pods serve", n)
		}
		return !m.record(old).Live()
	})
	if rec := m.record(old); rec.Failed {
		t.Errorf("the pod that left counts as failed: %s", rec.Reason)
	}
	if len(m.Pods) != 3 {
		t.Errorf("%d pods were started, want one more than 2", len(m.Pods))
	}
}

// TestPlan_SendsRequestsOnToWhereTheServiceHasMoved: first its pods stay, for other services here; then they go; and when
// it comes back, requests come here when they can be answered here, and not before.
func TestPlan_SendsRequestsOnToWhereTheServiceHasMoved(t *testing.T) {
	m := activeModel(t, 2)
	to := netip.MustParseAddrPort("192.0.2.1:443")
	serving := func() (list []trysail.Target) {
		s, ok := planned[SetRoute](m.World)
		if !ok || s.Route.Mode != trysail.RouteServe {
			t.Fatalf("route %+v", s)
		}
		for _, target := range s.Route.Targets {
			if target.Serving {
				list = append(list, target)
			}
		}
		return list
	}
	m.Service.Forward = &trysail.Forward{To: []netip.AddrPort{to}, CA: "PEM"}
	there := func() bool {
		list := serving()
		return len(list) == 1 && list[0].Addr == to && list[0].TLS && list[0].Unchecked && *list[0].Trust == trysail.TargetTrust{Name: m.Service.Host(rules.Region, rules.Domain), CA: "PEM"}
	}
	if !there() {
		t.Errorf("requests go to %+v", serving())
	}
	s, _ := planned[SetRoute](m.World)
	if len(m.Observed) != 2 || len(s.Private.Pods) != 2 {
		t.Errorf("%d pods, of which others reach %d", len(m.Observed), len(s.Private.Pods))
	}
	m.Service.Forward.Stop = true
	m.until("the pods are gone", func() bool {
		if !there() {
			t.Fatalf("requests go to %+v", serving())
		}
		return len(m.Observed) == 0
	})
	m.Service.Forward.Stop, m.Service.Forward.Back = false, true
	m.until("requests come here again", func() bool {
		if m.Service.Forward != nil && !there() {
			t.Fatalf("requests go to %+v", serving())
		}
		return m.Service.Forward == nil
	})
	if list := serving(); len(list) != 2 {
		t.Errorf("requests go to %+v", list)
	}
}

// stuck is a world whose next version runs in one pod and is not healthy.
func stuck(t *testing.T) *model {
	m := newModel(t, 1)
	m.deploy(true)
	m.sick[1] = true
	for range 6 {
		m.round()
	}
	if len(m.Observed) != 1 {
		t.Fatalf("pods: %v", m.Observed)
	}
	return m
}

func planned[S Step](w World) (found S, ok bool) {
	steps, _ := Plan(w, rules)
	for _, s := range steps {
		if found, ok = s.(S); ok {
			return found, true
		}
	}
	return found, false
}

func TestPlan_TriesFixesBeforeTheWindowCloses(t *testing.T) {
	m := stuck(t)
	w := m.World
	w.Now = w.Service.Next.Deadline.Add(-tryTime - time.Second)
	if s, early := planned[TryFixes](w); early {
		t.Errorf("too early: %v", s)
	}
	if _, wake := Plan(w, rules); !wake.Equal(w.Now.Add(time.Second)) {
		t.Errorf("the next look is at %s", wake)
	}
	for _, at := range []time.Duration{-tryTime, 0, tryTime - time.Second} {
		w.Now = w.Service.Next.Deadline.Add(at)
		s, ok := planned[TryFixes](w)
		if _, failed := planned[Fail](w); !ok || len(s.Pods) != 1 || failed {
			t.Errorf("%s: %v, fails %v", at, s, failed)
		}
	}
	for id := range w.Observed {
		w.Tried[id] = true
	}
	w.Now = w.Service.Next.Deadline
	if s, ok := planned[Fail](w); !ok || !s.TookTooLong {
		t.Error("with everything tried it does not fail")
	}
	clear(w.Tried)
	w.Now = w.Service.Next.Deadline.Add(tryTime)
	if _, ok := planned[Fail](w); !ok {
		t.Error("tries that do not end keep it from failing")
	}
}

func TestPlan_HopelessFailsAtOnce(t *testing.T) {
	m := stuck(t)
	m.Hopeless = true
	if s, ok := planned[Fail](m.World); !ok || s.TookTooLong {
		t.Errorf("%v %v", s, ok)
	}
}

func TestPlan_HoldsFailedPods(t *testing.T) {
	m := stuck(t)
	m.Service.Next.Hold = time.Minute
	m.apply(Fail{Version: 1})
	failed := m.Pods[0].HoldUntil
	if _, ended := planned[EndPod](m.World); ended {
		t.Error("the pod is ended at once")
	}
	if _, wake := Plan(m.World, rules); !wake.Equal(failed) {
		t.Errorf("the next look is at %s, not %s", wake, failed)
	}
	if s, _ := planned[SetRoute](m.World); len(s.Route.Targets) > 0 {
		t.Errorf("a held pod has a route: %v", s)
	}
	for name, change := range map[string]func(*World){
		"time":              func(w *World) { w.Now = failed },
		"a new deployment":  func(w *World) { w.Service.Next = &trysail.Deployment{Version: 2, Deadline: failed} },
		"disabled":          func(w *World) { w.Service.Disabled = true },
		"the service's end": func(w *World) { w.Service.State = trysail.ServiceDeleting },
	} {
		w := m.World
		change(&w)
		w.Service.Detail.Message = "begun"
		if w.Service.Next != nil {
			w.Service.State = trysail.ServiceDeploying
		}
		if _, ended := planned[EndPod](w); !ended {
			t.Errorf("%s: the pod is not ended", name)
		}
	}
}
