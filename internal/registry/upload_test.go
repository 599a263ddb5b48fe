package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha512"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/internal/registry"
)

// begin begins an upload and returns its path after /v2/.
func (b *bench) begin(t *testing.T) string {
	t.Helper()
	w := b.do("POST", "sr/blobs/uploads/", nil)
	if w.Code != 202 {
		t.Fatalf("beginning an upload: %d %s", w.Code, w.Body)
	}
	return strings.TrimPrefix(w.Header().Get("Location"), "/v2/")
}

// has checks that a blob is here, and that nothing else is but other blobs.
func (b *bench) has(t *testing.T, digest string, content []byte) {
	t.Helper()
	if w := b.do("GET", "sr/blobs/"+digest, nil); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), content) {
		t.Errorf("blob %s: %d, %d bytes, want %d", digest, w.Code, w.Body.Len(), len(content))
	}
	for _, f := range b.files(t) {
		if strings.Contains(f, "/") {
			t.Errorf("left over: %s", f)
		}
	}
}

func TestUpload_TakesBlobsInEveryWay(t *testing.T) {
	b := newBench(t, registry.Config{})
	for i, way := range []struct {
		name string
		send func(t *testing.T, content []byte, digest string) *httptest.ResponseRecorder
	}{
		{"one request", func(_ *testing.T, content []byte, digest string) *httptest.ResponseRecorder {
			return b.do("POST", "sr/blobs/uploads/?digest="+digest, content)
		}},
		{"begin and put", func(t *testing.T, content []byte, digest string) *httptest.ResponseRecorder {
			return b.do("PUT", b.begin(t)+"?digest="+digest, content)
		}},
		{"stream", func(t *testing.T, content []byte, digest string) *httptest.ResponseRecorder {
			path := b.begin(t)
			if w := b.do("PATCH", path, content); w.Code != 202 || w.Header().Get("Range") != fmt.Sprintf("0-%d", len(content)-1) {
				t.Errorf("PATCH: %d %v", w.Code, w.Header())
			}
			return b.do("PUT", path+"?digest="+digest, nil)
		}},
		{"parts in order", func(t *testing.T, content []byte, digest string) *httptest.ResponseRecorder {
			path := b.begin(t)
			half := len(content) / 2
			for _, r := range []struct{ from, to int }{{0, 1}, {1, half}} {
				w := b.do("PATCH", path, content[r.from:r.to], "Content-Range", fmt.Sprintf("%d-%d", r.from, r.to-1))
				if w.Code != 202 {
					t.Errorf("PATCH %v: %d %s", r, w.Code, w.Body)
				}
			}
			return b.do("PUT", path+"?digest="+digest, content[half:], "Content-Range", fmt.Sprintf("%d-%d", half, len(content)-1))
		}},
		{"parts without ranges", func(t *testing.T, content []byte, digest string) *httptest.ResponseRecorder {
			path := b.begin(t)
			for part := range slices.Chunk(content, 100_000) {
				if w := b.do("PATCH", path, part); w.Code != 202 {
					t.Errorf("PATCH: %d %s", w.Code, w.Body)
				}
			}
			return b.do("PUT", path+"?digest="+digest, nil)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			content := bytes.Repeat([]byte{byte(i), 1, 2, 3}, 250_000)
			for _, digest := range []string{digestOf(content), fmt.Sprintf("sha512:%x", sha512.Sum512(content))} {
				w := way.send(t, content, digest)
				if w.Code != 201 || w.Header().Get("Docker-Content-Digest") != digest || w.Header().Get("Location") != "/v2/sr/blobs/"+digest {
					t.Fatalf("got %d %s %v", w.Code, w.Body, w.Header())
				}
				b.has(t, digest, content)
			}
		})
	}
}

