package kit

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Console is somebody who is signed in to the console of a server, without a browser.
type Console struct {
	Base   string       // the address, such as http://127.0.0.1:4500
	Cookie *http.Cookie // that the server has set

	client *http.Client
}

// ConsolePage is a page as it came over the wire.
type ConsolePage struct {
	Body   string
	Bytes  int           // of the body, compressed
	Took   time.Duration // until all of it was there
	Header http.Header
}

// SignIn signs in with the server's first access key at the address base: the server's own, or that of its edge.
func (s *Server) SignIn(ctx context.Context, base string) (*Console, error) {
	client, err := s.HTTPClient(false)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(base, "http://") {
		client = &http.Client{Timeout: time.Minute}
	}
	if client.Jar, err = cookiejar.New(nil); err != nil {
		return nil, err
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Console{Base: base, client: client}
	form := url.Values{"key": {s.Vars["AWS_ACCESS_KEY_ID"]}, "secret": {s.Vars["AWS_SECRET_ACCESS_KEY"]}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/console/sign-in", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("signing in to the console: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		return nil, fmt.Errorf("signing in to the console: %s with %d cookies", resp.Status, len(resp.Cookies()))
	}
	c.Cookie = resp.Cookies()[0]
	return c, nil
}

// Get gets a page or a file of the console, as a browser does.
func (c *Console) Get(ctx context.Context, path string) (p ConsolePage, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Base+path, nil)
	if err != nil {
		return p, err
	}
	r.Header.Set("Accept-Encoding", "gzip")
	start := time.Now()
	resp, err := c.client.Do(r)
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	p.Took, p.Bytes, p.Header = time.Since(start), len(raw), resp.Header
	if err != nil {
		return p, err
	}
	if resp.StatusCode != http.StatusOK {
		return p, fmt.Errorf("%s: %s", path, resp.Status)
	}
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return p, fmt.Errorf("%s is not compressed", path)
	}
	z, err := gzip.NewReader(strings.NewReader(string(raw)))
	if err != nil {
		return p, err
	}
	text, err := io.ReadAll(z)
	p.Body = string(text)
	return p, err
}

var consoleAssets = regexp.MustCompile(`/console/assets/[a-z]+-[0-9a-f]+\.(css|js|svg)`)

// Whole gets a page with all that it needs, and returns how many bytes that is. A page that needs anything from elsewhere is
// an error.
func (c *Console) Whole(ctx context.Context, path string) (bytes int, err error) {
	page, err := c.Get(ctx, path)
	if err != nil {
		return 0, err
	}
	bytes = page.Bytes
	seen := map[string]bool{}
	for _, asset := range consoleAssets.FindAllString(page.Body, -1) {
		if seen[asset] {
			continue
		}
		seen[asset] = true
		file, err := c.Get(ctx, asset)
		if err != nil {
			return 0, err
		}
		bytes += file.Bytes
	}
	if len(seen) < 3 {
		return 0, errors.New("the page has no style sheet, script or icon")
	}
	return bytes, nil
}
