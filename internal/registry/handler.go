package registry

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

const base = "/v2/" + Repository

// routes makes the handler of everything under /v2/.
func (r *Registry) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, fn := range map[string]endpoint{
		"GET /v2/{$}":      ping,
		"GET /v2":          ping,
		"GET /v2/_catalog": r.listRepositories,

		"GET " + base + "/blobs/{digest}":    r.getBlob, // and HEAD
		"DELETE " + base + "/blobs/{digest}": r.deleteBlob,

		"POST " + base + "/blobs/uploads/{$}":    r.postUpload,
		"POST " + base + "/blobs/uploads":        r.postUpload,
		"GET " + base + "/blobs/uploads/{id}":    r.getUpload,
		"PATCH " + base + "/blobs/uploads/{id}":  r.patchUpload,
		"PUT " + base + "/blobs/uploads/{id}":    r.putUpload,
		"DELETE " + base + "/blobs/uploads/{id}": r.deleteUpload,

		"GET " + base + "/manifests/{reference}":    r.getManifest, // and HEAD
		"PUT " + base + "/manifests/{reference}":    r.putManifest,
		"DELETE " + base + "/manifests/{reference}": r.deleteManifest,
		"GET " + base + "/tags/list":                r.listTags,
		"GET " + base + "/referrers/{digest}":       r.listReferrers,

		"/": nowhere,
	} {
		mux.Handle(pattern, r.serve(fn))
	}
	return r.authenticated(mux)
}

// endpoint is a handler that may return an error instead of answering.
type endpoint func(x *exchange, req *http.Request) error

// serve makes a handler of an endpoint.
func (r *Registry) serve(fn endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		x := r.newExchange(w, req)
		if err := fn(x, req); err != nil {
			r.answerError(x, req, err)
		}
	})
}

// ping answers who asks whether this is a registry, and whether a login is valid.
func ping(*exchange, *http.Request) error { return nil }

// nowhere answers what no other endpoint does.
func nowhere(_ *exchange, req *http.Request) error {
	if strings.HasPrefix(req.URL.Path, base+"/") {
		return &clientError{code: codeUnsupported, status: http.StatusMethodNotAllowed, message: "there is no " + req.Method + " " + clip(req.URL.Path) + " here"}
	}
	return errorf(codeNameUnknown, "there is only one repository here, and its name is %q", Repository)
}

// authenticated lets through who has a valid login.
func (r *Registry) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		err := r.checkLogin(req)
		if err == nil {
			next.ServeHTTP(w, req)
			return
		}
		if e, ok := errors.AsType[*clientError](err); ok && e.code == codeUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="Trysail registry", charset="UTF-8"`)
		}
		r.answerError(w, req, err)
	})
}

// checkLogin looks for a login. Passwords are 256 random bits and found by their hash, so neither their text nor the time
// that the search takes tells anything. Error: UNAUTHORIZED.
func (r *Registry) checkLogin(req *http.Request) error {
	const howTo = "make one with: aws lightsail create-container-service-registry-login"
	user, password, ok := req.BasicAuth()
	if !ok {
		return errorf(codeUnauthorized, "a login is needed: %s", howTo)
	}
	hash := sha256.Sum256([]byte(password))
	var expires, now time.Time
	var key store.AccessKey
	err := r.cfg.Store.View(req.Context(), func(tx *store.Tx) error {
		now = tx.Now()
		id, until, err := tx.Login(hash[:])
		if err != nil {
			return err
		}
		expires = until
		key, err = tx.Key(id)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && user != Username:
		return errorf(codeUnauthorized, "this login is wrong, or it expired long ago: %s", howTo)
	case err != nil:
		return err
	case !now.Before(expires):
		return errorf(codeUnauthorized, "this login expired at %s, make a new one with: aws lightsail create-container-service-registry-login", expires.UTC().Format(time.RFC3339))
	}
	return mayRequest(key, req)
}

// mayRequest refuses what the login's access key has no right to. All services share one repository: who may deploy
// needs to push to it, and to pull by digests and tags that it knows, but not to list or remove what others have pushed.
// Error: DENIED.
func mayRequest(key store.AccessKey, req *http.Request) error {
	if key.Role == trysail.RoleAdmin && len(key.Services) == 0 {
		return nil
	}
	isUpload := strings.HasPrefix(req.URL.Path, base+"/blobs/uploads/")
	lists := strings.HasSuffix(req.URL.Path, "/_catalog") || strings.HasSuffix(req.URL.Path, "/tags/list") || strings.Contains(req.URL.Path, "/referrers/")
	removes := req.Method == http.MethodDelete && !isUpload
	if !key.Role.Includes(trysail.RoleDeploy) || lists || removes {
		return &clientError{code: codeDenied, status: http.StatusForbidden, message: "the access key of this login (role " + string(key.Role) + ") may push and pull, but not list or delete"}
	}
	return nil
}
