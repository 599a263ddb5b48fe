package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// deb is a Debian package that the image has files of. The lock names its checksum, so neither the mirror nor the way to
// it has to be trusted.
type deb struct {
	arch, name, version, sum string
	path                     string // below the mirror
}

// lock is packaging/image/packages.lock.
type lock struct {
	snapshot string // when it was made, as snapshot.debian.org writes it
	debs     []deb
}

func readLock(file string) (l lock, err error) {
	text, err := os.ReadFile(file) //nolint:gosec // our own file
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
		case len(f) == 2 && f[0] == "snapshot":
			l.snapshot = f[1]
		case len(f) == 5 && len(f[3]) == hex.EncodedLen(sha256.Size):
			l.debs = append(l.debs, deb{f[0], f[1], f[2], f[3], f[4]})
		default:
			return l, fmt.Errorf("%s: cannot read the line %q", file, strings.TrimSpace(line))
		}
	}
	return l, nil
}

// urls are where the package may be: Debian's mirrors have the newest version only, the snapshots every one.
func (l lock) urls(d deb, mirror string) []string {
	archive, rest, _ := strings.Cut(d.path, "/")
	return []string{mirror + "/" + d.path, "https://snapshot.debian.org/archive/" + archive + "/" + l.snapshot + "/" + rest}
}

// fetch returns the file of the package, out of the cache if it is there.
func (l lock) fetch(ctx context.Context, d deb, mirror, cache string) (string, error) {
	file := filepath.Join(cache, d.sum+".deb")
	if sum, err := fileSum(file); err == nil && sum == d.sum {
		return file, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // nothing secret
		return "", err
	}
	var errs []error
	for _, url := range l.urls(d, mirror) {
		content, err := get(ctx, url)
		if sum := sha256.Sum256(content); err == nil && hex.EncodeToString(sum[:]) != d.sum {
			err = fmt.Errorf("%s has another checksum than packages.lock says", url)
		}
		if err == nil {
			return file, replace(file, content)
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("fetching %s (packaging/image/update.sh looks for newer versions): %w", d.name, errors.Join(errs...))
}

// maxPackage bounds what is read from a mirror, in bytes.
const maxPackage = 64 << 20

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxPackage))
}

// replace writes a file so that others see all of it or nothing.
func replace(file string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // unless it has been renamed
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// certificates is where Debian's package has the roots, one per file; update-ca-certificates makes bundle of them.
const (
	certificates = "usr/share/ca-certificates/mozilla/"
	bundle       = "etc/ssl/certs/ca-certificates.crt"
)

// wanted reports whether a file of a package comes into the image: programs, what they are linked with, roots of trust, and
// under which terms all of it is given.
func wanted(name string) bool {
	switch dir, base := path.Split(name); {
	case strings.HasPrefix(name, "usr/share/doc/"):
		return base == "copyright" && strings.Count(name, "/") == 4
	case strings.HasPrefix(name, "usr/lib/cni/"):
		return base == "bridge" || base == "host-local"
	case strings.HasPrefix(name, certificates):
		return true
	case name == "usr/sbin/runc" || name == "usr/sbin/xtables-nft-multi":
		return true
	case strings.HasSuffix(dir, "/xtables/"): // what rules are made of
		return base == "libxt_standard.so"
	case strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "usr/lib/"):
		// Of the C library only what programs of that kind load, and the loader.
		return !strings.Contains(dir, "/gconv/") && slices.ContainsFunc(
			[]string{"ld-linux", "libc.so.", "libpthread.so.", "libdl.so.", "libresolv.so.", "libseccomp.so.", "libmnl.so.", "libnftnl.so.", "libxtables.so."},
			func(prefix string) bool { return strings.HasPrefix(base, prefix) })
	}
	return false
}

// unpack adds what is wanted of a package to files.
func unpack(ctx context.Context, file string, files map[string]entry) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file) //nolint:gosec // our own arguments
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("unpacking %s: %w\n%s", file, err, &stderr)
	}
	r := tar.NewReader(bytes.NewReader(out))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", file, err)
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if !wanted(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			content, err := io.ReadAll(r)
			if err != nil {
				return fmt.Errorf("unpacking %s: %w", file, err)
			}
			files[name] = entry{mode: fs.FileMode(h.Mode).Perm(), content: content} //nolint:gosec // permission bits
		case tar.TypeSymlink:
			files[name] = entry{link: h.Linkname}
		}
	}
}

// bundleCertificates makes the one file with all roots out of those of the package.
func bundleCertificates(files map[string]entry) {
	var names []string
	for name := range files {
		if strings.HasPrefix(name, certificates) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []byte
	for _, name := range names {
		all = append(append(all, bytes.TrimSpace(files[name].content)...), '\n')
		delete(files, name)
	}
	files[bundle] = entry{mode: 0o644, content: all}
}
