package fleet

import (
	"context"
	"slices"
	"time"

	"github.com/trysail/trysail"
)

// cutOff takes pods out of rotation that the engine does not have any more, when this server has not reached the store for
// so long that the others do not wait for it. It may be that the store is away for everybody: then nothing changes, and
// nothing is taken out. It reports whether all routes have to be read again when the store is back.
func (f *Fleet) cutOff(ctx context.Context) bool {
	f.mu.Lock()
	silent := time.Since(f.beaten)
	f.mu.Unlock()
	if silent < f.SilentTime || f.Pods == nil {
		return false
	}
	pods, err := f.Pods(ctx)
	if err != nil {
		return false // nobody says anything
	}
	there := map[trysail.PodID]trysail.Pod{}
	for _, p := range pods {
		there[p.ID] = p
	}
	f.following.Lock()
	defer f.following.Unlock()
	f.mu.Lock()
	var changed []trysail.Route
	for id, r := range f.routes {
		left := slices.DeleteFunc(slices.Clone(r.Targets), func(t trysail.Target) bool {
			p, ok := there[t.Pod]
			return !ok || p.Crashed() || p.Addr != t.Addr.Addr()
		})
		if len(left) == len(r.Targets) {
			continue
		}
		r.Targets, r.text = left, "" // as it is not what the store says
		f.routes[id] = r
		changed = append(changed, r.Route.Route)
		f.applied = 0 // when the store is back, everything is read
	}
	f.mu.Unlock()
	for _, r := range changed {
		f.Log.WarnContext(ctx, "without the database, pods that the engine does not have any more are taken out of rotation", "service", r.Service)
		f.Edge.Apply(r)
	}
	return len(changed) > 0
}
