package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is an image registry on a loopback port.
type Registry struct {
	// Host is its address, as it stands at the beginning of an image name: "127.0.0.1:41234".
	Host  string
	close func() error
}

// StartRegistry starts Debian's docker-registry with its data below dir.
func StartRegistry(ctx context.Context, dir string) (*Registry, error) {
	deb, err := openDebian()
	if err != nil {
		return nil, err
	}
	program, err := deb.file("/usr/bin/docker-registry")
	if err != nil {
		return nil, err
	}
	host, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n",
		filepath.Join(dir, "data"), host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	logFile, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(program, "serve", config)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}
	diesWithUs(cmd)
	p, err := startProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	r := &Registry{Host: host, close: p.kill}
	err = Until(ctx, 20*time.Second, func() error {
		if p.ended() {
			return fmt.Errorf("the registry ended, see %s", logFile.Name())
		}
		return get(ctx, "http://"+host+"/v2/")
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for the registry: %w", errorsJoin(err, r.Close()))
	}
	return r, nil
}

// StartSmallRegistry starts a registry inside this process that keeps everything in memory. It needs no package.
func StartSmallRegistry(ctx context.Context) (*Registry, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	srv := &http.Server{
		Handler:           registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug))),
		ReadHeaderTimeout: time.Minute,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	return &Registry{Host: ln.Addr().String(), close: func() error {
		err := srv.Close()
		if end := <-done; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}}, nil
}

// Push stores the image under repository:tag, such as "web:1", and returns the full name of it.
func (r *Registry) Push(ctx context.Context, tagged string, img v1.Image) (string, error) {
	ref, err := name.NewTag(r.Host+"/"+tagged, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("pushing %s: %w", tagged, err)
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("pushing %s: %w", tagged, err)
	}
	return r.Host + "/" + tagged, nil
}

// Close ends the registry.
func (r *Registry) Close() error { return r.close() }

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("%s answered %s: %s", url, resp.Status, body)
	}
	return nil
}
