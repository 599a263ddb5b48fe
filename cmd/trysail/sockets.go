package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sockets are what the server listens on. Where systemd starts it, systemd keeps a copy of each socket (the unit's file
// descriptor store) and hands them to the next start. So from the end of one server to the beginning of the next, be it a
// restart, an upgrade or a crash, clients wait in the socket's queue, where they would be refused otherwise.
//
// The zero value listens and has nobody keep anything.
type sockets struct {
	notify string // $NOTIFY_SOCKET; empty if nobody keeps sockets
	kept   map[string]net.Listener
}

const (
	// firstKept is the descriptor of the first socket that systemd hands over.
	firstKept = 3
	// barrierTime is how long systemd may take to let go of a socket.
	barrierTime = 5 * time.Second
)

// keptSockets takes what systemd has kept of the listeners named; see socketName. Of all others, which an address that
// is no longer in the settings has left, it lets go. It must be called before anything is started: it changes the
// process's environment.
func keptSockets(notifySocket string, names ...string) (*sockets, error) {
	s := &sockets{notify: notifySocket, kept: map[string]net.Listener{}}
	pid, number, list := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if n, err := strconv.Atoi(number); err == nil && pid == strconv.Itoa(os.Getpid()) {
		return s, s.take(n, strings.Split(list, ":"), names)
	}
	return s, nil // it is not for us, or there is nothing
}

// take makes listeners of the n descriptors that have come.
func (s *sockets) take(n int, names, wanted []string) error {
	dropped := false
	for i := range n {
		syscall.CloseOnExec(firstKept + i)
		f := os.NewFile(uintptr(firstKept+i), "socket")
		name := ""
		if i < len(names) {
			name = names[i]
		}
		l, err := net.FileListener(f)
		if cerr := f.Close(); err == nil && cerr != nil {
			err = errors.Join(cerr, l.Close())
		}
		if err == nil && slices.Contains(wanted, name) && s.kept[name] == nil {
			s.kept[name] = l
			continue
		}
		if err == nil {
			err = l.Close()
		}
		if err := errors.Join(err, notify(s.notify, "FDSTOREREMOVE=1\nFDNAME="+name)); err != nil {
			return fmt.Errorf("letting go of a socket that systemd has kept: %w", err)
		}
		dropped = true
	}
	if dropped {
		// Its address is free when systemd has closed its copy, too.
		return s.barrier()
	}
	return nil
}

// socketName is what a listener is called in systemd's store. It holds the address: another one is another socket.
func socketName(flag, address string) string {
	return strings.TrimPrefix(flag, "--") + "@" + strings.ReplaceAll(address, ":", "_")
}

// has reports whether systemd has kept this socket, so that nobody else can have the address.
func (s *sockets) has(flag, address string) bool { return s.kept[socketName(flag, address)] != nil }

// listen returns the socket that was kept, or a new one, which is kept from now on. Errors are those of listen.
func (s *sockets) listen(ctx context.Context, flag, address string) (net.Listener, error) {
	name := socketName(flag, address)
	if l := s.kept[name]; l != nil {
		delete(s.kept, name)
		return l, nil
	}
	l, err := listen(ctx, flag, address)
	if err != nil || s.notify == "" {
		return l, err
	}
	if err := s.keep(name, l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// keep gives systemd a copy of the socket. One that keeps none, as the unit has it, ignores that.
func (s *sockets) keep(name string, l net.Listener) error {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("keeping the socket %s: it is a %T", name, l)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("keeping the socket %s: %w", name, err)
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		sent = notifyFiles(s.notify, "FDSTORE=1\nFDNAME="+name, int(fd))
	})
	return errors.Join(err, sent)
}

// close closes what was kept and has not been asked for, which happens when the server ends before it serves. systemd's
// copies stay.
func (s *sockets) close() error {
	var errs []error
	for _, l := range s.kept {
		errs = append(errs, l.Close())
	}
	s.kept = nil
	return errors.Join(errs...)
}

// barrier waits until systemd has done everything that it has been told so far.
func (s *sockets) barrier() error {
	if s.notify == "" {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = notifyFiles(s.notify, "BARRIER=1", int(w.Fd()))
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierTime)); err != nil {
		return err
	}
	// systemd closes its end, unread. One that is too old for this never does; then the address may not be free yet.
	_, _ = r.Read(make([]byte, 1))
	return nil
}
