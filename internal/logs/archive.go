package logs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// An archive is a segment in compressed form, byte for byte, so that positions in it stay what they were. It is a valid
// zstd file: zstdcat prints it. It consists of blocks, each a skippable frame with a header and a frame with records,
// and an index in a last skippable frame:
//
//	block    magic, length, header: offset and size in the segment, size and checksum of what follows, times, flags, own checksum
//	         zstd frame
//	index    magic, length, for each block: the header, its position in the archive, size of filter, filter
//	         trailer: size and checksum of the index, number of blocks, size of the segment, "TSLOGIX1"
//
// Without a good index, blocks are found by their headers, so a damaged or cut archive gives all that is left of it.
const (
	blockMagic = 0x184D2A5D
	indexMagic = 0x184D2A5E
	trailerTag = "TSLOGIX1"

	headerSize  = 44
	trailerSize = 4 + 4 + 4 + 8 + len(trailerTag)
	// blockSize is about how much of a segment is in a block, in bytes. maxBlock is the most, if lines are in parts.
	blockSize = 256 << 10
	maxBlock  = 4 << 20
	// maxIndex bounds what is read of an archive that claims to have a large index.
	maxIndex = 64 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.LittleEndian
)

// block is what an archive's index holds of a block.
type block struct {
	off         int64 // in the segment
	size        int64
	first, last int64 // Unix nanoseconds of its first and last record
	packed      int64 // size of the frame
	sum         uint32
	flags       uint32
	at          int64 // of the frame in the archive
	grams       grams
}

// flagParts says that a line of the block may be in parts.
const flagParts = 1

func (b *block) appendHeader(p []byte) []byte {
	start := len(p)
	p = appendInt64(p, b.off)
	p = appendInt32(p, b.size)
	p = appendInt32(p, b.packed)
	p = appendInt64(p, b.first)
	p = appendInt64(p, b.last)
	p = order.AppendUint32(p, b.flags)
	p = order.AppendUint32(p, b.sum)
	return order.AppendUint32(p, crc32.Checksum(p[start:], castagnoli))
}

// The numbers of an archive: sizes that fit because blocks are small, and times and offsets bit by bit.
func appendInt64(p []byte, n int64) []byte { return order.AppendUint64(p, uint64(n)) } //nolint:gosec // as above
func appendInt32(p []byte, n int64) []byte { return order.AppendUint32(p, uint32(n)) } //nolint:gosec // as above
func readInt64(p []byte) int64             { return int64(order.Uint64(p)) }           //nolint:gosec // as above

// parseHeader reads a header of headerSize bytes.
func parseHeader(p []byte) (b block, ok bool) {
	if crc32.Checksum(p[:headerSize-4], castagnoli) != order.Uint32(p[headerSize-4:]) {
		return b, false
	}
	b = block{
		off: readInt64(p), size: int64(order.Uint32(p[8:])), packed: int64(order.Uint32(p[12:])),
		first: readInt64(p[16:]), last: readInt64(p[24:]), flags: order.Uint32(p[32:]), sum: order.Uint32(p[36:]),
	}
	return b, b.size <= maxBlock+maxRecord && b.off >= 0
}

// archiver compresses segments. It is not safe for concurrent use.
type archiver struct {
	enc   *zstd.Encoder
	block int // size of a block
}

func newArchiver() (*archiver, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	return &archiver{enc, blockSize}, err
}

// archive replaces a segment by its archive. A crash leaves one of them, or both, whole. f is the open, locked segment.
func (a *archiver) archive(seg segment, f *os.File) (err error) {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	tmp := seg.archivePath() + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // in our directory
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close(), os.Remove(tmp))
		}
	}()
	if err := a.write(out, &plain{f: f, end: info.Size()}); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	// The time of the last line, for the retention and for searches.
	if err := os.Chtimes(tmp, info.ModTime(), info.ModTime()); err != nil {
		return err
	}
	if err := os.Rename(tmp, seg.archivePath()); err != nil {
		return err
	}
	if err := errors.Join(out.Close(), syncDir(seg.dir)); err != nil {
		return err
	}
	return os.Remove(seg.path())
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // our directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// write writes the archive of the content.
func (a *archiver) write(w io.Writer, in content) error {
	var blocks []block
	var raw, out []byte
	var state lineState
	at := int64(0)
	flush := func(off int64) error {
		if len(raw) == 0 {
			return nil
		}
		b := block{off: off - int64(len(raw)), size: int64(len(raw))}
		if state.parts {
			b.flags |= flagParts
		}
		b.first, b.last = recordTimes(raw)
		b.grams = newGrams(len(raw))
		b.grams.addRecords(raw)
		out = append(out[:0], make([]byte, 8+headerSize)...)
		out = a.enc.EncodeAll(raw, out)
		frame := out[8+headerSize:]
		b.packed, b.sum, b.at = int64(len(frame)), crc32.Checksum(frame, castagnoli), at+8+headerSize
		b.appendHeader(appendMagic(out[:0], blockMagic, headerSize))
		if _, err := w.Write(out); err != nil {
			return err
		}
		at += int64(len(out))
		blocks = append(blocks, b)
		raw, state.parts = raw[:0], state.open != [2]bool{}
		return nil
	}
	off := int64(0)
	for {
		c, err := in.next(off, nil)
		if err != nil {
			return err
		}
		if len(c.text) == 0 {
			break
		}
		for len(c.text) > 0 {
			n := bytes.IndexByte(c.text, '\n') + 1
			if n == 0 {
				n = len(c.text)
			}
			state.add(c.text[:n])
			raw = append(raw, c.text[:n]...)
			c.text = c.text[n:]
			off += int64(n)
			if len(raw) >= a.block && state.open == [2]bool{} || len(raw) >= maxBlock {
				if err := flush(off); err != nil {
					return err
				}
			}
		}
	}
	if err := flush(off); err != nil {
		return err
	}
	_, err := w.Write(appendIndex(nil, blocks, off))
	return err
}

