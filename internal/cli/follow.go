package cli

import (
	"context"
	"iter"
	"maps"
	"math"
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
	// Only Trysail tells these, not AWS; and not of the service's own lines.
	pod, stream string
	version     int
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
	logQuery
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
	for page, err := range f.logPages(ctx, f.logQuery, f.from, time.Time{}) {
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

// logQuery is which lines of a container's log are wanted.
type logQuery struct {
	service, container, filter string
	version                    int    // 0: all
	previous                   bool   // only those of the pods that ended last
	pod                        string // only those of this one
	// pods asks for the pod of each line, which takes an operation that AWS does not have.
	pods bool
	// access asks for the service's access log instead.
	access bool
}

// logPages reads a log page by page; zero times stand for no limit.
func (c *client) logPages(ctx context.Context, q logQuery, from, until time.Time) iter.Seq2[[]event, error] {
	read := c.containerLog
	switch {
	case q.access:
		read = c.accessLog
	case q.pods || q.pod != "" || q.version != 0 || q.previous:
		read = c.podLog
	}
	return func(yield func([]event, error) bool) {
		for token := ""; ; {
			page, next, err := read(ctx, q, from, until, token)
			if err != nil {
				yield(nil, err)
				return
			}
			if token = next; !yield(page, nil) || token == "" {
				return
			}
		}
	}
}

// containerLog reads a page as any client of Lightsail does.
func (c *client) containerLog(ctx context.Context, q logQuery, from, until time.Time, token string) ([]event, string, error) {
	in := &lightsail.GetContainerLogInput{ServiceName: &q.service, ContainerName: &q.container}
	if q.filter != "" {
		in.FilterPattern = &q.filter
	}
	if !from.IsZero() {
		in.StartTime = &from
	}
	if !until.IsZero() {
		in.EndTime = &until
	}
	if token != "" {
		in.PageToken = &token
	}
	out, err := c.GetContainerLog(ctx, in)
	if err != nil {
		return nil, "", err
	}
	page := make([]event, len(out.LogEvents))
	for i, e := range out.LogEvents {
		page[i] = event{at: aws.ToTime(e.CreatedAt).UnixNano(), message: aws.ToString(e.Message)}
	}
	return page, aws.ToString(out.NextPageToken), nil
}

// podLog reads a page with what Trysail knows of each line.
func (c *client) podLog(ctx context.Context, q logQuery, from, until time.Time, token string) ([]event, string, error) {
	return c.ownLog(ctx, "GetPodLog", map[string]any{"serviceName": q.service, "containerName": q.container}, q, from, until, token)
}

// accessLog reads a page of the requests that the edge served.
func (c *client) accessLog(ctx context.Context, q logQuery, from, until time.Time, token string) ([]event, string, error) {
	return c.ownLog(ctx, "GetAccessLog", map[string]any{"serviceName": q.service}, q, from, until, token)
}

func (c *client) ownLog(ctx context.Context, operation string, in map[string]any, q logQuery, from, until time.Time, token string) ([]event, string, error) {
	if q.filter != "" {
		in["filterPattern"] = q.filter
	}
	if q.version != 0 {
		in["version"] = q.version
	}
	if q.previous {
		in["previous"] = true
	}
	if q.pod != "" {
		in["podId"] = q.pod
	}
	// Milliseconds, as the SDK sends them; what is less is cut off.
	if !from.IsZero() {
		in["startTime"] = float64(from.UnixMilli()) / 1000
	}
	if !until.IsZero() {
		in["endTime"] = float64(until.UnixMilli()) / 1000
	}
	if token != "" {
		in["pageToken"] = token
	}
	var out struct {
		LogEvents []struct {
			CreatedAt              float64
			Message, PodID, Stream string
			Version                int
		}
		NextPageToken  string
		MissingServers []string
	}
	if err := c.call(ctx, operation, in, &out); err != nil {
		return nil, "", err
	}
	c.noteMissing(out.MissingServers)
	page := make([]event, len(out.LogEvents))
	for i, e := range out.LogEvents {
		at := time.UnixMilli(int64(math.Round(e.CreatedAt * 1000)))
		page[i] = event{at: at.UnixNano(), message: e.Message, pod: e.PodID, stream: e.Stream, version: e.Version}
	}
	return page, out.NextPageToken, nil
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
