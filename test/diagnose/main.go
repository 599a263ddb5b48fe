// Diagnose measures how right Trysail is about deployments that fail, and about those that do not: it runs test/broken and
// test/healthy against real servers and prints a table and the score. It needs root and what scripts/setup.sh test installs.
// The exit status is 0 if every verdict is right but for the misses that are known.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/trysail/trysail/test/broken"
	"github.com/trysail/trysail/test/corpus"
	"github.com/trysail/trysail/test/healthy"
)

// healthyWindow is longer than that of broken services: healthy ones may be slow to start.
const healthyWindow = 100 * time.Second

// defaultParallel is how many cases run at the same time: most of them wait, and pods have a fourth of a CPU.
const defaultParallel = 10

func main() {
	var o options
	flag.StringVar(&o.run, "run", "", "only the cases whose name matches this regular expression")
	flag.IntVar(&o.parallel, "parallel", defaultParallel, "how many cases run at the same time")
	flag.BoolVar(&o.verbose, "v", false, "print every explanation, not only those of wrong verdicts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "diagnose:", err)
		os.Exit(1)
	}
}

type options struct {
	run      string
	parallel int
	verbose  bool
}

func run(ctx context.Context, o options) error {
	if os.Getuid() != 0 {
		return errors.New("it needs root: it runs containers")
	}
	wanted, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("reading -run: %w", err)
	}
	keep := func(all []corpus.Case) []corpus.Case {
		return slices.DeleteFunc(all, func(c corpus.Case) bool { return !wanted.MatchString(c.Name) })
	}
	var all []corpus.Result
	var errs []error
	begun := time.Now()
	for _, part := range []struct {
		cases  []corpus.Case
		window time.Duration
	}{{keep(broken.Cases()), corpus.Window}, {keep(healthy.Cases()), healthyWindow}} {
		if len(part.cases) > 0 {
			results, err := runPart(ctx, part.cases, part.window, o)
			all, errs = append(all, results...), append(errs, err)
		}
	}
	well := corpus.Print(os.Stdout, all)
	fmt.Printf("It took %s.\n", time.Since(begun).Round(time.Second))
	if !well {
		errs = append(errs, errors.New("not every verdict is right"))
	}
	return errors.Join(errs...)
}

func runPart(ctx context.Context, cases []corpus.Case, window time.Duration, o options) ([]corpus.Result, error) {
	world, err := corpus.NewWorld(ctx, window)
	if err != nil {
		return nil, err
	}
	wrong := false
	results := world.RunAll(ctx, cases, o.parallel, func(r corpus.Result) {
		fmt.Fprintf(os.Stderr, "%-24s %-14s %v\n", r.Case.Name, r.Got.Code, r.Faults)
		if o.verbose || !r.OK() {
			fmt.Fprint(os.Stderr, r.Describe())
		}
		wrong = wrong || !r.OK() && r.Case.Miss == ""
	})
	if wrong {
		fmt.Fprintln(os.Stderr, "the servers' logs are kept in", world.KeepLogs())
	}
	return results, world.Close(context.WithoutCancel(ctx))
}
