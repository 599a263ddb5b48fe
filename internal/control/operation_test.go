package control_test

import (
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

func TestOperations_AreRecordedAndEnd(t *testing.T) {
	b := newBed(t, nil)
	in := containers()
	if _, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{ServiceName: "web", Power: "nano", Scale: 1, Deployment: &in}); err != nil {
		t.Fatal(err)
	}
	tagged, err := b.TagResource(t.Context(), caller, "web", nil, []trysail.Tag{{Key: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	list := func() map[string]trysail.Operation {
		t.Helper()
		page, err := b.GetOperationsForResource(t.Context(), caller, "web", "")
		if err != nil || page.NextPageToken != "" {
			t.Fatalf("got %+v, %v", page, err)
		}
		byType := map[string]trysail.Operation{}
		for _, o := range page.Operations {
			byType[o.Type] = o
		}
		return byType
	}
	got := list()
	if len(got) != 3 || got["CreateContainerService"].Status != trysail.OperationStarted || got["TagResource"] != tagged[0] {
		t.Errorf("got %+v", got)
	}
	if d := got["CreateContainerServiceDeployment"]; d.Status != trysail.OperationStarted || d.Details != "deployment 1" {
		t.Errorf("the deployment: %+v", d)
	}
	b.update(func(tx *store.Tx) error {
		return tx.FinishOperations("web", trysail.OperationFailed, "EXIT-CODE", "why")
	})
	one, err := b.GetOperation(t.Context(), caller, got["CreateContainerServiceDeployment"].ID)
	if err != nil || one.Status != trysail.OperationFailed || one.ErrorCode != "EXIT-CODE" || one.ErrorDetails != "why" || one.ChangedAt.IsZero() {
		t.Errorf("after the failure: %+v, %v", one, err)
	}
	if list()["TagResource"].Status != trysail.OperationSucceeded {
		t.Error("an operation that had ended was changed")
	}
	b.refused(trysail.CodeNotFound, `Operation "nope" not found.`, func() error { _, err := b.GetOperation(t.Context(), caller, "nope"); return err })
	b.refused(trysail.CodeNotFound, `Service "nope" not found.`, func() error { _, err := b.GetOperationsForResource(t.Context(), caller, "nope", ""); return err })
	b.refused(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.", func() error {
		_, err := b.GetOperations(t.Context(), caller, "x")
		return err
	})
}
