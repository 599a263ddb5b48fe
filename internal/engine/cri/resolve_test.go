package cri

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/trysail/trysail"
)

func TestResolver_ReadsThePodsFiles(t *testing.T) {
	r := newResolver("nameserver 192.0.2.53\nsearch a.example b.example.\noptions ndots:2 timeout:1\n", "127.0.0.1\tlocalhost Web # us\n::1 localhost\nbad name\n")
	if want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}; !slices.Equal(r.servers, want) || r.ndots != 2 {
		t.Errorf("%+v", r)
	}
	for host, want := range map[string][]string{
		"db":           {"db.a.example.", "db.b.example.", "db."},
		"db.x":         {"db.x.a.example.", "db.x.b.example.", "db.x."},
		"db.x.example": {"db.x.example.", "db.x.example.a.example.", "db.x.example.b.example."},
		"db.":          {"db."},
	} {
		if got := r.candidates(host); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	for host, want := range map[string]string{"WEB": "127.0.0.1", "web.": "127.0.0.1", "localhost": "127.0.0.1", "[::1]": "::1", "192.0.2.7": "192.0.2.7"} {
		addrs, result := r.lookup(t.Context(), host)
		if result != trysail.ReachOK || addrs[0].String() != want {
			t.Errorf("%s: %v, %s", host, addrs, result)
		}
	}
	if _, result := newResolver("", "").lookup(t.Context(), "db"); result != trysail.ReachNoDNS {
		t.Errorf("without a server: %s", result)
	}
}

func FuzzParseAnswer(f *testing.F) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, Response: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("a."), Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
		}},
	}
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		addrs, cut, err := parseAnswer(b, dnsmessage.TypeA)
		if len(addrs) > maxAddrs || err != nil && len(addrs) > 0 || cut && len(addrs) > 0 {
			t.Errorf("%v, %v, %v", addrs, cut, err)
		}
	})
}

func TestMachine_ReadsTheKernelsTables(t *testing.T) {
	total, free := parseMemInfo([]byte("MemTotal:        8127160 kB\nMemFree:          100 kB\nMemAvailable:    4000000 kB\nHugePages_Total:       0\n"))
	if total != 8127160<<10 || free != 4000000<<10 {
		t.Errorf("%d, %d", total, free)
	}
	if load := parseLoad([]byte("1.25 0.50 0.10 1/200 4711\n")); load != 1.25 {
		t.Errorf("%v", load)
	}
}
