package kube

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

// cadvisor is what a kubelet says of a pod of ours and of others.
const cadvisor = `# HELP container_cpu_cfs_periods_total Number of elapsed enforcement period intervals.
# TYPE container_cpu_cfs_periods_total counter
container_cpu_cfs_periods_total{container="",id="/kubepods/pod1",image="",name="",namespace="trysail",pod="web-v1-0-a"} 400 1795286068759
container_cpu_cfs_throttled_periods_total{container="",id="/kubepods/pod1",image="",name="",namespace="trysail",pod="web-v1-0-a"} 390 1795286068759
container_cpu_cfs_throttled_seconds_total{container="",id="/kubepods/pod1",image="",name="",namespace="trysail",pod="web-v1-0-a"} 29.5 1795286068759
container_cpu_usage_seconds_total{container="web",cpu="total",id="/kubepods/pod1/c",image="x",name="c",namespace="trysail",pod="web-v1-0-a"} 1.5 1795286068759
container_memory_working_set_bytes{container="web",id="/kubepods/pod1/c",image="x",name="c",namespace="trysail",pod="web-v1-0-a"} 6.291456e+07 1795286068759
container_memory_working_set_bytes{container="db",id="/kubepods/pod1/d",image="x",name="d",namespace="trysail",pod="web-v1-0-a"} 4.194304e+08 1795286068759
container_memory_working_set_bytes{container="POD",id="/kubepods/pod1/s",image="x",name="s",namespace="trysail",pod="web-v1-0-a"} 1 1795286068759
container_spec_memory_limit_bytes{container="",id="/kubepods/pod1",image="",name="",namespace="trysail",pod="web-v1-0-a"} 5.36870912e+08 1795286068759
container_spec_memory_limit_bytes{container="web",id="/kubepods/pod1/c",image="x",name="c",namespace="trysail",pod="web-v1-0-a"} 9.223372036854771712e+18 1795286068759
container_spec_memory_limit_bytes{container="",id="/kubepods/pod1/s",image="pause",name="s",namespace="trysail",pod="web-v1-0-a"} 0 1795286068759
container_sockets{container="",id="/kubepods/pod1/s",image="pause",name="s",namespace="trysail",pod="web-v1-0-a"} 0 1795286068759
container_oom_events_total{container="db",id="/kubepods/pod1/d",image="x",name="d",namespace="trysail",pod="web-v1-0-a"} 2 1795286068759
container_sockets{container="web",id="/kubepods/pod1/c",image="x",name="c",namespace="trysail",pod="web-v1-0-a"} 0 1795286068759
container_sockets{container="db",id="/kubepods/pod1/d",image="x",name="d",namespace="trysail",pod="web-v1-0-a"} 3 1795286068759
container_memory_working_set_bytes{container="web",id="/x",image="x",name="c",namespace="other",pod="web-v1-0-a"} 7 1795286068759
container_memory_working_set_bytes{container="web",id="/x",image="x",name="c",namespace="trysail",pod="shop-v1-0-a"} 7 1795286068759
container_memory_working_set_bytes{container="web",namespace="trysail",pod="web-v1-0-a"} NaN
container_memory_working_set_bytes{container="web",namespace="trysail",pod="web-v1-0-a"}
machine_memory_bytes{namespace="trysail"} 1
`

func TestParseCounters_ReadsThoseOfThePods(t *testing.T) {
	found, err := parseCounters(strings.NewReader(cadvisor), "trysail", map[string]bool{"web-v1-0-a": true})
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	s := found["web-v1-0-a"]
	at := time.UnixMilli(1795286068759)
	got := map[string]trysail.CgroupCounters{}
	for name, c := range s.containers {
		got[name] = c.CgroupCounters
		if !c.at.Equal(at) || name == "web" && c.sockets != 0 || name == "db" && c.sockets != 3 || name == "" && c.sockets != -1 {
			t.Errorf("%q: %+v", name, c)
		}
	}
	want := map[string]trysail.CgroupCounters{
		"":    {Sampled: true, Periods: 400, ThrottledPeriods: 390, Throttled: 29500 * time.Millisecond, Limit: 512 << 20},
		"web": {Sampled: true, CPU: 1500 * time.Millisecond, Memory: 60 << 20},
		"db":  {Sampled: true, Memory: 400 << 20, OOMKills: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseCounters(f *testing.F) {
	f.Add(cadvisor)
	f.Fuzz(func(t *testing.T, text string) {
		found, _ := parseCounters(strings.NewReader(text), "trysail", map[string]bool{"web-v1-0-a": true})
		for name, s := range found {
			if name != "web-v1-0-a" {
				t.Errorf("%q was not asked for", name)
			}
			for _, c := range s.containers {
				if c.Memory < 0 || c.CPU < 0 || c.Periods < 0 {
					t.Errorf("%+v", c)
				}
			}
		}
	})
}

func TestSampler_KeepsWhatIsGone(t *testing.T) {
	s := newSampler(nil)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-v1-0-a", CreationTimestamp: metav1.Now()}}
	read := func(names ...string) map[string]*sample {
		m := map[string]*counters{}
		for _, n := range names {
			m[n] = &counters{CgroupCounters: trysail.CgroupCounters{Sampled: true, Memory: int64(len(n))}, sockets: 0, at: time.Now()}
		}
		return map[string]*sample{p.Name: {at: time.Now(), containers: m}}
	}
	s.keep(read("", "web")) // nobody has asked for it
	s.begin("web-v1-0-a")
	s.keep(read("", "web", "model"))
	s.keep(read("", "model"))
	p.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "web", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 5, Reason: "OOMKilled"}}},
		{Name: "fresh", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}},
		{Name: "model", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}}},
	}
	var seen trysail.PodEvidence
	s.observe(t.Context(), p, &seen)
	if seen.Cgroup == nil || len(seen.Details) != 3 || seen.Details["web"].Cgroup.OOMKills != 1 || seen.Details["web"].Cgroup.Memory != 3 ||
		seen.Details["model"].Cgroup.OOMKills != 0 || seen.Details["fresh"].Cgroup.OOMKills != 1 || seen.Details["model"].NoSocketsAt.IsZero() {
		t.Errorf("%+v", seen)
	}
	if again := s.of("web-v1-0-a").containers["web"]; again.OOMKills != 0 {
		t.Error("evidence changes what was read")
	}
	for age, want := range map[time.Duration]int{time.Second: 0, time.Minute: 1, time.Hour: 0} {
		if n := len(s.due(time.Now().Add(age))); n != want {
			t.Errorf("after %s %d pods are looked at, want %d", age, n, want)
		}
	}
	s.end("web-v1-0-a")
	if s.of("web-v1-0-a") != nil || len(s.due(time.Now().Add(time.Minute))) > 0 {
		t.Error("it is not forgotten")
	}
}
