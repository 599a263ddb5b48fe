package edge

import (
	"net"
	"strings"
	"testing"
)

func TestHostname_Table(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := []struct {
		in, want string
		ok       bool
	}{
		{"web.localhost", "web.localhost", true},
		{"Web.LocalHost:8443", "web.localhost", true},
		{"web.localhost.", "web.localhost", true},
		{"web.localhost.:443", "web.localhost", true},
		{"127.0.0.1:443", "127.0.0.1", true},
		{long + ".example", long + ".example", true},
		{"", "", false},
		{".", "", false},
		{":443", "", false},
		{"web:", "", false},
		{"web:https", "", false},
		{"web:123456", "", false},
		{"web..localhost", "", false},
		{".localhost", "", false},
		{"[::1]:443", "", false},
		{"::1", "", false},
		{"web/../x", "", false},
		{"web localhost", "", false},
		{"web\r\nx", "", false},
		{"web@evil", "", false},
		{"wéb.localhost", "", false},
		{"a" + long + ".example", "", false},
		{strings.Repeat("a.", 127), "", true},
		{strings.Repeat("a.", 127) + "a", "", false},
	}
	for _, tt := range tests {
		got, ok := hostname(tt.in)
		if ok != tt.ok || tt.want != "" && got != tt.want {
			t.Errorf("hostname(%q) = %q, %v; want %q, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzHostname(f *testing.F) {
	for _, s := range []string{"web.localhost:443", "A.b.", "[::1]", "a..b", "\x00", strings.Repeat("a", 300), "1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, ok := hostname(s)
		if !ok {
			if name != "" {
				t.Errorf("%q: refused, but returned %q", s, name)
			}
			return
		}
		if again, ok := hostname(name); !ok || again != name {
			t.Errorf("%q: %q is not a fixed point: %q, %v", s, name, again, ok)
		}
		if len(name) > maxHostLen || name != strings.ToLower(name) || strings.ContainsAny(name, " /\\:@<>\"'\r\n\x00[]") {
			t.Errorf("%q: unsafe name %q", s, name)
		}
		if net.ParseIP(name) != nil && strings.Contains(name, ":") {
			t.Errorf("%q: IPv6 address %q", s, name)
		}
	})
}

func TestInDomain_NeedsWholeLabels(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "a.localhost": true, "a.b.localhost": true,
		"notlocalhost": false, "localhost.evil": false, "": false,
	} {
		if got := inDomain(name, "localhost"); got != want {
			t.Errorf("inDomain(%q) = %v", name, got)
		}
	}
}
