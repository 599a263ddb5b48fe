package reconcile_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/enginetest"
	"github.com/trysail/trysail/internal/fleet"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/reconcile"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/database"
)

// databases is what the tests keep the state in: make test runs them with SQLite and with PostgreSQL.
var databases database.Server

func TestMain(m *testing.M) { os.Exit(databases.Main(m)) }

// appPort is what the pods listen on, each at a loopback address of its own. Whoever has the port on all addresses of
// this machine would be in the way, so it is not one that is in common use.
const appPort = 30480

// installation is everything but the API: real store, logs and edge, and containers that are goroutines.
type installation struct {
	t      *testing.T
	store  *store.Store
	logs   *logs.Store
	edge   *edge.Edge
	engine *enginetest.Memory
	router reconcile.Router // nil: that of the edge
	client *http.Client
	window time.Duration
	stop   func()
}

// resolver knows every image by a digest of its own.
type resolver struct{}

func (resolver) Resolve(_ context.Context, name string) (trysail.Image, error) {
	if strings.HasPrefix(name, "missing") {
		return trysail.Image{}, &trysail.ImageError{Code: "IMG-TAG", Image: name, Message: "no such tag", Fix: "push it", Final: true}
	}
	return trysail.Image{Name: name, Digest: "sha256:" + strings.Repeat("ab", 32)}, nil
}

func install(t *testing.T) *installation {
	t.Helper()
	dir := t.TempDir()
	st, err := databases.Open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	e, err := edge.New(edge.Config{Dir: dir + "/ca", HTTPAddr: "127.0.0.1:0", HTTPSAddr: "127.0.0.1:0"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	in := &installation{t: t, store: st, logs: logs.New(dir + "/logs"), edge: e, engine: enginetest.NewMemory(), window: time.Minute}
	for _, version := range []string{"1", "2", "3"} {
		in.engine.SetImage("web-"+version, enginetest.Image{Program: enginetest.Serve(appPort, answer("version "+version))})
	}
	in.engine.SetImage("crash", enginetest.Image{Program: func(p *enginetest.Process) int {
		fmt.Fprintln(p.Stderr, "I cannot go on")
		return 3
	}})
	in.engine.SetImage("mute", enginetest.Image{})
	in.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", e.HTTPSAddr())
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the edge's own tests verify its certificates
	}}
	in.start()
	t.Cleanup(func() {
		in.stop()
		in.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = e.Close(ctx)
		_ = in.engine.Close()
		_ = st.Close()
	})
	return in
}

func answer(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

// config is that of a reconciler on the engine.
func (in *installation) config(e engine.Engine) reconcile.Config {
	router := in.router
	if router == nil {
		router = fleet.NewAlone(in.edge)
	}
	return reconcile.Config{
		Rules: reconcile.Rules{Region: "us-east-1", Domain: "localhost", ActivationTimeout: in.window, DrainTimeout: 5 * time.Second},
		Store: in.store, Engine: e, Router: router, Images: resolver{}, Logs: in.logs,
		Log: slog.New(slog.DiscardHandler), StopGrace: time.Second,
	}
}

// start begins to reconcile; in.stop ends it, as the end of the process would.
func (in *installation) start() {
	in.startOn(in.engine)
}

func (in *installation) startOn(e engine.Engine) {
	ctx, cancel := context.WithCancel(context.Background())
	r := reconcile.New(in.config(e))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			in.t.Error(err)
		}
	})
	in.stop = func() { cancel(); wg.Wait() }
}

func (in *installation) create(scale int) {
	in.t.Helper()
	s := &trysail.Service{
		ID: "id-web", Name: "web", HostLabel: "abc", CreatedAt: time.Now(), State: trysail.ServicePending,
		Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: scale},
	}
	in.update(func(tx *store.Tx) error { return tx.InsertService(s) })
	in.waitState(trysail.ServiceReady)
}

func (in *installation) update(fn func(*store.Tx) error) {
	in.t.Helper()
	if err := in.store.Update(in.t.Context(), fn); err != nil {
		in.t.Fatal(err)
	}
}

// change does what control does with a service.
func (in *installation) change(fn func(*trysail.Service)) {
	in.t.Helper()
	in.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		fn(s)
		return tx.UpdateService(s)
	})
}

