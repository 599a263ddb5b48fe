package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// simulation plays the scheduler and the kubelets of a cluster: it puts pods on nodes that exist in the API server only,
// says that they run, serves their logs, which have one line, and removes them when they have to end.
type simulation struct {
	api   *rest.RESTClient
	queue workqueue.TypedInterface[string]
	pods  cache.SharedIndexInformer
	count atomic.Int64 // of pods, ever
	nodes int

	kubelet *httptest.Server

	mu    sync.Mutex // guards ended
	ended map[string]chan struct{}

	wg sync.WaitGroup
}

func (c *controlPlane) client(token string) (*rest.RESTClient, error) {
	scheme := apiruntime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return rest.RESTClientFor(&rest.Config{
		Host: "https://" + c.api, BearerToken: token, APIPath: "/api", QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		ContentConfig: rest.ContentConfig{
			GroupVersion: &corev1.SchemeGroupVersion, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json", ContentType: "application/vnd.kubernetes.protobuf",
		},
	})
}

// kubeletWorkers is how many changes of pods the simulation makes at a time.
const kubeletWorkers = 16

// simulate begins to play. It ends with ctx; wait waits for that.
func (c *controlPlane) simulate(ctx context.Context) (*simulation, error) {
	api, err := c.client(c.tokens.admin)
	if err != nil {
		return nil, err
	}
	s := &simulation{api: api, queue: workqueue.NewTyped[string](), ended: map[string]chan struct{}{}}
	if err := s.serveKubelet(); err != nil {
		return nil, err
	}
	err = api.Post().Resource("namespaces").Body(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: scaleNamespace}}).Do(ctx).Error()
	if err != nil {
		return nil, err
	}
	s.pods = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(api, "pods", scaleNamespace, fields.Everything()), &corev1.Pod{}, 0, cache.Indexers{
		byService: func(o any) ([]string, error) {
			if p, ok := o.(*corev1.Pod); ok {
				return []string{serviceOf(p.Name)}, nil
			}
			return nil, nil
		},
	})
	add := func(o any) {
		if p, ok := o.(*corev1.Pod); ok && (p.Status.Phase == corev1.PodPending || p.DeletionTimestamp != nil) {
			s.queue.Add(p.Name)
		}
	}
	if _, err := s.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, o any) { add(o) }}); err != nil {
		return nil, err
	}
	s.wg.Go(func() { s.pods.RunWithContext(ctx) })
	s.wg.Go(func() {
		<-ctx.Done()
		s.queue.ShutDown()
		s.kubelet.CloseClientConnections()
		s.kubelet.Close()
	})
	for range kubeletWorkers {
		s.wg.Go(func() {
			for {
				name, down := s.queue.Get()
				if down {
					return
				}
				if err := s.play(ctx, name); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
					fmt.Fprintf(os.Stderr, "bench: pod %s: %v\n", name, err)
				}
				s.queue.Done(name)
			}
		})
	}
	return s, nil
}

// addNodes makes more nodes until there are n.
func (s *simulation) addNodes(ctx context.Context, n int) error {
	host, port, err := net.SplitHostPort(s.kubelet.Listener.Addr().String())
	if err != nil {
		return err
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return err
	}
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("110")}
	for ; s.nodes < n; s.nodes++ {
		err := s.api.Post().Resource("nodes").Body(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name:   nodeName(s.nodes),
				Labels: map[string]string{corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH, corev1.LabelHostname: nodeName(s.nodes)},
			},
			Status: corev1.NodeStatus{
				Capacity: room, Allocatable: room, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}},
				NodeInfo:        corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: runtime.GOARCH},
				Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(number)}},
			},
		}).Do(ctx).Error()
		if err != nil {
			return err
		}
	}
	return nil
}

func nodeName(n int) string { return fmt.Sprintf("node-%d", n) }

// play does what is due for a pod.
func (s *simulation) play(ctx context.Context, name string) error {
	o, there, err := s.pods.GetStore().GetByKey(scaleNamespace + "/" + name)
	p, ok := o.(*corev1.Pod)
	if err != nil || !there || !ok {
		return err
	}
	if p.DeletionTimestamp != nil {
		s.end(name)
		now := int64(0)
		return s.api.Delete().Namespace(scaleNamespace).Resource("pods").Name(name).Body(&metav1.DeleteOptions{GracePeriodSeconds: &now}).Do(ctx).Error()
	}
	if p.Spec.NodeName != "" {
		return nil // it is on its way
	}
	n := s.count.Add(1)
	err = s.api.Post().Namespace(scaleNamespace).Resource("pods").Name(name).SubResource("binding").Body(&corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: scaleNamespace}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeName(int(n) % s.nodes)},
	}).Do(ctx).Error()
	if err != nil {
		return err
	}
	addr := fmt.Sprintf("10.%d.%d.%d", 100+n>>16, n>>8&255, n&255)
	status := corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}, HostIP: "127.0.0.1"}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue})
	}
	for _, c := range p.Spec.Containers {
		yes := true
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: "bench://" + name, Ready: true, Started: &yes,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	return s.api.Patch(types.MergePatchType).Namespace(scaleNamespace).Resource("pods").Name(name).SubResource("status").Body(body).Do(ctx).Error()
}

// serveKubelet serves the logs of all pods at an address of its own, at the port where kubelets are expected.
func (s *simulation) serveKubelet() error {
	addr := fmt.Sprintf("127.%d.%d.1:10250", 64+mathrand.IntN(128), mathrand.IntN(250))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s started\n", time.Now().UTC().Format(time.RFC3339Nano))
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-r.Context().Done():
		case <-s.ends(r.PathValue("pod")):
		}
	})
	mux.HandleFunc("GET /stats/summary", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"pods":[]}`) })
	s.kubelet = httptest.NewUnstartedServer(mux)
	_ = s.kubelet.Listener.Close()
	s.kubelet.Listener, s.kubelet.EnableHTTP2 = l, true
	s.kubelet.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.kubelet.StartTLS()
	return nil
}

// ends is closed when the pod ends.
func (s *simulation) ends(pod string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended[pod] == nil {
		s.ended[pod] = make(chan struct{})
	}
	return s.ended[pod]
}

func (s *simulation) end(pod string) {
	s.ends(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended[pod]:
	default:
		close(s.ended[pod])
	}
}

// byService names the index of the pods by their service's name.
const byService = "service"

// podsOf counts the pods of a service that there are, also those that are ending.
func (s *simulation) podsOf(service string) int {
	pods, err := s.pods.GetIndexer().ByIndex(byService, service)
	if err != nil {
		return -1
	}
	return len(pods)
}

// serviceOf is the service that a pod belongs to: pods are named <service>-v<version>-….
func serviceOf(pod string) string {
	service, _, _ := strings.Cut(pod, "-v")
	return service
}
