package certs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// LetsEncrypt is the directory that is used when none is named.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// Config is what a Manager works with. The fields down to Log are required.
type Config struct {
	Dir   string // of keys and certificates; made with mode 0700
	Store *store.Store
	// Sign has the local CA sign a request, for lifetimes up to life. It serves the names that no authority is there for.
	Sign func(csr *x509.CertificateRequest, life time.Duration) (chain []byte, err error)
	Log  *slog.Logger

	// Shared says that several servers use the Store: keys, certificates, accounts and answers to challenges go through it.
	// Follow has to run in all of them, and Run in the one that leads.
	Shared bool

	// Directories are the authorities, asked in this order. None: the local CA signs everything.
	Directories []Directory
	Email       string         // of whoever the authority shall write to; may be empty
	Roots       *x509.CertPool // that vouch for the directories; nil: those of the system
	Agent       string         // how we call ourselves to the authorities

	// Domain is the base of the installation's own names. Zone, if there is one, can write records below it; then wildcards
	// serve those, and ValidationZone, which must be below it as well, answers for names elsewhere.
	Domain         string
	Zone           Zone
	ValidationZone string
	Region         string
	Own            []string // names of the installation itself, such as api.<domain>
	HostLabel      string   // that new services share; empty if they do not

	// Addresses are those of this machine as the world knows them; nil: MachineAddresses.
	Addresses func() []netip.Addr
	// Resolvers are asked about DNS, host:port; none: those of /etc/resolv.conf.
	Resolvers []string
	// Loaded is how many certificates are kept in memory; zero means 2048.
	Loaded int

	// What follows is for tests. HTTPPort is where names are asked on plain HTTP; zero means 80. Unit is a minute of every
	// pause between tries; zero means a minute.
	HTTPPort int
	Unit     time.Duration
}

const (
	// maxOrders is how many names are worked on at a time.
	maxOrders = 4
	// localLife is for how long the local CA signs here.
	localLife = 397 * 24 * time.Hour
	// zoneTimeout is how long a record may take until all servers of the zone have it.
	zoneTimeout = 3 * time.Minute
)

// Manager gets certificates and hands them out. Run does the work; everything else may be called before and after it, and
// by several goroutines.
type Manager struct {
	cfg         Config
	log         *slog.Logger
	files       files
	table       *table
	challenges  *challenges
	looker      *looker
	authorities []*authority
	stapler     *stapler

	nudge chan struct{} // holds a token when jobs have changed from outside of Run

	taken  int64           // the generation of shared files that take has read; used by it alone
	theirs map[string]bool // the shared files that there were

	mu      sync.Mutex // guards what follows
	jobs    map[string]*job
	scanned bool // what was there at the start is known
}

// job is a wanted name.
type job struct {
	state   trysail.DomainCertificate
	askAt   time.Time // when to ask the authority whether it is time to renew; zero: never
	running bool
	gone    bool // not wanted any more
	looked  bool // the last try ended with our own look, not at an authority
}

// New makes a Manager, with the certificates that are there already. Run starts it.
func New(cfg Config) (*Manager, error) {
	var shared *store.Store
	if cfg.Shared {
		shared = cfg.Store
	}
	f, err := openFiles(cfg.Dir, shared)
	if err != nil {
		return nil, err
	}
	if cfg.Addresses == nil {
		cfg.Addresses = MachineAddresses
	}
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = 80
	}
	if cfg.Unit == 0 {
		cfg.Unit = time.Minute
	}
	token := "trysail-" + strings.ToLower(rand.Text())
	m := &Manager{
		cfg: cfg, log: cfg.Log, files: f, table: newTable(f, cfg.Loaded), challenges: newChallenges(token),
		looker: &looker{servers: cfg.Resolvers, port: cfg.HTTPPort, ours: cfg.Addresses, token: token},
		nudge:  make(chan struct{}, 1), jobs: map[string]*job{},
	}
	for _, d := range cfg.Directories {
		u, err := url.Parse(d.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("ACME directory %q is not an https:// address", d.URL)
		}
		m.authorities = append(m.authorities, newAuthority(d, cfg.Email, cfg.Roots, f, cfg.Agent, cfg.Log))
	}
	m.stapler = newStapler(m.table, f, cfg.Log)
	m.stapler.revoked = m.revoked
	return m, nil
}

// Certificate returns the certificate for a handshake, nil if there is none of this name.
func (m *Manager) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == challengeProtocol {
		if cert := m.challenges.certificate(name); cert != nil {
			return cert, nil
		}
		return nil, errors.New("there is no challenge for this name")
	}
	cert, err := m.table.certificate(name)
	if err == nil && cert != nil && cert.OCSPStaple == nil {
		m.stapler.wake()
	}
	return cert, err
}

// challengeProtocol is the one that authorities speak for TLS-ALPN-01.
const challengeProtocol = "acme-tls/1"

// hostOf is the name in a Host header.
func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func joinPort(host, port string) string { return net.JoinHostPort(host, port) }

