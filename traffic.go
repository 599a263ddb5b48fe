package trysail

import (
	"math"
	"time"
)

// Traffic is what the edge has counted of one version of a service since it began to count. Counters only grow; who
// wants a rate takes the difference of two readings, and begins anew when one is smaller than before.
type Traffic struct {
	Service string
	// Version is that of the pod that answered, or was asked last. It is 0 for requests that no pod was asked for: the
	// edge redirected them to HTTPS, or the service was disabled or had nothing in rotation.
	Version int
	// Requests are those that have ended, by the hundreds of their status: Requests[2] are those with 200 to 299. Those
	// that ended without a status (the client left) are Requests[0]. A WebSocket or another tunnel is a request with
	// status 101, and counts when it ends.
	Requests [6]int64
	BytesIn  int64 // bodies of requests and what came in through tunnels, as they pass
	BytesOut int64 // bodies of answers and what went out through tunnels, as they pass
	// Latency is how long the requests took from their header to the last byte of the answer; tunnels to the answer's
	// header.
	Latency       Histogram
	ProbeFailures int64 // health checks that failed
}

// The buckets of a Histogram: four to each doubling, from 100 µs to nearly three minutes. A quantile read from it is at
// most 19 % too high.
const (
	histogramBuckets = 84
	histogramFirst   = 100 * time.Microsecond
)

// Histogram counts durations. Bucket i holds those up to HistogramBound(i); the last one all longer ones as well.
type Histogram [histogramBuckets]int64

// HistogramBound is the upper bound of a bucket.
func HistogramBound(i int) time.Duration {
	return time.Duration(float64(histogramFirst) * math.Exp2(float64(i)/4))
}

// HistogramBucket is the number of the bucket that a duration belongs to.
func HistogramBucket(d time.Duration) int {
	if d <= histogramFirst {
		return 0
	}
	return min(int(math.Ceil(4*math.Log2(float64(d)/float64(histogramFirst)))), histogramBuckets-1)
}

// Quantile is the duration that a share q (0 to 1) of all does not exceed, as the upper bound of its bucket; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total int64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return 0
	}
	rank := max(int64(math.Ceil(q*float64(total))), 1)
	for i, n := range h {
		if rank -= n; rank <= 0 {
			return HistogramBound(i)
		}
	}
	return HistogramBound(histogramBuckets - 1)
}
