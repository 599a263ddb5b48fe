package metrics

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/trysail/trysail"
)

// A file of points is the magic text and then frames, in the order in which they were written:
//
//	length of the payload   uvarint
//	payload                 minute since 1970, version, flags, then the groups that the flags name, all uvarint
//	CRC-32C of the payload  4 bytes, little endian
//
// A damaged frame costs that frame alone: a reader goes on byte by byte until it finds the next one whose sum is right.
// What an older program does not know follows what it knows, and is ignored.
const (
	magic = "TSMETR1\n"
	// maxPayload is more than any payload has: 84 buckets, and 40 other numbers, of at most 11 bytes.
	maxPayload = 2048
)

// The flags of a payload say which groups it has. Groups of zeros are left out.
const (
	hasCPU = 1 << iota
	hasMemory
	hasThrottling
	hasTraffic
	hasLatency
	hasEvents

	hasAll = hasCPU | hasMemory | hasThrottling | hasTraffic | hasLatency | hasEvents
)

// groupsOf is what has to be read for some metrics; all for none.
func groupsOf(metrics []string) (groups int64) {
	for _, name := range metrics {
		switch name {
		case trysail.MetricCPU:
			groups |= hasCPU
		case trysail.MetricMemory:
			groups |= hasMemory
		case trysail.MetricThrottling:
			groups |= hasThrottling
		case trysail.MetricLatency:
			groups |= hasLatency
		case trysail.MetricRestarts, trysail.MetricProbeFailures:
			groups |= hasEvents
		default:
			groups |= hasTraffic
		}
	}
	if groups == 0 {
		return hasAll
	}
	return groups
}

var errDamaged = errors.New("damaged")

// castagnoli is the table of CRC-32C; the processor computes it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendFrame appends the frame of a point.
func appendFrame(b []byte, p *Point) []byte {
	var payload [maxPayload]byte
	text := appendPayload(payload[:0], p)
	b = binary.AppendUvarint(b, uint64(len(text)))
	b = append(b, text...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(text, castagnoli()))
}

func appendPayload(b []byte, p *Point) []byte {
	b = binary.AppendUvarint(b, uint64(p.At.Unix()/60)) //nolint:gosec // never before 1970, see Store.Add
	b = binary.AppendUvarint(b, uint64(p.Version))      //nolint:gosec // versions begin with 1
	var flags uint64
	set := func(flag uint64, on bool) {
		if on {
			flags |= flag
		}
	}
	latency := measured(&p.Latency) > 0
	set(hasCPU, p.CPU.Count > 0)
	set(hasMemory, p.Memory.Count > 0)
	set(hasThrottling, p.Throttling.Count > 0)
	set(hasTraffic, p.ended() > 0 || p.BytesIn > 0 || p.BytesOut > 0)
	set(hasLatency, latency)
	set(hasEvents, p.Restarts > 0 || p.ProbeFailures > 0)
	b = binary.AppendUvarint(b, flags)
	for _, s := range [...]Summary{p.CPU, p.Memory, p.Throttling} {
		if s.Count > 0 {
			// Differences are small numbers, and small numbers are short.
			b = appendNumbers(b, s.Count, s.Min, s.Max-s.Min, s.Sum-s.Count*s.Min)
		}
	}
	if flags&hasTraffic != 0 {
		b = appendNumbers(b, p.Requests[:]...)
		b = appendNumbers(b, p.BytesIn, p.BytesOut)
	}
	if latency {
		b = appendHistogram(b, &p.Latency)
	}
	if flags&hasEvents != 0 {
		b = appendNumbers(b, p.Restarts, p.ProbeFailures)
	}
	return b
}

func appendNumbers(b []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, uint64(max(n, 0)))
	}
	return b
}

// appendHistogram writes how many buckets are in use, and for each how many before it are not, and its count.
func appendHistogram(b []byte, h *trysail.Histogram) []byte {
	used := 0
	for _, n := range h {
		if n > 0 {
			used++
		}
	}
	b = binary.AppendUvarint(b, uint64(used))
	gap := int64(0)
	for _, n := range h {
		if n == 0 {
			gap++
			continue
		}
		b = appendNumbers(b, gap, n)
		gap = 0
	}
	return b
}

