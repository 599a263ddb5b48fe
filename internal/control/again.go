package control

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Again returns the containers of a version with images that are what it ran: a tag that stands for another image by now is
// replaced by the digest, and .latest by the number. Errors: Invalid (what .latest stood for has been deleted).
func (c *Control) Again(ctx context.Context, r *DeploymentRecord) (map[string]trysail.Container, error) {
	d := &r.Deployment
	now, _ := c.resolve(ctx, d)
	containers := maps.Clone(d.Containers)
	for _, name := range d.ContainerNames() {
		container := containers[name]
		digest := d.Digests[container.Image]
		stored, isStored := trysail.ParseStoredImage(container.Image)
		switch {
		case digest == "" || digest == now[container.Image].Digest || stored.Number != 0:
			continue
		case !isStored:
			container.Image = trysail.ImageReference(container.Image, digest)
		case r.Stored[container.Image] == "":
			return nil, trysail.Errorf(trysail.CodeInvalid, "Version %d ran what %q stood for then, which is not stored any more. Push it again, or deploy another image.", d.Version, container.Image)
		default:
			container.Image = r.Stored[container.Image]
		}
		containers[name] = container
	}
	return containers, nil
}

// numbered says what each :service.label.latest of a deployment stood for when it was made, by number. What has been deleted
// since is missing.
func (c *Control) numbered(ctx context.Context, d *trysail.Deployment) (map[string]string, error) {
	names := map[string]string{}
	for _, container := range d.Containers {
		stored, ok := trysail.ParseStoredImage(container.Image)
		digest := d.Digests[container.Image]
		if !ok || stored.Number != 0 || digest == "" || names[container.Image] != "" {
			continue
		}
		all, err := c.registered(ctx, stored.Service)
		if err != nil {
			return nil, err
		}
		for _, img := range all {
			if img.Label != stored.Label {
				continue
			}
			// What was pushed may be an index; the version has the digest for this machine.
			if found, err := c.Images.Resolve(ctx, img.Name()); err == nil && found.Digest == digest {
				names[container.Image] = img.Name()
				break
			}
		}
	}
	return names, nil
}

// registered lists the images of a service, the newest first; none if there is no such service.
func (c *Control) registered(ctx context.Context, serviceName string) (list []trysail.RegisteredImage, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := tx.Service(serviceName)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			list, err = tx.Images(s)
		}
		return err
	})
	slices.SortFunc(list, func(a, b trysail.RegisteredImage) int { return b.Number - a.Number })
	return list, err
}
