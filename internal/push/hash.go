package push

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	stdhash "hash"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// hasher counts and hashes what is written to it.
type hasher struct {
	stdhash.Hash
	size int64
}

func newHasher() *hasher { return &hasher{Hash: sha256.New()} }

func (h *hasher) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	return h.Hash.Write(p)
}

func (h *hasher) hash() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// rawConfigImage is an image with the configuration's bytes as they were: encoding them again would lose what the
// library does not know, and make another image of it.
type rawConfigImage struct {
	v1.Image
	config, manifest []byte
}

func withRawConfig(img v1.Image, config []byte) (v1.Image, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	if m.Config.Digest, m.Config.Size, err = v1.SHA256(bytes.NewReader(config)); err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(m)
	return &rawConfigImage{img, config, manifest}, err
}

func (i *rawConfigImage) RawConfigFile() ([]byte, error)      { return i.config, nil }
func (i *rawConfigImage) ConfigFile() (*v1.ConfigFile, error) { return partial.ConfigFile(i) }
func (i *rawConfigImage) ConfigName() (v1.Hash, error)        { return partial.ConfigName(i) }
func (i *rawConfigImage) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *rawConfigImage) Manifest() (*v1.Manifest, error)     { return partial.Manifest(i) }
func (i *rawConfigImage) Digest() (v1.Hash, error)            { return partial.Digest(i) }
func (i *rawConfigImage) Size() (int64, error)                { return int64(len(i.manifest)), nil }

func (i *rawConfigImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	if name, err := i.ConfigName(); err == nil && name == h {
		return partial.ConfigLayer(i)
	}
	return i.Image.LayerByDigest(h)
}
