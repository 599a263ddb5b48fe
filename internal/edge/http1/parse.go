package http1

import (
	"bytes"
	"net/http"
)

const (
	// maxFields is how many fields a head may have, maxTrailer how many bytes the trailer of a body.
	maxFields  = 256
	maxTrailer = 16 << 10
	maxMethod  = 32
)

// ParseError is why a message is not taken.
type ParseError struct {
	Status int    // what a client is answered that sent it
	Reason string // in words
}

// Error returns the reason.
func (e *ParseError) Error() string { return "malformed message: " + e.Reason }

func bad(reason string) *ParseError { return &ParseError{http.StatusBadRequest, reason} }

// What can be wrong with a message. These are values, as refusing must not cost more than serving.
var (
	errBareLF        = bad("a line ends without CR")
	errEmptyLine     = bad("it begins with an empty line")
	errRequestLine   = bad("the request line is none")
	errMethod        = bad("the method is not a token")
	errTarget        = bad("the request target is none")
	errVersion       = &ParseError{http.StatusHTTPVersionNotSupported, "the version is not HTTP/1.0 or HTTP/1.1"}
	errStatusLine    = bad("the status line is none")
	errFold          = bad("a line is folded")
	errFieldName     = bad("a field has no name, or one that is not a token")
	errFieldValue    = bad("a field has a control character in its value")
	errFieldCount    = &ParseError{http.StatusRequestHeaderFieldsTooLarge, "there are too many fields"}
	errHeadSize      = &ParseError{http.StatusRequestHeaderFieldsTooLarge, "the head is too long"}
	errHost          = bad("there is not exactly one Host, or it is none")
	errLength        = bad("there is more than one Content-Length, or it is no number")
	errBothFramings  = bad("there are both Content-Length and Transfer-Encoding")
	errOldChunked    = bad("HTTP/1.0 knows no Transfer-Encoding")
	errEncoding      = &ParseError{http.StatusNotImplemented, "the transfer encoding is not chunked"}
	errExpectation   = &ParseError{http.StatusExpectationFailed, "the expectation is not 100-continue"}
	errConnection    = bad("Connection is not a list of tokens")
	errUpgradeHeader = bad("Upgrade is given twice")
	errChunk         = bad("a chunk is malformed")
	errTrailerField  = bad("a trailer field is malformed or must not be one")
)

// head is what requests and responses have in common.
type head struct {
	Fields []Field
	Minor  int // of the version: HTTP/1.Minor
	// Length is that of the body as Content-Length says, -1 if it does not say.
	Length  int64
	Chunked bool
	// upgrade is the protocol to change to, as both Connection and Upgrade say; nil if they do not.
	upgrade   []byte
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
}

// Request is the head of a request. Its texts lie in the connection's buffer and are valid until it is answered.
type Request struct {
	head
	Method []byte
	// Path and Query are the parts of the target, as they came. Path begins with a slash, except for CONNECT and "*".
	Path, Query []byte
	HasQuery    bool
	Host        []byte // of an absolute target, or the Host field; empty if there is none
	expect      bool   // 100-continue
	trailers    bool   // TE: trailers
}

// Response is the head of a response.
type Response struct {
	head
	Status int
	Reason []byte
}

// Field returns the value of a field, nil if there is none, and how often it is there.
func (h *head) Field(id FieldID) (value []byte, n int) {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.ID == id {
			if n == 0 {
				value = f.Value
			}
			n++
		}
	}
	return value, n
}

// headEnd looks for the empty line that ends a head, from position from on, before which it was looked for already. It
// returns the length of the head with that line, 0 if it is not there yet. strict refuses lines without CR.
func headEnd(b []byte, from int, strict bool) (int, error) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, nil
		}
		i += from
		cr := i > 0 && b[i-1] == '\r'
		if strict && !cr {
			return 0, errBareLF
		}
		line := i
		if cr {
			line--
		}
		if line == 0 {
			return 0, errEmptyLine
		}
		if b[line-1] == '\n' {
			return i + 1, nil
		}
		from = i + 1
	}
}

// cutLine cuts the first line off a head, which has only whole lines.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return b, nil
	}
	line, rest = b[:i], b[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest
}

