package cli

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
)

// event is one line of a container's log. It is comparable: two equal ones cannot be told apart.
type event struct {
	at      int64 // Unix time in nanoseconds
	message string
}

func (e event) time() time.Time { return time.Unix(0, e.at).UTC() }

// overlap is how far back a follower reads again: lines of several nodes are merged by time, so a line may appear
// before one that was read already.
const overlap = 2 * time.Second

// settling is how long after an outage of the server older lines may still turn up, as it catches up with what the
// containers wrote meanwhile.
const settling = 10 * time.Second

// follower reads a container's log piece by piece, each line once.
//
// The API gives no position to continue from after the last page, only times, and several lines may share one. So each
// read begins a little before the newest line of the last one, and counts: of equal lines, as many are new as there
// are more than last time.
type follower struct {
	*client
	service, container, filter string
	// from is where the next read begins; zero: at the oldest line that is kept.
	from time.Time

	newest int64
	shown  map[event]int // the lines from from on that were shown, and how often
	hold   time.Time     // from stays where it is until then
}

// next calls emit for each line that has appeared since, oldest first. After an error nothing is lost: the next call
// continues.
func (f *follower) next(ctx context.Context, emit func(event)) error {
	count := map[event]int{}
	for page, err := range f.logPages(ctx, f.service, f.container, f.filter, f.from, time.Time{}) {
		if err != nil {
			if isNetwork(err) {
				f.hold = time.Now().Add(settling)
			}
			f.remember(count)
			return err
		}
		for _, e := range page {
			if count[e]++; count[e] > f.shown[e] {
				emit(e)
			}
			f.newest = max(f.newest, e.at)
		}
		f.advance()
		f.forget(count)
	}
	f.remember(count)
	return nil
}

// advance moves the begin of the next read behind the newest line.
func (f *follower) advance() {
	if f.newest == 0 || time.Now().Before(f.hold) {
		return
	}
	// The SDK sends milliseconds and cuts off the rest, so a read never begins later than asked for.
	if begin := time.Unix(0, f.newest).Add(-overlap).Truncate(time.Millisecond); begin.After(f.from) {
		f.from = begin
	}
}

// remember keeps what was shown for the next read.
func (f *follower) remember(count map[event]int) {
	if f.shown == nil {
		f.shown = map[event]int{}
	}
	for e, n := range count {
		f.shown[e] = max(f.shown[e], n)
	}
	f.forget(f.shown)
}

// forget drops the lines that no later read will see.
func (f *follower) forget(count map[event]int) {
	if f.from.IsZero() {
		return
	}
	begin := f.from.UnixNano()
	maps.DeleteFunc(count, func(e event, _ int) bool { return e.at < begin })
}

// logPages reads a log page by page; zero times stand for no limit.
func (c *client) logPages(ctx context.Context, service, container, filter string, from, until time.Time) iter.Seq2[[]event, error] {
	in := &lightsail.GetContainerLogInput{ServiceName: &service, ContainerName: &container}
	if filter != "" {
		in.FilterPattern = &filter
	}
	if !from.IsZero() {
		in.StartTime = &from
	}
	if !until.IsZero() {
		in.EndTime = &until
	}
	return func(yield func([]event, error) bool) {
		for {
			out, err := c.GetContainerLog(ctx, in)
			if err != nil {
				yield(nil, err)
				return
			}
			page := make([]event, len(out.LogEvents))
			for i, e := range out.LogEvents {
				page[i] = event{aws.ToTime(e.CreatedAt).UnixNano(), aws.ToString(e.Message)}
			}
			if !yield(page, nil) || aws.ToString(out.NextPageToken) == "" {
				return
			}
			in.PageToken = out.NextPageToken
		}
	}
}

// events flattens the pages.
func events(pages iter.Seq2[[]event, error]) iter.Seq2[event, error] {
	return func(yield func(event, error) bool) {
		for page, err := range pages {
			if err != nil {
				yield(event{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func containerNames(d *types.ContainerServiceDeployment) []string {
	return slices.Sorted(maps.Keys(d.Containers))
}
