package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestPulls_NamesLeadBackToTheImage(t *testing.T) {
	p := &pulls{host: "10.0.0.5:4501"}
	for image, want := range map[string]string{
		"nginx@" + digest:                       "10.0.0.5:4501/docker.io/nginx@" + digest,
		"owner/app@" + digest:                   "10.0.0.5:4501/docker.io/owner/app@" + digest,
		"ghcr.io/owner/app@" + digest:           "10.0.0.5:4501/ghcr.io/owner/app@" + digest,
		"127.0.0.1:5000/a/b@" + digest:          "10.0.0.5:4501/127.0.0.1__5000/a/b@" + digest,
		"localhost/a@" + digest:                 "10.0.0.5:4501/localhost/a@" + digest,
		trysail.StoredRepository + "@" + digest: "10.0.0.5:4501/" + trysail.StoredRepository + "@" + digest,
	} {
		got := p.name(image)
		if got != want {
			t.Errorf("name(%s) = %s, want %s", image, got, want)
		}
		repository, d, _ := strings.Cut(strings.TrimPrefix(got, p.host+"/"), "@")
		if back := imageOf(repository, d); strings.TrimPrefix(back, "docker.io/") != image {
			t.Errorf("%s leads back to %s, not to %s", got, back, image)
		}
	}
}

// library is a supply with one image.
type library struct{ dir string }

const (
	libraryImage  = "registry.example.com/app@" + digest
	configDigest  = "sha256:c"
	layerDigest   = "sha256:l"
	libraryConfig = `{"config":{"User":"1000"}}`
)

func (l library) Manifest(_ context.Context, image string) (string, []byte, error) {
	if image != libraryImage {
		return "", nil, &trysail.ImageError{Code: "IMG-TAG", Image: image, Message: "There is no such image.", Final: true}
	}
	return "application/vnd.oci.image.manifest.v1+json", fmt.Appendf(nil, `{"config":{"digest":%q,"size":%d},"layers":[{"digest":%q,"size":5}]}`, configDigest, len(libraryConfig), layerDigest), nil
}

func (l library) Blob(_ context.Context, image string, b engine.Descriptor, _ func(int64)) (engine.File, error) {
	text := map[string]string{configDigest: libraryConfig, layerDigest: "layer"}[b.Digest]
	if text == "" || image != libraryImage || int(b.Size) != len(text) {
		return engine.File{}, errors.New("no such blob")
	}
	path := filepath.Join(l.dir, strings.TrimPrefix(b.Digest, "sha256:"))
	return engine.File{Path: path, Release: func() {}}, os.WriteFile(path, []byte(text), 0o600)
}

