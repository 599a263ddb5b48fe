package edge

import (
	"fmt"
	"strconv"
	"strings"
)

// defaultCodes is what an absent SuccessCodes means, as on AWS.
const defaultCodes = "200-499"

// codes is a set of HTTP status codes.
type codes []codeRange

// codeRange is the codes from lo to hi, both included.
type codeRange struct{ lo, hi int }

// parseCodes reads the syntax of SuccessCodes: codes and ranges separated by commas, such as "200", "200,202",
// "200-299" or "200-299,401". Spaces around the parts are allowed. Each code has three digits, 100 to 599.
func parseCodes(s string) (codes, error) {
	var set codes
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		lo, err := parseCode(from)
		if err != nil {
			return nil, fmt.Errorf("success codes %q: %w", s, err)
		}
		hi, err := parseCode(to)
		if err != nil {
			return nil, fmt.Errorf("success codes %q: %w", s, err)
		}
		if lo > hi {
			return nil, fmt.Errorf("success codes %q: %d is above %d", s, lo, hi)
		}
		set = append(set, codeRange{lo, hi})
	}
	return set, nil
}

func parseCode(s string) (int, error) {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || len(s) != 3 || n < 100 || n > 599 {
		return 0, fmt.Errorf("%q is not a status code", s)
	}
	return int(n), nil
}

// match reports whether status is in the set.
func (c codes) match(status int) bool {
	for _, r := range c {
		if r.lo <= status && status <= r.hi {
			return true
		}
	}
	return false
}
