package certs

import (
	"container/list"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"sync"
)

// defaultLoaded is how many certificates are kept in memory, about 4 KB each. The others are read when they are needed.
const defaultLoaded = 2048

// table finds the certificate for a handshake: two lookups, however many names there are. A name costs about 200 bytes; the
// certificates themselves are read at their first use, and the least used are forgotten.
type table struct {
	files files
	most  int // loaded at once

	mu     sync.Mutex // guards what follows; not held while a file is read
	sites  map[string]*site
	recent *list.List // of *site, the most recently used first; those that are loaded
}

// site is a name with a certificate. All but name is guarded by table.mu.
type site struct {
	name     string
	cert     *tls.Certificate // nil: not loaded
	place    *list.Element    // in recent
	loading  chan struct{}    // closed when the one that reads the file is done; nil if nobody does
	staple   []byte           // OCSP
	wantOCSP bool             // the leaf names a responder
	version  int              // counts replacements, so that a reader of an older file does not win
}

func newTable(f files, most int) *table {
	if most == 0 {
		most = defaultLoaded
	}
	return &table{files: f, most: most, sites: map[string]*site{}, recent: list.New()}
}

// put makes a name known, or says that its file has been replaced. Connections that are open keep what they have.
func (t *table) put(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sites[name]
	if s == nil {
		t.sites[name] = &site{name: name}
		return
	}
	t.unload(s)
	s.staple = nil
	s.version++
}

// remove forgets a name. Its file stays.
func (t *table) remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sites[name]; s != nil {
		t.unload(s)
		delete(t.sites, name)
	}
}

func (t *table) has(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.find(name) != nil
}

// find returns the site for a host in lower case: the name itself or the wildcard that stands for its first label.
func (t *table) find(host string) *site {
	if s := t.sites[host]; s != nil {
		return s
	}
	if i := strings.IndexByte(host, '.'); i > 0 {
		return t.sites["*"+host[i:]]
	}
	return nil
}

func (t *table) unload(s *site) {
	if s.place != nil {
		t.recent.Remove(s.place)
		s.place, s.cert = nil, nil
	}
}

// certificate returns the certificate for a host in lower case, nil if there is none.
func (t *table) certificate(host string) (*tls.Certificate, error) {
	for {
		t.mu.Lock()
		s := t.find(host)
		if s == nil {
			t.mu.Unlock()
			return nil, nil
		}
		if s.cert != nil {
			t.recent.MoveToFront(s.place)
			cert := s.cert
			t.mu.Unlock()
			return cert, nil
		}
		if wait := s.loading; wait != nil {
			t.mu.Unlock()
			<-wait
			continue
		}
		s.loading = make(chan struct{})
		version := s.version
		t.mu.Unlock()
		cert, again, err := t.load(s, version)
		if !again {
			return cert, err
		}
	}
}

// load reads the file of a site. again says that it was replaced meanwhile.
func (t *table) load(s *site, version int) (cert *tls.Certificate, again bool, err error) {
	cert, leaf, err := t.files.load(s.name)
	t.mu.Lock()
	defer t.mu.Unlock()
	close(s.loading)
	s.loading = nil
	switch {
	case s.version != version:
		return nil, true, nil
	case err != nil:
		return nil, false, err
	case t.sites[s.name] != s:
		return cert, false, nil // the name was removed just now
	}
	s.wantOCSP = len(leaf.OCSPServer) > 0
	cert.OCSPStaple = s.staple
	s.cert, s.place = cert, t.recent.PushFront(s)
	for t.recent.Len() > t.most {
		last, ok := t.recent.Back().Value.(*site)
		if !ok {
			break
		}
		t.unload(last)
	}
	return cert, false, nil
}

// unstapled lists the names that are in use and whose certificate names an OCSP responder, but have no staple.
func (t *table) unstapled() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := t.recent.Front(); e != nil; e = e.Next() {
		if s, ok := e.Value.(*site); ok && s.wantOCSP && s.staple == nil {
			names = append(names, s.name)
		}
	}
	return names
}

// setStaple adds an OCSP answer to the certificate of a name, or takes it away.
func (t *table) setStaple(name string, leaf *x509.Certificate, staple []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sites[name]
	if s == nil {
		return
	}
	s.staple = staple
	if s.cert == nil {
		return
	}
	if c, err := x509.ParseCertificate(s.cert.Certificate[0]); err != nil || !c.Equal(leaf) {
		return // it was replaced meanwhile
	}
	cert := *s.cert // handshakes under way have the old one
	cert.OCSPStaple = staple
	s.cert = &cert
}
