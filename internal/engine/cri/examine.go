package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	ctrns "github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/autopsy"
)

// examineTime bounds the look at one image, and how long what it needs is held if nobody comes back to release it.
const examineTime = 10 * time.Second

// Examine implements engine.Examiner. Nothing is mounted: the layers' directories are read where they lie.
func (e *Engine) Examine(ctx context.Context, spec trysail.ContainerSpec, ports []int) (trysail.Autopsy, error) {
	if !seeing {
		return trysail.Autopsy{}, nil
	}
	ctx, cancel := context.WithTimeout(ctrns.WithNamespace(ctx, namespace), examineTime)
	defer cancel()
	lease, err := e.containerd.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(examineTime))
	if err != nil {
		return trysail.Autopsy{}, fmt.Errorf("making a lease: %w", err)
	}
	// The lease holds the view below, and takes it along.
	defer e.containerd.LeasesService().Delete(context.WithoutCancel(ctx), lease) //nolint:errcheck // it expires in seconds
	ctx = leases.WithLease(ctx, lease.ID)
	config, err := e.imageConfig(ctx, spec.Image)
	if err != nil {
		return trysail.Autopsy{}, err
	}
	view, err := e.containerd.SnapshotService(e.host.snapshotter).View(ctx, "examine-"+lease.ID, identity.ChainID(config.RootFS.DiffIDs).String())
	if err != nil {
		return trysail.Autopsy{}, fmt.Errorf("opening the layers: %w", err)
	}
	layers, err := autopsy.Layers(layerDirs(view))
	if err != nil {
		return trysail.Autopsy{}, fmt.Errorf("opening the layers: %w", err)
	}
	defer layers.Close()
	return autopsy.Examine(layers, autopsy.ContainerOf(config, spec, ports), machine()), nil
}

// imageConfig reads the configuration of an image that is on this machine.
func (e *Engine) imageConfig(ctx context.Context, image string) (config ocispec.Image, err error) {
	name, err := reference.ParseDockerRef(image)
	if err != nil {
		return config, fmt.Errorf("reading the name: %w", err)
	}
	img, err := e.containerd.ImageService().Get(ctx, name.String())
	if err != nil {
		return config, fmt.Errorf("finding the image: %w", err)
	}
	var manifest ocispec.Manifest
	if err := e.readJSON(ctx, img.Target, &manifest); err != nil {
		return config, fmt.Errorf("reading the manifest: %w", err)
	}
	if err := e.readJSON(ctx, manifest.Config, &config); err != nil {
		return config, fmt.Errorf("reading the configuration: %w", err)
	}
	return config, nil
}

func (e *Engine) readJSON(ctx context.Context, desc ocispec.Descriptor, v any) error {
	raw, err := content.ReadBlob(ctx, e.containerd.ContentStore(), desc)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// layerDirs are the directories that the mounts of a read-only snapshot put together, topmost first.
func layerDirs(mounts []mount.Mount) (dirs []string) {
	for _, m := range mounts {
		if m.Type == "bind" {
			dirs = append(dirs, m.Source)
		}
		for _, o := range m.Options {
			if lower, ok := strings.CutPrefix(o, "lowerdir="); ok {
				dirs = append(dirs, strings.Split(lower, ":")...)
			}
		}
	}
	return dirs
}

// machine is what programs run on here. Ports below 1024 are open to every user: see enable_unprivileged_ports.
func machine() autopsy.Machine {
	m := autopsy.Machine{Architecture: runtime.GOARCH}
	m.Emulated, m.OtherFormats = autopsy.Emulated(os.DirFS("/proc/sys/fs/binfmt_misc"))
	return m
}
