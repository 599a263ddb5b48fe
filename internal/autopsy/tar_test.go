package autopsy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/autopsy"
)

// entry is a file of a layer: as tar has it.
type entry struct {
	tar.Header
	content string
}

func packed(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func regular(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, content}
}

func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}

func hardlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

func budget() *autopsy.Budget { return &autopsy.Budget{Unpacked: 1 << 30, Memory: 64 << 20} }

func read(tb testing.TB, blob []byte) *autopsy.Index {
	tb.Helper()
	x, err := autopsy.ReadLayer(tb.Context(), bytes.NewReader(blob), budget())
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// stack puts layers together, topmost first.
func stack(tb testing.TB, layers ...[]byte) *autopsy.Layered {
	tb.Helper()
	var all []*autopsy.Index
	for _, l := range layers {
		all = append(all, read(tb, l))
	}
	s, err := autopsy.Stack(all)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// content reads what was kept of a file.
func content(root fs.FS, name string) (string, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	b := make([]byte, 1<<20)
	r, ok := f.(interface {
		ReadAt(b []byte, at int64) (int, error)
	})
	if !ok {
		return "", errors.New("a directory")
	}
	n, _ := r.ReadAt(b, 0)
	return string(b[:n]), nil
}

func TestStack_ShowsWhatOverlayfsShows(t *testing.T) {
	lower := packed(t,
		regular("a/one", "1"), regular("./a/two", "2"), regular("/b/old", "x"), regular("c", "file"), regular("d/e/f", "x"), regular("gone/x", "x"),
		regular("kept", "k"), symlink("out", "/etc"), regular("../../up", "u"), hardlink("again", "a/one"), hardlink("lost", "nowhere"), regular("a/two", "22"),
	)
	upper := packed(t,
		regular("a/.wh.two", ""), regular("a/three", "3"), regular("b/.wh..wh..opq", ""), regular("b/new", "y"), regular("c/inner", "z"), regular("d", "now a file"),
		regular(".wh.gone", ""), regular(".wh..wh.plnk/1", ""), symlink("lib", "usr/lib"), regular("lib/x", "in usr"),
	)
	l := stack(t, upper, lower)
	for name, want := range map[string]string{
		"a/one": "1", "a/two": "", "a/three": "3", "b/old": "", "b/new": "y", "c/inner": "z", "d": "now a file", "d/e/f": "", "gone/x": "", "gone": "",
		"kept": "k", "up": "u", "again": "1", "out/passwd": "", "usr/lib/x": "in usr",
	} {
		got, err := content(l, name)
		if got != want || want == "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := l.Lstat("lost"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a broken hard link is cannot be known: %v", err)
	}
	entries, err := fs.ReadDir(l, "a")
	if err != nil || len(entries) != 2 || entries[0].Name() != "one" || entries[1].Name() != "three" {
		t.Errorf("the merged directory has %v, %v", entries, err)
	}
	if target, err := l.ReadLink("out"); err != nil || target != "/etc" {
		t.Errorf("the link points to %q, %v", target, err)
	}
}

func TestReadLayer_KnowsHowLayersArePacked(t *testing.T) {
	plain := packed(t, regular("app", string(program(elf.EM_X86_64, musl))))
	var zipped, standard bytes.Buffer
	g := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&standard)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []interface {
		Write(b []byte) (int, error)
		Close() error
	}{g, z} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for how, blob := range map[string][]byte{"not": plain, "gzip": zipped.Bytes(), "zstd": standard.Bytes()} {
		a := autopsy.Examine(stack(t, blob), autopsy.Container{Entrypoint: []string{"/app"}}, amd64)
		if len(a.Findings) != 1 || a.Findings[0].Code != "RUN-LOADER" {
			t.Errorf("%s packed: %+v", how, a)
		}
		for _, cut := range []int{min(len(blob)/2, 600), 3} {
			if _, err := autopsy.ReadLayer(t.Context(), bytes.NewReader(blob[:cut]), budget()); err == nil || errors.Is(err, autopsy.ErrTooLarge) {
				t.Errorf("%s packed, and cut after %d bytes: %v", how, cut, err)
			}
		}
	}
}

