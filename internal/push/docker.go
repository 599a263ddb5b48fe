package push

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"
)

// packers is how many layers are compressed at the same time.
const packers = 2

// savedImage is one entry of the manifest.json that docker save writes.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// openDockerArchive reads what docker save makes: layers that are not compressed. Each is compressed once, to a
// temporary file; what comes out depends on the content alone, so that a layer which the registry has is not sent again.
func (s *Source) openDockerArchive(a *archive, ref string, o Options) error {
	raw, err := readSmall(a, "manifest.json")
	if err != nil {
		return err
	}
	var saved []savedImage
	if err := json.Unmarshal(raw, &saved); err != nil {
		return fmt.Errorf("reading the manifest.json of %s: %w", s.From, err)
	}
	one, err := chooseSaved(saved, ref)
	if err != nil {
		return fmt.Errorf("%s %w", s.From, err)
	}
	config, err := readSmall(a, one.Config)
	if err != nil {
		return err
	}
	var file v1.ConfigFile
	if err := json.Unmarshal(config, &file); err != nil {
		return fmt.Errorf("reading the image's configuration: %w", err)
	}
	if len(file.RootFS.DiffIDs) != len(one.Layers) {
		return fmt.Errorf("the image's configuration names %d layers, but it has %d", len(file.RootFS.DiffIDs), len(one.Layers))
	}
	dir, err := os.MkdirTemp("", "trysail-push-")
	if err != nil {
		return err
	}
	s.temp = append(s.temp, dir)
	layers := make([]v1.Layer, len(one.Layers))
	var g errgroup.Group
	g.SetLimit(packers)
	for i, name := range one.Layers {
		g.Go(func() (err error) {
			layers[i], err = pack(a, name, file.RootFS.DiffIDs[i], filepath.Join(dir, fmt.Sprint(i)))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.image, err = assemble(config, file, layers); err != nil {
		return err
	}
	return s.choose(o.Platform, nil)
}

func chooseSaved(saved []savedImage, ref string) (savedImage, error) {
	for _, one := range saved {
		if slices.Contains(one.RepoTags, ref) {
			return one, nil
		}
	}
	switch {
	case ref != "":
		return savedImage{}, fmt.Errorf("has no image named %s", ref)
	case len(saved) == 0:
		return savedImage{}, errors.New("holds no image")
	case len(saved) > 1:
		return savedImage{}, fmt.Errorf("holds %d images; name the one to push: docker-archive:FILE:NAME", len(saved))
	}
	return saved[0], nil
}

// pack compresses a layer into a file, unless it is compressed already, and verifies that it is the one that the
// configuration names.
func pack(a *archive, name string, want v1.Hash, file string) (v1.Layer, error) {
	in, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600) //nolint:gosec // in a folder of our own
	if err != nil {
		return nil, err
	}
	packed, unpacked := newHasher(), newHasher()
	to := io.MultiWriter(out, packed)
	b := bufio.NewReaderSize(in, 256<<10)
	if isGzip(b) { // docker save writes plain layers, other tools do not
		err = unpackInto(unpacked, io.TeeReader(b, to))
	} else {
		z := gzip.NewWriter(to)
		_, err = io.Copy(io.MultiWriter(z, unpacked), b)
		err = errors.Join(err, z.Close())
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, fmt.Errorf("reading the layer %s: %w", name, err)
	}
	if got := unpacked.hash(); got != want {
		return nil, fmt.Errorf("the layer %s of the image is damaged: its content has another digest", name)
	}
	return &packedLayer{file: file, digest: packed.hash(), diffID: want, size: packed.size}, nil
}

// isGzip looks at the first bytes without taking them.
func isGzip(b *bufio.Reader) bool {
	head, _ := b.Peek(2) // shorter content is not compressed
	return len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b
}

// unpackInto uncompresses r to its very end, padding behind the compressed stream included.
func unpackInto(w io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, z)
	_, restErr := io.Copy(io.Discard, r)
	return errors.Join(err, restErr)
}

// packedLayer is a layer that was compressed to a file.
type packedLayer struct {
	file           string
	digest, diffID v1.Hash
	size           int64
}

func (l *packedLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *packedLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *packedLayer) Size() (int64, error)                { return l.size, nil }
func (l *packedLayer) MediaType() (types.MediaType, error) { return types.DockerLayer, nil }
func (l *packedLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.file) }

func (l *packedLayer) Uncompressed() (io.ReadCloser, error) {
	return nil, errors.New("a packed layer is only sent")
}

// assemble makes an image of layers and the configuration as it was saved, byte by byte.
func assemble(raw []byte, file v1.ConfigFile, layers []v1.Layer) (v1.Image, error) {
	adds := make([]mutate.Addendum, len(layers))
	for i, l := range layers {
		adds[i].Layer = l
	}
	img, err := mutate.Append(empty.Image, adds...)
	if err != nil {
		return nil, err
	}
	if img, err = mutate.ConfigFile(img, &file); err != nil {
		return nil, err
	}
	return withRawConfig(img, raw)
}

// openDaemon gets the image out of the first daemon that has it.
func (s *Source) openDaemon(ctx context.Context, name string, o Options, daemons []daemon) error {
	var tried []string
	for _, d := range daemons {
		err := d.save(ctx, name, func(r io.Reader) error { return s.openStream(r, d.String(), o) })
		if err == nil {
			s.From = d.String()
			return nil
		}
		if !errors.Is(err, errAbsent) {
			return err
		}
		tried = append(tried, d.String()+": "+d.reason(err))
	}
	reasons := append([]string{"it is neither a file nor a folder here"}, tried...)
	return fmt.Errorf("no image %q was found: %s", name, strings.Join(reasons, "; "))
}
