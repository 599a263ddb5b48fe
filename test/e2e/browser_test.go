//go:build e2e

package e2e

import (
	"context"
	neturl "net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"

	"github.com/trysail/trysail/test/acme"
	"github.com/trysail/trysail/test/kit"
)

// browserHome makes a home directory with an empty store of a browser's own certificates, and returns it and the store.
func browserHome(t *testing.T) (home, store string) {
	t.Helper()
	home = scratch(t)
	store = filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(t, nil, "certutil", "-N", "-d", "sql:"+store, "--empty-password"); err != nil {
		t.Fatalf("certutil: %v\n%s", err, out)
	}
	return home, store
}

// visit loads a page in a new headless Chromium whose home this is.
func visit(t *testing.T, home, url string) (*network.Response, string, error) {
	t.Helper()
	to, err := neturl.Parse(url)
	if err != nil {
		return nil, "", err
	}
	quiet := newIsland(t)
	quiet.show("127.0.0.1:" + to.Port())
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(quiet.chromium()), chromedp.NoSandbox, chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"), "XDG_DATA_HOME="+filepath.Join(home, ".local", "share")),
		chromedp.Flag("host-resolver-rules", "MAP * 127.0.0.1"), chromedp.WSURLReadTimeout(2*time.Minute),
	)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	defer stop()
	ctx, closeTab := chromedp.NewContext(ctx)
	defer closeTab()
	page, err := chromedp.Run(ctx, chromedp.NavigateResponse(url))
	if err != nil {
		return nil, "", err
	}
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
	return page, strings.TrimSpace(text), err
}

// looksGood fails the test unless the page came over HTTP/2 and nothing is said against it.
func looksGood(t *testing.T, home, url, want string) *network.Response {
	t.Helper()
	page, text, err := visit(t, home, url)
	if err != nil || page == nil {
		t.Fatalf("Chromium at %s: %v", url, err)
	}
	if text != want || page.Status != 200 || page.Protocol != "h2" || page.SecurityState != security.StateSecure {
		t.Errorf("Chromium got %q, %d, over %s, %s: %+v", text, page.Status, page.Protocol, page.SecurityState, page.SecurityDetails)
	}
	return page
}

// TestBrowser_TrustsTheLocalCA shows what trysail trust is for: Chromium refuses a service's page before, and takes it without
// a warning afterwards, until it is taken back.
func TestBrowser_TrustsTheLocalCA(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("browser", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("browser", "web:1", nil))
	c.waitState("browser", types.ContainerServiceStateRunning)
	url := c.url("browser", "/")
	home, _ := browserHome(t)
	trust := func(args ...string) {
		t.Helper()
		env := append(shared.server.Environ(), "HOME="+home)
		out, err := tool(t, env, shared.server.Binary, append([]string{"trust", "--data-dir", shared.server.DataDir}, args...)...)
		if err != nil || !strings.Contains(out, filepath.Join(home, ".pki", "nssdb")) {
			t.Fatalf("trysail trust %v: %v\n%s", args, err, out)
		}
	}
	if _, _, err := visit(t, home, url); err == nil || !strings.Contains(err.Error(), "ERR_CERT_AUTHORITY_INVALID") {
		t.Errorf("before: %v", err)
	}
	trust()
	defer trust("--remove")
	if page := looksGood(t, home, url, "version 1"); page.SecurityDetails == nil || !strings.HasPrefix(page.SecurityDetails.Issuer, "Trysail local CA") {
		t.Errorf("issued by %+v", page.SecurityDetails)
	}
}

// TestBrowser_TrustsAnAuthority loads a page with a certificate that was issued over ACME.
func TestBrowser_TrustsAnAuthority(t *testing.T) {
	c := newCertified(t, kit.ServerOptions{Flags: []string{"--domain", acme.Zone, "--dns", "rfc2136", "--dns-credentials", "$DIR/dns"}})
	c.create("one", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("one", "web:1", nil))
	c.waitState("one", types.ContainerServiceStateRunning)
	home, store := browserHome(t)
	if out, err := tool(t, nil, "certutil", "-A", "-d", "sql:"+store, "-n", "authority", "-t", "C,,", "-i", c.roots); err != nil {
		t.Fatalf("certutil: %v\n%s", err, out)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(c.url("one", ""), "https://"), ":"+c.https)
	until(t, "curl", func() (string, error) { return c.curl(host, "/") }, "version 1")
	looksGood(t, home, c.url("one", "/"), "version 1")
}
