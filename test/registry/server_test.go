// Package registry_test shows the registry to be what clients and crashes need it to be: the official conformance suite
// of the OCI, and processes that are killed while they push and delete.
package registry_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/store"
)

const password = "a-password-of-a-test"

// open opens the registry of a data directory, with a login whose password is known.
func open(ctx context.Context, dir string, grace time.Duration) (*registry.Registry, *store.Store, error) {
	s, err := store.Open(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	hash := sha256.Sum256([]byte(password))
	err = s.Update(ctx, func(tx *store.Tx) error {
		if _, _, err := tx.Login(hash[:]); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return errors.Join(tx.InsertKey(store.AccessKey{ID: "KEY", Name: "test", Secret: "secret", Role: trysail.RoleAdmin, CreatedAt: tx.Now()}),
			tx.InsertLogin(hash[:], "KEY", tx.Now().Add(time.Hour)))
	})
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	r, err := registry.Open(ctx, registry.Config{
		Dir: filepath.Join(dir, "registry"), Store: s, Grace: grace,
		Platform: registry.Platform{OS: "linux", Architecture: "amd64"},
	})
	return r, s, err
}