// parse reads the head of a request, which is whole and ends with its empty line.
func (r *Request) parse(b []byte) error {
	*r = Request{head: head{Fields: r.Fields[:0], Length: -1}}
	line, rest := cutLine(b)
	target, err := r.parseLine(line)
	if err != nil {
		return err
	}
	if err := r.parseFields(rest); err != nil {
		return err
	}
	hosts := 0
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.ID {
		case Host:
			hosts++
			r.Host = f.Value
		case Expect:
			if !equalFold(f.Value, "100-continue") {
				return errExpectation
			}
			r.expect = r.Minor > 0
		case TE:
			for list := f.Value; list != nil; {
				var t []byte
				t, list = nextToken(list)
				r.trailers = r.trailers || equalFold(t, "trailers")
			}
		default: // means nothing here
		}
	}
	if hosts > 1 || hosts == 0 && r.Minor > 0 || !validHost(r.Host) {
		return errHost
	}
	if err := r.parseTarget(target); err != nil {
		return err
	}
	return r.framing()
}

func (r *Request) parseLine(line []byte) (target []byte, err error) {
	i := bytes.IndexByte(line, ' ')
	if i < 0 {
		return nil, errRequestLine
	}
	r.Method, line = line[:i], line[i+1:]
	if i == 0 || i > maxMethod || !all(r.Method, isToken) {
		return nil, errMethod
	}
	i = bytes.IndexByte(line, ' ')
	if i < 0 {
		return nil, errRequestLine
	}
	target = line[:i]
	if i == 0 || !all(target, isTarget) {
		return nil, errTarget
	}
	var ok bool
	r.Minor, ok = version(line[i+1:])
	if !ok {
		if v, found := bytes.CutPrefix(line[i+1:], []byte("HTTP/")); !found || len(v) != 3 || v[1] != '.' || v[0] < '0' || v[0] > '9' || v[2] < '0' || v[2] > '9' {
			return nil, errRequestLine
		}
		return nil, errVersion
	}
	return target, nil
}

func version(b []byte) (minor int, ok bool) {
	if len(b) != len("HTTP/1.1") || string(b[:7]) != "HTTP/1." || b[7] != '0' && b[7] != '1' {
		return 0, false
	}
	return int(b[7] - '0'), true
}

// parseTarget takes the four forms of RFC 9112, section 3.2. The host in a target goes before the Host field.
func (r *Request) parseTarget(t []byte) error {
	switch {
	case string(r.Method) == http.MethodConnect:
		if !validHost(t) {
			return errTarget
		}
		r.Path, r.Host = t, t
		return nil
	case t[0] == '/':
	case string(t) == "*" && string(r.Method) == http.MethodOptions:
		r.Path = t
		return nil
	default:
		n := 0
		switch {
		case len(t) > 8 && equalFold(t[:8], "https://"):
			n = 8
		case len(t) > 7 && equalFold(t[:7], "http://"):
			n = 7
		default:
			return errTarget
		}
		t = t[n:]
		end := bytes.IndexAny(t, "/?")
		if end < 0 {
			end = len(t)
		}
		r.Host, t = t[:end], t[end:]
		if end == 0 || !validHost(r.Host) {
			return errHost
		}
	}
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		r.Path, r.Query, r.HasQuery = t[:i], t[i+1:], true
	} else {
		r.Path = t
	}
	if len(r.Path) == 0 {
		r.Path = slash
	}
	for i, c := range r.Path {
		if c == '%' && (i+2 >= len(r.Path) || !isHex(r.Path[i+1]) || !isHex(r.Path[i+2])) {
			return errTarget
		}
	}
	return nil
}

var slash = []byte("/")

// validHost takes a name or an address with or without a port, and nothing, which HTTP allows.
func validHost(b []byte) bool {
	if len(b) > 0 && b[0] == '[' {
		i := bytes.IndexByte(b, ']')
		if i < 2 {
			return false
		}
		for _, c := range b[1:i] {
			if !isHex(c) && c != ':' && c != '.' {
				return false
			}
		}
		b = b[i+1:]
		return len(b) == 0 || b[0] == ':' && validPort(b[1:])
	}
	if i := bytes.IndexByte(b, ':'); i >= 0 {
		return i > 0 && all(b[:i], isHost) && validPort(b[i+1:])
	}
	return all(b, isHost)
}