// local reports whether the local CA is to sign for a name: there is no other authority, or none that could.
func (m *Manager) local(name string) bool {
	plain := strings.TrimPrefix(name, "*.")
	if len(m.authorities) == 0 || plain == "localhost" || strings.HasSuffix(plain, ".localhost") {
		return true
	}
	return trysail.IsPrivateDomain(plain) && !slices.ContainsFunc(m.authorities, func(a *authority) bool { return !isPublic(a.dir.URL) })
}

// isPublic reports whether a directory is that of an authority for the whole web, which has no certificates for private names.
func isPublic(directory string) bool {
	u, err := url.Parse(directory)
	if err != nil {
		return false
	}
	return slices.ContainsFunc([]string{"letsencrypt.org", "zerossl.com", "pki.goog", "buypass.com", "ssl.com", "sectigo.com", "digicert.com"}, func(d string) bool {
		return u.Hostname() == d || strings.HasSuffix(u.Hostname(), "."+d)
	})
}

// inZone reports whether our own DNS provider can write records for a name.
func (m *Manager) inZone(name string) bool {
	plain := strings.TrimPrefix(name, "*.")
	return m.cfg.Zone != nil && (plain == m.cfg.Domain || strings.HasSuffix(plain, "."+m.cfg.Domain))
}

// Look finds out now what the world sees of a domain, and what is wrong with it, nil if nothing is. When it was our own look
// that found a wanted domain not to be ready and it is ready now, its turn comes at once.
func (m *Manager) Look(ctx context.Context, d trysail.DomainCertificate) (trysail.Domain, *trysail.Finding) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s := m.looker.look(ctx, d.Domain)
	if m.local(d.Domain) {
		return s.Domain, nil
	}
	m.identify(ctx, &s)
	ways := m.ways(&d, &s)
	if len(ways) == 0 {
		return s.Domain, s.unready(m.validation(&d))
	}
	m.mu.Lock()
	if j := m.jobs[d.Domain]; j != nil && j.looked && !j.running {
		j.state.NextTry = time.Time{}
		m.wake()
	}
	m.mu.Unlock()
	return s.Domain, nil
}

// wake makes Run look at the jobs again.
func (m *Manager) wake() {
	select {
	case m.nudge <- struct{}{}:
	default:
	}
}

// validation is the record that would validate a domain, nil if this installation cannot answer for it.
func (m *Manager) validation(d *trysail.DomainCertificate) *trysail.DNSRecord {
	if m.cfg.Zone == nil || d.Token == "" {
		return nil
	}
	r := d.ValidationRecord(m.cfg.ValidationZone)
	return &r
}

// restore makes what is on the disk known for a name, and corrects what the store says about it. A file that the store
// knows of is not opened before it is needed.
func (m *Manager) restore(d *trysail.DomainCertificate) (changed bool) {
	if d.Leaf != nil {
		if _, err := os.Stat(m.files.path(d.Domain)); err == nil {
			m.table.put(d.Domain)
			return false
		}
		d.Leaf, d.RenewAt = nil, time.Time{}
		return true
	}
	_, leaf, err := m.files.load(d.Domain)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			m.log.Warn("a certificate cannot be read and is had anew", "domain", d.Domain, "error", err)
		}
		return false
	}
	// It was saved, and then there was no time to tell the store.
	d.Leaf = newLeaf(leaf, "", "")
	d.RenewAt, d.Problem, d.Tries, d.NextTry = renewAt(leaf.NotBefore, leaf.NotAfter), nil, 0, time.Time{}
	m.table.put(d.Domain)
	return true
}

// revoked notes that a certificate was revoked, so that another one is had at once.
func (m *Manager) revoked(ctx context.Context, name string, leaf *x509.Certificate, at time.Time) {
	m.mu.Lock()
	j := m.jobs[name]
	if j == nil || j.running || j.state.Leaf == nil || j.state.Leaf.Serial != serialOf(leaf) {
		m.mu.Unlock()
		return // it is being replaced already
	}
	gone := *j.state.Leaf
	gone.RevokedAt = at.UTC()
	j.state.Leaf = &gone
	state := j.state
	m.mu.Unlock()
	m.log.WarnContext(ctx, "a certificate was revoked and is replaced", "domain", name, "serial", gone.Serial)
	if err := m.keep(ctx, &state); err != nil && ctx.Err() == nil {
		m.log.WarnContext(ctx, "what became of a certificate cannot be kept", "domain", name, "error", err)
	}
	m.wake()
}

// newLeaf describes a certificate.
func newLeaf(c *x509.Certificate, directory, challenge string) *trysail.Leaf {
	issuer := c.Issuer.CommonName
	if len(c.Issuer.Organization) > 0 {
		issuer = c.Issuer.Organization[0]
	}
	algorithm := "RSA-2048"
	if c.PublicKeyAlgorithm == x509.ECDSA {
		algorithm = "EC_prime256v1"
	}
	return &trysail.Leaf{
		Issuer: issuer, Authority: directory, Serial: serialOf(c), KeyAlgorithm: algorithm,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), IssuedAt: time.Now().UTC(), Challenge: challenge,
	}
}

// serialOf is a serial number as AWS shows it: pairs of hexadecimal digits.
func serialOf(c *x509.Certificate) string {
	var words []string
	for _, b := range c.SerialNumber.Bytes() {
		words = append(words, fmt.Sprintf("%02x", b))
	}
	return strings.Join(words, ":")
}
