package edge

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// rootFile is what users give to their clients to trust.
	rootFile = "root.pem"
	// rootKeyFile holds the key and the certificate together, so that they are replaced together or not at all.
	// rootFile is a copy of its second half.
	rootKeyFile = "root-key.pem"

	rootLife = 10 * 365 * 24 * time.Hour
	// rootSpare is how long before its end a root is replaced when the program starts.
	rootSpare = 30 * 24 * time.Hour
	// leafLife is short because leaves cost nothing to make and cannot be revoked.
	leafLife = 7 * 24 * time.Hour
	// leafRenew is how long before its end a leaf is replaced.
	leafRenew = 2 * 24 * time.Hour
	// backdate makes certificates valid on machines whose clocks are behind.
	backdate = time.Hour
	// maxLeaves bounds the cache: names come from clients.
	maxLeaves = 4096
)

// CA is the local certificate authority: it makes the certificates of the default domains and of the API listener.
// Its root may sign only for the configured domains and localhost (name constraints), so whoever trusts it does not
// trust it with the rest of the web. Addresses are not constrained: which ones the API will be reached by is not known
// when the root is made. All methods are safe for concurrent use.
type CA struct {
	path    string // of rootFile
	extra   string // folder of the roots that were made for single names
	root    *x509.Certificate
	key     *ecdsa.PrivateKey
	domains []string // configured ones that the root may not sign for are absent

	moved atomic.Pointer[CA] // of the installation that has moved here; nil if none has

	publishing sync.Mutex // held while rootFile and extra are written

	// mu guards leaves. It is not held while signing.
	mu     sync.RWMutex
	leaves map[string]*leaf // by their names, joined
}

type leaf struct {
	cert  *tls.Certificate
	renew time.Time
}

// openCA loads the authority in dir, or makes it when there is none yet, when it cannot sign for domain (because
// another one is configured now), or when it is about to end. The one that is replaced is kept beside the new one.
func openCA(dir, domain string, names []string, log *slog.Logger) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := loadCA(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Info("local CA made", "root", filepath.Join(dir, rootFile))
		ca, err = makeCA(dir, domain, names)
	case err != nil:
		err = fmt.Errorf("%w; restore %s, or remove it to have a new root made, which clients must trust anew",
			err, filepath.Join(dir, rootKeyFile))
	case !ca.permits(domain) || time.Until(ca.root.NotAfter) < rootSpare:
		log.Warn("local CA replaced, clients must trust the new root", "root", filepath.Join(dir, rootFile),
			"domain", domain, "old_domains", ca.root.PermittedDNSDomains, "old_end", ca.root.NotAfter)
		if err = keepOld(dir, ca.root); err == nil {
			ca, err = makeCA(dir, domain, names)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := ca.publish(); err != nil {
		return nil, err
	}
	return ca, ca.Adopt()
}

// RootFile is the path of the root certificate in PEM, which clients have to trust.
func (ca *CA) RootFile() string { return ca.path }

// ServerConfig returns a TLS configuration for a server that is reached under hosts, which are DNS names and IP
// addresses. Its certificate renews itself. It fails when the root may not sign for one of them.
func (ca *CA) ServerConfig(hosts ...string) (*tls.Config, error) {
	if len(hosts) == 0 {
		return nil, errors.New("a server certificate needs a name or an address")
	}
	if _, err := ca.certificate(hosts...); err != nil {
		return nil, err
	}
	hosts = slices.Clone(hosts)
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.certificate(hosts...) },
	}, nil
}

