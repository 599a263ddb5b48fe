package diagnose

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

// podCase is one pod of the version, with what was seen of it.
type podCase struct {
	*caseFile
	rec trysail.PodRecord
	e   *trysail.PodEvidence
}

// pods finds the cause in the pods. Each slot's newest pod says what the slot failed of in the end; its earlier ones count
// when it ended the same way.
func (c *caseFile) pods() (finding, bool) {
	slots := map[int][]podCase{}
	var order []int
	for _, rec := range c.Pods {
		if rec.Evidence == nil {
			continue
		}
		if _, seen := slots[rec.Slot]; !seen {
			order = append(order, rec.Slot)
		}
		slots[rec.Slot] = append(slots[rec.Slot], podCase{c, rec, rec.Evidence})
	}
	var all []finding
	for _, slot := range order {
		if f, ok := slotFinding(slots[slot]); ok {
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		return finding{}, false
	}
	if ended := func(f finding) bool { return f.rank <= rankExit }; !c.TookTooLong && slices.ContainsFunc(all, ended) {
		// The version failed of what ended, not of pods that had still time.
		all = slices.DeleteFunc(all, func(f finding) bool { return !ended(f) })
	}
	slices.SortStableFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(vague(a), vague(b)), cmp.Compare(a.rank, b.rank), compareTimes(a.at, b.at))
	})
	f := all[0]
	f.add(all[1:]...)
	f.add(c.autopsyHints()...)
	return f, true
}

// slotFinding is why the pods of one slot failed.
func slotFinding(pods []podCase) (finding, bool) {
	last := pods[len(pods)-1]
	if last.isFine() {
		return finding{}, false
	}
	f := last.finding()
	if f.rank > rankExit {
		if last.gotOver(pods[:len(pods)-1]) {
			return f, true
		}
		pods = pods[:len(pods)-1] // it was only just started
	}
	// Of starts that ended differently, what happened most is the cause, then what says most, then what was first.
	count := map[string]int{}
	all := make([]finding, len(pods))
	for i, p := range pods {
		all[i] = p.finding()
		count[all[i].key()]++
	}
	best := slices.MinFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(count[b.key()], count[a.key()]), cmp.Compare(vague(a), vague(b)), cmp.Compare(a.rank, b.rank), compareTimes(a.at, b.at))
	})
	// Its newest pod has the same cause, and the evidence that a person can still check.
	for _, x := range slices.Backward(all) {
		if x.key() == best.key() {
			x.at = best.at
			best = x
			break
		}
	}
	for _, x := range all {
		best.add(x)
	}
	return best, true
}

// gotOver reports whether a pod that runs has outlived what ended the ones before it. One that is younger than they were has
// yet to come to that.
func (p podCase) gotOver(earlier []podCase) bool {
	longest := time.Duration(-1)
	for _, q := range earlier {
		if s, ended := q.firstEnd(); ended {
			longest = max(longest, s.FinishedAt.Sub(s.StartedAt), 0)
		}
	}
	return longest < 0 || p.life() > 2*longest+slack
}

// slack is how long starting a program may take on a busy machine after its container counts as started.
const slack = 10 * time.Second

func (f finding) key() string { return string(f.code) + "/" + f.container }

// vague is how little a code explains: 0 a cause, 1 only an effect, 2 nothing.
func vague(f finding) int {
	switch f.code {
	case "UNKNOWN":
		return 2
	case "EXIT-CODE", "EXIT-SIGNAL", "NODE-LOST", "RUN-RUNTIME":
		return 1
	default:
		return 0
	}
}

// compareTimes puts times that are unknown last.
func compareTimes(a, b time.Time) int {
	if a.IsZero() != b.IsZero() {
		if a.IsZero() {
			return 1
		}
		return -1
	}
	return a.Compare(b)
}

// isFine reports whether nothing was wrong with the pod when it was last seen.
func (p podCase) isFine() bool {
	if p.rec.Failed || p.e.Lost || p.e.StartError != "" {
		return false
	}
	if _, ended := p.firstEnd(); ended {
		return false
	}
	return p.e.Health.Healthy || p.Deployment.PublicEndpoint == nil && !p.rec.HealthyAt.IsZero()
}

