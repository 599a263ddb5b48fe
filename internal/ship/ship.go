// Package ship sends log lines to other systems: container logs, system lines and access logs, to syslog servers
// (RFC 5424) and OpenTelemetry receivers (OTLP over HTTP).
//
// The log files are the buffer. For each destination there is a file with how far it has come in each log; it moves on
// when the destination has what was sent. So nothing is lost when it is down, when the network is, or when this process
// is killed; then the last batch may come twice. The buffer is as large as the logs are kept: lines that retention
// removes before they were sent are counted, and the destination is told how many.
//
// Containers and requests never wait for this package, and destinations do not wait for each other.
package ship

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
)

// Config is what a Shipper is made from.
type Config struct {
	// Dir is where it is kept how far each destination has come. It is made if it is missing.
	Dir string
	// Logs is where the lines come from.
	Logs *logs.Store
	// Services lists the services whose lines are sent.
	Services func(context.Context) ([]trysail.Service, error)
	// Version is the version of the service that a pod belongs to; 0 if that is not known.
	Version func(ctx context.Context, pod string) int
	// Destinations are where to; see Parse.
	Destinations []Destination
	// Host is what this machine is called in what is sent. Default: its host name.
	Host string
	// Interval is how often new lines are looked for. Default 1 s.
	Interval time.Duration
	Log      *slog.Logger
}

// Shipper sends log lines. Its methods are safe for concurrent use.
type Shipper struct{ workers []*worker }

// Status is how a destination is doing.
type Status struct {
	Destination string // without anything secret
	Sent        int64  // lines that it has, since this process started
	Rejected    int64  // lines that it does not take, which are not sent again
	Lost        int64  // lines that were removed before they could be sent
	Failing     string // why it is not reached at the moment; empty if it is
}

// New makes a Shipper and reads how far it had come. Errors: those of the file system; a destination that is listed twice.
func New(cfg Config) (*Shipper, error) {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	if cfg.Host == "" {
		cfg.Host, _ = os.Hostname() // empty is a valid name in syslog
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for shipping positions: %w", err)
	}
	s := &Shipper{}
	seen := map[string]bool{}
	for _, d := range cfg.Destinations {
		if seen[d.String()] {
			return nil, fmt.Errorf("logs are to be shipped to %s twice", d)
		}
		seen[d.String()] = true
		w, err := newWorker(&cfg, d)
		if err != nil {
			return nil, err
		}
		s.workers = append(s.workers, w)
	}
	cfg.Logs.OnRemove(func(r logs.Removal) {
		for _, w := range s.workers {
			w.removed(r)
		}
	})
	return s, nil
}

// Run sends until ctx ends. What is being sent then may be sent again by the next Run.
func (s *Shipper) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, w := range s.workers {
		group.Go(func() { w.run(ctx) })
	}
	group.Wait()
}

// Status returns how each destination is doing.
func (s *Shipper) Status() []Status {
	list := make([]Status, len(s.workers))
	for i, w := range s.workers {
		list[i] = w.status()
	}
	return list
}

// record is a line on its way.
type record struct {
	at        time.Time
	service   string
	version   int    // 0: not known, or of no version
	pod       string // empty: of no pod
	container string // empty: of no container
	kind      string // container, system or access
	stderr    bool
	text      []byte
}

// The kinds of lines.
const (
	kindContainer = "container"
	kindSystem    = "system"
	kindAccess    = "access"
)

// sender hands lines to a destination.
type sender interface {
	// send returns nil when the destination has the lines, apart from so many that it rejected for good. Errors:
	// errRejected when it will never take them as they are; *busyError; and whatever else may pass.
	send(ctx context.Context, lines []record) (rejected int, err error)
}
