package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail/internal/store"
)

// TestMain lets the test binary be the process that TestRegistry_SurvivesKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRYSAIL_TEST_REGISTRY"); dir != "" {
		fmt.Fprintln(os.Stderr, serveForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serveForEver serves the registry of a data directory, prints its address, and collects garbage all the time.
func serveForEver(dir string) error {
	ctx := context.Background()
	r, _, err := open(ctx, dir, time.Hour)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() {
		for {
			if _, err := r.Collect(ctx, nil); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}()
	return (&http.Server{Handler: r.Handler(), ReadHeaderTimeout: time.Minute}).Serve(listener)
}

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// pushed is an image that a client has pushed, or began to.
type pushed struct {
	manifest []byte
	blobs    [][]byte
}

// pusher pushes and deletes images, one operation at a time. It remembers what was acknowledged: that, and only that, is
// certain after the server was killed.
type pusher struct {
	name    string
	rng     *rand.Rand
	host    string
	there   []pushed        // acknowledged, and no deletion was begun
	gone    map[string]bool // manifests whose deletion was acknowledged
	counter int
}

// do sends a request. An error means that the server is dead; any answer but the wanted ones fails the test.
func (p *pusher) do(t *testing.T, method, path string, body []byte, want ...int) (http.Header, error) {
	req, err := http.NewRequest(method, "http://"+p.host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("AWS", password)
	if strings.Contains(path, "/manifests/") && method == "PUT" {
		req.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(want, res.StatusCode) {
		t.Errorf("%s %s: %d %s", method, path, res.StatusCode, answer)
	}
	return res.Header, nil
}

// newImage makes an image of one layer that others have too, one of its own and a config of its own.
func (p *pusher) newImage() pushed {
	p.counter++
	config := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","n":"%s %d"}`, p.name, p.counter)
	own := bytes.Repeat(fmt.Appendf(nil, "%s %d ", p.name, p.counter), 1+p.rng.IntN(20_000))
	shared := bytes.Repeat(fmt.Appendf(nil, "shared %d ", p.rng.IntN(5)), 1000)
	desc := func(b []byte, mediaType string) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": digestOf(b), "size": len(b)}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "config": desc(config, "application/vnd.oci.image.config.v1+json"),
		"layers": []any{desc(shared, "application/vnd.oci.image.layer.v1.tar"), desc(own, "application/vnd.oci.image.layer.v1.tar")},
	})
	if err != nil {
		panic(err) // plain values only
	}
	return pushed{manifest, [][]byte{config, shared, own}}
}

// push pushes an image as clients do: blobs that are missing in one of the ways there are, then the manifest.
func (p *pusher) push(t *testing.T) error {
	img := p.newImage()
	for _, blob := range img.blobs {
		if err := p.pushBlob(t, blob); err != nil {
			return err
		}
	}
	if _, err := p.do(t, "PUT", "/v2/sr/manifests/"+p.name, img.manifest, 201); err != nil {
		return err
	}
	p.there = append(p.there, img)
	return nil
}

func (p *pusher) pushBlob(t *testing.T, blob []byte) error {
	query := "?digest=" + digestOf(blob)
	if p.rng.IntN(3) == 0 {
		_, err := p.do(t, "POST", "/v2/sr/blobs/uploads/"+query, blob, 201)
		return err
	}
	h, err := p.do(t, "POST", "/v2/sr/blobs/uploads/", nil, 202)
	if err != nil {
		return err
	}
	half := p.rng.IntN(len(blob))
	if h, err = p.do(t, "PATCH", h.Get("Location"), blob[:half], 202); err != nil {
		return err
	}
	_, err = p.do(t, "PUT", h.Get("Location")+query, blob[half:], 201)
	return err
}

// remove deletes an image: its manifest, and the blobs that no other manifest needs.
func (p *pusher) remove(t *testing.T) error {
	i := p.rng.IntN(len(p.there))
	img := p.there[i]
	p.there = slices.Delete(p.there, i, i+1) // from now on nothing is certain
	if _, err := p.do(t, "DELETE", "/v2/sr/manifests/"+digestOf(img.manifest), nil, 202); err != nil {
		return err
	}
	p.gone[digestOf(img.manifest)] = true
	for _, blob := range [][]byte{img.blobs[0], img.blobs[2]} { // not the shared one: others rely on it
		if _, err := p.do(t, "DELETE", "/v2/sr/blobs/"+digestOf(blob), nil, 202); err != nil {
			return err
		}
	}
	return nil
}

// TestRegistry_SurvivesKill lets four clients push and delete while the server is killed again and again at random
// moments. What was acknowledged must be there and intact, what was not must leave nothing behind.
func TestRegistry_SurvivesKill(t *testing.T) {
	operations := int64(1000)
	if testing.Short() {
		operations = 100
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	pushers := make([]*pusher, 4)
	for i := range pushers {
		pushers[i] = &pusher{name: fmt.Sprint("p", i), rng: rand.New(rand.NewPCG(rng.Uint64(), 2)), gone: map[string]bool{}}
	}
	var done atomic.Int64
	kills := 0
	for ; done.Load() < operations; kills++ {
		killedServer(t, dir, pushers, &done, done.Load()+1+rng.Int64N(60))
	}
	t.Logf("%d pushes and deletions were acknowledged, %d kills", done.Load(), kills)
	checkAll(t, dir, pushers)
}

// killedServer starts a server, lets the pushers work, and kills it when so many operations are done and a little later.
func killedServer(t *testing.T, dir string, pushers []*pusher, done *atomic.Int64, until int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TRYSAIL_TEST_REGISTRY="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	var working sync.WaitGroup
	for _, p := range pushers {
		p.host = strings.TrimSpace(line)
		working.Go(func() {
			for err := error(nil); err == nil; {
				if len(p.there) > 3 && p.rng.IntN(2) == 0 {
					err = p.remove(t)
				} else {
					err = p.push(t)
				}
				if err == nil && done.Add(1) >= until {
					_ = cmd.Process.Kill() // the others are in the middle of something
				}
			}
		})
	}
	working.Wait()
	_ = cmd.Wait() // "signal: killed"
}

// checkAll checks that what was acknowledged is there and intact, and that the next collection leaves nothing else.
func checkAll(t *testing.T, dir string, pushers []*pusher) {
	t.Helper()
	r, s, err := open(t.Context(), dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var keep, want []string
	for _, p := range pushers {
		for _, img := range p.there {
			digest := digestOf(img.manifest)
			keep = append(keep, digest)
			if _, content, err := r.Manifest(t.Context(), digest); err != nil || !bytes.Equal(content, img.manifest) {
				t.Errorf("manifest %s: %q, %v", digest, content, err)
			}
			for _, blob := range img.blobs {
				path, _, err := r.Blob(t.Context(), digestOf(blob))
				if err != nil {
					t.Errorf("blob of %s: %v", digest, err)
					continue
				}
				if content, err := os.ReadFile(path); err != nil || !bytes.Equal(content, blob) {
					t.Errorf("blob %s has other content, %v", path, err)
				}
				want = append(want, digestOf(blob))
			}
		}
		for digest := range p.gone {
			if _, _, err := r.Manifest(t.Context(), digest); err == nil {
				t.Errorf("manifest %s is back after its deletion", digest)
			}
		}
	}
	if _, err := r.Collect(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = filepath.WalkDir(filepath.Join(dir, "registry"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			got = append(got, "sha256:"+filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(slices.Compact(want), got); d != "" {
		t.Errorf("files after a collection (-want +got):\n%s", d)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		list, err := tx.Manifests()
		if len(list) != len(keep) {
			t.Errorf("%d manifests after a collection, want %d", len(list), len(keep))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