func TestUpload_RefusesPartsOutOfOrder(t *testing.T) {
	b := newBench(t, registry.Config{})
	content := []byte("0123456789")
	path := b.begin(t)
	for _, r := range []string{"5-9", "0-4", "0-4"} {
		w := b.do("PATCH", path, content[r[0]-'0':r[2]-'0'+1], "Content-Range", r)
		if want := map[bool]int{true: 202, false: 416}[r == "0-4" && w.Code == 202]; w.Code != want {
			t.Errorf("%s: %d, want %d", r, w.Code, want)
		}
	}
	w := b.do("GET", path, nil)
	if w.Code != 204 || w.Header().Get("Range") != "0-4" || w.Header().Get("Location") != "/v2/"+path {
		t.Errorf("how far: %d %v", w.Code, w.Header())
	}
	refused(t, b.do("PATCH", path, content[5:8], "Content-Range", "5-9"), 400, "SIZE_INVALID")
	refused(t, b.do("PATCH", path, content[5:8], "Content-Range", "five"), 416, "BLOB_UPLOAD_INVALID")
	refused(t, b.do("PUT", path+"?digest="+digestOf(content), content[6:], "Content-Range", "6-9"), 416, "BLOB_UPLOAD_INVALID")
	if w := b.do("PUT", path+"?digest="+digestOf(content), content[5:], "Content-Range", "5-9"); w.Code != 201 {
		t.Errorf("the last part: %d %s", w.Code, w.Body)
	}
	b.has(t, digestOf(content), content)
}

func TestUpload_KeepsNothingOfAWrongDigest(t *testing.T) {
	b := newBench(t, registry.Config{})
	wrong := digestOf([]byte("other"))
	refused(t, b.do("POST", "sr/blobs/uploads/?digest="+wrong, []byte("content")), 400, "DIGEST_INVALID")
	path := b.begin(t)
	b.do("PATCH", path, []byte("con"))
	if says := refused(t, b.do("PUT", path+"?digest="+wrong, []byte("tent")), 400, "DIGEST_INVALID"); !strings.Contains(says, digestOf([]byte("content"))) {
		t.Errorf("message: %q", says)
	}
	refused(t, b.do("PUT", path+"?digest="+digestOf([]byte("content")), nil), 404, "BLOB_UPLOAD_UNKNOWN")
	path = b.begin(t)
	for _, digest := range []string{"", "sha256:x", "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"} {
		refused(t, b.do("PUT", path+"?digest="+digest, nil), 400, "DIGEST_INVALID")
	}
	if w := b.do("DELETE", path, nil); w.Code != 204 {
		t.Errorf("giving it up: %d %s", w.Code, w.Body)
	}
	refused(t, b.do("GET", path, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	refused(t, b.do("PATCH", "sr/blobs/uploads/..%2f..%2ftrysail.db", nil), 404, "BLOB_UPLOAD_UNKNOWN")
	if files := b.files(t); len(files) > 0 {
		t.Errorf("left over: %v", files)
	}
}

func TestUpload_MountsWhatIsHere(t *testing.T) {
	b := newBench(t, registry.Config{})
	if err := b.pushBlob([]byte("here")); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"&from=sr", "&from=library/other", ""} {
		w := b.do("POST", "sr/blobs/uploads/?mount="+digestOf([]byte("here"))+from, nil)
		if w.Code != 201 || w.Header().Get("Docker-Content-Digest") != digestOf([]byte("here")) {
			t.Errorf("mount%s: %d %v", from, w.Code, w.Header())
		}
	}
	w := b.do("POST", "sr/blobs/uploads/?mount="+digestOf([]byte("absent"))+"&from=sr", nil)
	if w.Code != 202 || w.Header().Get("Location") == "" {
		t.Errorf("mount of what is not here: %d %v", w.Code, w.Header())
	}
	refused(t, b.do("POST", "sr/blobs/uploads/?mount=x&from=sr", nil), 400, "DIGEST_INVALID")
}

// dial begins a PATCH of a body of the given size over a connection of its own.
func dial(t *testing.T, host, path string, size int) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "PATCH /v2/%s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n", path, basic("AWS", password), size)
	return conn.(*net.TCPConn)
}

// received waits until so many bytes of an upload have arrived.
func (b *bench) received(t *testing.T, path string, bytes int) {
	t.Helper()
	want := fmt.Sprintf("0-%d", bytes-1)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		got := b.do("GET", path, nil).Header().Get("Range")
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("received: %s, want %s", got, want)
		}
	}
}

