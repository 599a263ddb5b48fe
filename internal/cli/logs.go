package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

// logOptions are the flags of logs.
type logOptions struct {
	access       bool
	follow       bool
	filter       string
	since, until string
	container    []string
	version      int
	previous     bool
	tail         int
	noTime       bool

	from, to time.Time // since and until; zero if not given
	json     bool
}

func (a *App) logsCommand() *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use:   "logs SERVICE [CONTAINER]",
		Short: "Print or follow the log of a service's containers",
		Long: `Print or follow the log of a service's containers: what they write to standard output and standard error, on all
nodes and in all versions, and what the service says about its deployments.

Without CONTAINER the logs of all containers are merged, and each line names its container.`,
		Example: `  trysail logs web -f
  trysail logs web app --since 10m --filter 'ERROR -timeout'
  trysail logs web --version 7 --container app
  trysail logs web --previous -n 50
  trysail logs web --since 2026-11-20T10:00:00Z --until 2026-11-20T11:00:00Z
  trysail logs web --access -o json --since 1h | jq 'select(.status >= 500)'`,
		Args:              rangeArgs(1, "SERVICE", "CONTAINER"),
		ValidArgsFunction: a.completeContainer,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with new lines as they are written")
	cmd.Flags().StringVar(&o.filter, "filter", "", `only lines that match: ERROR, "ERROR timeout" (both), "?ERROR ?WARN" (either), -DEBUG (not)`)
	cmd.Flags().StringVar(&o.since, "since", "", "only lines from then on: 10m, 36h, 2026-11-20, 2026-11-20T10:00:00Z, or Unix seconds")
	cmd.Flags().StringVar(&o.until, "until", "", "only lines up to then")
	cmd.Flags().BoolVar(&o.access, "access", false, "the requests that the edge served, instead of what containers wrote; see trysail settings")
	cmd.Flags().StringSliceVar(&o.container, "container", nil, "only the log of this container; may be repeated; the same as CONTAINER")
	cmd.Flags().IntVar(&o.version, "version", 0, "only lines of this version of the service")
	cmd.Flags().BoolVar(&o.previous, "previous", false, "only lines of the pods that ended last: what a container said before it was restarted or replaced")
	cmd.Flags().IntVarP(&o.tail, "tail", "n", -1, "only the last so many lines; -1: all")
	cmd.Flags().BoolVar(&o.noTime, "no-time", false, "leave out the time of each line")
	a.completeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.parse(time.Now()); err != nil {
			return err
		}
		if o.access && (len(args) > 1 || len(o.container) > 0 || o.version != 0 || o.previous) {
			return Usagef("--access is for the whole service: it excludes CONTAINER, --version and --previous")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		o.json = asJSON
		return a.logs(cmd.Context(), c, o, args)
	}
	return cmd
}

// parse checks the flags. Errors: usage.
func (o *logOptions) parse(now time.Time) (err error) {
	if o.from, err = parseTime("--since", o.since, now); err != nil {
		return err
	}
	if o.to, err = parseTime("--until", o.until, now); err != nil {
		return err
	}
	if o.version < 0 {
		return Usagef("--version must be 1 or more")
	}
	if o.follow && o.previous {
		return Usagef("--follow and --previous exclude each other: what has ended writes no more")
	}
	if o.follow && o.until != "" {
		return Usagef("--follow and --until exclude each other")
	}
	if !o.to.IsZero() && o.to.Before(o.from) {
		return Usagef("--until lies before --since")
	}
	return nil
}

// parseTime reads a time, or how long ago it was.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return time.Unix(n, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", time.DateTime, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, Usagef("%s %q is no time; examples: 10m, 36h, 2d, 2026-11-20T10:00:00Z", flag, s)
}

func (a *App) logs(ctx context.Context, c *client, o logOptions, args []string) error {
	if c.onAWS() && (o.version != 0 || o.previous) {
		return Usagef("--version and --previous are for Trysail only: AWS does not say which version wrote a line")
	}
	service, containers := args[0], append(args[1:], o.container...)
	all := len(containers) == 0 && !o.access
	if o.access {
		containers = []string{"access"}
		if err := a.noteAccessLog(ctx, c, service); err != nil {
			return err
		}
	}
	if all {
		var err error
		if containers, err = c.containers(ctx, service, o); err != nil {
			return err
		}
	}
	slices.Sort(containers)
	containers = slices.Compact(containers)
	p := &logPrinter{w: bufio.NewWriter(a.Out), options: o}
	p.align(containers)
	var err error
	if o.follow {
		err = a.followLogs(ctx, c, p, service, containers, all && o.version == 0)
	} else {
		err = readLogs(ctx, c, p, service, containers)
	}
	if o.follow && errors.Is(err, context.Canceled) {
		err = nil // Ctrl-C is how following ends
	}
	return errors.Join(err, p.w.Flush())
}

