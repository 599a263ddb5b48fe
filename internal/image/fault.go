package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/trysail/trysail"
)

// The codes that this package gives.
const (
	codeName    trysail.DiagnosisCode = "IMG-NAME"
	codeRepo    trysail.DiagnosisCode = "IMG-REPO"
	codeTag     trysail.DiagnosisCode = "IMG-TAG"
	codeAuth    trysail.DiagnosisCode = "IMG-AUTH"
	codeRate    trysail.DiagnosisCode = "IMG-RATE"
	codeDNS     trysail.DiagnosisCode = "IMG-DNS"
	codeNet     trysail.DiagnosisCode = "IMG-NET"
	codeTLS     trysail.DiagnosisCode = "IMG-TLS"
	codeArch    trysail.DiagnosisCode = "IMG-ARCH"
	codeSlow    trysail.DiagnosisCode = "IMG-SLOW"
	codeCorrupt trysail.DiagnosisCode = "IMG-CORRUPT"
	codeDisk    trysail.DiagnosisCode = "IMG-DISK"
)

// fault says what an error means. What the registry said of the image comes before what the network did.
func (q *query) fault(ctx context.Context, err error) *trysail.ImageError {
	f := q.answerFault(ctx, err)
	if f == nil {
		f = q.networkFault(ctx, err)
	}
	f.Image, f.Err = q.image, shortError{err}
	return f
}

// answerFault is about what the registry answered; nil if it did not.
func (q *query) answerFault(ctx context.Context, err error) *trysail.ImageError {
	if e, ok := errors.AsType[*platformError](err); ok {
		return q.archFault(e)
	}
	if e, ok := errors.AsType[*formatError](err); ok {
		return q.corrupt(q.registry()+" sent "+e.what+".", e.final)
	}
	if _, ok := errors.AsType[*keychainError](err); ok {
		return &trysail.ImageError{Code: codeAuth, Message: "The login for " + q.registry() + " cannot be read.", Fix: "Store the login again."}
	}
	if e, ok := errors.AsType[*ecrError](err); ok {
		return q.ecrFault(e)
	}
	if errors.Is(err, errTooLarge) {
		return q.corrupt(q.registry()+" sent a description of "+mark(q.image)+" that is larger than 4 MiB.", false)
	}
	if errors.Is(err, errNoToken) {
		return q.corrupt(fmt.Sprintf("%s wants a token, but its token service gives none.", q.registry()), false)
	}
	for _, e := range []error{errManyTurns, errPlainHTTP} {
		if errors.Is(err, e) {
			return q.corrupt(q.registry()+" does not answer like a registry: "+e.Error()+".", false)
		}
	}
	status := statusOf(err)
	_, inLogin := errors.AsType[*loginError](err)
	_, inPart := errors.AsType[*partError](err)
	switch {
	case status == 0:
		return nil
	case status == http.StatusTooManyRequests || has(err, transport.TooManyRequestsErrorCode):
		return q.rateFault()
	case status >= http.StatusInternalServerError:
		return &trysail.ImageError{
			Code: codeNet, Message: fmt.Sprintf("%s has a fault of its own: it answers %s.", q.registry(), statusText(status)),
			Fix: "Not your app: wait, or look at the state of the registry.",
		}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return q.authFault(err, status)
	case inLogin:
		return q.corrupt(fmt.Sprintf("The token service of %s answers %s.", q.registry(), statusText(status)), false)
	case inPart && status == http.StatusNotFound:
		return q.corrupt(fmt.Sprintf("%s has %s, but lacks a part of it.", q.registry(), mark(q.image)), false)
	case status == http.StatusNotFound:
		return q.notFound(ctx, err)
	case has(err, transport.NameInvalidErrorCode, transport.TagInvalidErrorCode):
		return &trysail.ImageError{
			Code: codeName, Final: true, Message: fmt.Sprintf("%s says that %s is not a valid image name.", q.registry(), mark(q.image)),
			Fix: "Check the spelling.",
		}
	default:
		return q.corrupt(fmt.Sprintf("%s does not answer like a registry: %s.", q.registry(), statusText(status)), false)
	}
}

// authFault is about 401 and 403.
func (q *query) authFault(err error, status int) *trysail.ImageError {
	_, inLogin := errors.AsType[*loginError](err)
	basic := strings.HasPrefix(q.session.authorization, "Basic ")
	switch {
	case q.loggedIn && (inLogin || basic):
		whose := "the login"
		if q.user != "" {
			whose += " of " + mark(q.user)
		}
		return &trysail.ImageError{
			Code: codeAuth, Final: true, Message: fmt.Sprintf("%s refused %s.", q.registry(), whose),
			Fix: "Renew the login: trysail registry login " + hostName(q.ref.Context()),
		}
	case status == http.StatusForbidden && !has(err, transport.DeniedErrorCode, transport.UnauthorizedErrorCode, transport.NameUnknownErrorCode):
		// A registry says why. This is a firewall, a proxy or a filter of countries.
		return &trysail.ImageError{
			Code: codeAuth, Message: fmt.Sprintf("%s, or something before it, refuses requests from this machine: 403 Forbidden.", q.registry()),
			Fix: "Check the proxy and the firewall between this machine and the registry, and whether the registry allows this machine's address.",
		}
	case q.loggedIn:
		return &trysail.ImageError{
			Code: codeRepo, Final: true,
			Message: fmt.Sprintf("%s says %s does not exist, or %s may not read it.", q.registry(), mark(q.repository()), mark(q.user)),
			Fix:     "Check the spelling, and what this login is allowed to read.",
		}
	default:
		return q.absent()
	}
}

