package cri_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/enginetest"
	"github.com/trysail/trysail/internal/logs"
)

// TestEngine_LosesNoLineOfAStorm lets a container write about 200 MB in bursts while containerd and the process that
// holds the engine are killed again and again, and while what was written is archived. Every line must be there, once,
// in order, byte for byte.
func TestEngine_LosesNoLineOfAStorm(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	store := logs.New(t.TempDir())
	const lines = 1_000_000
	spec := podSpec("storm", images.program, fmt.Sprint("storm ", lines), "serve 8080")
	spec.LogDir = store.PodDir("svc", "storm")
	r.start(spec)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { store.Keep(ctx, 0) })
	var out, err storm
	var cursor logs.Cursor
	read := func() {
		t.Helper()
		for l, e := range store.Lines(t.Context(), logs.Selection{ServiceID: "svc", Container: "a"}, &cursor) {
			if e != nil {
				t.Fatal(e)
			}
			if l.Stderr {
				err.add(t, l.Text, fmt.Appendf(nil, "storm err %d", err.n))
			} else if out.n == lines {
				out.add(t, l.Text, []byte("no newline"))
			} else {
				out.add(t, l.Text, enginetest.Storm(out.n))
			}
		}
	}
	kills := 0
	for out.n < lines/2 || kills < 4 {
		read()
		daemon := r.daemonPID()
		if e := syscall.Kill(daemon, syscall.SIGKILL); e != nil {
			t.Fatal(e)
		}
		kills++
		r.wait("containerd is back", func() bool { return r.engine.Check(t.Context()) == nil && r.daemonPID() != daemon })
	}
	r.close()
	helper := r.helper("")
	if e := helper.Process.Kill(); e != nil {
		t.Fatal(e)
	}
	_ = helper.Wait()
	r.open()
	r.wait("the container ends", func() bool {
		p := r.pod(spec.ID)
		return len(p.Containers) == 2 && p.Containers[0].State == trysail.ContainerExited
	})
	read()
	if out.n != lines+1 || err.n != lines/1000 {
		t.Errorf("%d lines and %d of standard error, want %d and %d", out.n, err.n, lines+1, lines/1000)
	}
	segments, _ := filepath.Glob(filepath.Join(spec.LogDir, "a.*"))
	t.Logf("%d kills of containerd, %d files", kills, len(segments))
	if len(segments) < 3 {
		t.Errorf("files %v, want several", segments)
	}
	var again logs.Cursor
	out, err = storm{}, storm{}
	cursor = again
	if _, e := r.engine.Stop(t.Context(), spec.ID, time.Second); e != nil {
		t.Fatal(e)
	}
	read() // from the begin, when nothing is written any more
	if out.n != lines+1 || err.n != lines/1000 {
		t.Errorf("again: %d lines and %d of standard error, want %d and %d", out.n, err.n, lines+1, lines/1000)
	}
}

// storm counts the lines of a stream.
type storm struct{ n int }

func (s *storm) add(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("line %d is %.80q (%d bytes), want %.80q (%d bytes)", s.n, got, len(got), want, len(want))
	}
	s.n++
}
