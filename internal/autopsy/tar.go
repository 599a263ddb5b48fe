package autopsy

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const (
	// maxScript is how much is kept of a script, and maxPlain of any other file that can be executed, in bytes.
	maxScript = 64 << 10
	maxPlain  = 512
	// maxAhead is how far behind the beginning of a program the name of its loader is looked for, in bytes.
	maxAhead = 512 << 20
	// maxWindow is the largest window of zstd, in bytes: it is memory that the one who packs asks for.
	maxWindow = 32 << 20
	// maxLinkWalk bounds the symbolic links on the way to the directory of an entry.
	maxLinkWalk = 40
	// inodeWeight is about what a file takes besides its name and what is kept of it, in bytes.
	inodeWeight = 250
)

// The prefix and the names by which a layer says that something below it is removed.
const (
	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// Budget is what reading the layers of an image may take. It is used up by one after the other.
type Budget struct {
	Unpacked int64 // bytes that are unpacked
	Memory   int64 // bytes of what is remembered
}

// ReadLayer reads a layer as registries have it: a tar file, packed by gzip, zstd or not at all. Nothing is written
// anywhere. Errors: that of ctx; ErrTooLarge; else the layer is damaged, or packed in a way that is not known here.
func ReadLayer(ctx context.Context, blob io.Reader, b *Budget) (*Index, error) {
	plain, done, err := unpack(&patient{ctx, blob})
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer done()
	r := &reader{tar: tar.NewReader(&bounded{plain, b}), budget: b, index: &Index{root: newDir()}}
	for {
		h, err := r.tar.Next()
		if errors.Is(err, io.EOF) {
			r.index.weight = r.weight
			return r.index, nil
		}
		if err == nil {
			err = r.entry(h)
		}
		if err != nil {
			return nil, cause(ctx, err)
		}
	}
}

// ErrTooLarge says that reading a layer would have taken more than the budget has.
var ErrTooLarge = errors.New("the image is too large to be looked into completely")

// cause is ctx's error if that is why there is one.
func cause(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrTooLarge), errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return ErrTooLarge
	}
	return fmt.Errorf("reading a layer: %w", err)
}

// unpack tells by its first bytes how a layer is packed.
func unpack(blob io.Reader) (plain io.Reader, done func(), err error) {
	in := bufio.NewReaderSize(blob, 1<<17)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")), len(head) == 4 && head[0]&0xf0 == 0x50 && string(head[1:]) == "\x2a\x4d\x18":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
}

// patient ends reading with ctx.
type patient struct {
	ctx context.Context //nolint:containedctx // for the time of one call of ReadLayer
	io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.Reader.Read(b)
}

// bounded counts what is unpacked.
type bounded struct {
	io.Reader
	budget *Budget
}

func (r *bounded) Read(b []byte) (int, error) {
	if r.budget.Unpacked <= 0 {
		return 0, ErrTooLarge
	}
	n, err := r.Reader.Read(b)
	r.budget.Unpacked -= int64(n)
	return n, err
}

// reader makes the index of one layer.
type reader struct {
	tar    *tar.Reader
	budget *Budget
	index  *Index
	weight int64
}

// take accounts for memory.
func (r *reader) take(n int) error {
	r.weight += int64(n)
	if r.budget.Memory -= int64(n); r.budget.Memory < 0 {
		return ErrTooLarge
	}
	return nil
}

// entry adds what one header says, as containerd unpacks it: names stay within the root, and the later of two entries
// of a name counts.
func (r *reader) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if err := r.take(inodeWeight + len(path.Base(name)) + len(h.Linkname)); err != nil {
		return err
	}
	if name == "" {
		r.index.root.own(h)
		return nil
	}
	dir, base := path.Split(name)
	parent, err := r.directory(dir)
	if err != nil || parent == nil {
		return err
	}
	switch {
	case base == whiteoutOpaque:
		parent.opaque = true
		return nil
	case strings.HasPrefix(base, whiteoutMeta):
		return nil // of aufs, for itself
	case strings.HasPrefix(base, whiteout):
		if removed := strings.TrimPrefix(base, whiteout); parent.children[removed] == nil {
			parent.children[removed] = &inode{mode: fs.ModeDevice | fs.ModeCharDevice}
		}
		return nil
	}
	node, err := r.node(name, h)
	if err != nil || node == nil {
		return err
	}
	if old := parent.children[base]; old != nil && old.mode.IsDir() && node.mode.IsDir() {
		old.own(h)
		return nil
	}
	parent.children[base] = node
	return nil
}

// own takes over what a header says of a file as such.
func (i *inode) own(h *tar.Header) {
	i.mode = h.FileInfo().Mode()&^fs.ModeType | i.mode&fs.ModeType
	i.uid, i.gid = uint32(h.Uid), uint32(h.Gid) //nolint:gosec // as the kernel takes them
}

