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

func parseRecord(line []byte) (record, bool) {
	// A file whose machine lost power may have zeros where blocks were never written.
	line = bytes.TrimLeft(line, "\x00")
	at, rest, ok := bytes.Cut(line, space)
	if !ok || len(at) < len("2006-01-02T15:04:05Z") || len(at) > len("2006-01-02T15:04:05.999999999+07:00") {
		return record{}, false
	}
	stream, rest, ok := bytes.Cut(rest, space)
	if !ok {
		return record{}, false
	}
	tag, text, ok := bytes.Cut(rest, space)
	if !ok || len(tag) == 0 {
		return record{}, false
	}
	r := record{partial: tag[0] == 'P', text: text}
	switch string(stream) {
	case "stdout":
	case "stderr":
		r.stream = 1
	default:
		return record{}, false
	}
	var err error
	r.at, err = time.Parse(timeLayout, string(at))
	return r, err == nil && (r.partial || tag[0] == 'F')
}

var space = []byte(" ")

// appendRecord adds the record of a whole line to b.
func appendRecord(b []byte, at time.Time, text string) []byte {
	b = at.UTC().AppendFormat(b, timeLayout)
	b = append(b, " stdout F "...)
	b = append(b, text...)
	return append(b, '\n')
}

// joiner makes lines out of records.
type joiner struct {
	parts [2]part // by stream
	last  time.Time
}

// part is the beginning of a line whose end has not been read yet.
type part struct {
	text  []byte
	start int64 // offset of its first record
	open  bool
	at    time.Time
}

// add takes the next line of the file, which begins at offset. It returns the text of the line that is complete with
// it, if any; the text is valid until the next call. A line is as old as its last part, so that times ascend.
func (j *joiner) add(line []byte, offset int64) (at time.Time, text []byte, ok bool) {
	r, valid := parseRecord(line)
	if !valid {
		// Not written by us or the engine. It is shown as it is, at the time of what stands before it.
		line = bytes.Trim(line, "\x00")
		return j.last, line, !j.last.IsZero() && len(line) > 0
	}
	j.last = r.at
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
			at, text = p.at, p.text
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
