package kit

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is one file of an image.
type File struct {
	Mode int64 // permission bits
	Data []byte
	Link string // a symbolic link's target; Mode and Data do not count then
}

// Web is the image of test/programs/web for this machine: it listens on 8080 and answers its version.
func Web(ctx context.Context, version string) (v1.Image, error) {
	return WebFor(ctx, version, runtime.GOARCH)
}

// WebFor is Web for the machines of arch, a GOARCH.
func WebFor(ctx context.Context, version, arch string) (v1.Image, error) {
	return programImage(ctx, "web", arch, v1.Config{
		Env:          []string{"PATH=/", "VERSION=" + version},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	})
}

// Pause is the image of test/programs/pause.
func Pause(ctx context.Context) (v1.Image, error) {
	return programImage(ctx, "pause", runtime.GOARCH, v1.Config{})
}

// programImage is an image of one of test/programs alone.
func programImage(ctx context.Context, name, arch string, config v1.Config) (v1.Image, error) {
	program, err := Program(ctx, name, arch)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("reading a test program: %w", err)
	}
	config.Entrypoint = []string{"/" + name}
	return BuildImage(arch, config, map[string]File{"/" + name: {Mode: 0o755, Data: data}})
}

// Nginx is Debian's nginx: it listens on 80 in the foreground and serves page. It logs to standard output and error,
// as the well-known image does.
func Nginx(page string) (v1.Image, error) {
	deb, err := openDebian()
	if err != nil {
		return nil, err
	}
	files, err := deb.load("/usr/sbin/nginx")
	if err != nil {
		return nil, err
	}
	mime, err := deb.file("/etc/nginx/mime.types")
	if err != nil {
		return nil, err
	}
	types, err := os.ReadFile(mime)
	if err != nil {
		return nil, fmt.Errorf("reading nginx's MIME types: %w", err)
	}
	maps.Copy(files, map[string]File{
		"/etc/nginx/mime.types": {Mode: 0o644, Data: types},
		"/etc/nginx/nginx.conf": {Mode: 0o644, Data: []byte(nginxConf)},
		"/etc/passwd":           {Mode: 0o644, Data: []byte("root:x:0:0:root:/:/none\nwww-data:x:33:33:www-data:/:/none\n")},
		"/etc/group":            {Mode: 0o644, Data: []byte("root:x:0:\nwww-data:x:33:\n")},
		"/srv/www/index.html":   {Mode: 0o644, Data: []byte(page)},
		"/var/lib/nginx/":       {Mode: 0o755},
		"/var/log/nginx/":       {Mode: 0o755},
		"/run/":                 {Mode: 0o755},
		"/tmp/":                 {Mode: 0o1777},
	})
	return BuildImage(runtime.GOARCH, v1.Config{
		Entrypoint:   []string{"/usr/sbin/nginx"},
		Cmd:          []string{"-g", "daemon off;"},
		Env:          []string{"PATH=/usr/sbin:/usr/bin"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		StopSignal:   "SIGQUIT", // nginx ends gently on QUIT and at once on TERM
	}, files)
}

const nginxConf = `user www-data;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
	include mime.types;
	access_log /dev/stdout;
	server {
		listen 80;
		root /srv/www;
		location = /health { access_log off; return 200 "ok\n"; }
	}
}
`

// Redis is Debian's Redis server. It listens on all addresses of its pod, 6379, and keeps nothing on disk.
func Redis() (v1.Image, error) {
	deb, err := openDebian()
	if err != nil {
		return nil, err
	}
	// The server is a link to the checker: one program that looks at the name it is called by.
	files, err := deb.load("/usr/bin/redis-check-rdb", "/usr/bin/redis-cli")
	if err != nil {
		return nil, err
	}
	files["/usr/bin/redis-server"] = files["/usr/bin/redis-check-rdb"]
	delete(files, "/usr/bin/redis-check-rdb")
	files["/data/"] = File{Mode: 0o755}
	return BuildImage(runtime.GOARCH, v1.Config{
		Entrypoint:   []string{"/usr/bin/redis-server"},
		Cmd:          []string{"--save", "", "--appendonly", "no", "--protected-mode", "no"},
		Env:          []string{"PATH=/usr/bin"},
		ExposedPorts: map[string]struct{}{"6379/tcp": {}},
		WorkingDir:   "/data",
	}, files)
}

// NoProgram is an image whose entrypoint does not exist.
func NoProgram() (v1.Image, error) {
	return BuildImage(runtime.GOARCH, v1.Config{Entrypoint: []string{"/app/server"}}, map[string]File{"/README": {Mode: 0o644, Data: []byte("nothing to run\n")}})
}

// load is program with the files' bytes.
func (d debian) load(names ...string) (map[string]File, error) {
	paths, err := d.program(names...)
	if err != nil {
		return nil, err
	}
	files := make(map[string]File, len(paths))
	for name, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading a Debian program: %w", err)
		}
		files[name] = File{Mode: 0o755, Data: data}
	}
	return files, nil
}

// BuildImage makes an image of one layer for the machines of arch, a GOARCH. A name that ends with a slash is a folder. The same
// input gives the same digest.
func BuildImage(arch string, config v1.Config, files map[string]File) (v1.Image, error) {
	layer, err := layerOf(files)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	return img, nil
}

func layerOf(files map[string]File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := addParents(w, made, path.Dir(strings.TrimSuffix(name, "/"))); err != nil {
			return nil, err
		}
		f := files[name]
		h := &tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			made[dir] = true
			h.Typeflag = tar.TypeDir
		}
		if f.Link != "" {
			h.Typeflag, h.Linkname, h.Size, f.Data = tar.TypeSymlink, f.Link, 0, nil
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("writing a layer: %w", err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("writing a layer: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("writing a layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	return layer, nil
}

func addParents(w *tar.Writer, made map[string]bool, dir string) error {
	if dir == "/" || dir == "." || made[dir] {
		return nil
	}
	if err := addParents(w, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	h := &tar.Header{Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755, Typeflag: tar.TypeDir}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("writing a layer: %w", err)
	}
	return nil
}