// SignRequest signs the names of a request for life. Names that the root may not sign for get a root of their own, made for
// the purpose, whose key is forgotten at once: it can never sign for anything else. All roots are in RootFile.
func (ca *CA) SignRequest(csr *x509.CertificateRequest, life time.Duration) (chain []byte, err error) {
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	root, key := ca.root, ca.key
	own := slices.ContainsFunc(csr.DNSNames, func(name string) bool { return !ca.permits(name) })
	if own {
		if root, key, err = newRoot(csr.DNSNames, life+backdate); err != nil {
			return nil, err
		}
	}
	template, err := leafTemplate(time.Now())
	if err != nil {
		return nil, err
	}
	template.DNSNames, template.NotAfter = csr.DNSNames, template.NotBefore.Add(life)
	if template.NotAfter.After(root.NotAfter) {
		template.NotAfter = root.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root, csr.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	if own {
		if err := ca.addRoot(csr.DNSNames[0], root); err != nil {
			return nil, err
		}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// addRoot keeps a root that was made for a name, in place of an earlier one, and publishes it.
func (ca *CA) addRoot(name string, root *x509.Certificate) error {
	ca.publishing.Lock()
	defer ca.publishing.Unlock()
	if err := os.MkdirAll(ca.extra, 0o700); err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	if err := writeFile(filepath.Join(ca.extra, name+".pem"), text, 0o644); err != nil {
		return err
	}
	return ca.publish()
}

// certificate returns a certificate that covers hosts, from the cache unless it ends soon.
func (ca *CA) certificate(hosts ...string) (*tls.Certificate, error) {
	id := hosts[0] // the common case allocates nothing
	if len(hosts) > 1 {
		id = strings.Join(hosts, " ")
	}
	ca.mu.RLock()
	l := ca.leaves[id]
	ca.mu.RUnlock()
	if l != nil && time.Now().Before(l.renew) {
		return l.cert, nil
	}
	l, err := ca.sign(hosts)
	if err != nil {
		return nil, err
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if len(ca.leaves) >= maxLeaves {
		for old := range ca.leaves { // any one: making it again costs less than a handshake
			delete(ca.leaves, old)
			break
		}
	}
	ca.leaves[id] = l
	return l.cert, nil
}

// permits reports whether the root may sign for the DNS name.
func (ca *CA) permits(name string) bool {
	return slices.ContainsFunc(ca.domains, func(d string) bool { return inDomain(name, d) })
}

func (ca *CA) sign(hosts []string) (*leaf, error) {
	template, err := leafTemplate(time.Now())
	if err != nil {
		return nil, err
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		name, ok := hostname(host)
		if !ok || !ca.permits(name) {
			return nil, fmt.Errorf("the local CA cannot make a certificate for %q: its root is limited to %s",
				host, strings.Join(ca.domains, ", "))
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	if template.NotAfter.After(ca.root.NotAfter) {
		template.NotAfter = ca.root.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.root, &key.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	return &leaf{
		cert:  &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed},
		renew: parsed.NotAfter.Add(-leafRenew),
	}, nil
}

// leafTemplate has no common name: names longer than the 64 characters it may have are legal, and clients read the
// alternative names only.
func leafTemplate(now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Trysail"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, nil
}

// newSerial is 127 random bits: positive, and at most 20 bytes long.
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// makeCA makes a new root and writes it to dir.
func makeCA(dir, domain string, names []string) (*CA, error) {
	domains := slices.Compact(slices.Sorted(slices.Values(append([]string{"localhost", domain}, names...))))
	root, key, err := newRoot(domains, rootLife)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making root certificate: %w", err)
	}
	var file bytes.Buffer
	_ = pem.Encode(&file, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}) // a Buffer takes everything
	_ = pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	if err := writeFile(filepath.Join(dir, rootKeyFile), file.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return loadCA(dir)
}

// newRoot makes a root that may sign for domains and what is below them.
func newRoot(domains []string, life time.Duration) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial's tail tells roots of several machines, or of several lives of one, apart in a trust store.
		Subject:                     pkix.Name{Organization: []string{"Trysail"}, CommonName: "Trysail local CA " + hex.EncodeToString(serial.Bytes()[:3])},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(life),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true, // it signs leaves only
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         domains,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making root certificate: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	return root, key, err
}

// loadCA reads the authority in dir. The error is fs.ErrNotExist when there is none.
func loadCA(dir string) (*CA, error) {
	path := filepath.Join(dir, rootKeyFile)
	data, err := os.ReadFile(path) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, fmt.Errorf("reading local CA: %w", err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("reading local CA %s: %w", path, err)
	}
	root, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("reading local CA %s: %w", path, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !root.IsCA {
		return nil, fmt.Errorf("reading local CA %s: not an ECDSA certificate authority", path)
	}
	// A copy from a backup may have lost its mode.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("reading local CA: %w", err)
	}
	return &CA{
		path: filepath.Join(dir, rootFile), extra: filepath.Join(dir, "names"), root: root, key: key,
		domains: root.PermittedDNSDomains, leaves: map[string]*leaf{},
	}, nil
}

// Publish writes RootFile anew if roots of single names were put beside it.
func (ca *CA) Publish() error {
	ca.publishing.Lock()
	defer ca.publishing.Unlock()
	return ca.publish()
}

// publish writes the root certificates for clients, if they are not there already. Those of single names that have expired
// are forgotten.
func (ca *CA) publish() error {
	want := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
	if m := ca.moved.Load(); m != nil {
		want = append(want, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.root.Raw})...)
	}
	list, err := os.ReadDir(ca.extra)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the roots of the local CA: %w", err)
	}
	for _, entry := range list {
		path := filepath.Join(ca.extra, entry.Name())
		text, err := os.ReadFile(path) //nolint:gosec // the path is configuration
		if err != nil {
			return fmt.Errorf("reading the roots of the local CA: %w", err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			continue
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil || time.Now().After(root.NotAfter) {
			_ = os.Remove(path) // of no use to anybody
			continue
		}
		want = append(want, pem.EncodeToMemory(block)...)
	}
	if have, err := os.ReadFile(ca.path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return writeFile(ca.path, want, 0o644)
}

// keepOld makes a copy of the key file under a name that no later one gets.
func keepOld(dir string, root *x509.Certificate) error {
	data, err := os.ReadFile(filepath.Join(dir, rootKeyFile)) //nolint:gosec // the path is configuration
	if err != nil {
		return fmt.Errorf("keeping old local CA: %w", err)
	}
	return writeFile(filepath.Join(dir, fmt.Sprintf("root-key-%x.pem", root.SerialNumber)), data, 0o600)
}

// writeFile puts data under path so that after a crash either the old or the new content is there, whole.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
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
