// Package postgres runs a PostgreSQL server for tests, in a folder of its own and on a port of its own.
package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// User is the owner of everything. It may come from this machine without a password.
const User = "trysail"

// ErrMissing says that the machine has no PostgreSQL: scripts/setup.sh test installs it.
var ErrMissing = errors.New("PostgreSQL's server is not installed; run scripts/setup.sh test")

// Server is a PostgreSQL that ends with the test program.
type Server struct {
	// Port of 127.0.0.1, the same after a restart.
	Port int
	// Data is the folder of the server, with its configuration.
	Data string

	dir  string
	bin  string
	cred *syscall.Credential
	cmd  *exec.Cmd
	done chan struct{}
	log  *bytes.Buffer
}

// Start makes a server with settings such as "fsync=off" and starts it. Errors: ErrMissing.
func Start(ctx context.Context, settings ...string) (_ *Server, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return nil, ErrMissing
	}
	slices.Sort(found)
	s := &Server{bin: filepath.Dir(found[len(found)-1])}
	if s.dir, err = os.MkdirTemp("", "trysail-postgres-*"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(s.dir))
		}
	}()
	s.Data = filepath.Join(s.dir, "data")
	if err := s.dropRoot(); err != nil {
		return nil, err
	}
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	if out, err := s.command(ctx, "initdb", "--pgdata", s.Data, "--username", User, "--auth", "trust", "--encoding", "UTF8",
		"--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US", // as picky about order as a server may be
		"--no-sync").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	conf := append([]string{
		"listen_addresses='127.0.0.1'", fmt.Sprint("port=", s.Port), "unix_socket_directories=''",
		"shared_buffers=16MB", "max_connections=200", "autovacuum_naptime=1h",
	}, settings...)
	f, err := os.OpenFile(filepath.Join(s.Data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("\n" + strings.Join(conf, "\n") + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return s, s.Run(ctx)
}

// dropRoot finds somebody to run as: PostgreSQL refuses root.
func (s *Server) dropRoot() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}
	return errors.Join(uerr, gerr, os.Chown(s.dir, int(uid), int(gid)))
}

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	return cmd
}

// Run starts the server again after Stop or Kill, and waits until it answers.
func (s *Server) Run(ctx context.Context) error {
	cmd := s.command(context.WithoutCancel(ctx), "postgres", "-D", s.Data)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	s.log = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	s.cmd, s.done = cmd, make(chan struct{})
	started := make(chan error)
	go func(done chan struct{}) {
		runtime.LockOSThread() // the server ends with the thread that started it
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ends is for those who ended it
		}
		close(done)
	}(s.done)
	if err := <-started; err != nil {
		return err
	}
	for ctx.Err() == nil {
		if out, err := s.command(ctx, "pg_isready", "--host", "127.0.0.1", "--port", strconv.Itoa(s.Port)).CombinedOutput(); err == nil {
			return nil
		} else if _, exited := errors.AsType[*exec.ExitError](err); !exited {
			return fmt.Errorf("pg_isready: %w: %s", err, out)
		}
		select {
		case <-s.done:
			return fmt.Errorf("postgres has ended: %s", s.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// Stop ends the server as an administrator does: connections are cut, transactions under way undone.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Kill ends the server like a crash.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.done
	return nil
}

// Close ends the server and removes all of it.
func (s *Server) Close() error { return errors.Join(s.Kill(), os.RemoveAll(s.dir)) }

// Reload makes the server read its configuration again.
func (s *Server) Reload() error { return s.cmd.Process.Signal(syscall.SIGHUP) }

// URL is the address of a database on the server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s", User, s.Port, database)
}

// SQL runs statements with psql in a database, one after the other, and returns what they print.
func (s *Server) SQL(ctx context.Context, database string, statements ...string) (string, error) {
	args := []string{"--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", "--dbname", s.URL(database)}
	for _, q := range statements {
		args = append(args, "--command", q)
	}
	out, err := s.command(ctx, "psql", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// NewDatabase makes an empty database.
func (s *Server) NewDatabase(ctx context.Context, name string) (url string, err error) {
	_, err = s.SQL(ctx, "postgres", "CREATE DATABASE "+name)
	return s.URL(name), err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}
