package console

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

// asBrowsersSend is the text of a field of several lines.
func asBrowsersSend(text string) string {
	return strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(text)
}

// rules does to the form what a browser does, and returns the rules that come of it.
func (f *edgeForm) rules(t rapid.TB) trysail.EdgeRules {
	t.Helper()
	sent := url.Values{
		"max-body": {f.MaxBody.Number}, "max-body-unit": {f.MaxBody.Unit}, "rate": {f.Rate.Number}, "rate-unit": {f.Rate.Unit}, "hsts": {f.HSTS.Number},
		"hsts-unit": {f.HSTS.Unit}, "burst": {f.Burst}, "at-once": {f.AtOnce}, "per-client": {f.PerClient}, "allow": {asBrowsersSend(f.Allow)}, "deny": {asBrowsersSend(f.Deny)},
	}
	if f.HSTSSubdomains {
		sent.Set("hsts-subdomains", "on")
	}
	if f.HSTSReady {
		sent.Set("hsts-preload", "on")
	}
	for _, p := range f.Pages {
		sent.Set("page-"+p.Status, asBrowsersSend(p.Page))
	}
	in, err := readEdgeForm(sent.Get).input()
	if err != nil {
		t.Fatal(err)
	}
	r := trysail.EdgeRules{
		HSTSMaxAge: *in.HSTSMaxAge, HSTSIncludeSubdomains: *in.HSTSIncludeSubdomains, HSTSPreload: *in.HSTSPreload, AllowClients: in.AllowClients,
		DenyClients: in.DenyClients, MaxBody: *in.MaxBody, RequestsPerMinute: *in.RequestsPerMinute, RequestBurst: *in.RequestBurst,
		MaxRequestsAtOnce: *in.MaxRequestsAtOnce, MaxRequestsAtOncePerClient: *in.MaxRequestsAtOncePerClient, ErrorPages: in.ErrorPages,
	}
	if err := r.Normalize(); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEdgeForm_RulesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		network := rapid.SampledFrom([]string{"192.0.2.0/24", "2001:db8::/32", "10.0.0.1/32", "::/0"})
		want := trysail.EdgeRules{
			AllowClients: rapid.SliceOfNDistinct(network, 0, 4, rapid.ID).Draw(t, "allow"), DenyClients: rapid.SliceOfNDistinct(network, 0, 4, rapid.ID).Draw(t, "deny"),
			MaxBody:           rapid.OneOf(rapid.Int64Range(0, trysail.MaxBodyLimit), rapid.Map(rapid.Int64Range(0, 1000), func(n int64) int64 { return n * 1e9 })).Draw(t, "body"),
			HSTSMaxAge:        rapid.OneOf(rapid.IntRange(0, trysail.MaxHSTSAge), rapid.Map(rapid.IntRange(0, 730), func(n int) int { return n * 86400 })).Draw(t, "age"),
			RequestsPerMinute: rapid.IntRange(0, trysail.MaxRequestsPerMinute).Draw(t, "rate"),
			MaxRequestsAtOnce: rapid.IntRange(0, trysail.MaxRequestsAtOnce).Draw(t, "at once"), MaxRequestsAtOncePerClient: rapid.IntRange(0, 9).Draw(t, "of one"),
			ErrorPages: rapid.MapOfN(rapid.SampledFrom(trysail.ErrorPageStatuses()), rapid.StringMatching(`<p>[a-z &<>"\n]{0,20}x`), 0, 3).Draw(t, "pages"),
		}
		if want.RequestsPerMinute > 0 {
			want.RequestBurst = rapid.IntRange(0, trysail.MaxRequestBurst).Draw(t, "burst")
		}
		if want.HSTSMaxAge > 0 {
			want.HSTSIncludeSubdomains = rapid.Bool().Draw(t, "below")
			want.HSTSPreload = want.HSTSIncludeSubdomains && want.HSTSMaxAge >= trysail.MinHSTSPreloadAge && rapid.Bool().Draw(t, "preload")
		}
		if err := want.Normalize(); err != nil {
			t.Fatal(err)
		}
		got := newEdgeForm(&want).rules(t)
		if !want.Equal(&got) {
			t.Fatalf("(-want +got):\n%s", cmp.Diff(want, got))
		}
	})
}

func TestEdgeForm_RefusesWhatIsNoNumber(t *testing.T) {
	good := func() *edgeForm { return newEdgeForm(&trysail.EdgeRules{}) }
	for name, spoil := range map[string]func(*edgeForm){
		"a word":         func(f *edgeForm) { f.MaxBody.Number = "ten" },
		"negative":       func(f *edgeForm) { f.Rate.Number = "-1" },
		"another unit":   func(f *edgeForm) { f.HSTS = unitForm{"1", "years", hstsUnits()} },
		"an overflow":    func(f *edgeForm) { f.MaxBody.Number, f.MaxBody.Unit = "9223372036854775807", "GB" },
		"a large rate":   func(f *edgeForm) { f.Rate.Number = "9223372036854775807"; f.Rate.Unit = "a minute" },
		"a broken burst": func(f *edgeForm) { f.Burst = "1.5" },
	} {
		f := good()
		spoil(f)
		if _, err := f.input(); trysail.ErrorCode(err) != trysail.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := good().input(); err != nil {
		t.Errorf("an empty form: %v", err)
	}
}
