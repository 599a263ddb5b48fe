package kube

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// pulls is where the cluster's nodes get images from: all from us, whatever registry they come from. So logins, mirrors
// and trusted authorities are set in one place, and what is wrong with an image is found before anything is started.
//
// Images are named by digest, so only whole and verified content is ever served.
type pulls struct {
	images   engine.Images
	host     string
	password string
	layers   *layers

	mu    sync.Mutex        // guards all below
	blobs map[string]source // by digest, of the manifests that were asked for
	users map[string]string // of images by name, as their configuration has it
	// supplies are the images that are here at the moment, by name.
	supplies map[string]*supply
}

// source is where a blob comes from.
type source struct {
	image string
	blob  engine.Descriptor
}

const (
	pullUser     = "trysail"
	passwordFile = "pull-password"
	// maxKnown bounds the blobs and the images that are remembered. What is forgotten is asked for again.
	maxKnown = 20_000
	// maxConfig bounds the configuration of an image, in bytes.
	maxConfig = 8 << 20
)

func newPulls(cfg Config) (*pulls, error) {
	password := cfg.PullPassword
	if password == "" {
		var err error
		if password, err = keptPassword(filepath.Join(cfg.Dir, passwordFile)); err != nil {
			return nil, fmt.Errorf("the password of the nodes: %w", err)
		}
	}
	return &pulls{
		images: cfg.Images, host: cfg.Registry, password: password, layers: newLayers(),
		blobs: map[string]source{}, users: map[string]string{}, supplies: map[string]*supply{},
	}, nil
}

// keptPassword is the one in the file, which is made if there is none.
func keptPassword(file string) (string, error) {
	password, err := os.ReadFile(file) //nolint:gosec // within the engine's directory
	if errors.Is(err, fs.ErrNotExist) {
		password = []byte(rand.Text())
		err = os.WriteFile(file, password, 0o600)
	}
	return string(password), err
}

// pullLogins is what a pull secret holds.
type pullLogins struct {
	Auths map[string]pullLogin `json:"auths"`
}

type pullLogin struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// maxPullHosts bounds how many addresses of servers nodes have the password for.
const maxPullHosts = 100

// applyPullSecret gives the nodes the password, for this server beside those that have the same.
func (e *Engine) applyPullSecret(ctx context.Context) error {
	have := &corev1.Secret{}
	err := e.api.core.Get().Namespace(e.api.namespace).Resource("secrets").Name(pullSecret).Do(ctx).Into(have)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading the password for images that the nodes have: %w", e.api.explain(err))
	}
	var logins pullLogins
	_ = json.Unmarshal(have.Data[corev1.DockerConfigJsonKey], &logins) // what is no login of ours is replaced
	ours := pullLogin{pullUser, e.pulls.password}
	maps.DeleteFunc(logins.Auths, func(_ string, l pullLogin) bool { return l != ours })
	if logins.Auths == nil || len(logins.Auths) >= maxPullHosts {
		logins.Auths = map[string]pullLogin{}
	}
	logins.Auths[e.cfg.Registry] = ours
	auth, err := json.Marshal(logins)
	if err != nil {
		return fmt.Errorf("encoding the pull secret: %w", err)
	}
	err = e.api.apply(ctx, e.api.core, "secrets", &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			// Of two servers that do this at a time, the second one meets a conflict and reads again.
			Name: pullSecret, ResourceVersion: have.ResourceVersion, Labels: map[string]string{labelManagedBy: manager, labelPartOf: manager}, OwnerReferences: e.owner.references(),
		},
		Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: auth},
	})
	if err != nil {
		return fmt.Errorf("giving the nodes the password for images: %w", err)
	}
	return nil
}

// name is the name by which nodes know the image: ours, with the whole name of the image as its repository.
func (p *pulls) name(image string) string {
	first, rest, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(first, ".:") && first != "localhost" {
		first, rest = "docker.io", image
	}
	return p.host + "/" + strings.Replace(first, ":", "__", 1) + "/" + rest
}

// imageOf is the image behind a repository of ours and a digest.
func imageOf(repository, digest string) string {
	host, rest, _ := strings.Cut(repository, "/")
	return strings.Replace(host, "__", ":", 1) + "/" + rest + "@" + digest
}

