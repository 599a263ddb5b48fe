package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/database"
)

// digest is that of the n-th image that push pushes.
func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// push does what the registry does with the manifests of n images.
func (b *bed) push(n int) {
	b.Helper()
	for i := 1; i <= n; i++ {
		m := store.Manifest{Digest: digest(i), MediaType: "application/vnd.oci.image.manifest.v1+json", Content: []byte("{}")}
		b.update(func(tx *store.Tx) error { return tx.PutManifest(m, nil, "") })
	}
}

// stored resolves stored images to a digest that tells their name.
func stored(_ context.Context, name string) (trysail.Image, error) {
	switch {
	case strings.HasSuffix(name, digest(66)):
		return trysail.Image{}, &trysail.ImageError{Code: "IMG-ARCH", Image: name, Message: "It is for linux/s390x.", Fix: "Build it for linux/amd64.", Final: true}
	case strings.HasSuffix(name, ".latest"):
		return trysail.Image{Name: name, Digest: "sha256:platform-3"}, nil
	case strings.HasPrefix(name, ":"):
		return trysail.Image{Name: name, Digest: "sha256:platform-" + name[strings.LastIndex(name, ".")+1:]}, nil
	}
	return trysail.Image{Name: name, Digest: "sha256:any"}, nil
}

func newImageBed(t *testing.T) *bed {
	return newBed(t, func(c *control.Config) { c.Registry, c.Images = "127.0.0.1:4500", resolver(stored) })
}

func (b *bed) register(n int, label string) string {
	b.Helper()
	img, err := b.RegisterContainerImage(b.Context(), caller, control.RegisterContainerImageInput{ServiceName: "web", Label: label, Digest: digest(n)})
	if err != nil {
		b.Fatal(err)
	}
	return img.Name()
}

