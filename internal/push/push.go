// Package push reads an image from wherever people have it (Docker, Podman, a tar file, an OCI layout) and sends it to a
// registry.
//
//	Open ─▶ Source (an image or an index, its blobs still where they were) ─▶ Source.Push ─▶ digest
package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Source is an image that can be pushed. Close it when that is done.
type Source struct {
	// From says where the image was found, such as "the Docker daemon at unix:///var/run/docker.sock".
	From string
	// One of the two is set: the image, or the index of several images.
	image v1.Image
	index v1.ImageIndex

	temp []string // files to remove
}

// Close removes what was written to disk in between.
func (s *Source) Close() error {
	var errs []error
	for _, f := range s.temp {
		errs = append(errs, os.RemoveAll(f))
	}
	return errors.Join(errs...)
}

// Target is a repository that is pushed to.
type Target struct {
	Repository string // host[:port]/name
	Username   string
	Password   string
	// Transport makes the connections. Nil means the standard one.
	Transport http.RoundTripper
	// Insecure allows plain HTTP.
	Insecure bool
}

// Progress is how far a push is, in bytes.
type Progress struct{ Done, Total int64 }

// jobs is how many blobs are sent at the same time.
const jobs = 4

// Push sends the image and returns its digest. What the registry has already is not sent again. report, which may be
// nil, is called now and then.
func (s *Source) Push(ctx context.Context, to Target, report func(Progress)) (digest string, err error) {
	var opts []name.Option
	if to.Insecure {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(to.Repository, opts...)
	if err != nil {
		return "", fmt.Errorf("reading the name of the registry: %w", err)
	}
	hash, err := s.digest()
	if err != nil {
		return "", err
	}
	updates, done := make(chan v1.Update, 16), make(chan struct{})
	go func() {
		defer close(done)
		for u := range updates {
			if report != nil && u.Error == nil {
				report(Progress{u.Complete, u.Total})
			}
		}
	}()
	ref := repo.Digest(hash.String())
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: to.Username, Password: to.Password}),
		remote.WithJobs(jobs), remote.WithProgress(updates), remote.WithUserAgent("trysail"),
	}
	if to.Transport != nil {
		options = append(options, remote.WithTransport(to.Transport))
	}
	if s.index != nil {
		err = remote.WriteIndex(ref, s.index, options...)
	} else {
		err = remote.Write(ref, s.image, options...)
	}
	<-done // the library has closed the channel
	if err != nil {
		return "", fmt.Errorf("pushing to %s: %w", repo.RegistryStr(), err)
	}
	return hash.String(), nil
}

func (s *Source) digest() (v1.Hash, error) {
	if s.index != nil {
		return s.index.Digest()
	}
	return s.image.Digest()
}

// Platforms lists what the image can run on, as "linux/amd64".
func (s *Source) Platforms() ([]string, error) {
	if s.index == nil {
		p, err := platformOf(s.image)
		return []string{p}, err
	}
	m, err := s.index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, d := range m.Manifests {
		if p := describe(d.Platform); p != "" {
			list = append(list, p)
		}
	}
	return list, nil
}

// describe is "" for entries that nothing runs on, such as attestations.
func describe(p *v1.Platform) string {
	if p == nil || p.OS == "" || p.OS == "unknown" {
		return ""
	}
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

func platformOf(img v1.Image) (string, error) {
	c, err := img.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("reading the image's configuration: %w", err)
	}
	os, arch := c.OS, c.Architecture
	if os == "" {
		os = "linux"
	}
	if arch == "" {
		arch = runtime.GOARCH
	}
	return describe(&v1.Platform{OS: os, Architecture: arch, Variant: c.Variant}), nil
}

// choose reduces an index to what can be pushed, and to the platform that was asked for, if any.
func (s *Source) choose(platform string, present func(v1.Hash) bool) error {
	if s.index == nil {
		return s.requirePlatform(platform)
	}
	m, err := s.index.IndexManifest()
	if err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	var images, all []v1.Descriptor
	for _, d := range m.Manifests {
		if !present(d.Digest) {
			continue // daemons save the index of all platforms with the content of those they have
		}
		all = append(all, d)
		if p := describe(d.Platform); (d.Platform == nil || p != "") && (platform == "" || matches(p, platform)) {
			images = append(images, d)
		}
	}
	switch {
	case len(images) == 0 && platform != "":
		offers, err := s.Platforms()
		return errors.Join(fmt.Errorf("the image is not there for %s; it offers %s", platform, strings.Join(offers, ", ")), err)
	case len(images) == 0:
		return errors.New("the index names no image whose content is there")
	case len(all) == len(m.Manifests) && platform == "":
		return s.requireLinux()
	case platform != "" || len(images) == 1:
		return s.pick(images[0])
	}
	return fmt.Errorf("only some of the image's platforms are there (%d of %d); choose one with --platform", len(all), len(m.Manifests))
}

// pick makes one entry of the index the image.
func (s *Source) pick(d v1.Descriptor) (err error) {
	index := s.index
	if d.MediaType.IsIndex() {
		s.index, err = index.ImageIndex(d.Digest)
	} else {
		s.index = nil
		s.image, err = index.Image(d.Digest)
	}
	if err != nil {
		return fmt.Errorf("reading the image %s of the index: %w", d.Digest, err)
	}
	return s.requireLinux()
}

func (s *Source) requirePlatform(platform string) error {
	have, err := platformOf(s.image)
	if err != nil {
		return err
	}
	if platform != "" && !matches(have, platform) {
		return fmt.Errorf("the image is for %s, not for %s", have, platform)
	}
	return s.requireLinux()
}

// requireLinux refuses what can run on no Trysail before it is sent anywhere.
func (s *Source) requireLinux() error {
	list, err := s.Platforms()
	if err != nil {
		return err
	}
	for _, p := range list {
		if strings.HasPrefix(p, "linux/") {
			return nil
		}
	}
	if len(list) == 0 {
		return nil // an index that does not say; the registry looks into the images
	}
	return fmt.Errorf("the image is for %s; containers here run on Linux", strings.Join(list, ", "))
}

// matches reports whether a platform is the wanted one, of which the variant may be left out.
func matches(have, want string) bool {
	return have == want || strings.HasPrefix(have, want+"/")
}
