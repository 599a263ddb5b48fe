package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes trysail_<version>_linux_<arch>.tar.gz: files in order, all of root, all of the commit's time.
func (r *release) archive(arch string) (err error) {
	files := map[string]string{ // name in the archive → file
		"trysail": r.binary(arch), "LICENSE": "LICENSE", "README.md": "README.md", "CHANGELOG.md": "CHANGELOG.md",
		"trysail.service": "packaging/trysail.service",
	}
	for _, dir := range []string{"man", "completions"} {
		list, err := os.ReadDir(filepath.Join(r.work, dir))
		if err != nil {
			return err
		}
		for _, f := range list {
			files[dir+"/"+f.Name()] = filepath.Join(r.work, dir, f.Name())
		}
	}
	f, err := os.Create(filepath.Join(r.dist, r.fileName("linux_"+arch+".tar.gz")))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := r.add(w, name, files[name]); err != nil {
			return fmt.Errorf("writing the archive: %w", err)
		}
	}
	return errors.Join(w.Close(), z.Close())
}

func (r *release) add(w *tar.Writer, name, file string) error {
	data, err := os.ReadFile(file) //nolint:gosec // our own files
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if name == "trysail" {
		mode = 0o755
	}
	h := &tar.Header{Name: name, Mode: mode, Size: int64(len(data)), ModTime: r.time, Typeflag: tar.TypeReg, Format: tar.FormatPAX, Uname: "root", Gname: "root"}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// sums writes SHA256SUMS, in the form that sha256sum -c reads.
func (r *release) sums() error {
	list, err := os.ReadDir(r.dist)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range list {
		sum, err := fileSum(filepath.Join(r.dist, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, f.Name())
	}
	return os.WriteFile(filepath.Join(r.dist, "SHA256SUMS"), []byte(b.String()), 0o644) //nolint:gosec // it is to be published
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // our own files
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
