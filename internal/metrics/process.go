package metrics

import (
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
)

// goFamilies reads what the Go runtime offers without stopping the program.
func goFamilies() []Family {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(samples)
	value := func(i int) float64 {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a later Go may drop a name
		}
		return float64(samples[i].Value.Uint64())
	}
	return []Family{
		One("go_goroutines", "Number of goroutines that currently exist.", Gauge, float64(runtime.NumGoroutine())),
		One("go_memstats_alloc_bytes", "Number of bytes allocated in heap and currently in use.", Gauge, value(0)),
		One("go_memstats_sys_bytes", "Number of bytes obtained from system.", Gauge, value(1)),
		One("go_gc_cycles_total", "Number of completed garbage collections.", Counter, value(2)),
	}
}

// processFamilies reads what the kernel knows of this process. What cannot be read is left out.
func processFamilies() []Family {
	var families []Family
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err == nil {
		seconds := float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
		families = append(families, One("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", Counter, seconds))
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			pages, _ := strconv.ParseFloat(fields[1], 64) // the kernel writes numbers
			families = append(families, One("process_resident_memory_bytes", "Resident memory size in bytes.", Gauge, pages*pageSize()))
		}
	}
	if d, err := os.Open("/proc/self/fd"); err == nil {
		names, _ := d.Readdirnames(-1) // as many as there are
		_ = d.Close()
		families = append(families, One("process_open_fds", "Number of open file descriptors.", Gauge, float64(len(names))))
	}
	return families
}
