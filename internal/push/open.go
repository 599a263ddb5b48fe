package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Options say how Open looks for an image.
type Options struct {
	// Platform is the one of several to take, such as "linux/arm64". Empty: all that are there.
	Platform string
	// Stdin is read for the name "-".
	Stdin io.Reader
	// Getenv looks up DOCKER_HOST and XDG_RUNTIME_DIR.
	Getenv func(string) string
}

// Open finds an image. name is, in this order: "-" for a tar stream on standard input; the folder of an OCI layout; a tar
// file as docker save or skopeo make it, also compressed with gzip; or a name in Docker or Podman. A prefix says which:
// oci: docker-archive: oci-archive: docker-daemon: podman:.
func Open(ctx context.Context, name string, o Options) (_ *Source, err error) {
	s := &Source{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	kind, rest, ok := strings.Cut(name, ":")
	if !ok {
		kind, rest = "", name
	}
	switch kind {
	case "oci":
		return s, s.openLayout(rest, o)
	case "docker-archive", "oci-archive":
		return s, s.openFile(rest, o)
	case "docker-daemon":
		return s, s.openDaemon(ctx, rest, o, dockerSockets(o.Getenv))
	case "podman":
		return s, s.openDaemon(ctx, rest, o, podmanSockets(o.Getenv))
	}
	if name == "-" {
		return s, s.openStream(o.Stdin, "standard input", o)
	}
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return s, s.openLayout(name, o)
	case err == nil:
		return s, s.openFile(name, o)
	case strings.HasPrefix(name, "/") || strings.HasPrefix(name, "./") || strings.HasPrefix(name, "../"):
		return s, fmt.Errorf("opening the image: %w", err)
	}
	return s, s.openDaemon(ctx, name, o, append(dockerSockets(o.Getenv), podmanSockets(o.Getenv)...))
}

// openLayout reads the folder of an OCI layout. A name may follow, as skopeo has it: folder:name.
func (s *Source) openLayout(path string, o Options) error {
	dir, ref := path, ""
	if _, err := os.Stat(path); err != nil {
		dir, ref, _ = strings.Cut(path, ":")
	}
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
		return fmt.Errorf("%s is a folder but no OCI layout: it has no file oci-layout", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	s.From = "the OCI layout " + dir
	return s.openOCI(layoutDir{root}, ref, o)
}

// openFile reads a tar file where it lies. A compressed one is unpacked first, because it is read in many places.
func (s *Source) openFile(path string, o Options) error {
	ref := ""
	if _, err := os.Stat(path); err != nil {
		if file, name, ok := strings.Cut(path, ":"); ok {
			path, ref = file, name
		}
	}
	f, err := os.Open(path) //nolint:gosec // the path is the user's
	if err != nil {
		return fmt.Errorf("opening the image: %w", err)
	}
	defer f.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(f, head); err != nil {
		return fmt.Errorf("%s is neither a tar file nor an OCI layout: it is empty", path)
	}
	if head[0] == 0x1f && head[1] == 0x8b {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return s.openStream(f, path, o)
	}
	s.From = "the file " + path
	return s.openTar(path, ref, o)
}

// openStream writes a tar stream, perhaps compressed, to a file of our own and reads that.
func (s *Source) openStream(r io.Reader, from string, o Options) error {
	path, err := s.spool(r)
	if err != nil {
		return fmt.Errorf("reading %s: %w", from, err)
	}
	s.From = from
	return s.openTar(path, "", o)
}
