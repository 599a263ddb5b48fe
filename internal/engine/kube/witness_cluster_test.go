//go:build cluster

package kube_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/trysail/trysail"
)

// TestEngine_KnocksFromBothSides: a port that is open to the pod alone is told from one that is open to all, and from one that
// is closed; without the permission to look from inside, as much as can be seen from here.
func TestEngine_KnocksFromBothSides(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "listen :8080 127.0.0.1:8081")
	r.start(spec)
	ports := []int{8080, 8081, 8082}
	knock := func() []trysail.Knock {
		knocks, err := r.engine.Knock(t.Context(), spec.ID, ports)
		if err != nil {
			t.Log(err)
		}
		return knocks
	}
	want := []trysail.Knock{
		{Port: 8080, Outside: trysail.ReachOK, Inside: trysail.ReachOK, Container: "a"},
		{Port: 8081, Outside: trysail.ReachRefused, Inside: trysail.ReachOK, Container: "a"},
		{Port: 8082, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused, Container: "a"},
	}
	r.wait("the ports are told apart", func() bool { return cmp.Equal(want, knock()) })
	const thatRule = `[{"op":"test","path":"/rules/3/resources/0","value":"pods/portforward"},{"op":"remove","path":"/rules/3"}]`
	role := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + r.cfg.Namespace + "/roles/trysail"
	if err := r.admin.Patch(types.JSONPatchType).AbsPath(role).Body([]byte(thatRule)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].Inside = ""
	}
	r.wait("the inside cannot be seen any more", func() bool { return cmp.Equal(want, knock()) })
	r.stop(spec.ID, 0)
	if knocks := knock(); len(knocks) > 0 {
		t.Errorf("of a pod that is gone: %+v", knocks)
	}
}

// TestEngine_ObservesWhatTheNodeCounts reads the counters of the kernel from the kubelet.
func TestEngine_ObservesWhatTheNodeCounts(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "wait")
	r.start(spec)
	r.wait("the counters are there", func() bool {
		seen, err := r.engine.Observe(t.Context(), spec.ID)
		if err != nil {
			t.Fatal(err)
		}
		return seen.Cgroup != nil && seen.Cgroup.Limit == spec.Limits.Memory && seen.Cgroup.Sampled && seen.Cgroup.Memory > 0 && seen.Cgroup.Periods > 0
	})
	r.engine.Settle(spec.ID)
	r.stop(spec.ID, 0)
}

// TestEngine_ExaminesImages looks into real images.
func TestEngine_ExaminesImages(t *testing.T) {
	r := newRig(t)
	for image, want := range map[string]trysail.DiagnosisCode{r.images.program: "", r.images.broken: "RUN-NOFILE"} {
		if err := r.engine.Prepare(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		a, err := r.engine.Examine(t.Context(), trysail.ContainerSpec{Name: "a", Image: image}, nil)
		got := trysail.DiagnosisCode("")
		if len(a.Findings) > 0 {
			got = a.Findings[0].Code
		}
		if err != nil || got != want || a.Incomplete != "" || !a.Presumed || want == "" && a.Kind != "elf" {
			t.Errorf("%s: %+v, %v", image, a, err)
		}
	}
}
