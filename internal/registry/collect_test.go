package registry_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/store"
)

const grace = 24 * time.Hour

// inBubble runs fn with a registry and a clock of its own, which time.Sleep moves.
func inBubble(t *testing.T, fn func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, err := openBench(t.Context(), t.TempDir(), registry.Config{Grace: grace})
		if err != nil {
			t.Fatal(err)
		}
		defer b.store.Close()
		fn(t, b)
	})
}

func (b *bench) collect(t *testing.T, keep ...string) int64 {
	t.Helper()
	freed, err := b.Collect(t.Context(), keep)
	if err != nil {
		t.Fatal(err)
	}
	return freed
}

func TestCollect_RemovesWhatNothingNeedsAndIsOld(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		registered, blobs := image("linux/amd64", []byte("shared"), []byte("registered"))
		b.register(t, must(b.pushImage(registered, blobs, "registered"))(t))
		deployed, more := image("linux/amd64", []byte("shared"), []byte("deployed"))
		keep := must(b.pushImage(deployed, more, "deployed"))(t)
		blobs = append(blobs, more...)
		garbage, waste := image("linux/amd64", []byte("shared"), []byte("garbage"))
		must(b.pushImage(garbage, waste, "garbage"))(t)
		if err := b.pushBlob([]byte("asked for")); err != nil {
			t.Fatal(err)
		}
		idle, busy := b.begin(t), b.begin(t)

		time.Sleep(grace - time.Minute)
		if freed := b.collect(t, keep); freed != 0 {
			t.Errorf("%d bytes were freed of what is young", freed)
		}
		if w := b.do("HEAD", "sr/blobs/"+digestOf([]byte("asked for")), nil); w.Code != 200 {
			t.Error(w.Code)
		}
		b.do("PATCH", busy, []byte("more"))
		time.Sleep(2 * time.Minute)
		if freed := b.collect(t, keep); freed != int64(len("garbage")) {
			t.Errorf("%d bytes were freed, want %d", freed, len("garbage"))
		}
		for _, blob := range append(blobs, []byte("asked for")) {
			if w := b.do("GET", "sr/blobs/"+digestOf(blob), nil); w.Code != 200 {
				t.Errorf("%q is gone: %d", blob, w.Code)
			}
		}
		if w := b.do("GET", "sr/tags/list", nil); w.Body.String() != `{"name":"sr","tags":[]}` {
			t.Errorf("tags: %s", w.Body)
		}
		for digest, status := range map[string]int{digestOf(registered): 200, keep: 200, digestOf(garbage): 404} {
			if w := b.do("GET", "sr/manifests/"+digest, nil); w.Code != status {
				t.Errorf("manifest %s: %d, want %d", digest, w.Code, status)
			}
		}
		refused(t, b.do("GET", idle, nil), 404, "BLOB_UPLOAD_UNKNOWN")
		if w := b.do("PUT", busy+"?digest="+digestOf([]byte("more")), nil); w.Code != 201 {
			t.Errorf("an upload that was worked on: %d %s", w.Code, w.Body)
		}
	})
}

func TestCollect_KeepsWhatAPushReliesOn(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		m, blobs := image("linux/amd64", []byte("layer"))
		must(b.pushImage(m, blobs, "v1"))(t)
		path := b.begin(t)
		b.do("PATCH", path, []byte("late"))
		time.Sleep(grace - time.Minute)
		// The client asks, and is told that all but the index is here.
		for _, p := range []string{"blobs/" + digestOf(blobs[0]), "blobs/" + digestOf(blobs[1]), "manifests/" + digestOf(m)} {
			if w := b.do("HEAD", "sr/"+p, nil); w.Code != 200 {
				t.Errorf("%s: %d", p, w.Code)
			}
		}
		if w := b.do("PUT", path+"?digest="+digestOf([]byte("late")), nil); w.Code != 201 { // nothing was sent for a day
			t.Errorf("completing an upload: %d %s", w.Code, w.Body)
		}
		time.Sleep(grace / 2)
		b.collect(t)
		must(b.pushManifest(mediaIndex, index([][]byte{m}, "linux/amd64"), "v2"))(t)
		if w := b.do("GET", "sr/blobs/"+digestOf([]byte("late")), nil); w.Code != 200 {
			t.Errorf("a blob that came late: %d", w.Code)
		}
	})
}