func newTestPulls(t *testing.T) *pulls {
	t.Helper()
	p, err := newPulls(Config{Dir: t.TempDir(), Registry: "10.0.0.5:4501", Images: library{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPulls_ServeImagesToWhoHasThePassword(t *testing.T) {
	p := newTestPulls(t)
	get := func(method, path, password string) (int, string) {
		r := httptest.NewRequest(method, path, nil)
		if password != "" {
			r.SetBasicAuth(pullUser, password)
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	blob := "/v2/registry.example.com/app/blobs/" + layerDigest
	for _, tt := range []struct {
		method, path, password string
		status                 int
		body                   string
	}{
		{"GET", "/v2/", "", http.StatusUnauthorized, "UNAUTHORIZED"},
		{"GET", "/v2/", "wrong", http.StatusUnauthorized, "UNAUTHORIZED"},
		{"GET", "/v2/", p.password, http.StatusOK, ""},
		{"PUT", "/v2/x/manifests/latest", p.password, http.StatusMethodNotAllowed, "UNSUPPORTED"},
		{"GET", "/v2/registry.example.com/app/manifests/latest", p.password, http.StatusNotFound, "by digest"},
		{"GET", "/v2/registry.example.com/other/manifests/" + digest, p.password, http.StatusNotFound, "There is no such image."},
		{"GET", blob, p.password, http.StatusNotFound, "ask for the manifest first"},
		{"HEAD", "/v2/registry.example.com/app/manifests/" + digest, p.password, http.StatusOK, ""},
		{"GET", blob, p.password, http.StatusOK, "layer"},
		{"GET", blob, "", http.StatusUnauthorized, "UNAUTHORIZED"},
		{"GET", "/etc/passwd", p.password, http.StatusNotFound, "NAME_UNKNOWN"},
	} {
		if status, body := get(tt.method, tt.path, tt.password); status != tt.status || !strings.Contains(body, tt.body) || tt.body == "" && body != "" {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.path, status, body, tt.status, tt.body)
		}
	}
	again, err := newPulls(Config{Dir: filepath.Dir(filepath.Join(t.TempDir(), "x"))})
	if err != nil || again.password == p.password || len(p.password) < 20 {
		t.Errorf("two installations have the passwords %q and %q, %v", p.password, again.password, err)
	}
	if user, err := p.user(t.Context(), libraryImage); err != nil || user != "1000" {
		t.Errorf("user %q, %v", user, err)
	}
}

func TestLiteral_SurvivesTheClustersVariables(t *testing.T) {
	for text, want := range map[string]string{"plain": "plain", "$(HOME)": "$$(HOME)", "$$": "$$$$", "a$b": "a$$b"} {
		if got := literal(text); got != want {
			t.Errorf("literal(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestContainerOf_PutsStatesIntoOurWords(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC))
	ended := func(code int32, reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message, StartedAt: at, FinishedAt: at}}
	}
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	for name, tt := range map[string]struct {
		state corev1.ContainerState
		want  trysail.ContainerStatus
		ok    bool
	}{
		"runs":              {corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}, trysail.ContainerStatus{State: "running", StartedAt: at.Time}, true},
		"ended":             {ended(3, "Error", ""), trysail.ContainerStatus{State: "exited", ExitCode: 3, StartedAt: at.Time, FinishedAt: at.Time}, true},
		"memory":            {ended(137, "OOMKilled", ""), trysail.ContainerStatus{State: "exited", ExitCode: 137, OOMKilled: true, StartedAt: at.Time, FinishedAt: at.Time}, true},
		"memory of a child": {ended(1, "OOMKilled", ""), trysail.ContainerStatus{State: "exited", ExitCode: 1, StartedAt: at.Time, FinishedAt: at.Time}, true},
		"no command":        {ended(128, "StartError", "exec: no such file"), trysail.ContainerStatus{State: "exited", ExitCode: 128, StartError: "exec: no such file", FinishedAt: at.Time}, true},
		"refused":           {waiting("CreateContainerError", "no command specified"), trysail.ContainerStatus{State: "exited", ExitCode: 128, StartError: "no command specified"}, true},
		"creating":          {waiting("ContainerCreating", ""), trysail.ContainerStatus{}, false},
		"pulling":           {waiting("ImagePullBackOff", "Back-off"), trysail.ContainerStatus{}, false},
	} {
		got, ok := containerOf(corev1.ContainerStatus{State: tt.state})
		if ok != tt.ok {
			t.Errorf("%s: created %v", name, ok)
		} else if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestKilledAfter_NamesOnlyWhoDidNotUseTheGrace(t *testing.T) {
	over := time.Date(2026, 11, 21, 12, 0, 10, 500_000_000, time.UTC)
	status := func(name string, code int32, reason string, at time.Time) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, FinishedAt: metav1.NewTime(at.Truncate(time.Second)),
		}}}
	}
	p := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
		status("stubborn", 137, "Error", over.Add(100*time.Millisecond)), status("gentle", 0, "Completed", over),
		status("memory", 137, "OOMKilled", over), status("early", 137, "Error", over.Add(-5*time.Second)), status("ended", 137, "Error", over),
	}}}
	if got := killedAfter(p, []string{"stubborn", "gentle", "memory", "early"}, over); !cmp.Equal(got, []string{"stubborn"}) {
		t.Errorf("killed %q", got)
	}
}

func TestClient_KnowsWhatIsNotTheRequestsFault(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, tt := range []struct {
		err  error
		away bool
	}{
		{apierrors.NewTooManyRequests("slow down", 1), true},
		{apierrors.NewInternalError(errors.New("etcd")), true},
		{apierrors.NewServiceUnavailable("starting"), true},
		{apierrors.NewConflict(pods, "x", errors.New("changed")), true},
		{&netError{}, true},
		{context.DeadlineExceeded, true},
		{context.Canceled, false},
		{apierrors.NewForbidden(pods, "x", errors.New("exceeded quota")), false},
		{apierrors.NewForbidden(pods, "x", errors.New(`User "trysail" cannot create resource "pods"`)), true},
		{apierrors.NewBadRequest("what?"), false},
		{apierrors.NewNotFound(pods, "x"), false},
	} {
		if got := errors.Is(new(client).explain(tt.err), engine.ErrUnavailable); got != tt.away {
			t.Errorf("%v: unavailable %v, want %v", tt.err, got, tt.away)
		}
	}
}

type netError struct{}

func (*netError) Error() string   { return "connection refused" }
func (*netError) Timeout() bool   { return false }
func (*netError) Temporary() bool { return true }

