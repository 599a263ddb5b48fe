package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/unpack"
	ctrns "github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

const (
	// namespace is where CRI keeps its things in containerd.
	namespace = "k8s.io"
	// maxFetches is how many layers of an image are asked for at a time.
	maxFetches = 4
	// seenTime is how long CRI may take to notice an image that is in containerd.
	seenTime = 30 * time.Second
	// gcConfig marks, on a manifest, the configuration as in use; gcSnapshot does so, on a configuration, with the
	// topmost snapshot. The layers are not marked: they go when they are unpacked.
	gcConfig   = "containerd.io/gc.ref.content.config"
	gcSnapshot = "containerd.io/gc.ref.snapshot."
)

// importer brings one image into containerd: its parts as files, hard-linked into containerd's content store, then
// unpacked layer by layer while further layers still arrive. Containerd itself asks no registry for anything.
//
// Everything is held by a lease until the image is complete, and each step can be repeated: who is killed in between
// begins anew and finds what is there.
type importer struct {
	e        *Engine
	image    string // as the supplier knows it
	supply   engine.Images
	progress *progress

	target   ocispec.Descriptor // of the manifest
	manifest []byte
	layers   []ocispec.Descriptor
	config   ocispec.Descriptor
}

// importImage makes the image known to CRI, unpacked. Errors are for pullFault.
func (e *Engine) importImage(ctx context.Context, image string, supply engine.Images, p *progress) error {
	name, err := reference.ParseDockerRef(image) // as CRI does it
	if err != nil {
		return fmt.Errorf("reading the name: %w", err)
	}
	i := &importer{e: e, image: image, supply: supply, progress: p}
	if err := i.describe(ctx); err != nil {
		return err
	}
	ctx = ctrns.WithNamespace(ctx, namespace)
	lease, err := e.containerd.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(e.cfg.PullTimeout+time.Minute))
	if err != nil {
		return fmt.Errorf("making a lease: %w", err)
	}
	err = i.unpack(leases.WithLease(ctx, lease.ID))
	if err == nil {
		err = i.record(ctx, name.String())
	}
	if err == nil || isCorrupt(err) || isDiskFull(err) {
		// After any other failure the lease keeps what is there for the next try, until it expires.
		err = errors.Join(err, i.release(ctx, lease))
	}
	if err != nil {
		return err
	}
	return e.waitSeen(ctx, image)
}

// describe gets the manifest.
func (i *importer) describe(ctx context.Context) error {
	mediaType, manifest, err := i.supply.Manifest(ctx, i.image)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return &corruptError{what: "its manifest makes no sense"}
	}
	i.manifest = manifest
	i.target = ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	i.config, i.layers = m.Config, m.Layers
	if !images.IsConfigType(i.config.MediaType) {
		i.config.MediaType = ocispec.MediaTypeImageConfig // early builders left it out
	}
	for _, d := range append([]ocispec.Descriptor{i.config}, i.layers...) {
		// They become names of files.
		if trysail.ValidateDigest(d.Digest.String()) != nil || d.Size < 0 {
			return &corruptError{what: fmt.Sprintf("its manifest names a part in a way that makes no sense: %.100q of %d bytes", d.Digest, d.Size)}
		}
	}
	var total int64
	for _, l := range i.layers {
		if !images.IsLayerType(l.MediaType) {
			return &corruptError{what: fmt.Sprintf("it has a part of the unknown type %q", l.MediaType)}
		}
		total += l.Size
	}
	i.progress.expect(total)
	return nil
}

// unpack gets the parts and unpacks them.
func (i *importer) unpack(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, snapshotter := i.e.containerd, i.e.host.snapshotter
	u, err := unpack.NewUnpacker(ctx, client.ContentStore(),
		unpack.WithUnpackPlatform(unpack.Platform{
			Platform: platforms.All, SnapshotterKey: snapshotter, Snapshotter: client.SnapshotService(snapshotter), Applier: client.DiffService(),
		}),
		unpack.WithLimiter(semaphore.NewWeighted(maxFetches)),
		unpack.WithDuplicationSuppressor(&i.e.unpacking),
	)
	if err != nil {
		return err
	}
	err = images.Dispatch(ctx, u.Unpack(images.HandlerFunc(i.get)), nil, i.target)
	if err != nil {
		cancel()
	}
	_, unpackErr := u.Wait()
	if err == nil {
		err = unpackErr
	}
	return err
}

// get puts one part of the image into containerd's content store and returns what it refers to.
func (i *importer) get(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	switch desc.Digest {
	case i.target.Digest:
		// The whole list, as the unpacker wants it: it asks for the layers when it knows the configuration.
		return append([]ocispec.Descriptor{i.config}, i.layers...), i.e.putContent(ctx, desc, i.manifest, map[string]string{gcConfig: i.config.Digest.String()})
	case i.config.Digest:
		if err := i.getBlob(ctx, desc, nil); err != nil {
			return nil, err
		}
		return nil, i.checkConfig(ctx)
	default:
		return nil, i.getBlob(ctx, desc, func(bytes int64) { i.progress.set(desc.Digest, bytes) })
	}
}

// checkConfig refuses what would never run here, before the layers are fetched, and counts the layers that are unpacked.
func (i *importer) checkConfig(ctx context.Context) error {
	raw, err := content.ReadBlob(ctx, i.e.containerd.ContentStore(), i.config)
	if err != nil {
		return err
	}
	var c ocispec.Image
	if err := json.Unmarshal(raw, &c); err != nil {
		return &corruptError{what: "its configuration makes no sense"}
	}
	// CRI knows no other images than those whose configuration says this.
	if offered := platforms.Normalize(c.Platform); !platforms.Default().Match(offered) {
		machine := platforms.Format(platforms.DefaultSpec())
		return &trysail.ImageError{
			Code: "IMG-ARCH", Image: i.image, Final: true, Message: fmt.Sprintf("The image %s is for %s; this machine is %s.", i.image, platforms.Format(offered), machine),
			Fix: "Build it for this machine: docker buildx build --platform " + machine + " --push …",
		}
	}
	if len(c.RootFS.DiffIDs) != len(i.layers) {
		return &corruptError{what: "its configuration names another number of layers than its manifest"}
	}
	chain := identity.ChainIDs(slices.Clone(c.RootFS.DiffIDs))
	snapshots := i.e.containerd.SnapshotService(i.e.host.snapshotter)
	for n, id := range slices.Backward(chain) {
		if _, err := snapshots.Stat(ctx, id.String()); err == nil {
			for _, l := range i.layers[:n+1] {
				i.progress.set(l.Digest, l.Size)
			}
			break
		}
	}
	return nil
}

// record makes the image out of its parts.
func (i *importer) record(ctx context.Context, name string) error {
	store := i.e.containerd.ImageService()
	img := images.Image{Name: name, Target: i.target}
	_, err := store.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = store.Update(ctx, img, "target")
	}
	if err != nil {
		return fmt.Errorf("recording the image: %w", err)
	}
	return nil
}

// release lets containerd collect what the image does not need any more, its packed layers above all.
func (i *importer) release(ctx context.Context, lease leases.Lease) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := i.e.containerd.LeasesService().Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("ending the lease: %w", err)
	}
	return nil
}

// waitSeen waits until CRI has noticed the image, which it is told of by an event.
func (e *Engine) waitSeen(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if present, err := e.imagePresent(ctx, image); err != nil || present {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("waiting for CRI to see the image: %w", ctx.Err())
		}
	}
}