// TestExamine_LayersOfTars finds in tars what it finds in directories.
func TestExamine_LayersOfTars(t *testing.T) {
	far := program(elf.EM_X86_64, "")
	far = append(far, make([]byte, 100_000)...)
	binary.LittleEndian.PutUint32(far[64:], uint32(elf.PT_INTERP))
	binary.LittleEndian.PutUint64(far[64+8:], uint64(len(far)))
	binary.LittleEndian.PutUint64(far[64+32:], uint64(len(glibc)+1))
	far = slices.Concat(far, []byte(glibc), []byte{0})
	base := packed(t,
		regular("bin/sh", string(program(elf.EM_X86_64, ""))), symlink("usr/bin", "../bin"), regular("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
		regular("etc/group", "root:x:0:\n"), regular("removed", string(program(elf.EM_X86_64, ""))),
	)
	top := packed(t,
		regular("app/foreign", string(program(elf.EM_AARCH64, ""))), regular("app/far", string(far)), regular("app/crlf.sh", "#!/bin/sh\r\nexit\n"),
		regular("app/fine.sh", "#!/usr/bin/sh\nexit\n"), regular("app/text", strings.Repeat("This is text.\n", 1000)), entry{tar.Header{Name: "app/plain", Typeflag: tar.TypeReg, Mode: 0o644}, "x"},
		regular(".wh.removed", ""), hardlink("app/again", "app/foreign"), entry{tar.Header{Name: "app/theirs", Typeflag: tar.TypeReg, Mode: 0o700, Uid: 7}, "#!/bin/sh\n"},
	)
	l := stack(t, top, base)
	for _, c := range []struct {
		what autopsy.Container
		code trysail.DiagnosisCode
	}{
		{autopsy.Container{Entrypoint: []string{"/app/foreign"}}, "IMG-BIN-ARCH"},
		{autopsy.Container{Entrypoint: []string{"/app/again"}}, "IMG-BIN-ARCH"},
		{autopsy.Container{Entrypoint: []string{"/app/far"}}, "RUN-LOADER"},
		{autopsy.Container{Entrypoint: []string{"/app/crlf.sh"}}, "RUN-CRLF"},
		{autopsy.Container{Entrypoint: []string{"/app/fine.sh"}, User: "app"}, ""},
		{autopsy.Container{Entrypoint: []string{"/app/fine.sh"}, User: "nodejs"}, "RUN-USER"},
		{autopsy.Container{Entrypoint: []string{"/app/fine.sh"}, User: "app:nodejs"}, "RUN-USER"},
		{autopsy.Container{Entrypoint: []string{"/app/theirs"}, User: "app"}, "RUN-PERM"},
		{autopsy.Container{Entrypoint: []string{"/app/text"}}, "RUN-NOSHEBANG"},
		{autopsy.Container{Entrypoint: []string{"/app/plain"}}, "RUN-PERM"},
		{autopsy.Container{Entrypoint: []string{"/app"}}, "RUN-NOFILE"},
		{autopsy.Container{Entrypoint: []string{"/removed"}}, "RUN-NOFILE"},
		{autopsy.Container{Entrypoint: []string{"sh"}}, ""},
	} {
		a := autopsy.Examine(l, c.what, amd64)
		got := trysail.DiagnosisCode("")
		if len(a.Findings) > 0 {
			got = a.Findings[0].Code
		}
		if got != c.code || a.Incomplete != "" {
			t.Errorf("%+v: %s, want %s; %q", c.what, got, c.code, a.Incomplete)
		}
	}
}

// TestExamine_SaysNothingOfWhatWasNotSeen: what may be in a layer that could not be read is not missing.
func TestExamine_SaysNothingOfWhatWasNotSeen(t *testing.T) {
	top := read(t, packed(t, regular("app/start.sh", "#!/bin/bash\n"), regular("app/foreign", string(program(elf.EM_AARCH64, "")))))
	l, err := autopsy.Stack([]*autopsy.Index{top, nil})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []autopsy.Container{
		{Entrypoint: []string{"/app/start.sh"}}, {Entrypoint: []string{"/nowhere"}}, {Entrypoint: []string{"/app/start.sh"}, User: "nodejs"}, {Entrypoint: []string{"server"}},
	} {
		if a := autopsy.Examine(l, c, amd64); len(a.Findings) > 0 || a.Incomplete == "" {
			t.Errorf("%v: %+v", c.Entrypoint, a)
		}
	}
}

func TestReadLayer_KeepsToItsBudget(t *testing.T) {
	var many []entry
	for i := range 1000 {
		many = append(many, regular(strings.Repeat("d/", i%50)+strings.Repeat("x", i%100+1), "#!/bin/sh\n"))
	}
	blob := packed(t, many...)
	for _, b := range []autopsy.Budget{{Unpacked: int64(len(blob)) / 2, Memory: 1 << 30}, {Unpacked: 1 << 30, Memory: 10_000}} {
		if _, err := autopsy.ReadLayer(t.Context(), bytes.NewReader(blob), &b); !errors.Is(err, autopsy.ErrTooLarge) {
			t.Errorf("with a budget of %+v: %v", b, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := autopsy.ReadLayer(ctx, bytes.NewReader(blob), budget()); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is canceled: %v", err)
	}
	b := budget()
	x, err := autopsy.ReadLayer(t.Context(), bytes.NewReader(blob), b)
	if err != nil || x.Weight() != 64<<20-b.Memory {
		t.Errorf("it weighs %d, and took %d: %v", x.Weight(), 64<<20-b.Memory, err)
	}
}

// FuzzReadLayer reads whatever comes, and examines it.
func FuzzReadLayer(f *testing.F) {
	f.Add(packed(f, regular("app", string(program(elf.EM_X86_64, musl))), symlink("a", "../../b"), hardlink("c", "app"), regular("d/.wh.x", "")))
	f.Add(packed(f, symlink("a", "a"), symlink("b", "c/d"), symlink("c", "/b"), regular("a/b", "x"), regular("b/x", "y")))
	f.Fuzz(func(t *testing.T, blob []byte) {
		b := &autopsy.Budget{Unpacked: 1 << 20, Memory: 1 << 20}
		x, err := autopsy.ReadLayer(t.Context(), bytes.NewReader(blob), b)
		if err != nil {
			return
		}
		l, err := autopsy.Stack([]*autopsy.Index{x, x, nil})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"/app", "a/b", "c", "sh"} {
			autopsy.Examine(l, autopsy.Container{Entrypoint: []string{name}, User: "app", WorkingDir: "/d"}, amd64)
		}
	})
}