// TestLog_HasEveryLineOnce: however often following breaks off, at whatever byte, the file ends up with every line once,
// in order, also where many lines have the same time.
func TestLog_HasEveryLineOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "trysail-log-") //nolint:usetesting // one for each of many runs
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
		var lines, want []string
		for i := range rapid.IntRange(1, 60).Draw(t, "lines") {
			at = at.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 1, 1e9}).Draw(t, "pause")))
			text := fmt.Sprintf("line %d", i) + strings.Repeat("x", rapid.IntRange(0, 100).Draw(t, "length"))
			lines = append(lines, at.Format(logTime)+" "+text+"\n")
			want = append(want, text)
		}
		for done := false; !done; {
			file, err := openLog(dir, "a")
			if err != nil {
				t.Fatal(err)
			}
			end := file.end(stdout)
			var have strings.Builder
			for _, l := range lines {
				if stamp, _, _ := strings.Cut(l, " "); end.last.IsZero() || stamp >= end.last.Truncate(time.Second).Format(logTime) {
					have.WriteString(l)
				}
			}
			broken := have.String()
			done = rapid.Bool().Draw(t, "whole")
			if !done {
				broken = broken[:rapid.IntRange(0, len(broken)).Draw(t, "bytes that came")]
			}
			if _, err := copyLines(strings.NewReader(broken), stdout, end, file, false); err != nil {
				t.Fatal(err)
			}
			if err := file.close(); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(filepath.Join(dir, "a.log"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		part := ""
		for l := range strings.Lines(string(text)) {
			fields := strings.SplitN(strings.TrimSuffix(l, "\n"), " ", 4)
			part += fields[3]
			if fields[2] == "F" {
				got = append(got, part)
				part = ""
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the log differs: %s", diff)
		}
	})
}

// TestLog_KeepsWhatHasNoEnd: the last words of a container may have none, and a long line may be broken off within.
func TestLog_KeepsWhatHasNoEnd(t *testing.T) {
	dir := t.TempDir()
	file, err := openLog(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	stamp := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).Format(logTime)
	long := stamp + " " + strings.Repeat("x", 3*maxPart)
	for _, step := range []struct {
		text  string
		ended bool
	}{{stamp + " broken", false}, {stamp + " broken off\n" + long, false}, {stamp + " broken off\n" + long + "y\n" + stamp + " last words", true}} {
		if _, err := copyLines(strings.NewReader(step.text), stdout, file.end(stdout), file, step.ended); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "a.log"))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(string(text), "\n"+stamp+" stdout F ", "|")
	got = strings.ReplaceAll(got, "\n"+stamp+" stdout P ", "")
	if want := stamp + " stdout F broken off" + strings.Repeat("x", 3*maxPart) + "|last words\n"; strings.ReplaceAll(got, "|x", "x") != want {
		t.Errorf("the log is %.300s", got)
	}
	if err := file.close(); err != nil {
		t.Error(err)
	}
}

// TestLog_GoesOnWhereOtherServersHaveCome: what they have is not written again, and who wants to know is told before anything of
// a stream is written.
func TestLog_GoesOnWhereOtherServersHaveCome(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var told []string
	file, err := continueLog(dir, "a", Continuation{
		Number: 3,
		End: func(stream string) (time.Time, int) {
			if stream == stdout {
				return at, 1
			}
			return time.Time{}, 0
		},
		Begin: func(stream string, at time.Time) error {
			if text, err := os.ReadFile(filepath.Join(dir, "a.3.log")); err != nil || strings.Contains(string(text), stream) {
				t.Errorf("told of %s too late: %q, %v", stream, text, err)
			}
			told = append(told, stream+" "+at.Format(logTime))
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := at.Add(-time.Second).Format(logTime) + " long ago\n" + at.Format(logTime) + " known\n" + at.Format(logTime) + " new\n"
	if _, err := copyLines(strings.NewReader(lines), stdout, file.end(stdout), file, false); err != nil {
		t.Fatal(err)
	}
	if err := file.close(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "a.3.log"))
	if want := at.Format(logTime) + " stdout F new\n"; err != nil || string(text) != want {
		t.Errorf("the file has %q, want %q; %v", text, want, err)
	}
	if want := []string{stdout + " " + at.Format(logTime)}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

func TestLog_ALineWithoutTimeIsAnError(t *testing.T) {
	file, err := openLog(t.TempDir(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer file.close()
	if _, err := copyLines(strings.NewReader("no time\n"), stdout, seen{}, file, false); err == nil {
		t.Error("a line without a time was taken")
	}
}

func TestNames_AreObjectsOfTheCluster(t *testing.T) {
	e := &Engine{owner: owner{"trysail", "uid"}}
	service, slice := e.nameObjects(trysail.PrivateService{
		Service: "web", Pods: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, TCP: []uint16{80}, UDP: []uint16{53},
	}, map[netip.Addr]string{netip.MustParseAddr("10.0.0.2"): "n2"})
	if len(service.Spec.Ports) != 2 || service.Spec.Selector != nil {
		t.Errorf("service %+v", service.Spec)
	}
	if len(slice.Endpoints) != 2 || slice.Endpoints[1].Addresses[0] != "10.0.0.2" || len(slice.Ports) != 2 || slice.Labels["kubernetes.io/service-name"] != "web" {
		t.Errorf("slice %+v", slice)
	}
	if slice.Endpoints[0].NodeName != nil || slice.Endpoints[1].NodeName == nil || *slice.Endpoints[1].NodeName != "n2" {
		t.Errorf("nodes of the endpoints: %+v", slice.Endpoints)
	}
	for service, want := range map[string]string{"web": "web", "7up": "s-7up", "a" + strings.Repeat("b", 70): "a" + strings.Repeat("b", 62)} {
		if got := nameOf(service); got != want {
			t.Errorf("nameOf(%s) = %s, want %s", service, got, want)
		}
	}
}
