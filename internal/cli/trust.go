package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// trustName is what the names of our roots begin with, in certificates and in browsers' stores.
const trustName = "Trysail local CA"

// trustPlace is where a Linux distribution wants further roots, and what makes them count.
type trustPlace struct {
	dir, suffix string
	command     []string
}

// trustPlaces are those of Debian and its kin, of Red Hat's, of SUSE's and of Arch.
func trustPlaces() []trustPlace {
	return []trustPlace{
		{"/usr/local/share/ca-certificates", ".crt", []string{"update-ca-certificates"}},
		{"/etc/pki/ca-trust/source/anchors", ".pem", []string{"update-ca-trust", "extract"}},
		{"/etc/pki/trust/anchors", ".pem", []string{"update-ca-certificates"}},
		{"/etc/ca-certificates/trust-source/anchors", ".crt", []string{"trust", "extract-compat"}},
	}
}

func (a *App) trustCommand() *cobra.Command {
	var dataDir, ca string
	var remove bool
	cmd := &cobra.Command{
		Use:     "trust",
		Example: "  sudo trysail trust\n  sudo trysail trust --remove",
		Short:   "Let this machine and its browsers trust the local CA",
		Long: `Let this machine and its browsers trust the certificates of the local CA.

Its roots are added to the system's store, which needs root, and to the stores of Firefox and Chrome (NSS databases) of the
user who calls, also through sudo; those need certutil (libnss3-tools, nss-tools). They may sign only for the names of this
Trysail. --remove takes away every root that trysail trust has added. Run it again when certificates for further names have
been made by the local CA.`,
		Args: exactArgs(),
	}
	a.dataDirFlag(cmd, &dataDir)
	cmd.Flags().Lookup("data-dir").Usage = "the server's data directory"
	cmd.Flags().StringVar(&ca, "ca", "", "file with the roots; default that of the server, or TRYSAIL_CA")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the roots away again")
	must(cmd.MarkFlagFilename("ca", "pem", "crt"))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var roots []*x509.Certificate
		if !remove {
			var err error
			if roots, err = a.readRoots(dataDir, ca); err != nil {
				return err
			}
		}
		t := truster{app: a, roots: roots, root: a.systemRoot()}
		return t.run(cmd.Context())
	}
	return cmd
}

// systemRoot is where the system's files are: / but in tests.
func (a *App) systemRoot() string {
	if a.Root != "" {
		return a.Root
	}
	return "/"
}

