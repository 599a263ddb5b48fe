package autopsy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// The limits of one examination.
const (
	maxLinks      = 40      // symbolic links on the way to one file, as in the kernel
	maxPath       = 4096    // bytes of a path
	maxElements   = 256     // of a path, links followed
	maxLookups    = 20_000  // elements looked at in all
	maxRead       = 4 << 20 // bytes read in all
	maxDirEntries = 4096    // of one directory
)

var (
	errNotDirectory = errors.New("an element of the path is not a directory")
	errTooMuch      = errors.New("the image is too contorted to be looked at completely")
	errLoop         = errors.New("too many symbolic links")
)

// tree reads an image with the limits of one examination. Not for concurrent use.
type tree struct {
	fs      Root
	lookups int
	read    int
	err     error // the first thing that could not be seen
}

// note remembers that something could not be seen. What does not exist was seen well enough.
func (t *tree) note(err error) {
	if err != nil && t.err == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotDirectory) {
		t.err = err
	}
}

// stat follows name, an absolute path in the image, to what it is in the end. at is the path without symbolic links; if
// an element is no directory, at is that element.
func (t *tree) stat(name string) (info fs.FileInfo, at string, err error) {
	if len(name) > maxPath || strings.ContainsRune(name, 0) {
		return nil, "", fs.ErrNotExist
	}
	todo := strings.Split(name, "/")
	links, elements := 0, 0
	at = "."
	if info, err = t.lstat(at); err != nil {
		return nil, "", err
	}
	for len(todo) > 0 {
		element := todo[0]
		todo = todo[1:]
		if elements++; elements > maxElements {
			return nil, "", errTooMuch
		}
		switch element {
		case "", ".":
			continue
		case "..":
			if at != "." {
				at = path.Dir(at)
			}
			if info, err = t.lstat(at); err != nil {
				return nil, "", err
			}
			continue
		}
		if !info.IsDir() {
			return nil, "/" + at, errNotDirectory
		}
		next := path.Join(at, element)
		if info, err = t.lstat(next); err != nil {
			return nil, "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, "", errLoop
		}
		target, err := t.fs.ReadLink(next)
		if err != nil || len(target) > maxPath {
			return nil, "", errors.Join(err, fs.ErrNotExist)
		}
		if path.IsAbs(target) {
			at = "."
		}
		if info, err = t.lstat(at); err != nil {
			return nil, "", err
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return info, "/" + strings.TrimPrefix(at, "."), nil
}

// lstat looks at one name without following it.
func (t *tree) lstat(name string) (fs.FileInfo, error) {
	if t.lookups++; t.lookups > maxLookups {
		return nil, errTooMuch
	}
	if !fs.ValidPath(name) {
		return nil, fs.ErrNotExist
	}
	return t.fs.Lstat(name)
}

// exists reports whether a file is there, and may report true if that could not be seen.
func (t *tree) exists(name string) bool {
	_, _, err := t.stat(name)
	t.note(err)
	return err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotDirectory)
}

// head reads the first bytes of a regular file, at most n.
func (t *tree) head(name string, n int) ([]byte, error) { return t.part(name, 0, n) }

// part reads at most n bytes from an offset of a regular file.
func (t *tree) part(name string, offset int64, n int) ([]byte, error) {
	info, at, err := t.stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is a %s", name, kindOf(info))
	}
	if n = min(n, maxRead-t.read); n <= 0 {
		return nil, errTooMuch
	}
	f, err := t.fs.Open(strings.TrimPrefix(at, "/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s cannot be read in parts", name)
	}
	b := make([]byte, min(int64(n), max(0, info.Size()-offset)))
	got, err := r.ReadAt(b, offset)
	t.read += got
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:got], nil
}

// list names what is in a directory, in order. An absent one is empty.
func (t *tree) list(dir string) []fs.DirEntry {
	info, at, err := t.stat(dir)
	if err != nil || !info.IsDir() {
		return nil
	}
	if at = strings.TrimPrefix(at, "/"); at == "" {
		at = "."
	}
	f, err := t.fs.Open(at)
	if err != nil {
		return nil
	}
	defer f.Close()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil
	}
	entries, err := d.ReadDir(maxDirEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	t.lookups += len(entries)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries
}