// modelGrace is short: rapid has a deadline of a day, and takes the time of the bubble for real.
const modelGrace = 24 * time.Second

// model is what the registry should hold, told in another way than the registry knows it.
type model struct {
	b          *bench
	blobs      map[string]time.Time // when each was pushed or asked for last
	manifests  map[string]*modelManifest
	registered map[int]string // number → digest
	contents   int            // how many different contents were made
}

type modelManifest struct {
	digest, subject string
	blobs, children []string
	content         []byte
	touched         time.Time
}

func (m *model) digests() []string {
	list := make([]string, 0, len(m.manifests))
	for d := range m.manifests {
		list = append(list, d)
	}
	slices.Sort(list)
	return list
}

// needed says whether a manifest must be kept. Manifests lead to each other without circles.
func (m *model) needed(digest string, keep []string, now time.Time) bool {
	man := m.manifests[digest]
	if slices.Contains(keep, digest) || now.Sub(man.touched) < modelGrace {
		return true
	}
	for _, d := range m.registered {
		if d == digest {
			return true
		}
	}
	for d, other := range m.manifests {
		if slices.Contains(other.children, digest) && m.needed(d, keep, now) {
			return true
		}
	}
	return man.subject != "" && m.manifests[man.subject] != nil && m.needed(man.subject, keep, now)
}

// collect forgets what the registry should.
func (m *model) collect(keep []string) {
	now := time.Now()
	var gone []string
	for d := range m.manifests {
		if !m.needed(d, keep, now) {
			gone = append(gone, d)
		}
	}
	for _, d := range gone {
		delete(m.manifests, d)
	}
	for d, touched := range m.blobs {
		used := slices.ContainsFunc(m.digests(), func(man string) bool { return slices.Contains(m.manifests[man].blobs, d) })
		if !used && now.Sub(touched) >= modelGrace {
			delete(m.blobs, d)
		}
	}
}

// check compares the registry with the model.
func (m *model) check(t *rapid.T) {
	var want, got []string
	for d := range m.blobs {
		want = append(want, d)
	}
	for d := range m.manifests {
		want = append(want, "manifest "+d)
	}
	for _, sub := range []string{"blobs/sha256", "uploads", "trash"} {
		entries, err := os.ReadDir(m.b.dir + "/" + sub)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				got = append(got, sub+"/"+e.Name())
				continue
			}
			files, err := os.ReadDir(m.b.dir + "/" + sub + "/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				got = append(got, "sha256:"+f.Name())
			}
		}
	}
	err := m.b.store.View(context.Background(), func(tx *store.Tx) error {
		list, err := tx.Manifests()
		for _, man := range list {
			got = append(got, "manifest "+man.Digest)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("what is stored (-want +got):\n%s", d)
	}
}

func (m *model) content() []byte {
	m.contents++
	return fmt.Appendf(nil, "content %d", m.contents)
}

// push pushes an image of some new and some known layers, perhaps about another manifest.
func (m *model) push(t *rapid.T) {
	now := time.Now()
	man := &modelManifest{touched: now}
	config := toJSON(object{"os": "linux", "architecture": "amd64", "n": m.contents})
	m.contents++
	layers := [][]byte{}
	for range rapid.IntRange(0, 2).Draw(t, "layers") {
		n := rapid.IntRange(0, m.contents).Draw(t, "layer")
		layers = append(layers, fmt.Appendf(nil, "content %d", n))
	}
	doc := object{"schemaVersion": 2, "config": descriptor(mediaConfig, config)}
	list := []object{}
	for _, blob := range append([][]byte{config}, layers...) {
		d := digestOf(blob)
		if w := m.b.do("HEAD", "sr/blobs/"+d, nil); (w.Code == 200) != !m.blobs[d].IsZero() {
			t.Fatalf("HEAD of blob %q: %d", blob, w.Code)
		} else if w.Code != 200 {
			if err := m.b.pushBlob(blob); err != nil {
				t.Fatal(err)
			}
		}
		m.blobs[d] = now
		man.blobs = append(man.blobs, d)
	}
	for _, l := range layers {
		list = append(list, descriptor(mediaLayer, l))
	}
	doc["layers"] = list
	if all := m.digests(); len(all) > 0 && rapid.Bool().Draw(t, "about another") {
		man.subject = rapid.SampledFrom(all).Draw(t, "subject")
		doc["subject"] = object{"mediaType": mediaManifest, "digest": man.subject, "size": 1}
	}
	man.content = toJSON(doc)
	m.put(t, man, mediaManifest)
}

// pushIndex pushes an index of manifests that are there.
func (m *model) pushIndex(t *rapid.T) {
	all := m.digests()
	if len(all) == 0 {
		return
	}
	man := &modelManifest{touched: time.Now()}
	list := []object{}
	for range rapid.IntRange(1, 3).Draw(t, "children") {
		d := rapid.SampledFrom(all).Draw(t, "child")
		man.children = append(man.children, d)
		list = append(list, object{"mediaType": mediaManifest, "digest": d, "size": len(m.manifests[d].content)})
	}
	man.content = toJSON(object{"schemaVersion": 2, "manifests": list, "annotations": object{"n": string(m.content())}})
	m.put(t, man, mediaIndex)
}

func (m *model) put(t *rapid.T, man *modelManifest, mediaType string) {
	tag := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "tag")
	digest, err := m.b.pushManifest(mediaType, man.content, tag)
	if err != nil {
		t.Fatal(err)
	}
	man.digest = digest
	m.manifests[digest] = man
}

func TestCollect_KeepsExactlyWhatIsReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ testing.TB }{t}, func(t *rapid.T) { // without Deadline, which a bubble does not have
			dir, err := os.MkdirTemp("", "collect") //nolint:usetesting // a check has no directory of its own
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			b, err := openBench(context.Background(), dir, registry.Config{Grace: modelGrace})
			if err != nil {
				t.Fatal(err)
			}
			defer b.store.Close()
			m := &model{b: b, blobs: map[string]time.Time{}, manifests: map[string]*modelManifest{}, registered: map[int]string{}}
			service := &trysail.Service{ID: "id", Name: "web", HostLabel: "web", State: trysail.ServiceReady, Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 1}}
			update := func(fn func(*store.Tx) error) {
				if err := b.store.Update(context.Background(), fn); err != nil {
					t.Fatal(err)
				}
			}
			update(func(tx *store.Tx) error { return tx.InsertService(service) })
			t.Repeat(map[string]func(*rapid.T){
				"push":      m.push,
				"pushIndex": m.pushIndex,
				"register": func(t *rapid.T) {
					if all := m.digests(); len(all) > 0 {
						d := rapid.SampledFrom(all).Draw(t, "digest")
						update(func(tx *store.Tx) error {
							img, err := tx.RegisterImage(service, "www", d)
							m.registered[img.Number], m.manifests[d].touched = d, time.Now()
							return err
						})
					}
				},
				"unregister": func(*rapid.T) {
					for n := range m.registered {
						update(func(tx *store.Tx) error { return tx.DeleteImage(service, n) })
						delete(m.registered, n)
						return
					}
				},
				"wait": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second)
				},
				"collect": func(t *rapid.T) {
					var keep []string
					if all := m.digests(); len(all) > 0 && rapid.Bool().Draw(t, "keep one") {
						keep = append(keep, rapid.SampledFrom(all).Draw(t, "keep"))
					}
					if _, err := b.Collect(context.Background(), keep); err != nil {
						t.Fatal(err)
					}
					m.collect(keep)
				},
				"": m.check,
			})
		})
	})
}

