package edge

import (
	"fmt"
	"strings"
	"testing"
)

func TestCodes_Match(t *testing.T) {
	tests := []struct {
		codes   string
		in, out []int
	}{
		{"200", []int{200}, []int{0, 199, 201, 404}},
		{"200,202", []int{200, 202}, []int{201, 203}},
		{"200-299", []int{200, 250, 299}, []int{199, 300}},
		{"200-299,401", []int{200, 299, 401}, []int{300, 400, 402}},
		{" 200 - 204 , 302 ", []int{200, 204, 302}, []int{205, 301}},
		{defaultCodes, []int{200, 404, 499}, []int{101, 500, 503}},
	}
	for _, tt := range tests {
		set, err := parseCodes(tt.codes)
		if err != nil {
			t.Errorf("parseCodes(%q): %v", tt.codes, err)
			continue
		}
		for _, c := range tt.in {
			if !set.match(c) {
				t.Errorf("%q does not match %d", tt.codes, c)
			}
		}
		for _, c := range tt.out {
			if set.match(c) {
				t.Errorf("%q matches %d", tt.codes, c)
			}
		}
	}
}

func TestCodes_Malformed(t *testing.T) {
	for _, s := range []string{"", ",", "200,", "200-", "-200", "299-200", "2xx", "20", "2000", "099", "600", "200-299-300", "+20", "200;201"} {
		if set, err := parseCodes(s); err == nil {
			t.Errorf("parseCodes(%q) = %v", s, set)
		}
	}
}

// FuzzCodes compares with a slow reading of the same grammar.
func FuzzCodes(f *testing.F) {
	for _, s := range []string{"200", "200,202", "200-299", "200-299,401", "", "-", "999", "200-200,,"} {
		f.Add(s, 200)
	}
	f.Fuzz(func(t *testing.T, s string, status int) {
		set, err := parseCodes(s)
		if err != nil {
			return
		}
		if set.match(status) && (status < 100 || status > 599) {
			t.Errorf("%q matches %d", s, status)
		}
		want := false
		for part := range strings.SplitSeq(strings.ReplaceAll(s, " ", ""), ",") {
			for c := 100; c < 600; c++ {
				lo, hi, isRange := strings.Cut(part, "-")
				if !isRange {
					hi = lo
				}
				text := fmt.Sprint(c)
				want = want || c == status && strings.TrimSpace(lo) <= text && text <= strings.TrimSpace(hi)
			}
		}
		if got := set.match(status); got != want {
			t.Errorf("%q, %d: %v, want %v", s, status, got, want)
		}
	})
}
