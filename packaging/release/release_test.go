package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNumber_IsWhatPackageManagersSortRight(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.0":                   "1.2.0",
		"1.2.0":                    "1.2.0",
		"v1.2.0-rc.1":              "1.2.0~rc.1",
		"v1.2.0-beta-2":            "1.2.0~beta.2",
		"v1.2.0-14-gdeadbee":       "1.2.0+14.gdeadbee",
		"v1.2.0-14-gdeadbee-dirty": "1.2.0+14.gdeadbee.dirty",
		"v1.2.0-dirty":             "1.2.0+dirty",
		"deadbee":                  "0.0.0+deadbee",
	} {
		r := release{version: version}
		if got := r.number(); got != want {
			t.Errorf("%s becomes %s, want %s", version, got, want)
		}
	}
}

func TestDifferences_NameFilesThatDiffer(t *testing.T) {
	a := "11  a.deb\n22  b.rpm\n33  only-here\n"
	b := "11  a.deb\n99  b.rpm\n44  only-there\n"
	if diff := cmp.Diff([]string{"b.rpm", "only-here", "only-there"}, differences(a, b)); diff != "" {
		t.Error(diff)
	}
	if got := differences(a, a); len(got) > 0 {
		t.Errorf("the same differ in %v", got)
	}
}

func sumOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func TestLock_FetchesWhatItNamesAndNothingElse(t *testing.T) {
	asked := []string{}
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		switch r.URL.Path {
		case "/debian/pool/good.deb":
			_, _ = io.WriteString(w, "good")
		case "/debian/pool/forged.deb":
			_, _ = io.WriteString(w, "forged")
		default:
			http.NotFound(w, r)
		}
	}))
	defer mirror.Close()
	file := filepath.Join(t.TempDir(), "packages.lock")
	text := "# a comment\nsnapshot 20261121T000000Z\namd64 good 1 " + sumOf("good") + " debian/pool/good.deb\narm64 forged 1 " + sumOf("genuine") + " debian/pool/forged.deb\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := readLock(file)
	if err != nil || len(l.debs) != 2 {
		t.Fatalf("read %v, %v", l, err)
	}
	want := []string{"http://m/debian/pool/good.deb", "https://snapshot.debian.org/archive/debian/20261121T000000Z/pool/good.deb"}
	if diff := cmp.Diff(want, l.urls(l.debs[0], "http://m")); diff != "" {
		t.Error(diff)
	}
	cache := t.TempDir()
	for range 2 { // the second time it is there
		path, err := l.fetch(t.Context(), l.debs[0], mirror.URL, cache)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "good" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if diff := cmp.Diff([]string{"/debian/pool/good.deb"}, asked); diff != "" {
		t.Errorf("asked the mirror for other things: %s", diff)
	}
	// The snapshots are not asked: the context has ended by then.
	ctx, cancel := context.WithCancel(t.Context())
	forged := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "forged"); defer cancel() }))
	defer forged.Close()
	if path, err := l.fetch(ctx, l.debs[1], forged.URL, cache); err == nil {
		t.Errorf("took a package with another checksum: %s", path)
	}
	if files, _ := os.ReadDir(cache); len(files) != 1 {
		t.Errorf("the cache has %v", files)
	}
	if _, err := readLock("release_test.go"); err == nil {
		t.Error("took a Go file for a list of packages")
	}
}

func TestPackages_AreThoseThatAreCommitted(t *testing.T) {
	l, err := readLock("../image/packages.lock")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]map[string]bool{"amd64": {}, "arm64": {}}
	for _, d := range l.debs {
		have[d.arch][d.name] = true
		if !strings.HasPrefix(d.path, "debian/") && !strings.HasPrefix(d.path, "debian-security/") {
			t.Errorf("%s is nowhere on a mirror: %s", d.name, d.path)
		}
	}
	if diff := cmp.Diff(have["amd64"], have["arm64"]); diff != "" || !have["amd64"]["runc"] {
		t.Errorf("the images differ in more than the processor: %s", diff)
	}
}

func TestWanted_LeavesOutWhatNobodyRuns(t *testing.T) {
	for name, want := range map[string]bool{
		"usr/sbin/runc": true, "usr/lib/cni/bridge": true, "usr/lib/cni/dhcp": false, "usr/share/man/man8/runc.8.gz": false,
		"lib/x86_64-linux-gnu/libc.so.6": true, "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so": false, "lib64/ld-linux-x86-64.so.2": true,
		"usr/lib/x86_64-linux-gnu/libseccomp.so.2.5.4": true, "usr/share/doc/runc/copyright": true, "usr/share/doc/runc/changelog.gz": false,
		"usr/sbin/update-ca-certificates": false,
	} {
		if got := wanted(name); got != want {
			t.Errorf("wanted(%s) = %v", name, got)
		}
	}
}

func TestLayer_IsTheSameForTheSameFiles(t *testing.T) {
	files := map[string]entry{}
	for _, name := range []string{"usr/bin/b", "usr/bin/a", "etc/c"} {
		files[name] = entry{mode: 0o644, content: []byte(name)}
	}
	files["tmp"], files["usr/bin/link"] = entry{mode: 0o1777 | fs.ModeDir}, entry{link: "a"}
	var digests []string
	for range 2 {
		l, err := layerOf(files, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("the digests are %v", digests)
	}
	l, err := layerOf(files, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	content, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var names []string
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
		if h.Name == "tmp/" && h.Mode != 0o1777 || h.ModTime.Unix() != 1 {
			t.Errorf("%s has the mode %o and the time %v", h.Name, h.Mode, h.ModTime)
		}
	}
	if diff := cmp.Diff([]string{"etc/", "etc/c", "tmp/", "usr/", "usr/bin/", "usr/bin/a", "usr/bin/b", "usr/bin/link"}, names); diff != "" {
		t.Error(diff)
	}
}

// What a package runs when it is purged must be in the script itself: the package's files are gone by then.
func TestScripts_PurgeIsWhole(t *testing.T) {
	t.Chdir("../..")
	r := release{work: t.TempDir()}
	scripts, err := r.scripts()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(scripts["postremove"])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "#!") != 1 || !strings.Contains(string(text), "[ \"$1\" = purge ] || exit 0") || !strings.Contains(string(text), "rm -rf /run/trysail") {
		t.Errorf("it is\n%s", text)
	}
}