func validPort(b []byte) bool {
	_, ok := decimal(b)
	return len(b) == 0 || ok && len(b) <= 5
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// parse reads the head of a response, which is whole and ends with its empty line. What servers get away with
// everywhere else is taken: lines without CR, and no reason phrase. As the head is written anew, nobody behind us sees it.
func (r *Response) parse(b []byte) error {
	*r = Response{head: head{Fields: r.Fields[:0], Length: -1}}
	line, rest := cutLine(b)
	if len(line) < len("HTTP/1.1 200") || line[8] != ' ' {
		return errStatusLine
	}
	var ok bool
	if r.Minor, ok = version(line[:8]); !ok {
		return errVersion
	}
	status, ok := decimal(line[9:12])
	if !ok || status < 100 {
		return errStatusLine
	}
	r.Status = int(status)
	if len(line) > 12 {
		if line[12] != ' ' || !all(line[13:], isValue) {
			return errStatusLine
		}
		r.Reason = line[13:]
	}
	if err := r.parseFields(rest); err != nil {
		return err
	}
	return r.framing()
}

// parseFields reads the lines of a head up to the empty one, and what Connection says about them.
func (h *head) parseFields(b []byte) error {
	options := false
	for {
		var line []byte
		if line, b = cutLine(b); len(line) == 0 {
			break
		}
		f, err := parseField(line)
		if err != nil {
			return err
		}
		if len(h.Fields) == maxFields {
			return errFieldCount
		}
		h.Fields = append(h.Fields, f)
		options = options || f.ID == Connection
	}
	if options {
		return h.connection()
	}
	return nil
}

func parseField(line []byte) (Field, error) {
	if line[0] == ' ' || line[0] == '\t' {
		return Field{}, errFold
	}
	i := bytes.IndexByte(line, ':')
	if i <= 0 || !all(line[:i], isToken) {
		return Field{}, errFieldName
	}
	value := trim(line[i+1:])
	if !all(value, isValue) {
		return Field{}, errFieldValue
	}
	return Field{Name: line[:i], Value: value, ID: identify(line[:i])}, nil
}

// connection obeys the Connection fields.
func (h *head) connection() error {
	upgrade := false
	for i := range h.Fields {
		if h.Fields[i].ID != Connection {
			continue
		}
		for list := h.Fields[i].Value; list != nil; {
			var option []byte
			option, list = nextToken(list)
			switch {
			case !all(option, isToken):
				return errConnection
			case equalFold(option, "close"):
				h.close = true
			case equalFold(option, "keep-alive"):
				h.keepAlive = true
			case equalFold(option, "upgrade"):
				upgrade = true
			default:
				h.mark(option)
			}
		}
	}
	if !upgrade || h.Minor == 0 {
		return nil
	}
	for i := range h.Fields {
		if f := &h.Fields[i]; f.ID == Upgrade {
			if h.upgrade != nil {
				return errUpgradeHeader
			}
			h.upgrade = f.Value
		}
	}
	return nil
}

// mark makes the fields of a name go no further.
func (h *head) mark(name []byte) {
	for i := range h.Fields {
		if f := &h.Fields[i]; bytes.EqualFold(f.Name, name) {
			f.hop = true
		}
	}
}

// framing finds out where the body ends. Everything that two readers could understand in two ways is an error.
func (h *head) framing() error {
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.ID {
		case ContentLength:
			n, ok := decimal(f.Value)
			if !ok || h.Length >= 0 {
				return errLength
			}
			h.Length = n
		case TransferEncoding:
			if h.Chunked || !equalFold(f.Value, "chunked") {
				return errEncoding
			}
			h.Chunked = true
		default: // says nothing of that
		}
	}
	switch {
	case h.Chunked && h.Length >= 0:
		return errBothFramings
	case h.Chunked && h.Minor == 0:
		return errOldChunked
	}
	return nil
}

// persistent reports whether the sender keeps the connection open after this message.
func (h *head) persistent() bool { return !h.close && (h.Minor > 0 || h.keepAlive) }

// hasBody reports whether a body follows, which may be an empty one if it is chunked.
func (r *Request) hasBody() bool { return r.Chunked || r.Length > 0 }
