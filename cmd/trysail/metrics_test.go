package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestToken_IsMadeOnceAndReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "metrics.token")
	if err := makeToken(file); err != nil {
		t.Fatal(err)
	}
	first, err := readToken(file)
	if err != nil || len(first) < 26 {
		t.Fatalf("got %d characters, %v", len(first), err)
	}
	if err := makeToken(file); err != nil {
		t.Fatal(err)
	}
	if again, err := readToken(file); err != nil || again != first {
		t.Errorf("the token changed, %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if mine, err := readToken(file); err != nil || mine != "mine" {
		t.Errorf("a replaced token: %q, %v", mine, err)
	}
}

func TestHeaders_OneToALine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("api-key: s3cret\nX-Scope-OrgID: 1\n")
	got, err := readHeaders(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(http.Header{"Api-Key": {"s3cret"}, "X-Scope-Orgid": {"1"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	write("s3cret without a name\n")
	if _, err := readHeaders(file); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
	if got, err := readHeaders(""); got != nil || err != nil {
		t.Errorf("without a file: %v, %v", got, err)
	}
}