func TestUpload_GoesOnAfterTheConnectionBroke(t *testing.T) {
	b := newBench(t, registry.Config{})
	host := b.serve(t)
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	path := b.begin(t)
	conn := dial(t, host, path, len(content))
	conn.Write(content[:300_000])
	conn.Close()
	b.received(t, path, 300_000)
	if w := b.do("PATCH", path, content[300_000:400_000], "Content-Range", "300000-399999"); w.Code != 202 {
		t.Fatalf("going on: %d %s", w.Code, w.Body)
	}

	// The same after the process has ended.
	again, err := openBench(t.Context(), filepath.Dir(b.dir), registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.store.Close()
	again.received(t, path, 400_000)
	if w := again.do("PUT", path+"?digest="+digestOf(content), content[400_000:]); w.Code != 201 {
		t.Fatalf("the rest: %d %s", w.Code, w.Body)
	}
	again.has(t, digestOf(content), content)
}

func TestUpload_GoesOnBesideAConnectionThatHangs(t *testing.T) {
	b := newBench(t, registry.Config{})
	host := b.serve(t)
	content := []byte("0123456789")
	path := b.begin(t)
	hanging := dial(t, host, path, 10)
	hanging.Write(content[:5])
	b.received(t, path, 5)
	if w := b.do("PUT", path+"?digest="+digestOf(content), content[5:], "Content-Range", "5-9"); w.Code != 201 {
		t.Errorf("over another connection: %d %s", w.Code, w.Body)
	}
	b.has(t, digestOf(content), content)
	if res, err := http.ReadResponse(bufio.NewReader(hanging), nil); err == nil && res.StatusCode < 400 {
		t.Errorf("the first connection: %v", res.Status)
	}
}

func TestUpload_OfOneBlobByManyAtOnce(t *testing.T) {
	b := newBench(t, registry.Config{})
	content := bytes.Repeat([]byte("x"), 1<<20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := b.pushBlob(content); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.has(t, digestOf(content), content)
}

func TestUpload_HasLimits(t *testing.T) {
	b := newBench(t, registry.Config{})
	for range 1000 {
		b.begin(t)
	}
	refused(t, b.do("POST", "sr/blobs/uploads/", nil), 429, "TOOMANYREQUESTS")
	refused(t, b.do("POST", "sr/blobs/uploads/?digest="+digestOf(nil), nil), 429, "TOOMANYREQUESTS")
	if n := len(b.files(t)); n != 1000 {
		t.Errorf("%d files, want 1000", n)
	}
}

func TestUpload_RefusesWhatTheDiskHasNoRoomFor(t *testing.T) {
	b := newBench(t, registry.Config{})
	m, blobs := image("linux/amd64", []byte("layer"))
	digest := must(b.pushImage(m, blobs, "v1"))(t)
	path := b.begin(t)
	// A body that is longer than any disk is refused before it is sent.
	req := httptest.NewRequest("PATCH", "/v2/"+path, io.MultiReader(bytes.NewReader([]byte("x")), failing{t}))
	req.SetBasicAuth("AWS", password)
	req.ContentLength = 1 << 61
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, req)
	if says := refused(t, w, 403, "DENIED"); !strings.Contains(says, "full") {
		t.Errorf("message: %q", says)
	}

	full, err := openBench(t.Context(), filepath.Dir(b.dir), registry.Config{ReserveBytes: 1 << 61})
	if err != nil {
		t.Fatal(err)
	}
	defer full.store.Close()
	refused(t, full.do("POST", "sr/blobs/uploads/", nil), 403, "DENIED")
	refused(t, full.do("PUT", "sr/manifests/v2", m, "Content-Type", mediaManifest), 403, "DENIED")
	if w := full.do("GET", "sr/manifests/v1", nil); w.Code != 200 || w.Header().Get("Docker-Content-Digest") != digest {
		t.Errorf("what was there before: %d %s", w.Code, w.Body)
	}
}

// failing is a body that must not be read.
type failing struct{ t *testing.T }

func (f failing) Read([]byte) (int, error) {
	f.t.Error("the body was read")
	return 0, io.EOF
}

func TestUpload_LosesNothingOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("needs root to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, tc := range []struct {
		name    string
		reserve int64
	}{{"to the last byte", 1}, {"to the reserve", 4 << 20}} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, registry.Config{Dir: filepath.Join(dir, tc.name), ReserveBytes: tc.reserve})
			m, blobs := image("linux/amd64", []byte("layer"))
			must(b.pushImage(m, blobs, "v1"))(t)
			before := b.files(t)
			// A stream does not say how long it is.
			path := b.begin(t)
			req := httptest.NewRequest("PATCH", "/v2/"+path, io.LimitReader(zeros{}, 64<<20))
			req.SetBasicAuth("AWS", password)
			req.ContentLength = -1
			w := httptest.NewRecorder()
			b.Handler().ServeHTTP(w, req)
			refused(t, w, 403, "DENIED")
			if after := b.files(t); !slices.Equal(before, after) {
				t.Errorf("files before: %v, after: %v", before, after)
			}
			if err := b.pushBlob([]byte("there is room again")); err != nil {
				t.Error(err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// pipes is a listener whose connections are pipes, for a server in a bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestUpload_IsCutWhenItStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := openBench(t.Context(), t.TempDir(), registry.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.store.Close()
		// The deadlines of a server that does not know what a registry is.
		server := &http.Server{Handler: b.Handler(), ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute}
		listener := make(pipes)
		done := make(chan error)
		go func() { done <- server.Serve(listener) }()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			c, s := net.Pipe()
			listener <- s
			return c, nil
		}}}
		patch := func(path string, body io.Reader) (int, error) {
			req, _ := http.NewRequest("PATCH", "http://registry/v2/"+path, body)
			req.SetBasicAuth("AWS", password)
			res, err := client.Do(req)
			if err != nil {
				return 0, err
			}
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
			return res.StatusCode, err
		}

		slow := b.begin(t)
		n := 0
		if status, err := patch(slow, slowly(func() ([]byte, error) {
			if n++; n > 20 {
				return nil, io.EOF
			}
			time.Sleep(30 * time.Second)
			return []byte("x"), nil
		})); status != 202 || err != nil {
			t.Errorf("ten minutes without a stall: %d, %v", status, err)
		}
		b.received(t, slow, 20)

		stalled := b.begin(t)
		release := make(chan struct{})
		n = 0
		began := time.Now()
		status, err := patch(stalled, slowly(func() ([]byte, error) {
			if n++; n > 1 {
				<-release
				return nil, io.EOF
			}
			return []byte("xy"), nil
		}))
		close(release)
		if took := time.Since(began); status < 400 && err == nil || took < time.Minute || took > 2*time.Minute {
			t.Errorf("a stall: %d, %v after %v, want an error after about a minute", status, err, took)
		}
		b.received(t, stalled, 2)
		close(listener)
		<-done
		server.Close()
		synctest.Wait()
	})
}