// reader reads numbers from a payload; after the first that is not there all are 0, and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() int64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > 1<<62 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return int64(n)
}

func (r *reader) err() error {
	if r.bad {
		return errDamaged
	}
	return nil
}

func (r *reader) summary() (s Summary) {
	s.Count, s.Min, s.Max, s.Sum = r.number(), r.number(), r.number(), r.number()
	s.Max += s.Min
	s.Sum += s.Count * s.Min
	return s
}

func (r *reader) histogram(h *trysail.Histogram) {
	i := int64(-1)
	for range r.number() {
		i += 1 + r.number()
		n := r.number()
		if r.bad || i < 0 || i >= int64(len(h)) {
			r.bad = true
			return
		}
		h[i] = n
	}
}

// decodePayload fills p, which is overwritten. It stops when it has the groups that are wanted; others may be there too.
func decodePayload(payload []byte, p *Point, wanted int64) error {
	p.reset(wanted)
	r := reader{b: payload}
	minute := r.number()
	version := r.number()
	flags := r.number()
	if r.bad || minute > 1<<36 || version > 1<<31 {
		return errDamaged
	}
	p.At, p.Version = time.Unix(minute*60, 0).UTC(), int(version)
	for _, group := range [...]struct {
		flag int64
		into *Summary
	}{{hasCPU, &p.CPU}, {hasMemory, &p.Memory}, {hasThrottling, &p.Throttling}} {
		if flags&group.flag != 0 {
			*group.into = r.summary()
		}
		if wanted < group.flag<<1 {
			return r.err()
		}
	}
	if flags&hasTraffic != 0 {
		for i := range p.Requests {
			p.Requests[i] = r.number()
		}
		p.BytesIn, p.BytesOut = r.number(), r.number()
	}
	if wanted < hasLatency {
		return r.err()
	}
	if flags&hasLatency != 0 {
		histogram := &p.Latency
		if wanted&hasLatency == 0 {
			histogram = &trysail.Histogram{} // what comes after it is wanted
		}
		r.histogram(histogram)
	}
	if flags&hasEvents != 0 {
		p.Restarts, p.ProbeFailures = r.number(), r.number()
	}
	return r.err()
}

// reset makes everything zero that is read for those groups.
func (p *Point) reset(wanted int64) {
	if wanted&hasLatency != 0 {
		p.Latency = trysail.Histogram{}
	}
	p.CPU, p.Memory, p.Throttling = Summary{}, Summary{}, Summary{}
	p.Requests = [6]int64{}
	p.BytesIn, p.BytesOut, p.Restarts, p.ProbeFailures = 0, 0, 0, 0
}

// frame splits the first frame off. Errors: errDamaged.
func frame(b []byte) (payload, rest []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n == 0 || n > maxPayload || len(b) < size+int(n)+4 {
		return nil, nil, errDamaged
	}
	payload, rest = b[size:size+int(n)], b[size+int(n):]
	if binary.LittleEndian.Uint32(rest) != crc32.Checksum(payload, castagnoli()) {
		return nil, nil, errDamaged
	}
	return payload, rest[4:], nil
}

// decode calls each with every point of a file's content whose time is in [from, to), with the groups that are wanted; each must not keep the point. It
// returns how many bytes were passed over because they are damaged.
func decode(b []byte, from, to time.Time, wanted int64, each func(*Point)) (damaged int) {
	if len(b) >= len(magic) && string(b[:len(magic)]) == magic {
		b = b[len(magic):]
	}
	first, end := from.Unix(), to.Unix()
	var p Point
	for len(b) > 0 {
		payload, rest, err := frame(b)
		if err == nil {
			err = decodePayload(payload, &p, wanted)
		}
		if err != nil || p.At.Unix() < first || p.At.Unix() >= end {
			b = b[1:]
			damaged++
			continue
		}
		each(&p)
		b = rest
	}
	return damaged
}
