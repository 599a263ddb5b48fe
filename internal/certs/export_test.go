package certs

import (
	"context"
	"crypto"
	"crypto/x509"
	"net/http"

	"github.com/mholt/acmez/v3/acme"
)

// RevokeForTest takes back a certificate with its own key.
func RevokeForTest(ctx context.Context, client *http.Client, directory string, key crypto.Signer, der []byte) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	c := &acme.Client{Directory: directory, HTTPClient: client}
	return c.RevokeCertificate(ctx, acme.Account{}, leaf, key, 0)
}

// ConfigForTest is what a Manager was made from.
func ConfigForTest(m *Manager) Config { return m.cfg }
