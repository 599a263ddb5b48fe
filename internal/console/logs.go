package console

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

const (
	// shownLines is how many lines a page of a log has.
	shownLines = 500
	// overlap is how far back a live log looks each time: lines of several containers arrive slightly out of order.
	overlap = 3 * time.Second
	// accessLog is the value of the container's field that stands for the access log.
	accessLog = "access log"
)

// logsView is the page of a log.
type logsView struct {
	Containers        []string // to choose from
	Chosen            string   // container or accessLog; empty: all containers
	Versions          []int
	Version           int
	Ranges            []rangeChoice
	Range             string
	From, To          string // as typed
	Query             string
	Lines             []logLine
	More              bool // there are earlier lines in the range
	Incomplete        bool // not the whole range was searched
	AccessOff         bool
	Access, Following bool
	Problem           string
	Missing           []string // servers whose newest lines may be missing
}

// rangeChoice is a time range to choose.
type rangeChoice struct {
	Value, Label string
	length       time.Duration
}

func logRanges() []rangeChoice {
	return []rangeChoice{
		{"15m", "15 minutes", 15 * time.Minute},
		{"1h", "1 hour", time.Hour},
		{"6h", "6 hours", 6 * time.Hour},
		{"24h", "24 hours", 24 * time.Hour},
		{"7d", "7 days", 7 * 24 * time.Hour},
	}
}

// logLine is a line as it is shown.
type logLine struct {
	control.LogEvent
	Container string
	Request   *accessLine // of the access log
}

// Kind is the class of the line's row.
func (l logLine) Kind() string {
	switch {
	case l.Request != nil && l.Request.Status >= 500:
		return "err"
	case l.Request != nil:
		return ""
	case l.Pod == "":
		return "sys"
	case l.Stderr:
		return "err"
	}
	return ""
}

// accessLine is what is shown of a line of the access log.
type accessLine struct {
	Method   string  `json:"method"`
	Host     string  `json:"host"`
	Path     string  `json:"path"`
	Query    string  `json:"query"`
	Status   int     `json:"status"`
	Duration float64 `json:"duration"`
	Client   string  `json:"client"`
	Version  int     `json:"version"`
}

// question is what a page of a log asks for.
type question struct {
	service    string
	containers []string
	access     bool
	version    int
	pod        string // empty: all
	query      string
	start, end time.Time // end is zero for a log that goes on

	missing []string // servers whose newest lines may be missing from what was answered
}

// showLogs is the log of a service: search, time range, version and container, and live if the range ends now.
func (c *Console) showLogs(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	view, q, err := readLogForm(v.URL.Query(), all, time.Now())
	q.service = s.Name
	p := c.servicePage(s, &page{Template: "logs", Title: "Logs", Tab: "logs", D: view})
	if err != nil {
		return problem(p, view, err)
	}
	if isStream(v.Request) {
		p.Follow = c.follower(v, q)
		return p, nil
	}
	if view.Lines, view.More, view.Incomplete, err = c.tail(v, q, time.Now()); err != nil {
		return problem(p, view, err)
	}
	view.Missing = slices.Compact(slices.Sorted(slices.Values(q.missing)))
	if view.Access {
		settings, err := c.control.GetServiceSettings(v.Context(), v.caller, s.Name)
		if err != nil {
			return nil, err
		}
		view.AccessOff = !settings.AccessLog
	}
	if q.end.IsZero() {
		view.Following, p.Live = true, true
		since := time.Now()
		if n := len(view.Lines); n > 0 {
			since = view.Lines[n-1].CreatedAt
		}
		u := *v.URL
		values := u.Query()
		values.Set("since", strconv.FormatInt(since.UnixNano(), 10))
		u.RawQuery = values.Encode()
		p.LiveURL = u.RequestURI()
	}
	return p, nil
}

// problem shows what is wrong with the question in the page itself.
func problem(p *page, view *logsView, err error) (*page, error) {
	if trysail.ErrorCode(err) != trysail.CodeInvalid {
		return nil, err
	}
	view.Problem, p.Status = textOf(err), statusOf(err)
	return p, nil
}

// readLogForm takes what is asked for. Errors: Invalid.
func readLogForm(v url.Values, all []trysail.Deployment, now time.Time) (*logsView, *question, error) {
	view := &logsView{
		Chosen: v.Get("container"), Ranges: logRanges(), Range: v.Get("range"), Query: strings.TrimSpace(v.Get("q")),
		From: strings.TrimSpace(v.Get("from")), To: strings.TrimSpace(v.Get("to")),
	}
	names := map[string]bool{}
	for _, d := range all {
		view.Versions = append(view.Versions, d.Version)
		for _, name := range d.ContainerNames() {
			names[name] = true
		}
	}
	view.Containers = slices.Sorted(maps.Keys(names))
	q := &question{containers: view.Containers, query: view.Query}
	switch {
	case view.Chosen == accessLog:
		view.Access, q.access = true, true
	case view.Chosen != "":
		q.containers = []string{view.Chosen}
	}
	if text := v.Get("version"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return view, q, trysail.Errorf(trysail.CodeInvalid, "The version must be a number.")
		}
		view.Version, q.version = n, n
	}
	if view.Range == "" {
		view.Range = "1h"
		if q.version != 0 {
			view.Range = "7d"
		}
	}
	i := slices.IndexFunc(view.Ranges, func(r rangeChoice) bool { return r.Value == view.Range })
	if i < 0 {
		return view, q, trysail.Errorf(trysail.CodeInvalid, "The time range is not one of those offered.")
	}
	q.start = now.Add(-view.Ranges[i].length)
	for text, to := range map[string]*time.Time{view.From: &q.start, view.To: &q.end} {
		if text == "" {
			continue
		}
		t, err := parseTime(text)
		if err != nil {
			return view, q, err
		}
		*to = t
	}
	if !q.end.IsZero() && q.end.Before(q.start) {
		return view, q, trysail.Errorf(trysail.CodeInvalid, "The start time must not be after the end time.")
	}
	return view, q, nil
}