// lineState tells whether lines are complete.
type lineState struct {
	open  [2]bool
	parts bool // there was a part of a line
}

func (s *lineState) add(record []byte) {
	stream, partial, _, ok := splitRecord(record)
	if !ok {
		return
	}
	s.open[stream] = partial
	s.parts = s.parts || partial
}

func appendMagic(p []byte, magic uint32, size int) []byte {
	return order.AppendUint32(order.AppendUint32(p, magic), uint32(size)) //nolint:gosec // small
}

func appendIndex(p []byte, blocks []block, size int64) []byte {
	p = appendMagic(p, indexMagic, 0)
	start := len(p)
	for i := range blocks {
		b := &blocks[i]
		p = b.appendHeader(p)
		p = appendInt64(p, b.at)
		p = appendInt32(p, int64(len(b.grams)))
		p = append(p, b.grams...)
	}
	n := len(p) - start
	sum := crc32.Checksum(p[start:], castagnoli)
	p = appendInt32(p, int64(n))
	p = order.AppendUint32(p, sum)
	p = appendInt32(p, int64(len(blocks)))
	p = appendInt64(p, size)
	p = append(p, trailerTag...)
	copy(p[start-4:], appendInt32(nil, int64(len(p)-start)))
	return p
}

// readIndex reads the index at the end of an archive. ok is false if it is not whole.
func readIndex(f io.ReaderAt, end int64) (blocks []block, size int64, ok bool) {
	trailer := make([]byte, trailerSize)
	if end < int64(trailerSize)+8 {
		return nil, 0, false
	}
	if _, err := f.ReadAt(trailer, end-int64(trailerSize)); err != nil || string(trailer[20:]) != trailerTag {
		return nil, 0, false
	}
	n, count := int64(order.Uint32(trailer)), int64(order.Uint32(trailer[8:]))
	size = readInt64(trailer[12:])
	start := end - int64(trailerSize) - n
	if n > maxIndex || start < 8 || count*(headerSize+12) > n {
		return nil, 0, false
	}
	p := make([]byte, n)
	if _, err := f.ReadAt(p, start); err != nil || crc32.Checksum(p, castagnoli) != order.Uint32(trailer[4:]) {
		return nil, 0, false
	}
	blocks = make([]block, 0, count)
	for len(p) > 0 {
		if len(p) < headerSize+12 {
			return nil, 0, false
		}
		b, ok := parseHeader(p)
		b.at = readInt64(p[headerSize:])
		n := int(order.Uint32(p[headerSize+8:]))
		p = p[headerSize+12:]
		if !ok || n > len(p) {
			return nil, 0, false
		}
		b.grams, p = grams(p[:n]), p[n:]
		blocks = append(blocks, b)
	}
	return blocks, size, true
}

// scanBlocks finds the blocks of an archive by their headers.
func scanBlocks(f io.ReaderAt, end int64) (blocks []block) {
	buf := make([]byte, 64<<10)
	magic := appendMagic(nil, blockMagic, headerSize)
	for off := int64(0); off < end; {
		n, _ := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		i := bytes.Index(buf[:n], magic)
		if i < 0 {
			if n < len(buf) {
				return blocks
			}
			off += int64(n - len(magic) + 1)
			continue
		}
		if i > 0 && n-i < 8+headerSize && off+int64(n) < end {
			off += int64(i)
			continue
		}
		if n-i < 8+headerSize {
			return blocks
		}
		b, ok := parseHeader(buf[i+8:])
		if !ok {
			off += int64(i) + 1
			continue
		}
		b.at = off + int64(i) + 8 + headerSize
		blocks = append(blocks, b)
		off = b.at
		if b.at+b.packed <= end {
			// Where the frame is whole, the next block follows; else it may begin anywhere.
			next := make([]byte, 4)
			if _, err := f.ReadAt(next, b.at+b.packed); err == nil && (order.Uint32(next) == blockMagic || order.Uint32(next) == indexMagic) {
				off = b.at + b.packed
			}
		}
	}
	return blocks
}

