package http1

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// requestCases are heads of requests and the status they get; 200 stands for those that are taken.
var requestCases = []struct {
	name, head string
	status     int
}{
	{"plain", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 200},
	{"host with port", "GET / HTTP/1.1\r\nHost: h.example:8080\r\n\r\n", 200},
	{"host in brackets", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200},
	{"no blank after the colon", "GET / HTTP/1.1\r\nHost:h\r\n\r\n", 200},
	{"blanks around the value", "GET / HTTP/1.1\r\nHost: \t h \t \r\n\r\n", 200},
	{"1.0 without host", "GET / HTTP/1.0\r\n\r\n", 200},
	{"1.0 with host", "GET / HTTP/1.0\r\nHost: h\r\n\r\n", 200},
	{"query", "GET /?a=b&c=%zz;?? HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"escaped path", "GET /a%2Fb/../c//d HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"utf-8 path", "GET /ü HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"two slashes", "GET //evil.example/ HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"absolute", "GET http://h/a HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"absolute https", "GET HTTPS://h/a?b HTTP/1.1\r\nHost: other\r\n\r\n", 200},
	{"absolute without path", "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"absolute with query only", "GET http://h?x HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"connect", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 200},
	{"strange method", "M-SEARCH!#$ / HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"lower-case method", "get / HTTP/1.1\r\nHost: h\r\n\r\n", 200},
	{"latin-1 value", "GET / HTTP/1.1\r\nHost: h\r\nX: \xe4\r\n\r\n", 200},
	{"tab in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\tb\r\n\r\n", 200},
	{"empty value", "GET / HTTP/1.1\r\nHost: h\r\nX:\r\n\r\n", 200},
	{"colons in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a:b::\r\n\r\n", 200},
	{"all token characters", "GET / HTTP/1.1\r\nHost: h\r\n!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n", 200},
	{"length 0", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 200},
	{"length with zeros", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 000\r\n\r\n", 200},
	{"chunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
	{"CHUNKED", "POST / HTTP/1.1\r\nHost: h\r\ntransfer-ENCODING:\tCHUNKED \r\n\r\n0\r\n\r\n", 200},
	{"chunked GET", "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
	{"connection list", "GET / HTTP/1.1\r\nHost: h\r\nConnection: , keep-alive ,,x-y,\r\n\r\n", 200},
	{"te", "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers, deflate;q=0.5\r\nConnection: TE\r\n\r\n", 200},
	{"connection: content-length", "POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n", 200},
	{"connection: host", "GET / HTTP/1.1\r\nHost: h\r\nConnection: host\r\n\r\n", 200},
	{"expect without body", "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n\r\n", 200},
	{"many fields", "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: b\r\n", maxFields-1) + "\r\n", 200},
	{"long value", "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 12<<10) + "\r\n\r\n", 200},

	{"nothing", "\r\n\r\n", 400},
	{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"bare LF everywhere", "GET / HTTP/1.1\nHost: h\n\n", 400},
	{"bare LF after the request line", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400},
	{"bare LF after a field", "GET / HTTP/1.1\r\nHost: h\n\r\n", 400},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: h\r\n\n", 400},
	{"bare LF in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\nContent-Length: 5\r\n\r\n", 400},
	{"bare CR in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", 400},
	{"bare CR in the request line", "GET /\r HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"CR CR LF", "GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", 400},
	{"CR CR LF after a field", "GET / HTTP/1.1\r\nHost: h\r\nX: y\r\r\n\r\n", 400},
	{"folded", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400},
	{"folded with a tab", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb: c\r\n\r\n", 400},
	{"folded first", "GET / HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n", 400},
	{"folded length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n 5\r\n\r\n", 400},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n", 400},
	{"NUL in a name", "GET / HTTP/1.1\r\nHost: h\r\nX\x00: a\r\n\r\n", 400},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"NUL in the host", "GET / HTTP/1.1\r\nHost: \x00\r\n\r\n", 400},
	{"DEL in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: \x7f\r\n\r\n", 400},
	{"escape in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: \x1b[2J\r\n\r\n", 400},
	{"space before the colon", "GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400},
	{"tab before the colon", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length\t: 5\r\n\r\n", 400},
	{"space in a name", "GET / HTTP/1.1\r\nHost: h\r\nX Y: a\r\n\r\n", 400},
	{"no colon", "GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", 400},
	{"no name", "GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", 400},
	{"utf-8 name", "GET / HTTP/1.1\r\nHost: h\r\nü: a\r\n\r\n", 400},
	{"slash in a name", "GET / HTTP/1.1\r\nHost: h\r\na/b: a\r\n\r\n", 400},
	{"too many fields", "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: b\r\n", maxFields) + "\r\n", 431},
	{"too long", "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", 431},
	{"too long a target", "GET /" + strings.Repeat("x", 20<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", 431},
	{"endless target", "GET /" + strings.Repeat("x", 20<<10), 431},

	{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
	{"the same host twice", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400},
	{"two hosts, 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400},
	{"absolute without host field", "GET http://h/ HTTP/1.1\r\n\r\n", 400},
	{"host list", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
	{"host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
	{"host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
	{"host with markup", "GET / HTTP/1.1\r\nHost: <script>\r\n\r\n", 400},
	{"host with a port that is none", "GET / HTTP/1.1\r\nHost: h:x\r\n\r\n", 400},
	{"host with two ports", "GET / HTTP/1.1\r\nHost: h:1:2\r\n\r\n", 400},
	{"host without a name", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400},
	{"host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
	{"host with an escape", "GET / HTTP/1.1\r\nHost: a%2fb\r\n\r\n", 400},
	{"host list with a comma and a blank", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
	{"host with a quote", "GET / HTTP/1.1\r\nHost: a\"\r\n\r\n", 400},
	{"host in utf-8", "GET / HTTP/1.1\r\nHost: ü\r\n\r\n", 400},
	{"absolute with a user", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"absolute without authority", "GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"absolute of another scheme", "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},

	{"one word", "GET\r\nHost: h\r\n\r\n", 400},
	{"two words", "GET /\r\nHost: h\r\n\r\n", 400},
	{"four words", "GET / x HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"two blanks", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"tab for a blank", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"blank first", " GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"blank last", "GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400},
	{"no method", " / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"method with a colon", "GET: / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"very long method", strings.Repeat("G", 33) + " / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"no slash", "GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"asterisk for GET", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"connect to a path", "CONNECT /a HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"bad escape", "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"escape cut off", "GET /%a HTTP/1.1\r\nHost: h\r\n\r\n", 400},
	{"version 2.0", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505},
	{"version 1.2", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505},
	{"version 0.9", "GET / HTTP/0.9\r\nHost: h\r\n\r\n", 505},
	{"version 1.10", "GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400},
	{"version 1.01", "GET / HTTP/1.01\r\nHost: h\r\n\r\n", 400},
	{"version in lower case", "GET / http/1.1\r\nHost: h\r\n\r\n", 400},
	{"no version", "GET /\r\n", 400},
	{"no version, nothing more", "nonsense\r\n", 400},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},

	{"both framings", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"both framings, turned", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"both framings, length 0", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400},
	{"both framings, length hidden by Connection", "POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"two lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400},
	{"the same length twice", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
	{"length list", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello", 400},
	{"length +5", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello", 400},
	{"length -5", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\nhello", 400},
	{"length 0x5", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\nhello", 400},
	{"length 5.0", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5.0\r\n\r\nhello", 400},
	{"length 5_0", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5_0\r\n\r\nhello", 400},
	{"length in other digits", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ٥\r\n\r\nhello", 400},
	{"empty length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nhello", 400},
	{"huge length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nhello", 400},
	{"length with a blank inside", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1 0\r\n\r\nhello", 400},
	{"encoding identity", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 501},
	{"encoding gzip, chunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
	{"encoding chunked, chunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501},
	{"two encodings", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
	{"empty encoding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n", 501},
	{"encoding xchunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", 501},
	{"encoding with a quote", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 501},
	{"encoding with a parameter", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", 501},
	{"encoding with a vertical tab", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400},
	{"chunked on 1.0", "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"other expectation", "POST / HTTP/1.1\r\nHost: h\r\nExpect: the-best\r\nContent-Length: 0\r\n\r\n", 417},
	{"connection with nonsense", "GET / HTTP/1.1\r\nHost: h\r\nConnection: a b\r\n\r\n", 400},
	{"two upgrades", "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n", 400},
}

// parseHead does what the server does with a head.
func parseHead(r *Request, b []byte, limit int) (int, error) {
	end, err := headEnd(b, 0, true)
	switch {
	case err != nil:
		return 0, err
	case end > limit || end == 0 && len(b) >= limit:
		return 0, errHeadSize
	case end == 0:
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			if _, err := r.parseLine(b[:i-1]); err != nil {
				return 0, err
			}
		}
		return 0, io.ErrUnexpectedEOF
	}
	return end, r.parse(b[:end])
}

func statusOf(err error) int {
	if pe, ok := errors.AsType[*ParseError](err); ok {
		return pe.Status
	}
	return map[bool]int{true: 200, false: 0}[err == nil]
}

func TestRequest_Table(t *testing.T) {
	for _, tt := range requestCases {
		var r Request
		if _, err := parseHead(&r, []byte(tt.head), 16<<10); statusOf(err) != tt.status {
			t.Errorf("%s: %v, want %d", tt.name, err, tt.status)
		}
	}
	t.Logf("%d cases", len(requestCases))
}

// On the socket the same heads get the same status, whole or byte by byte, and what follows a refused one is not served.
func TestServer_RequestTable(t *testing.T) {
	r := newRig(t, saying(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false))
	const follower = "GET /follower HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	for _, tt := range requestCases {
		for _, slow := range []bool{false, true} {
			c := r.dial()
			if slow && len(tt.head) < 300 {
				for i := range len(tt.head) {
					if _, err := io.WriteString(c.TCPConn, tt.head[i:i+1]); err != nil {
						break // it may have refused it before the end
					}
				}
			} else {
				_, _ = io.WriteString(c.TCPConn, tt.head)
			}
			_, _ = io.WriteString(c.TCPConn, follower)
			answers := c.rest()
			want, n := "HTTP/1.1 "+strconv.Itoa(tt.status)+" ", 1
			if tt.status == 200 {
				n = 2
				if strings.Contains(tt.head, "HTTP/1.0") || strings.HasPrefix(tt.head, "CONNECT") {
					n = 1
				}
			}
			if !strings.HasPrefix(answers, want) || strings.Count(answers, "HTTP/1.1 ") != n {
				t.Errorf("%s, slow %v: %.200q", tt.name, slow, answers)
			}
		}
	}
}

var responseCases = []struct {
	name, head string
	ok         bool
}{
	{"plain", "HTTP/1.1 200 OK\r\n\r\n", true},
	{"no reason", "HTTP/1.1 200\r\n\r\n", true},
	{"empty reason", "HTTP/1.1 200 \r\n\r\n", true},
	{"long reason", "HTTP/1.1 404 There is no such thing, ü\r\n\r\n", true},
	{"1.0", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", true},
	{"LF only", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", true},
	{"mixed", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", true},
	{"299", "HTTP/1.1 299 Well\r\n\r\n", true},
	{"999", "HTTP/1.1 999 No\r\n\r\n", true},
	{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true},
	{"empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n", false},
	{"2 digits", "HTTP/1.1 20 OK\r\n\r\n", false},
	{"4 digits", "HTTP/1.1 2000 OK\r\n\r\n", false},
	{"099", "HTTP/1.1 099 OK\r\n\r\n", false},
	{"+20", "HTTP/1.1 +20 OK\r\n\r\n", false},
	{"2.0", "HTTP/2.0 200 OK\r\n\r\n", false},
	{"1.2", "HTTP/1.2 200 OK\r\n\r\n", false},
	{"ICY", "ICY 200 OK\r\n\r\n", false},
	{"two blanks", "HTTP/1.1  200 OK\r\n\r\n", false},
	{"SSH", "SSH-2.0-OpenSSH_9.2\r\n\r\n", false},
	{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", false},
	{"CR in the reason", "HTTP/1.1 200 O\rK\r\n\r\n", false},
	{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", false},
	{"length list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", false},
	{"length -1", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false},
	{"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false},
	{"chunked on 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false},
	{"folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", false},
	{"space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", false},
	{"no colon", "HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n", false},
	{"NUL in a value", "HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", false},
	{"CR in a value", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n", false},
	{"too many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxFields+1) + "\r\n", false},
}

func TestResponse_Table(t *testing.T) {
	for _, tt := range responseCases {
		var r Response
		end, err := headEnd([]byte(tt.head), 0, false)
		if err == nil {
			err = r.parse([]byte(tt.head[:end]))
		}
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	t.Logf("%d cases", len(responseCases))
}

var chunkCases = []struct {
	name, body, data string
	ok               bool
}{
	{"empty", "0\r\n\r\n", "", true},
	{"one", "3\r\nabc\r\n0\r\n\r\n", "abc", true},
	{"zeros", "0003\r\nabc\r\n000\r\n\r\n", "abc", true},
	{"hex", "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", true},
	{"extension", "3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n", "abc", true},
	{"blank after the size", "3 \r\nabc\r\n0\r\n\r\n", "abc", true},
	{"trailer", "0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", "", true},
	{"data that look like chunks", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n", true},
	{"no size", "\r\nabc\r\n0\r\n\r\n", "", false},
	{"size -1", "-1\r\n\r\n", "", false},
	{"size +3", "+3\r\nabc\r\n0\r\n\r\n", "", false},
	{"size 0x3", "0x3\r\nabc\r\n0\r\n\r\n", "", false},
	{"size g", "g\r\nabc\r\n", "", false},
	{"size too large", "10000000000000000\r\n", "", false},
	{"size with endless zeros", strings.Repeat("0", 100) + "\r\n\r\n", "", false},
	{"blank before the size", " 3\r\nabc\r\n0\r\n\r\n", "", false},
	{"LF after the size", "3\nabc\r\n0\r\n\r\n", "", false},
	{"LF after the data", "3\r\nabc\n0\r\n\r\n", "", false},
	{"CR CR LF after the size", "3\r\r\nabc\r\n0\r\n\r\n", "", false},
	{"LF at the end", "0\r\n\n", "", false},
	{"LF in the trailer", "0\r\nX: y\n\r\n", "", false},
	{"too short a chunk", "4\r\nabc\r\n0\r\n\r\n", "", false},
	{"too long a chunk", "2\r\nabc\r\n0\r\n\r\n", "", false},
	{"LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n", "", false},
	{"NUL in an extension", "3;\x00\r\nabc\r\n0\r\n\r\n", "", false},
	{"endless extension", "3;" + strings.Repeat("x", 300) + "\r\nabc\r\n0\r\n\r\n", "", false},
	{"endless trailer", "0\r\n" + strings.Repeat("X: y\r\n", 5000) + "\r\n", "", false},
	{"endless trailer line", "0\r\nX: " + strings.Repeat("x", 20<<10), "", false},
	{"length in the trailer", "0\r\nContent-Length: 5\r\n\r\n", "", false},
	{"encoding in the trailer", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "", false},
	{"folded trailer", "0\r\nX: y\r\n z\r\n\r\n", "", false},
	{"nonsense in the trailer", "0\r\nGET / HTTP/1.1\r\n\r\n", "", false},
}

// unchunk takes a body out of its chunks, in pieces of step bytes. rest is what follows it.
func unchunk(b []byte, step int) (data []byte, rest int, err error) {
	var c chunked
	for at := 0; at < len(b); {
		piece := b[at:min(at+step, len(b))]
		part, used, err := c.next(piece)
		data = append(data, part...)
		at += used
		if err == io.EOF { //nolint:errorlint // next returns it as it is
			_, err := c.appendTrailer(nil)
			return data, len(b) - at, err
		}
		if err != nil {
			return data, 0, err
		}
	}
	return data, 0, io.ErrUnexpectedEOF
}

func TestChunked_Table(t *testing.T) {
	for _, tt := range chunkCases {
		for _, step := range []int{1, 2, 3, 7, 1 << 20} {
			data, rest, err := unchunk([]byte(tt.body+"GET"), step)
			if (err == nil) != tt.ok || tt.ok && (string(data) != tt.data || rest != 3) {
				t.Errorf("%s in pieces of %d: %q, %d left, %v", tt.name, step, data, rest, err)
			}
		}
	}
	t.Logf("%d cases", len(chunkCases))
}

func TestRequest_ParsesWithoutAllocation(t *testing.T) {
	head := []byte("GET /some/path?query=1 HTTP/1.1\r\nHost: web.example\r\nUser-Agent: x\r\nAccept: */*\r\nConnection: keep-alive, x-a\r\nX-A: b\r\nContent-Length: 3\r\n\r\n")
	var r Request
	if n := testing.AllocsPerRun(100, func() {
		if _, err := parseHead(&r, head, 1000); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// strictlyLess fails unless whatever we take net/http takes as well, and in the same way.
func strictlyLess(t interface{ Fatalf(string, ...any) }, b []byte) {
	var r Request
	end, err := parseHead(&r, b, 1<<20)
	if err != nil {
		return
	}
	theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b[:end])))
	if err != nil {
		t.Fatalf("we take %q, net/http does not: %v", b, err)
	}
	length := r.Length
	if r.Chunked {
		length = -1
	} else if length < 0 {
		length = 0
	}
	host := string(r.Host)
	if host != theirs.Host && !(host == "" && theirs.Host == "") {
		t.Fatalf("%q: host %q, net/http %q", b, host, theirs.Host)
	}
	if string(r.Method) != theirs.Method || length != theirs.ContentLength || r.Chunked != (len(theirs.TransferEncoding) == 1) || r.Minor != theirs.ProtoMinor {
		t.Fatalf("%q: %s %d %v, net/http %s %d %v", b, r.Method, length, r.Chunked, theirs.Method, theirs.ContentLength, theirs.TransferEncoding)
	}
	if string(r.Method) != http.MethodConnect && string(r.Path) != "*" {
		target := string(appendPath(nil, r.Path))
		if got := cmp.Or(theirs.URL.EscapedPath(), "/"); !sameEscaped(got, target) || string(r.Query) != theirs.URL.RawQuery {
			t.Fatalf("%q: %q ? %q, net/http %q ? %q", b, target, r.Query, got, theirs.URL.RawQuery)
		}
	}
	n := 0
	for _, f := range r.Fields {
		if f.ID == Host || f.ID == TransferEncoding || f.ID == Trailer {
			continue // net/http takes them out
		}
		n++
		found := false
		for _, v := range theirs.Header[http.CanonicalHeaderKey(string(f.Name))] {
			found = found || v == string(f.Value)
		}
		if !found {
			t.Fatalf("%q: net/http has no %s: %q", b, f.Name, f.Value)
		}
	}
	for name, v := range theirs.Header {
		if name == "Cache-Control" && len(theirs.Header["Pragma"]) > 0 {
			return // fixPragmaCacheControl adds one
		}
		n -= len(v)
	}
	if n != 0 {
		t.Fatalf("%q: %d fields more than net/http", b, n)
	}
}

// sameEscaped compares paths regardless of what is escaped without need: net/http escapes all of a path again when one
// character must be.
func sameEscaped(a, b string) bool {
	return a == b || unescape(a) == unescape(b)
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2])))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func FuzzRequest(f *testing.F) {
	for _, tt := range requestCases {
		f.Add([]byte(tt.head))
	}
	f.Fuzz(func(t *testing.T, b []byte) { strictlyLess(t, b) })
}

func FuzzResponse(f *testing.F) {
	for _, tt := range responseCases {
		f.Add([]byte(tt.head))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		end, err := headEnd(b, 0, false)
		if err != nil || end == 0 {
			return
		}
		var r Response
		if r.parse(b[:end]) != nil {
			return
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b[:end])), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("we take %q, net/http does not: %v", b, err)
		}
		if r.Status != theirs.StatusCode || r.Chunked != (len(theirs.TransferEncoding) == 1) || r.Length != -1 && bodyAllowed(r.Status) && r.Length != theirs.ContentLength {
			t.Fatalf("%q: %d %v %d, net/http %d %v %d", b, r.Status, r.Chunked, r.Length, theirs.StatusCode, theirs.TransferEncoding, theirs.ContentLength)
		}
	})
}

func bodyAllowed(status int) bool { return status >= 200 && status != 204 && status != 304 }

func FuzzChunked(f *testing.F) {
	for _, tt := range chunkCases {
		f.Add([]byte(tt.body), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		whole, wholeRest, wholeErr := unchunk(b, len(b)+1)
		data, rest, err := unchunk(b, 1+max(step, 0)%100)
		if (err == nil) != (wholeErr == nil) || err == nil && (!bytes.Equal(data, whole) || rest != wholeRest) {
			t.Fatalf("%q: %q %d %v at once, %q %d %v in pieces", b, whole, wholeRest, wholeErr, data, rest, err)
		}
		if err != nil {
			return
		}
		br := bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b)))
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatalf("we take %q, net/http does not: %v", b, err)
		}
		left, _ := io.ReadAll(br)
		if !bytes.Equal(theirs, data) || len(left) != rest {
			t.Fatalf("%q: %q and %d left, net/http %q and %d left", b, data, rest, theirs, len(left))
		}
	})
}

// Heads made of the pieces that matter find differences that random bytes do not.
func TestRequest_StricterThanNetHTTP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		b.WriteString(rapid.SampledFrom([]string{"GET", "POST", "OPTIONS", "CONNECT", "g", "HEAD"}).Draw(t, "method"))
		b.WriteString(rapid.SampledFrom([]string{" ", "  ", "\t"}).Draw(t, "blank"))
		b.WriteString(rapid.SampledFrom([]string{"/", "/a%2fb", "*", "http://h/", "http://h", "h:1", "/?q", "//x", "/ü", "/a\"b", "/%", "http://a:b/", "http://[::1]/", "http://a%41/"}).Draw(t, "target"))
		b.WriteString(" HTTP/1." + rapid.SampledFrom([]string{"1", "1", "1", "0", "2"}).Draw(t, "version"))
		eol := rapid.SampledFrom([]string{"\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r\r\n"})
		b.WriteString(eol.Draw(t, "eol"))
		for range rapid.IntRange(0, 5).Draw(t, "fields") {
			b.WriteString(rapid.SampledFrom([]string{"Host: h", "Host: h", "Host: h:1", "Host: a:b", "Host:", "Content-Length: 3", "Content-Length: 0", "Content-Length:", "Transfer-Encoding: chunked", "Transfer-Encoding: x", "Connection: close", "Connection: upgrade", "Upgrade: x", "X: \x80y", "Expect: 100-continue", " fold", "A : b", "Trailer: X", "Trailer: Content-Length", "Pragma: no-cache", "X:\ty "}).Draw(t, "field"))
			b.WriteString(eol.Draw(t, "eol"))
		}
		b.WriteString(eol.Draw(t, "eol"))
		strictlyLess(t, []byte(b.String()))
	})
}

func ExampleParseError() {
	var r Request
	_, err := parseHead(&r, []byte("GET / HTTP/1.1\r\nHost : h\r\n\r\n"), 1000)
	fmt.Println(err)
	// Output: malformed message: a field has no name, or one that is not a token
}
