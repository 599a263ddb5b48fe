package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// secretServer is a PostgreSQL with TLS that wants a password from user locked, TLS from user veiled, and takes nobody named
// stranger. It returns the file of its authority.
func secretServer(t *testing.T) (server *postgres.Server, authority string) {
	t.Helper()
	server = ownServer(t, "fsync=off", "ssl=off")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	authority = filepath.Join(server.Data, "server.crt")
	for name, block := range map[string]*pem.Block{"server.crt": {Type: "CERTIFICATE", Bytes: der}, "server.key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		path := filepath.Join(server.Data, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		owner(t, server, path)
	}
	hba := "host all locked 127.0.0.1/32 scram-sha-256\nhostssl all veiled 127.0.0.1/32 trust\nhost all trysail,guest 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(server.Data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, q := range [][]string{
		{"postgres", "CREATE ROLE locked LOGIN PASSWORD 'right-words'", "CREATE ROLE veiled LOGIN", "CREATE ROLE guest LOGIN", "CREATE ROLE stranger LOGIN"},
		{"postgres", "CREATE DATABASE locked OWNER locked", "CREATE DATABASE veiled OWNER veiled", "CREATE DATABASE veiled2 OWNER veiled"},
		{"postgres", "CREATE DATABASE latin ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0", "CREATE DATABASE taken", "CREATE DATABASE standby", "CREATE DATABASE newer"},
		{"postgres", "ALTER DATABASE standby SET default_transaction_read_only = on", "ALTER SYSTEM SET ssl = on"},
		{"taken", "CREATE TABLE services (id TEXT)"},
	} {
		if _, err := server.SQL(t.Context(), q[0], q[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(server.Stop(), server.Run(t.Context())); err != nil {
		t.Fatal(err)
	}
	return server, authority
}

func TestPostgres_SaysWhatIsWrong(t *testing.T) {
	server, authority := secretServer(t)
	address := strings.TrimSuffix(strings.TrimPrefix(server.URL(""), "postgres://trysail@"), "/")
	plain := ownServer(t, "fsync=off")
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	const wrong = "hunter2-hunter2"
	for _, tc := range []struct{ name, url, password, text, fix string }{
		{"no URL", "db.example.com/" + wrong, "", "not a URL", ""},
		{"another scheme", "mysql://u:" + wrong + "@127.0.0.1/x", "", "not a URL", ""},
		{"a password that is no part of a URL", "postgres://u:" + wrong + "/%zz@127.0.0.1/x", "", "not a URL", "%XX"},
		{"an unknown option", "postgres://u:" + wrong + "@127.0.0.1/x?sslmode=perhaps", "", "sslmode is invalid", "libpq"},
		{"a missing authority", "postgres://u@127.0.0.1/x?sslrootcert=/no/such/file", "", "/no/such/file", ""},
		{"nobody there", "postgres://u:" + wrong + "@" + gone.Addr().String() + "/x", "", "not reachable: connection refused", "running"},
		{"no such host", "postgres://u@no-such-host.invalid/x", "", "not reachable", ""},
		{"a wrong password in the URL", "postgres://locked:" + wrong + "@" + address + "/locked", "", "refuses the password of user locked", "PGPASSFILE"},
		{"a wrong password", "postgres://locked@" + address + "/locked", wrong, "refuses the password of user locked", "PGPASSFILE"},
		{"an unknown user", "postgres://stranger@" + address + "/locked", "", "refuses user stranger", "pg_hba.conf"},
		{"a user who does not exist", "postgres://nobody@" + strings.TrimPrefix(plain.URL("postgres"), "postgres://trysail@"), "", "refuses user nobody", "createuser"},
		{"no TLS where it is wanted", "postgres://veiled@" + address + "/veiled?sslmode=disable", "", "refuses user veiled", "sslmode=verify-full"},
		{"TLS where there is none", plain.URL("postgres") + "?sslmode=require", "", "does not speak TLS", "sslmode=disable"},
		{"an unknown authority", "postgres://veiled@" + address + "/veiled?sslmode=verify-full", "", "not to be trusted", "sslrootcert"},
		{"no such database", server.URL("nothing"), "", `no database "nothing"`, "createdb --owner trysail nothing"},
		{"no right to make tables", "postgres://guest@" + address + "/veiled", "", "may not make tables", "ALTER DATABASE veiled OWNER TO guest"},
		{"another encoding", server.URL("latin"), "", "SQL_ASCII", "UTF8"},
		{"tables of others", server.URL("taken"), "", "tables of something else", "search_path"},
		{"a standby", server.URL("standby"), "", "standby", "primary"},
		{"no schema", server.URL("veiled") + "?search_path=nowhere", "", "no schema", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := store.OpenPostgres(t.Context(), store.Postgres{URL: tc.url, Password: tc.password, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
			p, ok := errors.AsType[*store.ProblemError](err)
			if !ok || !strings.Contains(err.Error(), tc.text) || p.Fix == "" || !strings.Contains(p.Fix, tc.fix) {
				t.Errorf("%T %v\nfix: %+v", err, err, p)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if strings.Contains(e.Error(), wrong) {
					t.Errorf("the password is told: %v", e)
				}
			}
		})
	}
	for name, cfg := range map[string]store.Postgres{
		"a password and TLS":  {URL: "postgres://locked@" + address + "/locked?sslmode=require", Password: "right-words"},
		"a certificate":       {URL: "postgres://veiled@" + address + "/veiled2?sslmode=verify-full&sslrootcert=" + authority},
		"several hosts, dead": {URL: "postgres://trysail@" + gone.Addr().String() + "," + address + "/newer"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Dir = t.TempDir()
			update(t, openPostgres(t, cfg), insert("web"))
		})
	}
}

func TestPostgres_RefusesOldServersAndNewFormats(t *testing.T) {
	databaseURL := databases.make(t)
	cfg := store.Postgres{URL: databaseURL, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	_, err := store.OpenPostgres(t.Context(), store.NeedingVersion(cfg, 99_00_00))
	if p, ok := errors.AsType[*store.ProblemError](err); !ok || !strings.Contains(p.Text, "99 or newer") {
		t.Errorf("an old server: %v", err)
	}
	openPostgres(t, cfg).Close()
	databases.sql(t, databaseURL, "UPDATE trysail_format SET format = 999")
	if _, err := store.OpenPostgres(t.Context(), cfg); !errors.Is(err, store.ErrNewerFormat) || !strings.Contains(err.Error(), "999") {
		t.Errorf("a newer format: %v", err)
	}
}

func TestURL_SecretsStayInside(t *testing.T) {
	for _, tc := range []struct {
		url, show string
		secret    bool
	}{
		{"postgres://u@h:1/d?sslmode=require", "postgres://u@h:1/d", false},
		{"postgres://u:pw@h:1/d", "postgres://u@h:1/d", true},
		{"postgres://h/d?password=pw", "postgres://h/d", true},
		{"postgres://h/d?sslpassword=pw", "postgres://h/d", true},
		{"postgres://u:p/w@h/d", "the database", true},
		{"", "the database", false},
	} {
		if got := store.HasPassword(tc.url); got != tc.secret {
			t.Errorf("%s has a password: %v", tc.url, got)
		}
		if got := store.ShowURL(tc.url); got != tc.show {
			t.Errorf("%s is shown as %s", tc.url, got)
		}
	}
}
