package control

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"

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
	return key.Secret, trysail.Caller{AccessKeyID: key.ID, Name: key.Name}, err == nil, err
}

// ListAccessKeys lists the access keys, oldest first, without their secrets.
func (c *Control) ListAccessKeys(ctx context.Context, _ trysail.Caller) (list []AccessKey, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		keys, err := tx.Keys()
		for _, k := range keys {
			list = append(list, AccessKey{ID: k.ID, Name: k.Name, CreatedAt: k.CreatedAt})
		}
		return err
	})
	return list, err
}

// CreateAccessKey makes a key that may sign all calls. Its secret is in this answer and never again.
// Errors: Invalid (name).
func (c *Control) CreateAccessKey(ctx context.Context, caller trysail.Caller, name string) (*AccessKey, error) {
	if err := trysail.ValidateKeyName(name); err != nil {
		return nil, err
	}
	var key *AccessKey
	_, err := c.change(ctx, caller, "CreateAccessKey", name, func(tx *store.Tx) (err error) {
		key, err = insertKey(tx, name)
		return err
	})
	return key, err
}

func insertKey(tx *store.Tx, name string) (*AccessKey, error) {
	var b [30]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	// The forms are those of AWS: 20 characters that begin with AKIA, and 40 characters of base64.
	key := &AccessKey{ID: "AKIA" + rand.Text()[:16], Name: name, Secret: base64.StdEncoding.EncodeToString(b[:]), CreatedAt: tx.Now()}
	return key, tx.InsertKey(store.AccessKey(*key))
}

// DeleteAccessKey removes a key; calls signed with it are refused from now on. Errors: NotFound, Invalid (the last key).
func (c *Control) DeleteAccessKey(ctx context.Context, caller trysail.Caller, id string) error {
	_, err := c.change(ctx, caller, "DeleteAccessKey", id, func(tx *store.Tx) error {
		keys, err := tx.Keys()
		if err != nil {
			return err
		}
		if len(keys) == 1 && keys[0].ID == id {
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

// EnsureAdminKey returns the oldest access key, and makes one named "admin" if there is none.
func (c *Control) EnsureAdminKey(ctx context.Context) (AccessKey, error) {
	var key AccessKey
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		keys, err := tx.Keys()
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			key = AccessKey(keys[0])
			return nil
		}
		made, err := insertKey(tx, "admin")
		key = *made
		return err
	})
	return key, err
}
