package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/api"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/console"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/copies"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/cri"
	"github.com/trysail/trysail/internal/engine/kube"
	"github.com/trysail/trysail/internal/fleet"
	"github.com/trysail/trysail/internal/image"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/metrics"
	"github.com/trysail/trysail/internal/reconcile"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/ship"
	"github.com/trysail/trysail/internal/store"
)

const (
	// account is the 12-digit AWS account number in ARNs. There are no accounts here.
	account = "000000000000"
	// apiStop is how long API calls under way may take when the server stops.
	apiStop = 10 * time.Second
)

// server is everything that run has made so far.
type server struct {
	cfg config
	log *slog.Logger

	sockets  *sockets
	store    *store.Store
	logs     *logs.Store
	registry *registry.Registry
	images   *image.Resolver
	engine   machine
	cluster  *kube.Engine // the same, if it is one
	certs    *certs.Manager
	edge     *edge.Edge
	metrics  *metrics.Collector
	control  *control.Control
	names    reconcile.Names
	fleet    *fleet.Fleet                // nil unless several servers serve the same pods
	forward  *forwarder                  // nil like fleet
	copies   *copies.Copies              // nil like fleet
	others   atomic.Pointer[fleet.Fleet] // the same as fleet, for what begins before it
	identity string                      // names this server for ever; empty unless there may be others
	// nodeImages lists what is unpacked on this machine.
	nodeImages func(context.Context) ([]trysail.NodeImage, error)
	// exec runs a command in a container; nil if the engine cannot.
	exec func(ctx context.Context, pod trysail.PodID, container string, c trysail.Command) (exit int, err error)
	// sharedLabel is that of the hosts of new services; empty if each has its own.
	sharedLabel string

	// failed gets why a part ended that should run as long as the server.
	failed chan error
	// closers end what has been made, last first.
	closers []func(context.Context) error
}

// run is the server: it makes everything in order, serves until ctx ends or a part fails, and ends everything in
// reverse. Containers keep running. It prints one line on out as soon as all of it works.
func run(ctx context.Context, cfg config, log *slog.Logger, out io.Writer, notifySocket string) (err error) {
	s := &server{cfg: cfg, log: log, failed: make(chan error, 3)}
	var names []string
	for _, a := range cfg.addresses() {
		names = append(names, socketName(a[0], a[1]))
	}
	if s.sockets, err = keptSockets(notifySocket, names...); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.sockets.close() })
	defer func() {
		if err == nil {
			err = notify(notifySocket, "STOPPING=1")
		}
		err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}()
	endpoint, err := s.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // it was told to stop before it was up
		}
		return err
	}
	if err := notify(notifySocket, "READY=1"); err != nil {
		return err
	}
	env := "trysail env"
	if cfg.dataDir != cli.DefaultDataDir {
		env += " --data-dir " + cfg.dataDir
	}
	fmt.Fprintf(out, "Trysail is ready at %s. Let AWS tools use it with: eval \"$(%s)\"\n", endpoint, env)
	select {
	case <-ctx.Done():
		log.InfoContext(ctx, "stopping; containers keep running")
		return nil
	case err := <-s.failed:
		return err
	}
}

// open makes everything. It returns the address of the API.
func (s *server) open(ctx context.Context) (endpoint string, err error) {
	if s.cfg.engine == engineContainerd && os.Geteuid() != 0 {
		return "", cli.WithHint(fmt.Errorf("running containers needs root, and this is user %d", os.Geteuid()), "Run: sudo trysail serve")
	}
	lock, err := openDataDir(s.cfg.dataDir)
	if err != nil {
		return "", err
	}
	s.onClose(func(context.Context) error { return lock.Close() })
	if err := checkPorts(ctx, s.cfg, s.sockets); err != nil {
		return "", err
	}
	if err := s.openState(ctx); err != nil {
		return "", err
	}
	if err := s.openEngine(ctx); err != nil {
		return "", err
	}
	if err := s.openEdge(ctx); err != nil {
		return "", err
	}
	return s.openAPI(ctx)
}

func (s *server) onClose(end func(context.Context) error) { s.closers = append(s.closers, end) }

// close ends everything that was made, last first.
func (s *server) close(ctx context.Context) error {
	var errs []error
	for _, end := range slices.Backward(s.closers) {
		errs = append(errs, end(ctx))
	}
	return errors.Join(errs...)
}

