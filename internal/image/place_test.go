package image

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/trysail/trysail"
)

// known is what the operator has said about registries.
func known(list ...trysail.Registry) func(context.Context, string) (trysail.Registry, error) {
	return func(_ context.Context, host string) (trysail.Registry, error) {
		for _, r := range list {
			if r.Host == host {
				return r, nil
			}
		}
		return trysail.Registry{}, nil
	}
}

func TestResolver_MirrorsAreAskedFirst(t *testing.T) {
	reg := newRegistry()
	origin := &counter{Handler: reg}
	srv, host := serve(t, origin)
	img := build(t, "linux", "amd64", v1.Config{})
	digest := push(t, host+"/team/app:v1", img)
	push(t, host+"/team/new:v1", img)

	full := &counter{Handler: newRegistry()}
	_, fullHost := serve(t, full)
	push(t, fullHost+"/team/app:v1", img)
	push(t, fullHost+"/cache/hub/team/app:v1", img)
	empty := &counter{Handler: newRegistry()}
	_, emptyHost := serve(t, empty)
	gone := strings.TrimPrefix(srv.URL, "http://") + "1" // no such port

	for _, tt := range []struct {
		name    string
		mirrors []string
		image   string
		asks    []string // paths of the manifest that were asked for, per registry: full, empty, origin
	}{
		{"has it", []string{"http://" + fullHost}, "/team/app:v1", []string{"/v2/team/app/manifests/v1", "", ""}},
		{"path", []string{"http://" + fullHost + "/cache/hub/"}, "/team/app:v1", []string{"/v2/cache/hub/team/app/manifests/v1", "", ""}},
		{"path with v2", []string{"http://" + fullHost + "/v2/cache/hub"}, "/team/app:v1", []string{"/v2/cache/hub/team/app/manifests/v1", "", ""}},
		{"in order", []string{"http://" + gone, "http://" + emptyHost, "http://" + fullHost}, "/team/app@" + digest, []string{"/v2/team/app/manifests/" + digest, "/v2/team/app/manifests/" + digest, ""}},
		{"lacks it", []string{"http://" + emptyHost}, "/team/new:v1", []string{"", "/v2/team/new/manifests/v1", "/v2/team/new/manifests/v1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, c := range []*counter{full, empty, origin} {
				c.reset()
			}
			r := newResolver(t, Config{Registries: known(trysail.Registry{Host: host, Mirrors: tt.mirrors})})
			got, err := r.Resolve(t.Context(), host+tt.image)
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(strings.TrimSuffix(tt.image, ":v1"), "@")
			if got.Digest != digest || got.Reference != host+name+"@"+digest {
				t.Errorf("%+v", got)
			}
			for i, c := range []*counter{full, empty, origin} {
				if asked := slices.Contains(c.asked, "GET "+tt.asks[i]); asked != (tt.asks[i] != "") || !asked && len(c.asked) > 0 {
					t.Errorf("registry %d was asked for %v, want %q", i, c.asked, tt.asks[i])
				}
			}
		})
	}
	r := newResolver(t, Config{Registries: known(trysail.Registry{Host: host, Mirrors: []string{"http://" + emptyHost}})})
	e := resolveError(t, r, host+"/team/absent")
	want{"IMG-REPO", true, []string{"`" + host + "` has no repository", "Its mirror `" + emptyHost + "` was asked first: "}}.check(t, e)
}

func TestResolver_AHangingMirrorDoesNotHideTheRegistry(t *testing.T) {
	_, slow := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	_, host := serve(t, newRegistry())
	push(t, host+"/app", build(t, "linux", "amd64", v1.Config{}))
	r := newResolver(t, Config{Timeout: 2 * time.Second, Registries: known(trysail.Registry{Host: host, Mirrors: []string{"http://" + slow}})})
	if _, err := r.Resolve(t.Context(), host+"/app"); err != nil {
		t.Fatal(err)
	}
}