// archive reads an archived segment.
type archive struct {
	f      *os.File
	dec    *zstd.Decoder
	blocks []block // ascending
	total  int64   // size of the segment, as far as is known
	end    int64   // size of the file
	whole  bool    // the index is good
	report func(error)

	loaded int // the block that is in raw; -1: none
	packed []byte
	raw    []byte
}

var errDamaged = errors.New("the archive is damaged")

// openArchive opens an archive. What is damaged in it is reported and read as a gap.
func (s *Store) openArchive(path string) (*archive, error) {
	f, err := os.Open(path) //nolint:gosec // from a listing of our directory
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a := &archive{f: f, end: info.Size(), dec: s.decoder(), loaded: -1, report: func(err error) { s.damaged(path, err) }}
	if a.blocks, a.total, a.whole = readIndex(f, info.Size()); a.whole {
		return a, nil
	}
	a.report(fmt.Errorf("%w: its index cannot be read", errDamaged))
	end := int64(0)
	mtime := info.ModTime().UnixNano()
	for _, b := range scanBlocks(f, info.Size()) {
		if b.off < end {
			continue // not a header, but content that looks like one
		}
		a.blocks = append(a.blocks, b)
		end = b.off + b.size
	}
	// How much is missing at the end cannot be known. It is one byte that says so.
	last := block{off: end, size: 1, first: mtime, last: mtime, at: info.Size(), packed: 1}
	if n := len(a.blocks); n > 0 {
		last.first = a.blocks[n-1].last
	}
	a.blocks = append(a.blocks, last)
	a.total = end + 1
	return a, nil
}

func (a *archive) size() int64  { return a.total }
func (a *archive) close() error { return a.f.Close() }

func (a *archive) next(off int64, f *Filter) (chunk, error) {
	c := chunk{off: off}
	for i := a.find(off); i < len(a.blocks); i++ {
		b := &a.blocks[i]
		if b.off > off { // a block whose header was not found
			c.gap = &gap{size: b.off - off, first: time.Unix(0, b.first), last: time.Unix(0, b.first), err: errDamaged}
			if i > 0 {
				c.gap.first = time.Unix(0, a.blocks[i-1].last)
			}
			c.off = off
			a.report(c.gap.err)
			return c, nil
		}
		if b.flags&flagParts == 0 && b.grams.lack(f) {
			c.before = time.Unix(0, b.last).UTC()
			off = b.off + b.size
			continue
		}
		if err := a.load(i); err != nil {
			a.report(err)
			c.off = off
			c.gap = &gap{size: b.off + b.size - off, first: time.Unix(0, b.first), last: time.Unix(0, b.last), err: err}
			return c, nil
		}
		c.off, c.text, c.single = off, a.raw[off-b.off:], b.flags&flagParts == 0
		return c, nil
	}
	c.off = off
	return c, nil
}

// find returns the first block that ends behind off.
func (a *archive) find(off int64) int {
	low, high := 0, len(a.blocks)
	for low < high {
		if mid := (low + high) / 2; a.blocks[mid].off+a.blocks[mid].size > off {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// load decompresses a block.
func (a *archive) load(i int) error {
	if a.loaded == i {
		return nil
	}
	a.loaded = -1
	b := &a.blocks[i]
	if b.at < 0 || b.at+b.packed > a.end {
		return fmt.Errorf("%w: it ends too early", errDamaged)
	}
	if int64(cap(a.packed)) < b.packed {
		a.packed = make([]byte, b.packed)
	}
	a.packed = a.packed[:b.packed]
	if _, err := a.f.ReadAt(a.packed, b.at); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if crc32.Checksum(a.packed, castagnoli) != b.sum {
		return fmt.Errorf("%w: a checksum is wrong", errDamaged)
	}
	var err error
	if a.raw, err = a.dec.DecodeAll(a.packed, a.raw[:0]); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if int64(len(a.raw)) != b.size {
		return fmt.Errorf("%w: a block has %d bytes instead of %d", errDamaged, len(a.raw), b.size)
	}
	a.loaded = i
	return nil
}

func (a *archive) seek(t time.Time) (int64, error) {
	for i := range a.blocks {
		b := &a.blocks[i]
		if b.last < t.UnixNano() && i+1 < len(a.blocks) {
			continue
		}
		if a.load(i) != nil {
			return b.off, nil //nolint:nilerr // next reports it
		}
		return b.off + seekTime(bytes.NewReader(a.raw), int64(len(a.raw)), t), nil
	}
	return 0, nil
}

// archiveHolds reports whether an archive is whole and holds so many bytes.
func archiveHolds(path string, size int64) bool {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false
	}
	_, n, ok := readIndex(f, info.Size())
	return ok && n == size
}
