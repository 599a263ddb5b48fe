package cri

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestParseSockets_ReadsTheKernelsTables(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 100 0 0 10 0
   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12347 1 0 100 0 0 10 0
   3: zz:0050 x 0A a b c d e f g`
	got, err := parseSockets(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []socket{{netip.MustParseAddrPort("127.0.0.1:8080"), "12345"}, {netip.MustParseAddrPort("[::1]:80"), "12347"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestListeningSockets_FindsOurOwn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sockets, err := listeningSockets(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want := netip.MustParseAddrPort(l.Addr().String())
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range named(sockets, []int{os.Getpid()}) {
		if found.Address == want {
			if found.Process != strings.TrimSpace(string(comm)) {
				t.Errorf("the socket belongs to %q, want %q", found.Process, comm)
			}
			return
		}
	}
	t.Errorf("%v is not among %v", want, sockets)
}
