package autopsy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLayers is how many layers an image may have; overlayfs takes 500.
const maxLayers = 512

// layer is one layer of an image. Names are valid for package fs; one whose directory is a symbolic link is not found.
type layer interface {
	io.Closer
	// lstat describes a file. One that was removed is a character device with the number 0/0.
	lstat(name string) (fs.FileInfo, error)
	readlink(name string) (string, error)
	open(name string) (fs.File, error) // a regular file
	// readDir lists a directory, at most n entries if n is positive.
	readDir(name string, n int) ([]fs.DirEntry, error)
	// isOpaque reports whether a directory hides those of the same name below it.
	isOpaque(dir string) bool
}

// Layered is the file system of an image as overlayfs shows it, read from the layers without mounting anything.
// Its methods are safe for concurrent use.
type Layered struct {
	layers []layer // topmost first
}

var _ Root = (*Layered)(nil)

// Layers opens the layers of an image: the lower directories of an overlayfs, topmost first, or the one directory of
// another snapshotter. Whiteouts and opaque directories are honoured. Nothing outside the directories can be reached.
func Layers(dirs []string) (*Layered, error) {
	if len(dirs) == 0 || len(dirs) > maxLayers {
		return nil, fmt.Errorf("an image with %d layers", len(dirs))
	}
	l := &Layered{}
	for _, dir := range dirs {
		root, err := os.OpenRoot(dir)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("opening a layer: %w", err)
		}
		l.layers = append(l.layers, dirLayer{root})
	}
	return l, nil
}

// Close closes the layers.
func (l *Layered) Close() error {
	var errs []error
	for _, r := range l.layers {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// find returns the layers that show name: one for anything but a directory, all that are merged for a directory.
func (l *Layered) find(name string) (layers []layer, info fs.FileInfo, err error) {
	if !fs.ValidPath(name) {
		return nil, nil, fs.ErrInvalid
	}
	layers = l.layers
	if info, err = layers[0].lstat("."); err != nil || name == "." {
		return layers, info, err
	}
	at := ""
	for element := range strings.SplitSeq(name, "/") {
		if !info.IsDir() {
			return nil, nil, fs.ErrNotExist
		}
		at = path.Join(at, element)
		if layers, info, err = step(layers, at); err != nil {
			return nil, nil, err
		}
	}
	return layers, info, nil
}

// step looks name up in layers, all of which have its directory.
func step(layers []layer, name string) (found []layer, first fs.FileInfo, err error) {
	for _, l := range layers {
		info, err := l.lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			continue
		case err != nil:
			return nil, nil, err
		}
		if isWhiteout(info) || first != nil && !info.IsDir() {
			break // what is below is hidden
		}
		found = append(found, l)
		if first == nil {
			first = info
		}
		if !info.IsDir() || l.isOpaque(name) {
			break
		}
	}
	if first == nil {
		return nil, nil, fs.ErrNotExist
	}
	return found, first, nil
}

// isWhiteout recognizes the mark of a file that was removed: a character device with the number 0/0.
func isWhiteout(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && s.Rdev == 0
}

// Lstat implements fs.ReadLinkFS.
func (l *Layered) Lstat(name string) (fs.FileInfo, error) {
	_, info, err := l.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return info, nil
}

// ReadLink implements fs.ReadLinkFS.
func (l *Layered) ReadLink(name string) (string, error) {
	layers, _, err := l.find(name)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return layers[0].readlink(name)
}

// Open implements fs.FS. It opens nothing but regular files and directories.
func (l *Layered) Open(name string) (fs.File, error) {
	layers, info, err := l.find(name)
	switch {
	case err != nil:
	case info.IsDir():
		return &mergedDir{info: info, name: name, layers: layers}, nil
	case !info.Mode().IsRegular():
		err = fmt.Errorf("a %s", kindOf(info))
	default:
		return layers[0].open(name)
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// mergedDir is a directory that several layers make up.
type mergedDir struct {
	info   fs.FileInfo
	name   string
	layers []layer
}

func (d *mergedDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *mergedDir) Close() error               { return nil }
func (d *mergedDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// ReadDir lists the directory from its beginning, at most n entries if n is positive.
func (d *mergedDir) ReadDir(n int) ([]fs.DirEntry, error) {
	var all []fs.DirEntry
	seen := map[string]bool{}
	for _, l := range d.layers {
		entries, err := l.readDir(d.name, n)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			if e.Type()&fs.ModeCharDevice != 0 {
				if info, err := e.Info(); err != nil || isWhiteout(info) {
					continue
				}
			}
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	if n > 0 && len(all) > n {
		all = all[:n]
	}
	return all, nil
}

// dirLayer is a layer that has been unpacked into a directory, in the form of overlayfs.
type dirLayer struct{ root *os.Root }

func (l dirLayer) Close() error                           { return l.root.Close() }
func (l dirLayer) lstat(name string) (fs.FileInfo, error) { return l.root.Lstat(name) }
func (l dirLayer) readlink(name string) (string, error)   { return l.root.Readlink(name) }

func (l dirLayer) open(name string) (fs.File, error) {
	// Should it have become something else meanwhile, opening must not wait for a writer.
	return l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

func (l dirLayer) isOpaque(dir string) bool {
	f, err := l.root.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		value := make([]byte, 8)
		if n, err := unix.Fgetxattr(int(f.Fd()), name, value); err == nil && string(value[:n]) == "y" {
			return true
		}
	}
	return false
}

func (l dirLayer) readDir(name string, n int) ([]fs.DirEntry, error) {
	f, err := l.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}
