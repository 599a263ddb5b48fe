package kit

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// debian is the tree of unpacked Debian packages. Its symbolic links may be absolute: they mean a path inside of it.
type debian struct{ root string }

func openDebian() (debian, error) {
	cache, err := Cache()
	if err != nil {
		return debian{}, err
	}
	root := filepath.Join(cache, "debian")
	if _, err := os.Stat(root); err != nil {
		return debian{}, fmt.Errorf("finding the Debian programs (run scripts/setup.sh test): %w", err)
	}
	return debian{root}, nil
}

// MachineFiles returns programs of this machine with the loader and the libraries that they name, as files of an image.
// Their packages are what scripts/setup.sh installs or what every Debian has.
func MachineFiles(programs ...string) (map[string]File, error) {
	return debian{"/"}.load(programs...)
}

// file follows links and returns the path, on this machine, of the file that the packages call name.
func (d debian) file(name string) (string, error) {
	for range 10 {
		path := filepath.Join(d.root, name)
		info, err := os.Lstat(path)
		if err != nil {
			return "", fmt.Errorf("looking for a Debian file: %w", err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return path, nil
		}
		target, err := os.Readlink(path)
		if err != nil {
			return "", fmt.Errorf("looking for a Debian file: %w", err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(name), target)
		}
		name = target
	}
	return "", fmt.Errorf("looking for a Debian file: too many links at %s", name)
}

// program returns everything the programs need to run, as image path → path on this machine: the programs themselves,
// the dynamic loader and all shared libraries they name, and the libraries those name.
func (d debian) program(names ...string) (map[string]string, error) {
	files := make(map[string]string)
	todo := slices.Clone(names)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if _, done := files[name]; done {
			continue
		}
		path, err := d.file(name)
		if err != nil {
			return nil, err
		}
		files[name] = path
		needed, err := d.needed(path)
		if err != nil {
			return nil, err
		}
		todo = append(todo, needed...)
	}
	return files, nil
}

// needed lists the image paths of the loader and the libraries that the ELF file at path names.
func (d debian) needed(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a Debian program: %w", err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("reading the libraries of %s: %w", path, err)
	}
	var names []string
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("reading the loader of %s: %w", path, err)
		}
		names = append(names, strings.TrimRight(string(b), "\x00"))
	}
	for _, lib := range libs {
		if strings.HasPrefix(lib, "ld-linux") {
			continue // the loader is there already
		}
		name, err := d.library(lib)
		if err != nil {
			return nil, fmt.Errorf("%w (wanted by %s)", err, path)
		}
		names = append(names, name)
	}
	return names, nil
}

func (d debian) library(lib string) (string, error) {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	for _, dir := range []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib", "/usr/lib"} {
		name := dir + "/" + lib
		if _, err := os.Lstat(filepath.Join(d.root, name)); err == nil {
			return name, nil
		}
	}
	return "", errors.New(lib + " is in none of the packages that scripts/setup.sh unpacks")
}