// unprivileged reports whether none of the images runs as root, as far as that can be told without looking into them.
func (e *Engine) unprivileged(ctx context.Context, spec trysail.PodSpec) (bool, error) {
	for _, c := range spec.Containers {
		user, err := e.pulls.user(ctx, c.Image)
		if err != nil {
			return false, err
		}
		name, _, _ := strings.Cut(user, ":")
		if id, err := strconv.Atoi(name); err != nil || id == 0 {
			return false, nil //nolint:nilerr // a user by name may be root
		}
	}
	return true, nil
}

// user is whom the image's configuration wants the program to run as. Errors: *trysail.ImageError, or that of ctx.
func (p *pulls) user(ctx context.Context, image string) (string, error) {
	p.mu.Lock()
	user, known := p.users[image]
	p.mu.Unlock()
	if known {
		return user, nil
	}
	s, err := p.describe(ctx, image)
	if err != nil {
		return "", err
	}
	p.know(image, s.config.Config.User)
	return s.config.Config.User, nil
}

// know remembers the user of an image.
func (p *pulls) know(image, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.users) >= maxKnown {
		clear(p.users)
	}
	p.users[image] = user
}

func damaged(image string, err error) error {
	return &trysail.ImageError{
		Code: "IMG-CORRUPT", Image: image, Message: "The manifest or the configuration of " + image + " cannot be read.",
		Fix: "Build and push the image again.", Final: true, Err: err,
	}
}

// descriptors lists what a manifest consists of.
func descriptors(manifest []byte) (config engine.Descriptor, layers []engine.Descriptor, err error) {
	var m struct {
		Config engine.Descriptor   `json:"config"`
		Layers []engine.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return config, nil, err
	}
	if m.Config.Digest == "" {
		return config, nil, errors.New("the manifest names no configuration")
	}
	return m.Config, m.Layers, nil
}

// PullHandler serves images to the nodes, at Config.Registry: the part of the registry protocol that pulling needs.
func (e *Engine) PullHandler() http.Handler { return e.pulls }

// ServeHTTP implements http.Handler.
func (p *pulls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if user != pullUser || subtle.ConstantTimeCompare([]byte(password), []byte(p.password)) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="trysail"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "log in with the secret "+pullSecret)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "images can only be pulled here")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if ok && path == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	if repository, digest, found := cutLast(path, "/manifests/"); ok && found {
		p.serveManifest(w, r, imageOf(repository, digest), digest)
		return
	}
	if _, digest, found := cutLast(path, "/blobs/"); ok && found {
		p.serveBlob(w, r, digest)
		return
	}
	refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such resource")
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

// refuseError answers why an image cannot be had.
func refuseError(w http.ResponseWriter, code string, err error) {
	status := http.StatusBadGateway
	if e, ok := errors.AsType[*trysail.ImageError](err); ok && e.Final {
		status = http.StatusNotFound
	}
	refuse(w, status, code, err.Error())
}

func (p *pulls) serveManifest(w http.ResponseWriter, r *http.Request, image, digest string) {
	if !strings.HasPrefix(digest, "sha256:") {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "images are named by digest here")
		return
	}
	var (
		kind    string
		content []byte
		err     error
	)
	if s := p.held(image); s != nil {
		kind, content = s.kind, s.manifest
	} else if kind, content, err = p.images.Manifest(r.Context(), image); err != nil {
		refuseError(w, "MANIFEST_UNKNOWN", err)
		return
	}
	config, layers, err := descriptors(content)
	if err != nil {
		refuseError(w, "MANIFEST_INVALID", damaged(image, err))
		return
	}
	p.mu.Lock()
	if len(p.blobs) >= maxKnown {
		clear(p.blobs)
	}
	for _, d := range append(layers, config) {
		p.blobs[d.Digest] = source{image, d}
	}
	p.mu.Unlock()
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(content) //nolint:gosec // a manifest, with the type that says so
	}
}

func (p *pulls) serveBlob(w http.ResponseWriter, r *http.Request, digest string) {
	p.mu.Lock()
	s, known := p.blobs[digest]
	p.mu.Unlock()
	if !known {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "ask for the manifest first")
		return
	}
	file, err := p.images.Blob(r.Context(), s.image, s.blob, nil)
	if err != nil {
		refuseError(w, "BLOB_UNKNOWN", err)
		return
	}
	defer file.Release()
	f, err := os.Open(file.Path)
	if err != nil {
		refuseError(w, "BLOB_UNKNOWN", err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		refuseError(w, "BLOB_UNKNOWN", err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, r, "", info.ModTime(), f)
}
