package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail/internal/store"
)

// files keeps key and chain of each name in one file, so that they are replaced together or not at all.
type files struct {
	dir string
	// store has a copy of each file for the other servers; nil if there are none.
	store *store.Store
}

// openFiles makes the folder: mode 0700, as it holds keys.
func openFiles(dir string, shared *store.Store) (files, error) {
	for _, d := range []string{dir, filepath.Join(dir, "names"), filepath.Join(dir, "accounts")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return files{}, fmt.Errorf("making the folder of the certificates: %w", err)
		}
		if err := os.Chmod(d, 0o700); err != nil { //nolint:gosec // it is a folder
			return files{}, fmt.Errorf("closing the folder of the certificates to others: %w", err)
		}
	}
	return files{dir, shared}, nil
}

// path is where a name's file is. Names have been validated: they hold no slash.
func (f files) path(name string) string {
	return filepath.Join(f.dir, "names", strings.Replace(name, "*", "_wildcard", 1)+".pem")
}

// save keeps key and chain of a name. Both are on the disk when it returns.
func (f files) save(ctx context.Context, name string, key crypto.Signer, chain []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("keeping the certificate of %s: %w", name, err)
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}) // a Buffer takes everything
	b.Write(chain)
	return f.write(ctx, f.path(name), b.Bytes())
}

// load reads the certificate of a name. Without its Leaf parsed it takes a third of the memory.
// Errors: fs.ErrNotExist, and whatever is wrong with the file.
func (f files) load(name string) (*tls.Certificate, *x509.Certificate, error) {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, nil, err
	}
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the certificate of %s in %s: %w", name, f.path(name), err)
	}
	leaf := cert.Leaf
	cert.Leaf = nil
	return &cert, leaf, nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// newRequest makes the certificate request for a name.
func newRequest(name string, key crypto.Signer) (*x509.CertificateRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate for %s: %w", name, err)
	}
	return x509.ParseCertificateRequest(der)
}

// parseChain reads certificates in PEM form, the leaf first.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return list, nil
}

// writeFile puts data under path with mode 0600 so that after a crash either the old or the new content is there, whole.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			if rm := os.Remove(f.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
				err = errors.Join(err, rm)
			}
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir) //nolint:gosec // the path is configuration
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
