package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trysail/trysail/test/kit"
)

const (
	transferLayers = 8
	transferBytes  = 1 << 30 // of the image that is pushed and pulled
	deployLayers   = 5
	deployBytes    = 500 << 20 // of the image that is deployed, unpacked
)

// transfers measures pushing and pulling a large image against Debian's docker-registry, in turns, with one client for
// both; and the first deployment of an image of 500 MB against docker pull and docker run.
func transfers(ctx context.Context, t *table, o options, registry *kit.Registry, dir string) (err error) {
	s, err := kit.StartServer(ctx, kit.ServerOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
	if err := pushAndPull(ctx, t, o, s, registry, dir); err != nil {
		return err
	}
	if !o.docker {
		return nil
	}
	return firstDeployments(ctx, t, o, s, registry, dir)
}

// pushAndPull lets the same client move the same bytes to and from both registries.
func pushAndPull(ctx context.Context, t *table, o options, s *kit.Server, peer *kit.Registry, dir string) error {
	login, err := s.Client().CreateContainerServiceRegistryLogin(ctx, &lightsail.CreateContainerServiceRegistryLoginInput{})
	if err != nil {
		return err
	}
	l := login.RegistryLogin
	idle, err := kit.MemoryOf(s.PID())
	if err != nil {
		return err
	}
	peak := idle.RSS
	var pushOurs, pushPeer, pullOurs, pullPeer []time.Duration
	for i := range o.transfers + 1 {
		img, files, err := rawImage(ctx, dir, uint64(i))
		if err != nil {
			return err
		}
		stop := watchMemory(s.PID(), &peak)
		for _, one := range []struct {
			repository     string
			push, pull     *[]time.Duration
			user, password string
		}{
			{aws.ToString(l.Registry) + "/sr", &pushOurs, &pullOurs, aws.ToString(l.Username), aws.ToString(l.Password)},
			{peer.Host + "/large", &pushPeer, &pullPeer, "", ""},
		} {
			up, down, err := roundTrip(ctx, fmt.Sprintf("%s:run%d", one.repository, i), img, one.user, one.password)
			if err != nil {
				return errors.Join(err, stop())
			}
			fmt.Fprintf(os.Stderr, "run %2d: %s: push %s, pull %s\n", i, one.repository, millis(up), millis(down))
			if i > 0 { // the first is not counted
				*one.push, *one.pull = append(*one.push, up), append(*one.pull, down)
			}
		}
		if err := errors.Join(stop(), removeAll(files)); err != nil {
			return err
		}
	}
	speed := func(d []time.Duration) string {
		mid, _, _ := median(d)
		return fmt.Sprintf("%.0f MB/s", transferBytes/1e6/mid.Seconds())
	}
	t.add("push of a 1 GB image, Trysail", speed(pushOurs), "times docker-registry "+ratio(pushPeer, pushOurs, "≥ 1.5"))
	t.add("push of a 1 GB image, docker-registry", speed(pushPeer), "")
	t.add("pull of a 1 GB image, Trysail", speed(pullOurs), "times docker-registry "+ratio(pullPeer, pullOurs, "≥ 1.5"))
	t.add("pull of a 1 GB image, docker-registry", speed(pullPeer), "")
	t.add("memory of Trysail while doing it", fmt.Sprintf("RSS +%d MB", (peak-idle.RSS)>>20), "(aim ≤ 60 MB more than idle)")
	return nil
}

// roundTrip pushes the image, and pulls all its blobs.
func roundTrip(ctx context.Context, ref string, img v1.Image, user, password string) (up, down time.Duration, err error) {
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		return 0, 0, err
	}
	opts := []remote.Option{remote.WithContext(ctx), remote.WithJobs(4)}
	if user != "" {
		opts = append(opts, remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	}
	began := time.Now()
	if err := remote.Write(tag, img, opts...); err != nil {
		return 0, 0, fmt.Errorf("pushing to %s: %w", ref, err)
	}
	up = time.Since(began)
	began = time.Now()
	m, err := img.Manifest()
	if err != nil {
		return 0, 0, err
	}
	errs := make(chan error, len(m.Layers))
	for _, l := range m.Layers {
		go func() {
			errs <- download(ctx, "http://"+tag.RegistryStr()+"/v2/"+tag.RepositoryStr()+"/blobs/"+l.Digest.String(), user, password)
		}()
	}
	for range m.Layers {
		err = errors.Join(err, <-errs)
	}
	return up, time.Since(began), err
}

// download reads a blob and throws it away. It does not verify it: a client that hashes what it gets takes longer for
// that than either server for sending it, and would hide the difference.
func download(ctx context.Context, url, user, password string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
	if err == nil && (resp.StatusCode != http.StatusOK || n != transferBytes/transferLayers) {
		err = fmt.Errorf("%s answered %s with %d bytes", url, resp.Status, n)
	}
	return err
}

// watchMemory raises peak to the largest resident memory of the process until stop.
func watchMemory(pid int, peak *int64) (stop func() error) {
	end, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-end:
				done <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
			m, err := kit.MemoryOf(pid)
			if err != nil {
				done <- err
				return
			}
			*peak = max(*peak, m.RSS)
		}
	}()
	return func() error { close(end); return <-done }
}

