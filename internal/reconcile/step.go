package reconcile

import (
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// Step is one idempotent action. Steps are plain data: a plan can be printed before it is carried out.
type Step interface{ String() string }

type (
	// Begin announces a deployment and opens its activation window.
	Begin struct{ Version int }

	// BeginUpdate opens the window in which the pods of an update must become healthy.
	BeginUpdate struct{}

	// SetDetail says what the service is busy with.
	SetDetail struct{ Detail trysail.StateDetail }

	// PrepareImages resolves and pulls the images of a version.
	PrepareImages struct{ Version int }

	// CreatePods records that pods shall exist; they are started by a later plan, from the record.
	CreatePods struct {
		Version int
		Pods    []trysail.PodRecord // without ID
	}

	// TryFixes tries variations of the health check in pods that are not healthy.
	TryFixes struct{ Pods []trysail.PodRecord }

	// StartPod makes a recorded pod run.
	StartPod struct{ Pod trysail.PodRecord }

	// MarkHealthy records that pods have become healthy for the first time.
	MarkHealthy struct{ Pods []trysail.PodRecord }

	// StopPod records that a pod shall not run any more; it is ended by a later plan, from the record.
	StopPod struct {
		Pod    trysail.PodRecord
		Reason string
		Failed bool
	}

	// EndPod drains and stops a pod, which has left rotation, and closes its record.
	EndPod struct {
		Pod trysail.PodRecord
		// Drain is how long requests in flight may take before they are cut.
		Drain time.Duration
	}

	// SetRoute tells the edge what to do with requests for the service, and the private network who answers other
	// services.
	SetRoute struct {
		Route   trysail.Route
		Private trysail.PrivateService
	}

	// Activate makes a version the ACTIVE one. The edge already sends requests to it.
	Activate struct {
		Version int
		Healthy []trysail.PodRecord
	}

	// Fail ends the activation of a version. The ACTIVE one, if any, stays.
	Fail struct {
		Version     int
		TookTooLong bool
	}

	// Revert gives an update up and goes back to the capacity before it.
	Revert struct{ Reason string }

	// EndForward makes a service that had moved away answer here again. Its pods are healthy.
	EndForward struct{}

	// Settle ends a transition.
	Settle struct{ State trysail.ServiceState }

	// RemoveService forgets the service with all that belongs to it.
	RemoveService struct{}
)

func (s Begin) String() string       { return fmt.Sprintf("begin version %d", s.Version) }
func (s BeginUpdate) String() string { return "begin update" }
func (s SetDetail) String() string   { return "detail " + s.Detail.Code + ": " + s.Detail.Message }

func (s PrepareImages) String() string { return fmt.Sprintf("prepare images of version %d", s.Version) }

func (s CreatePods) String() string {
	var slots []string
	for _, p := range s.Pods {
		slots = append(slots, fmt.Sprintf("%s/%d", p.Power, p.Slot))
	}
	return fmt.Sprintf("create pods of version %d: %s", s.Version, strings.Join(slots, " "))
}
func (s TryFixes) String() string    { return fmt.Sprintf("try fixes in %d pods", len(s.Pods)) }
func (s StartPod) String() string    { return "start " + string(s.Pod.ID) }
func (s MarkHealthy) String() string { return fmt.Sprintf("mark %d pods healthy", len(s.Pods)) }
func (s StopPod) String() string     { return fmt.Sprintf("stop %s (%s)", s.Pod.ID, s.Reason) }
func (s EndPod) String() string      { return "end " + string(s.Pod.ID) }
func (s SetRoute) String() string {
	serving := 0
	for _, t := range s.Route.Targets {
		if t.Serving {
			serving++
		}
	}
	return fmt.Sprintf("route mode %d, %d of %d targets serving, %d pods private", s.Route.Mode, serving, len(s.Route.Targets), len(s.Private.Pods))
}
func (s Activate) String() string { return fmt.Sprintf("activate version %d", s.Version) }
func (s Fail) String() string {
	return fmt.Sprintf("fail version %d (too long: %v)", s.Version, s.TookTooLong)
}
func (s Revert) String() string        { return "revert update: " + s.Reason }
func (s EndForward) String() string    { return "end forwarding" }
func (s Settle) String() string        { return "settle " + string(s.State) }
func (s RemoveService) String() string { return "remove service" }
