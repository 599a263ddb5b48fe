package cri

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"github.com/trysail/trysail"
)

// throttling fills in how much the pod was held back by its CPU limit. It leaves out what the kernel does not tell.
func (g *cgroups) throttling(u *trysail.Usage) {
	content, err := os.ReadFile(g.file(u.Pod, "cpu", "cpu.stat"))
	if err != nil {
		return
	}
	readThrottling(content, u)
}

// readThrottling reads cpu.stat: v2 counts microseconds, v1 nanoseconds.
func readThrottling(content []byte, u *trysail.Usage) {
	for line := range bytes.Lines(content) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			continue
		}
		switch string(name) {
		case "nr_periods":
			u.Periods = n
		case "nr_throttled":
			u.ThrottledPeriods = n
		case "throttled_usec":
			u.Throttled = time.Duration(n) * time.Microsecond
		case "throttled_time":
			u.Throttled = time.Duration(n)
		}
	}
}
