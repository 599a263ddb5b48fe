package http1

import "bytes"

// FieldID says which of the fields it is that a proxy has to know; Other if it is none of them.
type FieldID uint8

// The fields that are known.
const (
	Other FieldID = iota
	Host
	ContentLength
	TransferEncoding
	Connection
	KeepAlive
	ProxyConnection
	ProxyAuthenticate
	ProxyAuthorization
	TE
	Trailer
	Upgrade
	Expect
	Date
	UserAgent
	Referer
	Forwarded
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedProto
	XRequestID
	AltSvc
	StrictTransportSecurity
)

// Field is a line of a head. Its texts lie in the buffer of the connection and are valid as long as its message.
type Field struct {
	Name, Value []byte
	ID          FieldID
	hop         bool // named by Connection: it goes no further
}

// HopByHop reports whether the field is for this connection only, or is written anew.
func (f *Field) HopByHop() bool {
	switch f.ID {
	case Host, ContentLength, TransferEncoding, Connection, KeepAlive, ProxyConnection, ProxyAuthenticate, ProxyAuthorization, TE, Trailer, Upgrade, Expect:
		return true
	default:
		return f.hop
	}
}

// identify finds the ID of a field name.
func identify(name []byte) FieldID {
	switch len(name) {
	case 2:
		return match(name, "te", TE)
	case 4:
		return match(name, "host", Host) | match(name, "date", Date)
	case 6:
		return match(name, "expect", Expect)
	case 7:
		return match(name, "upgrade", Upgrade) | match(name, "trailer", Trailer) | match(name, "referer", Referer) | match(name, "alt-svc", AltSvc)
	case 9:
		return match(name, "forwarded", Forwarded)
	case 10:
		return match(name, "connection", Connection) | match(name, "keep-alive", KeepAlive) | match(name, "user-agent", UserAgent)
	case 12:
		return match(name, "x-request-id", XRequestID)
	case 14:
		return match(name, "content-length", ContentLength)
	case 15:
		return match(name, "x-forwarded-for", XForwardedFor)
	case 16:
		return match(name, "x-forwarded-host", XForwardedHost) | match(name, "x-forwarded-port", XForwardedPort) | match(name, "proxy-connection", ProxyConnection)
	case 17:
		return match(name, "transfer-encoding", TransferEncoding) | match(name, "x-forwarded-proto", XForwardedProto)
	case 18:
		return match(name, "proxy-authenticate", ProxyAuthenticate)
	case 19:
		return match(name, "proxy-authorization", ProxyAuthorization)
	case 25:
		return match(name, "strict-transport-security", StrictTransportSecurity)
	}
	return Other
}

// match is id if name is lower in any case, and Other, which is 0, if not.
func match(name []byte, lower string, id FieldID) FieldID {
	if equalFold(name, lower) {
		return id
	}
	return Other
}

// equalFold compares ASCII regardless of case. lower is in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// classes of bytes.
const (
	isToken  = 1 << iota // in methods and field names
	isValue              // in field values and reason phrases
	isTarget             // in request targets
	isHost               // in the name part of Host
	isPath               // in paths; others are escaped
)

// class holds the classes of each byte.
var class = func() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		alnum := '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
		if alnum || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0 {
			t[c] |= isToken
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= isValue
		}
		if b > ' ' && b != 0x7f {
			t[c] |= isTarget
		}
		if alnum || bytes.IndexByte([]byte("-._~!$&'()*+,;="), b) >= 0 {
			t[c] |= isHost
		}
		if b < 0x80 && bytes.IndexByte([]byte("\"#<>\\^`{|}"), b) < 0 {
			t[c] |= isPath
		}
	}
	return t
}()

func all(b []byte, want uint8) bool {
	for _, c := range b {
		if class[c]&want == 0 {
			return false
		}
	}
	return true
}

var comma = []byte(",")

// nextToken cuts the first element off a comma-separated list.
func nextToken(list []byte) (token, rest []byte) {
	token, rest, _ = bytes.Cut(list, comma)
	return trim(token), rest
}

// trim removes blanks and tabs at both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// decimal reads digits and nothing else. 18 of them cannot overflow.
func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
