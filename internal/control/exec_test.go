package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

func TestExecSession_RunsOnceInTheChosenPod(t *testing.T) {
	var ranIn []string
	result := error(nil)
	b := newBed(t, func(cfg *control.Config) {
		cfg.Exec = func(_ context.Context, pod trysail.PodID, container string, c trysail.Command) (int, error) {
			ranIn = append(ranIn, string(pod)+"/"+container+" "+strings.Join(c.Args, " "))
			return 7, result
		}
	})
	key, err := b.CreateAccessKey(t.Context(), caller, control.CreateAccessKeyInput{Name: "me"})
	if err != nil {
		t.Fatal(err)
	}
	me := trysail.Caller{AccessKeyID: key.ID, Name: "me", Role: trysail.RoleAdmin}
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	in := control.CreateExecSessionInput{ServiceName: "web", Command: []string{"sh", "-c", "true"}}
	create := func(in control.CreateExecSessionInput) error {
		_, err := b.CreateExecSession(t.Context(), me, in)
		return err
	}
	b.refused(trysail.CodeInvalid, `No pod of service "web" is running.`, func() error { return create(in) })

	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		old := trysail.PodRecord{ID: "web-v1-0-gone", ServiceID: s.ID, Version: 1, CreatedAt: tx.Now()}
		held := trysail.PodRecord{ID: "web-v2-0-held", ServiceID: s.ID, Version: 2, CreatedAt: tx.Now()}
		pod := trysail.PodRecord{ID: "web-v1-0-here", ServiceID: s.ID, Version: 1, CreatedAt: tx.Now()}
		failed := &trysail.Deployment{State: trysail.DeploymentFailed, CreatedAt: tx.Now(), Containers: map[string]trysail.Container{"a": {Image: "x"}, "b": {Image: "x"}}}
		err = errors.Join(tx.InsertDeployment(s.ID, failed), tx.InsertPod(&old), tx.InsertPod(&held), tx.InsertPod(&pod))
		old.EndedAt, old.StopAt = tx.Now(), tx.Now()
		held.StopAt, held.HoldUntil = tx.Now(), tx.Now().AddDate(0, 0, 1)
		pod.HealthyAt = tx.Now()
		return errors.Join(err, tx.UpdatePod(&old), tx.UpdatePod(&held), tx.UpdatePod(&pod))
	})
	for _, tt := range []struct {
		change func(*control.CreateExecSessionInput)
		want   string
	}{
		{func(*control.CreateExecSessionInput) {}, "web-v1-0-here/web"},
		{func(in *control.CreateExecSessionInput) { in.Version = 2 }, "web-v2-0-held/a"},
		{func(in *control.CreateExecSessionInput) { in.PodID, in.ContainerName = "web-v2-0-held", "b" }, "web-v2-0-held/b"},
	} {
		in := in
		tt.change(&in)
		made, err := b.CreateExecSession(t.Context(), me, in)
		if err != nil {
			t.Fatal(err)
		}
		s, ok := b.TakeExecSession(made.Token)
		if !ok {
			t.Fatal("the token of a new session is not known")
		}
		if _, again := b.TakeExecSession(made.Token); again {
			t.Error("a token can be used twice")
		}
		exit, err := b.RunExecSession(t.Context(), s, trysail.Command{})
		if want := tt.want + " sh -c true"; exit != 7 || err != nil || ranIn[len(ranIn)-1] != want {
			t.Errorf("ran %q, exit %d, %v; want %q", ranIn[len(ranIn)-1], exit, err, want)
		}
	}
	if _, ok := b.TakeExecSession("guess"); ok {
		t.Error("a guessed token is taken for one")
	}
	audit := b.state().Audit
	said := audit[0].Details
	if audit[0].Operation != "CreateExecSession" || audit[0].Service != "web" || audit[0].Caller.Name != "me" || said["command"] != "sh -c true" || said["pod"] == "" || said["container"] == "" {
		t.Errorf("audit: %v", audit[0])
	}
	b.refused(trysail.CodeNotFound, `No pod "web-v1-0-gone" of service "web" is running.`, func() error {
		return create(control.CreateExecSessionInput{ServiceName: "web", PodID: "web-v1-0-gone", Command: []string{"sh"}})
	})
	b.refused(trysail.CodeNotFound, `Container "z" not found. Version 1 of service "web" has: web.`, func() error {
		return create(control.CreateExecSessionInput{ServiceName: "web", ContainerName: "z", Command: []string{"sh"}})
	})
	b.refused(trysail.CodeInvalid, "The command is empty.", func() error { return create(control.CreateExecSessionInput{ServiceName: "web"}) })
	b.refused(trysail.CodeInvalid, "The command is longer than 65536 bytes.", func() error {
		return create(control.CreateExecSessionInput{ServiceName: "web", Command: []string{strings.Repeat("x", 70_000)}})
	})

	session := trysail.ExecSession{Service: "web", Pod: "p", Container: "c", Args: []string{"nope"}, Caller: me}
	result = &trysail.CommandError{Reason: `exec: "nope": executable file not found in $PATH`}
	if _, err := b.RunExecSession(t.Context(), session, trysail.Command{}); err == nil || err.Error() != `The command cannot be started: exec: "nope": executable file not found in $PATH` {
		t.Errorf("a program that is not there: %v", err)
	}
	if err := b.DeleteAccessKey(t.Context(), caller, key.ID); err == nil {
		t.Fatal("the last key was deleted")
	}
	session.Caller.AccessKeyID = "AKIAGONE"
	if _, err := b.RunExecSession(t.Context(), session, trysail.Command{}); trysail.ErrorCode(err) != trysail.CodeAccessDenied {
		t.Errorf("a session whose key was deleted: %v", err)
	}
}
