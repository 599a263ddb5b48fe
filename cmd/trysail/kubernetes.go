package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/dns"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/kube"
)

// The values of --engine.
const (
	engineContainerd = "containerd"
	engineKubernetes = "kubernetes"
)

// kubeConfig are the settings that have to do with a Kubernetes cluster.
type kubeConfig struct {
	kubeconfig string
	namespace  string
	listen     string
	registry   string
	dns        string
	isolation  bool
	edges      []string
}

func (c *kubeConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.kubeconfig, "kubeconfig", "",
		"file that says where the cluster of --engine kubernetes is and who we are there; default: the cluster that this program runs in")
	f.StringVar(&c.namespace, "kube-namespace", "trysail",
		"namespace of the cluster that belongs to this installation alone; it must exist, see packaging/kubernetes")
	f.StringVar(&c.listen, "kube-listen", "",
		"address where the cluster's nodes fetch images, by HTTPS with a certificate of the local CA, or of the certificate authority for one of our own names")
	f.StringVar(&c.registry, "kube-registry", "",
		"host:port by which the nodes know --kube-listen; default the same")
	f.StringVar(&c.dns, "kube-dns", "",
		"IP address of this machine at whose port 53 pods ask for names, <service>.service.local among them; --subnet says what the pods' addresses are. Default: the cluster's own name server")
	f.BoolVar(&c.isolation, "kube-isolation", true,
		"make network policies, which let pods reach each other's open ports and what is outside of the cluster, and nobody else reach the pods; the cluster's network has to enforce them")
	f.StringSliceVar(&c.edges, "kube-edges", nil,
		"networks, separated by commas, from which the edges' requests come to the pods, such as 10.0.0.0/24; default: this machine's own address, or the namespace that this server runs in")
}

// validateKube checks the settings of a cluster. Errors: usage.
func (c *config) validateKube() error {
	k := &c.kube
	if c.engine != engineKubernetes {
		if k.kubeconfig != "" || k.listen != "" || k.registry != "" || k.dns != "" || len(k.edges) > 0 || !k.isolation {
			return cli.Usagef("--kubeconfig and --kube-… need --engine kubernetes")
		}
		return nil
	}
	if k.listen == "" {
		return cli.Usagef("--engine kubernetes needs --kube-listen: an address of this machine that the cluster's nodes reach, such as 10.0.0.5:4501")
	}
	if err := checkAddress("--kube-listen", k.listen); err != nil {
		return err
	}
	k.registry = cmp.Or(k.registry, k.listen)
	host, port, err := net.SplitHostPort(k.registry)
	addr, _ := netip.ParseAddr(host)
	switch {
	case err != nil || host == "" || port == "0" || addr.IsUnspecified() || trysail.ValidateImageName(k.registry+"/x") != nil:
		return cli.Usagef("--kube-registry %q is not host:port as the cluster's nodes reach it, such as 10.0.0.5:4501", k.registry)
	case !isDNSLabel(k.namespace):
		return cli.Usagef("--kube-namespace %q is not the name of a namespace, such as trysail", k.namespace)
	}
	if _, err := parseNetworks("--kube-edges", k.edges); err != nil {
		return err
	}
	if k.dns == "" {
		return nil
	}
	if _, err := netip.ParseAddr(k.dns); err != nil {
		return cli.Usagef("--kube-dns %q is not an IP address", k.dns)
	}
	if c.subnet == "" {
		return cli.Usagef("--kube-dns needs --subnet: the network of the pods' addresses, such as 10.244.0.0/16")
	}
	return nil
}

// openCluster connects to the cluster.
func (s *server) openCluster(ctx context.Context) error {
	k := s.cfg.kube
	slog.SetDefault(s.log) // client-go's messages go there
	password, err := s.pullPassword(ctx)
	if err != nil {
		return fmt.Errorf("reading the password of the nodes: %w", err)
	}
	var goOn func(dir, container string) (kube.Continuation, error)
	if s.copies != nil {
		goOn = s.continueLog
	}
	edges, err := parseNetworks("--kube-edges", k.edges)
	if err != nil {
		return err
	}
	pods, err := s.cfg.prefix()
	if err != nil {
		return err
	}
	e, err := kube.Open(ctx, kube.Config{
		Continue:   goOn,
		Kubeconfig: k.kubeconfig, Namespace: k.namespace, Dir: filepath.Join(engineDir(s.cfg.dataDir), engineKubernetes), Images: s.images, Registry: k.registry, Resolver: k.dns,
		PullPassword: password, Isolate: k.isolation, Edges: edges, EdgePorts: s.cfg.edgePorts(), PodNetwork: pods,
	}, s.log.With("part", "engine"))
	if err != nil {
		return cli.WithHint(fmt.Errorf("starting the engine: %w", err), "docs/kubernetes.md says what the cluster has to have.")
	}
	s.engine, s.cluster, s.exec = e, e, e.Exec
	s.nodeImages = func(context.Context) ([]trysail.NodeImage, error) { return nil, nil } // they are on the nodes
	s.onClose(func(context.Context) error { return e.Close() })
	names := &clusterNames{engine: e}
	if k.dns != "" {
		if names.dns, err = s.openClusterDNS(); err != nil {
			return err
		}
	}
	s.names = names
	return nil
}

// edgePorts are the ports that the edge listens on.
func (c *config) edgePorts() (list []uint16) {
	for _, addr := range []string{c.http, c.https} {
		_, text, err := net.SplitHostPort(addr)
		if port, parseErr := strconv.ParseUint(text, 10, 16); err == nil && parseErr == nil && port > 0 && !slices.Contains(list, uint16(port)) {
			list = append(list, uint16(port))
		}
	}
	return list
}

// openClusterDNS starts the name server that pods ask.
func (s *server) openClusterDNS() (*dns.Server, error) {
	addr, err := netip.ParseAddr(s.cfg.kube.dns)
	if err != nil {
		return nil, err
	}
	clients, err := s.cfg.prefix()
	if err != nil {
		return nil, err
	}
	server, err := dns.Start(dns.Config{Addr: netip.AddrPortFrom(addr, 53), Clients: clients, Upstreams: dns.Resolvers(hostResolvConf), Log: s.log.With("part", "dns")})
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { return server.Close() })
	if server.Port() != 53 {
		return nil, fmt.Errorf("--kube-dns: port 53 of %s is in use by another program", addr)
	}
	return server, nil
}

// servePulls serves images to the cluster's nodes until close.
func (s *server) servePulls(ctx context.Context) error {
	l, err := listen(ctx, "--kube-listen", s.cfg.kube.listen)
	if err != nil {
		return err
	}
	secure, err := apiTLS(s.edge.CA(), s.cfg.kube.registry, s.cfg.domain)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{
		Handler: s.forward.under(peerPulls, s.cluster.PullHandler()), TLSConfig: s.withCertificates(secure), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.work(ctx, "serving images to the cluster's nodes", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// clusterNames is the private network of a cluster: a Service for each of ours, and a name in the name server if that
// is ours.
type clusterNames struct {
	engine *kube.Engine
	dns    *dns.Server
}

// Publish implements reconcile.Names.
func (n *clusterNames) Publish(s trysail.PrivateService) error {
	addr, err := n.engine.Publish(s)
	if err == nil && n.dns != nil {
		n.dns.Set(s.Service, addr)
	}
	return err
}

// Withdraw implements reconcile.Names.
func (n *clusterNames) Withdraw(service string) error {
	if n.dns != nil {
		n.dns.Remove(service)
	}
	return n.engine.Withdraw(service)
}

// machine is what the server needs of an engine.
type machine interface {
	engine.Engine
	Close() error
}
