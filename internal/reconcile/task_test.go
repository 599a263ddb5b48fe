package reconcile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/enginetest"
	"github.com/trysail/trysail/internal/store"
)

// task records a task with the command and returns its id.
func (in *installation) task(id string, timeout time.Duration, command ...string) trysail.PodID {
	in.t.Helper()
	k := &trysail.Task{
		ID: trysail.PodID(id), ServiceID: "id-web", Version: 1, Container: "app", Command: command, Power: trysail.PowerNano,
		CreatedAt: time.Now(), Deadline: time.Now().Add(timeout),
	}
	in.update(func(tx *store.Tx) error { return tx.InsertTask(k) })
	return k.ID
}

// ended waits for the end of a task.
func (in *installation) ended(id trysail.PodID) (k trysail.Task) {
	in.t.Helper()
	in.wait("the task has ended", func() bool {
		err := in.store.View(in.t.Context(), func(tx *store.Tx) (err error) { k, err = tx.Task(id); return err })
		if err != nil {
			in.t.Fatal(err)
		}
		return !k.EndedAt.IsZero()
	})
	return k
}

// withTasks is an installation whose service web runs an image that serves, and does as its command says if it has one.
func withTasks(t *testing.T) *installation {
	t.Helper()
	in := install(t)
	serve := enginetest.Serve(appPort, answer("version 1"))
	in.engine.SetImage("web-1", enginetest.Image{Program: func(p *enginetest.Process) int {
		switch args := p.Args[1:]; {
		case len(args) == 0:
			return serve(p)
		case args[0] == "exit":
			fmt.Fprintln(p.Stdout, "the last words")
			return 7
		case args[0] == "wait":
			return enginetest.Wait(p)
		}
		return 1
	}})
	in.create(1)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	return in
}

func TestReconciler_RunsATaskOnce(t *testing.T) {
	in := withTasks(t)
	k := in.ended(in.task("web-task-one", time.Hour, "exit"))
	if k.ExitCode != 7 || k.Reason != "" {
		t.Errorf("the task ended with %d, %q", k.ExitCode, k.Reason)
	}
	starts := 0
	for _, c := range in.engine.Calls() {
		if strings.HasPrefix(c.String(), "Start") && strings.Contains(c.String(), "web-task-one") {
			starts++
		}
	}
	if starts != 1 {
		t.Errorf("its pod was started %d times", starts)
	}
	pods, err := in.engine.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.ID == k.ID {
			t.Error("its pod is still there")
		}
	}
	if s := in.service(); s.State != trysail.ServiceRunning || s.Current == nil || s.Current.Version != 1 {
		t.Errorf("the service is %s after it", s.State)
	}
}

func TestReconciler_StopsTasks(t *testing.T) {
	in := withTasks(t)
	if k := in.ended(in.task("web-task-late", time.Millisecond, "wait")); !strings.Contains(k.Reason, "its time of") {
		t.Errorf("a task that takes too long: %q", k.Reason)
	}
	id := in.task("web-task-stop", time.Hour, "wait")
	in.wait("the task runs", func() bool { return in.hasPod(id) })
	in.update(func(tx *store.Tx) error {
		k, err := tx.Task(id)
		if err != nil {
			return err
		}
		k.StopAt = tx.Now()
		return tx.UpdateTask(&k)
	})
	if k := in.ended(id); k.Reason != "It was stopped." || in.hasPod(id) {
		t.Errorf("a task that was stopped: %q", k.Reason)
	}
	// One that goes with its service leaves nothing.
	gone := in.task("web-task-gone", time.Hour, "wait")
	in.wait("the task runs", func() bool { return in.hasPod(gone) })
	in.update(func(tx *store.Tx) error { return tx.DeleteService("id-web") })
	in.wait("its pod is gone", func() bool { return !in.hasPod(gone) })
}

func (in *installation) hasPod(id trysail.PodID) bool {
	in.t.Helper()
	pods, err := in.engine.Pods(in.t.Context())
	if err != nil {
		in.t.Fatal(err)
	}
	for _, p := range pods {
		if p.ID == id {
			return true
		}
	}
	return false
}

func TestReconciler_ATaskOutlivesARestart(t *testing.T) {
	in := withTasks(t)
	id := in.task("web-task-long", time.Hour, "wait")
	in.wait("the task runs", func() bool { return in.hasPod(id) })
	in.stop()
	if !in.hasPod(id) {
		t.Fatal("the end of Trysail has ended the task")
	}
	in.engine.Crash(id, "app", 4) // it ends while nobody looks
	in.start()
	if k := in.ended(id); k.ExitCode != 4 || k.Reason != "" {
		t.Errorf("the task ended with %d, %q", k.ExitCode, k.Reason)
	}
}

func TestReconciler_SaysWhyATaskCannotStart(t *testing.T) {
	in := withTasks(t)
	in.engine.FailStart(1, fmt.Errorf("no room in /run/secret"))
	k := in.ended(in.task("web-task-no", time.Hour, "exit"))
	if !strings.Contains(k.Reason, "could not start it") || strings.Contains(k.Reason, "secret") {
		t.Errorf("reason: %q", k.Reason)
	}
}
