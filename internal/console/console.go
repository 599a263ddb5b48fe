// Package console is the web console: pages rendered on the server, which work without JavaScript. It does nothing that
// the API could not do: every page and form calls internal/control as the holder of an access key.
package console

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// Root is the path below which the console answers.
const Root = "/console/"

// Config is what the console says about the world.
type Config struct {
	// Version is that of the program.
	Version string
	// Region and Domain make the services' default domains.
	Region string
	Domain string
	// EdgePort is appended to the host of the services' URLs, such as ":8443"; empty means 443.
	EdgePort string
	// Endpoint is the address of the API as clients reach it, for the commands that pages show.
	Endpoint string
	// Installed finds out whether the program on the disk is still the one that runs, and what version it is; nil if nobody can.
	Installed func(context.Context) Installed
	// ValidationZone is where the records that validate domains point to; default "validations." and Domain.
	ValidationZone string
	// SharedSessions says that other servers serve the same console: who signs in with one is signed in with all.
	SharedSessions bool
}

// Installed is the program on the disk, which may be newer than the one that runs.
type Installed struct {
	Path    string
	Changed bool   // it is another one than runs
	Version string // of the one on the disk; empty if it does not say
}

const (
	// maxBody bounds the body of a form in bytes, as the API bounds that of a call.
	maxBody = 1 << 20
	// maxFields bounds the fields of a form.
	maxFields = 5000
)

// Console serves the pages below Root.
type Console struct {
	cfg       Config
	control   *control.Control
	log       *slog.Logger
	mux       *http.ServeMux
	sessions  *sessions
	attempts  *limiter
	streams   *counter
	templates map[string]*template.Template
	assets    map[string]asset // by name with hash
	names     map[string]string
	origin    *http.CrossOriginProtection
	started   time.Time
	done      chan struct{}
}

// New makes the console. Its streams end with Close.
func New(cfg Config, c *control.Control, log *slog.Logger) (*Console, error) {
	if cfg.ValidationZone == "" {
		cfg.ValidationZone = "validations." + cfg.Domain
	}
	var shared *control.Control
	if cfg.SharedSessions {
		shared = c
	}
	con := &Console{
		cfg: cfg, control: c, log: log, mux: http.NewServeMux(), sessions: newSessions(shared), attempts: newLimiter(),
		streams: newCounter(), origin: http.NewCrossOriginProtection(), started: time.Now(), done: make(chan struct{}),
	}
	if err := con.readAssets(); err != nil {
		return nil, fmt.Errorf("reading the console's assets: %w", err)
	}
	if err := con.readTemplates(); err != nil {
		return nil, fmt.Errorf("reading the console's templates: %w", err)
	}
	con.routes()
	return con, nil
}

// Close ends the streams of live pages, which would hold up the end of the server that they are served by.
func (c *Console) Close() { close(c.done) }

// handler answers one request of somebody who is signed in. Errors with a *trysail.Error are shown.
type handler func(*visit) (*page, error)

// visit is one request of somebody who is signed in.
type visit struct {
	*http.Request
	session *session
	say     func(*flash) error // leaves a message for the next page
	caller  trysail.Caller
	masked  string // the session's token, as the forms of this answer have it
}

// token is what the forms of the answer carry. It is the same in all parts of a stream, which are compared with each other and
// are not compressed.
func (v *visit) token() string {
	if v.masked == "" {
		v.masked = v.session.maskedToken()
	}
	return v.masked
}

func (v *visit) service() string { return v.PathValue("service") }

// routes says which page is where.
func (c *Console) routes() {
	c.mux.HandleFunc("GET /console/assets/{name}", c.serveAsset)
	c.mux.HandleFunc("GET /console/sign-in", c.showSignIn)
	c.mux.HandleFunc("POST /console/sign-in", c.signIn)
	c.mux.HandleFunc("POST /console/sign-out", c.signOut)
	pages := map[string]handler{
		"GET /console/{$}": c.showServices,

		"GET /console/create":  c.showCreate,
		"POST /console/create": c.create,

		"GET /console/services/{service}":                                 c.showService,
		"POST /console/services/{service}/cancel":                         c.cancel,
		"GET /console/services/{service}/deployments":                     c.showDeployments,
		"GET /console/services/{service}/deployments/{version}":           c.showDeployment,
		"POST /console/services/{service}/deployments/{version}/redeploy": c.redeploy,
		"GET /console/services/{service}/diff":                            c.showDiff,
		"GET /console/services/{service}/deploy":                          c.showDeploy,
		"POST /console/services/{service}/deploy":                         c.deploy,
		"POST /console/services/{service}/check":                          c.check,
		"GET /console/services/{service}/settings":                        c.showManage,
		"GET /console/services/{service}/logs":                            c.showLogs,
		"GET /console/services/{service}/metrics":                         c.showMetrics,
		"GET /console/services/{service}/tasks":                           c.showTasks,
		"POST /console/services/{service}/tasks":                          c.runTask,
		"GET /console/services/{service}/tasks/{task}":                    c.showTask,
		"POST /console/services/{service}/tasks/{task}/stop":              c.stopTask,
		"POST /console/services/{service}/edge-rules":                     c.setEdgeRules,
		"GET /console/services/{service}/images":                          c.showImages,
		"POST /console/services/{service}/images/delete":                  c.deleteImage,
		"POST /console/services/{service}/update":                         c.update,
		"POST /console/services/{service}/access-log":                     c.setAccessLog,
		"POST /console/services/{service}/delete":                         c.deleteService,

		"GET /console/domains":              c.showDomains,
		"POST /console/certificates":        c.createCertificate,
		"POST /console/certificates/delete": c.deleteCertificate,
		"GET /console/settings":             c.showSettings,
		"POST /console/keys":                c.createKey,
		"POST /console/keys/delete":         c.deleteKey,
		"POST /console/registries":          c.putRegistry,
		"POST /console/registries/delete":   c.deleteRegistry,
		"GET /console/audit":                c.showAudit,
	}
	for pattern, h := range pages {
		c.mux.HandleFunc(pattern, c.signedIn(h))
	}
	c.mux.HandleFunc("/console/", c.signedIn(func(*visit) (*page, error) {
		return nil, trysail.Errorf(trysail.CodeNotFound, "There is no such page.")
	}))
}