func TestResolver_LoginsStayApart(t *testing.T) {
	reg := newRegistry()
	_, host := serve(t, reg)
	push(t, host+"/library/nginx", build(t, "linux", "amd64", v1.Config{}))
	asked := make(chan string, 20)
	mirror := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		asked <- r.Host + " " + user
		if user == "" {
			answer(401, "text/plain", "", "Www-Authenticate", `Basic realm="x"`)(w, r)
			return
		}
		reg.ServeHTTP(w, r)
	}))
	for _, tt := range []struct {
		list []trysail.Registry
		last string // host and user of the last request
	}{
		{[]trysail.Registry{{Host: "docker.io", Username: "me", Secret: "x", Mirrors: []string{"https://mirror.example"}}}, "index.docker.io me"},
		{[]trysail.Registry{{Host: "index.docker.io", Username: "me", Secret: "x"}}, "index.docker.io me"},
		{[]trysail.Registry{{Host: "docker.io", Mirrors: []string{"https://mirror.example"}}, {Host: "mirror.example", Username: "its", Secret: "x"}}, "mirror.example its"},
	} {
		r := newResolver(t, Config{Registries: known(tt.list...)})
		redirected(r, mirror)
		if _, err := r.Resolve(t.Context(), "nginx"); err != nil {
			t.Fatal(err)
		}
		last := ""
		for len(asked) > 0 {
			if last = <-asked; last == "mirror.example me" {
				t.Error("the mirror got the login of the registry")
			}
		}
		if last != tt.last {
			t.Errorf("last asked: %s, want %s", last, tt.last)
		}
	}
}

func TestResolver_TrustsAPrivateCA(t *testing.T) {
	reg := newRegistry()
	_, open := serve(t, reg)
	push(t, open+"/app", build(t, "linux", "amd64", v1.Config{}))
	srv := serveTLS(t, reg)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	name := "example.com/app"
	resolver := func(list ...trysail.Registry) *Resolver {
		r := newResolver(t, Config{Registries: known(list...)})
		redirected(r, srv)
		r.transport.TLSClientConfig.InsecureSkipVerify = false
		return r
	}
	want{"IMG-TLS", false, nil}.check(t, resolveError(t, resolver(), name))
	want{"IMG-TLS", false, nil}.check(t, resolveError(t, resolver(trysail.Registry{Host: "other.example", CA: ca}), name))
	if _, err := resolver(trysail.Registry{Host: "example.com", CA: ca}).Resolve(t.Context(), name); err != nil {
		t.Error(err)
	}
}

func TestResolver_PlainHTTPOnlyWhenTold(t *testing.T) {
	srv, host := serve(t, newRegistry())
	push(t, host+"/app", build(t, "linux", "amd64", v1.Config{}))
	for _, tt := range []struct {
		list []trysail.Registry
		ok   bool
	}{
		{nil, false},
		{[]trysail.Registry{{Host: "example.com", PlainHTTP: true}}, true},
		{[]trysail.Registry{{Host: "example.com", Mirrors: []string{"http://mirror.example"}}}, true},
		{[]trysail.Registry{{Host: "example.com", Mirrors: []string{"https://mirror.example"}}, {Host: "mirror.example", PlainHTTP: true}}, false},
	} {
		r := newResolver(t, Config{Registries: known(tt.list...)})
		redirected(r, srv)
		if _, err := r.Resolve(t.Context(), "example.com/app"); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.list, err)
		}
	}
}

func TestResolver_UnreadableLogin(t *testing.T) {
	r := newResolver(t, Config{Registries: func(context.Context, string) (trysail.Registry, error) {
		return trysail.Registry{}, errors.New("the secret is geheim")
	}})
	e := resolveError(t, r, "example.com/app")
	want{"IMG-AUTH", false, []string{"cannot be read"}}.check(t, e)
	if strings.Contains(e.Err.Error(), "geheim") {
		t.Errorf("shown: %v", e.Err)
	}
}
