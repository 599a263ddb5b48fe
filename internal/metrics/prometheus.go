package metrics

import (
	"bufio"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
)

// PrometheusType is the content type of what WritePrometheus writes.
const PrometheusType = "text/plain; version=0.0.4; charset=utf-8"

// octave is how many buckets of a trysail.Histogram go into one bucket here. A series for each would be more than
// anybody looks at; a doubling from one to the next is what people choose.
const octave = 4

// buckets merges a histogram's buckets. counts are not cumulative, in seconds; the last one has no bound.
func buckets(h *trysail.Histogram) (bounds []float64, counts []int64) {
	for i := 0; i < len(h)-1; i += octave {
		bounds = append(bounds, trysail.HistogramBound(i).Seconds())
	}
	counts = make([]int64, len(bounds)+1)
	for i, n := range h {
		counts[min((i+octave-1)/octave, len(bounds))] += n
	}
	return bounds, counts
}

// WritePrometheus writes families in Prometheus' text format.
func WritePrometheus(w io.Writer, families []Family) error {
	b := bufio.NewWriter(w)
	t := textWriter{b}
	for _, f := range families {
		t.line("# HELP ", f.Name, " ", strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(f.Help))
		t.line("# TYPE ", f.Name, " ", string(f.Kind))
		for _, s := range f.Samples {
			if s.Histogram != nil {
				t.histogram(f.Name, s)
				continue
			}
			t.sample(f.Name, s.Labels, s.Value)
		}
	}
	return b.Flush() // which has the first error
}

type textWriter struct{ *bufio.Writer }

func (t textWriter) line(parts ...string) {
	for _, part := range parts {
		_, _ = t.WriteString(part)
	}
	_ = t.WriteByte('\n')
}

func (t textWriter) histogram(name string, s Sample) {
	bounds, counts := buckets(s.Histogram)
	labels := append(append([]Label{}, s.Labels...), Label{Name: "le"})
	le := &labels[len(labels)-1].Value
	var sum int64
	for i, n := range counts {
		sum += n
		*le = "+Inf"
		if i < len(bounds) {
			*le = number(bounds[i])
		}
		t.sample(name+"_bucket", labels, float64(sum))
	}
	t.sample(name+"_sum", s.Labels, total(s.Histogram).Seconds())
	t.sample(name+"_count", s.Labels, float64(sum))
}

func (t textWriter) sample(name string, labels []Label, value float64) {
	text := ""
	if len(labels) > 0 {
		pairs := make([]string, len(labels))
		for i, l := range labels {
			pairs[i] = l.Name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(l.Value) + `"`
		}
		text = "{" + strings.Join(pairs, ",") + "}"
	}
	t.line(name, text, " ", number(value))
}

// number writes whole numbers, which nearly all are, as such.
func number(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.FormatInt(int64(f), 10)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}
