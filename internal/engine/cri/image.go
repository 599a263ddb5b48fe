package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// pull is a pull under way, which all who want the image wait for.
type pull struct {
	done chan struct{} // closed when err is set
	err  error
}

// Prepare implements engine.Engine. A pull that was begun goes on when its callers stop waiting.
func (e *Engine) Prepare(ctx context.Context, image string) error {
	present, err := e.imagePresent(ctx, image)
	if err != nil || present {
		return err
	}
	p := e.pull(image) //nolint:contextcheck // it serves other callers too
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// imagePresent reports whether the image is on the node, unpacked and ready.
func (e *Engine) imagePresent(ctx context.Context, image string) (bool, error) {
	resp, err := e.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil {
		return false, classifyPull(image, err)
	}
	return resp.Image != nil, nil
}

// pull begins to pull the image, or joins a pull of it that is under way.
func (e *Engine) pull(image string) *pull {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.pulls[image]; p != nil {
		return p
	}
	p := &pull{done: make(chan struct{})}
	e.pulls[image] = p
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.cfg.PullTimeout)
		defer cancel()
		e.wg.Go(func() {
			select {
			case <-e.end:
				cancel()
			case <-p.done:
			}
		})
		_, err := e.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		if err != nil {
			p.err = classifyPull(image, err)
		}
		e.mu.Lock()
		delete(e.pulls, image)
		e.mu.Unlock()
		close(p.done)
	})
	return p
}

// Prune removes the images that no container uses and that are not in keep (names by digest), and returns how many
// bytes that is about. Images being pulled stay.
func (e *Engine) Prune(ctx context.Context, keep []string) (freed int64, err error) {
	images, err := e.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return 0, fmt.Errorf("listing images: %w", err)
	}
	containers, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return 0, fmt.Errorf("listing containers: %w", err)
	}
	// What is kept by name is kept by its digest: one image has many names, with and without docker.io.
	kept := map[string]bool{}
	for _, k := range keep {
		kept[digestOf(k)] = true
	}
	for _, c := range containers.Containers {
		kept[c.ImageRef], kept[c.ImageId], kept[c.GetImage().GetImage()] = true, true, true
	}
	e.mu.Lock()
	for name := range e.pulls {
		kept[digestOf(name)] = true
	}
	e.mu.Unlock()
	var errs []error
	for _, i := range images.Images {
		if i.Pinned || kept[i.Id] || slices.ContainsFunc(i.RepoDigests, func(name string) bool { return kept[name] || kept[digestOf(name)] }) {
			continue
		}
		if _, err := e.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.Id}}); err != nil {
			errs = append(errs, fmt.Errorf("removing an unused image: %w", err))
			continue
		}
		freed += int64(i.Size) //nolint:gosec // no image has 8 EiB
	}
	return freed, errors.Join(errs...)
}

// digestOf returns the digest in a name by digest.
func digestOf(name string) string {
	_, digest, _ := strings.Cut(name, "@")
	return digest
}

// pullRule says what a text in an error of a pull means.
type pullRule struct {
	texts   []string
	code    trysail.DiagnosisCode
	message string // %[1]s is the image, %[2]s its registry
	fix     string
	final   bool
}