// ServeHTTP answers one request.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secureHeaders(w.Header(), r.TLS != nil)
	id := requestID()
	w.Header().Set("X-Request-Id", id)
	r = r.WithContext(control.WithOrigin(r.Context(), c.originOf(r, id)))
	defer func() { //nolint:contextcheck // the request has it
		if p := recover(); p != nil {
			c.log.ErrorContext(r.Context(), "console page failed", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			http.Error(w, "Something went wrong. The server's log says what.", http.StatusInternalServerError)
		}
	}()
	if err := c.origin.Check(r); err != nil {
		http.Error(w, "This form was sent by another site. Nothing was changed.", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	c.mux.ServeHTTP(w, r)
}

// originOf says where a request came from, for the audit trail.
func (c *Console) originOf(r *http.Request, id string) trysail.Origin {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return trysail.Origin{RequestID: id, SourceAddress: host, UserAgent: trysail.ConsoleAgent + "/" + c.cfg.Version + " " + r.UserAgent()}
}

// requestID makes a random UUID, as the API's request ids are.
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// secureHeaders keeps the pages out of frames, caches and referrers, and everything in them that is not our own.
func secureHeaders(h http.Header, secure bool) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "+
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	if secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// signedIn lets only those to the handler who are signed in, with a key that still exists, and forms only with the
// session's token.
func (c *Console) signedIn(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := c.visitOf(r)
		if err != nil {
			c.fail(w, r, nil, err)
			return
		}
		if v == nil {
			c.askToSignIn(w, r)
			return
		}
		if r.Method == http.MethodPost {
			if err := readForm(r); err != nil {
				c.fail(w, r, v, err)
				return
			}
			if !v.session.isToken(r.PostFormValue("csrf")) {
				c.fail(w, r, v, errOldForm())
				return
			}
		}
		if isStream(r) {
			c.stream(w, v, h) //nolint:contextcheck // the request has it
			return
		}
		p, err := h(v)
		if err != nil {
			c.fail(w, r, v, err)
			return
		}
		c.answer(w, v, p) //nolint:contextcheck // the request has it
	}
}

// readForm reads the fields of a form. Errors: Invalid.
func readForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return trysail.Errorf(trysail.CodeInvalid, "The form is larger than %d bytes.", maxBody)
		}
		return trysail.Errorf(trysail.CodeInvalid, "The form cannot be read.")
	}
	if len(r.PostForm) > maxFields {
		return trysail.Errorf(trysail.CodeInvalid, "The form has more than %d fields.", maxFields)
	}
	return nil
}

// visitOf finds out who is there; nil if nobody is signed in.
func (c *Console) visitOf(r *http.Request) (*visit, error) {
	s, err := c.sessions.find(r, time.Now())
	if err != nil {
		return nil, fmt.Errorf("looking up the session: %w", err)
	}
	if s == nil {
		return nil, nil //nolint:nilnil // nobody is no error
	}
	_, caller, ok, err := c.control.Identify(r.Context(), s.keyID)
	if err != nil {
		return nil, fmt.Errorf("looking up the access key: %w", err)
	}
	if !ok {
		return nil, c.sessions.end(r.Context(), s)
	}
	say := func(f *flash) error { return c.sessions.say(r.Context(), s, f) } //nolint:contextcheck // the request has it
	return &visit{Request: r, session: s, say: say, caller: caller}, nil
}

// statusOf is the status that an error is answered with.
func statusOf(err error) int {
	switch trysail.ErrorCode(err) {
	case trysail.CodeInvalid, trysail.CodeUnsupported:
		return http.StatusBadRequest
	case trysail.CodeNotFound:
		return http.StatusNotFound
	case trysail.CodeAccessDenied:
		return http.StatusForbidden
	case trysail.CodeUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// textOf is what a person sees of an error: nothing of internal ones.
func textOf(err error) string {
	if e, ok := errors.AsType[*trysail.Error](err); ok {
		return e.Message
	}
	return "Something went wrong inside Trysail. The server's log says what."
}

// fail answers with an error.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	status := statusOf(err)
	if status == http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		c.log.ErrorContext(r.Context(), "console page failed", "path", r.URL.Path, "error", err)
	}
	title := "Not possible"
	switch status {
	case http.StatusNotFound:
		title = "Not found"
	case http.StatusForbidden:
		title = "Not allowed"
	case http.StatusInternalServerError:
		title = "Something went wrong"
	}
	c.answer(w, visitOr(v, r), &page{Template: "error", Title: title, Status: status, D: textOf(err)}) //nolint:contextcheck // the request has it
}

func visitOr(v *visit, r *http.Request) *visit {
	if v == nil {
		return &visit{Request: r}
	}
	return v
}

// url is the address of a service's default domain.
func (c *Console) url(s *trysail.Service) string {
	return "https://" + s.Host(c.cfg.Region, c.cfg.Domain) + c.cfg.EdgePort + "/"
}

// local reports whether a path is one of the console, so that a redirect to it leads nowhere else.
func local(path string) bool {
	return strings.HasPrefix(path, Root) && !strings.Contains(path, "..") && !strings.ContainsAny(path, "\\\r\n")
}