func (in *installation) deploy(image string) {
	in.t.Helper()
	hc := trysail.DefaultHealthCheck()
	in.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		s.State, s.Detail = trysail.ServiceDeploying, trysail.StateDetail{Code: trysail.DetailCreatingDeployment}
		d := &trysail.Deployment{
			State: trysail.DeploymentActivating, CreatedAt: tx.Now(),
			Containers:     map[string]trysail.Container{"app": {Image: image, Ports: map[string]trysail.Protocol{strconv.Itoa(appPort): trysail.ProtocolHTTP}}},
			PublicEndpoint: &trysail.PublicEndpoint{ContainerName: "app", ContainerPort: appPort, HealthCheck: hc},
		}
		op := trysail.Operation{
			ID: fmt.Sprintf("deploy %s %d", image, tx.Now().UnixNano()), ResourceName: s.Name, Type: "CreateContainerServiceDeployment",
			Status: trysail.OperationStarted, CreatedAt: tx.Now(),
		}
		return errors.Join(tx.InsertDeployment(s.ID, d), tx.UpdateService(s), tx.InsertOperation(op))
	})
}

// operation is the newest one.
func (in *installation) operation() (o trysail.Operation) {
	in.t.Helper()
	err := in.store.View(context.Background(), func(tx *store.Tx) error {
		list, _, err := tx.Operations("web", 0, 1)
		if err == nil {
			o = list[0]
		}
		return err
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return o
}

func (in *installation) service() *trysail.Service {
	in.t.Helper()
	var s *trysail.Service
	err := in.store.View(context.Background(), func(tx *store.Tx) (err error) { s, err = tx.Service("web"); return err })
	if err != nil {
		in.t.Fatal(err)
	}
	return s
}

// wait waits until done says so, and fails the test if it does not within 20 s.
func (in *installation) wait(what string, done func() bool) {
	in.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			pods, _ := in.engine.Pods(context.Background())
			in.t.Fatalf("never: %s\nservice %+v\npods %+v\nlog\n%s", what, *in.service(), pods, strings.Join(in.systemLines(), "\n"))
		}
	}
}

func (in *installation) waitState(state trysail.ServiceState) *trysail.Service {
	in.t.Helper()
	in.wait("state "+string(state), func() bool { return in.service().State == state })
	return in.service()
}

