package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/test/kit"
)

// logStore measures, in turns: how fast a container can write lines with Trysail's shim, with containerd's own logs and
// with Docker's json-file driver; and how fast a rare term is found, by Trysail in its archive and by ripgrep in the same
// bytes uncompressed.
func logStore(ctx context.Context, t *table, o options, img images, dir string) error {
	if err := ingestion(ctx, t, o, img, dir); err != nil {
		return err
	}
	return search(ctx, t, o, dir)
}

const floodLines = 1_000_000

func ingestion(ctx context.Context, t *table, o options, img images, dir string) (err error) {
	s, err := kit.StartServer(ctx, kit.ServerOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
	bare, err := newBarePods(ctx, s, img.web)
	if err != nil {
		return err
	}
	defer bare.close()
	var docker *docker
	if o.docker {
		if docker, err = startDocker(ctx, dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench: going on without Docker:", err)
		} else {
			defer func() { err = errors.Join(err, docker.Close(context.WithoutCancel(ctx))) }()
			if err := docker.pull(ctx, img.web); err != nil {
				return err
			}
		}
	}
	var ours, theirs, docked []time.Duration
	for i := range o.logs + 1 { // the first of each is not counted
		a, err := bare.flood(ctx, fmt.Sprintf("shim-%d", i), true)
		if err != nil {
			return err
		}
		b, err := bare.flood(ctx, fmt.Sprintf("cri-%d", i), false)
		if err != nil {
			return err
		}
		var k time.Duration
		if docker != nil {
			if k, err = docker.flood(ctx, img.web); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "run %d: a million lines to the shim %s, to containerd %s, to docker %s\n", i, millis(a), millis(b), millis(k))
		if i == 0 {
			continue
		}
		ours, theirs, docked = append(ours, a), append(theirs, b), append(docked, k)
	}
	t.add("a container writes a million lines, Trysail's log", spread(ours), perSecond(ours))
	t.add("… containerd's own log", spread(theirs), "speed: "+ratio(theirs, ours, "–"))
	if docker != nil {
		t.add("… Docker's json-file", spread(docked), "speed: "+ratio(docked, ours, "≥ 2"))
	}
	return nil
}

func perSecond(all []time.Duration) string {
	mid, _, _ := median(all)
	return fmt.Sprintf("%.0f lines/s", floodLines/mid.Seconds())
}

// flood returns how long a container took to write a million lines, as it says itself in the last of them.
func (b *barePods) flood(ctx context.Context, name string, shim bool) (took time.Duration, err error) {
	dir := filepath.Join(b.logs, "bench", name)
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "bench"}, Hostname: name, LogDirectory: dir,
		Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	pod, err := b.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		return 0, fmt.Errorf("starting a bare pod: %w", err)
	}
	defer func() {
		_, stop := b.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		_, remove := b.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		err = errors.Join(err, stop, remove, os.RemoveAll(dir))
	}()
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "web"},
		Image:    &runtimeapi.ImageSpec{Image: b.image},
		Envs:     []*runtimeapi.KeyValue{{Key: "LOG_LINES", Value: []byte(strconv.Itoa(floodLines))}},
	}
	if shim {
		config.Annotations = map[string]string{"trysail.log-path": filepath.Join(dir, "web.log")}
	} else {
		config.LogPath = "web.log"
	}
	c, err := b.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return 0, fmt.Errorf("creating a container in a bare pod: %w", err)
	}
	if _, err := b.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return 0, fmt.Errorf("starting the container of a bare pod: %w", err)
	}
	store := logs.New(b.logs)
	err = kit.Until(ctx, 2*time.Minute, func() error {
		tail, err := store.Tail("bench", name, "web", 3)
		if err != nil {
			return err
		}
		took, err = floodTime(tail)
		return err
	})
	return took, err
}

// flood is the same with Docker.
func (d *docker) flood(ctx context.Context, image string) (took time.Duration, err error) {
	id, err := d.Run(ctx, "run", "--detach", "--env", "LOG_LINES="+strconv.Itoa(floodLines), image)
	if err != nil {
		return 0, err
	}
	err = kit.Until(ctx, 2*time.Minute, func() error {
		tail, err := d.Run(ctx, "logs", "--tail", "3", id)
		if err != nil {
			return err
		}
		took, err = floodTime(strings.Split(tail, "\n"))
		return err
	})
	_, rerr := d.Run(ctx, "rm", "--force", id)
	return took, errors.Join(err, rerr)
}

func floodTime(lines []string) (time.Duration, error) {
	for _, l := range lines {
		if took, ok := strings.CutPrefix(strings.TrimSpace(l), "flood "); ok {
			return time.ParseDuration(took)
		}
	}
	return 0, errors.New("the container still writes")
}

