package image

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/trysail/trysail"
)

func TestResolver_SaysWhatAnImageIs(t *testing.T) {
	reg := &counter{Handler: newRegistry()}
	_, host := serve(t, reg)
	img := build(t, "linux", "amd64", v1.Config{
		Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, User: "1000", WorkingDir: "/srv",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}, "80": {}},
	})
	digest := push(t, host+"/team/app:v1", img)
	want := trysail.Image{
		Digest: digest, Reference: host + "/team/app@" + digest, Architecture: "amd64", Entrypoint: []string{"/app"},
		Command: []string{"serve"}, ExposedPorts: []string{"53/udp", "80/tcp", "8080/tcp"}, User: "1000", WorkingDir: "/srv",
	}
	for _, name := range []string{host + "/team/app:v1", host + "/team/app@" + digest, host + "/team/app:v1@" + digest} {
		reg.reset()
		got, err := newResolver(t, Config{Version: "1.2.3"}).Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		want.Name = name
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if len(reg.asked) != 2 {
			t.Errorf("%s took %d requests, want 2: %v", name, len(reg.asked), reg.asked)
		}
		if reg.agent != "trysail/1.2.3" {
			t.Errorf("user agent %q", reg.agent)
		}
	}
}

func TestResolver_ChoosesThePlatformOfAnIndex(t *testing.T) {
	reg := &counter{Handler: newRegistry()}
	_, host := serve(t, reg)
	image := func(arch, id string) v1.Image { return build(t, "linux", arch, v1.Config{Cmd: []string{id}}) }
	attestation := map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	unknown := &v1.Platform{OS: "unknown", Architecture: "unknown"}
	ours, theirs := image("amd64", "ours"), image("arm64", "theirs")
	for _, tt := range []struct {
		name     string
		children []mutate.IndexAddendum
		platform v1.Platform
		want     v1.Image
	}{
		{"two platforms and attestations", []mutate.IndexAddendum{
			add(image("unknown", "a"), unknown, nil), add(theirs, on("arm64", "v8"), nil), add(ours, on("amd64", ""), nil), add(image("", "b"), on("amd64", ""), attestation),
		}, amd64, ours},
		{"plain before v3", []mutate.IndexAddendum{add(image("amd64", "v3"), on("amd64", "v3"), nil), add(ours, on("amd64", ""), nil)}, amd64, ours},
		{"arm64 v8", []mutate.IndexAddendum{add(ours, on("amd64", ""), nil), add(theirs, on("arm64", "v8"), nil)}, *on("arm64", ""), theirs},
		{"windows beside", []mutate.IndexAddendum{add(image("amd64", "w"), &v1.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10"}, nil), add(ours, on("amd64", ""), nil)}, amd64, ours},
		{"no platform given", []mutate.IndexAddendum{add(ours, nil, nil)}, amd64, ours},
		{"the index knows better than the configuration", []mutate.IndexAddendum{add(theirs, on("amd64", ""), nil)}, amd64, theirs},
		{"index in an index", []mutate.IndexAddendum{add(mutate.AppendManifests(empty.Index, add(ours, on("amd64", ""), nil)), nil, nil)}, amd64, ours},
		{"arm v7 takes v6 before v5", []mutate.IndexAddendum{
			add(image("arm", "5"), on("arm", "v5"), nil), add(image("arm", "8"), on("arm", "v8"), nil), add(theirs, on("arm", "v6"), nil),
		}, *on("arm", "v7"), theirs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := host + "/" + strings.ReplaceAll(strings.ToLower(tt.name), " ", "-")
			push(t, name, mutate.AppendManifests(empty.Index, tt.children...))
			reg.reset()
			got, err := newResolver(t, Config{Platform: tt.platform}).Resolve(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if want := digestOf(t, tt.want); got.Digest != want || got.Reference != name+"@"+want || got.Architecture != tt.platform.Architecture {
				t.Errorf("got %+v, want digest %s", got, want)
			}
			if most := 3 + strings.Count(tt.name, "in an index"); len(reg.asked) != most {
				t.Errorf("took %d requests: %v", len(reg.asked), reg.asked)
			}
		})
	}
}

func TestResolver_RefusesOtherPlatforms(t *testing.T) {
	_, host := serve(t, newRegistry())
	push(t, host+"/single", build(t, "linux", "arm64", v1.Config{}))
	push(t, host+"/windows", build(t, "windows", "amd64", v1.Config{}))
	push(t, host+"/index", mutate.AppendManifests(empty.Index,
		add(build(t, "linux", "s390x", v1.Config{}), on("s390x", ""), nil), add(build(t, "linux", "arm64", v1.Config{}), on("arm64", "v8"), nil),
		add(build(t, "", "", v1.Config{}), &v1.Platform{OS: "unknown", Architecture: "unknown"}, nil)))
	push(t, host+"/empty", empty.Index)
	for image, parts := range map[string][]string{
		"/single":  {"offers `linux/arm64`; this machine is `linux/amd64`", "--platform linux/amd64"},
		"/windows": {"`windows/amd64`"},
		"/index":   {"`linux/arm64/v8`, `linux/s390x`;"},
		"/empty":   {"offers nothing"},
	} {
		e := resolveError(t, newResolver(t, Config{}), host+image)
		want{"IMG-ARCH", true, parts}.check(t, e)
		if strings.Contains(e.Message, "unknown") {
			t.Errorf("an attestation counts as a platform: %s", e.Message)
		}
	}
}

func TestResolver_DockerHubIsTheDefault(t *testing.T) {
	reg := &counter{Handler: newRegistry()}
	srv := serveTLS(t, reg)
	plain, host := serve(t, reg.Handler) // the same registry, to push to
	defer plain.Close()
	digest := push(t, host+"/library/nginx", build(t, "linux", "amd64", v1.Config{}))
	for _, name := range []string{"nginx", "nginx:latest", "docker.io/nginx", "library/nginx", "docker.io/library/nginx:latest", "index.docker.io/nginx"} {
		r := newResolver(t, Config{})
		redirected(r, srv)
		got, err := r.Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got.Reference != "docker.io/library/nginx@"+digest {
			t.Errorf("%s: reference %s", name, got.Reference)
		}
	}
	r := newResolver(t, Config{})
	redirected(r, srv)
	want{"IMG-REPO", true, []string{"Docker Hub has no repository `ngimx`", "spelling"}}.check(t, resolveError(t, r, "ngimx"))
}

func TestResolver_PlainHTTPStaysOnThisMachine(t *testing.T) {
	reg := &counter{Handler: newRegistry()}
	srv, host := serve(t, reg)
	_, port, _ := strings.Cut(host, ":")
	push(t, host+"/app", build(t, "linux", "amd64", v1.Config{}))
	for _, h := range []string{"localhost", "127.0.0.1", "127.8.9.10", "[::1]"} {
		r := newResolver(t, Config{})
		redirected(r, srv)
		if _, err := r.Resolve(t.Context(), h+":"+port+"/app"); err != nil {
			t.Errorf("%s: %v", h, err)
		}
	}
	reg.reset()
	// The registry library would use plain HTTP for these.
	for _, h := range []string{"10.1.2.3", "192.168.1.5", "registry.localhost"} {
		r := newResolver(t, Config{})
		redirected(r, srv)
		want{"IMG-TLS", false, []string{"does not speak TLS", "only for registries on this machine"}}.check(t, resolveError(t, r, h+":"+port+"/app"))
	}
	if len(reg.asked) > 0 {
		t.Errorf("asked in plain text: %v", reg.asked)
	}
}

func TestResolver_RegistryOnThisMachineMaySpeakTLS(t *testing.T) {
	reg := newRegistry()
	_, host := serve(t, reg)
	push(t, host+"/app", build(t, "linux", "amd64", v1.Config{}))
	srv := serveTLS(t, reg)
	r := newResolver(t, Config{})
	name := strings.TrimPrefix(srv.URL, "https://") + "/app"
	want{"IMG-TLS", false, []string{"signed by `Acme Co`", "update-ca-certificates"}}.check(t, resolveError(t, r, name))
	redirected(r, srv)
	if _, err := r.Resolve(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func TestResolver_RetriesOneCutConnection(t *testing.T) {
	reg := newRegistry()
	var cuts atomic.Int32 // left to do
	_, host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && cuts.Add(-1) >= 0 {
			panic(http.ErrAbortHandler)
		}
		reg.ServeHTTP(w, r)
	}))
	push(t, host+"/app", build(t, "linux", "amd64", v1.Config{}))
	r := newResolver(t, Config{})
	r.transport.DisableKeepAlives = true // or the transport retries by itself
	cuts.Store(1)
	if _, err := r.Resolve(t.Context(), host+"/app"); err != nil {
		t.Fatal(err)
	}
	cuts.Store(2)
	want{"IMG-NET", false, []string{"was cut", host}}.check(t, resolveError(t, r, host+"/app"))
	if left := cuts.Load(); left != 0 {
		t.Errorf("tried %d times, want 2", 2-left)
	}
}

func BenchmarkResolver_Loopback(b *testing.B) {
	srv := httptest.NewServer(newRegistry())
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	push(&testing.T{}, host+"/app", build(&testing.T{}, "linux", "amd64", v1.Config{}))
	r := New(Config{Platform: amd64})
	defer r.Close()
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), host+"/app"); err != nil {
			b.Fatal(err)
		}
	}
}