// work runs do until close, and fails the server if it ends before.
func (s *server) work(ctx context.Context, what string, do func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := do(ctx); err != nil && ctx.Err() == nil {
			s.failed <- fmt.Errorf("%s: %w", what, err)
		}
	}()
	s.onClose(func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// openState opens what is on the disk.
func (s *server) openState(ctx context.Context) (err error) {
	if s.store, err = openStore(ctx, s.cfg.database, s.cfg.dataDir, s.log.With("part", "store")); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.store.Close() })
	s.logs = logs.NewWithLog(filepath.Join(s.cfg.dataDir, "logs"), s.log.With("part", "logs"))
	if err := s.openCopies(ctx); err != nil { // it ends after all that writes
		return err
	}
	if err := s.openShipping(ctx); err != nil { // before anything is removed, so that it is counted
		return err
	}
	s.work(ctx, "looking after the logs", func(ctx context.Context) error {
		s.logs.Keep(ctx, s.cfg.logMaxBytes)
		return nil
	})
	bucket, err := s.cfg.bucket(os.Getenv)
	if err != nil {
		return err
	}
	s.registry, err = registry.Open(ctx, registry.Config{Dir: filepath.Join(s.cfg.dataDir, "registry"), Bucket: bucket, Store: s.store, Log: s.log.With("part", "registry")})
	if err != nil {
		return err
	}
	s.images = image.New(image.Config{
		Version: version, Dir: filepath.Join(s.cfg.dataDir, "images"), Local: s.registry, Registries: s.knownRegistry,
	})
	s.onClose(func(context.Context) error {
		s.images.Close()
		return nil
	})
	return nil
}

// knownRegistry is what the operator has said about a registry elsewhere; nothing, for most.
func (s *server) knownRegistry(ctx context.Context, host string) (known trysail.Registry, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		known, err = tx.Registry(host)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return known, err
}

// openEngine starts what runs containers.
func (s *server) openEngine(ctx context.Context) error {
	if s.cfg.engine == engineKubernetes {
		return s.openCluster(ctx)
	}
	subnet, err := s.cfg.prefix()
	if err != nil {
		return err
	}
	subnet6, err := s.cfg.prefix6()
	if err != nil {
		return err
	}
	e, err := cri.Open(ctx, cri.Config{
		Dir: engineDir(s.cfg.dataDir), Subnet: subnet, Subnet6: subnet6, NoIPv6: s.cfg.subnet6 == noIPv6, Images: s.images, PrivateDNS: true, NetworkOpen: s.openNames,
		Edge: s.cfg.edgeAddresses(ctx),
	}, s.log.With("part", "engine"))
	if problem, ok := errors.AsType[*cri.ProblemError](err); ok {
		return cli.WithHint(fmt.Errorf("this machine cannot run containers yet: %w", problem), "See what else is missing with: trysail doctor")
	}
	if err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	s.engine, s.nodeImages, s.exec = e, e.Images, e.Exec
	s.onClose(func(context.Context) error { return e.Close() })
	return nil
}