// containers lists the containers of the version that is asked for. Else it lists those of the service's deployments
// that run or shall run, or else of the newest one; for what has ended, of all versions that are kept.
func (c *client) containers(ctx context.Context, service string, o logOptions) ([]string, error) {
	if o.version != 0 || o.previous {
		return c.containersOf(ctx, service, o.version)
	}
	s, err := c.service(ctx, service)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range []*types.ContainerServiceDeployment{s.CurrentDeployment, s.NextDeployment} {
		if d != nil {
			names = append(names, containerNames(d)...)
		}
	}
	if len(names) == 0 {
		out, err := c.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &service})
		if err != nil {
			return nil, err
		}
		if len(out.Deployments) > 0 {
			names = containerNames(&out.Deployments[0])
		}
	}
	if len(names) == 0 {
		return nil, WithHint(fmt.Errorf("service %q has no deployment yet, so it has no log", service),
			"Make one with: trysail deploy %s -f FILE", service)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// containersOf lists the containers of a version, or of all versions that are kept.
func (c *client) containersOf(ctx context.Context, service string, version int) (names []string, err error) {
	out, err := c.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &service})
	if err != nil {
		return nil, err
	}
	for i := range out.Deployments {
		if d := &out.Deployments[i]; version == 0 || d.Version != nil && int(*d.Version) == version {
			names = append(names, containerNames(d)...)
		}
	}
	if len(names) == 0 {
		return nil, WithHint(fmt.Errorf("service %q has no version %d", service, version), "See which there are with: trysail deployments %s", service)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// query is what is asked of the log of a container.
func (o *logOptions) query(c *client, service, container string) logQuery {
	return logQuery{
		service: service, container: container, filter: o.filter, version: o.version, previous: o.previous, pods: o.json && !c.onAWS(), access: o.access,
	}
}

// line is one line of the log of one of several containers.
type line struct {
	container string
	event
}

// isSystem reports whether the service wrote the line; it writes the same line into the log of each container.
func (l line) isSystem() bool {
	return strings.HasPrefix(l.message, "[deployment:") || strings.HasPrefix(l.message, "[trysail]")
}

// readLogs prints what there is.
func readLogs(ctx context.Context, c *client, p *logPrinter, service string, containers []string) error {
	logs := make([]iter.Seq2[event, error], len(containers))
	for i, name := range containers {
		logs[i] = events(c.logPages(ctx, p.options.query(c, service, name), p.options.from, p.options.to))
	}
	var last []line // with --tail
	for l, err := range merge(containers, logs) {
		if err != nil {
			return err
		}
		if p.options.tail < 0 {
			if err := p.print(l); err != nil {
				return err
			}
			continue
		}
		// Twice as many as needed are kept, so that dropping the rest is rare.
		if last = append(last, l); len(last) >= 2*p.options.tail+1 {
			last = append(last[:0], last[len(last)-p.options.tail:]...)
		}
	}
	return p.printTail(last)
}

// merge yields the lines of several logs by time. Lines of the service that are in more than one come once.
func merge(containers []string, logs []iter.Seq2[event, error]) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		type head struct {
			line
			next func() (event, error, bool)
		}
		var heads []head
		for i, log := range logs {
			next, stop := iter.Pull2(log)
			defer stop()
			e, err, ok := next()
			if err != nil {
				yield(line{}, err)
				return
			}
			if ok {
				heads = append(heads, head{line{containers[i], e}, next})
			}
		}
		var seen onceOnly
		for len(heads) > 0 {
			first := 0
			for i := range heads {
				if heads[i].at < heads[first].at {
					first = i
				}
			}
			if h := heads[first]; seen.isNew(h.line) && !yield(h.line, nil) {
				return
			}
			e, err, ok := heads[first].next()
			if err != nil {
				yield(line{}, err)
				return
			}
			if ok {
				heads[first].event = e
			} else {
				heads = slices.Delete(heads, first, first+1)
			}
		}
	}
}

