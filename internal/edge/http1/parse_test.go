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

	"github.com/trysail/trysail/internal/edge/http1/cases"
)

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
	for _, tt := range cases.Requests {
		var r Request
		if _, err := parseHead(&r, []byte(tt.Head), 16<<10); statusOf(err) != tt.Status {
			t.Errorf("%s: %v, want %d", tt.Name, err, tt.Status)
		}
	}
	t.Logf("%d cases", len(cases.Requests))
}

// On the socket the same heads get the same status, whole or byte by byte, and what follows a refused one is not served.
func TestServer_RequestTable(t *testing.T) {
	r := newRig(t, saying(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false))
	const follower = "GET /follower HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	for _, tt := range cases.Requests {
		for _, slow := range []bool{false, true} {
			c := r.dial()
			if slow && len(tt.Head) < 300 {
				for i := range len(tt.Head) {
					if _, err := io.WriteString(c.TCPConn, tt.Head[i:i+1]); err != nil {
						break // it may have refused it before the end
					}
				}
			} else {
				_, _ = io.WriteString(c.TCPConn, tt.Head)
			}
			_, _ = io.WriteString(c.TCPConn, follower)
			answers := c.rest()
			want, n := "HTTP/1.1 "+strconv.Itoa(tt.Status)+" ", 1
			if tt.Status == 200 {
				n = 2
				if strings.Contains(tt.Head, "HTTP/1.0") || strings.HasPrefix(tt.Head, "CONNECT") {
					n = 1
				}
			}
			if !strings.HasPrefix(answers, want) || strings.Count(answers, "HTTP/1.1 ") != n {
				t.Errorf("%s, slow %v: %.200q", tt.Name, slow, answers)
			}
		}
	}
}

func TestResponse_Table(t *testing.T) {
	for _, tt := range cases.Responses {
		var r Response
		end, err := headEnd([]byte(tt.Head), 0, false)
		if err == nil {
			err = r.parse([]byte(tt.Head[:end]))
		}
		if (err == nil) != tt.OK {
			t.Errorf("%s: %v", tt.Name, err)
		}
	}
	t.Logf("%d cases", len(cases.Responses))
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
			return data, len(b) - at, nil
		}
		if err != nil {
			return data, 0, err
		}
	}
	return data, 0, io.ErrUnexpectedEOF
}

func TestChunked_Table(t *testing.T) {
	for _, tt := range cases.Chunks {
		for _, step := range []int{1, 2, 3, 7, 1 << 20} {
			data, rest, err := unchunk([]byte(tt.Body+"GET"), step)
			if (err == nil) != tt.OK || tt.OK && (string(data) != tt.Data || rest != 3) {
				t.Errorf("%s in pieces of %d: %q, %d left, %v", tt.Name, step, data, rest, err)
			}
		}
	}
	t.Logf("%d cases", len(cases.Chunks))
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
	if host != theirs.Host && (host != "" || theirs.Host != "") {
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
		if name == "Trailer" {
			continue // it takes it out if the body is in chunks
		}
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
	for _, tt := range cases.Requests {
		f.Add([]byte(tt.Head))
	}
	f.Fuzz(func(t *testing.T, b []byte) { strictlyLess(t, b) })
}

func FuzzResponse(f *testing.F) {
	for _, tt := range cases.Responses {
		f.Add([]byte(tt.Head))
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
	for _, tt := range cases.Chunks {
		f.Add([]byte(tt.Body), 3)
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
		br := bufio.NewReaderSize(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b)), 64<<10) // which trailers have to fit in
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
