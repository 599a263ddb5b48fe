package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
)

//go:embed static templates
var files embed.FS

// page is an answer: a template with what it shows, or a redirect.
type page struct {
	Template string
	Title    string
	// Section is the entry of the main navigation, Tab that of the service's.
	Section, Tab string
	// Service is the one that the page is about; nil on others.
	Service *trysail.Service
	Status  int // 0 means 200
	// D is what the template shows.
	D any
	// Live says that the template's part "live" changes by itself. LiveURL is where to hear of it, if not at the page.
	Live    bool
	LiveURL string
	// Follow finds what came since it was asked last, and where to go on: a stream adds it to the page instead of
	// replacing its part "live".
	Follow func() (fresh []logLine, mark string, err error)

	// Redirect is where to go instead of showing a page.
	Redirect string
	// Fragment is the template's part that is the whole answer.
	Fragment string

	// What follows is set by answer.
	CSRF    string
	Caller  trysail.Caller
	Flash   *flash
	Version string
	Path    string // of the page itself, with its query
}

// SignedIn reports whether somebody is.
func (p *page) SignedIn() bool { return p.CSRF != "" }

// May reports whether the caller's role includes another, so that pages show only what can be done. control decides.
func (p *page) May(role string) bool { return p.Caller.Role.Includes(trysail.Role(role)) }

// redirect leads to another page, which says first what was done.
func (v *visit) redirect(to, said string) (*page, error) {
	return &page{Redirect: to}, v.say(&flash{Text: said})
}

// outcome leads to another page, which says first what was done, or why not.
func (v *visit) outcome(to string, err error, said string) (*page, error) {
	if err == nil {
		return v.redirect(to, said)
	}
	if statusOf(err) == http.StatusInternalServerError {
		return nil, err
	}
	return &page{Redirect: to}, v.say(&flash{Error: true, Text: textOf(err)})
}

func errOldForm() error {
	return trysail.Errorf(trysail.CodeAccessDenied, "This form is too old. Nothing was changed; open the page again.")
}

// readTemplates parses each page together with the layout.
func (c *Console) readTemplates() error {
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return err
	}
	base, err := template.New("").Funcs(c.functions()).ParseFS(files, "templates/shared/*.html")
	if err != nil {
		return err
	}
	c.templates = map[string]*template.Template{}
	for _, name := range names {
		short := strings.TrimSuffix(path.Base(name), ".html")
		t, err := base.Clone()
		if err != nil {
			return err
		}
		if c.templates[short], err = t.ParseFS(files, name); err != nil {
			return err
		}
	}
	return nil
}

// render executes a part of the page's template.
func (c *Console) render(v *visit, p *page, part string) ([]byte, error) {
	t := c.templates[p.Template]
	if t == nil {
		return nil, fmt.Errorf("there is no template %q", p.Template)
	}
	p.Version, p.Path = c.cfg.Version, v.URL.RequestURI()
	if p.LiveURL == "" {
		p.LiveURL = p.Path
	}
	if v.session != nil {
		p.CSRF, p.Caller = v.token(), v.caller
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, part, p); err != nil {
		return nil, fmt.Errorf("rendering %s: %w", p.Template, err)
	}
	return b.Bytes(), nil
}

// answer sends a page.
func (c *Console) answer(w http.ResponseWriter, v *visit, p *page) {
	if p.Redirect != "" {
		http.Redirect(w, v.Request, p.Redirect, http.StatusSeeOther) //nolint:gosec // it begins with Root
		return
	}
	part := "layout"
	if p.Fragment != "" {
		part = p.Fragment
	} else if v.session != nil && p.Flash == nil {
		var err error
		if p.Flash, err = c.sessions.heard(v.Context(), v.session); err != nil {
			c.log.WarnContext(v.Context(), "what a page has said may be said again", "error", err)
		}
	}
	body, err := c.render(v, p, part)
	if err != nil {
		c.log.ErrorContext(v.Context(), "console page failed", "path", v.URL.Path, "error", err)
		http.Error(w, "Something went wrong. The server's log says what.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if acceptsGzip(v.Request) {
		body = compress(body)
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Vary", "Accept-Encoding")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(max(p.Status, http.StatusOK))
	_, _ = w.Write(body) // an error means that the client has gone
}

func acceptsGzip(r *http.Request) bool {
	for one := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(one), ";")
		if name == "gzip" && strings.ReplaceAll(q, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

func compress(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // a Buffer takes everything
	_ = z.Close()
	return out.Bytes()
}

// asset is a file that never changes under its name.
type asset struct {
	kind       string
	plain      []byte
	compressed []byte
}

// readAssets gives each file a name with its hash in it, so that browsers keep it until it changes.
func (c *Console) readAssets() error {
	c.assets, c.names = map[string]asset{}, map[string]string{}
	list, err := fs.ReadDir(files, "static")
	if err != nil {
		return err
	}
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	for _, f := range list {
		b, err := fs.ReadFile(files, "static/"+f.Name())
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		ext := path.Ext(f.Name())
		name := strings.TrimSuffix(f.Name(), ext) + "-" + hex.EncodeToString(sum[:8]) + ext
		c.names[f.Name()] = Root + "assets/" + name
		c.assets[name] = asset{kind: kinds[ext], plain: b, compressed: compress(b)}
	}
	return nil
}

// serveAsset needs nobody to be signed in: there is nothing to know from these files.
func (c *Console) serveAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := c.assets[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	body := a.plain
	if acceptsGzip(r) {
		body = a.compressed
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Vary", "Accept-Encoding")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // an error means that the client has gone
}
