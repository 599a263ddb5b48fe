package trysail_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

func TestHistogram_BoundsGrowAndHoldWhatTheySay(t *testing.T) {
	buckets := len(trysail.Histogram{})
	for i := 1; i < buckets; i++ {
		if trysail.HistogramBound(i) <= trysail.HistogramBound(i-1) {
			t.Errorf("bound %d is %v, not above %v", i, trysail.HistogramBound(i), trysail.HistogramBound(i-1))
		}
	}
	if first, last := trysail.HistogramBound(0), trysail.HistogramBound(buckets-1); first != 100*time.Microsecond || last < 170*time.Second {
		t.Errorf("the bounds go from %v to %v", first, last)
	}
	for i := range buckets {
		if got := trysail.HistogramBucket(trysail.HistogramBound(i)); got != i {
			t.Errorf("the bound of bucket %d belongs to bucket %d", i, got)
		}
	}
}

func TestHistogram_EveryDurationIsInItsBucket(t *testing.T) {
	last := len(trysail.Histogram{}) - 1
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(math.MinInt64).Draw(t, "duration"))
		i := trysail.HistogramBucket(d)
		if i < 0 || i > last {
			t.Fatalf("bucket %d", i)
		}
		// Bounds are whole nanoseconds, so one that is not whole may lie up to one above.
		if i < last && d > trysail.HistogramBound(i)+1 {
			t.Errorf("%v is above the bound %v of bucket %d", d, trysail.HistogramBound(i), i)
		}
		if i > 0 && d <= trysail.HistogramBound(i-1)-1 {
			t.Errorf("%v is in bucket %d and fits into %d", d, i, i-1)
		}
	})
}

func TestHistogram_QuantilesAreThoseOfTheSamplesRoundedUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := rapid.SliceOfN(rapid.Int64Range(int64(100*time.Microsecond), int64(170*time.Second)), 1, 200).Draw(t, "samples")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		var h trysail.Histogram
		for _, s := range samples {
			h[trysail.HistogramBucket(time.Duration(s))]++
		}
		slices.Sort(samples)
		want := time.Duration(samples[max(int(math.Ceil(q*float64(len(samples)))), 1)-1])
		got := h.Quantile(q)
		if got < want-1 || float64(got) > float64(want)*1.19+1 {
			t.Errorf("quantile %v of %v is %v, want %v to 19 %% more", q, samples, got, want)
		}
	})
}

func TestHistogram_QuantileOfNothingIsZero(t *testing.T) {
	var h trysail.Histogram
	if got := h.Quantile(0.5); got != 0 {
		t.Errorf("got %v", got)
	}
}
