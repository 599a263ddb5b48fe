package store_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

func TestStore_CertificatesComeBack(t *testing.T) { both(t, testStoreCertificatesComeBack) }

func testStoreCertificatesComeBack(t *testing.T, open opener) {
	dir := t.TempDir()
	s := open(t, dir)
	sub := s.Subscribe()
	at := time.Unix(1_700_000_000, 5).UTC()
	want := trysail.Certificate{
		ID: "1", Name: "cert", CreatedAt: at, Tags: []trysail.Tag{{Key: "a", Value: "1"}},
		Domains: []trysail.DomainCertificate{{Domain: "example.com", Token: "t1"}, {Domain: "a.example.com", Token: "t2"}},
	}
	web := newService("web")
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.InsertCertificate(&want), tx.SetCertificateIssued("1", at), tx.InsertService(web),
			tx.SetPublicDomains(web.ID, map[string][]string{"cert": {"a.example.com"}, "_": {"b.example.com"}}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if ids := sub.Take(); !slices.Contains(ids, store.CertificatesChanged) {
		t.Errorf("subscribers heard of %v", ids)
	}
	want.IssuedAt, want.UsedBy = at, []string{"web"}
	want.Domains[1].Leaf = &trysail.Leaf{Serial: "0a", NotAfter: at}
	want.Domains[1].Problem = &trysail.Finding{Code: trysail.CodeCertDNS, Summary: "s"}
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		unknown := trysail.DomainCertificate{Domain: "unknown"}
		if err := tx.UpdateDomain(&unknown); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("updating an unknown domain: %v", err)
		}
		return tx.UpdateDomain(&want.Domains[1])
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	err = s.View(t.Context(), func(tx *store.Tx) error {
		got, err := tx.Certificate("cert")
		if err != nil {
			return err
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("certificate (-want +got):\n%s", diff)
		}
		svc, err := tx.Service("web")
		if err != nil {
			return err
		}
		if diff := cmp.Diff(map[string][]string{"cert": {"a.example.com"}, "_": {"b.example.com"}}, svc.PublicDomains); diff != "" || svc.HostLabel != "label-web" {
			t.Errorf("label %s, public domains (-want +got):\n%s", svc.HostLabel, diff)
		}
		if _, err := tx.Certificate("none"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("unknown certificate: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore_ADomainIsOnOneService(t *testing.T) { both(t, testStoreADomainIsOnOneService) }

func testStoreADomainIsOnOneService(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	web, other := newService("web"), newService("other")
	other.HostLabel = web.HostLabel // services may share it
	set := func(service *trysail.Service) error {
		return s.Update(t.Context(), func(tx *store.Tx) error {
			return tx.SetPublicDomains(service.ID, map[string][]string{"_": {"example.com"}})
		})
	}
	err := s.Update(t.Context(), func(tx *store.Tx) error { return errors.Join(tx.InsertService(web), tx.InsertService(other)) })
	if err := errors.Join(err, set(web), set(web)); err != nil {
		t.Fatal(err)
	}
	taken, ok := errors.AsType[*store.DomainTakenError](set(other))
	if !ok || taken.Service != "web" {
		t.Fatalf("got %v", taken)
	}
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.DeleteService(web.ID) }); err != nil {
		t.Fatal(err)
	}
	if err := set(other); err != nil {
		t.Errorf("after the first service is gone: %v", err)
	}
}

func TestStore_FactsAreMadeOnce(t *testing.T) { both(t, testStoreFactsAreMadeOnce) }

func testStoreFactsAreMadeOnce(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	for _, made := range []string{"first", "second"} {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			got, err := tx.Fact("host_label", made)
			if got != "first" {
				t.Errorf("got %q", got)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestStore_OpensTheFormatBeforeCertificates begins with a database that knows nothing of them.
func TestStore_OpensTheFormatBeforeCertificates(t *testing.T) {
	dir := t.TempDir()
	db, err := sql.Open("sqlite", filepath.Join(dir, "trysail.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	files, err := filepath.Glob("migration/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	before := slices.IndexFunc(files, func(f string) bool { return filepath.Base(f) == "0006_certificates.sql" })
	for _, f := range files[:before] {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), string(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []string{
		"INSERT INTO services (id, name, created_at, host_label, power, scale, state) VALUES ('1', 'old', 1, 'oldlabel', 'nano', 1, 'READY')",
		"INSERT INTO operations (id, resource, type, status, created_at, changed_at) VALUES ('o', 'old', 'T', 'Succeeded', 1, 1)",
		"PRAGMA application_id = 0x54534c31",
	} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.ExecContext(t.Context(), "PRAGMA user_version = "+string(rune('0'+before))); err != nil {
		t.Fatal(err)
	}
	db.Close()
	s := open(t, dir)
	err = s.View(t.Context(), func(tx *store.Tx) error {
		svc, err := tx.Service("old")
		if err != nil || svc.HostLabel != "oldlabel" || svc.PublicDomains != nil {
			t.Errorf("got %+v, %v", svc, err)
		}
		o, err := tx.Operation("o")
		if err != nil || o.ResourceType != trysail.ResourceService {
			t.Errorf("got %+v, %v", o, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
