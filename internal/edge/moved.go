package edge

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"path/filepath"
)

// movedDir holds the authority of the installation that has moved here, beside our own.
const movedDir = "moved"

// Adopt begins to use the authority of the installation that has moved here, if its files are there: for the names of
// services, so that clients which trust it need not be told of another one. Our own goes on vouching for the rest.
func (ca *CA) Adopt() error {
	moved, err := loadCA(filepath.Join(filepath.Dir(ca.path), movedDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ca.moved.Store(moved)
	ca.publishing.Lock()
	defer ca.publishing.Unlock()
	return ca.publish()
}

// mayVouch reports whether there is a certificate for the name of a service.
func (ca *CA) mayVouch(name string) bool {
	m := ca.moved.Load()
	return m != nil && m.permits(name) || ca.permits(name)
}

// forService returns a certificate for the name of a service.
func (ca *CA) forService(name string) (*tls.Certificate, error) {
	if m := ca.moved.Load(); m != nil && m.permits(name) {
		return m.certificate(name)
	}
	return ca.certificate(name)
}
