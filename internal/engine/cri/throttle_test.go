package cri

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
)

func TestUsage_ReadsThrottlingOfBothVersions(t *testing.T) {
	want := trysail.Usage{Periods: 40, ThrottledPeriods: 7, Throttled: 1500 * time.Microsecond}
	for name, text := range map[string]string{
		"v1": "nr_periods 40\nnr_throttled 7\nthrottled_time 1500000\n",
		"v2": "usage_usec 99\nuser_usec 50\nsystem_usec 49\nnr_periods 40\nnr_throttled 7\nthrottled_usec 1500\nnr_bursts 0\n",
	} {
		var got trysail.Usage
		readThrottling([]byte(text), &got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
