package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// keeper is the side of systemd: it keeps the sockets that it is told to keep.
type keeper struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newKeeper(t *testing.T) *keeper {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &keeper{t, conn, path}
}

// next returns the next message and the file that came with it.
func (s *keeper) next() (string, *os.File) {
	s.t.Helper()
	text, oob := make([]byte, 4096), make([]byte, 512)
	n, oobn, _, _, err := s.conn.ReadMsgUnix(text, oob)
	if err != nil {
		s.t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) > 1 {
		s.t.Fatal(messages, err)
	}
	if len(messages) == 0 {
		return string(text[:n]), nil
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		s.t.Fatal(fds, err)
	}
	return string(text[:n]), os.NewFile(uintptr(fds[0]), "socket")
}

// The test's own process cannot have descriptor 3 handed over, so this test is run again in one that has.
func TestSockets_AreKeptOverARestart(t *testing.T) {
	if address := os.Getenv("TRYSAIL_TEST_ADDRESS"); address != "" {
		serveOnce(t, address)
		return
	}
	systemd := newKeeper(t)
	first, err := keptSockets(systemd.path)
	if err != nil {
		t.Fatal(err)
	}
	// Port 0 does for the address too: what is kept is found by what was asked for.
	l, err := first.listen(t.Context(), "--https", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	message, https := systemd.next()
	if https == nil || message != "FDSTORE=1\nFDNAME=https@127.0.0.1_0" {
		t.Fatalf("got %q with the file %v", message, https)
	}
	other, err := first.listen(t.Context(), "--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, http := systemd.next()
	address, forgotten := l.Addr().String(), other.Addr().String()
	l.Close()
	other.Close()

	// Nobody serves, and still a client is not refused.
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("between the servers: %v", err)
	}
	defer client.Close()
	again := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=https@127.0.0.1_0:http@127.0.0.1_0",
		"TRYSAIL_TEST_ADDRESS="+address, "NOTIFY_SOCKET="+systemd.path)
	again.ExtraFiles = []*os.File{https, http}
	var out strings.Builder
	again.Stdout, again.Stderr = &out, &out
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	https.Close()
	http.Close()
	if message, _ := systemd.next(); message != "FDSTOREREMOVE=1\nFDNAME=http@127.0.0.1_0" {
		t.Errorf("of the socket that is not wanted any more: %q", message)
	}
	message, barrier := systemd.next()
	if message != "BARRIER=1" || barrier == nil {
		t.Errorf("got %q, want a barrier", message)
	}
	barrier.Close()
	answer, err := io.ReadAll(client)
	if err := again.Wait(); err != nil {
		t.Errorf("the second server: %v\n%s", err, &out)
	}
	if err != nil || string(answer) != "second" {
		t.Errorf("the client that waited got %q, %v", answer, err)
	}
	if c, err := net.Dial("tcp", forgotten); err == nil {
		c.Close()
		t.Error("the socket that is not wanted any more still listens")
	}
}

// serveOnce is the second server.
func serveOnce(t *testing.T, address string) {
	s, err := keptSockets(os.Getenv("NOTIFY_SOCKET"), socketName("--https", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if os.Getenv("LISTEN_FDS") != "" {
		t.Error("programs that are started from here would believe that they got sockets")
	}
	if !s.has("--https", "127.0.0.1:0") || s.has("--http", "127.0.0.1:0") {
		t.Error("it has not the socket that was kept, or one that was not asked for")
	}
	l, err := s.listen(t.Context(), "--https", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Addr().String() != address {
		t.Fatalf("it listens on %s, not on %s", l.Addr(), address)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "second"); err != nil {
		t.Error(err)
	}
}

func TestSockets_OfAnotherProcessAreNotTaken(t *testing.T) {
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()+1))
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_FDNAMES", "https@_443")
	s, err := keptSockets("", "https@_443")
	if err != nil || len(s.kept) > 0 {
		t.Errorf("took %v, %v", s.kept, err)
	}
}

func TestSockets_NobodyKeepsThemWithoutSystemd(t *testing.T) {
	s, err := keptSockets("")
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.listen(context.Background(), "--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("the socket still listens")
	}
}
