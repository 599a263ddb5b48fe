package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Identify returns the secret of an access key and who it stands for; ok is false for an unknown key.
func (c *Control) Identify(ctx context.Context, accessKeyID string) (secret string, caller trysail.Caller, ok bool, err error) {
	var key store.AccessKey
	err = c.Store.View(ctx, func(tx *store.Tx) (err error) {
		key, err = tx.Key(accessKeyID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return "", trysail.Caller{}, false, nil
	}
	return key.Secret, trysail.Caller{AccessKeyID: key.ID, Name: key.Name, Role: key.Role, Services: key.Services}, err == nil, err
}

// ListAccessKeys lists the access keys, oldest first, without their secrets.
func (c *Control) ListAccessKeys(ctx context.Context, caller trysail.Caller) (list []AccessKey, err error) {
	if err := caller.May(trysail.RoleAdmin, "ListAccessKeys", ""); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		keys, err := tx.Keys()
		for _, k := range keys {
			list = append(list, AccessKey{ID: k.ID, Name: k.Name, Role: k.Role, Services: k.Services, CreatedAt: k.CreatedAt})
		}
		return err
	})
	return list, err
}

// CreateAccessKeyInput is the request of CreateAccessKey.
type CreateAccessKeyInput struct {
	Name string
	// Role is what the key's holder may do; empty means RoleAdmin, as every key could do everything once.
	Role trysail.Role
	// Services are the only ones that the key is for; empty means all. They need not exist yet.
	Services []string
}

// CreateAccessKey makes a key. Its secret is in this answer and never again. Errors: Invalid (name, role, services).
func (c *Control) CreateAccessKey(ctx context.Context, caller trysail.Caller, in CreateAccessKeyInput) (_ *AccessKey, err error) {
	defer c.auditFailure(ctx, caller, "CreateAccessKey", in.Name, &err)
	if err := caller.May(trysail.RoleAdmin, "CreateAccessKey", ""); err != nil {
		return nil, err
	}
	in.Role = cmp.Or(in.Role, trysail.RoleAdmin)
	in.Services = slices.Compact(slices.Sorted(slices.Values(in.Services)))
	if err := firstError(trysail.ValidateKeyName(in.Name), trysail.ValidateRole(in.Role), trysail.ValidateKeyServices(in.Services)); err != nil {
		return nil, err
	}
	var key *AccessKey
	details := map[string]string{"role": string(in.Role), "services": strings.Join(in.Services, " ")}
	_, err = c.change(ctx, caller, "CreateAccessKey", in.Name, func(tx *store.Tx) (err error) {
		if key, err = insertKey(tx, in); err == nil {
			details["id"] = key.ID
		}
		return err
	}, details)
	return key, err
}

func insertKey(tx *store.Tx, in CreateAccessKeyInput) (*AccessKey, error) {
	var b [30]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	// The forms are those of AWS: 20 characters that begin with AKIA, and 40 characters of base64.
	key := &AccessKey{
		ID: "AKIA" + rand.Text()[:16], Name: in.Name, Secret: base64.StdEncoding.EncodeToString(b[:]),
		Role: in.Role, Services: in.Services, CreatedAt: tx.Now(),
	}
	return key, tx.InsertKey(store.AccessKey(*key))
}

// DeleteAccessKey removes a key; calls signed with it are refused from now on. Errors: NotFound, Invalid (the last key).
func (c *Control) DeleteAccessKey(ctx context.Context, caller trysail.Caller, id string) (err error) {
	defer c.auditFailure(ctx, caller, "DeleteAccessKey", id, &err)
	if err := caller.May(trysail.RoleAdmin, "DeleteAccessKey", ""); err != nil {
		return err
	}
	_, err = c.change(ctx, caller, "DeleteAccessKey", id, func(tx *store.Tx) error {
		keys, err := tx.Keys()
		if err != nil {
			return err
		}
		if admins := slices.DeleteFunc(keys, func(k store.AccessKey) bool { return !isAdmin(k) }); len(admins) == 1 && admins[0].ID == id {
			return trysail.Errorf(trysail.CodeInvalid, "Access key %q is the last one. Create another before you delete it.", id)
		}
		err = tx.DeleteKey(id)
		if errors.Is(err, store.ErrNotFound) {
			return trysail.Errorf(trysail.CodeNotFound, "Access key %q not found.", id)
		}
		return err
	})
	return err
}

// isAdmin reports whether the key may do everything.
func isAdmin(k store.AccessKey) bool { return k.Role == trysail.RoleAdmin && len(k.Services) == 0 }

// EnsureAdminKey returns the oldest access key that may do everything, and makes one named "admin" if there is none.
func (c *Control) EnsureAdminKey(ctx context.Context) (AccessKey, error) {
	var key AccessKey
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		keys, err := tx.Keys()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(keys, isAdmin); i >= 0 {
			key = AccessKey(keys[i])
			return nil
		}
		made, err := insertKey(tx, CreateAccessKeyInput{Name: "admin", Role: trysail.RoleAdmin})
		key = *made
		return err
	})
	return key, err
}
