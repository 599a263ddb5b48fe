package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

const (
	// execSessionTime is how long a session waits for its client.
	execSessionTime = 30 * time.Second
	// maxExecSessions is how many sessions may wait at a time, so that nobody fills the memory with them.
	maxExecSessions = 100
	maxExecArgs     = 64 << 10 // bytes of a command line
)

// CreateExecSessionInput is the request of CreateExecSession.
type CreateExecSessionInput struct {
	ServiceName   string
	PodID         string // empty: a pod that runs, of Version
	Version       int    // 0: the version that serves, or else the newest that has a pod
	ContainerName string // empty: the one with the public endpoint, or else the first
	Command       []string
	TTY           bool
}

// execSessions are the sessions that wait for their client. They are in memory alone: after a restart a client asks anew.
type execSessions struct {
	mu     sync.Mutex // guards byHash
	byHash map[[sha256.Size]byte]trysail.ExecSession
}

// CreateExecSession allows one command in a container that runs, also of a failed pod that is held. The command is run
// when a client opens the session. Errors: Invalid (command, nothing runs), NotFound, Unavailable.
func (c *Control) CreateExecSession(ctx context.Context, caller trysail.Caller, in CreateExecSessionInput) (_ *trysail.ExecSession, err error) {
	defer c.auditFailure(ctx, caller, "CreateExecSession", in.ServiceName, &err)
	if err := caller.May(trysail.RoleAdmin, "CreateExecSession", in.ServiceName); err != nil {
		return nil, err
	}
	if err := firstError(trysail.ValidateServiceName(in.ServiceName), validateCommand(in.Command)); err != nil {
		return nil, err
	}
	if c.Exec == nil {
		return nil, trysail.Errorf(trysail.CodeInvalid, "The engine of this Trysail cannot run commands in containers.")
	}
	s := trysail.ExecSession{Token: rand.Text() + rand.Text(), Service: in.ServiceName, Args: in.Command, TTY: in.TTY, Caller: caller}
	details := map[string]string{}
	_, err = c.change(ctx, caller, "CreateExecSession", in.ServiceName, func(tx *store.Tx) error {
		svc, err := service(tx, in.ServiceName)
		if err != nil {
			return err
		}
		s.ExpiresAt = tx.Now().Add(execSessionTime)
		pod, err := podForExec(tx, svc, in)
		if err != nil {
			return err
		}
		s.Pod = pod.ID
		if s.Container, err = containerForExec(tx, svc, pod, in.ContainerName); err != nil {
			return err
		}
		details["pod"], details["container"] = string(s.Pod), s.Container
		details["command"], err = auditCommand(tx, svc, pod.Version, in.Command)
		return err
	}, details)
	if err != nil {
		return nil, err
	}
	if !c.exec.add(s) {
		return nil, trysail.Errorf(trysail.CodeUnavailable, "Too many sessions wait for their clients. Try again in half a minute.")
	}
	return &s, nil
}

// auditCommand is a command line for the audit trail, without the values of the version's environment variables.
func auditCommand(tx *store.Tx, s *trysail.Service, version int, args []string) (string, error) {
	d, err := kept(tx, s, version)
	if err != nil {
		return "", err
	}
	return trysail.NewMasker(d).Text(strings.Join(args, " ")), nil
}

// validateCommand checks a command line. Whether the program is there is for the container to say.
func validateCommand(args []string) error {
	if len(args) == 0 || args[0] == "" {
		return trysail.Errorf(trysail.CodeInvalid, "The command is empty.")
	}
	size := 0
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return trysail.Errorf(trysail.CodeInvalid, "The command has a NUL character in it.")
		}
		size += len(a) + 1
	}
	if size > maxExecArgs {
		return trysail.Errorf(trysail.CodeInvalid, "The command is longer than %d bytes.", maxExecArgs)
	}
	return nil
}