// TestCollect_LosesNothingBesidePushes collects garbage all the time, and lets nothing be too young for it. A push may be
// told that a blob is gone, and then sends it again. But an image that was acknowledged must stay whole.
func TestCollect_LosesNothingBesidePushes(t *testing.T) {
	b := newBench(t, registry.Config{Grace: 1})
	const clients, layers = 4, 6
	images := 60
	if testing.Short() {
		images = 25
	}
	var keep []string
	plan := [clients][]func() ([]byte, [][]byte){}
	for c := range clients {
		rng := rand.New(rand.NewPCG(1, uint64(c)))
		for i := range images {
			one, two := rng.IntN(layers), rng.IntN(layers)
			plan[c] = append(plan[c], func() ([]byte, [][]byte) {
				return image("linux/amd64", fmt.Appendf(nil, "layer %d", one), fmt.Appendf(nil, "layer %d", two), fmt.Appendf(nil, "of %d %d", c, i))
			})
			m, _ := plan[c][i]()
			keep = append(keep, digestOf(m))
		}
	}
	stop := b.collectAlways(t, keep)
	var pushing sync.WaitGroup
	for c := range clients {
		pushing.Go(func() {
			for i := range images {
				m, blobs := plan[c][i]()
				for tries := 0; ; tries++ {
					_, err := b.pushImage(m, blobs, fmt.Sprint("c", c))
					if err == nil {
						break
					}
					if !strings.Contains(err.Error(), "MANIFEST_BLOB_UNKNOWN") || tries > 10_000 {
						t.Errorf("image %d of %d: %v", i, c, err)
						return
					}
				}
			}
		})
	}
	pushing.Wait()
	stop()
	for c := range clients {
		for i := range images {
			m, _ := plan[c][i]()
			b.intact(t, m)
		}
	}
}

// collectAlways collects garbage until stop is called.
func (b *bench) collectAlways(t *testing.T, keep []string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var collecting sync.WaitGroup
	collecting.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := b.Collect(context.Background(), keep); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	return func() {
		close(done)
		collecting.Wait()
	}
}

// TestCollect_KeepsItsWord asks for blobs that are being collected: what is said to be here must stay.
func TestCollect_KeepsItsWord(t *testing.T) {
	b := newBench(t, registry.Config{Grace: time.Hour})
	const blobs = 16
	rounds := 100
	if testing.Short() {
		rounds = 40
	}
	content := func(n int) []byte { return fmt.Appendf(nil, "blob %d", n) }
	for range rounds {
		for n := range blobs {
			if err := b.pushBlob(content(n)); err != nil {
				t.Fatal(err)
			}
			path, _, err := b.Blob(t.Context(), digestOf(content(n)))
			if err != nil {
				t.Fatal(err)
			}
			long := time.Now().Add(-2 * time.Hour)
			if err := os.Chtimes(path, long, long); err != nil {
				t.Fatal(err)
			}
		}
		stop := b.collectAlways(t, nil)
		var here [blobs]bool
		for n := range blobs {
			here[n] = b.do("HEAD", "sr/blobs/"+digestOf(content(n)), nil).Code == 200
		}
		stop()
		for n := range blobs {
			if w := b.do("GET", "sr/blobs/"+digestOf(content(n)), nil); here[n] && w.Code != 200 {
				t.Fatalf("blob %d was said to be here, and is not: %d", n, w.Code)
			}
		}
	}
}

// intact checks that an image is here with all its blobs.
func (b *bench) intact(t *testing.T, manifest []byte) {
	t.Helper()
	w := b.do("GET", "sr/manifests/"+digestOf(manifest), nil)
	if w.Code != 200 || w.Body.String() != string(manifest) {
		t.Errorf("manifest %s: %d %s", digestOf(manifest), w.Code, w.Body)
		return
	}
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	fromJSON(t, w, &m)
	for _, l := range append(m.Layers, m.Config) {
		if w := b.do("GET", "sr/blobs/"+l.Digest, nil); w.Code != 200 || digestOf(w.Body.Bytes()) != l.Digest {
			t.Errorf("blob %s of %s: %d", l.Digest, digestOf(manifest), w.Code)
		}
	}
}
