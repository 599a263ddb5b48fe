//go:build cluster

package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/trysail/trysail"
)

// start prepares and starts a pod, which is gone at the end of the test.
func (r *rig) start(spec trysail.PodSpec) trysail.Pod {
	r.tb.Helper()
	if err := r.engine.Prepare(r.tb.Context(), spec.Containers[0].Image); err != nil {
		r.tb.Fatalf("Prepare: %v", err)
	}
	if err := r.engine.Start(r.tb.Context(), spec); err != nil {
		r.tb.Fatalf("Start: %v", err)
	}
	return r.pod(spec.ID)
}

// object is the pod as the cluster has it.
func (r *rig) object(id trysail.PodID) *corev1.Pod {
	r.tb.Helper()
	p := &corev1.Pod{}
	if err := r.admin.Get().Namespace(r.cfg.Namespace).Resource("pods").Name(string(id)).Do(r.tb.Context()).Into(p); err != nil {
		r.tb.Fatal(err)
	}
	return p
}

func (r *rig) logText(spec trysail.PodSpec, container string) string {
	b, _ := os.ReadFile(filepath.Join(spec.LogDir, container+".log"))
	return string(b)
}

func (r *rig) stop(id trysail.PodID, grace time.Duration) []string {
	r.tb.Helper()
	ctx, cancel := context.WithTimeout(r.tb.Context(), 2*time.Minute)
	defer cancel()
	killed, err := r.engine.Stop(ctx, id, grace)
	if err != nil {
		r.tb.Fatalf("Stop: %v", err)
	}
	return killed
}

// evict asks as kubectl drain does.
func (r *rig) evict(id trysail.PodID) error {
	body := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, id, r.cfg.Namespace)
	return r.admin.Post().Namespace(r.cfg.Namespace).Resource("pods").Name(string(id)).SubResource("eviction").MaxRetries(0).Body([]byte(body)).Do(r.tb.Context()).Error()
}

func TestEngine_PodIsWhatAnOperatorExpects(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "serve 8080")
	spec.Containers[0].Image = r.images.user
	r.start(spec)
	p := r.object(spec.ID)
	for label, want := range map[string]string{"app.kubernetes.io/name": "web", "app.kubernetes.io/version": "1", "app.kubernetes.io/managed-by": "trysail"} {
		if p.Labels[label] != want {
			t.Errorf("label %s is %q, want %q", label, p.Labels[label], want)
		}
	}
	if l := p.Spec.Resources; l == nil || l.Limits.Memory().Value() != spec.Limits.Memory || l.Limits.Cpu().MilliValue() != spec.Limits.MilliCPU {
		t.Errorf("limits %+v", l)
	}
	if len(p.OwnerReferences) != 1 || len(p.Spec.TopologySpreadConstraints) != 2 || p.Spec.RestartPolicy != corev1.RestartPolicyNever || len(p.Spec.ImagePullSecrets) != 1 {
		t.Errorf("pod %+v", p.Spec)
	}
	if *p.Spec.AutomountServiceAccountToken {
		t.Error("the pod has credentials for the cluster")
	}
}

