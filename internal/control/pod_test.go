package control_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

func TestListPods(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceReady, trysail.DeploymentActive)
	id := b.service().ID
	at := time.Now()
	b.update(func(tx *store.Tx) error {
		if err := tx.InsertDeployment(id, &trysail.Deployment{State: trysail.DeploymentFailed}); err != nil {
			return err
		}
		crashed := &trysail.PodRecord{ID: "crashed", ServiceID: id, Version: 2, CreatedAt: at.Add(time.Second)}
		running := &trysail.PodRecord{ID: "running", ServiceID: id, Version: 1, CreatedAt: at}
		if err := errors.Join(tx.InsertPod(running), tx.InsertPod(crashed)); err != nil {
			return err
		}
		crashed.StopAt, crashed.EndedAt, crashed.Failed, crashed.Reason = at, at, true, "container app exited with code 3"
		return tx.UpdatePod(crashed)
	})
	for name, tc := range map[string]struct {
		in   control.ListPodsInput
		want []trysail.PodID
	}{
		"running": {control.ListPodsInput{ServiceName: "web"}, []trysail.PodID{"running"}},
		"all":     {control.ListPodsInput{ServiceName: "web", Ended: true}, []trysail.PodID{"crashed", "running"}},
		"version": {control.ListPodsInput{ServiceName: "web", Ended: true, Version: 2}, []trysail.PodID{"crashed"}},
	} {
		list, err := b.ListPods(t.Context(), caller, tc.in)
		var got []trysail.PodID
		for _, p := range list {
			got = append(got, p.ID)
		}
		if d := cmp.Diff(tc.want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
	b.refused(trysail.CodeNotFound, `Service "nope" not found.`, func() error {
		_, err := b.ListPods(t.Context(), caller, control.ListPodsInput{ServiceName: "nope"})
		return err
	})
}
