package image

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// formatError says that a registry sent something that is no image.
type formatError struct {
	what  string // what it sent
	final bool   // it is what the registry means to send
	err   error
}

func (e *formatError) Error() string { return "unexpected answer: " + e.what }
func (e *formatError) Unwrap() error { return e.err }

// partError says that a part of an image that exists cannot be had.
type partError struct {
	part string
	err  error
}

func (e *partError) Error() string { return "getting " + e.part + ": " + e.err.Error() }
func (e *partError) Unwrap() error { return e.err }

// loginError says that getting a token did not work.
type loginError struct{ err error }

func (e *loginError) Error() string { return "logging in: " + e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

// keychainError says that our own side could not give a login. Its text may hold one, so it shows none.
type keychainError struct{ err error }

func (e *keychainError) Error() string { return "the stored login cannot be read" }
func (e *keychainError) Unwrap() error { return e.err }

// shortError bounds the text of an error: registries put whole pages into theirs. It shows no queries of URLs.
type shortError struct{ err error }

func (e shortError) Error() string { return shorten(redact(e.err.Error()), 300) }
func (e shortError) Unwrap() error { return e.err }

// statusOf is the HTTP status that an error tells of, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return e.StatusCode
	}
	return 0
}

// has reports whether the registry gave one of the codes as its reason.
func has(err error, codes ...transport.ErrorCode) bool {
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return false
	}
	for _, d := range e.Errors {
		if slices.Contains(codes, d.Code) {
			return true
		}
	}
	return false
}

// shorten bounds a text from outside and takes out what could forge a line of a log or of a terminal.
func shorten(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// mark sets a text from outside off from our own.
func mark(s string) string { return "`" + strings.ReplaceAll(shorten(s, 200), "`", "'") + "`" }

// marks joins texts from outside to a list.
func marks(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = mark(s)
	}
	return strings.Join(out, ", ")
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// describeAnswer says what came instead of a manifest.
func describeAnswer(mediaType string) string {
	if mediaType, _, _ = strings.Cut(mediaType, ";"); strings.HasPrefix(mediaType, "text/") {
		return "a page of " + mark(mediaType) + " where the manifest should be"
	}
	return "something else than a manifest"
}

// registry is what people call the registry.
func (q *query) registry() string {
	if host := q.ref.Context().RegistryStr(); host != name.DefaultRegistry {
		return mark(host)
	}
	return "Docker Hub"
}

// repository is the short form of the repository that Docker shows.
func (q *query) repository() string {
	repo := q.ref.Context()
	if repo.RegistryStr() != name.DefaultRegistry {
		return repo.Name()
	}
	return strings.TrimPrefix(repo.RepositoryStr(), "library/")
}

// fullName is the form in which container runtimes keep names: the host of Docker Hub is docker.io there.
func fullName(repo name.Repository) string {
	return hostName(repo) + "/" + repo.RepositoryStr()
}

// hostName is the host of a registry, as people know it.
func hostName(repo name.Repository) string {
	if host := repo.RegistryStr(); host != name.DefaultRegistry {
		return host
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
