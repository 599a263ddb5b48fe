package control_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

func TestGetPodLog(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceReady, trysail.DeploymentActive)
	id := b.service().ID
	at := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	b.update(func(tx *store.Tx) error {
		var errs []error
		for i, p := range []*trysail.PodRecord{
			{ID: "v1-first", Version: 1, EndedAt: at.Add(time.Hour)},
			{ID: "v1-second", Version: 1, EndedAt: at.Add(2 * time.Hour)},
			{ID: "v2-first", Version: 2, EndedAt: at.Add(3 * time.Hour)},
			{ID: "v2-second", Version: 2},
		} {
			p.ServiceID, p.CreatedAt = id, at.Add(time.Duration(i)*time.Minute)
			errs = append(errs, tx.InsertPod(p), tx.UpdatePod(p))
		}
		return errors.Join(errs...)
	})
	for i, pod := range []string{"v1-first", "v1-second", "v2-first", "v2-second", "forgotten"} {
		dir := b.logs.PodDir(id, pod)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		record := fmt.Sprintf("%s stderr F of %s\n", at.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), pod)
		if err := os.WriteFile(filepath.Join(dir, "web.log"), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.logs.Append(id, []string{"web"}, at.Add(-time.Second), "[deployment:1] Canceled\n[deployment:2] Canceled\n[deployment:12] Canceled"); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		version  int
		previous bool
		want     []string
	}{
		"all":                 {0, false, []string{"[deployment:1] Canceled", "[deployment:2] Canceled", "[deployment:12] Canceled", "of v1-first", "of v1-second", "of v2-first", "of v2-second", "of forgotten"}},
		"version":             {1, false, []string{"[deployment:1] Canceled", "of v1-first", "of v1-second"}},
		"previous":            {0, true, []string{"of v2-first"}},
		"previous of version": {1, true, []string{"of v1-second"}},
		"unknown version":     {9, false, nil},
	} {
		in := control.GetPodLogInput{GetContainerLogInput: control.GetContainerLogInput{ServiceName: "web", ContainerName: "web"}, Version: tc.version, Previous: tc.previous}
		page, err := b.GetPodLog(t.Context(), caller, in)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range page.Events {
			got = append(got, e.Message)
			if e.Pod != "" && (e.Message != "of "+string(e.Pod) || !e.Stderr) || e.Pod == "v2-first" && e.Version != 2 || e.Pod == "forgotten" && e.Version != 0 {
				t.Errorf("%s: %+v", name, e)
			}
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	in := control.GetPodLogInput{GetContainerLogInput: control.GetContainerLogInput{ServiceName: "web", ContainerName: "web"}, Version: -1}
	b.refused(trysail.CodeInvalid, "The version must be 1 or more.", func() error { _, err := b.GetPodLog(t.Context(), caller, in); return err })
}
