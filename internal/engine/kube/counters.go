package kube

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
)

const (
	// sampleEvery is how often the counters of pods that have not become healthy are read. Nodes measure them every ten
	// seconds or so.
	sampleEvery = 5 * time.Second
	// sampleAfter is how old a pod is before that begins: most are healthy by then, and never cost anything.
	sampleAfter = 4 * time.Second
	// sampleFor is how old it is when that ends: what has run for so long is a task, or will not become healthy.
	sampleFor = 15 * time.Minute
	// maxAsking is how many nodes are asked at a time.
	maxAsking = 4
	// maxMetric bounds a line of a node's metrics, in bytes.
	maxMetric = 64 << 10
	// maxValue is more than anything that is counted; what has no limit has one beyond it.
	maxValue = 1e15
)

// sampler reads what the kernel counts of pods from their nodes' kubelets, as long as they have not become healthy: when one
// fails, most of it is gone.
type sampler struct {
	engine *Engine

	mu      sync.Mutex // guards all below
	since   map[trysail.PodID]time.Time
	samples map[trysail.PodID]*sample
}

// sample is what was last read of a pod.
type sample struct {
	at         time.Time
	containers map[string]*counters // by name; "" is the pod as a whole
}

// counters are those of one cgroup.
type counters struct {
	trysail.CgroupCounters
	sockets int64 // -1: unknown
	at      time.Time
}

func newSampler(e *Engine) *sampler {
	return &sampler{engine: e, since: map[trysail.PodID]time.Time{}, samples: map[trysail.PodID]*sample{}}
}

// begin has the pod looked at until end.
func (s *sampler) begin(id trysail.PodID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.since[id]; !known {
		s.since[id] = time.Now()
	}
}

func (s *sampler) end(id trysail.PodID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, id)
	delete(s.samples, id)
}

func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.look(ctx, s.due(time.Now()))
	}
}

// due are the pods whose counters are read now and then.
func (s *sampler) due(now time.Time) (ids []trysail.PodID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, since := range s.since {
		if age := now.Sub(since); age > sampleAfter && age < sampleFor {
			ids = append(ids, id)
		}
	}
	return ids
}

// look reads the counters of pods, once from each of their nodes.
func (s *sampler) look(ctx context.Context, ids []trysail.PodID) {
	byNode := map[string]map[string]bool{}
	for _, id := range ids {
		p := s.engine.watch.pod(id)
		if p == nil || p.Spec.NodeName == "" {
			continue
		}
		if byNode[p.Spec.NodeName] == nil {
			byNode[p.Spec.NodeName] = map[string]bool{}
		}
		byNode[p.Spec.NodeName][p.Name] = true
	}
	seats := make(chan struct{}, maxAsking)
	var wg sync.WaitGroup
	for name, pods := range byNode {
		seats <- struct{}{}
		wg.Go(func() {
			defer func() { <-seats }()
			var found map[string]*sample
			err := s.engine.usage.get(ctx, s.engine.watch.node(name), "/metrics/cadvisor", func(body io.Reader) (err error) {
				found, err = parseCounters(body, s.engine.api.namespace, pods)
				return err
			})
			if err != nil {
				s.engine.log.DebugContext(ctx, "a node does not tell the counters of its pods", "node", name, "error", err)
			}
			s.keep(found)
		})
	}
	wg.Wait()
}

// keep remembers what was read. What had been seen of containers that are gone stays.
func (s *sampler) keep(found map[string]*sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, now := range found {
		id := trysail.PodID(name)
		if _, wanted := s.since[id]; !wanted {
			continue
		}
		if before := s.samples[id]; before != nil {
			for c, old := range before.containers {
				if _, seen := now.containers[c]; !seen {
					now.containers[c] = old
				}
			}
		}
		s.samples[id] = now
	}
}

// of is what was read of a pod; nil if nothing was.
func (s *sampler) of(id trysail.PodID) *sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples[id]
}