// absent is about a repository that an anonymous reader does not find.
func (q *query) absent() *trysail.ImageError {
	return &trysail.ImageError{
		Code: codeRepo, Final: true,
		Message: fmt.Sprintf("%s says %s does not exist or is private. These look the same without a login.", q.registry(), mark(q.repository())),
		Fix:     "Check the spelling. If the image is private, store a login: trysail registry login " + hostName(q.ref.Context()),
	}
}

// notFound tells an absent repository from an absent tag.
func (q *query) notFound(ctx context.Context, err error) *trysail.ImageError {
	if has(err, transport.NameUnknownErrorCode) {
		return q.unknownRepository()
	}
	if d, ok := q.ref.(name.Digest); ok {
		if !has(err, transport.ManifestUnknownErrorCode) {
			return q.unknownRepository()
		}
		return &trysail.ImageError{
			Code: codeTag, Final: true, Message: fmt.Sprintf("Repository %s has no image with digest %s.", mark(q.repository()), mark(d.DigestStr())),
			Fix: "Use a tag or digest that is there: registries delete images to which no tag points.",
		}
	}
	tags, tagsErr := q.tags(ctx)
	if statusOf(tagsErr) == http.StatusNotFound {
		return q.unknownRepository()
	}
	return q.tagFault(tags, tagsErr == nil)
}

// unknownRepository is about a registry that says so.
func (q *query) unknownRepository() *trysail.ImageError {
	f := q.absent()
	if q.session.authorization == "" || q.loggedIn {
		f.Message = fmt.Sprintf("%s has no repository %s.", q.registry(), mark(q.repository()))
		f.Fix = "Check the spelling, or push the image first."
	}
	return f
}

// tagFault offers other tags. exists is true if the registry listed them.
func (q *query) tagFault(tags []string, exists bool) *trysail.ImageError {
	tag := q.ref.Identifier()
	f := &trysail.ImageError{Code: codeTag, Final: true}
	switch {
	case exists:
		f.Message = fmt.Sprintf("Repository %s exists, tag %s does not.", mark(q.repository()), mark(tag))
	default:
		f.Message = fmt.Sprintf("%s has no tag %s of %s.", q.registry(), mark(tag), mark(q.repository()))
	}
	if tag == name.DefaultTag && !strings.HasSuffix(q.image, ":"+tag) {
		f.Message += " A name without a tag means `latest`."
	}
	if len(tags) > 0 {
		f.Message += " Its tags include " + marks(newest(tags, tagsShown)) + "."
	}
	switch guess := closest(tags, tag); {
	case guess != "":
		f.Fix = fmt.Sprintf("Did you mean %s?", mark(q.named(guess)))
	case len(tags) > 0:
		f.Fix = fmt.Sprintf("Pick a tag that exists, such as %s.", mark(q.named(newest(tags, 1)[0])))
	default:
		f.Fix = "Check the tag, or push the image with it."
	}
	return f
}

// named is the image as the user wrote it, with another tag.
func (q *query) named(tag string) string {
	return strings.TrimSuffix(trysail.ImageReference(q.image, ""), "@") + ":" + tag
}

func (q *query) archFault(e *platformError) *trysail.ImageError {
	machine := q.platform.OS + "/" + q.platform.Architecture
	offers := "nothing that runs"
	if len(e.offers) > 0 {
		offers = marks(e.offers[:min(len(e.offers), maxOffers)])
	}
	return &trysail.ImageError{
		Code: codeArch, Final: true,
		Message: fmt.Sprintf("Image %s offers %s; this machine is %s.", mark(q.image), offers, mark(machine)),
		Fix:     fmt.Sprintf("Build and push it for this machine: docker buildx build --platform %s --push …", machine),
	}
}

func (q *query) rateFault() *trysail.ImageError {
	whose := "this machine's address"
	if q.loggedIn {
		whose = mark(q.user)
	}
	f := &trysail.ImageError{
		Code: codeRate, Message: fmt.Sprintf("%s's limit of pulls for %s is used up.", q.registry(), whose),
		Fix: "Wait, or push the image to the service: trysail push.",
	}
	if !q.loggedIn {
		f.Fix = "Wait, or store a login, which has a higher limit: trysail registry login " + hostName(q.ref.Context())
	}
	if t := resetTime(q.session.header, time.Now()); !t.IsZero() {
		f.Message = fmt.Sprintf("%s's limit of pulls for %s is used up; it resets about %s UTC.", q.registry(), whose, t.UTC().Format("15:04"))
	}
	return f
}

// resetTime is when a registry lets us in again; zero if it does not say, or says something absurd.
func resetTime(h http.Header, now time.Time) time.Time {
	for _, key := range []string{"Retry-After", "X-Retry-After", "X-Ratelimit-Reset", "Ratelimit-Reset"} {
		v, _, _ := strings.Cut(h.Get(key), ";")
		t, err := http.ParseTime(v)
		if n, numErr := strconv.ParseInt(v, 10, 64); numErr == nil && n > 0 {
			// Some give seconds from now, some the Unix time.
			if t, err = time.Unix(n, 0), nil; n < 1e9 {
				t = now.Add(time.Duration(n) * time.Second)
			}
		}
		if err == nil && t.After(now) && t.Before(now.Add(24*time.Hour)) {
			return t
		}
	}
	return time.Time{}
}

func (q *query) corrupt(message string, final bool) *trysail.ImageError {
	fix := fmt.Sprintf("Check that %s is a registry, and the proxy before it; then push the image again.", mark(q.ref.Context().RegistryStr()))
	if final {
		fix = "Use an image that is built for running: docker buildx build --push …"
	}
	return &trysail.ImageError{Code: codeCorrupt, Message: message, Fix: fix, Final: final}
}

// maxOffers is how many platforms a message names.
const maxOffers = 8
