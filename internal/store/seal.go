package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sealName is that of the key's file in the data directory.
const sealName = "seal.key"

// sealer encrypts secrets at rest, so that a copy of the database alone gives none away. The key lies beside the
// database in a file of mode 0600: it protects copies and backups of trysail.db, not against root on this machine.
type sealer struct {
	aead cipher.AEAD
	// fingerprint tells keys apart without giving them away.
	fingerprint string
}

func openSealer(path string) (*sealer, error) {
	key, err := os.ReadFile(path) //nolint:gosec // the path is configuration
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the key of the sealed secrets: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("opening the key of the sealed secrets in %s: %w", path, err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("trysail seal key "), key...))
	return &sealer{aead, hex.EncodeToString(sum[:16])}, nil
}

// newKey makes the key and has it on the disk before it is used: a lost key would lose every secret.
func newKey(path string) ([]byte, error) {
	key := make([]byte, 32)
	rand.Read(key) // never fails, see crypto/rand
	f, err := os.CreateTemp(filepath.Dir(path), ".seal-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(key); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, err
	}
	return key, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the path is configuration
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// seal encrypts secret. name is bound to it, so a sealed secret cannot be moved to another row.
func (s *sealer) seal(name, secret string) []byte {
	return s.aead.Seal(nil, nil, []byte(secret), []byte(name)) //nolint:gosec // the AEAD makes a random nonce itself
}

func (s *sealer) open(name string, sealed []byte) (string, error) {
	plain, err := s.aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return "", fmt.Errorf("opening the sealed secret of %s: seal.key does not belong to this database", name)
	}
	return string(plain), nil
}
