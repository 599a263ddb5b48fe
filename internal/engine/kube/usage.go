package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/trysail/trysail"
)

const (
	// kubeletPort is where kubelets serve what they have measured.
	kubeletPort = "10250"
	// usageTime bounds one question to a kubelet.
	usageTime = 5 * time.Second
	// maxSummary bounds its answer, in bytes.
	maxSummary = 32 << 20
)

// usageReader asks each node's kubelet what its pods use. It may read statistics and nothing else there: the way through
// the API server would need a permission that also lets one run programs in any pod.
type usageReader struct {
	client *http.Client
}

func newUsageReader(api *client) *usageReader {
	config := rest.CopyConfig(api.config)
	config.Timeout = usageTime
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		client = &http.Client{Timeout: usageTime} // the same settings have worked for the API
	}
	return &usageReader{client}
}

// summary is the part of a kubelet's statistics that we read.
type summary struct {
	Pods []struct {
		PodRef struct{ Name, Namespace string } `json:"podRef"`
		measured
		Containers []measured `json:"containers"`
	} `json:"pods"`
}

type measured struct {
	CPU struct {
		Time                 time.Time `json:"time"`
		UsageCoreNanoSeconds int64     `json:"usageCoreNanoSeconds"`
	} `json:"cpu"`
	Memory struct {
		WorkingSetBytes int64 `json:"workingSetBytes"`
	} `json:"memory"`
}

// Usage implements engine.Engine. A pod of which its node says nothing yet is there, with nothing used.
func (e *Engine) Usage(ctx context.Context) ([]trysail.Usage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	byNode := map[string][]*corev1.Pod{}
	for _, p := range e.watch.allPods() {
		if p.Status.Phase == corev1.PodRunning && p.Spec.NodeName != "" {
			byNode[p.Spec.NodeName] = append(byNode[p.Spec.NodeName], p)
		}
	}
	var (
		mu   sync.Mutex // guards list
		list []trysail.Usage
		wg   sync.WaitGroup
	)
	for name, pods := range byNode {
		wg.Go(func() {
			s, err := e.usage.ask(ctx, e.watch.node(name))
			if err != nil {
				e.log.DebugContext(ctx, "a node does not say what its pods use", "node", name, "error", err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, p := range pods {
				list = append(list, s.of(p))
			}
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b trysail.Usage) int { return cmp.Compare(a.Pod, b.Pod) })
	return list, nil
}

// of is what the pod uses: what was measured of it as a whole, or the sum of its containers if that is newer.
func (s summary) of(p *corev1.Pod) trysail.Usage {
	u := trysail.Usage{Pod: trysail.PodID(p.Name), At: time.Now(), Limits: limitsOf(p)}
	for _, m := range s.Pods {
		if m.PodRef.Name != p.Name || m.PodRef.Namespace != p.Namespace {
			continue
		}
		var sum measured
		for _, c := range m.Containers {
			sum.CPU.UsageCoreNanoSeconds += c.CPU.UsageCoreNanoSeconds
			sum.Memory.WorkingSetBytes += c.Memory.WorkingSetBytes
			if c.CPU.Time.After(sum.CPU.Time) {
				sum.CPU.Time = c.CPU.Time
			}
		}
		best := m.measured
		if sum.CPU.UsageCoreNanoSeconds > best.CPU.UsageCoreNanoSeconds {
			best = sum
		}
		u.CPU, u.Memory = time.Duration(best.CPU.UsageCoreNanoSeconds), best.Memory.WorkingSetBytes
		if !best.CPU.Time.IsZero() {
			u.At = best.CPU.Time
		}
	}
	return u
}

func limitsOf(p *corev1.Pod) (l trysail.Limits) {
	if r := p.Spec.Resources; r != nil {
		l.Memory, l.MilliCPU = r.Limits.Memory().Value(), r.Limits.Cpu().MilliValue()
	}
	return l
}

func (r *usageReader) ask(ctx context.Context, n *corev1.Node) (s summary, err error) {
	err = r.get(ctx, n, "/stats/summary?only_cpu_and_memory=true", func(body io.Reader) error { return json.NewDecoder(body).Decode(&s) })
	return s, err
}

// get asks a node's kubelet for something.
func (r *usageReader) get(ctx context.Context, n *corev1.Node, path string, read func(io.Reader) error) error {
	if n == nil {
		return errors.New("the node is gone")
	}
	address := ""
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && address == "" {
			address = a.Address
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(address, kubeletPort)+path, nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxSummary)
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 200))
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return read(body)
}