// onceOnly recognises the lines of the service that were seen in the log of another container. They carry the same
// time, so only the newest are kept.
type onceOnly struct {
	at   int64
	seen map[event]string // by which container
}

func (o *onceOnly) isNew(l line) bool {
	if !l.isSystem() {
		return true
	}
	if l.at != o.at || o.seen == nil {
		o.at, o.seen = l.at, map[event]string{}
	}
	if by, ok := o.seen[l.event]; ok && by != l.container {
		return false
	}
	o.seen[l.event] = l.container
	return true
}

// listAgain is how often a follower of a whole service looks which containers it has.
const listAgain = 3 * time.Second

// followLogs prints what there is and what is added, until ctx ends. With grow, the containers of later deployments are
// followed too.
func (a *App) followLogs(ctx context.Context, c *client, p *logPrinter, service string, containers []string, grow bool) error {
	var followers []*follower
	for _, name := range containers {
		followers = append(followers, &follower{client: c, logQuery: p.options.query(c, service, name), from: p.options.from})
	}
	var down time.Time
	listed := time.Now()
	interval := 100 * time.Millisecond
	slowest := time.Second
	if c.onAWS() {
		slowest = 5 * time.Second
	}
	for first := true; ; {
		if grow && time.Since(listed) > listAgain && down.IsZero() {
			listed = time.Now()
			// A failure shows with the next read, or is none.
			if now, err := c.containers(ctx, service, p.options); err == nil {
				for _, name := range now {
					if !slices.Contains(containers, name) {
						containers = append(containers, name)
						followers = append(followers, &follower{client: c, logQuery: p.options.query(c, service, name), from: p.options.from})
					}
				}
				p.align(containers)
			}
		}
		lines, err := round(ctx, followers)
		switch {
		case err == nil:
			down = time.Time{}
		case !isNetwork(err):
			return err
		case down.IsZero():
			down = time.Now()
			a.complain(fmt.Errorf("%s does not answer; waiting for it", c.settings.endpoint))
		case time.Since(down) > outage:
			return err
		}
		if len(lines) > 0 {
			interval = 100 * time.Millisecond
		} else {
			interval = min(interval*5/4, slowest)
		}
		if first && p.options.tail >= 0 {
			err = p.printTail(lines)
		} else {
			err = p.printAll(lines)
		}
		if err := errors.Join(err, p.w.Flush()); err != nil {
			return err
		}
		first = first && len(lines) == 0
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}

// round reads once what is new in all logs, by time.
func round(ctx context.Context, followers []*follower) ([]line, error) {
	var lines []line
	for _, f := range followers {
		if err := f.next(ctx, func(e event) { lines = append(lines, line{f.container, e}) }); err != nil {
			return lines, err
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	var seen onceOnly
	return slices.DeleteFunc(lines, func(l line) bool { return !seen.isNew(l) }), nil
}

// logPrinter prints lines as the flags ask for.
type logPrinter struct {
	w       *bufio.Writer
	options logOptions
	column  int // width of the containers' names; 0: they are left out
}

// align makes room for the names of the containers.
func (p *logPrinter) align(containers []string) {
	if len(containers) < 2 {
		return
	}
	for _, name := range containers {
		p.column = max(p.column, len(name))
	}
}

func (p *logPrinter) printTail(lines []line) error {
	if n := p.options.tail; n >= 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return p.printAll(lines)
}

func (p *logPrinter) printAll(lines []line) error {
	for _, l := range lines {
		if err := p.print(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *logPrinter) print(l line) error {
	if p.options.json && !p.options.access { // lines of the access log are JSON themselves
		fields := map[string]any{"createdAt": l.time(), "containerName": l.container, "message": l.message}
		if l.pod != "" {
			fields["podId"], fields["stream"] = l.pod, l.stream
		}
		if l.version != 0 {
			fields["version"] = l.version
		}
		return printLine(p.w, fields)
	}
	if !p.options.noTime && !p.options.json {
		fmt.Fprintf(p.w, "%s  ", l.time().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	if p.column > 0 {
		fmt.Fprintf(p.w, "%-*s  ", p.column, l.container)
	}
	_, err := io.WriteString(p.w, l.message+"\n")
	return err
}
