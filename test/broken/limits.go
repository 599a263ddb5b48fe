package broken

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/trysail/trysail/test/corpus"
)

func saying(code int, lines ...string) (steps []string) {
	for _, l := range lines {
		steps = append(steps, "cry "+l)
	}
	return append(steps, fmt.Sprint("exit ", code))
}

// limits are programs that meet the limits of their pod.
func limits() []corpus.Case {
	return []corpus.Case{
		{Name: "mem-oom", Deployment: corpus.Web("say loading the model", "alloc 700", "serve"), Code: "MEM-OOM", Says: "512 MB", Fix: "micro", Confidence: certain, Quick: true},
		{Name: "mem-oom-child", Deployment: corpus.Web("child", "alloc 700"), Code: "MEM-OOM", Says: "child process", Fix: "micro"},
		{Name: "mem-oom-python", Deployment: corpus.WebImage("python:1", "x = []\nwhile True:\n  x.append(bytearray(8 << 20))"), Code: "MEM-OOM", Says: "512 MB", Confidence: certain},
		{
			Name: "mem-oom-node", Deployment: corpus.WebImage("node:1", "--max-old-space-size=24", "-e", "const x = []; for (;;) x.push(new Array(1000).fill({}).map(() => ({a: 1})))"),
			Code: "MEM-OOM", Fix: "--max-old-space-size", Confidence: likely,
		},
		{Name: "mem-oom-java", Deployment: said(3, "Exception in thread \"main\" java.lang.OutOfMemoryError: Java heap space", "\tat com.example.Cache.load(Cache.java:17)"), Code: "MEM-OOM", Fix: "MaxRAMPercentage", Confidence: likely},
		{
			Name: "mem-sibling", Deployment: corpus.Web("alloc 60", "sleep 20s", "serve").With("model", corpus.Steps("crowd 30", "alloc 16")),
			Container: "model", Code: "MEM-SIBLING", Says: "model", Confidence: certain,
		},
		{Name: "cpu-throttle", Deployment: corpus.Web("say compiling the templates", "burn 1h", "serve"), Code: "CPU-THROTTLE", Fix: "power", Confidence: likely},
		{Name: "pids", Deployment: corpus.WebImage("python:1", pythonThreads), Code: "PIDS", Says: "4096", Fix: "fewer", Confidence: certain},
		{Name: "pids-go", Deployment: corpus.Web("threads 6000", "serve"), Code: "PIDS", Says: "4096", Fix: "fewer"},
		{Name: "files", Deployment: corpus.Web("files 256", "serve"), Code: "FILES", Says: "256", Confidence: certain},
		{Name: "fs-ro", Deployment: corpus.Web("write /proc/sys/kernel/hostname", "serve"), Code: "FS-RO", Says: "/proc/sys/kernel/hostname", Confidence: likely, Quick: true},
		{Name: "fs-denied", Deployment: corpus.WebImage("readonly:1", "write /data/shop.db", "serve"), Code: "FS-RO", Says: "/data/shop.db", Fix: "chown", Confidence: likely},
		{Name: "fs-full-shm", Deployment: corpus.Web("fill /dev/shm/cache", "serve"), Code: "FS-FULL", Says: "/dev/shm/cache", Confidence: likely},
		{Name: "fs-full", Deployment: corpus.Web("reserve /tmp/journal 300", "serve"), Place: corpus.SmallDisk, Code: "FS-FULL", Says: "/tmp/journal"},
		{Name: "fs-full-to-the-brim", Deployment: corpus.Web("fill /tmp/cache", "serve"), Place: corpus.SmallDisk, Last: true, Code: "FS-FULL", Says: "disk is full", Act: freeDisk},
	}
}

// freeDisk waits for the verdict, and if there is none, for a person who makes room on the disk after each start.
func freeDisk(ctx context.Context, r *corpus.Run) error {
	var err error
	for {
		patience, cancel := context.WithTimeout(ctx, 30*time.Second)
		again := repeat(patience, r, func() error { return nil })
		cancel()
		if again == nil || ctx.Err() != nil {
			return err
		}
		err = fmt.Errorf("there is no verdict while the disk is full: %w", again)
		files, _ := filepath.Glob(filepath.Join(r.On.DataDir, "engine", "data", "*overlayfs", "snapshots", "*", "fs", "tmp", "cache"))
		for _, path := range files {
			err = errors.Join(err, os.Truncate(path, 0), os.Remove(path))
		}
	}
}

const pythonThreads = "import threading, time\nthreading.stack_size(64 << 10)\nfor _ in range(6000):\n  threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()"

// dependencies are programs that need something that is not there.
func dependencies() []corpus.Case {
	return []corpus.Case{
		{Name: "dep-refused", Deployment: corpus.Web("sleep 300ms", "dial other-shop.service.local:5432", "serve"), Code: "DEP-DOWN", Says: "other-shop.service.local", Quick: true},
		{Name: "dep-name", Deployment: corpus.Web("dial db:5432", "serve"), Code: "DEP-DOWN", Says: "db", Fix: "service.local"},
		{Name: "dep-closed", Deployment: corpus.Web("dial 192.0.2.1:5432", "serve"), Code: "DEP-DOWN", Says: "192.0.2.1:5432"},
		{Name: "dep-retry", Deployment: corpus.Web("retry db.internal.invalid:5432", "serve"), Code: "DEP-DOWN", Says: "db.internal.invalid"},
		{Name: "dep-python", Deployment: corpus.WebImage("python:1", "import socket\nsocket.create_connection(('db.internal.invalid', 5432), 5)"), Code: "DEP-DOWN", Confidence: likely},
		{Name: "dep-node", Deployment: corpus.WebImage("node:1", "-e", "require('net').connect(5432, '127.0.0.1')"), Code: "DEP-LOCAL", Says: "5432", Confidence: certain, Quick: true},
		{Name: "dep-local", Deployment: corpus.Web("dial 127.0.0.1:6379", "serve"), Code: "DEP-LOCAL", Says: "6379", Fix: "service.local", Confidence: certain, Quick: true},
		{Name: "dep-sibling", Deployment: corpus.Web("sleep 300ms", "dial 127.0.0.1:6379", "serve").With("cache", corpus.Container{
			Image: "misbehave:1", Command: []string{"sleep 1h"}, Ports: map[string]string{"6379": "TCP"},
		}), Code: "DEP-DOWN", Says: "cache", Fix: "cache", Confidence: likely},
	}
}
