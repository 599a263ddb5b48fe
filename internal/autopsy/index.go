package autopsy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"
)

// errUnseen says that something is in an image, or may be, and was not kept when the image was read.
var errUnseen = errors.New("a part of the image was too much to be read")

// Index is one layer of an image as its tar file has it: all names, and of programs and accounts the first bytes.
// It does not change, and is safe for concurrent use.
type Index struct {
	root   *inode
	weight int64
}

// Weight is about how much memory the index takes, in bytes.
func (x *Index) Weight() int64 { return x.weight }

// Stack puts the layers of an image together, topmost first. One that is nil could not be read: what it may hide or hold
// counts as not seen.
func Stack(layers []*Index) (*Layered, error) {
	if len(layers) == 0 || len(layers) > maxLayers {
		return nil, fmt.Errorf("an image with %d layers", len(layers))
	}
	l := &Layered{}
	for _, x := range layers {
		l.layers = append(l.layers, tarLayer{x})
	}
	return l, nil
}

// inode is a file. A hard link is another name of the same one.
type inode struct {
	mode     fs.FileMode
	uid, gid uint32
	device   uint64 // number of a device; 0 with ModeCharDevice marks a file that was removed
	size     int64
	target   string // of a symbolic link
	kept     []chunk
	children map[string]*inode // of a directory
	opaque   bool              // a directory that hides those below
	unseen   bool              // it is there, and nothing else is known
}

// chunk is a part of a file's content.
type chunk struct {
	at   int64
	data []byte
}

func newDir() *inode {
	return &inode{mode: fs.ModeDir | 0o755, children: map[string]*inode{}}
}

// tarLayer is a layer that was read from a tar file; the index is nil if it could not be.
type tarLayer struct{ index *Index }

func (l tarLayer) Close() error { return nil }

// get finds a file. Its path has no symbolic link but as last element, like that of a lower directory of overlayfs.
func (l tarLayer) get(name string) (*inode, error) {
	if l.index == nil {
		return nil, errUnseen
	}
	at := l.index.root
	if name == "." {
		return at, nil
	}
	for element := range strings.SplitSeq(name, "/") {
		if at = at.children[element]; at == nil {
			return nil, fs.ErrNotExist
		}
	}
	if at.unseen {
		return nil, errUnseen
	}
	return at, nil
}

func (l tarLayer) lstat(name string) (fs.FileInfo, error) {
	i, err := l.get(name)
	if err != nil {
		return nil, err
	}
	return named{path.Base(name), i}, nil
}

func (l tarLayer) readlink(name string) (string, error) {
	i, err := l.get(name)
	switch {
	case err != nil:
		return "", err
	case i.mode&fs.ModeSymlink == 0:
		return "", fs.ErrInvalid
	}
	return i.target, nil
}

func (l tarLayer) isOpaque(dir string) bool {
	i, err := l.get(dir)
	return err == nil && i.opaque
}

func (l tarLayer) open(name string) (fs.File, error) {
	i, err := l.get(name)
	if err != nil {
		return nil, err
	}
	return keptFile{named{path.Base(name), i}}, nil
}

func (l tarLayer) readDir(name string, n int) (list []fs.DirEntry, err error) {
	i, err := l.get(name)
	if err != nil {
		return nil, err
	}
	for child, node := range i.children {
		if n > 0 && len(list) == n {
			break
		}
		list = append(list, fs.FileInfoToDirEntry(named{child, node}))
	}
	return list, nil
}

// named is a file by one of its names. It implements fs.FileInfo.
type named struct {
	name string
	*inode
}

func (f named) Name() string       { return f.name }
func (f named) Size() int64        { return f.size }
func (f named) Mode() fs.FileMode  { return f.mode }
func (f named) ModTime() time.Time { return time.Time{} }
func (f named) IsDir() bool        { return f.mode.IsDir() }
func (f named) Sys() any {
	return &syscall.Stat_t{Uid: f.uid, Gid: f.gid, Rdev: f.device}
}

// keptFile gives what was kept of a regular file.
type keptFile struct{ named }

func (f keptFile) Stat() (fs.FileInfo, error) { return f.named, nil }
func (f keptFile) Close() error               { return nil }

// Read is for what is kept from the beginning on only. Files are read in parts here.
func (f keptFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: f.name, Err: errUnseen}
}

// ReadAt reads what was kept. It ends early, with io.EOF, where that ends.
func (f keptFile) ReadAt(b []byte, at int64) (int, error) {
	if at >= f.size {
		return 0, io.EOF
	}
	for _, c := range f.kept {
		if end := c.at + int64(len(c.data)); at >= c.at && at < end {
			n := copy(b, c.data[at-c.at:])
			if n < len(b) {
				return n, io.EOF
			}
			return n, nil
		}
	}
	return 0, errUnseen
}