// pullRules are tried in order: CRI hands most errors of registries on as prose, with the gRPC code Unknown, and one
// prose may hold the words of several rules.
func pullRules() []pullRule {
	return []pullRule{
		{
			[]string{"no space left on device", "disk quota exceeded"},
			"IMG-DISK",
			"The disk is full, so the image %[1]s cannot be unpacked.", "Free space, or remove unused images.", false,
		},
		{
			[]string{"invalid reference format"},
			"IMG-NAME",
			"%[1]s is not a valid image name.", "Correct the name.", true,
		},
		{
			[]string{"429 Too Many Requests", "toomanyrequests"},
			"IMG-RATE",
			"%[2]s refuses to serve the image %[1]s for now: its limit of pulls is used up.", "Wait, or pull through an account with a higher limit.", false,
		},
		{
			[]string{"no such host", "server misbehaving", "name resolution"},
			"IMG-DNS",
			"This machine cannot resolve the name of the registry %[2]s.", "Check the name and the machine's DNS servers.", false,
		},
		{
			[]string{"x509:", "tls: ", "certificate", "server gave HTTP response to HTTPS client"},
			"IMG-TLS",
			"%[2]s does not show a certificate that this machine trusts.", "Install the registry's CA on this machine, and check the clock.", false,
		},
		{
			[]string{"no match for platform"},
			"IMG-ARCH",
			"The image %[1]s is not offered for this machine's architecture.", "Build it for this architecture: docker buildx build --platform.", true,
		},
		{
			[]string{"short read", "unexpected commit digest", "unexpected commit size", "failed size validation", "unexpected EOF", "invalid checksum", "gzip: ", "zstd: ", "archive/tar", "failed to extract layer", "invalid character", "wrong diff id"},
			"IMG-CORRUPT",
			"The image %[1]s arrived damaged from %[2]s.", "Push it again; if that does not help, look for a proxy on the way.", false,
		},
		{
			[]string{"no basic auth credentials", "repository does not exist", "insufficient_scope"},
			"IMG-REPO",
			"%[2]s says that the repository of %[1]s does not exist or is private.", "Check the spelling, and that the repository is public.", true,
		},
		{
			[]string{"401 Unauthorized", "403 Forbidden", "authorization failed", "failed to fetch oauth token", "failed to fetch anonymous token"},
			"IMG-AUTH",
			"%[2]s refused access to the image %[1]s.", "Check the login.", true,
		},
		{
			[]string{"connection refused", "i/o timeout", "no route to host", "network is unreachable", "connection reset", "TLS handshake timeout", "deadline exceeded", "DeadlineExceeded", "context canceled", "broken pipe", "500 Internal", "502 Bad", "503 Service", "504 Gateway", ": EOF", "proxyconnect"},
			"IMG-NET",
			"No working connection from this machine to the registry %[2]s.", "Check that the registry is up, and firewall, proxy and routes.", false,
		},
		{
			[]string{"not found", "404 Not Found", "manifest unknown"},
			"IMG-REPO",
			"%[2]s does not have the image %[1]s.", "Check the name, and that the image was pushed.", true,
		},
	}
}

// classifyPull turns an error of a pull into one that says what to do. An error of containerd itself, which says nothing
// about the image, stays what it is.
func classifyPull(image string, err error) error {
	st := status.Convert(err)
	if errors.Is(err, engine.ErrUnavailable) || st.Code() == codes.Unavailable || st.Code() == codes.Canceled {
		return fmt.Errorf("pulling %s: %w", image, err)
	}
	text := redact(st.Message())
	cause := errors.New(text)
	if st.Code() == codes.DeadlineExceeded {
		text = "deadline exceeded: " + text
	}
	registry := registryOf(image)
	for _, r := range pullRules() {
		for _, t := range r.texts {
			if strings.Contains(text, t) {
				return &trysail.ImageError{Code: r.code, Image: image, Message: fmt.Sprintf(r.message, image, registry), Fix: r.fix, Final: r.final, Err: cause}
			}
		}
	}
	return &trysail.ImageError{
		Code: "IMG-PULL", Image: image, Message: fmt.Sprintf("The image %s could not be pulled from %s.", image, registry),
		Fix: "See the registry's answer.", Err: cause,
	}
}

// registryOf returns the registry's host in an image name.
func registryOf(image string) string {
	first, _, more := strings.Cut(image, "/")
	if more && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return first
	}
	return "docker.io"
}

// redact cuts the queries off the URLs in a text: a registry that redirects to a store of blobs puts secrets there.
func redact(text string) string {
	var b strings.Builder
	for {
		start := strings.Index(text, "://")
		if start < 0 {
			break
		}
		end := strings.IndexAny(text[start:], " \"\n\t")
		if end < 0 {
			end = len(text) - start
		}
		url := text[:start+end]
		text = text[start+end:]
		scheme := strings.LastIndexAny(url[:start], " \"\n\t") + 1
		if q := strings.IndexByte(url[scheme:], '?'); q >= 0 {
			url = url[:scheme+q] + "?…"
		}
		b.WriteString(url)
	}
	return b.String() + text
}
