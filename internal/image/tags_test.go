package image

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestNewest_ComparesVersions(t *testing.T) {
	tags := []string{"1.9", "main", "1.10", "latest", "1.10.1", "v2", "1.10-alpine", "007", "08"}
	want := []string{"latest", "08", "007", "1.10.1", "1.10-alpine", "1.10", "1.9", "v2", "main"}
	if diff := cmp.Diff(want, newest(tags, len(tags))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:2], newest(tags, 2)); diff != "" {
		t.Errorf("the first two (-want +got):\n%s", diff)
	}
}

func TestCompareNatural_IsAnOrder(t *testing.T) {
	tag := rapid.StringMatching(`[a-c0-2.-]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := tag.Draw(t, "a"), tag.Draw(t, "b"), tag.Draw(t, "c")
		ab, ba := compareNatural(a, b), compareNatural(b, a)
		if (ab < 0) != (ba > 0) || (ab == 0) != (ba == 0) {
			t.Fatalf("%q against %q: %d and %d", a, b, ab, ba)
		}
		if ab <= 0 && compareNatural(b, c) <= 0 && compareNatural(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q, but not %q <= %q", a, b, c, a, c)
		}
	})
}

func TestDistance_OneEditIsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.StringMatching(`[a-z0-9.]{1,12}`).Draw(t, "a")
		i := rapid.IntRange(0, len(a)-1).Draw(t, "i")
		for _, b := range []string{a[:i] + a[i+1:], a[:i] + "X" + a[i:], a[:i] + "X" + a[i+1:]} {
			if d := distance(a, b, 100); d != 1 {
				t.Fatalf("%q to %q: %d", a, b, d)
			}
		}
		if swapped := "XY" + a; distance(swapped, "YX"+a, 100) != 1 {
			t.Fatalf("swapped in %q: %d", swapped, distance(swapped, "YX"+a, 100))
		}
		if d := distance(a, a, 100); d != 0 {
			t.Fatalf("%q to itself: %d", a, d)
		}
	})
}
