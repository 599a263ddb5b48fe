package corpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/trysail/trysail/test/kit"
)

// World is what the cases run in: a registry with images, registries with faults, and servers.
type World struct {
	window   time.Duration
	registry *kit.Registry
	faults   *faults
	pushed   map[string]func() error // by image, once each

	mu        sync.Mutex // guards what follows
	server    *kit.Server
	smallDisk *kit.Server
	disk      string // mount point of the small disk
}

// Window is the activation window that the broken deployments are made for: most of them wait for its end. It is as short as
// three starts of a program that crashes allow when the machine is busy.
const Window = 40 * time.Second

// smallDiskSize is in bytes. An empty data directory takes a part of it.
const smallDiskSize = 160 << 20

// NewWorld starts what the cases need. window is the servers' activation window: deployments that neither fail for certain
// nor become healthy end with it.
func NewWorld(ctx context.Context, window time.Duration) (*World, error) {
	w := &World{window: window, pushed: map[string]func() error{}}
	var err error
	if w.registry, err = kit.StartSmallRegistry(ctx); err != nil {
		return nil, err
	}
	if w.faults, err = startFaults(ctx, w.registry.Host); err != nil {
		return nil, errors.Join(err, w.Close(ctx))
	}
	for tagged, make := range images() {
		w.pushed[tagged] = sync.OnceValue(func() error { return w.push(ctx, tagged, make) })
	}
	// Cases name tags of this one that are not there.
	if _, err := w.image("misbehave:1"); err != nil {
		return nil, errors.Join(err, w.Close(ctx))
	}
	if w.server, err = kit.StartServer(ctx, kit.ServerOptions{Flags: w.flags()}); err != nil {
		return nil, errors.Join(err, w.Close(ctx))
	}
	if err := login(ctx, w.server, w.faults.hosts["login"]); err != nil {
		return nil, errors.Join(err, w.Close(ctx))
	}
	return w, nil
}

// flags are the server's. Every case has a service of its own, and broken pods need not be drained.
func (w *World) flags() []string {
	return []string{"--activation-timeout", w.window.String(), "--drain-timeout", "2s", "--max-services", "1000"}
}

func (w *World) push(ctx context.Context, tagged string, make func(context.Context) (remote.Taggable, error)) error {
	img, err := make(ctx)
	if err != nil {
		return fmt.Errorf("making %s: %w", tagged, err)
	}
	ref, err := name.NewTag(w.registry.Host+"/"+tagged, name.Insecure)
	if err != nil {
		return err
	}
	if err := remote.Push(ref, img, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s: %w", tagged, err)
	}
	return nil
}

// image is the full name of an image that a case names. It is there afterwards, if it is one of ours.
func (w *World) image(short string) (string, error) {
	if full, ok := strings.CutPrefix(short, "="); ok || strings.HasPrefix(short, ":") {
		return full, nil
	}
	host, tagged := w.registry.Host, short
	if fault, ok := strings.CutPrefix(short, "@"); ok {
		fault, tagged, _ = strings.Cut(fault, "/")
		if host = w.faults.hosts[fault]; host == "" {
			return "", fmt.Errorf("there is no registry with the fault %q", fault)
		}
	}
	if push := w.pushed[tagged]; push != nil {
		if err := push(); err != nil {
			return "", err
		}
	}
	return host + "/" + tagged, nil
}

func login(ctx context.Context, s *kit.Server, host string) error {
	_, err := s.RunInput(ctx, "not the password", "registry", "login", host, "--data-dir", s.DataDir, "-u", "shop", "--password-stdin")
	return err
}

// Server is the one that a case at a place runs on. That with the small disk is started when it is first asked for.
func (w *World) Server(ctx context.Context, at Place) (*kit.Server, error) {
	if at == Shared {
		return w.server, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.smallDisk != nil {
		return w.smallDisk, nil
	}
	dir, err := os.MkdirTemp("", "trysail-disk-")
	if err != nil {
		return nil, fmt.Errorf("making a small disk: %w", err)
	}
	w.disk = filepath.Join(dir, "disk")
	if err := os.Mkdir(w.disk, 0o755); err != nil {
		return nil, fmt.Errorf("making a small disk: %w", err)
	}
	if err := syscall.Mount("tmpfs", w.disk, "tmpfs", 0, fmt.Sprintf("size=%d", int64(smallDiskSize))); err != nil {
		return nil, fmt.Errorf("making a small disk: %w", err)
	}
	s, err := kit.StartServer(ctx, kit.ServerOptions{
		DataDir: filepath.Join(w.disk, "data"), Log: filepath.Join(dir, "server.log"), Flags: w.flags(),
	})
	if err != nil {
		return nil, err
	}
	w.smallDisk = s
	return s, nil
}

// KeepLogs copies the servers' logs for a person to read and returns the folders.
func (w *World) KeepLogs() []string {
	var dirs []string
	for _, s := range []*kit.Server{w.server, w.smallDisk} {
		if s == nil {
			continue
		}
		if dir, err := s.KeepLogs(); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Close ends everything that belongs to the world.
func (w *World) Close(ctx context.Context) error {
	var errs []error
	for _, s := range []*kit.Server{w.server, w.smallDisk} {
		if s != nil {
			errs = append(errs, s.Remove(ctx))
		}
	}
	if w.disk != "" {
		// Remove has emptied it.
		if err := syscall.Unmount(w.disk, 0); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmounting the small disk: %w", err))
		}
		errs = append(errs, os.RemoveAll(filepath.Dir(w.disk)))
	}
	if w.faults != nil {
		w.faults.close()
	}
	if w.registry != nil {
		errs = append(errs, w.registry.Close())
	}
	return errors.Join(errs...)
}

// MachineMemory is how much memory this machine has, in bytes.
func MachineMemory() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
