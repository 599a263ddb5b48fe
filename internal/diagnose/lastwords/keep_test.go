package lastwords

import (
	"fmt"
	"strings"
	"testing"
)

func TestKeep_HasTheBeginningOfALongDump(t *testing.T) {
	lines := []string{"listening on :8080", "panic: assignment to entry in nil map", "", "goroutine 1 [running]:", "main.(*cart).add(...)", "\t/src/shop/cart.go:17"}
	for i := range 300 {
		lines = append(lines, "", fmt.Sprintf("goroutine %d [select]:", i+2), "net/http.(*conn).serve()", "\t/usr/local/go/src/net/http/server.go:2102 +0x5")
	}
	kept := Keep(lines, 50)
	if len(kept) > 50 {
		t.Fatalf("%d lines are kept, want at most 50", len(kept))
	}
	words := Extract(kept)
	if !words.Told || words.Sentence != lines[1] || words.Where != "cart.go:17" {
		t.Errorf("the words are %+v", words)
	}
	if kept[0] != lines[0] || kept[len(kept)-1] != lines[len(lines)-1] || !strings.Contains(strings.Join(kept, "\n"), "[1170 lines left out]") {
		t.Errorf("kept:\n%s", strings.Join(kept, "\n"))
	}
}

func TestKeep_HasTheNewestLinesOtherwise(t *testing.T) {
	var lines []string
	for i := range 60 {
		lines = append(lines, fmt.Sprint("line ", i))
	}
	lines[30] = "panic: within the newest"
	for _, most := range []int{50, 60, 70} {
		kept := Keep(lines, most)
		if len(kept) != min(most, 60) || kept[len(kept)-1] != "line 59" || kept[0] != lines[60-len(kept)] {
			t.Errorf("of 60 lines %d are kept, from %q", len(kept), kept[0])
		}
	}
}