// node is what a header and the content after it are; nil if that is nothing for a file system.
func (r *reader) node(name string, h *tar.Header) (*inode, error) {
	i := &inode{}
	switch h.Typeflag {
	case tar.TypeDir:
		i = newDir()
	case tar.TypeSymlink:
		i.mode, i.target = fs.ModeSymlink, h.Linkname
	case tar.TypeLink:
		return r.linked(h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		i.mode = fs.ModeDevice
		if h.Typeflag == tar.TypeChar {
			i.mode |= fs.ModeCharDevice
		}
		i.device = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)) //nolint:gosec // as the kernel takes them
	case tar.TypeFifo:
		i.mode = fs.ModeNamedPipe
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		i.size = h.Size
		i.own(h)
		return i, r.keep(name, i)
	default:
		return nil, nil //nolint:nilnil // documented
	}
	i.own(h)
	return i, nil
}

// linked is the file that a hard link names, which is of the same layer and came before.
func (r *reader) linked(target string) (*inode, error) {
	dir, base := path.Split(strings.TrimPrefix(path.Clean("/"+target), "/"))
	parent, err := r.directory(dir)
	if err != nil || parent == nil || base == "" {
		return nil, err
	}
	if i := parent.children[base]; i != nil && !i.mode.IsDir() {
		return i, nil
	}
	return &inode{unseen: true}, nil
}

// directory is that of an entry. What is missing on the way to it is made, as containerd does it, and links are followed
// within the layer; nil if there is a file in the way, or links that lead nowhere.
func (r *reader) directory(name string) (*inode, error) {
	todo := strings.Split(name, "/")
	at := []*inode{r.index.root}
	for links := 0; len(todo) > 0; {
		element := todo[0]
		todo = todo[1:]
		top := at[len(at)-1]
		switch element {
		case "", ".":
			continue
		case "..":
			at = at[:max(1, len(at)-1)]
			continue
		}
		next := top.children[element]
		switch {
		case next == nil || next.device == 0 && next.mode&fs.ModeCharDevice != 0:
			if err := r.take(inodeWeight + len(element)); err != nil {
				return nil, err
			}
			next = newDir()
			top.children[element] = next
		case next.mode&fs.ModeSymlink != 0:
			if links++; links > maxLinkWalk || len(next.target) > maxPath {
				return nil, nil //nolint:nilnil // documented
			}
			if path.IsAbs(next.target) {
				at = at[:1]
			}
			todo = append(strings.Split(next.target, "/"), todo...)
			continue
		case !next.mode.IsDir():
			return nil, nil //nolint:nilnil // documented
		}
		at = append(at, next)
	}
	return at[len(at)-1], nil
}

// keep remembers of a regular file what an examination may ask for.
func (r *reader) keep(name string, i *inode) error {
	switch {
	case name == "etc/passwd" || name == "etc/group":
		return r.keepHead(i, maxAccounts)
	case i.mode&0o111 == 0 || i.size == 0:
		return nil
	}
	if err := r.keepHead(i, maxPlain); err != nil {
		return err
	}
	switch head := i.kept[0].data; {
	case bytes.HasPrefix(head, []byte("#!")):
		return r.keepHead(i, maxScript)
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		if err := r.keepHead(i, headSize); err != nil {
			return err
		}
		return r.keepSegments(i)
	}
	return nil
}

// keepHead reads on until the first n bytes are kept, or all.
func (r *reader) keepHead(i *inode, n int) error {
	var have []byte
	if len(i.kept) > 0 {
		have = i.kept[0].data
	}
	n = int(min(int64(n), i.size))
	if err := r.take(n - len(have)); err != nil {
		return err
	}
	all := make([]byte, n)
	copy(all, have)
	if _, err := io.ReadFull(r.tar, all[len(have):]); err != nil {
		return err
	}
	i.kept = []chunk{{0, all}}
	return nil
}

// keepSegments reads what names the loader of a program, wherever in the file that is.
func (r *reader) keepSegments(i *inode) error {
	head := i.kept[0].data
	at := int64(len(head))
	var broken error
	_, _ = readELF(head, func(offset int64, n int) ([]byte, error) {
		end := offset + int64(n)
		switch {
		case offset < 0 || n <= 0 || end < offset || end > i.size:
			return nil, errBadELF
		case end <= int64(len(head)):
			return head[offset:end], nil
		case offset < at || offset-at > maxAhead:
			return nil, errUnseen // it was passed by, or is far away
		}
		// The zeros of a sparse file come out of nothing.
		if r.budget.Unpacked -= offset - at; r.budget.Unpacked < 0 {
			broken = ErrTooLarge
			return nil, broken
		}
		if broken = r.take(n); broken != nil {
			return nil, broken
		}
		b := make([]byte, n)
		if _, broken = io.CopyN(io.Discard, r.tar, offset-at); broken == nil {
			_, broken = io.ReadFull(r.tar, b)
		}
		if broken != nil {
			return nil, broken
		}
		at = end
		i.kept = append(i.kept, chunk{offset, b})
		return b, nil
	})
	return broken
}
