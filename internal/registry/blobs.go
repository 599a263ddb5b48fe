package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// blobInfo is what is known of a blob.
type blobInfo struct {
	digest digest
	size   int64
	young  time.Time // when it was said last that it is here
}

// blobs keep blobs that are complete and verified. One that is not there is fs.ErrNotExist. There are two: files on the disk,
// and objects in a bucket.
type blobs interface {
	stat(ctx context.Context, d digest) (blobInfo, error)
	// touch makes a blob young.
	touch(ctx context.Context, d digest) error
	// open reads a blob, from anywhere in it. Errors may come with the first Read.
	open(ctx context.Context, d digest) (io.ReadSeekCloser, error)
	// file is a file with the content, which must not be changed.
	file(ctx context.Context, d digest) (path string, size int64, err error)
	// put makes a blob of a file with the content, which is young and durable when put returns. The file is gone then.
	put(ctx context.Context, d digest, path string) error
	// each lists all blobs, some at a time.
	each(ctx context.Context, fn func([]blobInfo) error) error
	// discard takes a blob away, quickly; finish does the rest.
	discard(ctx context.Context, d digest) (finish func() error, err error)
	// tidy removes what uploads that did not come to an end have left behind, if it is not younger than until.
	tidy(ctx context.Context, until time.Time) error
}

// disk keeps blobs as files.
type disk struct{ dir string }

// path is where a blob is. A digest is of a known algorithm and of hexadecimal digits (parseDigest), so it names nothing else.
func (s disk) path(d digest) string {
	return filepath.Join(s.dir, "blobs", d.algorithm, d.hex[:2], d.hex)
}

func (s disk) trash() string { return filepath.Join(s.dir, "trash") }

// openDisk makes the directories that are always there, and finishes what an earlier process has discarded.
func openDisk(dir string) (disk, error) {
	s := disk{dir}
	if err := os.RemoveAll(s.trash()); err != nil {
		return s, err
	}
	all := filepath.Join(dir, "blobs")
	for _, dir := range []string{s.trash(), filepath.Join(all, canonical), filepath.Join(all, "sha512")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return s, err
		}
	}
	return s, syncDir(all)
}

func (s disk) stat(_ context.Context, d digest) (blobInfo, error) {
	info, err := os.Stat(s.path(d))
	if err != nil {
		return blobInfo{}, err
	}
	return blobInfo{d, info.Size(), info.ModTime()}, nil
}

func (s disk) touch(_ context.Context, d digest) error {
	now := time.Now()
	return os.Chtimes(s.path(d), now, now)
}

func (s disk) open(_ context.Context, d digest) (io.ReadSeekCloser, error) {
	return os.Open(s.path(d))
}

func (s disk) file(ctx context.Context, d digest) (string, int64, error) {
	info, err := s.stat(ctx, d)
	return s.path(d), info.size, err
}

func (s disk) put(_ context.Context, d digest, path string) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return err
	}
	return renameDurably(path, s.path(d))
}

func (s disk) each(ctx context.Context, fn func([]blobInfo) error) error {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "blobs", "*", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		var list []blobInfo
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return err
			}
			if d, err := parseDigest(filepath.Base(filepath.Dir(dir)) + ":" + e.Name()); err == nil {
				list = append(list, blobInfo{d, info.Size(), info.ModTime()})
			}
		}
		if err := errors.Join(ctx.Err(), fn(list)); err != nil {
			return err
		}
	}
	return nil
}

// discard renames the file, which is quicker than to delete it.
func (s disk) discard(_ context.Context, d digest) (finish func() error, err error) {
	trash := filepath.Join(s.trash(), d.algorithm+"-"+d.hex)
	return func() error {
		err := os.Remove(trash)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}, os.Rename(s.path(d), trash)
}

func (disk) tidy(context.Context, time.Time) error { return nil }
