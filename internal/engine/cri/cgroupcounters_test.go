package cri

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
)

// fixtureDirs are the counters in testdata/cgroup/<version>.
func fixtureDirs(version int) counterDirs {
	if version == 2 {
		dir := filepath.Join("testdata", "cgroup", "v2")
		return counterDirs{version: 2, memory: dir, cpu: dir, cpuacct: dir, pids: dir}
	}
	dir := filepath.Join("testdata", "cgroup", "v1")
	return counterDirs{
		version: 1, memory: filepath.Join(dir, "memory"), cpu: filepath.Join(dir, "cpu"),
		cpuacct: filepath.Join(dir, "cpuacct"), pids: filepath.Join(dir, "pids"),
	}
}

func TestCounterDirs_ReadBothVersions(t *testing.T) {
	for _, version := range []int{1, 2} {
		got, ok := fixtureDirs(version).read()
		want := trysail.CgroupCounters{
			OOMKills: 3, LimitHits: 9, Memory: 70 << 20, Peak: 128 << 20, Limit: 128 << 20,
			CPU: 2500 * time.Millisecond, Throttled: 1300 * time.Millisecond, Periods: 420, ThrottledPeriods: 17,
			ProcessLimit: 60, ProcessLimitHits: 5,
		}
		if version == 2 {
			want.MemoryStall = 700 * time.Millisecond
		}
		if diff := cmp.Diff(want, got.CgroupCounters); !ok || diff != "" {
			t.Errorf("v%d: %v %s", version, ok, diff)
		}
		if got.files != 40<<20 || got.held != 60<<20 || got.needed() != 88<<20 {
			t.Errorf("v%d: %d of files, %d held, %d needed", version, got.files, got.held, got.needed())
		}
	}
}

func TestCounterDirs_UnderstandNoLimitAndOldKernels(t *testing.T) {
	write := func(dir string, files map[string]string) {
		t.Helper()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	v1, v2 := t.TempDir(), t.TempDir()
	write(v1, map[string]string{"memory.usage_in_bytes": "5000\n", "memory.limit_in_bytes": "9223372036854771712\n", "pids.max": "max\n"})
	write(v2, map[string]string{"memory.current": "5000\n", "memory.max": "max\n", "pids.max": "max\n", "memory.events": "max"})
	for version, dir := range map[int]string{1: v1, 2: v2} {
		got, ok := counterDirs{version: version, memory: dir, cpu: dir, cpuacct: dir, pids: dir}.read()
		if want := (trysail.CgroupCounters{Memory: 5000, Peak: 5000}); !ok || got.CgroupCounters != want {
			t.Errorf("v%d: %+v, %v", version, got, ok)
		}
	}
	if got, ok := (counterDirs{version: 2, memory: filepath.Join(v2, "gone")}).read(); ok {
		t.Errorf("a cgroup that is not there: %+v", got)
	}
	// A kernel that does not count how often the limit of memory and swap is hit.
	write(v1, map[string]string{"memory.limit_in_bytes": "5000", "memory.failcnt": "0", "memory.memsw.failcnt": "0"})
	if got, _ := (counterDirs{version: 1, memory: v1}).read(); got.LimitHits != 1 {
		t.Errorf("the limit was reached: %+v", got)
	}
}

func TestCounters_NeverGoDown(t *testing.T) {
	high, _ := fixtureDirs(2).read()
	low := counters{CgroupCounters: trysail.CgroupCounters{Memory: 1, Limit: 2, ProcessLimit: 3, OOMKills: 1}}
	want := high
	want.Memory, want.Limit, want.ProcessLimit = 1, 2, 3
	got := high
	got.merge(low)
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	low.merge(high)
	if low != high {
		t.Errorf("%+v, want %+v", low, high)
	}
}

// TestCounters_FilesAreNotNeeded: who has read a large file has not used up the memory of the others.
func TestCounters_FilesAreNotNeeded(t *testing.T) {
	var reader counters
	reader.merge(counters{CgroupCounters: trysail.CgroupCounters{Peak: 400 << 20}, files: 390 << 20, held: 10 << 20})
	reader.merge(counters{CgroupCounters: trysail.CgroupCounters{Peak: 400 << 20}, files: 5 << 20, held: 12 << 20}) // the kernel has taken them back
	if got := reader.needed(); got != 12<<20 {
		t.Errorf("the reader of files needed %d", got)
	}
	var quick counters // its growth was between two looks
	quick.merge(counters{CgroupCounters: trysail.CgroupCounters{Peak: 400 << 20}, files: 3 << 20, held: 8 << 20})
	if got := quick.needed(); got != 397<<20 {
		t.Errorf("the eater of memory needed %d", got)
	}
}
