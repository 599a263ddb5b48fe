package control_test

import (
	"errors"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

func TestGetDeploymentRecord(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceReady, trysail.DeploymentFailed)
	id := b.service().ID
	get := func(version int) func() error {
		return func() error { _, err := b.GetDeploymentRecord(t.Context(), caller, "web", version); return err }
	}
	b.refused(trysail.CodeNotFound, `Deployment 9 of service "web" not found.`, get(9))
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			tx.SetDeploymentEvidence(id, 1, &trysail.DeploymentEvidence{ReplacedBy: 7}),
			tx.InsertPod(&trysail.PodRecord{ID: "mine", ServiceID: id, Version: 1}), tx.InsertPod(&trysail.PodRecord{ID: "other", ServiceID: id, Version: 2}),
			tx.UpdatePod(&trysail.PodRecord{ID: "mine", ServiceID: id, Version: 1, EndedAt: tx.Now(), Evidence: &trysail.PodEvidence{Lost: true}}))
	})
	for _, version := range []int{0, 1} {
		r, err := b.GetDeploymentRecord(t.Context(), caller, "web", version)
		if err != nil || r.Deployment.Version != 1 || r.Diagnosis != nil || r.Evidence.ReplacedBy != 7 || len(r.Pods) != 1 || !r.Pods[0].Evidence.Lost {
			t.Errorf("version %d: %+v, %v", version, r, err)
		}
	}
}

func TestHoldAndCancelDeployment(t *testing.T) {
	b := newBed(t, nil)
	hold := func(d time.Duration) func() error {
		return func() error {
			return b.HoldDeployment(t.Context(), caller, control.HoldDeploymentInput{ServiceName: "web", Hold: d})
		}
	}
	cancel := func() error { return b.CancelDeployment(t.Context(), caller, "web") }
	b.refused(trysail.CodeNotFound, `Service "web" not found.`, cancel)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	b.refused(trysail.CodeInvalid, `No deployment of service "web" is in progress.`, cancel)
	b.refused(trysail.CodeInvalid, `No deployment of service "web" is in progress.`, hold(time.Minute))
	b.update(func(tx *store.Tx) error {
		return tx.InsertDeployment(b.service().ID, &trysail.Deployment{State: trysail.DeploymentActivating})
	})
	for _, d := range []time.Duration{-time.Second, 24*time.Hour + time.Second} {
		b.refused(trysail.CodeInvalid, "A failed deployment can be held for 0 to 86400 seconds.", hold(d))
	}
	if err := hold(time.Minute)(); err != nil || b.service().Next.Hold != time.Minute {
		t.Errorf("hold: %v, %s", err, b.service().Next.Hold)
	}
	changes := b.store.Subscribe()
	changes.Take()
	if err := cancel(); err != nil {
		t.Fatal(err)
	}
	r, err := b.GetDeploymentRecord(t.Context(), caller, "web", 0)
	if err != nil || r.Evidence.CanceledBy != caller.Name || r.Evidence.CanceledAt.IsZero() {
		t.Errorf("%+v, %v", r.Evidence, err)
	}
	if ids := changes.Take(); len(ids) != 1 {
		t.Errorf("nobody is told: %v", ids)
	}
	first := r.Evidence.CanceledAt
	if err := cancel(); err != nil {
		t.Error(err)
	}
	if r, _ := b.GetDeploymentRecord(t.Context(), caller, "web", 0); !r.Evidence.CanceledAt.Equal(first) {
		t.Error("the second call canceled it again")
	}
}