// finding is why this pod failed.
func (p podCase) finding() finding {
	f := p.cause()
	if f.at.IsZero() {
		f.at = cmp.Or(p.e.At, p.rec.StopAt)
	}
	f.add(p.resources()...)
	if f.code != "UNKNOWN" && len(p.e.TimeLine) > 0 {
		f.prove("time", "%s", p.timeLine())
	}
	return f
}

func (p podCase) cause() finding {
	if f, ok := p.lost(); ok {
		return f
	}
	if ended, ok := p.firstEnd(); ok {
		switch {
		case isGone(ended.StartError):
			return p.disappeared(ended.StartError)
		case ended.StartError != "":
			return p.startFailure(ended)
		}
		return p.exit(ended)
	}
	if isGone(p.e.StartError) {
		return p.disappeared(p.e.StartError)
	}
	if p.e.StartError != "" {
		return p.runtimeFailure()
	}
	if p.e.Lost {
		return p.disappeared("the pod's sandbox is gone")
	}
	return p.unhealthy()
}

// disappeared is about a pod that something outside has put an end to.
func (p podCase) disappeared(how string) finding {
	f := finding{
		code: "NODE-LOST", confidence: trysail.Likely, rank: rankRuntime,
		summary: "The pod disappeared while it was starting: the machine restarted, or its processes were killed from outside.", fix: "Deploy again.",
	}
	f.prove("runtime", "%s", p.show(how))
	return f
}

// isGone recognizes the runtime's words for a pod that it had and does not have any more.
func isGone(startError string) bool {
	return strings.HasSuffix(startError, "ttrpc: closed") || strings.HasSuffix(startError, "the pod's network is gone") ||
		strings.Contains(startError, "namespace path: lstat /proc/") || strings.Contains(startError, "sandbox container") && strings.Contains(startError, "is not running")
}

// lost is about pods that the machine took with it.
func (p podCase) lost() (f finding, ok bool) {
	at := p.Version.RestartedAt
	if !p.e.Lost || at.IsZero() || at.Before(p.rec.CreatedAt) {
		return f, false
	}
	f, _ = p.restarted()
	f.at = at
	return f, true
}

// firstEnd returns the container that ended first by itself. A container that could not be started has no time, and
// stands before all others; so does one whose program the kernel could not execute, which some runtimes only show by an exit.
func (p podCase) firstEnd() (first trysail.ContainerStatus, ok bool) {
	var earliest time.Time
	for _, s := range p.e.Containers {
		if s.State != trysail.ContainerExited || p.endedByUs(s) {
			continue
		}
		at := s.FinishedAt
		if f, never := p.execFailure(s); s.StartError != "" || never && f.confidence == trysail.Certain {
			at = time.Time{}
		}
		if !ok || at.Before(earliest) {
			first, earliest, ok = s, at, true
		}
	}
	return first, ok
}

// endedByUs reports whether a container ended because it was told to.
func (p podCase) endedByUs(s trysail.ContainerStatus) bool {
	stop := p.e.Stop
	return stop != nil && s.StartError == "" && !stop.AskedAt.IsZero() && !s.FinishedAt.Before(stop.AskedAt)
}

// words are the last words of a container. The sentence is masked; the facts are not.
func (p podCase) words(container string) lastwords.Words {
	lines := p.e.LogTail[container]
	w := lastwords.Extract(lines)
	masked := make([]string, 0, min(len(lines), lastwords.MaxLines))
	for _, l := range lines[max(0, len(lines)-lastwords.MaxLines):] {
		masked = append(masked, p.text(l))
	}
	m := lastwords.Extract(masked)
	w.Sentence, w.Where = oneLine(p.text(m.Sentence)), p.show(m.Where)
	return w
}

// proveLog adds the last lines of a container.
func (p podCase) proveLog(f *finding, container string) {
	const lines = 12
	tail := p.e.LogTail[container]
	if len(tail) == 0 {
		f.prove("log", "(the container wrote nothing)")
		return
	}
	f.prove("log", "%s", p.block(tail[max(0, len(tail)-lines):]))
}

func (p podCase) timeLine() string {
	var b strings.Builder
	for _, m := range p.e.TimeLine[max(0, len(p.e.TimeLine)-12):] {
		b.WriteString(m.At.UTC().Format("15:04:05.000") + " " + p.show(m.Text) + "\n")
	}
	return strings.TrimSpace(b.String())
}
