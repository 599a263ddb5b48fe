package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// Level is how bad the outcome of a check is.
type Level string

// The levels of a check.
const (
	LevelOK   Level = "ok"
	LevelWarn Level = "warn" // something works less well, or not yet
	LevelFail Level = "fail" // trysail serve cannot work
)

// Check is one thing that doctor looked at.
type Check struct {
	Name   string `json:"name"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it: a sentence, or a command
}

const (
	lowDisk   = 2 << 30 // bytes; images and logs need room
	emptyDisk = 200 << 20
)

// doctorOptions are the settings of serve that decide what the machine must offer.
type doctorOptions struct {
	dataDir, listen, http, https string
}

func (a *App) doctorCommand() *cobra.Command {
	var o doctorOptions
	var output string
	cmd := &cobra.Command{
		Use:     "doctor",
		Example: `  sudo trysail doctor`,
		Short:   "Say what this machine lacks to run trysail serve",
		Long: `Say what this machine lacks to run trysail serve, and how to get it.

The exit status is 1 if something essential is missing. Give the addresses that serve is started with, if not the default.`,
		Args: exactArgs(),
	}
	a.dataDirFlag(cmd, &o.dataDir)
	cmd.Flags().Lookup("data-dir").Usage = "as for trysail serve"
	outputFlag(cmd, &output)
	for _, f := range []struct {
		value                *string
		name, variable, init string
	}{
		{&o.listen, "listen", "TRYSAIL_LISTEN", "127.0.0.1:4500"},
		{&o.http, "http", "TRYSAIL_HTTP", ":80"},
		{&o.https, "https", "TRYSAIL_HTTPS", ":443"},
	} {
		if v := a.Getenv(f.variable); v != "" {
			f.init = v
		}
		cmd.Flags().StringVar(f.value, f.name, f.init, "as for trysail serve")
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := (&common{output: output}).json()
		if err != nil {
			return err
		}
		checks := a.examine(cmd.Context(), o)
		if asJSON {
			err = printJSON(a.Out, map[string]any{"checks": checks})
		} else {
			err = a.printChecks(checks)
		}
		if err != nil {
			return err
		}
		for _, c := range checks {
			if c.Level == LevelFail {
				return errSilent
			}
		}
		return nil
	}
	return cmd
}

// examine makes all checks.
func (a *App) examine(ctx context.Context, o doctorOptions) []Check {
	var checks []Check
	if a.Probe != nil {
		checks = append(checks, a.Probe(ctx, o.dataDir)...)
	}
	checks = append(checks, checkDisk(o.dataDir))
	server, running := a.checkServer(ctx, o.dataDir)
	if !running {
		checks = append(checks, checkPort(ctx, "--listen", o.listen), checkPort(ctx, "--http", o.http), checkPort(ctx, "--https", o.https))
	}
	return append(checks, server)
}

func (a *App) printChecks(checks []Check) error {
	s := a.screen(a.Out)
	w := tabwriter.NewWriter(s, 0, 0, 2, ' ', 0)
	colour := map[Level]string{LevelOK: green, LevelWarn: yellow, LevelFail: red}
	for _, c := range checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.paint(colour[c.Level], string(c.Level)), c.Name, c.Detail)
		if c.Fix != "" && c.Level != LevelOK {
			fmt.Fprintf(w, "%s\t\t→ %s\n", s.paint(plain, ""), c.Fix)
		}
	}
	return w.Flush()
}

// checkDisk looks at the room for the data directory, which need not exist yet.
func checkDisk(dir string) Check {
	c := Check{Name: "disk", Level: LevelOK}
	at := filepath.Clean(dir)
	for {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(at, &st); err != nil {
		return Check{"disk", LevelWarn, fmt.Sprintf("the room for %s is not known: %v", dir, err), ""}
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block size is positive
	c.Detail = fmt.Sprintf("%.1f GB free for %s", float64(free)/1e9, dir)
	switch {
	case free < emptyDisk:
		c.Level, c.Fix = LevelFail, "Make room, or choose another place with --data-dir."
	case free < lowDisk:
		c.Level, c.Fix = LevelWarn, "Images and logs may need more room; make some, or choose another place with --data-dir."
	}
	return c
}

// checkPort tries whether an address can be listened on.
func checkPort(ctx context.Context, flag, address string) Check {
	name := "port " + flag
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		_ = l.Close()
		return Check{name, LevelOK, address + " is free", ""}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return Check{name, LevelFail, address + " is in use by another program", fmt.Sprintf("Stop that program, or choose another address with %s. Who it is: ss -ltnp", flag)}
	case errors.Is(err, syscall.EACCES):
		return Check{name, LevelFail, address + " may be used by root only", "Run as root: sudo trysail doctor"}
	}
	return Check{name, LevelFail, fmt.Sprintf("%s cannot be used: %v", address, err), fmt.Sprintf("Choose another address with %s.", flag)}
}

// checkServer asks the server of the data directory how it is, if there is one.
func (a *App) checkServer(ctx context.Context, dataDir string) (c Check, running bool) {
	admin, err := readAdmin(dataDir)
	if err != nil {
		text, hint := describe(err)
		return Check{"server", LevelWarn, sentence(text), hint}, false
	}
	status, body, err := a.health(ctx, admin)
	switch {
	case err != nil:
		text, hint := describe(err)
		return Check{"server", LevelWarn, sentence(text), hint}, false
	case status == http.StatusOK:
		return Check{"server", LevelOK, "healthy at " + admin.Endpoint, ""}, true
	}
	return Check{"server", LevelFail, fmt.Sprintf("it runs at %s, but: %s", admin.Endpoint, strings.Join(strings.Fields(clean(strings.ReplaceAll(body, "\n", " "))), " ")), "See its log: journalctl -u trysail"}, true
}

// health calls GET /healthz.
func (a *App) health(ctx context.Context, admin Admin) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if strings.HasPrefix(admin.Endpoint, "https:") {
		if transport.TLSClientConfig, err = trust(admin.CA); err != nil {
			return 0, "", err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin.Endpoint+"/healthz", nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, string(text), err
}