// podForExec chooses a pod that has not ended: the one that is named, or one of the version.
func podForExec(tx *store.Tx, s *trysail.Service, in CreateExecSessionInput) (trysail.PodRecord, error) {
	pods, err := tx.Pods(s.ID, false)
	if err != nil {
		return trysail.PodRecord{}, err
	}
	if in.PodID != "" {
		i := slices.IndexFunc(pods, func(p trysail.PodRecord) bool { return string(p.ID) == in.PodID })
		if i < 0 {
			return trysail.PodRecord{}, trysail.Errorf(trysail.CodeNotFound, "No pod %q of service %q is running.", in.PodID, s.Name)
		}
		return pods[i], nil
	}
	want := in.Version
	if want == 0 && s.Current != nil {
		want = s.Current.Version
	}
	// Healthy ones first, the newest last: a pod that has been there for long is the least surprising one.
	slices.SortStableFunc(pods, func(a, b trysail.PodRecord) int { return rank(a) - rank(b) })
	for _, p := range pods {
		if p.Version == want {
			return p, nil
		}
	}
	if in.Version == 0 && len(pods) > 0 {
		return pods[len(pods)-1], nil
	}
	if in.Version != 0 {
		return trysail.PodRecord{}, trysail.Errorf(trysail.CodeInvalid, "No pod of version %d of service %q is running.", in.Version, s.Name)
	}
	return trysail.PodRecord{}, trysail.Errorf(trysail.CodeInvalid, "No pod of service %q is running.", s.Name)
}

// rank orders pods: those that serve, those that will, those that shall end.
func rank(p trysail.PodRecord) int {
	switch {
	case !p.Live():
		return 2
	case p.HealthyAt.IsZero():
		return 1
	}
	return 0
}

// containerForExec checks or chooses the container.
func containerForExec(tx *store.Tx, s *trysail.Service, pod trysail.PodRecord, name string) (string, error) {
	d, err := kept(tx, s, pod.Version)
	if err != nil {
		return "", err
	}
	names := d.ContainerNames()
	switch {
	case name == "" && d.PublicEndpoint != nil:
		return d.PublicEndpoint.ContainerName, nil
	case name == "" && len(names) > 0:
		return names[0], nil
	case !slices.Contains(names, name):
		return "", trysail.Errorf(trysail.CodeNotFound, "Container %q not found. Version %d of service %q has: %s.", name, d.Version, s.Name, strings.Join(names, ", "))
	}
	return name, nil
}

// TakeExecSession returns the session of a token, once. ok is false if there is none, or not any more.
func (c *Control) TakeExecSession(token string) (s trysail.ExecSession, ok bool) {
	return c.exec.take(token)
}

// RunExecSession runs the command of a session with the streams of io until it ends, and returns its exit code. The key
// that asked for it must still be there. Errors: Invalid (nothing runs any more, no such program), Unavailable.
func (c *Control) RunExecSession(ctx context.Context, s trysail.ExecSession, io trysail.Command) (exit int, err error) {
	if _, _, ok, err := c.Identify(ctx, s.Caller.AccessKeyID); err != nil || !ok {
		return 0, errors.Join(err, trysail.Errorf(trysail.CodeAccessDenied, "The access key of this session was deleted."))
	}
	io.Args, io.TTY = s.Args, s.TTY
	start := time.Now()
	exit, err = c.Exec(ctx, s.Pod, s.Container, io)
	c.Log.InfoContext(ctx, "exec session ended", "service", s.Service, "pod", s.Pod, "container", s.Container, "caller", s.Caller.Name,
		"access_key_id", s.Caller.AccessKeyID, "exit_code", exit, "error", err, "took", time.Since(start))
	if e, ok := errors.AsType[*trysail.CommandError](err); ok {
		return 0, trysail.Errorf(trysail.CodeInvalid, "The command cannot be started: %s", e.Reason)
	}
	if errors.Is(err, trysail.ErrNotRunning) {
		return 0, trysail.Errorf(trysail.CodeInvalid, "Container %q of pod %s does not run.", s.Container, s.Pod)
	}
	return exit, err
}

func (x *execSessions) add(s trysail.ExecSession) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for hash, old := range x.byHash {
		if time.Now().After(old.ExpiresAt) {
			delete(x.byHash, hash)
		}
	}
	if len(x.byHash) >= maxExecSessions {
		return false
	}
	if x.byHash == nil {
		x.byHash = map[[sha256.Size]byte]trysail.ExecSession{}
	}
	x.byHash[sha256.Sum256([]byte(s.Token))] = s
	return true
}

// take finds a session by the hash of its token, so that the time which the search takes tells nothing about tokens.
func (x *execSessions) take(token string) (trysail.ExecSession, bool) {
	hash := sha256.Sum256([]byte(token))
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok := x.byHash[hash]
	delete(x.byHash, hash)
	return s, ok && time.Now().Before(s.ExpiresAt)
}
