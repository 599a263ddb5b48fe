package push

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// spool writes a stream to a temporary file that only we can read, unpacked if it is compressed with gzip.
func (s *Source) spool(r io.Reader) (name string, err error) {
	f, err := os.CreateTemp("", "trysail-push-*.tar") // has mode 0600
	if err != nil {
		return "", err
	}
	s.temp = append(s.temp, f.Name())
	defer func() { err = errors.Join(err, f.Close()) }()
	b := bufio.NewReaderSize(r, 1<<20)
	if isGzip(b) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(f, z)
		return f.Name(), err
	}
	_, err = io.Copy(f, b)
	return f.Name(), err
}

// archive is a tar file whose entries can be read in any order.
type archive struct {
	path    string
	entries map[string]section
}

type section struct {
	offset, size int64
	link         string // the name of the entry that this one stands for
}

// maxEntries bounds the memory for the names in a tar file.
const maxEntries = 100_000

// indexTar reads the headers of a tar file.
func indexTar(file string) (*archive, error) {
	f, err := os.Open(file) //nolint:gosec // the path is the user's
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a := &archive{path: file, entries: map[string]section{}}
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s is not a tar file, or it is damaged: %w", file, err)
		}
		if len(a.entries) >= maxEntries {
			return nil, fmt.Errorf("%s has more than %d entries, so it is no image", file, maxEntries)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			a.entries[name] = section{offset: offset, size: h.Size}
		case tar.TypeSymlink: // old versions of Docker link layers that are the same
			a.entries[name] = section{link: path.Join(path.Dir(name), h.Linkname)} //nolint:gosec // a name within the archive; nothing is extracted
		case tar.TypeLink:
			a.entries[name] = section{link: path.Clean(h.Linkname)}
		}
	}
}

// find follows links.
func (a *archive) find(name string) (section, bool) {
	for range 8 {
		s, ok := a.entries[path.Clean(name)]
		if !ok || s.link == "" {
			return s, ok
		}
		name = s.link
	}
	return section{}, false
}

func (a *archive) has(name string) bool {
	_, ok := a.find(name)
	return ok
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	s, ok := a.find(name)
	if !ok {
		return nil, fmt.Errorf("the image lacks its part %s", name)
	}
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.offset, s.size), f}, nil
}

// openTar reads an image from a tar file: the archive of an OCI layout, or what docker save makes. Newer versions of
// docker save make both in one; the layout is the better one, as its layers are what was pulled or built.
func (s *Source) openTar(file, ref string, o Options) error {
	a, err := indexTar(file)
	if err != nil {
		return err
	}
	switch {
	case a.has("oci-layout") && a.has("index.json"):
		return s.openOCI(a, ref, o)
	case a.has("manifest.json"):
		return s.openDockerArchive(a, ref, o)
	}
	return fmt.Errorf("%s is a tar file but no image: it has neither manifest.json (docker save) nor index.json (OCI)", file)
}

// readSmall reads a file of metadata.
func readSmall(files blobs, name string) ([]byte, error) {
	r, err := files.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	const most = 8 << 20
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return data, err
}

// shorten makes a digest readable.
func shorten(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(len(hex), 12)]
}
