package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

// TestAgain_RunsWhatTheVersionRan: what a name stands for may have changed since, and a version that is deployed again is to
// run the same programs.
func TestAgain_RunsWhatTheVersionRan(t *testing.T) {
	newest, tag := 2, "sha256:tag-1"
	b := newBed(t, func(c *control.Config) {
		c.Registry, c.Images = "127.0.0.1:4500", resolver(func(_ context.Context, name string) (trysail.Image, error) {
			switch number := name[strings.LastIndexAny(name, ".:")+1:]; {
			case name == "nginx:stable":
				return trysail.Image{Name: name, Digest: tag}, nil
			case number == "latest":
				return trysail.Image{Name: name, Digest: fmt.Sprintf("sha256:platform-%d", newest)}, nil
			default: // what was pushed is an index
				return trysail.Image{Name: name, Digest: "sha256:platform-" + number}, nil
			}
		})
	})
	b.create("web", trysail.ServiceReady, "")
	b.push(4)
	b.register(1, "www")
	b.register(2, "www")
	in := containers()
	port := in.Containers["web"].Ports
	in.Containers = map[string]trysail.Container{
		"web": {Image: ":web.www.latest", Ports: port}, "first": {Image: ":web.www.1"}, "tag": {Image: "nginx:stable"}, "still": {Image: "busybox:5"},
	}
	if _, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", in); err != nil {
		t.Fatal(err)
	}
	again := func() (map[string]string, error) {
		r, err := b.GetDeploymentRecord(t.Context(), caller, "web", 1)
		if err != nil {
			t.Fatal(err)
		}
		found, err := b.Again(t.Context(), r)
		names := map[string]string{}
		for name, c := range found {
			names[name] = c.Image
		}
		return names, err
	}
	want := map[string]string{"web": ":web.www.latest", "first": ":web.www.1", "tag": "nginx:stable", "still": "busybox:5"}
	if got, err := again(); err != nil || !cmp.Equal(got, want) {
		t.Errorf("nothing has changed: %v, %s", err, cmp.Diff(want, got))
	}
	b.register(3, "other")
	b.register(3, "www")
	newest, tag = 4, "sha256:tag-2"
	want["web"], want["tag"] = ":web.www.2", "nginx@sha256:tag-1"
	if got, err := again(); err != nil || !cmp.Equal(got, want) {
		t.Errorf("both have moved: %v, %s", err, cmp.Diff(want, got))
	}
	b.update(func(tx *store.Tx) error { // another version serves
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		s.Next.State = trysail.DeploymentInactive
		if err := tx.UpdateDeployment(s.ID, s.Next); err != nil {
			return err
		}
		s.Next, s.State = nil, trysail.ServiceReady
		return tx.UpdateService(s)
	})
	if err := b.DeleteContainerImage(t.Context(), caller, control.DeleteContainerImageInput{ServiceName: "web", Image: ":web.www.2"}); err != nil {
		t.Fatal(err)
	}
	b.refused(trysail.CodeInvalid, `Version 1 ran what ":web.www.latest" stood for then, which is not stored any more. Push it again, or deploy another image.`, func() error {
		_, err := again()
		return err
	})
}
