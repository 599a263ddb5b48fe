package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// sharing are two managers on one PostgreSQL.
func sharing(t *testing.T) (leader, other *Manager) {
	t.Helper()
	server, err := postgres.Start(context.Background(), "fsync=off")
	if errors.Is(err, postgres.ErrMissing) && testing.Short() {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	url, err := server.NewDatabase(t.Context(), "certs")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "seal.key")
	open := func() *Manager {
		st, err := store.OpenPostgres(t.Context(), store.Postgres{URL: url, Dir: t.TempDir(), SealKey: key, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(Config{Dir: t.TempDir(), Store: st, Shared: true, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = st.Close() })
		return m
	}
	return open(), open()
}

// join makes a manager follow until the test ends.
func join(t *testing.T, m *Manager) {
	t.Helper()
	if err := m.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Follow(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute in vain: %s", what)
		}
	}
}

func TestManager_SharesCertificates(t *testing.T) {
	leader, other := sharing(t)
	sign := newMaker(t)
	sign.save(t, files{dir: leader.files.dir}, "*.example.com", 1) // before there were several servers
	join(t, leader)
	join(t, other)
	serves := func(m *Manager, name string) func() bool {
		return func() bool {
			cert, err := m.Certificate(&tls.ClientHelloInfo{ServerName: name})
			return err == nil && cert != nil
		}
	}
	eventually(t, "the other server has the old certificate", serves(other, "www.example.com"))
	sign.save(t, leader.files, "new.example.org", 2)
	eventually(t, "the other server has the new certificate", serves(other, "new.example.org"))
	info, err := os.Stat(other.files.path("new.example.org"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of the key: %v, %v", info, err)
	}
}

func TestManager_AnyServerAnswersAChallenge(t *testing.T) {
	leader, other := sharing(t)
	join(t, leader)
	join(t, other)
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		if !other.Challenge(w, httptest.NewRequest(http.MethodGet, "http://www.example.com"+path, http.NoBody)) {
			return http.StatusNotFound, ""
		}
		return w.Code, w.Body.String()
	}
	if _, text := ask(challengePath + leader.looker.token); text != leader.looker.token {
		t.Errorf("our own look at the name is answered with %q", text)
	}
	ch := acme.Challenge{Type: acme.ChallengeTypeHTTP01, Token: "token", KeyAuthorization: "token.thumbprint", Identifier: acme.Identifier{Type: "dns", Value: "www.example.com"}}
	web := httpSolver{leader.challenges, leader.files}
	if err := web.Present(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other server answers", func() bool {
		_, text := ask(challengePath + "token")
		return text == ch.KeyAuthorization
	})
	ch.Type = acme.ChallengeTypeTLSALPN01
	alpn := tlsSolver{leader.challenges, leader.files}
	if err := alpn.Present(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{ServerName: "www.example.com", SupportedProtos: []string{challengeProtocol}}
	eventually(t, "the other server has the certificate of the challenge", func() bool {
		cert, err := other.Certificate(hello)
		return err == nil && cert != nil
	})
	if err := web.CleanUp(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	// The leader ends before it has taken the other answer back; the next one does.
	if err := other.forgetChallenges(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is answered any more", func() bool {
		status, _ := ask(challengePath + "token")
		_, err := other.Certificate(hello)
		return status == http.StatusNotFound && err != nil
	})
}
