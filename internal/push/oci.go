package push

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// blobs are the files of an OCI layout, in a folder or in a tar file.
type blobs interface {
	has(name string) bool
	open(name string) (io.ReadCloser, error)
}

// layoutDir is an OCI layout in a folder. Nothing in it can lead out of the folder.
type layoutDir struct{ root *os.Root }

func (d layoutDir) has(name string) bool {
	_, err := d.root.Stat(name)
	return err == nil
}

func (d layoutDir) open(name string) (io.ReadCloser, error) { return d.root.Open(name) }

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// refNames are the annotations that name an entry of an OCI layout.
func named(d v1.Descriptor, ref string) bool {
	return d.Annotations["org.opencontainers.image.ref.name"] == ref || d.Annotations["io.containerd.image.name"] == ref
}

// openOCI reads an OCI layout, in which ref names one of several images.
func (s *Source) openOCI(files blobs, ref string, o Options) error {
	raw, err := readSmall(files, "index.json")
	if err != nil {
		return err
	}
	var top v1.IndexManifest
	if err := json.Unmarshal(raw, &top); err != nil {
		return fmt.Errorf("reading the index.json of %s: %w", s.From, err)
	}
	var found []v1.Descriptor
	for _, d := range top.Manifests {
		if ref == "" || named(d, ref) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0 && ref != "":
		return fmt.Errorf("%s has no image named %s", s.From, ref)
	case len(found) == 0:
		return fmt.Errorf("%s holds no image", s.From)
	}
	present := func(h v1.Hash) bool { return files.has(blobPath(h)) }
	first := found[0]
	for _, d := range found[1:] {
		if d.Digest != first.Digest {
			return s.openMany(files, raw, found, o, present)
		}
	}
	if first.MediaType.IsIndex() {
		s.index, err = openIndex(files, first)
	} else {
		s.image, err = openImage(files, first)
	}
	if err != nil {
		return err
	}
	return s.choose(o.Platform, present)
}

// openMany takes the index.json itself for the index, if it is one of platforms and not one of names.
func (s *Source) openMany(files blobs, raw []byte, found []v1.Descriptor, o Options, present func(v1.Hash) bool) error {
	for _, d := range found {
		if d.Platform == nil {
			return fmt.Errorf("%s holds %d images; name the one to push: oci:FOLDER:NAME", s.From, len(found))
		}
	}
	s.index = &ociIndex{files, raw, types.OCIImageIndex}
	return s.choose(o.Platform, present)
}

// ociIndex is an index whose manifests are in files.
type ociIndex struct {
	files     blobs
	raw       []byte
	mediaType types.MediaType
}

func openIndex(files blobs, d v1.Descriptor) (v1.ImageIndex, error) {
	raw, err := readBlob(files, d.Digest)
	if err != nil {
		return nil, err
	}
	return &ociIndex{files, raw, d.MediaType}, nil
}

// readBlob reads a manifest or configuration and verifies it.
func readBlob(files blobs, h v1.Hash) ([]byte, error) {
	raw, err := readSmall(files, blobPath(h))
	if err != nil {
		return nil, err
	}
	if sum, _, err := v1.SHA256(bytes.NewReader(raw)); err != nil || sum != h {
		return nil, fmt.Errorf("the part %s of the image is damaged: its content has another digest", shorten(h.String()))
	}
	return raw, nil
}

func (x *ociIndex) MediaType() (types.MediaType, error) { return x.mediaType, nil }
func (x *ociIndex) Digest() (v1.Hash, error)            { return partial.Digest(x) }
func (x *ociIndex) Size() (int64, error)                { return int64(len(x.raw)), nil }
func (x *ociIndex) RawManifest() ([]byte, error)        { return x.raw, nil }
func (x *ociIndex) IndexManifest() (*v1.IndexManifest, error) {
	return v1.ParseIndexManifest(bytes.NewReader(x.raw))
}

func (x *ociIndex) entry(h v1.Hash) (v1.Descriptor, error) {
	m, err := x.IndexManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	for _, d := range m.Manifests {
		if d.Digest == h {
			return d, nil
		}
	}
	return v1.Descriptor{}, errors.New("the index has no such entry")
}

func (x *ociIndex) Image(h v1.Hash) (v1.Image, error) {
	d, err := x.entry(h)
	if err != nil {
		return nil, err
	}
	return openImage(x.files, d)
}

func (x *ociIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	d, err := x.entry(h)
	if err != nil {
		return nil, err
	}
	return openIndex(x.files, d)
}

// ociImage is the core of an image whose layers are in files.
type ociImage struct {
	files     blobs
	raw       []byte
	manifest  *v1.Manifest
	mediaType types.MediaType
}

func openImage(files blobs, d v1.Descriptor) (v1.Image, error) {
	raw, err := readBlob(files, d.Digest)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest %s: %w", shorten(d.Digest.String()), err)
	}
	mediaType := d.MediaType
	if mediaType == "" {
		mediaType = m.MediaType
	}
	return partial.CompressedToImage(&ociImage{files, raw, m, mediaType})
}

func (i *ociImage) RawConfigFile() ([]byte, error) {
	return readBlob(i.files, i.manifest.Config.Digest)
}
func (i *ociImage) MediaType() (types.MediaType, error) { return i.mediaType, nil }
func (i *ociImage) RawManifest() ([]byte, error)        { return i.raw, nil }

func (i *ociImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if h == i.manifest.Config.Digest {
		return &ociLayer{i.files, i.manifest.Config}, nil
	}
	for _, d := range i.manifest.Layers {
		if d.Digest == h {
			return &ociLayer{i.files, d}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", shorten(h.String()))
}

// ociLayer is a blob in files. The registry verifies what it gets.
type ociLayer struct {
	files blobs
	d     v1.Descriptor
}

func (l *ociLayer) Digest() (v1.Hash, error)            { return l.d.Digest, nil }
func (l *ociLayer) Size() (int64, error)                { return l.d.Size, nil }
func (l *ociLayer) MediaType() (types.MediaType, error) { return l.d.MediaType, nil }
func (l *ociLayer) Compressed() (io.ReadCloser, error)  { return l.files.open(blobPath(l.d.Digest)) }

// hostOf cuts the scheme off an address.
func hostOf(address string) string {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return address
	}
	return rest
}
