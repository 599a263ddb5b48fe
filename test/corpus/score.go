package corpus

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/trysail/trysail"
)

// RunAll runs cases, up to parallel of them at the same time, those on the small disk one after the other. Each is told of
// when it is done. The results are in the order of the cases.
func (w *World) RunAll(ctx context.Context, cases []Case, parallel int, tell func(Result)) []Result {
	w.warm(ctx, cases)
	results := make([]Result, len(cases))
	seats := make(chan struct{}, parallel)
	var told sync.Mutex // held while one is told of
	var wg sync.WaitGroup
	run := func(i int) {
		seats <- struct{}{}
		defer func() { <-seats }()
		if ctx.Err() != nil {
			results[i].fault("%v", context.Cause(ctx))
			return
		}
		results[i] = w.Run(ctx, cases[i])
		told.Lock()
		defer told.Unlock()
		tell(results[i])
	}
	var disk []int // the cases on the small disk
	for i, c := range cases {
		results[i].Case = c
		if c.Place == Nowhere {
			continue
		}
		if c.Place == SmallDisk {
			disk = append(disk, i)
			continue
		}
		wg.Go(func() { run(i) })
	}
	slices.SortStableFunc(disk, func(a, b int) int { return last(cases[a]) - last(cases[b]) })
	for _, i := range disk {
		run(i)
	}
	wg.Wait()
	return results
}

func last(c Case) int {
	if c.Last {
		return 1
	}
	return 0
}

// OK reports whether the outcome is as expected.
func (r *Result) OK() bool { return len(r.Faults) == 0 }

// Ran reports whether the case was run at all.
func (r *Result) Ran() bool { return r.Case.Place != Nowhere }

func (r *Result) wrongCertain() bool {
	return r.Got.Confidence == trysail.Certain && r.Got.Code != r.Case.Code && r.Got.Code != Active && r.Got.Code != RefusedCode
}

// Print writes the table of all results and the score, and reports whether all is well but for the known misses.
func Print(out io.Writer, results []Result) bool {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tEXPECTED\tGOT\tCONFIDENCE\tCONTAINER\tWAIT\tTOTAL\t")
	for _, r := range results {
		if !r.Ran() {
			continue
		}
		mark := ""
		switch {
		case !r.OK() && r.Case.Miss != "":
			mark = "known miss: " + r.Case.Miss
		case !r.OK():
			mark = "WRONG: " + r.Faults[0]
		case r.Case.Miss != "":
			mark = "right this time, known to be missed at others"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Case.Name, r.Case.expected(), cmp.Or(r.Got.Code, "-"), cmp.Or(r.Got.Confidence, "-"),
			cmp.Or(r.Got.ContainerName, "-"), seconds(r.Wait), seconds(r.Total), mark)
	}
	_ = t.Flush()
	notRun(out, results)
	return score(out, results)
}

func (c *Case) expected() string {
	switch c.Outcome {
	case Works:
		return string(Active)
	case Refused:
		return string(c.Code) + " (refused)"
	default:
		return string(c.Code)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func notRun(out io.Writer, results []Result) {
	title := "\nNot run on this machine:\n"
	for _, r := range results {
		if !r.Ran() {
			fmt.Fprintf(out, "%s  %s: %s\n", title, r.Case.Code, r.Case.Why)
			title = ""
		}
	}
}

func score(out io.Writer, results []Result) (well bool) {
	well = true
	codes := map[trysail.DiagnosisCode]bool{}
	var broken, right, certain, healthy, wrongly, misses int
	var waits []time.Duration
	for _, r := range results {
		if !r.Ran() {
			continue
		}
		switch {
		case r.OK():
		case r.Case.Miss != "":
			misses++
		default:
			well = false
		}
		if r.Case.Outcome == Works {
			healthy++
			if !r.OK() {
				wrongly++
			}
			continue
		}
		broken++
		codes[r.Case.Code] = true
		if r.Got.Code == r.Case.Code || r.Case.Outcome == Refused && r.OK() {
			right++
		}
		if r.wrongCertain() {
			certain++
		}
		if r.Case.Outcome == Fails && r.Got.Code != "" {
			waits = append(waits, r.Wait)
		}
	}
	fmt.Fprintln(out)
	if broken > 0 {
		fmt.Fprintf(out, "Broken: %d of %d cases with the right code (%.0f %%), %d codes, %d wrong and certain.\n", right, broken, 100*float64(right)/float64(broken), len(codes), certain)
	}
	if len(waits) > 0 {
		slices.Sort(waits)
		fmt.Fprintf(out, "Verdict after the deciding event: median %s, 90th percentile %s, longest %s.\n",
			seconds(waits[len(waits)/2]), seconds(waits[len(waits)*9/10]), seconds(waits[len(waits)-1]))
	}
	if healthy > 0 {
		fmt.Fprintf(out, "Healthy: %d cases, %d false verdicts.\n", healthy, wrongly)
	}
	if misses > 0 {
		fmt.Fprintf(out, "Known misses: %d.\n", misses)
	}
	return well
}

// Describe is all that is known of a result, for a person who looks into it.
func (r *Result) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "=== %s: expected %s, got %s after %s\n", r.Case.Name, r.Case.expected(), r.Got.Code, seconds(r.Total))
	for _, f := range r.Faults {
		fmt.Fprintln(&b, "    wrong:", f)
	}
	for line := range strings.Lines(r.Text) {
		b.WriteString("    | " + line)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
