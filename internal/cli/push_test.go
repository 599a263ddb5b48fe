package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// pushServer is an API and a registry at the same address, as Trysail is.
type pushServer struct {
	*httptest.Server
	sent map[string]map[string]any // the last request of each operation
}

func newPushServer(t *testing.T) *pushServer {
	t.Helper()
	s := &pushServer{sent: map[string]map[string]any{}}
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)))
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "AWS" || password != "p4ss" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(w, r)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		in := map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		s.sent[operation] = in
		switch operation {
		case "GetContainerServices":
			if in["serviceName"] != "web" {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"__type":"NotFoundException","message":"Service \"nope\" not found."}`)
				return
			}
			fmt.Fprint(w, `{"containerServices":[{"containerServiceName":"web","state":"READY"}]}`)
		case "CreateContainerServiceRegistryLogin":
			fmt.Fprintf(w, `{"registryLogin":{"username":"AWS","password":"p4ss","registry":%q,"expiresAt":1800000000}}`, strings.TrimPrefix(s.URL, "http://"))
		case "RegisterContainerImage":
			fmt.Fprintf(w, `{"containerImage":{"image":":web.www.7","digest":%q,"createdAt":1800000000}}`, in["digest"])
		case "GetContainerImages":
			fmt.Fprint(w, `{"containerImages":[{"image":":web.www.7","digest":"sha256:aa","createdAt":1800000000}]}`)
		case "ListNodeImages":
			fmt.Fprint(w, `{"images":[{"name":"nginx:1","digest":"sha256:0123456789abcdef","size":2500000,"kept":["current version of web"]},{"name":"old:1","digest":"sha256:ff","size":1000000,"kept":[]}],"registryBytes":5000000,"unusedBytes":1000000}`)
		case "ListRegistries":
			fmt.Fprint(w, `{"registries":[{"host":"ghcr.io","username":"me","hasSecret":true,"mirrors":["https://m"],"ca":"","plainHttp":false}]}`)
		default:
			fmt.Fprint(w, `{}`)
		}
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *pushServer) app(in string) (app *App, out, errs *bytes.Buffer) {
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	return &App{In: strings.NewReader(in), Out: out, Err: errs, Getenv: func(name string) string {
		return map[string]string{"AWS_ENDPOINT_URL_LIGHTSAIL": s.URL, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "sk", "DOCKER_HOST": "unix:///nope.sock"}[name]
	}}, out, errs
}

func (s *pushServer) run(t *testing.T, in string, args ...string) (status int, out, errs string) {
	t.Helper()
	app, o, e := s.app(in)
	status = app.Execute(t.Context(), args)
	return status, o.String(), e.String()
}

// savedImage is a tar file with an image.
func savedImage(t *testing.T) (file string) {
	t.Helper()
	img, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("localhost/app:1")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "app.tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPush_RegistersWhatItPushed(t *testing.T) {
	s := newPushServer(t)
	file := savedImage(t)
	status, out, errs := s.run(t, "", "push", file, "--service", "web", "--label", "www")
	if status != ExitOK || errs != "" {
		t.Fatalf("status %d: %s", status, errs)
	}
	digest := fmt.Sprint(s.sent["RegisterContainerImage"]["digest"])
	want := "Digest: " + digest + "\nImage \"" + file + "\" registered.\nRefer to this image as \":web.www.7\" in deployments.\n"
	if out != want || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if _, out, _ = s.run(t, "", "push", file, "-s", "web", "-l", "www", "-o", "json"); !strings.Contains(out, `"image": ":web.www.7"`) {
		t.Errorf("JSON: %s", out)
	}
	delete(s.sent, "CreateContainerServiceRegistryLogin")
	for name, tc := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"no service":      {[]string{"push", file, "-l", "www"}, ExitUsage, "The service or the label is missing"},
		"unknown service": {[]string{"push", file, "-s", "nope", "-l", "www"}, ExitFailed, `Service "nope" not found.`},
		"unknown image":   {[]string{"push", "absent:1", "-s", "web", "-l", "www"}, ExitFailed, `image "absent:1" was found`},
	} {
		if status, _, errs := s.run(t, "", tc.args...); status != tc.status || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: status %d, %s", name, status, errs)
		}
	}
	if s.sent["CreateContainerServiceRegistryLogin"] != nil {
		t.Error("a login was made for a push that could not be")
	}
}

func TestPlugin_SpeaksTheCLIsProtocol(t *testing.T) {
	s := newPushServer(t)
	file := savedImage(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "sk")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	input := func(version, operation string) string {
		return fmt.Sprintf(`{"inputVersion":%q,"operation":%q,"payload":{"service":"web","image":%q,"label":"www"},`+
			`"configuration":{"debug":false,"endpoint":"%s/","region":"us-west-2","doNotVerifySSL":false,"cliVersion":"2.9.19","paginate":true,"output":"json"}}`,
			version, operation, file, s.URL)
	}
	run := func(in string, args ...string) (int, string, string) {
		app, out, errs := s.app(in)
		return app.Plugin(t.Context(), args), out.String(), errs.String()
	}
	status, out, errs := run(input("1", "PushContainerImage"), "--plugin", "--input-stdin")
	if status != ExitOK || !strings.HasSuffix(out, "Refer to this image as \":web.www.7\" in deployments.\n") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	for name, tc := range map[string]struct {
		in   string
		args []string
		want string
	}{
		"version":   {input("2", "PushContainerImage"), []string{"--plugin", "--input-stdin"}, `speaks version "2"`},
		"operation": {input("1", "PullContainerImage"), []string{"--plugin", "--input-stdin"}, `asks for "PullContainerImage"`},
		"no JSON":   {"x", []string{"--plugin", "--input-stdin"}, "reading the input of the AWS CLI"},
		"by hand":   {"", nil, "there is nothing to do"},
		"unknown":   {"", []string{"--frob"}, `unknown argument "--frob"`},
	} {
		if status, _, errs := run(tc.in, tc.args...); status != ExitFailed || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: status %d, %s", name, status, errs)
		}
	}
	if status, out, _ := run("", "--version"); status != ExitOK || !strings.HasPrefix(out, "lightsailctl (trysail") {
		t.Errorf("version: %d %s", status, out)
	}
}

func TestImages_ListsAndDeletes(t *testing.T) {
	s := newPushServer(t)
	if _, out, _ := s.run(t, "", "images", "web"); !strings.Contains(out, ":web.www.7") || !strings.Contains(out, "   aa") {
		t.Errorf("of a service:\n%s", out)
	}
	_, out, _ := s.run(t, "", "images")
	for _, want := range []string{"nginx:1   0123456789ab   2.5 MB   unpacked   current version of web", "nothing needs it", "The registry holds 5.0 MB. Not needed and removed in time: 1.0 MB."} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	if status, out, errs := s.run(t, "", "images", "delete", ":web.www.7"); status != ExitOK || out != "Image :web.www.7 is deleted.\n" {
		t.Errorf("delete: %d %s%s", status, out, errs)
	}
	if in := s.sent["DeleteContainerImage"]; in["serviceName"] != "web" || in["image"] != ":web.www.7" {
		t.Errorf("sent %v", in)
	}
	if status, _, errs := s.run(t, "", "images", "delete", "nginx"); status != ExitUsage || !strings.Contains(errs, "it looks like :web.www.3") {
		t.Errorf("a bad name: %d %s", status, errs)
	}
}

func TestRegistry_SendsOnlyWhatWasGiven(t *testing.T) {
	s := newPushServer(t)
	for name, tc := range map[string]struct {
		in   string
		args []string
		want string
	}{
		"login":      {"t0ken\n", []string{"login", "ghcr.io", "-u", "me", "--password-stdin"}, `{"host":"ghcr.io","secret":"t0ken","username":"me"}`},
		"logout":     {"", []string{"logout", "ghcr.io"}, `{"host":"ghcr.io","secret":"","username":""}`},
		"mirrors":    {"", []string{"set", "docker.io", "--mirror", "https://a", "--mirror", "https://b"}, `{"host":"docker.io","mirrors":["https://a","https://b"]}`},
		"no mirror":  {"", []string{"set", "docker.io", "--mirror", ""}, `{"host":"docker.io","mirrors":[]}`},
		"no CA":      {"", []string{"set", "r.lan", "--ca", ""}, `{"ca":"","host":"r.lan"}`},
		"plain HTTP": {"", []string{"set", "r.lan", "--plain-http"}, `{"host":"r.lan","plainHttp":true}`},
	} {
		status, out, errs := s.run(t, tc.in, append([]string{"registry"}, tc.args...)...)
		sent, err := json.Marshal(s.sent["PutRegistry"])
		if err != nil {
			t.Fatal(err)
		}
		if status != ExitOK || string(sent) != tc.want || strings.Contains(out+errs, "t0ken") {
			t.Errorf("%s: status %d, sent %s\n%s%s", name, status, sent, out, errs)
		}
	}
	for name, tc := range map[string]struct {
		in   string
		args []string
		want string
	}{
		"no user":   {"x", []string{"login", "ghcr.io"}, "The user is missing"},
		"no secret": {"", []string{"login", "ghcr.io", "-u", "me"}, "No secret was given"},
		"nothing":   {"", []string{"set", "ghcr.io"}, "Nothing to set"},
		"no file":   {"", []string{"set", "ghcr.io", "--ca", "/nope.pem"}, "Reading the CA certificates"},
	} {
		if status, _, errs := s.run(t, tc.in, append([]string{"registry"}, tc.args...)...); status == ExitOK || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: status %d, %s", name, status, errs)
		}
	}
	if _, out, _ := s.run(t, "", "registry", "list"); !strings.Contains(out, "ghcr.io   me     no       no           https://m") {
		t.Errorf("list:\n%s", out)
	}
	if status, out, _ := s.run(t, "", "registry", "delete", "ghcr.io"); status != ExitOK || s.sent["DeleteRegistry"]["host"] != "ghcr.io" {
		t.Errorf("delete: %d %s", status, out)
	}
}