// TestEngine_KeepsToRestrictedWhereImagesAllow: an image with a user that is a number runs in a namespace of the level
// restricted, and one that runs as root is refused with the reason.
func TestEngine_KeepsToRestrictedWhereImagesAllow(t *testing.T) {
	r := newRig(t)
	r.patch("/api/v1/namespaces/"+r.cfg.Namespace, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`)
	spec := r.podSpec("user", "serve 8080")
	spec.Containers[0].Image = r.images.user
	if p := r.start(spec); !p.Running(1) {
		t.Errorf("%+v", p)
	}
	err := r.engine.Start(t.Context(), r.podSpec("root", "wait"))
	if err == nil || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("an image that runs as root: %v", err)
	}
}

func (r *rig) patch(path, body string) {
	r.tb.Helper()
	if err := r.admin.Patch(types.MergePatchType).AbsPath(path).Body([]byte(body)).Do(r.tb.Context()).Error(); err != nil {
		r.tb.Fatal(err)
	}
}

func TestEngine_SaysThatThereIsNoRoom(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("huge", "wait")
	spec.Limits.Memory = 1 << 50
	r.patch("/api/v1/namespaces/"+r.cfg.Namespace+"/resourcequotas/trysail", `{"spec":{"hard":{"limits.memory":"4Pi"}}}`)
	var err error
	r.wait("the larger quota is in force", func() bool { // the API server learns of it a moment later
		err = r.engine.Start(t.Context(), spec)
		return err == nil || !strings.Contains(err.Error(), "exceeded quota")
	})
	if err == nil || !strings.HasPrefix(err.Error(), trysail.StartNoRoom) || !strings.Contains(err.Error(), "Insufficient memory") {
		t.Errorf("a pod that fits on no node: %v", err)
	}
	seen, err := r.engine.Observe(t.Context(), spec.ID)
	if err != nil || !strings.HasPrefix(seen.StartError, trysail.StartNoRoom) || len(seen.TimeLine) == 0 {
		t.Errorf("what is seen of it: %+v, %v", seen, err)
	}
	r.stop(spec.ID, 0)
	r.patch("/api/v1/namespaces/"+r.cfg.Namespace+"/resourcequotas/trysail", `{"spec":{"hard":{"pods":"0"}}}`)
	r.wait("the quota is in force", func() bool {
		err := r.engine.Start(t.Context(), r.podSpec("one-more", "wait"))
		if err == nil {
			r.stop("one-more", 0)
		}
		return err != nil && strings.HasPrefix(err.Error(), trysail.StartNoRoom) && strings.Contains(err.Error(), "exceeded quota")
	})
}

// TestEngine_EmptiesANode: a node that takes no new pods makes its pods leave, and until they have, nobody evicts them.
func TestEngine_EmptiesANode(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "serve 8080")
	if p := r.start(spec); p.Leaving {
		t.Errorf("%+v", p)
	}
	node := r.object(spec.ID).Spec.NodeName
	r.patch("/api/v1/nodes/"+node, `{"spec":{"unschedulable":true}}`)
	defer r.patch("/api/v1/nodes/"+node, `{"spec":{"unschedulable":null}}`)
	r.wait("the pod is to leave", func() bool { return r.pod(spec.ID).Leaving })
	r.wait("evictions are refused", func() bool { return apierrors.IsTooManyRequests(r.evict(spec.ID)) })
	again := r.podSpec("web-v1-0-again", "serve 8080")
	r.start(again)
	if other := r.object(again.ID).Spec.NodeName; other == node {
		t.Errorf("the replacement is on %s as well", node)
	}
	r.stop(spec.ID, time.Second)
}

// TestEngine_SurvivesTheAPIServer: while it is away what was known stays known and what cannot be done says so; afterwards
// everything goes on, with no line of a log missing or doubled.
func TestEngine_SurvivesTheAPIServer(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "serve 8080")
	p := r.start(spec)
	say := func(text string) {
		t.Helper()
		r.wait("the pod prints", func() bool {
			resp, err := http.Get(fmt.Sprintf("http://%s:8080/print?text=%s", p.Addr, text)) //nolint:noctx // the pod answers
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
	}
	say("before")
	r.wait("the line is in the log", func() bool { return strings.Contains(r.logText(spec, "a"), "stdout F before") })
	r.cluster("restart-api")
	say("meanwhile")
	if p := r.pod(spec.ID); !p.Running(1) {
		t.Error("the pod is not known any more")
	}
	r.wait("the API server is back", func() bool { return r.engine.Check(t.Context()) == nil })
	r.wait("the line is in the log", func() bool { return strings.Contains(r.logText(spec, "a"), "stdout F meanwhile") })
	other := r.podSpec("web-v1-1", "exit 3")
	r.start(other)
	r.wait("changes are seen again", func() bool { p := r.pod(other.ID); return p.Crashed() })
	r.stop(other.ID, 0)
	r.close()
	say("nobody")
	r.open()
	say("after")
	r.wait("the line is in the log", func() bool { return strings.Contains(r.logText(spec, "a"), "stdout F after") })
	for _, word := range []string{"before", "meanwhile", "nobody", "after"} {
		if n := strings.Count(r.logText(spec, "a"), "stdout F "+word+"\n"); n != 1 {
			t.Errorf("the log has the line %q %d times", word, n)
		}
	}
	r.stop(spec.ID, time.Second)
}

// TestEngine_StopsPodsOfALostNode: a node that crashes makes its pods leave; they can be stopped without it, and when
// the node is back, nothing of them is.
func TestEngine_StopsPodsOfALostNode(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "serve 8080")
	r.start(spec)
	node := r.object(spec.ID).Spec.NodeName
	number := strings.TrimPrefix(node, "n")
	r.cluster("kill", number)
	r.wait("the loss is noticed", func() bool { p := r.pod(spec.ID); return p.Leaving || p.Lost })
	r.stop(spec.ID, 30*time.Second)
	again := r.podSpec("web-v1-0-again", "serve 8080")
	if p := r.start(again); !p.Running(1) || r.object(again.ID).Spec.NodeName == node {
		t.Errorf("%+v", p)
	}
	r.cluster("start", number)
	r.wait("the node is back", func() bool {
		n := &corev1.Node{}
		if err := r.admin.Get().Resource("nodes").Name(node).Do(t.Context()).Into(n); err != nil {
			return false
		}
		return len(n.Spec.Taints) == 0
	})
	pods, err := r.engine.Pods(t.Context())
	if err != nil || len(pods) != 1 {
		t.Errorf("pods %+v, %v", pods, err)
	}
	r.stop(again.ID, time.Second)
}

// TestEngine_SomebodyDeletesAPod: it is lost, and can be started again by the same name.
func TestEngine_SomebodyDeletesAPod(t *testing.T) {
	r := newRig(t)
	spec := r.podSpec("web-v1-0", "ignore")
	r.start(spec)
	if err := r.admin.Delete().Namespace(r.cfg.Namespace).Resource("pods").Name(string(spec.ID)).Body([]byte(`{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":3}`)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	r.wait("the pod is lost", func() bool {
		pods, err := r.engine.Pods(t.Context())
		return err == nil && (len(pods) == 0 || pods[0].Lost)
	})
	if p := r.start(spec); !p.Running(1) || p.Lost {
		t.Errorf("%+v", p)
	}
	r.stop(spec.ID, 0)
}
