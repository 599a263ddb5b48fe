package logs

import (
	"bytes"
	"slices"
	"time"
)

// maxText is the longest line of a container, in bytes. A longer one becomes several events.
const maxText = 1 << 20

// timeLayout is the form of the times in log files, CRI's own.
const timeLayout = time.RFC3339Nano

// record is one line of a log file: "<time> <stdout|stderr> <P|F> <text>". P marks a part of a line that the next
// record of the same stream continues; F is the end of a line.
type record struct {
	at      time.Time
	stream  int // 0 stdout, 1 stderr
	partial bool
	text    []byte // shares memory with the parsed line
}

// splitRecord takes a record apart, except for its time, which is not checked.
func splitRecord(line []byte) (stream int, partial bool, text []byte, ok bool) {
	at := bytes.IndexByte(line, ' ')
	if at < len("2006-01-02T15:04:05Z") || len(line) < at+len(" stdout F ") {
		return 0, false, nil, false
	}
	rest := line[at+1:]
	switch {
	case bytes.HasPrefix(rest, streamNames[0]):
	case bytes.HasPrefix(rest, streamNames[1]):
		stream = 1
	default:
		return 0, false, nil, false
	}
	rest = rest[len("stdout "):]
	tag := bytes.IndexByte(rest, ' ')
	if tag <= 0 || rest[0] != 'P' && rest[0] != 'F' {
		return 0, false, nil, false
	}
	return stream, rest[0] == 'P', rest[tag+1:], true
}

var streamNames = [2][]byte{[]byte("stdout "), []byte("stderr ")}

// parseRecord reads a line of a log file. ok is false if it is none of a writer's.
func parseRecord(line []byte) (r record, ok bool) {
	// A file whose machine lost power may have zeros where blocks were never written.
	line = bytes.TrimLeft(line, "\x00")
	stream, partial, text, ok := splitRecord(line)
	if !ok {
		return record{}, false
	}
	at, ok := parseTime(line[:bytes.IndexByte(line, ' ')])
	return record{at: at, stream: stream, partial: partial, text: text}, ok
}

// parseTime reads a time, quickly if it has the form that our writers give it.
func parseTime(b []byte) (time.Time, bool) {
	if len(b) > len("2006-01-02T15:04:05.999999999+07:00") {
		return time.Time{}, false
	}
	if len(b) == len("2006-01-02T15:04:05.000000000Z") && b[10] == 'T' && b[19] == '.' && b[29] == 'Z' && b[4] == '-' && b[7] == '-' && b[13] == ':' && b[16] == ':' {
		year, ok1 := digits(b[0:4])
		month, ok2 := digits(b[5:7])
		day, ok3 := digits(b[8:10])
		hour, ok4 := digits(b[11:13])
		minute, ok5 := digits(b[14:16])
		second, ok6 := digits(b[17:19])
		nanos, ok7 := digits(b[20:29])
		if ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7 && month >= 1 && month <= 12 && day >= 1 && day <= 28 && hour < 24 && minute < 60 && second < 60 {
			return time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC), true
		}
	}
	at, err := time.Parse(timeLayout, string(b))
	return at.UTC(), err == nil
}

func digits(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

// lastTime returns the time of the last well-formed record of whole lines.
func lastTime(b []byte) (time.Time, bool) {
	for len(b) > 0 {
		i := bytes.LastIndexByte(bytes.TrimSuffix(b, newline), '\n') + 1
		if r, ok := parseRecord(bytes.TrimSuffix(b[i:], newline)); ok {
			return r.at, true
		}
		b = b[:i]
	}
	return time.Time{}, false
}

// recordTimes returns the times of the first and the last well-formed record of whole lines, in Unix nanoseconds.
func recordTimes(b []byte) (first, last int64) {
	for line := range bytes.Lines(b) {
		if r, ok := parseRecord(bytes.TrimSuffix(line, newline)); ok {
			first = r.at.UnixNano()
			break
		}
	}
	if at, ok := lastTime(b); ok {
		last = at.UnixNano()
	}
	return first, last
}

// appendRecord adds the record of a whole line to b.
func appendRecord(b []byte, at time.Time, text string) []byte {
	b = at.UTC().AppendFormat(b, timeLayout)
	b = append(b, " stdout F "...)
	b = append(b, text...)
	return append(b, '\n')
}

// joiner makes lines out of records.
type joiner struct {
	parts  [2]part // by stream
	last   time.Time
	stream int // of the line that was returned last
}

// part is the beginning of a line whose end has not been read yet.
type part struct {
	text  []byte
	start int64 // offset of its first record
	open  bool
	at    time.Time
}

// unfinished reports whether the beginning of a line was added and its end was not.
func (j *joiner) unfinished() bool { return j.parts[0].open || j.parts[1].open }

// add takes the next line of the file, which begins at offset. It returns the text of the line that is complete with
// it, if any; the text is valid until the next call. A line is as old as its last part, so that times ascend. Its
// stream is then in j.stream.
func (j *joiner) add(line []byte, offset int64) (at time.Time, text []byte, ok bool) {
	r, valid := parseRecord(line)
	if !valid {
		// Not written by us or the engine. It is shown as it is, at the time of what stands before it.
		line = bytes.Trim(line, "\x00")
		j.stream = 0
		return j.last, line, !j.last.IsZero() && len(line) > 0
	}
	j.last, j.stream = r.at, r.stream
	p := &j.parts[r.stream]
	if !p.open && !r.partial {
		return r.at, r.text, true
	}
	if r.partial && len(p.text) > 0 && len(p.text)+len(r.text) > maxText {
		at, text = p.at, p.text
		*p = part{text: slices.Clone(r.text), start: offset, open: true, at: r.at}
		return at, text, true
	}
	if !p.open {
		*p = part{text: p.text[:0], start: offset, open: true}
	}
	p.text, p.at = append(p.text, r.text...), r.at
	if r.partial {
		return time.Time{}, nil, false
	}
	text = p.text
	*p = part{text: p.text[:0]}
	return r.at, text, true
}

// flush returns an unfinished line whose end will never come.
func (j *joiner) flush() (at time.Time, text []byte, ok bool) {
	for i := range j.parts {
		if p := &j.parts[i]; p.open {
			at, text, j.stream = p.at, p.text, i
			*p = part{}
			return at, text, true
		}
	}
	return time.Time{}, nil, false
}

// back is how far before offset the reading must begin again to have the unfinished lines.
func (j *joiner) back(offset int64) int64 {
	first := offset
	for _, p := range j.parts {
		if p.open {
			first = min(first, p.start)
		}
	}
	return offset - first
}
