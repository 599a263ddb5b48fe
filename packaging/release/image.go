package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// entry is a file, a symbolic link or a folder of a layer.
type entry struct {
	mode    fs.FileMode // permission bits; with fs.ModeDir for a folder
	content []byte
	link    string
}

// image writes the OCI image for all processors as one archive in the OCI's layout, which registries' clients take. It has
// the list that docker load reads of old, too.
func (r *release) image(ctx context.Context) error {
	lock, err := readLock("packaging/image/packages.lock")
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var manifest []any
	for _, arch := range r.architectures {
		img, debs, err := r.imageFor(ctx, arch, lock)
		if err != nil {
			return fmt.Errorf("making the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
		item, err := dockerItem(img, r.tag()+"-"+arch)
		if err != nil {
			return err
		}
		manifest = append(manifest, item)
		if err := r.imageSBOM(arch, debs); err != nil {
			return err
		}
	}
	dir := filepath.Join(r.work, "oci")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := p.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": strings.TrimPrefix(r.version, "v"),
		"io.containerd.image.name":          "docker.io/library/" + r.tag(),
	})); err != nil {
		return err
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), text, 0o644); err != nil { //nolint:gosec // it is to be published
		return err
	}
	return r.archiveFolder(dir, filepath.Join(r.dist, r.fileName("oci.tar")))
}

// tag is the image's name.
func (r *release) tag() string { return "trysail:" + strings.TrimPrefix(r.version, "v") }

// dockerItem is an image in manifest.json.
func dockerItem(img v1.Image, tag string) (any, error) {
	config, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	var files []string
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return nil, err
		}
		files = append(files, blob(digest))
	}
	return map[string]any{"Config": blob(config), "RepoTags": []string{tag}, "Layers": files}, nil
}

func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// imageFor makes the image for one kind of processor out of two layers: Debian's, which stays the same for many
// releases, and ours.
func (r *release) imageFor(ctx context.Context, arch string, lock lock) (v1.Image, []deb, error) {
	var debs []deb
	base := skeleton()
	for _, d := range lock.debs {
		if d.arch != arch {
			continue
		}
		file, err := lock.fetch(ctx, d, cmp.Or(os.Getenv("TRYSAIL_DEBIAN_MIRROR"), "http://deb.debian.org"), cacheFolder())
		if err != nil {
			return nil, nil, err
		}
		if err := unpack(ctx, file, base); err != nil {
			return nil, nil, err
		}
		debs = append(debs, d)
	}
	if len(debs) == 0 {
		return nil, nil, errors.New("packages.lock has no packages for it")
	}
	bundleCertificates(base)
	own := map[string]entry{}
	for name, file := range map[string]string{
		"usr/bin/trysail": r.binary(arch), "usr/bin/trysail-init": filepath.Join(r.work, arch, "trysail-init"),
		"usr/share/doc/trysail/copyright": "LICENSE", "usr/share/doc/trysail/CHANGELOG.md": "CHANGELOG.md",
	} {
		content, err := os.ReadFile(file) //nolint:gosec // our own files
		if err != nil {
			return nil, nil, err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "usr/bin/") {
			mode = 0o755
		}
		own[name] = entry{mode: mode, content: content}
	}
	img, err := mutate.ConfigFile(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), &v1.ConfigFile{
		Architecture: arch, OS: "linux", Created: v1.Time{Time: r.time}, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"/usr/bin/trysail-init"}, Cmd: []string{"serve"}, WorkingDir: "/",
			Env:     []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Volumes: map[string]struct{}{"/var/lib/trysail": {}}, // overlayfs cannot be put on overlayfs
			Labels: map[string]string{
				"org.opencontainers.image.title": "trysail", "org.opencontainers.image.version": strings.TrimPrefix(r.version, "v"),
				"org.opencontainers.image.description": "Amazon Lightsail container services on your own machines",
				"org.opencontainers.image.source":      "https://github.com/trysail/trysail", "org.opencontainers.image.licenses": "Apache-2.0",
			},
			ExposedPorts: map[string]struct{}{"80/tcp": {}, "443/tcp": {}},
		},
	})
	if err != nil {
		return nil, nil, err
	}
	for _, l := range []struct {
		files map[string]entry
		time  time.Time
		by    string
	}{{base, time.Unix(0, 0), "Debian packages, see packages.lock"}, {own, r.time, "trysail " + r.version}} {
		layer, err := layerOf(l.files, l.time)
		if err != nil {
			return nil, nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: l.time.UTC()}, CreatedBy: l.by}})
		if err != nil {
			return nil, nil, err
		}
	}
	return img, debs, nil
}

// skeleton is what a root has to have.
func skeleton() map[string]entry {
	return map[string]entry{
		"proc": {mode: 0o555 | fs.ModeDir}, "sys": {mode: 0o555 | fs.ModeDir}, "dev": {mode: 0o755 | fs.ModeDir}, "run": {mode: 0o755 | fs.ModeDir},
		"tmp": {mode: 0o1777 | fs.ModeDir}, "root": {mode: 0o700 | fs.ModeDir}, "var/lib/trysail": {mode: 0o700 | fs.ModeDir},
		// With the network of the machine, its firewall has to let the pods through.
		"usr/sbin/iptables": {link: "xtables-nft-multi"}, "usr/sbin/ip6tables": {link: "xtables-nft-multi"},
		"etc/hosts":  {mode: 0o644, content: []byte("127.0.0.1 localhost\n::1 localhost\n")}, // that of pods is made from it
		"etc/passwd": {mode: 0o644, content: []byte("root:x:0:0:root:/root:/usr/bin/trysail\n")},
		"etc/group":  {mode: 0o644, content: []byte("root:x:0:\n")},
	}
}

// layerOf makes a layer: names in order, all of root, all of one time.
func layerOf(files map[string]entry, at time.Time) (v1.Layer, error) {
	all := maps.Clone(files)
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = entry{mode: 0o755 | fs.ModeDir}
			}
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		h := &tar.Header{Name: name, Mode: int64(e.mode &^ fs.ModeDir), ModTime: at, Typeflag: tar.TypeReg, Size: int64(len(e.content)), Format: tar.FormatPAX}
		switch {
		case e.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case e.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil },
		tarball.WithCompressionLevel(9), tarball.WithMediaType(types.OCILayer))
}

// archiveFolder writes the files of a folder into a tar archive, in order.
func (r *release) archiveFolder(dir, file string) (err error) {
	f, err := os.Create(file) //nolint:gosec // our own file
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error { // in order
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return r.add(w, filepath.ToSlash(name), p)
	})
	return errors.Join(err, w.Close())
}

// cacheFolder is where packages are kept from one release to the next.
func cacheFolder() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "trysail-release")
}
