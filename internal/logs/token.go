package logs

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

// ErrBadToken is returned for a page token that Query did not give out for this container.
var ErrBadToken = errors.New("the page token is not valid")

const (
	tokenVersion = 2
	// lateVersion is that of tokens that name servers whose lines come late.
	lateVersion = 3
	// maxPositions bounds a token. Of more files only those written last are in it; the others continue by time.
	maxPositions = 1024
)

// token is where a page ended: the positions in the segments that were being read, and, for all others, the place of the
// last line. A segment that is in no token is either read to its end or has only younger lines.
type token struct {
	mark      mark
	positions map[sourceKey]position
	// late are servers, by hash, of which lines may turn up that are older than the mark, but not older than that.
	late map[uint64]time.Time
}

// tokenScope identifies what a token belongs to.
func tokenScope(serviceID, container string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(serviceID + "/" + container))
	return h.Sum32()
}

func (t *token) encode(scope uint32) string {
	keys := make([]sourceKey, 0, len(t.positions))
	for k := range t.positions {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b sourceKey) int {
		return cmp.Or(cmp.Compare(t.positions[b].off, t.positions[a].off), cmp.Compare(a.pod, b.pod), cmp.Compare(b.number, a.number))
	})
	keys = keys[:min(len(keys), maxPositions)]
	b := []byte{tokenVersion}
	if len(t.late) > 0 {
		b[0] = lateVersion
	}
	b = binary.BigEndian.AppendUint32(b, scope)
	b = binary.AppendVarint(appendKey(binary.AppendVarint(b, unixNano(t.mark.at)), t.mark.key), t.mark.off)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		p := t.positions[k]
		b = binary.AppendVarint(binary.AppendVarint(appendKey(b, k), p.off), p.back)
	}
	if len(t.late) > 0 {
		b = binary.AppendUvarint(b, uint64(len(t.late)))
	}
	for _, origin := range slices.Sorted(maps.Keys(t.late)) {
		b = binary.AppendVarint(binary.BigEndian.AppendUint64(b, origin), unixNano(t.late[origin]))
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// unixNano is 0 for no time.
func unixNano(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixNano()
}

func appendKey(b []byte, k sourceKey) []byte {
	return binary.AppendVarint(binary.BigEndian.AppendUint64(b, k.pod), k.number)
}

// decodeToken reads what encode wrote. The checksum is against mistakes, not against forgery: a token can only name
// offsets in files of the container that the caller may read anyway.
func decodeToken(s string, scope uint32) (*token, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < 9 {
		return nil, ErrBadToken
	}
	b, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.ChecksumIEEE(b) != sum || b[0] != tokenVersion && b[0] != lateVersion || binary.BigEndian.Uint32(b[1:]) != scope {
		return nil, ErrBadToken
	}
	d := decoder{b: b[5:]}
	t := &token{positions: map[sourceKey]position{}, late: map[uint64]time.Time{}}
	t.mark.at = d.time()
	t.mark.key, t.mark.off = d.key(), d.varint()
	n := d.uvarint()
	if n > maxPositions {
		return nil, ErrBadToken
	}
	for range n {
		k := d.key()
		p := position{d.varint(), d.varint()}
		if p.back < 0 || p.off < p.back {
			return nil, ErrBadToken
		}
		t.positions[k] = p
	}
	if b[0] == lateVersion {
		for range min(d.uvarint(), maxPositions) {
			origin := d.uint64()
			t.late[origin] = d.time()
		}
	}
	if d.bad || len(d.b) > 0 {
		return nil, ErrBadToken
	}
	return t, nil
}

// decoder reads numbers off the front of b; once it could not, it is bad and yields zeros.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) {
	if n <= 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return
	}
	d.b = d.b[n:]
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	d.take(n)
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	d.take(n)
	return v
}

func (d *decoder) key() sourceKey {
	pod := d.uint64()
	return sourceKey{pod, d.varint()}
}

func (d *decoder) uint64() (n uint64) {
	if len(d.b) >= 8 {
		n = binary.BigEndian.Uint64(d.b)
	}
	d.take(8)
	return n
}

func (d *decoder) time() time.Time {
	if n := d.varint(); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}