func TestCreateContainerServiceRegistryLogin_KeepsOnlyAHash(t *testing.T) {
	b := newImageBed(t)
	admin, err := b.EnsureAdminKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	login, err := b.CreateContainerServiceRegistryLogin(t.Context(), trysail.Caller{AccessKeyID: admin.ID, Name: "admin", Role: trysail.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	if login.Username != "AWS" || login.Registry != "127.0.0.1:4500" || len(login.Password) < 43 {
		t.Errorf("login for %q at %q with a password of %d characters", login.Username, login.Registry, len(login.Password))
	}
	if d := login.ExpiresAt.Sub(before); d < 12*time.Hour || d > 12*time.Hour+time.Minute {
		t.Errorf("it expires after %v, want 12 h", d)
	}
	hash := sha256.Sum256([]byte(login.Password))
	err = b.store.View(t.Context(), func(tx *store.Tx) error {
		key, until, err := tx.Login(hash[:])
		if key != admin.ID || !until.Equal(login.ExpiresAt) {
			t.Errorf("kept for %q until %v", key, until)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	files, _ := filepath.Glob(filepath.Join(b.dir, "trysail.db*"))
	if len(files) == 0 && os.Getenv(database.Variable) != "postgres" {
		t.Error("no database to look at")
	}
	for _, f := range files {
		if content, err := os.ReadFile(f); err != nil || bytes.Contains(content, []byte(login.Password)) {
			t.Errorf("%s holds the password, or: %v", filepath.Base(f), err)
		}
	}
}

func TestRegisterContainerImage_NumbersAndLists(t *testing.T) {
	b := newImageBed(t)
	b.create("web", trysail.ServiceReady, "")
	b.push(2)
	names := []string{b.register(1, "www"), b.register(2, "api"), b.register(1, "www")}
	if d := cmp.Diff([]string{":web.www.1", ":web.api.2", ":web.www.3"}, names); d != "" {
		t.Error(d)
	}
	list, err := b.GetContainerImages(t.Context(), caller, "web")
	if err != nil {
		t.Fatal(err)
	}
	want := []trysail.RegisteredImage{
		{StoredImage: trysail.StoredImage{Service: "web", Label: "www", Number: 3}, Digest: digest(1)},
		{StoredImage: trysail.StoredImage{Service: "web", Label: "api", Number: 2}, Digest: digest(2)},
		{StoredImage: trysail.StoredImage{Service: "web", Label: "www", Number: 1}, Digest: digest(1)},
	}
	if d := cmp.Diff(want, list, cmpopts.IgnoreFields(trysail.RegisteredImage{}, "CreatedAt")); d != "" {
		t.Error(d)
	}
}

func TestRegisterContainerImage_Refuses(t *testing.T) {
	b := newImageBed(t)
	b.create("web", trysail.ServiceReady, "")
	b.push(66)
	for range trysail.MaxStoredImages - 1 {
		b.register(1, "www")
	}
	for name, tc := range map[string]struct {
		in   control.RegisterContainerImageInput
		code trysail.Code
		want string
	}{
		"service":  {control.RegisterContainerImageInput{ServiceName: "nope", Label: "www", Digest: digest(1)}, trysail.CodeNotFound, `Service "nope" not found.`},
		"label":    {control.RegisterContainerImageInput{ServiceName: "web", Label: "W", Digest: digest(1)}, trysail.CodeInvalid, `Label "W" does not match pattern: ` + namePattern},
		"digest":   {control.RegisterContainerImageInput{ServiceName: "web", Label: "www", Digest: "sha256:12"}, trysail.CodeInvalid, `Digest "sha256:12" does not match pattern: ^sha256:[0-9a-f]{64}$`},
		"unknown":  {control.RegisterContainerImageInput{ServiceName: "web", Label: "www", Digest: digest(99)}, trysail.CodeNotFound, `Image "` + digest(99) + `" not found in the registry. Push it to 127.0.0.1:4500/sr first.`},
		"platform": {control.RegisterContainerImageInput{ServiceName: "web", Label: "www", Digest: digest(66)}, trysail.CodeInvalid, `Image "` + digest(66) + `" cannot be registered: It is for linux/s390x. Build it for linux/amd64.`},
	} {
		t.Run(name, func(t *testing.T) {
			(&bed{T: t, Control: b.Control, store: b.store}).refused(tc.code, tc.want, func() error {
				_, err := b.RegisterContainerImage(t.Context(), caller, tc.in)
				return err
			})
		})
	}
	if last := b.register(2, "www"); last != ":web.www.150" {
		t.Errorf("the last image is %s: a refusal used up a number", last)
	}
	b.refused(trysail.CodeInvalid, `Service "web" has 150 images, the most it may have. Delete one with DeleteContainerImage before you register another.`, func() error {
		_, err := b.RegisterContainerImage(t.Context(), caller, control.RegisterContainerImageInput{ServiceName: "web", Label: "www", Digest: digest(1)})
		return err
	})
}

func TestDeleteContainerImage(t *testing.T) {
	b := newImageBed(t)
	b.create("web", trysail.ServiceReady, "")
	b.push(3)
	for n := range 4 {
		b.register(n%3+1, "www")
	}
	in := containers()
	in.Containers["b"] = trysail.Container{Image: ":web.www.latest"}
	in.Containers["web"] = trysail.Container{Image: ":web.www.1", Ports: in.Containers["web"].Ports}
	if _, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", in); err != nil {
		t.Fatal(err)
	}
	del := func(image string) func() error {
		return func() error {
			return b.DeleteContainerImage(t.Context(), caller, control.DeleteContainerImageInput{ServiceName: "web", Image: image})
		}
	}
	for _, used := range []string{":web.www.1", ":web.www.3"} {
		b.refused(trysail.CodeInvalid, `Image "`+used+`" is used by the current deployment of service "web".`, del(used))
	}
	b.refused(trysail.CodeNotFound, `Image ":web.www.9" not found.`, del(":web.www.9"))
	for _, bad := range []string{"web.www.2", ":web.www.latest", ":other.www.2", "nginx"} {
		b.refused(trysail.CodeInvalid, `Image "`+bad+`" is not the name of an image of service "web". Example of a valid name: ":web.www.1".`, del(bad))
	}
	if err := del(":web.www.2")(); err != nil {
		t.Fatal(err)
	}
	b.refused(trysail.CodeNotFound, `Image ":web.www.2" not found.`, del(":web.www.2"))
	if next := b.register(1, "www"); next != ":web.www.5" {
		t.Errorf("the next image is %s, want number 5: none is given twice", next)
	}
}

func TestCreateContainerServiceDeployment_KeepsTheDigestOfAStoredImage(t *testing.T) {
	b := newImageBed(t)
	b.create("web", trysail.ServiceReady, "")
	in := containers()
	in.Containers["web"] = trysail.Container{Image: ":web.www.latest", Ports: in.Containers["web"].Ports}
	got, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", in)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{":web.www.latest": "sha256:platform-3"}, got.Next.Digests); d != "" {
		t.Error(d)
	}
}

func TestRegistries(t *testing.T) {
	b := newImageBed(t)
	put := func(in control.PutRegistryInput) (control.Registry, error) {
		return b.PutRegistry(t.Context(), caller, in)
	}
	user, secret, none, plain := "me", "s3cret-token", "", true
	got, err := put(control.PutRegistryInput{Host: "ghcr.io", Username: &user, Secret: &secret})
	if err != nil || !got.HasSecret || got.Secret != "" {
		t.Errorf("after the login: %+v, %v", got, err)
	}
	mirrors := []string{"https://mirror.example.com"}
	if got, err = put(control.PutRegistryInput{Host: "ghcr.io", Mirrors: &mirrors, PlainHTTP: &plain}); err != nil || got.Username != "me" || !got.HasSecret || !got.PlainHTTP {
		t.Errorf("after a mirror was set: %+v, %v", got, err)
	}
	list, err := b.ListRegistries(t.Context(), caller)
	if d := cmp.Diff([]control.Registry{got}, list); d != "" || err != nil {
		t.Error(err, d)
	}
	if got, err = put(control.PutRegistryInput{Host: "ghcr.io", Username: &none, Secret: &none}); err != nil || got.HasSecret || len(got.Mirrors) != 1 {
		t.Errorf("after the logout: %+v, %v", got, err)
	}
	for name, tc := range map[string]struct {
		in   control.PutRegistryInput
		want string
	}{
		"host":      {control.PutRegistryInput{Host: "https://ghcr.io"}, `Registry "https://ghcr.io" is not a host name with an optional port.`},
		"half":      {control.PutRegistryInput{Host: "ghcr.io", Username: &user}, `Registry "ghcr.io" needs a user name and a secret, or neither.`},
		"no secret": {control.PutRegistryInput{Host: "ghcr.io", Secret: &secret}, `Registry "ghcr.io" needs a user name and a secret, or neither.`},
		"mirror":    {control.PutRegistryInput{Host: "ghcr.io", Mirrors: &[]string{"mirror.example.com"}}, `Mirror "mirror.example.com" of registry "ghcr.io" is not a URL`},
		"CA":        {control.PutRegistryInput{Host: "ghcr.io", CA: &secret}, `The CA certificates for registry "ghcr.io" are not certificates in PEM form`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := put(tc.in)
			e, ok := errors.AsType[*trysail.Error](err)
			if !ok || e.Code != trysail.CodeInvalid || !strings.HasPrefix(e.Message, tc.want) || strings.Contains(e.Message, secret) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := b.DeleteRegistry(t.Context(), caller, "ghcr.io"); err != nil {
		t.Fatal(err)
	}
	b.refused(trysail.CodeNotFound, `Registry "ghcr.io" not found.`, func() error { return b.DeleteRegistry(t.Context(), caller, "ghcr.io") })
}

func TestListNodeImages_SaysWhyEachIsKept(t *testing.T) {
	b := newBed(t, func(c *control.Config) {
		c.Images = resolver(stored)
		c.NodeImages = func(context.Context) ([]trysail.NodeImage, error) {
			return []trysail.NodeImage{{Name: "docker.io/library/nginx", Digest: "sha256:any", Size: 30}, {Name: "old:1", Digest: "sha256:old", Size: 70}}, nil
		}
		c.StoredSizes = func(context.Context) (map[string]int64, int64, error) {
			return map[string]int64{digest(1): 50}, 55, nil
		}
	})
	b.create("web", trysail.ServiceReady, "")
	b.push(1)
	b.register(1, "www")
	if _, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", containers()); err != nil {
		t.Fatal(err)
	}
	got, err := b.ListNodeImages(t.Context(), caller)
	if err != nil {
		t.Fatal(err)
	}
	want := &control.NodeImages{RegistryBytes: 55, UnusedBytes: 70, Images: []control.NodeImage{
		{NodeImage: trysail.NodeImage{Name: "old:1", Digest: "sha256:old", Size: 70}},
		{NodeImage: trysail.NodeImage{Name: ":web.www.1", Digest: digest(1), Size: 50}, Stored: true, Kept: []string{"registered as :web.www.1"}},
		{NodeImage: trysail.NodeImage{Name: "nginx:1", Digest: "sha256:any", Size: 30}, Kept: []string{"next version of web"}},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
