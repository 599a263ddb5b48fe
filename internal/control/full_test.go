package control

import (
	"errors"
	"fmt"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

func TestClientError_FullDisk(t *testing.T) {
	cause := fmt.Errorf("committing: %w", store.ErrFull)
	err := clientError(cause)
	e, ok := errors.AsType[*trysail.Error](err)
	if !ok || e.Code != trysail.CodeUnavailable || e.Message != "The disk of this Trysail is full, so nothing was changed. Free some space and try again." {
		t.Errorf("got %#v, want a clear error of code %s", e, trysail.CodeUnavailable)
	}
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("the cause is gone from %v", err)
	}
	other := errors.New("other")
	if got := clientError(other); got != other { //nolint:errorlint // the very same, not wrapped
		t.Errorf("another error became %v", got)
	}
}
