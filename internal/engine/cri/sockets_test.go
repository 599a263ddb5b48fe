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
  17: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12348 2 0 0
   3: zz:0050 x 0A a b c d e f g`
	got, err := parseSockets(strings.NewReader(table), 10, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []socket{{netip.MustParseAddrPort("127.0.0.1:8080"), false, 12345}, {netip.MustParseAddrPort("[::1]:80"), false, 12347}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got, err = parseSockets(strings.NewReader(table), 7, true)
	if want := []socket{{netip.MustParseAddrPort("0.0.0.0:5353"), true, 12348}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("UDP: got %v, %v, want %v", got, err, want)
	}
}

// TestSockets_BothWaysSeeTheSame looks at the sockets of this process, through the tables and by asking the kernel.
func TestSockets_BothWaysSeeTheSame(t *testing.T) {
	var want []netip.AddrPort
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want = append(want, netip.MustParseAddrPort(l.Addr().String()))
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		want = append(want, netip.MustParseAddrPort(u.LocalAddr().String()))
		c, err := net.Dial("tcp", l.Addr().String()) // it does not listen
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	me, ok := readProcess(os.Getpid())
	if !ok {
		t.Fatal("this process is not in /proc")
	}
	q, err := openSocketQuery(me.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for name, read := range map[string]func() ([]socket, error){
		"tables": func() ([]socket, error) { return tableSockets(me.pid) },
		"query":  q.sockets,
	} {
		sockets, err := read()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wanted, known := map[uint64]bool{}, map[uint64]owner{}
		for _, s := range sockets {
			wanted[s.inode] = true
		}
		socketOwners(me, "web", wanted, known)
		var ours []netip.AddrPort
		for _, l := range listenersOf(sockets, known) {
			if l.Container == "web" && l.Process == me.name {
				ours = append(ours, l.Address)
				if l.UDP != (slices.Index(want, l.Address)%2 == 1) {
					t.Errorf("%s: %+v", name, l)
				}
			}
		}
		for _, addr := range want {
			if !slices.Contains(ours, addr) {
				t.Errorf("%s: %v is not among %v", name, addr, ours)
			}
		}
		if len(ours) != len(want) {
			t.Errorf("%s: %v, want %v", name, ours, want)
		}
	}
}

func TestWatchedPod_LeavesOutUDPSocketsOfAMoment(t *testing.T) {
	ports := map[uint64]uint16{1: 53, 2: 40000, 3: 40001, 4: 50000, 5: 50001}
	p := &watchedPod{}
	for i, tt := range []struct{ there, want []uint64 }{
		{[]uint64{1, 2, 3, 4}, []uint64{1, 2}},
		{[]uint64{1, 2, 4, 5}, []uint64{1, 2, 4}},
		{[]uint64{3}, nil},
	} {
		var sockets []socket
		for _, inode := range tt.there {
			sockets = append(sockets, socket{netip.AddrPortFrom(netip.IPv4Unspecified(), ports[inode]), inode != 2, inode})
		}
		var got []uint64
		for _, s := range p.lasting(sockets) {
			got = append(got, s.inode)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("look %d: %v, want %v", i, got, tt.want)
		}
	}
}
