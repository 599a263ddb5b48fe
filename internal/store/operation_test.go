package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

func TestStore_OperationsEndTogetherAndPage(t *testing.T) {
	both(t, testStoreOperationsEndTogetherAndPage)
}

func testStoreOperationsEndTogetherAndPage(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	insert := func(id, resource string, status trysail.OperationStatus) {
		update(t, s, func(tx *store.Tx) error {
			return tx.InsertOperation(trysail.Operation{ID: id, ResourceName: resource, Type: "T", Status: status, CreatedAt: tx.Now()})
		})
	}
	for i := range 5 {
		insert(fmt.Sprint("done", i), "web", trysail.OperationSucceeded)
	}
	insert("a", "web", trysail.OperationStarted)
	insert("b", "other", trysail.OperationStarted)
	insert("c", "web", trysail.OperationStarted)
	update(t, s, func(tx *store.Tx) error {
		return tx.FinishOperations("web", trysail.OperationFailed, "NET-WRONGPORT", "details")
	})
	err := s.View(t.Context(), func(tx *store.Tx) error {
		for id, want := range map[string]trysail.OperationStatus{"a": trysail.OperationFailed, "b": trysail.OperationStarted, "c": trysail.OperationFailed, "done1": trysail.OperationSucceeded} {
			o, err := tx.Operation(id)
			if err != nil || o.Status != want || (want == trysail.OperationFailed) != (o.ErrorCode == "NET-WRONGPORT" && o.ErrorDetails == "details") {
				t.Errorf("%s: %+v, %v, want %s", id, o, err, want)
			}
		}
		if _, err := tx.Operation("nope"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an unknown operation: %v", err)
		}
		var ids []string
		for before := int64(0); ; {
			list, next, err := tx.Operations("web", before, 3)
			if err != nil {
				return err
			}
			for _, o := range list {
				ids = append(ids, o.ID)
			}
			if before = next; next == 0 {
				break
			}
		}
		if got := fmt.Sprint(ids); got != "[c a done4 done3 done2 done1 done0]" {
			t.Errorf("pages: %s", got)
		}
		all, next, err := tx.Operations("", 0, 100)
		if len(all) != 8 || next != 0 {
			t.Errorf("all: %d, next %d", len(all), next)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
