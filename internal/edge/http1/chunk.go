package http1

import (
	"bytes"
	"io"
)

// maxChunkLine is how long the line before a chunk may be. Extensions, which nobody uses, are skipped.
const maxChunkLine = 256

// chunked takes a body out of its chunks. The zero value is ready.
type chunked struct {
	state   chunkState
	left    int64 // bytes of the current chunk that have not come yet
	line    int   // length of the current line
	digits  int
	trailer []byte // lines of the trailer
	trailed int    // how far the trailer's end was looked for
	failed  error  // stays: nothing after it means anything
}

type chunkState uint8

const (
	inSize   chunkState = iota
	inBlanks            // behind the size, as some pad it
	inExtension
	inSizeCR
	inData
	afterData
	afterDataCR
	inTrailer
	chunksDone
)

// next takes the next piece of data out of b. It returns it and how much of b is used up. At the end of the body, after its
// trailer, the error is io.EOF; what is left of b then is not the body's. Without data and error, all of b is used up.
func (c *chunked) next(b []byte) (data []byte, used int, err error) {
	if c.failed != nil {
		return nil, 0, c.failed
	}
	for used < len(b) {
		switch c.state {
		case inData:
			n := min(int64(len(b)-used), c.left)
			data = b[used : used+int(n)]
			used += int(n)
			if c.left -= n; c.left == 0 {
				c.state = afterData
			}
			return data, used, nil
		case inTrailer:
			n, err := c.trailing(b[used:])
			if err != io.EOF { //nolint:errorlint // trailing returns it as it is
				c.failed = err
			}
			return nil, used + n, err
		case chunksDone:
			return nil, used, io.EOF
		default:
			if c.failed = c.step(b[used]); c.failed != nil {
				return nil, used, c.failed
			}
			used++
		}
	}
	if c.state == chunksDone {
		err = io.EOF
	}
	return nil, used, err
}

// step takes one byte between the data.
func (c *chunked) step(b byte) error {
	switch c.state {
	case inSize:
		switch v := unhex(b); {
		case v >= 0:
			if c.digits++; c.digits > 15 {
				return errChunk
			}
			c.left = c.left<<4 | int64(v)
		case c.digits == 0:
			return errChunk
		case b == '\r':
			c.state = inSizeCR
		case b == ';':
			c.state = inExtension
		case b == ' ', b == '\t':
			c.state = inBlanks
		default:
			return errChunk
		}
	case inBlanks:
		switch b {
		case '\r':
			c.state = inSizeCR
		case ' ', '\t':
		default:
			return errChunk
		}
	case inExtension:
		if b == '\r' {
			c.state = inSizeCR
		} else if class[b]&isValue == 0 {
			return errChunk
		}
	case inSizeCR:
		if b != '\n' {
			return errChunk
		}
		c.state = inData
		if c.left == 0 {
			c.state = inTrailer
		}
		c.line, c.digits = 0, 0
		return nil
	case afterData:
		if b != '\r' {
			return errChunk
		}
		c.state = afterDataCR
	case afterDataCR:
		if b != '\n' {
			return errChunk
		}
		c.state = inSize
		return nil
	default: // next takes the others
	}
	if c.line++; c.line > maxChunkLine {
		return errChunk
	}
	return nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// trailing collects the trailer's lines until the empty one.
func (c *chunked) trailing(b []byte) (used int, err error) {
	for {
		i := bytes.IndexByte(b[used:], '\n')
		if i < 0 {
			c.trailer = append(c.trailer, b[used:]...)
			if len(c.trailer) > maxTrailer {
				return len(b), errTrailerField
			}
			return len(b), nil
		}
		c.trailer = append(c.trailer, b[used:used+i+1]...)
		used += i + 1
		n := len(c.trailer)
		switch {
		case n > maxTrailer:
			return used, errTrailerField
		case n < 2 || c.trailer[n-2] != '\r':
			return used, errBareLF
		case n-c.trailed == 2:
			c.trailer = c.trailer[:n-2]
			c.state = chunksDone
			return used, io.EOF
		}
		// Each line is looked at, even if nobody wants the body any more: what follows it would be the next request.
		line, _ := cutLine(c.trailer[c.trailed:])
		if f, err := parseField(line); err != nil || f.ID == TransferEncoding || f.ID == ContentLength || f.ID == Trailer {
			return used, errTrailerField
		}
		c.trailed = n
	}
}

// appendTrailer appends the lines of the trailer that go further. Fields that say where a message goes, how long it is or
// who sent it must not come after it.
func (c *chunked) appendTrailer(b []byte) []byte {
	for rest := c.trailer; len(rest) > 0; {
		var line []byte
		line, rest = cutLine(rest)
		f, _ := parseField(line) // it has none, or trailing would have found it
		if f.HopByHop() || f.ID != Other && f.ID != Date {
			continue
		}
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), crlf...)
	}
	return b
}

const crlf = "\r\n"

// appendChunk appends data as a chunk.
func appendChunk(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	b = append(appendHex(b, len(data)), crlf...)
	return append(append(b, data...), crlf...)
}

func appendHex(b []byte, n int) []byte {
	const digits = "0123456789abcdef"
	var text [16]byte
	i := len(text)
	for {
		i--
		text[i] = digits[n&15]
		if n >>= 4; n == 0 {
			return append(b, text[i:]...)
		}
	}
}
