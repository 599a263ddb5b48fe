package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// MovingFiles are the folders whose files move from one installation to another, by name, with what is done when a file
// has arrived.
type MovingFiles struct {
	Dirs map[string]string
	// Arrived is called with the path of a file that is complete; nil: nobody asks.
	Arrived func(ctx context.Context, path string) error

	writing sync.Mutex
}

// MovingFile is a file that moves. Its path begins with the name of a folder and has slashes.
type MovingFile struct {
	Path string
	Size int64
	// Digest is the SHA-256 of the content; empty if it was not asked for.
	Digest string
}

const (
	// MaxMovingChunk is how many bytes of a file go with one call.
	MaxMovingChunk = 512 << 10
	// listedFiles is how many files one answer lists.
	listedFiles = 5000
)

// ListMovingFilesInput is the request of ListMovingFiles.
type ListMovingFilesInput struct {
	Dir       string // only what is below this path; empty: all
	Digests   bool
	PageToken string
}

// MovingFilePage is the answer of ListMovingFiles.
type MovingFilePage struct {
	Files         []MovingFile // by path
	NextPageToken string
}

// ListMovingFiles lists the files that move: logs, metrics, certificates with their keys. Errors: Invalid.
func (c *Control) ListMovingFiles(ctx context.Context, caller trysail.Caller, in ListMovingFilesInput) (*MovingFilePage, error) {
	if err := caller.May(trysail.RoleAdmin, "ListMovingFiles", ""); err != nil {
		return nil, err
	}
	var all []MovingFile
	if c.Files != nil {
		for _, name := range slices.Sorted(maps.Keys(c.Files.Dirs)) {
			list, err := c.Files.list(ctx, name)
			if err != nil {
				return nil, err
			}
			all = append(all, list...)
		}
	}
	all = slices.DeleteFunc(all, func(f MovingFile) bool {
		return f.Path <= in.PageToken || in.Dir != "" && f.Path != in.Dir && !strings.HasPrefix(f.Path, in.Dir+"/")
	})
	slices.SortFunc(all, func(a, b MovingFile) int { return cmp.Compare(a.Path, b.Path) })
	page := &MovingFilePage{Files: all}
	if len(all) > listedFiles {
		page.Files, page.NextPageToken = all[:listedFiles], all[listedFiles-1].Path
	}
	if !in.Digests {
		return page, nil
	}
	for i := range page.Files {
		digest, err := c.Files.digest(ctx, page.Files[i].Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		page.Files[i].Digest = digest
	}
	return page, nil
}

// ReadMovingFileInput is the request of ReadMovingFile.
type ReadMovingFileInput struct {
	Path   string
	Offset int64
}

// MovingChunk is a part of a file.
type MovingChunk struct {
	Data []byte
	Size int64 // of the whole file, now
}

// ReadMovingFile reads up to MaxMovingChunk bytes of a file. Errors: Invalid, NotFound.
func (c *Control) ReadMovingFile(ctx context.Context, caller trysail.Caller, in ReadMovingFileInput) (_ *MovingChunk, err error) {
	defer c.auditFailure(ctx, caller, "ReadMovingFile", in.Path, &err)
	if err := caller.May(trysail.RoleAdmin, "ReadMovingFile", ""); err != nil {
		return nil, err
	}
	root, name, err := c.Files.open(in.Path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if in.Offset == 0 && isSecret(in.Path) {
		if _, err := c.change(ctx, caller, "ReadMovingFile", in.Path, func(*store.Tx) error { return nil }); err != nil {
			return nil, err
		}
	}
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, trysail.Errorf(trysail.CodeNotFound, "File %.200q not found.", in.Path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || in.Offset < 0 {
		return nil, trysail.Errorf(trysail.CodeInvalid, "File %.200q cannot be read from there.", in.Path)
	}
	chunk := &MovingChunk{Size: info.Size(), Data: make([]byte, min(MaxMovingChunk, max(0, info.Size()-in.Offset)))}
	n, err := f.ReadAt(chunk.Data, in.Offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	chunk.Data = chunk.Data[:n]
	return chunk, errors.Join(err, ctx.Err())
}

// WriteMovingFileInput is the request of WriteMovingFile.
type WriteMovingFileInput struct {
	Path string
	// Offset is how much of the file was written before: what is there then is continued, anything else refused. 0 begins
	// anew, unless the file is there and not empty; Replace overwrites it.
	Offset  int64
	Data    []byte
	Replace bool
	// Last says that the file is complete.
	Last bool
}

// WriteMovingFile writes the next part of a file, which is on the disk when it returns. Errors: Invalid.
func (c *Control) WriteMovingFile(ctx context.Context, caller trysail.Caller, in WriteMovingFileInput) (err error) {
	defer c.auditFailure(ctx, caller, "WriteMovingFile", in.Path, &err)
	if err := caller.May(trysail.RoleAdmin, "WriteMovingFile", ""); err != nil {
		return err
	}
	root, name, err := c.Files.open(in.Path)
	if err != nil {
		return err
	}
	defer root.Close()
	if in.Offset == 0 && isSecret(in.Path) {
		if _, err := c.change(ctx, caller, "WriteMovingFile", in.Path, func(*store.Tx) error { return nil }); err != nil {
			return err
		}
	}
	c.Files.writing.Lock()
	defer c.Files.writing.Unlock()
	if err := write(root, name, in); err != nil {
		return err
	}
	if in.Last && c.Files.Arrived != nil {
		return c.Files.Arrived(ctx, in.Path)
	}
	return nil
}

// isSecret reports whether a file may hold keys: who has read or written it is in the audit trail.
func isSecret(file string) bool {
	first, _, _ := strings.Cut(file, "/")
	return first != "logs" && first != "metrics"
}

func write(root *os.Root, name string, in WriteMovingFileInput) (err error) {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE
	if in.Replace && in.Offset == 0 {
		flags |= os.O_TRUNC
	}
	f, err := root.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != in.Offset {
		return trysail.Errorf(trysail.CodeInvalid, "File %.200q has %d bytes here and cannot be continued at %d.", in.Path, info.Size(), in.Offset)
	}
	if _, err := f.WriteAt(in.Data, in.Offset); err != nil {
		return errors.Join(err, f.Truncate(in.Offset))
	}
	return f.Sync()
}

// open finds the folder of a path, outside of which nothing is reached, and the name within. Errors: Invalid.
func (m *MovingFiles) open(file string) (*os.Root, string, error) {
	first, name, ok := strings.Cut(file, "/")
	if m == nil || !ok || !fs.ValidPath(file) || m.Dirs[first] == "" {
		return nil, "", trysail.Errorf(trysail.CodeInvalid, "%.200q is not a file that moves.", file)
	}
	if err := os.MkdirAll(m.Dirs[first], 0o700); err != nil {
		return nil, "", err
	}
	root, err := os.OpenRoot(m.Dirs[first])
	return root, name, err
}

func (m *MovingFiles) list(ctx context.Context, dir string) (files []MovingFile, err error) {
	root, err := os.OpenRoot(m.Dirs[dir])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return errors.Join(err, ctx.Err())
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			files = append(files, MovingFile{Path: dir + "/" + name, Size: info.Size()})
		}
		return ctx.Err()
	})
	return files, err
}

func (m *MovingFiles) digest(ctx context.Context, file string) (string, error) {
	root, name, err := m.open(file)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), ctx.Err()
}
