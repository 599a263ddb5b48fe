package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// RegistryUser is the user name of every registry login, as that of the real service's registry.
const RegistryUser = "AWS"

// CreateContainerServiceRegistryLogin makes a login for this installation's own registry. Its password is in this answer
// and never again: only its hash is kept.
func (c *Control) CreateContainerServiceRegistryLogin(ctx context.Context, caller trysail.Caller) (_ *trysail.RegistryLogin, err error) {
	defer c.auditFailure(ctx, caller, "CreateContainerServiceRegistryLogin", c.Registry, &err)
	// There is one repository for all services. What a login may do there is the registry's to say, by its key's role.
	if err := anywhere(caller).May(trysail.RoleDeploy, "CreateContainerServiceRegistryLogin", ""); err != nil {
		return nil, err
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails, see crypto/rand
	login := &trysail.RegistryLogin{Username: RegistryUser, Password: base64.RawURLEncoding.EncodeToString(secret[:]), Registry: c.Registry}
	hash := sha256.Sum256([]byte(login.Password))
	_, err = c.change(ctx, caller, "CreateContainerServiceRegistryLogin", c.Registry, func(tx *store.Tx) error {
		login.ExpiresAt = tx.Now().Add(trysail.RegistryLoginTime)
		return tx.InsertLogin(hash[:], caller.AccessKeyID, login.ExpiresAt)
	})
	if err != nil {
		return nil, err
	}
	return login, nil
}

// RegisterContainerImageInput is the request of RegisterContainerImage.
type RegisterContainerImageInput struct {
	ServiceName string
	Label       string
	Digest      string
}

// RegisterContainerImage gives an image that was pushed to the registry its name on a service.
// Errors: Invalid (label, digest, an image that cannot run here, 150 images), NotFound (service, digest).
func (c *Control) RegisterContainerImage(ctx context.Context, caller trysail.Caller, in RegisterContainerImageInput) (_ *trysail.RegisteredImage, err error) {
	defer c.auditFailure(ctx, caller, "RegisterContainerImage", in.ServiceName, &err)
	if err := caller.May(trysail.RoleDeploy, "RegisterContainerImage", in.ServiceName); err != nil {
		return nil, err
	}
	if err := firstError(trysail.ValidateServiceName(in.ServiceName), trysail.ValidateLabel(in.Label), trysail.ValidateDigest(in.Digest)); err != nil {
		return nil, err
	}
	_, err = c.Images.Resolve(ctx, trysail.StoredRepository+"@"+in.Digest)
	// An image that is not there at all is for the transaction to refuse.
	if e, ok := errors.AsType[*trysail.ImageError](err); ok && e.Final && e.Code != trysail.CodeImageLocal {
		message := strings.ReplaceAll(e.Message, trysail.StoredRepository+"@", "") // a name that only engines know
		return nil, trysail.Errorf(trysail.CodeInvalid, "Image %q cannot be registered: %s %s", in.Digest, message, e.Fix)
	}
	var made trysail.RegisteredImage
	details := map[string]string{}
	_, err = c.changeService(ctx, caller, "RegisterContainerImage", in.ServiceName, func(tx *store.Tx, s *trysail.Service) error {
		if s.State == trysail.ServiceDeleting {
			return busy(s)
		}
		list, err := tx.Images(s)
		if err != nil {
			return err
		}
		if len(list) >= trysail.MaxStoredImages {
			return trysail.Errorf(trysail.CodeInvalid, "Service %q has %d images, the most it may have. Delete one with DeleteContainerImage before you register another.", s.Name, len(list))
		}
		made, err = tx.RegisterImage(s, in.Label, in.Digest)
		details["image"], details["digest"] = made.Name(), in.Digest
		if errors.Is(err, store.ErrNotFound) {
			return trysail.Errorf(trysail.CodeNotFound, "Image %q not found in the registry. Push it to %s/sr first.", in.Digest, c.Registry)
		}
		return err
	}, details)
	if err != nil {
		return nil, err
	}
	return &made, nil
}

// GetContainerImages lists the images registered on a service, newest first. Errors: NotFound.
func (c *Control) GetContainerImages(ctx context.Context, caller trysail.Caller, serviceName string) (list []trysail.RegisteredImage, err error) {
	if err := caller.May(trysail.RoleRead, "GetContainerImages", serviceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		list, err = tx.Images(s)
		return err
	})
	return list, err
}