func (in *installation) get() (status int, body string) {
	resp, err := in.client.Get("https://web.abc.us-east-1.cs.localhost/")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (in *installation) serves(want string) {
	in.t.Helper()
	if status, body := in.get(); status != 200 || body != want {
		in.t.Errorf("the edge answers %d %q, want %q", status, body, want)
	}
}

func (in *installation) pods() (n int) {
	pods, err := in.engine.Pods(context.Background())
	if err != nil {
		in.t.Fatal(err)
	}
	return len(pods)
}

// systemLines are the lines of the container's log that containers did not write.
func (in *installation) systemLines() (lines []string) {
	in.t.Helper()
	events, _, err := in.logs.Query(in.t.Context(), logs.Query{ServiceID: "id-web", Container: "app"})
	if err != nil {
		in.t.Fatal(err)
	}
	for _, e := range events {
		if strings.HasPrefix(e.Text, "[") {
			lines = append(lines, e.Text)
		}
	}
	return lines
}

func TestReconciler_DeploysAndSwitches(t *testing.T) {
	in := install(t)
	in.create(2)
	if status, _ := in.get(); status != 404 {
		t.Errorf("without a deployment the edge answers %d, want 404", status)
	}
	in.deploy("web-1:latest")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 1")
	in.deploy("web-2:latest")
	s := in.waitState(trysail.ServiceRunning)
	in.serves("version 2")
	if s.Current.Version != 2 || s.Next != nil || s.Detail != (trysail.StateDetail{}) {
		t.Errorf("after the switch: %+v", *s)
	}
	if o := in.operation(); o.Status != trysail.OperationSucceeded || o.ErrorCode != "" {
		t.Errorf("the operation: %+v", o)
	}
	if s.Current.Digests["web-2:latest"] == "" {
		t.Error("the version does not remember the digest of its image")
	}
	in.wait("the old pods are gone", func() bool { return in.pods() == 2 })
	want := []string{
		"[deployment:1] Creating your deployment", "[deployment:1] Started 2 new nodes", "[deployment:1] Reached a steady state", "[deployment:1] Finalizing your deployment",
		"[deployment:2] Creating your deployment", "[deployment:2] Started 2 new nodes", "[deployment:2] Reached a steady state", "[deployment:2] Finalizing your deployment",
	}
	if got := in.systemLines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("system lines:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReconciler_KeepsTheOldVersionWhenTheNewOneFails(t *testing.T) {
	in := install(t)
	in.create(1)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	for _, tc := range []struct {
		image string
		code  trysail.DiagnosisCode
	}{{"crash", "EXIT-CODE"}, {"missing", "IMG-TAG"}} {
		in.deploy(tc.image)
		in.waitState(trysail.ServiceRunning)
		in.serves("version 1")
		if o := in.operation(); o.Status != trysail.OperationFailed || o.ErrorCode != string(tc.code) || !strings.Contains(o.ErrorDetails, " Fix: ") {
			t.Errorf("%s: the operation: %+v", tc.image, o)
		}
		err := in.store.View(t.Context(), func(tx *store.Tx) error {
			list, err := tx.Deployments("id-web")
			if err != nil {
				return err
			}
			if list[0].State != trysail.DeploymentFailed {
				t.Errorf("%s: state %s, want FAILED", tc.image, list[0].State)
			}
			d, err := tx.Diagnosis("id-web", list[0].Version)
			if err == nil && (d.Code != tc.code || d.ContainerName != "app") {
				t.Errorf("%s: diagnosis %+v, want %s of app", tc.image, *d, tc.code)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", tc.image, err)
		}
	}
	in.wait("the failed pods are gone", func() bool { return in.pods() == 1 })
	got := strings.Join(in.systemLines(), "\n")
	want := "[deployment:2] Creating your deployment\n[deployment:2] Started 1 new node\n[deployment:2] Started 1 new node\n[deployment:2] Started 1 new node\n[deployment:2] Canceled\n[trysail] EXIT-CODE: "
	if !strings.Contains(got, want) || !strings.Contains(got, "it last said: I cannot go on") {
		t.Errorf("system lines:\n%s\nwant in them:\n%s", got, want)
	}
}

func TestReconciler_GivesUpAtTheDeadlineAndSaysSo(t *testing.T) {
	in := install(t)
	in.stop()
	in.window = 300 * time.Millisecond
	in.start()
	in.create(1)
	in.deploy("mute")
	in.waitState(trysail.ServiceReady)
	if got := strings.Join(in.systemLines(), "\n"); !strings.Contains(got, "[deployment:1] Took too long\n[deployment:1] Canceled\n[trysail] ") {
		t.Errorf("system lines:\n%s", got)
	}
	if status, _ := in.get(); status != 404 {
		t.Errorf("the edge answers %d, want 404", status)
	}
}

func TestReconciler_RestartsACrashedPod(t *testing.T) {
	in := install(t)
	in.create(1)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	pods, err := in.engine.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !in.engine.Crash(pods[0].ID, "app", 9) {
		t.Fatal("nothing to crash")
	}
	in.wait("another pod serves", func() bool {
		now, _ := in.engine.Pods(t.Context())
		status, _ := in.get()
		return status == 200 && len(now) == 1 && now[0].ID != pods[0].ID
	})
	if got := strings.Join(in.systemLines(), "\n"); !strings.Contains(got, "[trysail] Version 1: container app exited with code 9. It is started again.") {
		t.Errorf("system lines:\n%s", got)
	}
}

func TestReconciler_ChangesCapacityDisablesAndDeletes(t *testing.T) {
	in := install(t)
	in.create(1)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)

	in.change(func(s *trysail.Service) {
		s.Fallback, s.Capacity, s.State = &trysail.Capacity{Power: trysail.PowerNano, Scale: 1}, trysail.Capacity{Power: trysail.PowerMicro, Scale: 3}, trysail.ServiceUpdating
	})
	s := in.waitState(trysail.ServiceRunning)
	if s.Power != trysail.PowerMicro || s.Scale != 3 || s.Fallback != nil || s.Current.Version != 1 {
		t.Errorf("after the update: %+v", *s)
	}
	in.wait("three pods", func() bool { return in.pods() == 3 })
	in.serves("version 1")

	in.change(func(s *trysail.Service) { s.Disabled, s.State = true, trysail.ServiceUpdating })
	in.waitState(trysail.ServiceDisabled)
	if status, _ := in.get(); status != 503 || in.pods() != 0 {
		t.Errorf("disabled: status %d, %d pods, want 503 and none", status, in.pods())
	}

	in.change(func(s *trysail.Service) { s.Disabled, s.State = false, trysail.ServiceUpdating })
	in.waitState(trysail.ServiceRunning)
	in.serves("version 1")

	in.change(func(s *trysail.Service) { s.State = trysail.ServiceDeleting })
	in.wait("the service is gone", func() bool {
		list, err := in.store.Services(t.Context())
		return err == nil && len(list) == 0
	})
	if status, _ := in.get(); status != 404 || in.pods() != 0 {
		t.Errorf("deleted: status %d, %d pods, want 404 and none", status, in.pods())
	}
}

func TestReconciler_DropsNoRequest(t *testing.T) {
	in := install(t)
	in.create(2)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var requests atomic.Int64
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, body := in.get(); status != 200 {
					t.Errorf("request %d: %d %s", requests.Load(), status, body)
				}
				requests.Add(1)
			}
		})
	}
	for i := range 10 {
		before := requests.Load()
		if i%3 == 2 {
			in.change(func(s *trysail.Service) {
				old := s.Capacity
				s.Fallback, s.Scale, s.State = &old, 1+i%2, trysail.ServiceUpdating
			})
		} else {
			in.deploy(fmt.Sprintf("web-%d", 1+i%3))
		}
		in.waitState(trysail.ServiceRunning)
		in.wait("traffic", func() bool { return requests.Load() > before+50 })
	}
	cancel()
	wg.Wait()
	t.Logf("%d requests", requests.Load())
}

