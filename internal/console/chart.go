package console

import (
	"fmt"
	"math"
	"slices"
	"strconv"
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

// The size of a chart in units of its view box, and the room that its labels take.
const (
	chartWidth  = 560
	chartHeight = 190
	chartLeft   = 52
	chartRight  = 8
	chartTop    = 18
	chartBottom = 22
)

// chart is a drawing of a few series over time, ready for the template.
type chart struct {
	ID, Title, Unit string
	Series          []series
	Grid            []gridLine // horizontal
	Ticks           []tick     // of the time axis
	Markers         []marker
	Summary         string // in words, for those who do not see it
	Table           []tableRow
	Width, Height   int
	Left, Right     int
	Bottom          float64
	LabelY          int
}

// series is a curve. Class chooses colour and dashes, so that neither stands alone.
type series struct {
	Name, Class, Path, Newest string
}

type gridLine struct {
	Y, TextY float64
	Text     string
}

type tick struct {
	X      float64
	Text   string
	Anchor string
}

// marker is a deployment.
type marker struct {
	X     float64
	Text  string // empty if there is no room
	Title string
}

type tableRow struct {
	At     time.Time
	Values []string
}

// measure is a curve to draw: a statistic of a metric.
type measure struct {
	metric, statistic, name, class string
}

// newChart draws measures of the metrics.
func newChart(id, title, unit string, m *control.ServiceMetrics, zero bool, measures ...measure) chart {
	c := chart{
		ID: id, Title: title, Unit: unit, Width: chartWidth, Height: chartHeight, Left: chartLeft, Right: chartWidth - chartRight,
		Bottom: chartHeight - chartBottom, LabelY: chartHeight - 6,
	}
	curves := make([]map[int]float64, len(measures))
	n := max(int(m.EndTime.Sub(m.StartTime)/(time.Duration(m.Period)*time.Second)), 1)
	highest := 0.0
	for i, one := range measures {
		curves[i] = valuesOf(m, one, n)
		for _, v := range curves[i] {
			highest = max(highest, v)
		}
	}
	top := roundUp(highest, unit)
	x := func(i int) float64 {
		return chartLeft + float64(i)*(chartWidth-chartLeft-chartRight)/float64(max(n-1, 1))
	}
	y := func(v float64) float64 {
		return chartTop + (1-v/top)*(chartHeight-chartTop-chartBottom)
	}
	for i, one := range measures {
		newest, any := 0.0, false
		s := series{Name: one.name, Class: one.class, Newest: "–"}
		drawn := n
		if zero && n > 2 && m.EndTime.After(time.Now()) {
			drawn-- // what is counted of a period that is not over would look like a drop
		}
		s.Path, newest, any = curve(curves[i], drawn, zero, x, y)
		if any {
			s.Newest = valueText(newest, unit)
		}
		c.Series = append(c.Series, s)
	}
	for i := range 5 {
		v := top * float64(i) / 4
		c.Grid = append(c.Grid, gridLine{Y: y(v), TextY: y(v) + 4, Text: valueText(v, unit)})
	}
	c.Ticks = ticks(m.StartTime, m.EndTime, x, n)
	c.Markers = markers(m)
	c.Table = table(m, curves, n, unit)
	c.Summary = fmt.Sprintf("%s from %s to %s, at most %s", title, at(m.StartTime), at(m.EndTime), valueText(highest, unit))
	return c
}

// valuesOf are the values of a measure by the number of their period.
func valuesOf(m *control.ServiceMetrics, want measure, n int) map[int]float64 {
	values := map[int]float64{}
	for _, d := range m.Metrics {
		if d.Name != want.metric {
			continue
		}
		for k, statistic := range d.Statistics {
			if statistic != want.statistic {
				continue
			}
			for _, p := range d.Points {
				if i := int(p.At.Sub(m.StartTime) / (time.Duration(m.Period) * time.Second)); i >= 0 && i < n && k < len(p.Values) {
					values[i] = p.Values[k]
				}
			}
		}
	}
	return values
}

// curve is the path of a series. Where there is no value there is a gap, or 0 for what is counted.
func curve(values map[int]float64, n int, zero bool, x func(int) float64, y func(float64) float64) (path string, newest float64, any bool) {
	if len(values) == 0 {
		return "", 0, false
	}
	var b strings.Builder
	pen := byte('M')
	for i := range n {
		v, ok := values[i]
		if !ok && !zero {
			pen = 'M'
			continue
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", pen, x(i), y(v))
		if _, next := values[i+1]; pen == 'M' && !next && !zero {
			b.WriteString("h1.500") // a point of its own would not be seen
		}
		pen, newest = 'L', v
	}
	return b.String(), newest, true
}

// ticks label the time axis.
func ticks(start, end time.Time, x func(int) float64, n int) (list []tick) {
	form := "15:04"
	if end.Sub(start) > 36*time.Hour {
		form = "Jan 2"
	}
	const parts = 4
	for i := range parts + 1 {
		t := tick{X: x((n - 1) * i / parts), Text: start.Add(end.Sub(start) * time.Duration(i) / parts).UTC().Format(form), Anchor: "middle"}
		if i == 0 {
			t.Anchor = "start"
		}
		if i == parts {
			t.Anchor = "end"
		}
		list = append(list, t)
	}
	return list
}

// markers are the deployments of the time.
func markers(m *control.ServiceMetrics) (list []marker) {
	const labelRoom = 26
	last := math.Inf(1)
	span := m.EndTime.Sub(m.StartTime)
	for _, d := range slices.Backward(m.Deployments) {
		share := float64(d.At.Sub(m.StartTime)) / float64(span)
		if share < 0 || share > 1 {
			continue
		}
		x := chartLeft + share*(chartWidth-chartLeft-chartRight)
		text := fmt.Sprintf("v%d", d.Version)
		if last-x < labelRoom {
			text = "" // the newer one has the room
		} else {
			last = x
		}
		list = append(list, marker{
			X: x, Text: text,
			Title: fmt.Sprintf("Version %d, %s, deployed %s", d.Version, strings.ToLower(string(d.State)), at(d.At)),
		})
	}
	return list
}

// table is the values as text; periods without any are left out.
func table(m *control.ServiceMetrics, curves []map[int]float64, n int, unit string) (rows []tableRow) {
	for i := range n {
		row := tableRow{At: m.StartTime.Add(time.Duration(i*m.Period) * time.Second)}
		any := false
		for _, values := range curves {
			v, ok := values[i]
			text := "–"
			if ok {
				text, any = valueText(v, unit), true
			}
			row.Values = append(row.Values, text)
		}
		if any {
			rows = append(rows, row)
		}
	}
	return rows
}

// roundUp is a number that is good to read at the top of an axis.
func roundUp(v float64, unit string) float64 {
	if v <= 0 {
		if unit == "Percent" {
			return 100
		}
		return 4
	}
	step := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 4, 5, 8, 10} {
		if v <= f*step {
			v = f * step
			break
		}
	}
	if unit == "Count" {
		return max(v, 4)
	}
	return v
}

// valueText is a value with its unit.
func valueText(v float64, unit string) string {
	switch unit {
	case "Percent":
		return strconv.FormatFloat(v, 'f', digits(v), 64) + " %"
	case "Milliseconds":
		if v >= 1000 {
			return strconv.FormatFloat(v/1000, 'f', digits(v/1000), 64) + " s"
		}
		return strconv.FormatFloat(v, 'f', digits(v), 64) + " ms"
	case "Bytes":
		return size(int64(v))
	}
	if v >= 10000 {
		return strconv.FormatFloat(v/1000, 'f', digits(v/1000), 64) + " k"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

func digits(v float64) int {
	switch {
	case v == math.Trunc(v) || v >= 100:
		return 0
	case v >= 1:
		return 1
	}
	return 2
}
