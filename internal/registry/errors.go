package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"github.com/trysail/trysail/internal/store"
)

// code is an error code of the OCI distribution specification.
type code string

const (
	codeBlobUnknown         code = "BLOB_UNKNOWN"
	codeUploadInvalid       code = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       code = "BLOB_UPLOAD_UNKNOWN"
	codeDenied              code = "DENIED"
	codeDigestInvalid       code = "DIGEST_INVALID"
	codeManifestBlobUnknown code = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     code = "MANIFEST_INVALID"
	codeManifestUnknown     code = "MANIFEST_UNKNOWN"
	codeNameUnknown         code = "NAME_UNKNOWN"
	codeSizeInvalid         code = "SIZE_INVALID"
	codeTooMany             code = "TOOMANYREQUESTS"
	codeUnauthorized        code = "UNAUTHORIZED"
	codeUnsupported         code = "UNSUPPORTED"
	codeUnknown             code = "UNKNOWN" // not of the specification; what other registries say of their own faults
)

// status is the usual HTTP status of a code.
func (c code) status() int {
	switch c {
	case codeBlobUnknown, codeUploadUnknown, codeManifestUnknown, codeNameUnknown, codeManifestBlobUnknown:
		return http.StatusNotFound
	case codeUploadInvalid:
		return http.StatusRequestedRangeNotSatisfiable
	case codeDenied:
		return http.StatusForbidden
	case codeTooMany:
		return http.StatusTooManyRequests
	case codeUnauthorized:
		return http.StatusUnauthorized
	case codeUnknown:
		return http.StatusInternalServerError
	default:
		return http.StatusBadRequest
	}
}

// clientError is an error whose text the client gets.
type clientError struct {
	code    code
	message string
	status  int // 0: that of the code
}

func (e *clientError) Error() string { return string(e.code) + ": " + e.message }

func errorf(c code, format string, args ...any) error {
	return &clientError{code: c, message: fmt.Sprintf(format, args...)}
}

// errFull is what a client gets when the disk is full. Docker and Podman show the text of an answer only when its status
// is 4xx, and try again at 507: so it is 403.
func errFull(available int64) error {
	return errorf(codeDenied, "the disk of the registry is full: %d MiB are left. Nothing of what it holds was lost. Free some room and push again", available>>20)
}

// clip shortens what a client sent for an error text.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// answerError answers with an error. What is not for clients is logged.
func (r *Registry) answerError(w http.ResponseWriter, req *http.Request, err error) {
	e, ok := errors.AsType[*clientError](err)
	switch {
	case ok:
	case isFull(err):
		e, _ = errors.AsType[*clientError](errFull(r.available()))
		r.cfg.Log.WarnContext(req.Context(), "a push was refused because the disk is full", "method", req.Method, "path", req.URL.Path, "error", err)
	case errors.Is(err, store.ErrUnavailable):
		e = &clientError{code: codeUnknown, message: "the database of the registry is not available at the moment; try again", status: http.StatusServiceUnavailable}
	case req.Context().Err() != nil || errors.Is(err, errClientGone):
		// Nobody is there to read it, but the connection may still be: it gets an end.
		e = &clientError{code: codeUploadInvalid, message: "the request ended before its body", status: http.StatusBadRequest}
	default:
		r.cfg.Log.ErrorContext(req.Context(), "serving the registry", "method", req.Method, "path", req.URL.Path, "error", err)
		e = &clientError{code: codeUnknown, message: "internal error; the server's log says more"}
	}
	type wireError struct {
		Code    code   `json:"code"`
		Message string `json:"message"`
	}
	body, _ := json.Marshal(map[string][]wireError{"errors": {{e.code, e.message}}}) // cannot fail: strings only
	status := e.status
	if status == 0 {
		status = e.code.status()
	}
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Range", "ETag", "Accept-Ranges"} {
		h.Del(name) // what a success would have had
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that is gone misses nothing
	}
}

// errClientGone wraps what reading a request's body said: the client left, or stalled.
var errClientGone = errors.New("the client is gone")

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, store.ErrFull)
}

// readBody reads a body of at most limit bytes.
func readBody(req *http.Request, limit int64) ([]byte, error) {
	tooLarge := &clientError{code: codeSizeInvalid, status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("a manifest may have at most %d bytes", limit)}
	if req.ContentLength > limit {
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(req.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errClientGone, err)
	}
	if int64(len(b)) > limit {
		return nil, tooLarge
	}
	return b, nil
}

// mustBeThere turns what the store says of something absent into the client's error.
func mustBeThere(err error, c code, format string, args ...any) error {
	if errors.Is(err, store.ErrNotFound) {
		return errorf(c, format, args...)
	}
	return err
}

// isTag reports whether a reference is the name of a tag.
func isTag(s string) bool {
	const word = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	return s != "" && len(s) <= 128 && strings.Trim(s, word+".-") == "" && s[0] != '.' && s[0] != '-'
}
