package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// insertAudit writes events as they are, with numbers of their own.
func insertAudit(t *testing.T, s *store.Store, seq int, at time.Time, operation string, outcome trysail.AuditOutcome) {
	t.Helper()
	err := s.ExecForTest(t.Context(), fmt.Sprintf("INSERT INTO audit (seq, at, key_id, caller, operation, resource, outcome) VALUES (%d, %d, 'k', 'n', '%s', 'r', '%s')", seq, at.UnixNano(), operation, outcome))
	if err != nil {
		t.Fatal(err)
	}
}

func operationsOf(t *testing.T, s *store.Store, q store.AuditQuery) (got []string) {
	t.Helper()
	q.Limit = 1000
	look(t, s, func(tx *store.Tx) error {
		list, next, err := tx.AuditTrail(q)
		for _, e := range list {
			got = append(got, e.Operation)
		}
		if next != 0 {
			t.Errorf("next is %d", next)
		}
		return err
	})
	return got
}

func TestAudit_IsBoundedByAge(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		now := time.Now()
		old := now.AddDate(0, 0, -401)
		insertAudit(t, s, -3, old, "TooOld", trysail.AuditSuccess)
		insertAudit(t, s, -2, now.AddDate(0, 0, -399), "Kept", trysail.AuditSuccess)
		insertAudit(t, s, -1, old, "CreateCertificate", trysail.AuditSuccess) // has counted against a quota for a year
		for i := range 200 {
			update(t, s, func(tx *store.Tx) error {
				return tx.Audit(trysail.AuditEvent{Operation: fmt.Sprint("New", i), Outcome: trysail.AuditSuccess})
			})
		}
		if got := operationsOf(t, s, store.AuditQuery{End: now.AddDate(0, 0, -1)}); !slices.Equal(got, []string{"Kept"}) {
			t.Errorf("of old ones there are %v", got)
		}
		if got := operationsOf(t, s, store.AuditQuery{}); len(got) != 201 {
			t.Errorf("there are %d", len(got))
		}
	})
}

func TestAudit_IsBoundedByNumber(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		recent := time.Now().AddDate(0, 0, -1)
		insertAudit(t, s, -1_000_001, recent, "Done", trysail.AuditSuccess)
		insertAudit(t, s, -1_000_000, recent, "TooMany", trysail.AuditFailure)
		insertAudit(t, s, -999_999, recent, "CreateCertificate", trysail.AuditFailure) // does not count
		err := s.ExecForTest(t.Context(), fmt.Sprintf(`INSERT INTO audit (seq, at, key_id, caller, operation, resource, outcome)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
			SELECT i - 900000, %d, 'k', 'n', 'Failed', 'r', 'failure' FROM n`, recent.UnixNano()))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			update(t, s, func(tx *store.Tx) error {
				return tx.Audit(trysail.AuditEvent{Operation: "New", Outcome: trysail.AuditUnauthenticated})
			})
		}
		var first []string
		look(t, s, func(tx *store.Tx) error {
			list, _, err := tx.AuditTrail(store.AuditQuery{Limit: 30_000, Outcome: trysail.AuditFailure})
			if len(list) != 20_000 || list[len(list)-1].Operation != "Failed" {
				t.Errorf("of failures there are %d, the oldest is %+v", len(list), list[len(list)-1])
			}
			return err
		})
		for _, o := range []trysail.AuditOutcome{trysail.AuditSuccess, trysail.AuditUnauthenticated} {
			first = append(first, operationsOf(t, s, store.AuditQuery{Outcome: o})[0])
		}
		if !slices.Equal(first, []string{"Done", "New"}) {
			t.Errorf("of the others there are %v", first)
		}
	})
}

func TestCertificateRequests_CountsThoseThatSucceeded(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		for _, o := range []trysail.AuditOutcome{trysail.AuditSuccess, trysail.AuditFailure, trysail.AuditUnauthenticated, trysail.AuditSuccess} {
			update(t, s, func(tx *store.Tx) error {
				return tx.Audit(trysail.AuditEvent{Operation: "CreateCertificate", Outcome: o})
			})
		}
		look(t, s, func(tx *store.Tx) error {
			n, err := tx.CertificateRequests(time.Now().AddDate(-1, 0, 0))
			if n != 2 {
				t.Errorf("counted %d", n)
			}
			return err
		})
	})
}

// Entries of the format before say what they can.
func TestAudit_EntriesFromBefore(t *testing.T) {
	dir := t.TempDir()
	db, err := sql.Open("sqlite", filepath.Join(dir, "trysail.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("migration/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	before := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, "0009_audit.sql") })
	for _, file := range files[:before] {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		exec(string(text))
	}
	exec("INSERT INTO certificates (id, name, created_at) VALUES ('1', 'site', 1)")
	for _, values := range []string{"'DeployX', 'web'", "'CreateCertificate', 'site'", "'TagResource', 'site'", "'TagResource', 'web'", "'DeleteAccessKey', 'web'"} {
		exec("INSERT INTO audit (at, key_id, caller, operation, resource) VALUES (1, 'AKIA1', 'admin', " + values + ")")
	}
	exec(fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", before, 0x54534c31))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	var got []string
	look(t, s, func(tx *store.Tx) error {
		list, _, err := tx.AuditTrail(store.AuditQuery{Limit: 10, Outcome: trysail.AuditSuccess})
		for _, e := range list {
			got = append(got, fmt.Sprint(e.Operation, " ", e.Service, "/", e.Resource, " ", e.Caller.Name))
		}
		n, countErr := tx.CertificateRequests(time.Unix(0, 0))
		if n != 1 {
			t.Errorf("counted %d certificates", n)
		}
		return errors.Join(err, countErr)
	})
	want := []string{"DeleteAccessKey /web admin", "TagResource web/web admin", "TagResource /site admin", "CreateCertificate /site admin", "DeployX web/web admin"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