// readRoots reads the roots of the local CA. Anything else in the file is refused.
func (a *App) readRoots(dataDir, file string) ([]*x509.Certificate, error) {
	if file == "" {
		file = a.Getenv("TRYSAIL_CA")
	}
	if file == "" {
		file = filepath.Join(dataDir, "ca", "root.pem")
	}
	text, err := os.ReadFile(file) //nolint:gosec // the path is the user's
	if errors.Is(err, fs.ErrPermission) {
		return nil, WithHint(fmt.Errorf("reading the local CA: %w", err), "Run as root: sudo trysail trust")
	}
	if err != nil {
		return nil, WithHint(fmt.Errorf("reading the local CA: %w", err), "It is made when the server starts: trysail serve")
	}
	var list []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || !cert.IsCA || !strings.HasPrefix(cert.Subject.CommonName, trustName) || len(cert.PermittedDNSDomains) == 0 {
			return nil, fmt.Errorf("%s holds something that is not a root of a Trysail", file)
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return list, nil
}

// truster makes stores hold exactly these roots of ours: none takes all away.
type truster struct {
	app   *App
	roots []*x509.Certificate
	root  string // of the file system
	done  int    // stores
}

func (t *truster) run(ctx context.Context) error {
	err := errors.Join(t.system(ctx), t.browsers(ctx))
	if err == nil && t.done == 0 && len(t.roots) > 0 {
		return WithHint(errors.New("no store of trusted certificates was found on this machine"), "Give the file of trysail env's TRYSAIL_CA to your clients instead.")
	}
	return err
}

// system sees to the system's store.
func (t *truster) system(ctx context.Context) error {
	for _, p := range trustPlaces() {
		dir := filepath.Join(t.root, p.dir)
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		changed, err := t.fill(dir, p.suffix)
		if errors.Is(err, fs.ErrPermission) {
			return WithHint(errors.New("the system's store of trusted certificates may be changed by root only"), "Run: sudo trysail trust")
		}
		if err != nil {
			return fmt.Errorf("changing the system's store: %w", err)
		}
		if changed {
			if out, err := exec.CommandContext(ctx, p.command[0], p.command[1:]...).CombinedOutput(); err != nil { //nolint:gosec // from the table above
				return fmt.Errorf("running %s: %w: %s", strings.Join(p.command, " "), err, bytes.TrimSpace(out))
			}
		}
		t.say("the system's store ("+p.dir+")", changed)
		return nil
	}
	return nil
}

func (t *truster) say(where string, changed bool) {
	t.done++
	switch {
	case len(t.roots) > 0:
		fmt.Fprintf(t.app.Out, "Trusted by %s.\n", where)
	case changed:
		fmt.Fprintf(t.app.Out, "Taken away from %s.\n", where)
	}
}

// fill makes dir hold exactly our roots, besides those of others.
func (t *truster) fill(dir, suffix string) (changed bool, err error) {
	want := map[string][]byte{}
	for _, r := range t.roots {
		sum := sha256.Sum256(r.Raw)
		want["trysail-"+hex.EncodeToString(sum[:6])+suffix] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})
	}
	have, err := filepath.Glob(filepath.Join(dir, "trysail-*"+suffix))
	if err != nil {
		return false, err
	}
	for _, path := range have {
		if want[filepath.Base(path)] != nil {
			delete(want, filepath.Base(path))
			continue
		}
		if err := os.Remove(path); err != nil {
			return changed, err
		}
		changed = true
	}
	for name, text := range want {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil { //nolint:gosec // everybody has to read it
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// browsers sees to the NSS databases of the user.
func (t *truster) browsers(ctx context.Context) error {
	var databases []string
	for _, home := range t.homes() {
		for _, pattern := range []string{
			".pki/nssdb", ".mozilla/firefox/*", ".config/mozilla/firefox/*", "snap/firefox/common/.mozilla/firefox/*",
			".var/app/org.mozilla.firefox/.mozilla/firefox/*", "snap/chromium/current/.pki/nssdb",
		} {
			found, err := filepath.Glob(filepath.Join(home, pattern, "cert9.db"))
			if err != nil {
				return err
			}
			for _, f := range found {
				databases = append(databases, filepath.Dir(f))
			}
		}
	}
	if len(databases) == 0 {
		return nil
	}
	if _, err := exec.LookPath("certutil"); err != nil {
		return WithHint(errors.New("certutil is missing, so browsers cannot be told"), "Install it (Debian: apt-get install libnss3-tools; Red Hat: dnf install nss-tools) and run trysail trust again.")
	}
	var errs []error
	for _, dir := range databases {
		changed, err := t.database(ctx, dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("changing %s: %w", dir, err))
			continue
		}
		t.say(dir, changed)
	}
	return errors.Join(errs...)
}

// homes are the home directories of who calls, also of who calls through sudo.
func (t *truster) homes() []string {
	list := []string{t.app.Getenv("HOME")}
	if name := t.app.Getenv("SUDO_USER"); name != "" && name != "root" {
		if u, err := user.Lookup(name); err == nil {
			list = append(list, u.HomeDir)
		}
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// database makes an NSS database hold exactly our roots, besides those of others.
func (t *truster) database(ctx context.Context, dir string) (changed bool, err error) {
	certutil := func(in []byte, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "certutil", append([]string{"-d", "sql:" + dir}, args...)...) //nolint:gosec // our own arguments
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("certutil %s: %w: %s", args[0], err, bytes.TrimSpace(out))
		}
		return string(out), nil
	}
	listed, err := certutil(nil, "-L")
	if err != nil {
		return false, err
	}
	want := map[string][]byte{}
	for _, r := range t.roots {
		want[r.Subject.CommonName] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})
	}
	for line := range strings.Lines(listed) {
		if !strings.HasPrefix(line, trustName) {
			continue
		}
		// The columns are the nickname and the trust, with spaces between them.
		name := strings.TrimSpace(line[:strings.LastIndexByte(strings.TrimRight(line, " \n"), ' ')])
		if want[name] != nil {
			delete(want, name)
			continue
		}
		if _, err := certutil(nil, "-D", "-n", name); err != nil {
			return changed, err
		}
		changed = true
	}
	for name, text := range want {
		if _, err := certutil(text, "-A", "-t", "C,,", "-n", name); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}