// openEdge starts the reconciler and the load balancer.
func (s *server) openEdge(ctx context.Context) (err error) {
	access := s.logs.NewAccessWriter()
	s.work(ctx, "writing access logs", func(ctx context.Context) error {
		access.Run(ctx)
		return nil
	})
	if err := s.openCerts(ctx, func() *edge.CA { return s.edge.CA() }); err != nil {
		return err
	}
	cfg := edge.Config{
		Dir: filepath.Join(s.cfg.dataDir, "ca"), Domain: s.cfg.domain, HTTPAddr: s.cfg.http, HTTPSAddr: s.cfg.https, Engine: s.cfg.edgeEngine, AccessLog: access.Write,
		Certificate: s.certs.Certificate, Challenge: s.certs.Challenge, HTTP3: s.cfg.http3,
		Listen: s.sockets.listen,
	}
	if cfg.TrustedProxies, err = parseNetworks("--trusted-proxies", s.cfg.trustedProxies); err != nil {
		return err
	}
	if cfg.ProxyProtocol, err = parseNetworks("--proxy-protocol", s.cfg.proxyProtocol); err != nil {
		return err
	}
	if name := hostname(); name != "" {
		cfg.Names = []string{name}
	}
	if s.edge, err = s.newEdge(ctx, cfg); err != nil {
		return fmt.Errorf("making the edge: %w", err)
	}
	routes := newGate(s.edge)
	routerOf, err := s.openFleet(ctx, routes) // it goes on while the edge lets requests finish
	if err != nil {
		return err
	}
	if err := s.followCerts(ctx); err != nil {
		return err
	}
	s.onClose(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.drainTimeout)
		defer cancel()
		if err := s.edge.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		s.log.WarnContext(ctx, "requests in flight were cut", "after", s.cfg.drainTimeout)
		return nil
	})
	if s.cluster != nil {
		if err := s.servePulls(ctx); err != nil {
			return err
		}
	}
	if err := s.openMetrics(ctx); err != nil {
		return err
	}
	services, err := s.store.Services(ctx)
	if err != nil {
		return err
	}
	reconciling := reconcile.Config{
		Rules: reconcile.Rules{Region: s.cfg.region, Domain: s.cfg.domain, ActivationTimeout: s.cfg.activationTimeout, DrainTimeout: s.cfg.drainTimeout},
		Store: s.store, Engine: s.engine, Names: s.names, Images: s.images, Logs: s.logs, Log: s.log,
		LogRetention: s.cfg.logRetention, Registry: s.registry, DiskUsed: func() float64 { return diskUsed(s.cfg.dataDir) },
	}
	leads, follow := context.WithCancel(ctx)
	defer follow()
	standby := func(holder string) {
		s.log.InfoContext(ctx, "another server leads, this one stands by", "leader", holder)
		follow()
	}
	s.work(ctx, "leading", func(ctx context.Context) error {
		return s.lead(ctx, standby, func(ctx context.Context) (err error) {
			if reconciling.Router, err = routerOf(ctx); err != nil {
				return err
			}
			if s.cluster != nil {
				defer s.cluster.Standby()
			}
			return reconcile.New(reconciling).Run(ctx)
		}, s.certs.Run)
	})
	// Clients that come right after a restart must find the routes of the services that have been running all the time.
	if missing := routes.wait(leads, services); len(missing) > 0 && leads.Err() == nil {
		s.log.WarnContext(ctx, "some services have no route yet", "services", missing)
	}
	return s.edge.Start() //nolint:contextcheck // it only binds two addresses
}

// openShipping begins to send logs elsewhere, if that is wanted.
func (s *server) openShipping(ctx context.Context) error {
	to, err := s.cfg.destinations()
	if err != nil || len(to) == 0 {
		return err
	}
	shipper, err := ship.New(ship.Config{
		Dir: filepath.Join(s.cfg.dataDir, "ship"), Logs: s.logs, Services: s.store.Services, Version: s.versionOf,
		Destinations: to, Log: s.log.With("part", "ship"),
	})
	if err != nil {
		return err
	}
	s.work(ctx, "shipping logs", func(ctx context.Context) error {
		shipper.Run(ctx)
		return nil
	})
	return nil
}

// versionOf is the version that a pod belongs to, or 0.
func (s *server) versionOf(ctx context.Context, pod string) (version int) {
	_ = s.store.View(ctx, func(tx *store.Tx) error {
		p, err := tx.Pod(trysail.PodID(pod))
		version = p.Version
		return err
	})
	return version
}

