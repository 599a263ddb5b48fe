package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/trysail/trysail/internal/engine"
)

// manager names us as the owner of the fields that we set.
const manager = "trysail"

// How many requests per second there may be of each kind (pods and names, logs, budgets), and how many at once after a
// while without any. The API server has its own means against too many; this is for mistakes of ours.
const (
	maxRate  = 1000
	maxBurst = 2000
)

// maxAtOnce is how many requests about pods, and how many about other things, may be with the API server at a time; more wait
// here. Its queues (API Priority and Fairness: 6 of 50 places for one user at the levels that are not exempt) take 300. It sends
// away what comes then, for up to 32 s, however soon there is room.
const maxAtOnce = 50

// How long a request may take, once it has its turn. Pods have what the API server itself takes for a request at most, since
// others have their say about them there; rounds wait for what is asked about names and policies.
const (
	podTime   = time.Minute
	otherTime = 10 * time.Second
)

// client asks the API server. It knows the few kinds that we use, and is made of client-go's REST client instead of its
// set of typed clients: those would make the program, and with it every container's shim, half as large again.
type client struct {
	config    *rest.Config
	namespace string
	core      rest.Interface
	logs      rest.Interface // core again, for reading logs: a server that begins to follow thousands must not keep pods waiting
	policy    rest.Interface
	discovery rest.Interface
	// networking has the network policies.
	networking rest.Interface
	codec      runtime.ParameterCodec
	// Who wants to change or read something short waits for a turn. A thousand new pods must not keep a name waiting.
	podTurns, turns *semaphore.Weighted
}

func newClient(cfg Config) (*client, error) {
	config, err := restConfig(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = "trysail"
	config.QPS, config.Burst = maxRate, maxBurst
	config.WarningHandler = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), policyv1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	c := &client{
		config: config, namespace: cfg.Namespace, codec: runtime.NewParameterCodec(scheme),
		podTurns: semaphore.NewWeighted(maxAtOnce), turns: semaphore.NewWeighted(maxAtOnce),
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials for the cluster: %w", err)
	}
	group := func(path string, version schema.GroupVersion) (rest.Interface, error) {
		config := rest.CopyConfig(config)
		config.APIPath, config.GroupVersion, config.NegotiatedSerializer = path, &version, codecs
		config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/json"
		return rest.RESTClientForConfigAndClient(config, httpClient)
	}
	if c.core, err = group("/api", corev1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	if c.logs, err = group("/api", corev1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	if c.policy, err = group("/apis", policyv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	if c.discovery, err = group("/apis", discoveryv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	if c.networking, err = group("/apis", networkingv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	return c, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("finding the cluster that this program runs in: %w", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return config, nil
}

// object is one of the kinds that we apply.
type object interface {
	runtime.Object
	metav1.Object
}

// turn waits until one more request about the resource may be made. The request ends with the context that it returns, and
// the turn with done.
func (c *client) turn(ctx context.Context, resource string) (within context.Context, done func(), err error) {
	turns, most := c.turns, otherTime
	if resource == "pods" {
		turns, most = c.podTurns, podTime
	}
	if err := turns.Acquire(ctx, 1); err != nil {
		return nil, nil, fmt.Errorf("waiting for other requests to the cluster: %w", err)
	}
	within, cancel := context.WithTimeout(ctx, most)
	return within, func() {
		cancel()
		turns.Release(1)
	}, nil
}

// apply makes the object be so, as far as we say something about it, and fills it with what it is then.
func (c *client) apply(ctx context.Context, api rest.Interface, resource string, o object) error {
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding %s %s: %w", resource, o.GetName(), err)
	}
	ctx, done, err := c.turn(ctx, resource)
	if err != nil {
		return c.explain(err)
	}
	defer done()
	err = api.Patch(types.ApplyPatchType).Namespace(c.namespace).Resource(resource).Name(o.GetName()).
		Param("fieldManager", manager).Param("force", "true").Body(body).Do(ctx).Into(o)
	return c.explain(err)
}

// remove deletes an object. One that is not there is no error. A uid makes sure that it is that one.
func (c *client) remove(ctx context.Context, api rest.Interface, resource, name string, uid types.UID, grace *int64) error {
	options := &metav1.DeleteOptions{GracePeriodSeconds: grace}
	if uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	ctx, done, err := c.turn(ctx, resource)
	if err != nil {
		return c.explain(err)
	}
	defer done()
	err = api.Delete().Namespace(c.namespace).Resource(resource).Name(name).Body(options).Do(ctx).Error()
	if apierrors.IsNotFound(err) || uid != "" && apierrors.IsConflict(err) {
		return nil
	}
	return c.explain(err)
}

// owner is the object that owns all others: deleting it deletes everything that the installation has in the cluster.
type owner struct {
	name string
	uid  types.UID
}

// establish finds the namespace, and the object in it that owns all others, or makes that.
func (c *client) establish(ctx context.Context) (owner, error) {
	o := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "trysail", Labels: map[string]string{labelManagedBy: manager, labelPartOf: manager}},
		Data:       map[string]string{"about": "Owns all that Trysail has in this namespace. Deleting it ends every service."},
	}
	err := c.apply(ctx, c.core, "configmaps", o)
	if apierrors.IsNotFound(err) {
		return owner{}, fmt.Errorf("the cluster has no namespace %s; make one with: kubectl apply -k packaging/kubernetes", c.namespace)
	}
	if err != nil {
		return owner{}, fmt.Errorf("asking the cluster at %s: %w", c.config.Host, err)
	}
	return owner{o.Name, o.UID}, nil
}

// references is what makes the object one of the owner's. As its controller it also tells kubectl drain that somebody
// looks after the pods.
func (o owner) references() []metav1.OwnerReference {
	yes, no := true, false
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: o.name, UID: o.uid, Controller: &yes, BlockOwnerDeletion: &no}}
}

// checkTime bounds a check.
const checkTime = 5 * time.Second

// check asks whether the API server works.
func (c *client) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if err := c.core.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error(); err != nil {
		return fmt.Errorf("the cluster's API server: %w", err)
	}
	return nil
}

// explain marks errors that say nothing about the request: the API server is away, busy or being restarted.
func (c *client) explain(err error) error {
	if err == nil || !isAway(err) {
		return err
	}
	return fmt.Errorf("%w: %w", engine.ErrUnavailable, err)
}

func isAway(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	// What we are not permitted to do is no pod's fault, and an API server that has just started does not know its rules yet.
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), `" cannot `) {
		return true
	}
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		code := status.Status().Code
		return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests || code == http.StatusUnauthorized || apierrors.IsConflict(err)
	}
	_, network := errors.AsType[net.Error](err)
	_, address := errors.AsType[*url.Error](err)
	return network || address || errors.Is(err, context.DeadlineExceeded)
}
