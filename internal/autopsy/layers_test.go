package autopsy_test

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/autopsy"
)

// layer makes a directory with files in it. The content "whiteout" makes a file that hides what is below, and a name
// that ends with / an opaque directory.
func layer(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case name[len(name)-1] == '/':
			if err = os.MkdirAll(path, 0o755); err == nil {
				err = unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0)
			}
		case content == "whiteout":
			err = unix.Mknod(path, unix.S_IFCHR, 0)
		case len(content) > 3 && content[:3] == "-> ":
			err = os.Symlink(content[3:], path)
		default:
			err = os.WriteFile(path, []byte(content), 0o755)
		}
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTSUP) {
			t.Skip("layers cannot be made here:", err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, dirs ...string) *autopsy.Layered {
	t.Helper()
	l, err := autopsy.Layers(dirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLayers_ShowWhatOverlayfsShows(t *testing.T) {
	outside := layer(t, map[string]string{"secret": "no"})
	lower := layer(t, map[string]string{
		"a/one": "1", "a/two": "2", "b/old": "x", "c": "file", "d/e/f": "x", "gone/x": "x", "kept": "k", "out": "-> " + outside,
	})
	upper := layer(t, map[string]string{"a/two": "whiteout", "a/three": "3", "b/": "", "b/new": "y", "c/inner": "z", "d": "now a file", "gone": "whiteout"})
	l := open(t, upper, lower)
	for name, want := range map[string]string{
		"a/one": "1", "a/two": "", "a/three": "3", "b/old": "", "b/new": "y", "c/inner": "z", "d": "now a file", "d/e/f": "", "gone/x": "", "gone": "",
		"kept": "k", "../x": "", "out/secret": "",
	} {
		b, err := fs.ReadFile(l, name)
		if want == "" && err == nil {
			t.Errorf("%s is visible: %q", name, b)
		}
		if want != "" && string(b) != want {
			t.Errorf("%s: %q, %v; want %q", name, b, err, want)
		}
	}
	entries, err := fs.ReadDir(l, "a")
	if err != nil || len(entries) != 2 || entries[0].Name() != "one" || entries[1].Name() != "three" {
		t.Errorf("the merged directory has %v, %v", entries, err)
	}
	if target, err := l.ReadLink("out"); err != nil || target != outside {
		t.Errorf("the link points to %q, %v", target, err)
	}
	if _, err := l.Open("out"); err == nil {
		t.Error("a symbolic link was opened")
	}
}

func TestLayers_NeverOpenAPipe(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Open("pipe"); err == nil {
		t.Error("a pipe was opened")
	}
}

func TestExamine_LinksStayInTheImage(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, layer(t, map[string]string{"app": "-> " + self, "up": "-> ../../../../../../../../../../.." + self, "bin/real": string(program(elf.EM_X86_64, ""))}))
	for _, name := range []string{"/app", "/up"} {
		a := autopsy.Examine(l, autopsy.Container{Entrypoint: []string{name}}, amd64)
		if len(a.Findings) != 1 || a.Findings[0].Code != "RUN-NOFILE" || a.Findings[0].Confidence != trysail.Certain {
			t.Errorf("%s leads out of the image: %+v", name, a)
		}
	}
	if a := autopsy.Examine(l, autopsy.Container{Entrypoint: []string{"/../../bin/real"}}, amd64); len(a.Findings) > 0 {
		t.Errorf("%+v", a.Findings)
	}
}

// TestExamine_RealProgram examines a real program with a real file system: the test itself.
func TestExamine_RealProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, "/")
	a := autopsy.Examine(l, autopsy.Container{Entrypoint: []string{self}}, autopsy.Machine{})
	if len(a.Findings) > 0 || a.Kind != "elf" || a.Architecture == "" {
		t.Errorf("%+v", a)
	}
}

func BenchmarkExamine(b *testing.B) {
	l, err := autopsy.Layers([]string{"/"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c := autopsy.Container{Entrypoint: []string{"pyton3"}, User: "nobody", WorkingDir: "/usr"}
	for b.Loop() {
		autopsy.Examine(l, c, amd64)
	}
}
