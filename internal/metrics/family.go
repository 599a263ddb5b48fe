package metrics

import (
	"cmp"
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

// Kind is what a family's values are.
type Kind string

// The kinds. The word is that of the Prometheus text format.
const (
	Counter Kind = "counter"
	Gauge   Kind = "gauge"
	// HistogramKind is for values of type trysail.Histogram, in seconds.
	HistogramKind Kind = "histogram"
)

// Family is all values of one name, as Prometheus and OpenTelemetry see them.
type Family struct {
	Name    string // in the style of Prometheus, with its unit: trysail_store_bytes
	Help    string
	Kind    Kind
	Samples []Sample
}

// Sample is one value of a family.
type Sample struct {
	Labels    []Label
	Value     float64
	Histogram *trysail.Histogram // instead of Value
}

// Label tells the values of one family apart.
type Label struct{ Name, Value string }

// One makes a family of a single value.
func One(name, help string, kind Kind, value float64, labels ...Label) Family {
	return Family{name, help, kind, []Sample{{Labels: labels, Value: value}}}
}

// Families is everything that is known at this moment: of each service and of Trysail itself. Its cost grows with the
// number of versions that run; it asks neither the engine nor the edge.
func (c *Collector) Families(ctx context.Context) []Family {
	all := append(c.serviceFamilies(), c.ownFamilies()...)
	if c.cfg.Extra != nil {
		all = append(all, c.cfg.Extra(ctx)...)
	}
	return slices.DeleteFunc(all, func(f Family) bool { return len(f.Samples) == 0 })
}

// table collects the families of services, in the order in which they were declared.
type table struct {
	families []Family
	at       map[string]int
}

func (t *table) declare(name, help string, kind Kind) {
	t.at[name] = len(t.families)
	t.families = append(t.families, Family{Name: name, Help: help, Kind: kind})
}

func (t *table) add(name string, s Sample) {
	f := &t.families[t.at[name]]
	f.Samples = append(f.Samples, s)
}

func newTable() *table {
	t := &table{at: map[string]int{}}
	for _, f := range [...]struct {
		name, help string
		kind       Kind
	}{
		{"trysail_service_info", "Power and state of each service; always 1.", Gauge},
		{"trysail_service_scale", "How many pods the service shall have.", Gauge},
		{"trysail_service_deployment_info", "The versions that serve or are about to; always 1.", Gauge},
		{"trysail_service_deployment_created_timestamp_seconds", "When the version was deployed.", Gauge},
		{"trysail_service_pods", "Pods by state: starting, healthy or stopping.", Gauge},
		{"trysail_service_requests_total", "Requests that ended, by the class of their status code; canceled: the client left first.", Counter},
		{"trysail_service_request_duration_seconds", "Time from a request's arrival at the edge to the end of its answer. The sum is estimated from the buckets.", HistogramKind},
		{"trysail_service_received_bytes_total", "Bytes of request bodies.", Counter},
		{"trysail_service_sent_bytes_total", "Bytes of answer bodies.", Counter},
		{"trysail_service_probe_failures_total", "Health checks that failed.", Counter},
		{"trysail_service_restarts_total", "Pods of the active version that failed and were replaced.", Counter},
		{"trysail_service_cpu_seconds_total", "CPU time that the pods used.", Counter},
		{"trysail_service_cpu_limit_cores", "CPUs that the pods may use, all together.", Gauge},
		{"trysail_service_cpu_throttled_seconds_total", "Time that threads had to wait because their pod had used up its share of the CPU.", Counter},
		{"trysail_service_cpu_periods_total", "Periods of the scheduler in which the pods ran.", Counter},
		{"trysail_service_cpu_throttled_periods_total", "Periods of the scheduler in which a pod was held back.", Counter},
		{"trysail_service_memory_bytes", "Memory that the pods use, without cache that can be dropped.", Gauge},
		{"trysail_service_memory_limit_bytes", "Memory that the pods may use, all together.", Gauge},
	} {
		t.declare(f.name, f.help, f.kind)
	}
	return t
}

func (c *Collector) serviceFamilies() []Family {
	t := newTable()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.view.services {
		s := &c.view.services[i]
		t.addService(s)
		for _, key := range c.versions(s.ID) {
			labels := []Label{{"service", s.Name}, {"version", strconv.Itoa(key.version)}}
			if total := c.totals[key]; total != nil {
				t.addTotals(labels, total)
			}
			if usage, ok := c.usage[key]; ok {
				t.add("trysail_service_memory_bytes", Sample{Labels: labels, Value: float64(usage.memory)})
				t.add("trysail_service_memory_limit_bytes", Sample{Labels: labels, Value: float64(usage.memoryLimit)})
				t.add("trysail_service_cpu_limit_cores", Sample{Labels: labels, Value: float64(usage.milliCPU) / 1000})
			}
			t.addPods(labels, c.podStates(key))
		}
	}
	return t.families
}

// versions lists the versions of a service that there is something to say of.
func (c *Collector) versions(serviceID string) []versionKey {
	keys := map[versionKey]bool{}
	for key := range c.totals {
		if key.serviceID == serviceID {
			keys[key] = true
		}
	}
	for _, p := range c.view.pods {
		if p.ServiceID == serviceID {
			keys[versionKey{serviceID, p.Version}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(keys), func(a, b versionKey) int { return cmp.Compare(a.version, b.version) })
}

func (t *table) addService(s *trysail.Service) {
	name := Label{"service", s.Name}
	t.add("trysail_service_info", Sample{Labels: []Label{name, {"power", string(s.Power)}, {"state", string(s.State)}}, Value: 1})
	t.add("trysail_service_scale", Sample{Labels: []Label{name}, Value: float64(s.Scale)})
	for _, d := range []*trysail.Deployment{s.Current, s.Next} {
		if d == nil {
			continue
		}
		version := Label{"version", strconv.Itoa(d.Version)}
		t.add("trysail_service_deployment_info", Sample{Labels: []Label{name, version, {"state", string(d.State)}}, Value: 1})
		t.add("trysail_service_deployment_created_timestamp_seconds", Sample{Labels: []Label{name, version}, Value: unixSeconds(d.CreatedAt)})
	}
}

func (t *table) addTotals(labels []Label, v *Totals) {
	for i, class := range [...]string{"canceled", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		t.add("trysail_service_requests_total", Sample{Labels: append(slices.Clone(labels), Label{"code", class}), Value: float64(v.Requests[i])})
	}
	histogram := v.Latency
	t.add("trysail_service_request_duration_seconds", Sample{Labels: labels, Histogram: &histogram})
	for _, one := range [...]struct {
		name  string
		value float64
	}{
		{"trysail_service_received_bytes_total", float64(v.BytesIn)},
		{"trysail_service_sent_bytes_total", float64(v.BytesOut)},
		{"trysail_service_probe_failures_total", float64(v.ProbeFailures)},
		{"trysail_service_restarts_total", float64(v.Restarts)},
		{"trysail_service_cpu_seconds_total", v.CPU.Seconds()},
		{"trysail_service_cpu_throttled_seconds_total", v.Throttled.Seconds()},
		{"trysail_service_cpu_periods_total", float64(v.Periods)},
		{"trysail_service_cpu_throttled_periods_total", float64(v.ThrottledPeriods)},
	} {
		t.add(one.name, Sample{Labels: labels, Value: one.value})
	}
}

// podStates counts the pods of a version by state.
func (c *Collector) podStates(key versionKey) map[string]int {
	states := map[string]int{"starting": 0, "healthy": 0, "stopping": 0}
	for _, p := range c.view.pods {
		switch {
		case p.ServiceID != key.serviceID || p.Version != key.version:
		case !p.Live():
			states["stopping"]++
		case p.HealthyAt.IsZero():
			states["starting"]++
		default:
			states["healthy"]++
		}
	}
	return states
}

func (t *table) addPods(labels []Label, states map[string]int) {
	for _, state := range slices.Sorted(maps.Keys(states)) {
		t.add("trysail_service_pods", Sample{Labels: append(slices.Clone(labels), Label{"state", state}), Value: float64(states[state])})
	}
}

// ownFamilies is what is known of Trysail itself and of the process, under the names that Prometheus' own libraries use.
func (c *Collector) ownFamilies() []Family {
	families := []Family{
		One("trysail_build_info", "The version of Trysail that runs; always 1.", Gauge, 1, Label{"version", c.cfg.Build}, Label{"goversion", runtime.Version()}),
		One("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", Gauge, unixSeconds(c.started)),
		{"trysail_disk_bytes", "What Trysail keeps on the disk, by part.", Gauge, c.sizes.read(c.cfg.Parts)},
	}
	return append(append(families, goFamilies()...), processFamilies()...)
}

// sizes remembers how large the parts of the data directory are. It looks at every file, so it does once a minute at most.
type sizes struct {
	mu      sync.Mutex // guards all below
	at      time.Time
	samples []Sample
}

func (s *sizes) read(parts map[string]string) []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && time.Since(s.at) < time.Minute {
		return s.samples
	}
	s.at, s.samples = time.Now(), nil
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		s.samples = append(s.samples, Sample{Labels: []Label{{"part", part}}, Value: float64(size(parts[part]))})
	}
	return s.samples
}

// size adds up the files below a directory, or those that match a pattern.
func size(pattern string) (n int64) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return 0
	}
	for _, path := range paths {
		_ = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil //nolint:nilerr // what goes away while it is counted does not count
			}
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
			return nil
		})
	}
	return n
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// pageSize is that of the machine's memory.
func pageSize() float64 { return float64(os.Getpagesize()) }
