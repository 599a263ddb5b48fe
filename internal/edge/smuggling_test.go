package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// smuggled is a request that a lenient reader of an ambiguous one would see.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"

// TestSmuggling sends requests whose end different readers see at different places. Each must be refused, or be read in the
// one way that the pod reads it too; the pod must never see the smuggled one.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	e := testEdge(t, func(c *Config) { c.IdleTimeout = 2 * time.Second })
	var mu sync.Mutex
	requests := map[string][]string{} // what the pod got, by host
	route := testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			body = []byte("broken")
		}
		requests[r.Host] = append(requests[r.Host], fmt.Sprintf("%s %s %q", r.Method, r.URL.Path, body))
	}))
	const host = "Host: " + testHost + "\r\n"
	post := func(header, body string) string { return "POST /p HTTP/1.1\r\n" + host + header + "\r\n" + body }
	chunked := "Transfer-Encoding: chunked\r\n"
	const refused = "400"
	twice, twiceSeen := "200", []string{`POST /p "hi"`}
	if engine != EngineNetHTTP { // takes it for what it is, a sign that somebody on the way is confused
		twice, twiceSeen = refused, nil
	}
	tests := []struct {
		name, send string
		want       string   // statuses of the answers before the edge hangs up; empty: any, but one at most
		pod        []string // what it sees, beside requests whose body broke
	}{
		// What must work, so that the rest shows something.
		{"Content-Length", post("Content-Length: 2\r\n", "hi") + smuggled[:0], "200", []string{`POST /p "hi"`}},
		{"chunked", post(chunked, "2\r\nhi\r\n0\r\n\r\n"), "200", []string{`POST /p "hi"`}},
		{"chunked in upper case", post("TRANSFER-ENCODING: CHUNKED\r\n", "2\r\nhi\r\n0\r\n\r\n"), "200", []string{`POST /p "hi"`}},
		{"a chunk extension", post(chunked, "2;a=b\r\nhi\r\n0\r\n\r\n"), "200", []string{`POST /p "hi"`}},
		{"trailers", post(chunked, "2\r\nhi\r\n0\r\nX-T: v\r\n\r\n"), "200", []string{`POST /p "hi"`}},
		{"the same Content-Length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "hi"), twice, twiceSeen},
		{"two at once", post("Content-Length: 2\r\n", "hi") + "GET /second HTTP/1.1\r\n" + host + "\r\n", "200 200", []string{`POST /p "hi"`, `GET /second ""`}},
		{"absolute form", "GET https://" + testHost + "/abs HTTP/1.1\r\n" + host + "\r\n", "200", []string{`GET /abs ""`}},
		{"empty lines before the request", "\r\n\r\nGET /e HTTP/1.1\r\n" + host + "\r\n", "", nil},

		// Two lengths.
		{"CL and TE", post("Content-Length: 6\r\n"+chunked, "0\r\n\r\n"+smuggled), "", nil},
		{"TE and CL", post(chunked+"Content-Length: 4\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)), "", nil},
		{"two CL", post("Content-Length: 2\r\nContent-Length: 50\r\n", "hi"+smuggled), refused, nil},
		{"two CL in one line", post("Content-Length: 2, 50\r\n", "hi"+smuggled), refused, nil},
		{"the same CL twice in one line", post("Content-Length: 2, 2\r\n", "hi"), "", nil},
		{"CL with a sign", post("Content-Length: +2\r\n", "hi"+smuggled), refused, nil},
		{"negative CL", post("Content-Length: -2\r\n", smuggled), refused, nil},
		{"CL in hexadecimal", post("Content-Length: 0x2\r\n", "hi"+smuggled), refused, nil},
		{"CL with a space in it", post("Content-Length: 1 2\r\n", "hi"+smuggled), refused, nil},
		{"CL with more than 64 bits", post("Content-Length: 18446744073709551618\r\n", "hi"+smuggled), refused, nil},
		{"an empty CL", post("Content-Length: \r\n", smuggled), refused, nil},
		{"CL with an underscore", post("Content-Length: 1_0\r\n", "hi"+smuggled), refused, nil},
		{"CL with other digits", post("Content-Length: ２\r\n", "hi"+smuggled), refused, nil},

		// Forms of Transfer-Encoding.
		{"TE: xchunked", post("Transfer-Encoding: xchunked\r\n", smuggled), "501", nil},
		{"TE: identity", post("Transfer-Encoding: identity\r\n", smuggled), "501", nil},
		{"TE: chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"+smuggled), "501", nil},
		{"TE: gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"+smuggled), "501", nil},
		{"TE twice", post(chunked+chunked, "0\r\n\r\n"+smuggled), "", nil},
		{"TE twice, one of them unknown", post(chunked+"Transfer-Encoding: x\r\n", "0\r\n\r\n"+smuggled), "", nil},
		{"TE with a tab", post("Transfer-Encoding:\tchunked\r\n", "2\r\nhi\r\n0\r\n\r\n"), "", nil},
		{"TE with a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+smuggled), "", nil},
		{"TE in quotes", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+smuggled), "501", nil},
		{"an empty TE", post("Transfer-Encoding: \r\n", smuggled), "", nil},
		{"TE on HTTP/1.0", "POST /p HTTP/1.0\r\n" + host + chunked + "\r\n" + "0\r\n\r\n" + smuggled, "", nil},

		// Forms of header lines.
		{"a space before the colon", post("Content-Length : 50\r\n", smuggled), refused, nil},
		{"TE with a space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"+smuggled), refused, nil},
		{"a folded TE", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"+smuggled), "", nil},
		{"a folded first line", "POST /p HTTP/1.1\r\n Content-Length: 2\r\n" + host + "\r\n" + "hi", refused, nil},
		{"a folded CL", post("Content-Length:\r\n 2\r\n", "hi"), "", nil},
		{"bare LF", "POST /p HTTP/1.1\n" + strings.ReplaceAll(host, "\r", "") + "Content-Length: 2\n\nhi", "", nil},
		{"bare CR in a value", post("X: a\rContent-Length: 50\r\nContent-Length: 2\r\n", "hi"+smuggled), refused, nil},
		{"NUL in a value", post("X: a\x00b\r\nContent-Length: 2\r\n", "hi"), refused, nil},
		{"NUL in a name", post("X\x00: a\r\n", ""), refused, nil},
		{"a name with a space", post("X Y: a\r\n", ""), refused, nil},
		{"a line without a colon", post("nonsense\r\n", ""), refused, nil},
		{"no name", post(": a\r\n", ""), refused, nil},
		{"Connection names Content-Length", post("Connection: Content-Length\r\nContent-Length: 38\r\n", smuggled[:38]), "", nil},
		{"Connection names Host", post("Connection: Host\r\nContent-Length: 2\r\n", "hi"), "200", []string{`POST /p "hi"`}},

		// Chunks.
		{"a chunk size with a sign", post(chunked, "+2\r\nhi\r\n0\r\n\r\n"+smuggled), refused, nil},
		{"a chunk size with 0x", post(chunked, "0x2\r\nhi\r\n0\r\n\r\n"+smuggled), refused, nil},
		{"a chunk size of more than 64 bits", post(chunked, "10000000000000002\r\nhi\r\n0\r\n\r\n"+smuggled), refused, nil},
		{"an empty chunk size", post(chunked, "\r\nhi\r\n0\r\n\r\n"+smuggled), refused, nil},
		{"a chunk that is longer than its size", post(chunked, "2\r\nhi there\r\n0\r\n\r\n"+smuggled), refused, nil},
		{"a chunk without its end of line", post(chunked, "2\r\nhi0\r\n\r\n"+smuggled), refused, nil},
		{"a chunk size ended by LF", post(chunked, "2\nhi\r\n0\r\n\r\n"), "", nil},
		{"an LF in a chunk extension", post(chunked, "2;\nxx\r\n0\r\n\r\n"+smuggled), refused, nil},
		{"a chunk extension without end", post(chunked, "2;"+strings.Repeat("x", 100<<10)+"\r\nhi\r\n0\r\n\r\n"), refused, nil},
		{"many chunks of one byte with long extensions", post(chunked, strings.Repeat("1;"+strings.Repeat("x", 2000)+"\r\na\r\n", 200)+"0\r\n\r\n"), refused, nil},
		{"Content-Length as a trailer", post(chunked, "2\r\nhi\r\n0\r\nContent-Length: 50\r\n\r\n"+smuggled[:0]), "", nil},

		// The request line and the host.
		{"no version", "GET /\r\n" + host + "\r\n" + smuggled, refused, nil},
		{"HTTP/0.9", "GET /\r\n", refused, nil},
		{"HTTP/2 by its name", "GET / HTTP/2.0\r\n" + host + "\r\n" + smuggled, "505", nil},
		{"HTTP/1.10", "GET / HTTP/1.10\r\n" + host + "\r\n" + smuggled, refused, nil},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n" + smuggled, refused, nil},
		{"a tab in the request line", "GET\t/ HTTP/1.1\r\n" + host + "\r\n" + smuggled, refused, nil},
		{"a control character in the path", "GET /\x01 HTTP/1.1\r\n" + host + "\r\n" + smuggled, refused, nil},
		{"no host", "GET / HTTP/1.1\r\n\r\n" + smuggled, refused, nil},
		{"two hosts", "GET / HTTP/1.1\r\n" + host + "Host: other\r\n\r\n" + smuggled, refused, nil},
		{"the same host twice", "GET / HTTP/1.1\r\n" + host + host + "\r\n" + smuggled, refused, nil},
		{"a bad host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + smuggled, refused, nil},
		{"a host with a path", "GET / HTTP/1.1\r\nHost: " + testHost + "/x\r\n\r\n", refused, nil},
		{"a host with a user", "GET / HTTP/1.1\r\nHost: me@" + testHost + "\r\n\r\n", refused, nil},
		{"absolute form and another host", "GET https://nobody.example.com/abs HTTP/1.1\r\n" + host + "\r\n", "404", nil},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", nil},
		{"an upgrade to h2c", "GET /u HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "200", []string{`GET /u ""`}},
		{"a request after a refused one", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + smuggled + smuggled, refused, nil},
		{"a request after a refused body", post(chunked, "zz\r\n") + smuggled, refused, nil},
	}
	hosts := make([]string, len(tests)) // each case has a host of its own, as long as the one in the texts
	for i := range tests {
		hosts[i] = fmt.Sprintf("%03d", i) + testHost[3:]
	}
	route.Domains = hosts
	e.Apply(route)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := dialTLS(t, e)
			_, err := io.WriteString(conn, strings.ReplaceAll(test.send, testHost, hosts[i]))
			cut := isReset(err)
			if err != nil && !cut {
				t.Fatal(err)
			}
			var got []string
			for br := bufio.NewReader(conn); ; { // until the edge hangs up, which it does at last because nothing more comes
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					if isTimeout(err) {
						t.Error("still open")
					}
					cut = cut || isReset(err)
					break
				}
				_, _ = io.Copy(io.Discard, res.Body)
				got = append(got, res.Status[:3])
			}
			mu.Lock()
			seen := slices.Clone(requests[hosts[i]])
			mu.Unlock()
			if slices.ContainsFunc(seen, func(s string) bool { return strings.HasPrefix(s, "GET /smuggled ") }) {
				t.Errorf("the pod got %q; the answers: %v", seen, got)
			}
			whole := slices.DeleteFunc(slices.Clone(seen), func(s string) bool { return strings.HasSuffix(s, `"broken"`) })
			if cut && test.want == refused && len(got) == 0 {
				got = []string{refused} // a reset overtook the answer to a client that was still sending
			}
			if test.want != "" && strings.Join(got, " ") != test.want || test.want == "" && len(got) > 1 {
				t.Errorf("answers %v, want %q", got, test.want)
			}
			if test.pod != nil && !slices.Equal(whole, test.pod) || test.want[:min(1, len(test.want))] == "4" && len(whole) > 0 {
				t.Errorf("the pod got %q, want %q", seen, test.pod)
			}
			if test.want == "" {
				t.Logf("answers %v, pod %q", got, seen)
			}
		})
	}
}

// isReset reports whether the other side has ended the connection while there was more to read or write.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
