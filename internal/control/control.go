package control

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/metrics"
	"github.com/trysail/trysail/internal/store"
)

// ImageResolver says what an image name stands for at this moment.
type ImageResolver interface {
	// Resolve asks the registry. Errors: *trysail.ImageError.
	Resolve(ctx context.Context, name string) (trysail.Image, error)
}

// LateServer is one of several servers whose newest lines and points are not here.
type LateServer struct {
	Name string // for people
	Self string // names it for ever; empty if nobody knows
	// Since is when everything that it had written was here; zero if that is not known.
	Since time.Time
}

// Config is what a Control works with.
type Config struct {
	Region  string
	Account string // 12 digits; part of ARNs
	// MaxServices is how many services there may be. Zero means 100, the Lightsail quota.
	MaxServices int
	// MaxCertificates is how many certificates there may be at a time, pending or issued; MaxCertificateRequests how many
	// may be asked for in 365 days. Zero means 10 and 20, the Lightsail quotas.
	MaxCertificates, MaxCertificateRequests int
	// Domain is the base of the default domains. OwnHosts are the names that Trysail itself answers under.
	Domain   string
	OwnHosts []string
	// ValidationZone is where the records that validate domains point to; empty if nobody answers there.
	ValidationZone string
	// HostLabel is the label that the hosts of new services share; empty means that each gets one of its own.
	HostLabel string
	// Registry is the address of the installation's own registry as clients reach it, host[:port].
	Registry string
	// Memory is that of all nodes together, in bytes. Zero means that it is not known.
	Memory int64
	// PreflightTimeout bounds how long a deployment call waits for registries. Zero means 1 s.
	PreflightTimeout time.Duration

	Store  *store.Store
	Logs   *logs.Store
	Images ImageResolver
	Log    *slog.Logger
	// Metrics has what services used and how they answered.
	Metrics *metrics.Store

	// Addresses are those under which this machine is reached; nil if nobody knows.
	Addresses func() []netip.Addr
	// LookAtDomain finds out what the world sees of a domain, and what is wrong with it; nil if nobody can.
	LookAtDomain func(ctx context.Context, d trysail.DomainCertificate) (trysail.Domain, *trysail.Finding)
	// Exec runs a command in a container to its end; nil if nobody can. Errors: trysail.ErrNotRunning, *trysail.CommandError.
	Exec func(ctx context.Context, pod trysail.PodID, container string, c trysail.Command) (exit int, err error)
	// Files are what moves to another installation besides the rows of the database; nil: nothing.
	Files *MovingFiles
	// TrustTLS is how to speak TLS to another installation; nil if nobody knows.
	TrustTLS func(trysail.TargetTrust) *tls.Config
	// Nodes are the machines that run pods; nil if nobody knows.
	Nodes Nodes
	// NodeImages lists what is unpacked on this machine.
	NodeImages func(ctx context.Context) ([]trysail.NodeImage, error)
	// Latest gets what other servers have written until now into Logs and Metrics, and returns those that did not give it. Nil:
	// there are no others.
	Latest func(ctx context.Context) []LateServer
	// StoredSizes tells how many bytes of blobs each manifest of the registry needs, by digest, and how many all are.
	StoredSizes func(ctx context.Context) (byDigest map[string]int64, total int64, err error)
}

// Control carries out API operations. Its methods are safe for concurrent use. The only errors of theirs that a client
// may see are *trysail.Error.
type Control struct {
	Config

	exec     execSessions
	failures failures
}

// New makes a Control.
func New(cfg Config) *Control {
	if cfg.MaxServices == 0 {
		cfg.MaxServices = 100
	}
	if cfg.MaxCertificates == 0 {
		cfg.MaxCertificates = 10
	}
	if cfg.MaxCertificateRequests == 0 {
		cfg.MaxCertificateRequests = 20
	}
	if cfg.PreflightTimeout == 0 {
		cfg.PreflightTimeout = time.Second
	}
	return &Control{Config: cfg}
}

// change runs fn in one transaction together with the records of the operation: the event of the audit trail with these
// details, to which fn may add, and what GetOperation shows. It turns the store's errors into what a client may see.
func (c *Control) change(ctx context.Context, caller trysail.Caller, operation, resource string, fn func(*store.Tx) error, details ...map[string]string) (o trysail.Operation, err error) {
	err = clientError(c.Store.Update(ctx, func(tx *store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if o, err = record(tx, operation, resource); err != nil {
			return err
		}
		return audit(ctx, tx, caller, operation, resource, details...)
	}))
	return o, err
}

// changeService is change on one service, which fn alters and returns to the store as a whole.
func (c *Control) changeService(ctx context.Context, caller trysail.Caller, operation, name string, fn func(*store.Tx, *trysail.Service) error, details ...map[string]string) (*trysail.Service, error) {
	var after *trysail.Service
	_, err := c.change(ctx, caller, operation, name, func(tx *store.Tx) error {
		s, err := service(tx, name)
		if err != nil {
			return err
		}
		if err := fn(tx, s); err != nil {
			return err
		}
		after = s
		return tx.UpdateService(s)
	}, details...)
	return after, err
}

// service finds a service by name. Errors: NotFound.
func service(tx *store.Tx, name string) (*trysail.Service, error) {
	s, err := tx.Service(name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, trysail.Errorf(trysail.CodeNotFound, "Service %q not found.", name)
	}
	return s, err
}

// busy refuses a change while another one is under way. The texts are those that Terraform retries on.
func busy(s *trysail.Service) error {
	if err := moved(s); err != nil {
		return err
	}
	switch {
	case s.Next != nil:
		return trysail.Errorf(trysail.CodeInvalid, "Sorry, deployment %d is in progress for service %q. Please wait for it to complete before trying again.", s.Next.Version, s.Name)
	case s.State == trysail.ServiceDeleting:
		return trysail.Errorf(trysail.CodeInvalid, "Please try again when service %q is done DELETING.", s.Name)
	case s.State == trysail.ServicePending || s.State == trysail.ServiceUpdating || s.State == trysail.ServiceDeploying:
		return trysail.Errorf(trysail.CodeInvalid, "Please try again when service %q is done %s. Please try again in a few minutes.", s.Name, s.State)
	}
	return nil
}

// refuseCapacity refuses a capacity that the machine does not have, even if nothing else ran on it. Less than that is
// allowed: power is a limit, and most containers stay far below it.
func (c *Control) refuseCapacity(service string, want trysail.Capacity) error {
	need := want.Power.Limits().Memory * int64(want.Scale)
	if c.Memory == 0 || need <= c.Memory {
		return nil
	}
	return trysail.Errorf(trysail.CodeInvalid, "CAP-NOFIT: Service %q has power %s and scale %d, which is %.1f GB of memory; this machine has %.1f GB. Choose a smaller power or scale.",
		service, want.Power, want.Scale, float64(need)/(1<<30), float64(c.Memory)/(1<<30))
}

// clientError lets a full disk through as a clear error; everything else that is not a *trysail.Error stays internal.
func clientError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return &full{err}
	}
	return err
}

// full is what a client sees of a full disk; the log sees the cause.
type full struct{ error }

// As makes errors.As see a *trysail.Error.
func (f *full) As(target any) bool {
	e, ok := target.(**trysail.Error)
	if ok {
		*e = &trysail.Error{Code: trysail.CodeUnavailable, Message: "The disk of this Trysail is full, so nothing was changed. Free some space and try again."}
	}
	return ok
}

func (f *full) Unwrap() error { return f.error }