// slowly is a body that comes in pieces.
type slowly func() ([]byte, error)

func (s slowly) Read(p []byte) (int, error) {
	b, err := s()
	return copy(p, b), err
}

func TestDownload_IsCutWhenItStalls(t *testing.T) {
	b := newBench(t, registry.Config{})
	content := bytes.Repeat([]byte("0123456789"), 1<<20)
	if err := b.pushBlob(content); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := &stalling{header: http.Header{}}
		req := httptest.NewRequest("GET", "/v2/sr/blobs/"+digestOf(content), nil)
		req.SetBasicAuth("AWS", password)
		b.Handler().ServeHTTP(w, req)
		if w.sent < 1<<20 || w.sent >= len(content) {
			t.Errorf("%d bytes were sent, want some of %d", w.sent, len(content))
		}
		if w.waited < time.Minute || w.waited > 2*time.Minute {
			t.Errorf("it was cut after %v, want about a minute", w.waited)
		}
	})
}

// stalling is a connection that takes a megabyte, slowly, and then nothing.
type stalling struct {
	header   http.Header
	sent     int
	deadline time.Time
	waited   time.Duration
}

func (s *stalling) Header() http.Header                 { return s.header }
func (s *stalling) WriteHeader(int)                     {}
func (s *stalling) SetReadDeadline(time.Time) error     { return nil }
func (s *stalling) SetWriteDeadline(at time.Time) error { s.deadline = at; return nil }
func (s *stalling) Write(p []byte) (int, error) {
	if s.sent < 1<<20 {
		time.Sleep(50 * time.Second)
		if time.Now().After(s.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
		s.sent += len(p)
		return len(p), nil
	}
	s.waited = time.Until(s.deadline)
	time.Sleep(s.waited)
	return 0, os.ErrDeadlineExceeded
}
