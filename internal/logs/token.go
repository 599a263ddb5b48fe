package logs

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"slices"
	"time"
)

// ErrBadToken is returned for a page token that Query did not give out for this container.
var ErrBadToken = errors.New("the page token is not valid")

const (
	tokenVersion = 2
	// maxPositions bounds a token. Of more files only those written last are in it; the others continue by time.
	maxPositions = 1024
)

// token is where a page ended: the positions in the segments that were being read, and, for all others, the place of the
// last line. A segment that is in no token is either read to its end or has only younger lines.
type token struct {
	mark      mark
	positions map[sourceKey]position
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
	b = binary.BigEndian.AppendUint32(b, scope)
	var at int64
	if !t.mark.at.IsZero() {
		at = t.mark.at.UnixNano()
	}
	b = binary.AppendVarint(appendKey(binary.AppendVarint(b, at), t.mark.key), t.mark.off)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		p := t.positions[k]
		b = binary.AppendVarint(binary.AppendVarint(appendKey(b, k), p.off), p.back)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
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
	if crc32.ChecksumIEEE(b) != sum || b[0] != tokenVersion || binary.BigEndian.Uint32(b[1:]) != scope {
		return nil, ErrBadToken
	}
	d := decoder{b: b[5:]}
	t := &token{positions: map[sourceKey]position{}}
	if at := d.varint(); at != 0 {
		t.mark.at = time.Unix(0, at).UTC()
	}
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
	var k sourceKey
	if len(d.b) >= 8 {
		k.pod = binary.BigEndian.Uint64(d.b)
	}
	d.take(8)
	k.number = d.varint()
	return k
}
