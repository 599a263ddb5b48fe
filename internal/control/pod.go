package control

import (
	"cmp"
	"context"
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// ListPodsInput is the request of ListPods.
type ListPodsInput struct {
	ServiceName string
	Version     int  // 0: all kept versions
	Ended       bool // also those that have ended
}

// ListPods lists the pods of a service, newest first, with the reason why each was stopped. Errors: NotFound (service).
func (c *Control) ListPods(ctx context.Context, caller trysail.Caller, in ListPodsInput) (list []trysail.PodRecord, err error) {
	if err := caller.May(trysail.RoleRead, "ListPods", in.ServiceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, in.ServiceName)
		if err != nil {
			return err
		}
		list, err = tx.Pods(s.ID, in.Ended)
		return err
	})
	list = slices.DeleteFunc(list, func(p trysail.PodRecord) bool { return in.Version != 0 && p.Version != in.Version })
	slices.SortStableFunc(list, func(a, b trysail.PodRecord) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.Slot, b.Slot))
	})
	return list, err
}