// fileLayer is a layer whose compressed bytes are a file.
type fileLayer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *fileLayer) Size() (int64, error)                { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.DockerLayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	return nil, errors.New("the benchmark never unpacks this")
}

// rawImage makes an image of random bytes. To a registry layers are just bytes.
func rawImage(ctx context.Context, dir string, seed uint64) (v1.Image, []string, error) {
	var adds []mutate.Addendum
	var files []string
	for i := range transferLayers {
		path := filepath.Join(dir, fmt.Sprintf("raw-%d-%d", seed, i))
		files = append(files, path)
		sum := sha256.New()
		err := writeFile(path, func(w io.Writer) error {
			_, err := io.CopyN(io.MultiWriter(w, sum), newRandom(seed*transferLayers+uint64(i)), transferBytes/transferLayers)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		h := hash(sum.Sum(nil))
		adds = append(adds, mutate.Addendum{Layer: &fileLayer{path, h, h, transferBytes / transferLayers}})
	}
	raw, err := mutate.Append(empty.Image, adds...)
	if err != nil {
		return nil, nil, err
	}
	img, err := withConfig(ctx, raw)
	return img, files, err
}

// withConfig makes an image one that this machine could run.
func withConfig(ctx context.Context, img v1.Image) (v1.Image, error) {
	base, err := kit.Web(ctx, "1")
	if err != nil {
		return nil, err
	}
	from, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Config = from.Architecture, from.OS, from.Config
	return mutate.ConfigFile(img, config)
}

// largeImage is the test server with layers of files below it, half of them random and half of them text, as programs
// and their libraries compress to about half.
func largeImage(ctx context.Context, dir string, seed uint64) (v1.Image, []string, error) {
	web, err := kit.Web(ctx, fmt.Sprint(seed))
	if err != nil {
		return nil, nil, err
	}
	var adds []mutate.Addendum
	var files []string
	for i := range deployLayers {
		path := filepath.Join(dir, fmt.Sprintf("large-%d-%d", seed, i))
		files = append(files, path)
		packed, unpacked := sha256.New(), sha256.New()
		err := writeFile(path, func(w io.Writer) error {
			z, err := gzip.NewWriterLevel(io.MultiWriter(w, packed), gzip.BestSpeed)
			if err != nil {
				return err
			}
			return errors.Join(writeLayer(io.MultiWriter(z, unpacked), seed*deployLayers+uint64(i)), z.Close())
		})
		if err != nil {
			return nil, nil, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, err
		}
		adds = append(adds, mutate.Addendum{Layer: &fileLayer{path, hash(packed.Sum(nil)), hash(unpacked.Sum(nil)), info.Size()}})
	}
	img, err := mutate.Append(web, adds...)
	return img, files, err
}

// writeLayer writes a layer of files of a megabyte each.
func writeLayer(w io.Writer, seed uint64) error {
	t := tar.NewWriter(w)
	random := newRandom(seed)
	const size = 1 << 20
	text := make([]byte, size)
	for i := range text {
		text[i] = "the same words again and again\n"[i%31]
	}
	for i := range deployBytes / deployLayers / size {
		if err := t.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d/%d", seed, i), Mode: 0o644, Size: size, ModTime: time.Unix(1, 0)}); err != nil {
			return err
		}
		var err error
		if i%2 == 0 {
			_, err = io.CopyN(t, random, size)
		} else {
			_, err = t.Write(text)
		}
		if err != nil {
			return err
		}
	}
	return t.Close()
}

func newRandom(seed uint64) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return rand.NewChaCha8(key)
}

func hash(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }

func writeFile(path string, fill func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(fill(w), w.Flush(), f.Close())
}

func removeAll(files []string) (err error) {
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// firstDeployments deploys images that the machine has never seen, and pulls and runs the same with Docker, in turns.
func firstDeployments(ctx context.Context, t *table, o options, s *kit.Server, registry *kit.Registry, dir string) (err error) {
	sub, err := os.MkdirTemp(dir, "docker-")
	if err != nil {
		return err
	}
	docker, err := startDocker(ctx, sub)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: going on without Docker:", err)
		return nil
	}
	defer func() { err = errors.Join(err, docker.Close(context.WithoutCancel(ctx))) }()
	deployer, err := newDeployer(ctx, s, "")
	if err != nil {
		return err
	}
	var ours, theirs []time.Duration
	for i := range o.transfers + 1 {
		img, files, err := largeImage(ctx, dir, uint64(i))
		if err != nil {
			return err
		}
		image, err := registry.Push(ctx, fmt.Sprintf("large-web:%d", i), img)
		if err := errors.Join(err, removeAll(files)); err != nil {
			return err
		}
		deployer.image = image
		deployed, err := deployer.deploy(ctx, i)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := docker.pull(ctx, image); err != nil {
			return err
		}
		pulled := time.Since(began)
		ran, err := docker.run(ctx, image)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "run %2d: first deployment %s, docker pull and run %s\n", i, millis(deployed), millis(pulled+ran))
		if i > 0 {
			ours, theirs = append(ours, deployed), append(theirs, pulled+ran)
		}
	}
	t.add("first deployment of a 500 MB image, until ACTIVE and 200", spread(ours), "deployment/docker "+ratio(ours, theirs, "≤ 0.7"))
	t.add("docker pull and docker run of the same, until 200", spread(theirs), "")
	return nil
}