// openAPI makes the API and serves it.
func (s *server) openAPI(ctx context.Context) (endpoint string, err error) {
	l, err := s.sockets.listen(ctx, "--listen", s.cfg.listen)
	if err != nil {
		return "", err
	}
	served := false
	defer func() {
		if !served {
			err = errors.Join(err, l.Close())
		}
	}()
	endpoint = clientEndpoint(l, s.cfg.listen)
	_, registryHost, _ := strings.Cut(endpoint, "://")
	node, err := s.engine.Node(ctx)
	if err != nil {
		return "", fmt.Errorf("asking the engine what this machine has: %w", err)
	}
	s.control = control.New(control.Config{
		Region: s.cfg.region, Account: account, Registry: cmp.Or(s.cfg.registry, s.publicRegistry(), registryHost), Memory: node.Memory, MaxServices: s.cfg.maxServices,
		Store: s.store, Logs: s.logs, Images: s.images, Log: s.log, Metrics: s.metrics.Store,
		Exec: s.exec, NodeImages: s.nodeImages, StoredSizes: s.registry.StoredSizes,
		Domain: s.cfg.domain, OwnHosts: s.cfg.ownNames(), ValidationZone: s.cfg.answeredZone(), HostLabel: s.sharedLabel,
		MaxCertificates: s.cfg.certs.max, MaxCertificateRequests: s.cfg.certs.maxRequests, Addresses: s.publicAddresses, LookAtDomain: s.certs.Look,
	})
	if s.copies != nil {
		s.control.Latest = s.latest
	}
	s.control.Nodes, _ = s.engine.(engine.Nodes)
	s.moving()
	key, err := s.control.EnsureAdminKey(ctx)
	if err != nil {
		return "", fmt.Errorf("making the admin key: %w", err)
	}
	edgePort := ""
	if _, port, err := net.SplitHostPort(s.edge.HTTPSAddr()); err == nil && port != "443" {
		edgePort = ":" + port
	}
	mux := http.NewServeMux()
	mux.Handle("/healthz", &health{parts: []part{
		{"api", s.checkState},
		{"engine", s.engine.Check},
		{"edge", func(context.Context) error { return s.edge.Check() }},
	}})
	// Who balances load over several servers asks here: an edge serves, whatever becomes of the rest.
	mux.Handle("/readyz", &health{parts: []part{{"edge", func(context.Context) error { return s.edge.Check() }}}})
	images := s.forward.all(s.registry.Handler())
	mux.Handle("/v2/", images)
	scrape, err := s.scrape()
	if err != nil {
		return "", err
	}
	mux.Handle("/metrics", scrape)
	apiHandler := s.forward.those(api.New(api.Config{
		Region: s.cfg.region, Account: account, Domain: s.cfg.domain, EdgePort: edgePort, ValidationZone: s.cfg.validationZone(),
	}, s.control, s.log.With("part", "api")), needsLeader)
	exec := api.NewExec(s.control, s.log.With("part", "exec"))
	mux.Handle(api.ExecPath, s.forward.all(exec))
	s.onClose(func(context.Context) error {
		exec.Close()
		return nil
	})
	web, err := s.newConsole(endpoint, edgePort)
	if err != nil {
		return "", err
	}
	mux.Handle(console.Root, web)
	mux.Handle("/", browsersTo(apiHandler))
	if s.fleet != nil {
		mux.Handle(peerPulls+"/v2/", http.StripPrefix(peerPulls, s.cluster.PullHandler()))
		mux.Handle(copies.Path, s.copies.Handler())
	}
	s.serveOwn(apiHandler, images, consoleHost(web))

	var secure *tls.Config
	if !isLoopback(s.cfg.listen) {
		if secure, err = apiTLS(s.edge.CA(), s.cfg.listen, s.cfg.domain); err != nil {
			return "", err
		}
		secure = s.withCertificates(secure)
	}
	if err := cli.WriteAdmin(s.cfg.dataDir, cli.Admin{
		AccessKeyID: key.ID, SecretAccessKey: key.Secret, Region: s.cfg.region, Endpoint: endpoint, CA: s.edge.CA().RootFile(),
	}); err != nil {
		return "", err
	}
	served = true
	s.serveAPI(l, secure, mux)
	s.onClose(func(context.Context) error { // before the server that waits for its streams
		web.Close()
		return nil
	})
	s.log.InfoContext(ctx, "api is serving", "address", l.Addr(), "endpoint", endpoint)
	return endpoint, nil
}

// checkState reports whether the database answers.
func (s *server) checkState(ctx context.Context) error {
	err := s.store.View(ctx, func(tx *store.Tx) error {
		_, err := tx.Pods("", false) // of no service: it costs next to nothing
		return err
	})
	if errors.Is(err, store.ErrUnavailable) {
		return store.ErrUnavailable // where the database is, is not for everybody
	}
	return err
}

// serveAPI serves until close. Calls under way are answered then.
func (s *server) serveAPI(l net.Listener, secure *tls.Config, handler http.Handler) {
	srv := &http.Server{
		Handler:           handler,
		TLSConfig:         secure,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// What clients do wrong in a handshake is their business.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve := srv.Serve
		if secure != nil {
			serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serving the API: %w", err)
		}
	}()
	s.onClose(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiStop)
		defer cancel()
		err := srv.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		<-done
		return err
	})
}
