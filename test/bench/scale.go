package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"golang.org/x/sync/errgroup"

	"github.com/trysail/trysail/test/kit"
)

const (
	podsPerService = 10
	podsPerNode    = 20
	// scaleCallers is how many API calls of ours are under way at a time.
	scaleCallers = 8
	// aloneChanges is how many changes are made one after the other, with nothing else going on.
	aloneChanges = 10
	// sameChanges is how many are made at once at every size.
	sameChanges = 10
	// idleTime is how long what is done without changes is measured.
	idleTime = 10 * time.Second
	// fillTime bounds how long it takes until all services run.
	fillTime = 20 * time.Minute
)

// measureScale lets a server fill a cluster with more and more pods, and measures at each size what a change costs. The
// server, its database and the API server with its etcd are real; the nodes, the scheduler and the kubelets are played.
func measureScale(ctx context.Context, t *table, o options, img images, dir string) (err error) {
	var sizes []int
	for _, n := range []int{100, 1000, 10_000} {
		if n <= o.pods {
			sizes = append(sizes, n)
		}
	}
	if len(sizes) == 0 {
		return fmt.Errorf("-pods %d is too few; the smallest size is 100", o.pods)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clusterDir := filepath.Join(dir, "cluster")
	if err := os.MkdirAll(clusterDir, 0o700); err != nil {
		return err
	}
	cluster, err := startControlPlane(ctx, clusterDir)
	if err != nil {
		return err
	}
	defer cluster.close()
	nodes, err := cluster.simulate(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		nodes.wg.Wait()
	}()
	if err := nodes.addNodes(ctx, sizes[0]/podsPerNode); err != nil {
		return err
	}
	kubeconfig, err := cluster.kubeconfig()
	if err != nil {
		return err
	}
	pulls, err := kit.FreeAddr()
	if err != nil {
		return err
	}
	logFile := filepath.Join(dir, "scale.log")
	s, err := kit.StartServer(ctx, kit.ServerOptions{OneMachine: true, Log: logFile, Flags: append([]string{
		"--engine", "kubernetes", "--kubeconfig", kubeconfig, "--kube-namespace", scaleNamespace, "--kube-listen", pulls,
		"--max-services", fmt.Sprint(sizes[len(sizes)-1]/podsPerService + 1),
	}, strings.Fields(o.flags)...)})
	if err != nil {
		return err
	}
	// Its pods are gone with the cluster, so nothing is deleted one by one.
	defer func() { err = errors.Join(err, s.Kill(), os.RemoveAll(filepath.Dir(s.DataDir))) }()
	m := &scaling{server: s, api: s.Client(), cluster: cluster, nodes: nodes, image: img.web, log: logFile}
	for _, n := range sizes {
		if err := m.measure(ctx, t, n); err != nil {
			return fmt.Errorf("%d pods: %w\n%s", n, err, s.LogTail(20))
		}
	}
	return nil
}

// scaling is a server whose cluster becomes fuller and fuller.
type scaling struct {
	server   *kit.Server
	api      *lightsail.Client
	cluster  *controlPlane
	nodes    *simulation
	image    string
	log      string // of the server
	services int
}

func (m *scaling) measure(ctx context.Context, t *table, pods int) error {
	if err := m.nodes.addNodes(ctx, pods/podsPerNode); err != nil {
		return err
	}
	title := fmt.Sprintf("%d pods, %d services, %d nodes: ", pods, pods/podsPerService, m.nodes.nodes)
	filled, err := m.watching(func() error { return m.fill(ctx, pods/podsPerService) })
	if err != nil {
		return err
	}
	t.add(title+"until all run", fmt.Sprintf("%.1f s", filled.took.Seconds()), fmt.Sprintf("%d more pods, CPU %.1f s", filled.new*podsPerService, filled.cpu.Seconds()))
	idle, err := m.watching(func() error { return sleep(ctx, idleTime) })
	if err != nil {
		return err
	}
	memory, err := kit.MemoryOf(m.server.PID())
	if err != nil {
		return err
	}
	t.add(title+"memory", fmt.Sprintf("RSS %d MB", memory.RSS/mib), fmt.Sprintf("%.1f KB per pod", float64(memory.RSS)/1024/float64(pods)))
	t.add(title+"nothing changes", fmt.Sprintf("CPU %.1f %%", 100*idle.cpu.Seconds()/idle.took.Seconds()), fmt.Sprintf("%.1f requests/s", float64(len(idle.requests))/idle.took.Seconds()))
	var changes []change
	alone, err := m.watching(func() error {
		for i := range aloneChanges {
			one, err := m.deploy(ctx, i*m.services/aloneChanges)
			if err != nil {
				return err
			}
			changes = append(changes, one)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.report(t, title+"one change at a time", changes, alone); err != nil {
		return err
	}
	// The same load at every size, and one that grows with it.
	for _, many := range slices.Compact([]int{min(sameChanges, m.services), max(1, m.services/10)}) {
		if err := m.changeMany(ctx, t, title, many); err != nil {
			return err
		}
	}
	return nil
}

// changeMany makes changes at the same time.
func (m *scaling) changeMany(ctx context.Context, t *table, title string, many int) error {
	changes := make([]change, many)
	busy, err := m.watching(func() error {
		var g errgroup.Group
		for i := range many {
			g.Go(func() (err error) {
				changes[i], err = m.deploy(ctx, i*m.services/many)
				return err
			})
		}
		return g.Wait()
	})
	if err != nil {
		return err
	}
	return m.report(t, fmt.Sprintf("%s%d changes at once", title, many), changes, busy)
}

// change is one deployment.
type change struct {
	service string
	version int
	asked   time.Time
	done    time.Duration // until the old pods are gone
}

// report says what became of changes.
func (m *scaling) report(t *table, title string, changes []change, w watched) error {
	first := map[string]time.Time{} // by service and version
	kinds := map[string]int{}
	for _, r := range w.requests {
		kinds[r.what()]++
		service, rest, _ := strings.Cut(r.Object.Name, "-v")
		version, _, _ := strings.Cut(rest, "-")
		key := service + "/" + version
		if at := first[key]; r.Verb == "patch" && r.Object.Resource == "pods" && (at.IsZero() || r.At.Before(at)) {
			first[key] = r.At
		}
	}
	became, err := m.active()
	if err != nil {
		return err
	}
	var lags, actives, dones []time.Duration
	for _, c := range changes {
		key := fmt.Sprintf("%s/%d", c.service, c.version)
		if first[key].IsZero() || became[key].IsZero() {
			return fmt.Errorf("nobody has noted when version %d of %s began, or became ACTIVE", c.version, c.service)
		}
		lags, actives, dones = append(lags, first[key].Sub(c.asked)), append(actives, became[key].Sub(c.asked)), append(dones, c.done)
	}
	for _, one := range []struct {
		what string
		all  []time.Duration
	}{{"first request to the cluster", lags}, {"ACTIVE", actives}, {"old pods gone", dones}} {
		slices.Sort(one.all)
		at := func(p int) time.Duration { return one.all[min(len(one.all)-1, len(one.all)*p/100)] }
		t.add(title+", until "+one.what, "p50 "+millis(at(50)), "p99 "+millis(at(99)))
	}
	n := float64(len(changes))
	t.add(title+", for each", fmt.Sprintf("CPU %.0f ms", float64(w.cpu.Milliseconds())/n), fmt.Sprintf("%.1f requests", float64(len(w.requests))/n))
	t.add(title+", all cores", fmt.Sprintf("%.0f %% busy", 100*(w.cpu+w.others).Seconds()/w.took.Seconds()/float64(runtime.NumCPU())), fmt.Sprintf("CPU of API server, etcd and players %.0f ms for each", float64(w.others.Milliseconds())/n))
	var text []string
	for _, kind := range slices.SortedFunc(maps.Keys(kinds), func(a, b string) int { return cmp.Or(kinds[b]-kinds[a], strings.Compare(a, b)) }) {
		text = append(text, fmt.Sprintf("%s %.1f", kind, float64(kinds[kind])/n))
	}
	t.add(title+", requests", "", strings.Join(text, ", "))
	return nil
}

// becameActive is what the server writes when a version becomes ACTIVE.
var becameActive = regexp.MustCompile(`(?m)^time=(\S+) .*msg="deployment is active" service=(\S+) version=(\d+)`)

// active is when each version became ACTIVE, as the server's log has it: asking for all of them again and again would be
// the larger part of what is measured.
func (m *scaling) active() (map[string]time.Time, error) {
	text, err := os.ReadFile(m.log)
	if err != nil {
		return nil, err
	}
	all := map[string]time.Time{}
	for _, found := range becameActive.FindAllStringSubmatch(string(text), -1) {
		at, err := time.Parse(time.RFC3339Nano, found[1])
		if err != nil {
			return nil, err
		}
		all[found[2]+"/"+found[3]] = at
	}
	return all, nil
}

// watched is what the server did meanwhile.
type watched struct {
	took, cpu time.Duration
	others    time.Duration // CPU of the API server, etcd and the benchmark, which has the same cores
	requests  []request
	new       int // services
}

func (m *scaling) watching(do func() error) (w watched, err error) {
	if _, err := m.cluster.audit.next(); err != nil {
		return w, err
	}
	services, began := m.services, time.Now()
	before, othersBefore, err := m.cpu()
	if err != nil {
		return w, err
	}
	if err := do(); err != nil {
		return w, err
	}
	w.took, w.new = time.Since(began), m.services-services
	after, othersAfter, err := m.cpu()
	if err != nil {
		return w, err
	}
	w.cpu, w.others = after-before, othersAfter-othersBefore
	w.requests, err = m.cluster.audit.next()
	return w, err
}

// cpu is what the server, and what all others that play a part, have used so far.
func (m *scaling) cpu() (server, others time.Duration, err error) {
	if server, err = kit.CPUOf(m.server.PID()); err != nil {
		return 0, 0, err
	}
	pids := []int{os.Getpid()}
	for _, p := range m.cluster.procs {
		pids = append(pids, p.Process.Pid)
	}
	for _, pid := range pids {
		used, err := kit.CPUOf(pid)
		if err != nil {
			return 0, 0, err
		}
		others += used
	}
	return server, others, nil
}

func scaleName(i int) string { return fmt.Sprintf("scale-%d", i) }

func (m *scaling) container() map[string]types.Container {
	return map[string]types.Container{"web": {Image: aws.String(m.image)}}
}

// fill makes more services until there are n, and waits until all run.
func (m *scaling) fill(ctx context.Context, n int) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(scaleCallers)
	for i := m.services; i < n; i++ {
		g.Go(func() error {
			_, err := m.api.CreateContainerService(gctx, &lightsail.CreateContainerServiceInput{
				ServiceName: aws.String(scaleName(i)), Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(podsPerService),
				Deployment: &types.ContainerServiceDeploymentRequest{Containers: m.container()},
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	m.services = n
	said := time.Now()
	for began := time.Now(); ; {
		out, err := m.api.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
		if err != nil {
			return err
		}
		running := 0
		for _, s := range out.ContainerServices {
			if s.State == types.ContainerServiceStateRunning {
				running++
			}
		}
		if running == n {
			return nil
		}
		if time.Since(began) > fillTime {
			return fmt.Errorf("after %s %d of %d services run", fillTime, running, n)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "%d of %d services run\n", running, n)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// deploy makes a new version of a service and waits until its old pods are gone. It looks at the cluster that is played,
// which costs the server nothing, until there is a reason to ask.
func (m *scaling) deploy(ctx context.Context, i int) (c change, err error) {
	c = change{service: scaleName(i), asked: time.Now()}
	out, err := m.api.CreateContainerServiceDeployment(ctx, &lightsail.CreateContainerServiceDeploymentInput{ServiceName: &c.service, Containers: m.container()})
	if err != nil {
		return c, err
	}
	c.version = int(aws.ToInt32(out.ContainerService.NextDeployment.Version))
	for begun := false; ; {
		n := m.nodes.podsOf(c.service)
		if begun = begun || n > podsPerService; begun && n == podsPerService {
			break
		}
		if time.Since(c.asked) > fillTime {
			return c, fmt.Errorf("service %s has %d pods after %s", c.service, n, fillTime)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return c, err
		}
	}
	c.done = time.Since(c.asked)
	answer, err := m.api.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{ServiceName: &c.service})
	if err != nil {
		return c, err
	}
	if s := answer.ContainerServices[0]; s.State != types.ContainerServiceStateRunning || int(aws.ToInt32(s.CurrentDeployment.Version)) != c.version {
		return c, fmt.Errorf("service %s is %s, and version %d is not ACTIVE", c.service, s.State, c.version)
	}
	return c, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
