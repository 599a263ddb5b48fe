// Bench measures Trysail side by side with what it is built on and with Docker, and prints one table. Absolute numbers
// depend on the machine and on what else it does; the ratios are what counts, so what is compared runs in turns.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/trysail/trysail/test/kit"
)

func main() {
	if role := os.Getenv(engineRole); role != "" {
		if err := beEngine(context.Background(), role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "engine:", err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(edgeRole); dir != "" {
		if err := beEdge(context.Background(), dir, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "edge:", err)
			os.Exit(1)
		}
		return
	}
	if client := os.Getenv(dnsRole); client != "" {
		if err := beDNS(client, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "dns:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.IntVar(&o.runs, "runs", 20, "how often each start is measured")
	flag.IntVar(&o.transfers, "transfers", 5, "how often each transfer of a large image is measured")
	flag.StringVar(&o.only, "only", "", "measure only: starts, evidence, rates, metrics, images, logs, access, tls, dns, edge, console or scale")
	flag.IntVar(&o.pods, "pods", 1000, "the largest number of pods of -only scale: 100, 1000 or 10000")
	flag.StringVar(&o.flags, "flags", "", "further flags of the server of -only scale")
	flag.IntVar(&o.logs, "logs", 5, "how often the ingestion and the search of logs are measured")
	flag.Int64Var(&o.logBytes, "log-bytes", 1<<30, "how much log is searched")
	flag.IntVar(&o.services, "services", 1000, "the largest number of services that the API is asked for")
	flag.DurationVar(&o.window, "window", 5*time.Second, "how long each rate is measured")
	flag.BoolVar(&o.short, "short", false, "measure the edge shortly, and beside nginx only")
	flag.StringVar(&o.part, "part", "", "measure only the parts of the edge that match the expression")
	flag.BoolVar(&o.docker, "docker", true, "compare with Docker, whose packages are downloaded and run privately")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	runs, services, transfers, logs, pods int

	logBytes int64

	window time.Duration
	docker bool
	short  bool
	part   string
	flags  string
	only   string
}

func run(ctx context.Context, o options) error {
	t := &table{w: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	dir, err := os.MkdirTemp("", "trysail-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	registry, err := kit.StartRegistry(ctx, dir)
	if err != nil {
		return err
	}
	defer registry.Close()
	images := images{registry: registry}
	if err := images.push(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{"starts", func() error { return starts(ctx, t, o, images, dir) }},
		{"evidence", func() error { return evidence(ctx, t, o, images, dir) }},
		{"rates", func() error { return rates(ctx, t, o) }},
		{"metrics", func() error { return measureMetrics(ctx, t, dir) }},
		{"images", func() error { return transfers(ctx, t, o, registry, dir) }},
		{"logs", func() error { return logStore(ctx, t, o, images, dir) }},
		{"access", func() error { return accessLog(ctx, t, o, images) }},
		{"tls", func() error { return measureTLS(ctx, t, o, dir) }},
		{"dns", func() error { return measureDNS(ctx, t, o, dir) }},
		{"edge", func() error { return measureEdge(ctx, t, o, dir) }},
		{"console", func() error { return measureConsole(ctx, t, images) }},
		{"scale", func() error { return measureScale(ctx, t, o, images, dir) }},
	} {
		if o.only != part.name && (o.only != "" || part.name == "scale") { // that needs what scripts/setup.sh cluster builds
			continue
		}
		if err := part.measure(); err != nil {
			return err
		}
	}
	return t.print()
}

// images are what the benchmark runs.
type images struct {
	registry   *kit.Registry
	web, pause string
}

func (i *images) push(ctx context.Context) error {
	web, err := kit.Web(ctx, "1")
	if err != nil {
		return err
	}
	if i.web, err = i.registry.Push(ctx, "web:1", web); err != nil {
		return err
	}
	pause, err := kit.Pause(ctx)
	if err != nil {
		return err
	}
	i.pause, err = i.registry.Push(ctx, "pause:1", pause)
	return err
}

// table collects the rows that are printed at the end.
type table struct {
	w    *tabwriter.Writer
	rows [][3]string
}

func (t *table) add(what, value, note string) {
	fmt.Fprintf(os.Stderr, "%s: %s %s\n", what, value, note)
	t.rows = append(t.rows, [3]string{what, value, note})
}

func (t *table) print() error {
	fmt.Println()
	fmt.Fprintln(t.w, "WHAT\tMEDIAN\tRATIO, AIM")
	for _, r := range t.rows {
		fmt.Fprintf(t.w, "%s\t%s\t%s\n", r[0], r[1], r[2])
	}
	return t.w.Flush()
}

// median sorts the durations and returns the middle, the 10th and the 90th percentile.
func median(all []time.Duration) (mid, low, high time.Duration) {
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	at := func(p int) time.Duration { return all[min(len(all)-1, len(all)*p/100)] }
	return at(50), at(10), at(90)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d.Microseconds())/1000) }

func spread(all []time.Duration) string {
	mid, low, high := median(all)
	return fmt.Sprintf("%s (%s–%s)", millis(mid), millis(low), millis(high))
}

func ratio(a, b []time.Duration, aim string) string {
	x, _, _ := median(a)
	y, _, _ := median(b)
	if y == 0 {
		return "not measured"
	}
	return fmt.Sprintf("%.2f (aim %s)", float64(x)/float64(y), aim)
}