// parseTime reads a time as browsers and people write it, in UTC.
func parseTime(text string) (time.Time, error) {
	for _, form := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339Nano, "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, trysail.Errorf(trysail.CodeInvalid, "Time %q is not valid. Write it as 2026-11-21 12:30, in UTC.", text)
}

// tail finds the last lines of the question. It looks at the end of the range first, so that a busy log is not read as a
// whole. incomplete says that the search was given up before it had seen everything.
func (c *Console) tail(v *visit, q *question, now time.Time) (lines []logLine, more, incomplete bool, err error) {
	end := q.end
	if end.IsZero() {
		end = now
	}
	length := end.Sub(q.start)
	for _, part := range []time.Duration{64, 8, 1} {
		from := end.Add(-length / part)
		if part == 1 {
			from = q.start
		}
		if lines, incomplete, err = c.lines(v.Context(), v.caller, q, from, q.end); err != nil {
			return nil, false, false, err
		}
		if len(lines) > shownLines {
			return lines[len(lines)-shownLines:], true, incomplete, nil
		}
	}
	return lines, false, incomplete, nil
}

// lines reads a range of all the logs that are asked for, ascending by time.
func (c *Console) lines(ctx context.Context, caller trysail.Caller, q *question, from, to time.Time) (all []logLine, incomplete bool, err error) {
	read := q.containers
	if q.access {
		read = []string{accessLog}
	}
	for i, name := range read {
		found, cut, err := c.linesOf(ctx, caller, q, name, from, to)
		if gone(err) && len(read) > 1 {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		incomplete = incomplete || cut
		for _, l := range found {
			if i == 0 || l.Pod != "" { // the system's lines are in the log of each container
				all = append(all, l)
			}
		}
	}
	if len(read) > 1 {
		slices.SortStableFunc(all, func(a, b logLine) int { return a.CreatedAt.Compare(b.CreatedAt) })
	}
	return all, incomplete, nil
}

func (c *Console) linesOf(ctx context.Context, caller trysail.Caller, q *question, name string, from, to time.Time) (list []logLine, cut bool, err error) {
	in := control.GetPodLogInput{Version: q.version, PodID: q.pod}
	in.ServiceName, in.ContainerName, in.StartTime, in.FilterPattern = q.service, name, &from, q.query
	if !to.IsZero() {
		in.EndTime = &to
	}
	for range maxPages {
		var found *control.LogPage
		if q.access {
			found, err = c.control.GetAccessLog(ctx, caller, in.GetContainerLogInput)
		} else {
			found, err = c.control.GetPodLog(ctx, caller, in)
		}
		if err != nil {
			return nil, false, err
		}
		q.missing = found.MissingServers
		for _, e := range found.Events {
			l := logLine{LogEvent: e, Container: name}
			if q.access {
				l.Request = readAccess(e.Message)
				if q.version != 0 && l.Request.Version != q.version {
					continue
				}
			}
			list = append(list, l)
		}
		if len(list) > 4*shownLines { // of a busy log the end is what matters
			list = slices.Clone(list[len(list)-2*shownLines:])
		}
		if in.PageToken = found.NextPageToken; in.PageToken == "" {
			return list, false, nil
		}
	}
	return list, true, nil
}

// readAccess reads a line of the access log; what cannot be read is shown as it is.
func readAccess(message string) *accessLine {
	var a accessLine
	if json.Unmarshal([]byte(message), &a) != nil {
		return &accessLine{Path: message}
	}
	return &a
}

// follower returns what finds the lines that came since it was asked last. The browser says where it was when it asks
// again after an interruption.
func (c *Console) follower(v *visit, q *question) func() ([]logLine, string, error) {
	mark := time.Now()
	for _, text := range []string{v.URL.Query().Get("since"), v.Header.Get("Last-Event-ID")} {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
			mark = time.Unix(0, n)
		}
	}
	if oldest := time.Now().Add(-time.Hour); mark.Before(oldest) {
		mark = oldest
	}
	key := func(l logLine) string {
		return fmt.Sprint(l.CreatedAt.UnixNano(), l.Pod, l.Container, l.Message)
	}
	var seen map[string]time.Time // lines that were sent, by what makes them different
	return func() (fresh []logLine, id string, err error) {
		found, _, err := c.lines(v.Context(), v.caller, q, mark.Add(-overlap), time.Time{})
		if err != nil {
			return nil, "", err
		}
		first := seen == nil
		if first {
			seen = map[string]time.Time{}
		}
		newest := mark
		for _, l := range found {
			_, known := seen[key(l)]
			seen[key(l)] = l.CreatedAt
			if known || first && !l.CreatedAt.After(mark) {
				continue
			}
			fresh = append(fresh, l)
			if l.CreatedAt.After(newest) {
				newest = l.CreatedAt
			}
		}
		mark = newest
		maps.DeleteFunc(seen, func(_ string, at time.Time) bool { return at.Before(mark.Add(-overlap)) })
		return fresh, strconv.FormatInt(mark.UnixNano(), 10), nil
	}
}
