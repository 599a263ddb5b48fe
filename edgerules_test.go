package trysail_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
)

func TestEdgeRules_NormalizeRefuses(t *testing.T) {
	many := make([]string, trysail.MaxClientRules+1)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.%d.%d", i/256, i%256)
	}
	for want, r := range map[string]trysail.EdgeRules{
		"Setting hstsMaxAgeSeconds is -1. It can be 1 to 63072000, or 0 to turn it off.":                                                             {HSTSMaxAge: -1},
		"Setting hstsMaxAgeSeconds is 63072001. It can be 1 to 63072000, or 0 to turn it off.":                                                       {HSTSMaxAge: 63072001},
		"Settings hstsIncludeSubdomains and hstsPreload need hstsMaxAgeSeconds. Set it too, for example to 31536000, or turn them off.":              {HSTSIncludeSubdomains: true},
		"Setting hstsPreload needs hstsIncludeSubdomains and an hstsMaxAgeSeconds of at least 31536000 (a year).":                                    {HSTSPreload: true, HSTSMaxAge: 31536000},
		"Setting maxBodyBytes is -5. It can be 1 to 1099511627776, or 0 to turn it off.":                                                             {MaxBody: -5},
		"Setting requestsPerMinute is 6000001. It can be 1 to 6000000, or 0 to turn it off.":                                                         {RequestsPerMinute: 6000001},
		"Setting requestBurst needs requestsPerMinute. Set it too, or set requestBurst to 0.":                                                        {RequestBurst: 5},
		"Setting maxRequestsAtOnce is -1. It can be 1 to 100000, or 0 to turn it off.":                                                               {MaxRequestsAtOnce: -1},
		"Setting maxRequestsAtOncePerClient is 100001. It can be 1 to 100000, or 0 to turn it off.":                                                  {MaxRequestsAtOncePerClient: 100001},
		`Setting allowClients: "example.com" is neither a network such as 192.0.2.0/24 or 2001:db8::/32 nor an address.`:                             {AllowClients: []string{"example.com"}},
		`Setting allowClients: "fe80::1%eth0" is neither a network such as 192.0.2.0/24 or 2001:db8::/32 nor an address.`:                            {AllowClients: []string{"fe80::1%eth0"}},
		`Setting denyClients: "::ffff:10.0.0.0/104" is IPv4 written as IPv6; write it as IPv4.`:                                                      {DenyClients: []string{"::ffff:10.0.0.0/104"}},
		`Setting denyClients: "2001:db8::1/32" is an address within a network; write 2001:db8::/32 for the network, or 2001:db8::1 for the address.`: {DenyClients: []string{"2001:db8::1/32"}},
		"Setting denyClients has 1001 entries. It can have 1000; use larger networks.":                                                               {DenyClients: many},
		`Setting errorPages has a page for "200". The edge itself answers with 400, 403, 404, 405, 408, 413, 429, 502, 503, 504 only.`:               {ErrorPages: map[string]string{"200": "x"}},
		"Setting errorPages: the page for 503 has 32769 bytes. It can have 32768; let it refer to pictures and style sheets elsewhere.":              {ErrorPages: map[string]string{"503": strings.Repeat("x", 32769)}},
		"Setting errorPages: the page for 502 is not valid UTF-8.":                                                                                   {ErrorPages: map[string]string{"502": "\xff"}},
		"Setting errorPages: all pages together have 65539 bytes. They can have 65536.":                                                              {ErrorPages: map[string]string{"502": strings.Repeat("x", 32767), "503": strings.Repeat("x", 32767), "504": "12345"}},
	} {
		err := r.Normalize()
		if trysail.ErrorCode(err) != trysail.CodeInvalid || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestEdgeRules_ZeroAsksForNothing(t *testing.T) {
	var zero trysail.EdgeRules
	if err := zero.Normalize(); err != nil || !zero.IsZero() || zero.HSTS() != "" {
		t.Errorf("%v, %+v", err, zero)
	}
	if page, ok := zero.ErrorPage(503, "id"); ok {
		t.Errorf("page %q", page)
	}
	// Every single member makes a difference.
	for _, r := range []trysail.EdgeRules{
		{HSTSMaxAge: 1},
		{HSTSIncludeSubdomains: true},
		{HSTSPreload: true},
		{AllowClients: []string{"::/0"}},
		{DenyClients: []string{"::/0"}},
		{MaxBody: 1},
		{RequestsPerMinute: 1},
		{RequestBurst: 1},
		{MaxRequestsAtOnce: 1},
		{MaxRequestsAtOncePerClient: 1},
		{ErrorPages: map[string]string{"503": "x"}},
	} {
		if r.IsZero() || r.Equal(&zero) || !r.Equal(&r) {
			t.Errorf("%+v: zero %v, equal to zero %v", r, r.IsZero(), r.Equal(&zero))
		}
	}
}

func TestEdgeRules_Values(t *testing.T) {
	r := trysail.EdgeRules{
		HSTSMaxAge: 31536000, HSTSIncludeSubdomains: true, HSTSPreload: true, RequestsPerMinute: 600,
		AllowClients: []string{"192.0.2.1", "192.0.2.1/32", "::ffff:192.0.2.1"}, ErrorPages: map[string]string{"429": "{{status}} for {{requestId}}", "502": ""},
	}
	if err := r.Normalize(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"192.0.2.1/32"}, r.AllowClients); d != "" {
		t.Error(d)
	}
	if got := r.HSTS(); got != "max-age=31536000; includeSubDomains; preload" {
		t.Error(got)
	}
	if page, ok := r.ErrorPage(429, "abc"); !ok || page != "429 for abc" || len(r.ErrorPages) != 1 {
		t.Errorf("%q, %v, %v", page, ok, r.ErrorPages)
	}
	for burst, r := range map[int]trysail.EdgeRules{100: {RequestsPerMinute: 600}, 1: {RequestsPerMinute: 2}, 7: {RequestsPerMinute: 600, RequestBurst: 7}} {
		if got := r.Burst(); got != burst {
			t.Errorf("burst of %+v: %d, want %d", r, got, burst)
		}
	}
}
