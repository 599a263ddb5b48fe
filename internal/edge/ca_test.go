package edge

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testCA(t *testing.T, dir, domain string, names ...string) *CA {
	t.Helper()
	ca, err := openCA(dir, domain, names, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (ca *CA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

func TestCA_FilesAndModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	ca := testCA(t, dir, "localhost")
	for name, want := range map[string]os.FileMode{rootKeyFile: 0o600, rootFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	public, err := os.ReadFile(ca.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(public), "PRIVATE") {
		t.Error("the public file has the key")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("files left: %v, %v", entries, err)
	}
	if _, ok := ca.root.PublicKey.(*ecdsa.PublicKey); !ok || time.Until(ca.root.NotAfter) < 9*365*24*time.Hour {
		t.Errorf("root: %T until %v", ca.root.PublicKey, ca.root.NotAfter)
	}
}

func TestCA_ReloadKeepsTheRoot(t *testing.T) {
	dir := t.TempDir()
	first := testCA(t, dir, "localhost")
	// What a careless restore from a backup does.
	if err := os.Chmod(filepath.Join(dir, rootKeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(first.RootFile()); err != nil {
		t.Fatal(err)
	}
	second := testCA(t, dir, "localhost")
	if !first.root.Equal(second.root) {
		t.Error("the root changed")
	}
	if info, err := os.Stat(filepath.Join(dir, rootKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if _, err := os.Stat(second.RootFile()); err != nil {
		t.Errorf("root file not restored: %v", err)
	}
	cert, err := second.certificate("a.cs.localhost")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: first.pool(), DNSName: "a.cs.localhost"}); err != nil {
		t.Error(err)
	}
}

func TestCA_DamagedFileIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, rootKeyFile)
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openCA(dir, "localhost", nil, testLog(t))
	if err == nil || !strings.Contains(err.Error(), "restore "+path) {
		t.Errorf("error: %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "rubbish" {
		t.Error("the file was touched")
	}
}

func TestCA_OtherDomainMakesANewRootAndKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	first := testCA(t, dir, "localhost")
	second := testCA(t, dir, "apps.example.com")
	if first.root.Equal(second.root) {
		t.Fatal("same root")
	}
	if _, err := second.certificate("x.cs.apps.example.com"); err != nil {
		t.Error(err)
	}
	if old, err := filepath.Glob(filepath.Join(dir, "root-key-*.pem")); err != nil || len(old) != 1 {
		t.Errorf("old roots: %v, %v", old, err)
	}
	// localhost is always permitted, so going back does not replace it again.
	if third := testCA(t, dir, "localhost"); !third.root.Equal(second.root) {
		t.Error("replaced without need")
	}
}

func TestCA_NameConstraintsHold(t *testing.T) {
	ca := testCA(t, t.TempDir(), "apps.example.com", "box1")
	for name, want := range map[string]bool{
		"a.b.us-east-1.cs.apps.example.com": true, "localhost": true, "web.localhost": true, "box1": true,
		"127.0.0.1": true, "::1": true, "203.0.113.7": true,
		"example.com": false, "google.com": false, "xapps.example.com": false, "evil com": false, "": false,
	} {
		if _, err := ca.certificate(name); (err == nil) != want {
			t.Errorf("certificate(%q): %v", name, err)
		}
	}
	// Clients must refuse as well, if somebody signs with the stolen key.
	ca.domains = append(ca.domains, "google.com")
	cert, err := ca.certificate("google.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.pool(), DNSName: "google.com"}); err == nil {
		t.Error("the constraint in the root does not bind")
	}
}

func TestCA_LeafFitsClients(t *testing.T) {
	ca := testCA(t, t.TempDir(), "localhost")
	long := strings.Repeat("a", 63) + ".0123456789abc.us-east-1.cs.localhost" // too long for a common name
	cert, err := ca.certificate(long, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{long, "127.0.0.1"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.pool(), DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	if life := time.Until(cert.Leaf.NotAfter); life > leafLife || life < leafLife-time.Minute {
		t.Errorf("life %v", life)
	}
}

func TestCA_RenewsBeforeTheEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := testCA(t, dir, "localhost")
		cfg, err := ca.ServerConfig("localhost", "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		serving := func() *tls.Certificate {
			t.Helper()
			cert, err := cfg.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return cert
		}
		first := serving()
		time.Sleep(leafLife - leafRenew - time.Minute)
		if serving() != first {
			t.Error("renewed too early")
		}
		time.Sleep(2 * time.Minute)
		second := serving()
		if second == first {
			t.Error("not renewed")
		}
		if left := time.Until(second.Leaf.NotAfter); left < leafLife-time.Minute {
			t.Errorf("the new one has %v left", left)
		}
		// Years later the root is replaced at a start, and until then no leaf outlives it.
		time.Sleep(time.Until(ca.root.NotAfter) - 24*time.Hour)
		if last := serving(); last.Leaf.NotAfter.After(ca.root.NotAfter) {
			t.Error("a leaf outlives its root")
		}
		if next := testCA(t, dir, "localhost"); next.root.Equal(ca.root) {
			t.Error("a root that ends tomorrow is kept")
		}
	})
}

func TestCA_CacheIsBounded(t *testing.T) {
	ca := testCA(t, t.TempDir(), "localhost")
	first, err := ca.certificate("n0.localhost")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := ca.certificate("n0.localhost"); again != first {
		t.Error("not cached")
	}
	for i := range maxLeaves {
		ca.leaves[fmt.Sprint(i)] = &leaf{}
	}
	for i := range 20 {
		if _, err := ca.certificate(fmt.Sprintf("m%d.localhost", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(ca.leaves) > maxLeaves+1 {
		t.Errorf("%d leaves", len(ca.leaves))
	}
}

func TestCA_ServerConfigServesTheAPI(t *testing.T) {
	ca := testCA(t, t.TempDir(), "localhost")
	cfg, err := ca.ServerConfig("localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 2)
	go func() {
		for range 2 {
			conn, err := l.Accept()
			if err == nil {
				err = conn.(*tls.Conn).Handshake()
				conn.Close()
			}
			done <- err
		}
	}()
	for _, name := range []string{"localhost", "127.0.0.1"} {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", l.Addr().String(), &tls.Config{RootCAs: ca.pool(), ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		if err := receive(t, done, "handshake"); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	if _, err := ca.ServerConfig(); err == nil {
		t.Error("no hosts, no error")
	}
	if _, err := ca.ServerConfig("www.google.com"); err == nil || !strings.Contains(err.Error(), "limited to localhost") {
		t.Errorf("error: %v", err)
	}
}