// TestReconciler_FinishesWhatARestartInterrupted stops and starts the reconciler at ever later moments of a deployment.
func TestReconciler_FinishesWhatARestartInterrupted(t *testing.T) {
	in := install(t)
	in.create(2)
	for i := range 20 {
		image := fmt.Sprintf("web-%d", 1+i%3)
		in.deploy(image)
		time.Sleep(time.Duration(i) * 4 * time.Millisecond) // the moment is the point of the test, not a wait
		in.stop()
		in.start()
		s := in.waitState(trysail.ServiceRunning)
		if s.Current.Version != i+1 {
			t.Fatalf("interrupted after %d ms: version %d is active, want %d", i*4, s.Current.Version, i+1)
		}
		in.serves(fmt.Sprintf("version %d", 1+i%3))
	}
	in.wait("no pods are left over", func() bool { return in.pods() == 2 })
}

func TestReconciler_ASilentEngineIsNotAFailedStart(t *testing.T) {
	in := install(t)
	in.create(1)
	in.engine.FailStart(5, fmt.Errorf("dialing: %w", engine.ErrUnavailable))
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 1")

	in.engine.FailStart(3, errors.New("no room"))
	in.deploy("web-2")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 1") // three refused starts are a failed deployment
}

// pruner is an engine that remembers which images it was told to keep.
type pruner struct {
	*enginetest.Memory
	keep []string
}

func (p *pruner) Prune(_ context.Context, keep []string) (int64, error) {
	p.keep = keep
	return 1, nil
}

// collector is a registry that remembers what it was told to keep.
type collector struct{ keep []string }

func (c *collector) Collect(_ context.Context, keep []string) (int64, error) {
	c.keep = keep
	return 1, nil
}

func TestReconciler_SweepKeepsWhatIsNeeded(t *testing.T) {
	in := install(t)
	in.create(1)
	for _, image := range []string{"web-1", "web-2", "web-2", "web-2", "web-2", "crash"} {
		in.deploy(image)
		in.waitState(trysail.ServiceRunning)
	}
	in.wait("all but one pod are on record as ended", func() (yes bool) {
		err := in.store.View(context.Background(), func(tx *store.Tx) error {
			live, err := tx.Pods("id-web", false)
			yes = len(live) == 1
			return err
		})
		return err == nil && yes
	})
	cfg := in.config(&pruner{Memory: in.engine})
	cfg.LogRetention = time.Nanosecond
	registry := &collector{}
	cfg.Registry = registry
	digest := "sha256:" + strings.Repeat("ab", 32)
	for versions, want := range map[int][]string{1: {"crash", "web-2"}, 5: {"crash", "web-2"}, 50: {"crash", "web-1", "web-2"}} {
		if err := reconcile.New(cfg).Sweep(t.Context(), versions); err != nil {
			t.Fatal(err)
		}
		kept := slices.Compact(slices.Sorted(slices.Values(cfg.Engine.(*pruner).keep)))
		for i := range want {
			want[i] += "@" + digest
		}
		if diff := cmp.Diff(want, kept); diff != "" {
			t.Errorf("images kept with %d versions (-want +got):\n%s", versions, diff)
		}
		if len(registry.keep) != 6 || registry.keep[0] != digest {
			t.Errorf("the registry shall keep %v, want the digests of all kept versions", registry.keep)
		}
	}
	events, _, err := in.logs.Query(t.Context(), logs.Query{ServiceID: "id-web", Container: "app"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Text == "I cannot go on" {
			t.Error("a line of an ended pod is older than the retention, but still there")
		}
	}
}
