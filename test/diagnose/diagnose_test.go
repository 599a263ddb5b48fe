//go:build e2e

package main

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/trysail/trysail/test/broken"
	"github.com/trysail/trysail/test/corpus"
	"github.com/trysail/trysail/test/healthy"
)

// TestVerdicts_AreRight runs the cases that are decided in seconds. make diagnose runs all.
func TestVerdicts_AreRight(t *testing.T) {
	world, err := corpus.NewWorld(t.Context(), healthyWindow)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the servers' logs are kept in %s", world.KeepLogs())
		}
		if err := world.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	slow := func(c corpus.Case) bool { return !c.Quick || c.Place != corpus.Shared }
	cases := slices.DeleteFunc(append(broken.Cases(), healthy.Cases()...), slow)
	results := world.RunAll(t.Context(), cases, defaultParallel, func(r corpus.Result) {
		switch {
		case r.OK():
		case r.Case.Miss != "":
			t.Logf("a known miss (%s):\n%s", r.Case.Miss, r.Describe())
		default:
			t.Error(r.Describe())
		}
	})
	corpus.Print(os.Stderr, results)
}
