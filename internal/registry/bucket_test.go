package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/registry"
)

// versity compiles a server that speaks S3 and keeps objects as files, once.
var versity = sync.OnceValues(func() (string, error) {
	if file := os.Getenv("VERSITYGW"); file != "" {
		return file, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "trysail-test", "s3-1.8.0")
	file := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	cmd := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling an S3 server: %w\n%s", err, out)
	}
	return file, nil
})

// s3Server is a process that can be killed and started again.
type s3Server struct {
	t    *testing.T
	dir  string
	port string
	cmd  *exec.Cmd
}

func startS3(t *testing.T) *s3Server {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs a server that takes minutes to compile")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	s := &s3Server{t: t, dir: t.TempDir(), port: port}
	if err := os.Mkdir(filepath.Join(s.dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *s3Server) start() {
	s.t.Helper()
	file, err := versity()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(file, "--port", "127.0.0.1:"+s.port, "--access", "KEY", "--secret", "SECRET", "--quiet", "posix", "--sidecar", s.t.TempDir(), s.dir)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("the S3 server does not start: %v\n%s", err, out.String())
		}
	}
}

func (s *s3Server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *s3Server) bucket() *registry.Bucket {
	b, err := registry.ParseBucket("s3://images/some/prefix?endpoint=http://127.0.0.1:"+s.port, func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "SECRET"}[name]
	})
	if err != nil {
		s.t.Fatal(err)
	}
	b.PartSize = 5 << 20 // the least that S3 allows
	return b
}

// noise is content that is the same for the same seed.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// TestBucket_KeepsImages: what is pushed is in the bucket and nowhere else, whole; ranges can be read; what nothing needs is
// collected; a file for the engine is a copy, verified.
func TestBucket_KeepsImages(t *testing.T) {
	s := startS3(t)
	b := newBench(t, registry.Config{Bucket: s.bucket(), Grace: time.Hour})
	large := noise(1, 12<<20) // three parts
	m, blobs := image("linux/amd64", []byte("small"), large)
	digest := must(b.pushImage(m, blobs, "v1"))(t)
	b.register(t, digest)
	b.intact(t, m)
	if w := b.do("GET", "sr/blobs/"+digestOf(large), nil, "Range", "bytes=6000000-6000009"); w.Code != http.StatusPartialContent || !bytes.Equal(w.Body.Bytes(), large[6000000:6000010]) {
		t.Errorf("a range: %d %q", w.Code, w.Body)
	}
	if w := b.do("HEAD", "sr/blobs/"+digestOf(large), nil); w.Code != 200 || w.Header().Get("Content-Length") != fmt.Sprint(len(large)) {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	refused(t, b.do("GET", "sr/blobs/"+digestOf([]byte("nothing")), nil), 404, "BLOB_UNKNOWN")
	for _, f := range b.files(t) {
		t.Errorf("on the disk there is %s", f)
	}
	path, size, err := b.Blob(t.Context(), digestOf(large))
	if err != nil || size != int64(len(large)) {
		t.Fatalf("Blob: %d, %v", size, err)
	}
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, large) {
		t.Errorf("the copy differs: %v", err)
	}
	if again, _, err := b.Blob(t.Context(), digestOf(large)); err != nil || again != path {
		t.Errorf("once more: %s, %v", again, err)
	}
	sizes, total, err := b.StoredSizes(t.Context())
	if err != nil || sizes[digest] < int64(len(large)) || total != sizes[digest] {
		t.Errorf("sizes %v, %d, %v", sizes, total, err)
	}
	if err := b.pushBlob([]byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if freed := b.collect(t); freed != 0 {
		t.Errorf("%d bytes of what is young were collected", freed)
	}
	// With hardly any grace, what is not needed goes, and the image stays.
	eager, err := registry.Open(t.Context(), registry.Config{Dir: t.TempDir(), Bucket: s.bucket(), Store: b.store, Grace: 1, Platform: registry.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // the times of objects have no fractions
	if freed, err := eager.Collect(t.Context(), nil); err != nil || freed != int64(len("garbage")) {
		t.Errorf("%d bytes were collected, %v", freed, err)
	}
	b.intact(t, m)
	if w := b.do("DELETE", "sr/blobs/"+digestOf(large), nil); w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusForbidden {
		t.Errorf("deleting a blob that is needed: %d %s", w.Code, w.Body)
	}
}

// TestBucket_SurvivesItsServer: the store dies while a large blob is sent. The push is refused, nothing half is there, and the
// client completes the same upload when the store is back, without sending a byte again.
func TestBucket_SurvivesItsServer(t *testing.T) {
	s := startS3(t)
	b := newBench(t, registry.Config{Bucket: s.bucket()})
	large := noise(2, 40<<20)
	path := b.begin(t)
	if w := b.do("PATCH", path, large); w.Code != 202 {
		t.Fatalf("PATCH: %d %s", w.Code, w.Body)
	}
	var done sync.WaitGroup
	done.Go(func() {
		// The moment does not matter: parts are under way, or all is there, or nothing.
		for !s.receiving() {
			time.Sleep(time.Millisecond)
		}
		s.kill()
	})
	w := b.do("PUT", path+"?digest="+digestOf(large), nil)
	done.Wait()
	if w.Code < 500 {
		t.Fatalf("with the store dead: %d %s", w.Code, w.Body)
	}
	s.start()
	if w := b.do("HEAD", "sr/blobs/"+digestOf(large), nil); w.Code != 404 {
		t.Fatalf("half a blob is there: %d", w.Code)
	}
	if w := b.do("PUT", path+"?digest="+digestOf(large), nil); w.Code != 201 {
		t.Fatalf("completing it again: %d %s", w.Code, w.Body)
	}
	if w := b.do("GET", "sr/blobs/"+digestOf(large), nil); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), large) {
		t.Errorf("what is there: %d, %d bytes", w.Code, w.Body.Len())
	}
}

// receiving reports whether a part has arrived.
func (s *s3Server) receiving() bool {
	found := false
	_ = filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		found = found || err == nil && strings.Contains(path, "multipart") && !d.IsDir()
		return nil
	})
	return found
}

func TestParseBucket(t *testing.T) {
	keys := func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S", "AWS_REGION": "eu-west-1"}[name]
	}
	b, err := registry.ParseBucket("s3://images/a/b/?endpoint=https://s3.example.com", keys)
	if err != nil || b.Name != "images" || b.Prefix != "a/b" || b.Endpoint != "https://s3.example.com" || b.Region != "eu-west-1" || b.Secret != "S" {
		t.Errorf("got %+v, %v", b, err)
	}
	for _, text := range []string{"", "images", "http://images", "s3://", "s3://key:secret@images", "s3://images?endpoint=ftp://x", "s3://images?endpoint=http://k:s@x", "s3://images?colour=blue"} {
		if _, err := registry.ParseBucket(text, keys); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	if _, err := registry.ParseBucket("s3://images", func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v", err)
	}
	if _, err := registry.Open(context.Background(), registry.Config{Dir: t.TempDir(), Bucket: &registry.Bucket{Name: "x", Endpoint: "http://127.0.0.1:1", Region: "r", KeyID: "K", Secret: "S"}}); err == nil {
		t.Error("a store that is not there is opened")
	}
}
