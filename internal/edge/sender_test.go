package edge

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestSenderOf_BelievesTrustedProxiesOnly(t *testing.T) {
	trusted := prefixes("10.0.0.0/8", "2001:db8:f::/48", "::1/128")
	for _, test := range []struct {
		name, remote string
		forwarded    []string
		client       string
		proxied      bool
	}{
		{"nobody forwards", "192.0.2.1:5", nil, "192.0.2.1", false},
		{"a stranger forwards", "192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1", false},
		{"a proxy without a header", "10.0.0.1:5", nil, "10.0.0.1", true},
		{"a proxy", "10.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1", true},
		{"what the client claims is not believed", "10.0.0.1:5", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1", true},
		{"two proxies", "10.0.0.1:5", []string{"203.0.113.9, 198.51.100.1, 10.0.0.2"}, "198.51.100.1", true},
		{"two lines", "10.0.0.1:5", []string{"203.0.113.9, 198.51.100.1", "10.0.0.2"}, "198.51.100.1", true},
		{"proxies only", "10.0.0.1:5", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3", true},
		{"with ports", "10.0.0.1:5", []string{"198.51.100.1:4711,10.0.0.2:80"}, "198.51.100.1", true},
		{"nonsense at the end", "10.0.0.1:5", []string{"198.51.100.1, unknown"}, "10.0.0.1", true},
		{"nonsense behind a proxy", "10.0.0.1:5", []string{"198.51.100.1, _hidden, 10.0.0.2"}, "10.0.0.2", true},
		{"an empty entry", "10.0.0.1:5", []string{"198.51.100.1,"}, "10.0.0.1", true},
		{"an empty header", "10.0.0.1:5", []string{""}, "10.0.0.1", true},
		{"a proxy over IPv6", "[2001:db8:f::7]:5", []string{"2001:DB8:0:0::1"}, "2001:db8::1", true},
		{"brackets", "[::1]:5", []string{"[2001:db8::1]"}, "2001:db8::1", true},
		{"brackets and a port", "[::1]:5", []string{"[2001:db8::1]:443"}, "2001:db8::1", true},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5", []string{"::ffff:198.51.100.1"}, "198.51.100.1", true},
		{"a zone", "[fe80::1%eth0]:5", nil, "fe80::1", false},
	} {
		got := senderOf(test.remote, http.Header{"X-Forwarded-For": test.forwarded}, trusted)
		if got.client.String() != test.client || got.proxied != test.proxied {
			t.Errorf("%s: %+v, want %s, %v", test.name, got, test.client, test.proxied)
		}
		// Without trusted proxies it is always the peer.
		if got := senderOf(test.remote, http.Header{"X-Forwarded-For": test.forwarded}, nil); got.client != got.peer || got.proxied {
			t.Errorf("%s, nobody trusted: %+v", test.name, got)
		}
	}
	if got := senderOf("@", nil, trusted); got.peer.IsValid() || got.client.IsValid() {
		t.Errorf("no address: %+v", got)
	}
}

func TestSetForwarded(t *testing.T) {
	claims := http.Header{
		"X-Forwarded-For": {"203.0.113.9", "198.51.100.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"shop.example.com"}, "X-Forwarded-Port": {"8080"},
	}
	nonsense := http.Header{
		"X-Forwarded-For": {"x"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Host": {"a b"}, "X-Forwarded-Port": {"99999"},
	}
	twice := http.Header{"X-Forwarded-Proto": {"http", "https"}, "X-Forwarded-Host": {"a", "b"}, "X-Forwarded-Port": {"1", "2"}}
	for _, test := range []struct {
		name, remote string
		header       http.Header
		trusted      []netip.Prefix
		want         string // For, Proto, Host, Port
	}{
		{"by default", "192.0.2.1:5", claims, nil, "203.0.113.9, 198.51.100.1, 192.0.2.1|https|web.localhost|443"},
		{"by default, nothing claimed", "[2001:db8::1]:5", http.Header{}, nil, "2001:db8::1|https|web.localhost|443"},
		{"a stranger", "192.0.2.1:5", claims, prefixes("10.0.0.0/8"), "192.0.2.1|https|web.localhost|443"},
		{"a proxy", "10.0.0.1:5", claims, prefixes("10.0.0.0/8"), "203.0.113.9, 198.51.100.1, 10.0.0.1|http|shop.example.com|8080"},
		{"a proxy that claims nothing", "10.0.0.1:5", http.Header{}, prefixes("10.0.0.0/8"), "10.0.0.1|https|web.localhost|443"},
		{"a proxy that talks nonsense", "10.0.0.1:5", nonsense, prefixes("10.0.0.0/8"), "x, 10.0.0.1|https|web.localhost|443"},
		{"a proxy that says two things", "10.0.0.1:5", twice, prefixes("10.0.0.0/8"), "10.0.0.1|https|web.localhost|443"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:5", http.Header{}, nil, "192.0.2.1|https|web.localhost|443"},
	} {
		in := &http.Request{RemoteAddr: test.remote, Host: "web.localhost", Header: test.header}
		out := http.Header{}
		setForwarded(out, in, senderOf(test.remote, test.header, test.trusted), len(test.trusted) > 0, "443")
		var got []string
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"} {
			got = append(got, out.Get(name))
		}
		if d := cmp.Diff(test.want, strings.Join(got, "|")); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
	}
}

func TestEdge_TrustedProxies(t *testing.T) {
	entries := make(chan string, 10)
	e := testEdge(t, func(c *Config) {
		c.TrustedProxies = prefixes("127.0.0.1/32")
		c.AccessLog = collectLines(entries)
	})
	r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Header.Get("X-Forwarded-For") + "|" + r.Header.Get("X-Forwarded-Proto")))
	}))
	r.AccessLog = true
	r.Rules.DenyClients = []string{"198.51.100.0/24"}
	e.Apply(r)
	bothProtocols(t, func(t *testing.T, http2 bool) {
		c := testClient(t, e, http2)
		for from, want := range map[string]int{"203.0.113.9": 200, "198.51.100.7": 403, "198.51.100.7, 203.0.113.9": 200} {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
			req.Header.Set("X-Forwarded-For", from)
			req.Header.Set("X-Forwarded-Proto", "http")
			res, body := send(t, c, req)
			if res.StatusCode != want || want == 200 && body != from+", 127.0.0.1|http" {
				t.Errorf("%s: %d %s", from, res.StatusCode, body)
			}
			client := from[strings.LastIndexByte(from, ' ')+1:]
			if line := receive(t, entries, "a line"); !strings.Contains(line, `"client":"`+client+`","proxy":"127.0.0.1"`) {
				t.Errorf("line %s", line)
			}
		}
	})
}