// observe reads the counters of a pod now, if it has been there for a while, and adds to the evidence what is known.
func (s *sampler) observe(ctx context.Context, p *corev1.Pod, seen *trysail.PodEvidence) {
	id := trysail.PodID(p.Name)
	have := s.of(id)
	if time.Since(p.CreationTimestamp.Time) > 2*sampleAfter && (have == nil || time.Since(have.at) > time.Second) {
		s.begin(id) // of pods that were healthy once, and of those that another server has started
		s.look(ctx, []trysail.PodID{id})
		have = s.of(id)
	}
	seen.Details = map[string]trysail.ContainerEvidence{}
	if have != nil {
		for name, c := range have.containers {
			own := c.CgroupCounters
			if name == "" {
				seen.Cgroup = &own
				continue
			}
			d := trysail.ContainerEvidence{Cgroup: &own}
			if c.sockets == 0 {
				d.NoSocketsAt = c.at
			}
			seen.Details[name] = d
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		t := c.State.Terminated
		if t == nil || t.Reason != "OOMKilled" {
			continue
		}
		// Be it the first process or another one.
		d := seen.Details[c.Name]
		if d.Cgroup == nil {
			d.Cgroup = &trysail.CgroupCounters{Sampled: true}
		}
		d.Cgroup.OOMKills = max(1, d.Cgroup.OOMKills)
		seen.Details[c.Name] = d
		seen.TimeLine = append(seen.TimeLine, trysail.Moment{At: t.FinishedAt.Time, Text: "container " + c.Name + ": OOMKilled"})
	}
}

// set takes over the value of a metric, and reports whether it is one that we read.
func (c *counters) set(metric string, v float64) bool {
	switch metric {
	case "container_oom_events_total":
		c.OOMKills = int64(v)
	case "container_memory_failcnt":
		c.LimitHits = int64(v)
	case "container_memory_working_set_bytes":
		c.Memory = int64(v)
	case "container_spec_memory_limit_bytes":
		c.Limit = int64(v)
	case "container_cpu_usage_seconds_total":
		c.CPU = seconds(v)
	case "container_cpu_cfs_periods_total":
		c.Periods = int64(v)
	case "container_cpu_cfs_throttled_periods_total":
		c.ThrottledPeriods = int64(v)
	case "container_cpu_cfs_throttled_seconds_total":
		c.Throttled = seconds(v)
	case "container_pressure_memory_stalled_seconds_total":
		c.MemoryStall = seconds(v)
	case "container_sockets":
		c.sockets = int64(v)
	default:
		return false
	}
	c.Sampled = true
	return true
}

func seconds(v float64) time.Duration {
	const most = 1e9
	return time.Duration(min(v, most) * float64(time.Second))
}

// parseCounters reads a kubelet's metrics of containers: those of some pods of a namespace.
func parseCounters(body io.Reader, namespace string, pods map[string]bool) (map[string]*sample, error) {
	found := map[string]*sample{}
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxMetric)
	ours := []byte(`namespace="` + namespace + `"`)
	for lines.Scan() {
		line := lines.Bytes()
		if !bytes.Contains(line, ours) {
			continue
		}
		name, rest, _ := strings.Cut(string(line), "{")
		end := strings.LastIndex(rest, "} ")
		if end < 0 {
			continue
		}
		labels, fields := rest[:end], strings.Fields(rest[end+2:])
		pod, container := label(labels, "pod"), label(labels, "container")
		if !pods[pod] || label(labels, "namespace") != namespace || len(fields) == 0 {
			continue
		}
		if container == "POD" || container == "" && label(labels, "name") != "" {
			continue // the container that holds the pod's network
		}
		value, err := strconv.ParseFloat(fields[0], 64)
		if err != nil || !(value >= 0 && value <= maxValue) { // nor is it NaN
			continue
		}
		s := found[pod]
		if s == nil {
			s = &sample{at: time.Now(), containers: map[string]*counters{}}
			found[pod] = s
		}
		c := s.containers[container]
		if c == nil {
			c = &counters{sockets: -1}
		}
		if !c.set(name, value) {
			continue
		}
		s.containers[container] = c
		if len(fields) > 1 {
			if ms, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				c.at = time.UnixMilli(ms)
			}
		}
	}
	return found, lines.Err()
}

// label is the value of a label. Those that we ask for hold names, which have no quotes.
func label(labels, name string) string {
	_, rest, _ := strings.Cut(","+labels, ","+name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}
