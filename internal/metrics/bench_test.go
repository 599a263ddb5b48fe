package metrics

import (
	"testing"
	"time"

	"github.com/trysail/trysail"
)

// BenchmarkQuery_TwoWeeks asks for two weeks of a service that had requests in every minute.
func BenchmarkQuery_TwoWeeks(b *testing.B) {
	s := openStore(b, b.TempDir())
	begin := noon.Add(-14 * day)
	for i := range 14 * 24 * 60 {
		v := requests(100)
		for bucket := range 25 {
			v.Latency[20+bucket] = int64(bucket + i%7)
		}
		v.Memory.Observe(Whole / 3)
		v.Throttling.Observe(0)
		v.BytesOut, v.BytesIn = 1e6, 1e4
		s.Add("svc", 1+i/2000, begin.Add(time.Duration(i)*time.Minute), v)
	}
	flush(b, s, noon.Add(-14*day))
	for name, metrics := range map[string][]string{"CPU": {trysail.MetricCPU}, "Latency": {trysail.MetricLatency}, "all": nil} {
		b.Run(name, func(b *testing.B) {
			q := Query{ServiceID: "svc", From: begin, To: noon, Period: 5 * time.Minute, Metrics: metrics}
			for b.Loop() {
				n := 0
				if _, err := s.Query(b.Context(), q, func(*Bucket) { n++ }); err != nil || n != 4032 {
					b.Fatal(n, err)
				}
			}
		})
	}
}
