package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/control"
)

// sparkline is a small curve of the last hour, in a view box of 100 by 20.
type sparkline struct {
	Path string // of an SVG path; empty if there is nothing to show
	Text string // what it shows, for those who do not see it
}

// newSparkline draws the first value of the points; where there is no point, the value is 0.
func newSparkline(points []control.MetricPoint, start, end time.Time, period time.Duration) sparkline {
	n := int(end.Sub(start) / period)
	values := make([]float64, n)
	highest := 0.0
	for _, p := range points {
		if i := int(p.At.Sub(start) / period); i >= 0 && i < n && len(p.Values) > 0 {
			values[i] = p.Values[0]
			highest = max(highest, p.Values[0])
		}
	}
	if highest == 0 || n < 2 {
		return sparkline{}
	}
	var b strings.Builder
	for i, v := range values {
		fmt.Fprintf(&b, "%c%.1f %.1f", "ML"[min(i, 1)], float64(i)*100/float64(n-1), 19-18*v/highest)
	}
	return sparkline{Path: b.String(), Text: fmt.Sprintf("At most %.0f in %d minutes", highest, int(period.Minutes()))}
}
