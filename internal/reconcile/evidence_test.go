package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/enginetest"
	"github.com/trysail/trysail/internal/store"
)

// witness is an engine that sees inside pods what the test says.
type witness struct {
	*enginetest.Memory
	seen     trysail.PodEvidence
	autopsy  trysail.Autopsy
	oomKills int64
}

func (w *witness) Observe(context.Context, trysail.PodID) (trysail.PodEvidence, error) {
	return w.seen, nil
}
func (w *witness) Settle(trysail.PodID) {}

func (w *witness) Reach(_ context.Context, _ trysail.PodID, things []trysail.Reach) ([]trysail.Reach, error) {
	for i := range things {
		things[i].Result = trysail.ReachRefused
	}
	return things, nil
}

func (w *witness) Machine(context.Context) (trysail.MachineState, error) {
	return trysail.MachineState{At: time.Now(), BootID: "boot", MemoryTotal: 1 << 30, OOMKills: w.oomKills}, nil
}

func (w *witness) Examine(context.Context, trysail.ContainerSpec, []int) (trysail.Autopsy, error) {
	return w.autopsy, nil
}

// knocker is a witness that cannot see who listens, and tries.
type knocker struct {
	*witness
	tries atomic.Int64
}

func (k *knocker) Knock(_ context.Context, _ trysail.PodID, ports []int) (knocks []trysail.Knock, err error) {
	k.tries.Add(1)
	for _, port := range ports {
		found := trysail.Knock{Port: port, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}
		if port == appPort {
			found.Inside = trysail.ReachOK
		}
		knocks = append(knocks, found)
	}
	return knocks, errors.New("not all could be tried")
}

func (in *installation) witness() *witness {
	in.stop()
	w := &witness{Memory: in.engine}
	in.startOn(w)
	return w
}

