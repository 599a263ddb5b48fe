package broken_test

import (
	"regexp"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
	"github.com/trysail/trysail/test/broken"
	"github.com/trysail/trysail/test/corpus"
	"github.com/trysail/trysail/test/healthy"
)

// TestCases_CoverTheCodes: every code has a deployment that ends with it, or a reason why there is none, and warnings have
// their own place.
func TestCases_CoverTheCodes(t *testing.T) {
	known, runs, excused := map[trysail.DiagnosisCode]bool{}, map[trysail.DiagnosisCode]bool{}, map[trysail.DiagnosisCode]bool{}
	for _, g := range diagnose.Codes() {
		for _, c := range g.Codes {
			known[c.Code] = true
		}
	}
	for _, c := range append(broken.Cases(), healthy.Cases()...) {
		code := c.Code
		if c.Warning != "" {
			code = c.Warning
		}
		switch {
		case code == "":
		case !known[code]:
			t.Errorf("case %s expects the code %s, which does not exist", c.Name, code)
		case c.Place == corpus.Nowhere:
			if c.Why == "" {
				t.Errorf("code %s is not run, and nothing says why", code)
			}
			excused[code] = true
		default:
			runs[code] = true
		}
	}
	for code := range known {
		if !runs[code] && !excused[code] {
			t.Errorf("code %s has no case", code)
		}
		if runs[code] && excused[code] {
			t.Errorf("code %s is excused, and has a case", code)
		}
	}
	if len(runs) < 55 {
		t.Errorf("%d codes are run, want 55 at least", len(runs))
	}
	t.Logf("%d of %d codes are run", len(runs), len(known))
}

func TestCases_AreWellFormed(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	seen, quick := map[string]bool{}, 0
	for _, c := range append(broken.Cases(), healthy.Cases()...) {
		if c.Place == corpus.Nowhere {
			continue
		}
		if !name.MatchString(c.Name) || seen[c.Name] {
			t.Errorf("%q is no name of a service, or two cases have it", c.Name)
		}
		seen[c.Name] = true
		if len(c.Containers) == 0 {
			t.Errorf("case %s deploys nothing", c.Name)
		}
		if (c.Outcome == corpus.Works) != (c.Code == "") {
			t.Errorf("case %s has outcome %d and code %q", c.Name, c.Outcome, c.Code)
		}
		if c.Quick {
			quick++
		}
	}
	if n := len(healthy.Cases()); n < 25 {
		t.Errorf("%d healthy services, want 25 at least", n)
	}
	t.Logf("%d cases, %d of them quick", len(seen), quick)
}