// DeleteContainerImageInput is the request of DeleteContainerImage.
type DeleteContainerImageInput struct {
	ServiceName string
	Image       string // :service.label.N
}

// DeleteContainerImage takes an image off a service. Old versions that used it keep what they need to run again.
// Errors: Invalid (name, in use by a current deployment), NotFound.
func (c *Control) DeleteContainerImage(ctx context.Context, caller trysail.Caller, in DeleteContainerImageInput) (err error) {
	defer c.auditFailure(ctx, caller, "DeleteContainerImage", in.ServiceName, &err)
	if err := caller.May(trysail.RoleDeploy, "DeleteContainerImage", in.ServiceName); err != nil {
		return err
	}
	name, ok := trysail.ParseStoredImage(in.Image)
	if !ok || name.Number == 0 || name.Service != in.ServiceName {
		return trysail.Errorf(trysail.CodeInvalid, "Image %q is not the name of an image of service %q. Example of a valid name: \":%s.www.1\".", in.Image, in.ServiceName, in.ServiceName)
	}
	// What .latest stood for when it was deployed is known by the digest for this machine.
	digest := ""
	if img, err := c.Images.Resolve(ctx, in.Image); err == nil {
		digest = img.Digest
	}
	_, err = c.changeService(ctx, caller, "DeleteContainerImage", in.ServiceName, func(tx *store.Tx, s *trysail.Service) error {
		if _, err := tx.FindImage(name); errors.Is(err, store.ErrNotFound) {
			return trysail.Errorf(trysail.CodeNotFound, "Image %q not found.", in.Image)
		} else if err != nil {
			return err
		}
		services, err := tx.Services()
		if err != nil {
			return err
		}
		for _, other := range services {
			if usesImage(other.Current, name, digest) || usesImage(other.Next, name, digest) {
				return trysail.Errorf(trysail.CodeInvalid, "Image %q is used by the current deployment of service %q.", in.Image, other.Name)
			}
		}
		return tx.DeleteImage(s, name.Number)
	}, map[string]string{"image": in.Image})
	return err
}

// usesImage reports whether a deployment runs the stored image, by its number or as the latest of its label.
func usesImage(d *trysail.Deployment, image trysail.StoredImage, digest string) bool {
	if d == nil {
		return false
	}
	for _, c := range d.Containers {
		used, ok := trysail.ParseStoredImage(c.Image)
		if !ok || used.Service != image.Service || used.Label != image.Label {
			continue
		}
		if used.Number == image.Number || used.Number == 0 && d.Digests[c.Image] == digest {
			return true
		}
	}
	return false
}

// PutRegistryInput is the request of PutRegistry. Nil members stay as they are.
type PutRegistryInput struct {
	Host      string
	Username  *string
	Secret    *string
	Mirrors   *[]string
	CA        *string
	PlainHTTP *bool
}

// Registry is what is known of a registry elsewhere, without its secret.
type Registry struct {
	trysail.Registry
	HasSecret bool
}

func newRegistry(r trysail.Registry) Registry {
	out := Registry{r, r.Secret != ""}
	out.Secret = ""
	return out
}

// PutRegistry sets what is known of a registry elsewhere. Errors: Invalid.
func (c *Control) PutRegistry(ctx context.Context, caller trysail.Caller, in PutRegistryInput) (_ Registry, err error) {
	defer c.auditFailure(ctx, caller, "PutRegistry", in.Host, &err)
	if err := caller.May(trysail.RoleAdmin, "PutRegistry", ""); err != nil {
		return Registry{}, err
	}
	var r trysail.Registry
	_, err = c.change(ctx, caller, "PutRegistry", in.Host, func(tx *store.Tx) (err error) {
		if r, err = tx.Registry(in.Host); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		r.Host = in.Host
		set(&r.Username, in.Username)
		set(&r.Secret, in.Secret)
		set(&r.Mirrors, in.Mirrors)
		set(&r.CA, in.CA)
		set(&r.PlainHTTP, in.PlainHTTP)
		r.UpdatedAt = tx.Now()
		if err := trysail.ValidateRegistry(r); err != nil {
			return err
		}
		return tx.PutRegistry(r)
	})
	return newRegistry(r), err
}