func (in *installation) diagnosis(version int) (d *trysail.Diagnosis, ok bool) {
	in.t.Helper()
	err := in.store.View(in.t.Context(), func(tx *store.Tx) (err error) {
		d, err = tx.Diagnosis("id-web", version)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		in.t.Fatal(err)
	}
	return d, err == nil
}

// records are the pods of version 1.
func (in *installation) records() (list []trysail.PodRecord) {
	in.t.Helper()
	err := in.store.View(in.t.Context(), func(tx *store.Tx) error {
		all, err := tx.Pods("id-web", true)
		for _, p := range all {
			if p.Version == 1 {
				list = append(list, p)
			}
		}
		return err
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return list
}

func TestReconciler_TriesWhatWouldWork(t *testing.T) {
	in := install(t)
	in.window = 3 * time.Second
	in.witness()
	in.engine.SetImage("lost", enginetest.Image{Program: enginetest.Serve(appPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/up" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))})
	in.create(1)
	in.deploy("lost")
	in.wait("it fails", func() bool { _, ok := in.diagnosis(1); return ok })
	d, _ := in.diagnosis(1)
	if d.Code != "HC-5XX" {
		t.Errorf("%+v", d)
	}
	pods := in.records()
	if len(pods) != 1 || len(pods[0].Evidence.Probes) == 0 || pods[0].Evidence.Probes[0].Status != 500 || pods[0].Evidence.Machine.BootID != "boot" {
		t.Fatalf("%+v", pods)
	}
	for _, x := range pods[0].Evidence.Trials {
		if x.Result.Count == 0 || (x.Path == "/up") != x.Result.OK {
			t.Errorf("%+v", x)
		}
	}
	if len(pods[0].Evidence.Trials) < 3 {
		t.Errorf("trials: %v", pods[0].Evidence.Trials)
	}
}

// TestReconciler_KnocksAtPodsThatRefuse: once, when a pod whose check is refused fails, and never at others.
func TestReconciler_KnocksAtPodsThatRefuse(t *testing.T) {
	in := install(t)
	in.window = 3 * time.Second
	in.stop()
	k := &knocker{witness: &witness{Memory: in.engine}}
	in.startOn(k)
	in.engine.SetImage("deaf", enginetest.Image{})
	in.create(1)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	if n := k.tries.Load(); n > 0 {
		t.Errorf("a healthy pod was tried %d times", n)
	}
	in.deploy("deaf")
	in.wait("it fails", func() bool { _, ok := in.diagnosis(2); return ok })
	if d, _ := in.diagnosis(2); d.Code != "NET-LOOPBACK" || d.Confidence != trysail.Certain {
		t.Errorf("%+v", d)
	}
	if n := k.tries.Load(); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
}

func TestReconciler_CertainCauseIsNotTriedAgain(t *testing.T) {
	in := install(t)
	w := in.witness()
	w.autopsy = trysail.Autopsy{Program: "/app", Findings: []trysail.Finding{{
		Code: "IMG-BIN-ARCH", Confidence: trysail.Certain, ContainerName: "app", Summary: "/app is for arm64.", Fix: "Build it for amd64.",
		Evidence: []trysail.Evidence{{Kind: "image", Text: "ELF, arm64"}},
	}}}
	in.create(1)
	in.deploy("web-1")
	in.wait("it fails", func() bool { _, ok := in.diagnosis(1); return ok })
	if d, _ := in.diagnosis(1); d.Code != "IMG-BIN-ARCH" || d.Confidence != trysail.Certain || d.ContainerName != "app" {
		t.Errorf("%+v", d)
	}
	if pods := in.records(); len(pods) > 0 {
		t.Errorf("pods were made: %+v", pods)
	}
	err := in.store.View(t.Context(), func(tx *store.Tx) error {
		seen, err := tx.DeploymentEvidence("id-web", 1)
		if err == nil && (seen.Autopsies["app"].Program != "/app" || seen.Machine == nil) {
			err = fmt.Errorf("%+v", seen)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReconciler_WarnsOfWhatWorks(t *testing.T) {
	in := install(t)
	in.engine.SetImage("empty", enginetest.Image{Program: enginetest.Serve(appPort, http.NotFoundHandler())})
	in.create(1)
	in.deploy("empty")
	in.waitState(trysail.ServiceRunning)
	d, ok := in.diagnosis(1)
	if !ok || d.Code != trysail.DiagnosisOK || len(d.Warnings) != 1 || d.Warnings[0].Code != "HC-DEFAULT" {
		t.Errorf("%v %+v", ok, d)
	}
	if got := strings.Join(in.systemLines(), "\n"); !strings.Contains(got, "[trysail] Warning HC-DEFAULT: Healthy only because 404 counts as success") {
		t.Errorf("system lines:\n%s", got)
	}
	in.deploy("web-1")
	in.wait("version 2 is active", func() bool { s := in.service(); return s.Current.Version == 2 })
	if d, ok := in.diagnosis(2); ok {
		t.Errorf("a good version: %+v", d)
	}
}

func TestReconciler_ExplainsTheCrashOfAnActivePod(t *testing.T) {
	in := install(t)
	in.engine.SetImage("empty", enginetest.Image{Program: enginetest.Serve(appPort, http.NotFoundHandler())})
	in.create(1)
	in.deploy("empty")
	in.waitState(trysail.ServiceRunning)
	pods, err := in.engine.Pods(t.Context())
	if err != nil || len(pods) != 1 || !in.engine.Crash(pods[0].ID, "app", 9) {
		t.Fatal("nothing to crash", pods, err)
	}
	in.wait("the crash has a verdict", func() bool { d, ok := in.diagnosis(1); return ok && d.Code == "EXIT-CODE" })
	if d, _ := in.diagnosis(1); d.ContainerName != "app" || len(d.Warnings) != 1 {
		t.Errorf("%+v", d)
	}
	in.wait("it runs again", func() bool { return in.pods() == 1 && len(in.records()) == 2 })
	if got := in.records()[0]; got.Reason != "container app exited with code 9 (EXIT-CODE)" || got.Evidence == nil {
		t.Errorf("%+v", got)
	}
	if got := strings.Join(in.systemLines(), "\n"); !strings.Contains(got, "It is started again.\n[trysail] EXIT-CODE: ") || !strings.Contains(got, "\n[trysail] Fix: ") {
		t.Errorf("system lines:\n%s", got)
	}
}

func TestReconciler_CancelsAtAnyMoment(t *testing.T) {
	in := install(t)
	in.create(1)
	in.deploy("mute")
	in.wait("the pod runs", func() bool { return in.pods() == 1 })
	in.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		return errors.Join(tx.SetDeploymentEvidence(s.ID, 1, &trysail.DeploymentEvidence{CanceledBy: "ci", CanceledAt: tx.Now()}), tx.UpdateDeployment(s.ID, s.Next))
	})
	in.waitState(trysail.ServiceReady)
	if d, _ := in.diagnosis(1); d.Code != "USER-CANCEL" || !strings.Contains(d.Summary, "ci") {
		t.Errorf("%+v", d)
	}
	in.wait("its pod is gone", func() bool { return in.pods() == 0 })
}

func TestReconciler_HoldsThePodOfAFailedDeployment(t *testing.T) {
	in := install(t)
	var asked atomic.Bool
	in.engine.SetImage("sick", enginetest.Image{Program: enginetest.Serve(appPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Store(true)
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "sick")
	}))})
	in.create(1)
	in.deploy("sick")
	in.wait("the pod is asked for its health", asked.Load)
	in.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil || s.Next == nil {
			return errors.Join(err, errors.New("it ended too soon"))
		}
		s.Next.Hold, s.Next.Deadline = time.Hour, tx.Now()
		return tx.UpdateDeployment(s.ID, s.Next)
	})
	in.waitState(trysail.ServiceReady)
	held := in.records()[0]
	if !held.Failed || !held.EndedAt.IsZero() || time.Until(held.HoldUntil) < 50*time.Minute {
		t.Fatalf("%+v", held)
	}
	if status, _ := in.get(); status != 404 || in.pods() != 1 {
		t.Errorf("status %d, %d pods", status, in.pods())
	}
	if got := strings.Join(in.systemLines(), "\n"); !strings.Contains(got, fmt.Sprintf("[trysail] Pod %s at ", held.ID)) {
		t.Errorf("system lines:\n%s", got)
	}
	in.stop()
	in.start() // it is held over a restart as well
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	in.wait("it makes way", func() bool { return in.pods() == 1 && !in.records()[0].EndedAt.IsZero() })
}

func TestReconciler_SaysWhatIsInTheWaySoFar(t *testing.T) {
	in := install(t)
	in.engine.SetImage("sick", enginetest.Image{Program: enginetest.Serve(appPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))})
	in.create(1)
	in.deploy("sick")
	in.wait("the answer is told", func() bool {
		return strings.HasSuffix(in.service().Detail.Message, "of container app (so far: it answers 503)")
	})
}

func TestReconciler_WarnsOfWhatIgnoresSIGTERM(t *testing.T) {
	in := install(t)
	serve := enginetest.Serve(appPort, answer("deaf"))
	in.engine.SetImage("deaf", enginetest.Image{Program: func(p *enginetest.Process) int {
		deaf := *p
		deaf.Term = nil
		return serve(&deaf)
	}})
	in.create(1)
	in.deploy("deaf")
	in.waitState(trysail.ServiceRunning)
	in.deploy("web-1")
	in.wait("version 1 has a warning", func() bool { d, ok := in.diagnosis(1); return ok && len(d.Warnings) == 1 })
	if d, _ := in.diagnosis(1); d.Code != trysail.DiagnosisOK || d.Warnings[0].Code != "DRAIN-KILL" || d.Warnings[0].ContainerName != "app" {
		t.Errorf("%+v", d)
	}
	if e := in.records()[0].Evidence; e == nil || e.Stop == nil || e.Stop.Grace != time.Second || len(e.Probes) == 0 {
		t.Errorf("%+v", e)
	}
	if got := strings.Join(in.systemLines(), "\n"); !strings.Contains(got, "[trysail] Warning DRAIN-KILL: ") {
		t.Errorf("system lines:\n%s", got)
	}
}