// rareTerm is in one line.
const rareTerm = "OutOfCheeseError"

func search(ctx context.Context, t *table, o options, dir string) error {
	store := logs.New(filepath.Join(dir, "logs"))
	raw := filepath.Join(dir, "raw.log")
	if err := writeLogs(store.PodDir("bench", "pod"), raw, o.logBytes); err != nil {
		return err
	}
	keeping, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		store.Keep(keeping, 0)
	}()
	began := time.Now()
	err := kit.Until(ctx, 10*time.Minute, func() error {
		if plain, _ := filepath.Glob(filepath.Join(store.PodDir("bench", "pod"), "*.log")); len(plain) > 1 {
			return fmt.Errorf("%d files are not archived", len(plain))
		}
		return nil
	})
	took := time.Since(began)
	stop()
	<-done
	if err != nil {
		return err
	}
	var size int64
	files, err := filepath.Glob(filepath.Join(store.PodDir("bench", "pod"), "*.zst"))
	if err != nil {
		return err
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		size += info.Size()
	}
	t.add("archiving of the logs, at half of a CPU", fmt.Sprintf("%.0f MB/s", float64(o.logBytes)/1e6/took.Seconds()), "")
	t.add("size of the archive", fmt.Sprintf("%.0f MB", float64(size)/1e6), fmt.Sprintf("%.2f of raw (aim ≤ 0.2)", float64(size)/float64(o.logBytes)))

	rg, err := exec.LookPath("rg")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: going on without ripgrep:", err)
	}
	for _, term := range []string{rareTerm, "never-there", "cheese"} {
		if err := searchFor(ctx, t, o, store, rg, raw, term); err != nil {
			return err
		}
	}
	return nil
}

func searchFor(ctx context.Context, t *table, o options, store *logs.Store, rg, raw, term string) error {
	filter, err := logs.ParseFilter(term)
	if err != nil {
		return err
	}
	var ours, theirs []time.Duration
	for i := range o.logs + 1 {
		began := time.Now()
		found := 0
		for q := (logs.Query{ServiceID: "bench", Container: "web", Filter: filter}); ; {
			events, next, err := store.Query(ctx, q)
			if err != nil {
				return err
			}
			found += len(events)
			if q.Token = next; next == "" {
				break
			}
		}
		a := time.Since(began)
		var b time.Duration
		if rg != "" {
			began = time.Now()
			out, err := exec.CommandContext(ctx, rg, "--fixed-strings", "--text", "--no-line-number", term, raw).Output()
			if _, none := errors.AsType[*exec.ExitError](err); err != nil && !none {
				return err
			}
			b = time.Since(began)
			if n := strings.Count(string(out), "\n"); n != found {
				return fmt.Errorf("%q: Trysail found %d lines, ripgrep %d", term, found, n)
			}
		}
		fmt.Fprintf(os.Stderr, "run %d: search for %s %s, ripgrep %s\n", i, term, millis(a), millis(b))
		if i > 0 {
			ours, theirs = append(ours, a), append(theirs, b)
		}
	}
	note := ""
	if rg != "" {
		note = fmt.Sprintf("ripgrep %s; %s", spread(theirs), ratio(ours, theirs, "≤ 1.5"))
	}
	t.add(fmt.Sprintf("search of %d MB for %q", o.logBytes/1_000_000, term), spread(ours), note)
	return nil
}

// writeLogs writes the same records as segments of a log and as one file.
func writeLogs(dir, raw string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	all, err := os.Create(raw)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(all, 1<<20)
	lines := kit.NewLogLines(7)
	at := time.Now().Add(-24 * time.Hour).UTC()
	var record []byte
	written := int64(0)
	for n := 0; written < size; n++ {
		name := "web.log"
		if n > 0 {
			name = fmt.Sprintf("web.%d.log", n)
		}
		var segment []byte
		for len(segment) < 16<<20 && written < size {
			at = at.Add(10 * time.Millisecond)
			record = at.AppendFormat(record[:0], "2006-01-02T15:04:05.000000000Z")
			record = append(record, " stdout F "...)
			record = lines.Append(record)
			if written < size*6/10 && written+200 >= size*6/10 {
				record = append(record, (" error=" + rareTerm)...)
			}
			record = append(record, '\n')
			segment = append(segment, record...)
			written += int64(len(record))
		}
		if err := os.WriteFile(filepath.Join(dir, name), segment, 0o600); err != nil {
			return errors.Join(err, all.Close())
		}
		if _, err := w.Write(segment); err != nil {
			return errors.Join(err, all.Close())
		}
		if written >= size { // the last one is closed by an empty one that follows
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("web.%d.log", n+1)), nil, 0o600)
		}
	}
	return errors.Join(err, w.Flush(), all.Close())
}