// ListRegistries lists what is known of registries elsewhere, by host.
func (c *Control) ListRegistries(ctx context.Context, caller trysail.Caller) (list []Registry, err error) {
	if err := caller.May(trysail.RoleAdmin, "ListRegistries", ""); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Registries()
		for _, r := range all {
			list = append(list, newRegistry(r))
		}
		return err
	})
	return list, err
}

// DeleteRegistry forgets a registry. Errors: NotFound.
func (c *Control) DeleteRegistry(ctx context.Context, caller trysail.Caller, host string) (err error) {
	defer c.auditFailure(ctx, caller, "DeleteRegistry", host, &err)
	if err := caller.May(trysail.RoleAdmin, "DeleteRegistry", ""); err != nil {
		return err
	}
	_, err = c.change(ctx, caller, "DeleteRegistry", host, func(tx *store.Tx) error {
		err := tx.DeleteRegistry(host)
		if errors.Is(err, store.ErrNotFound) {
			return trysail.Errorf(trysail.CodeNotFound, "Registry %q not found.", host)
		}
		return err
	})
	return err
}

// NodeImages is the answer of ListNodeImages.
type NodeImages struct {
	Images        []NodeImage // largest first
	RegistryBytes int64       // of all blobs of the registry
	UnusedBytes   int64       // of images that nothing needs; they are removed in time
}

// NodeImage is an image that takes up room on this machine, unpacked to run or stored in the registry.
type NodeImage struct {
	trysail.NodeImage
	Stored bool     // in the registry; else unpacked
	Kept   []string // why; empty: nothing needs it
}

// ListNodeImages lists the images that take up room on this machine, and why each is kept, largest first.
func (c *Control) ListNodeImages(ctx context.Context, caller trysail.Caller) (*NodeImages, error) {
	if err := caller.May(trysail.RoleRead, "ListNodeImages", ""); err != nil {
		return nil, err
	}
	var uses []trysail.ImageUse
	var registered []trysail.RegisteredImage
	err := c.Store.View(ctx, func(tx *store.Tx) (err error) {
		if uses, err = tx.ImageUses(); err != nil {
			return err
		}
		registered, err = tx.AllImages()
		return err
	})
	if err != nil {
		return nil, err
	}
	onNode, err := c.NodeImages(ctx)
	if err != nil {
		return nil, err
	}
	answer := &NodeImages{}
	for _, img := range onNode {
		n := NodeImage{NodeImage: img}
		for _, u := range uses {
			if u.Digest == img.Digest {
				n.Name = u.Name // as people wrote it
				n.Kept = append(n.Kept, u.String())
			}
		}
		if len(n.Kept) == 0 {
			answer.UnusedBytes += img.Size
		}
		answer.Images = append(answer.Images, n)
	}
	stored := map[string]*NodeImage{} // what the registry keeps, by digest
	for _, r := range registered {
		n := stored[r.Digest]
		if n == nil {
			n = &NodeImage{NodeImage: trysail.NodeImage{Name: r.Name(), Digest: r.Digest}, Stored: true}
			stored[r.Digest] = n
		}
		n.Kept = append(n.Kept, "registered as "+r.Name())
	}
	sizes, total, err := c.StoredSizes(ctx)
	if err != nil {
		return nil, err
	}
	answer.RegistryBytes = total
	for digest, n := range stored {
		n.Size = sizes[digest]
		answer.Images = append(answer.Images, *n)
	}
	slices.SortFunc(answer.Images, func(a, b NodeImage) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(a.Name, b.Name), strings.Compare(a.Digest, b.Digest))
	})
	return answer, nil
}
