package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/console"
)

// newConsole makes the web console, which answers on --listen beside the API and on the edge under a name of its own.
func (s *server) newConsole(endpoint, edgePort string) (*console.Console, error) {
	return console.New(console.Config{
		Version: version, Region: s.cfg.region, Domain: s.cfg.domain, EdgePort: edgePort, Endpoint: endpoint, ValidationZone: s.cfg.validationZone(),
		Installed: installed, SharedSessions: s.copies != nil,
	}, s.control, s.log.With("part", "console"))
}

// runningProgram is the program of this process, also when another one has taken its place on the disk.
const runningProgram = "/proc/self/exe"

func installed(ctx context.Context) console.Installed { return installedOf(ctx, runningProgram) }

// installedOf finds out whether the program on the disk is still the one that a process runs, by the process's link to it.
func installedOf(ctx context.Context, link string) console.Installed {
	path, err := os.Readlink(link)
	if err != nil {
		return console.Installed{}
	}
	i := console.Installed{Path: strings.TrimSuffix(path, " (deleted)")}
	running, err := os.Stat(link)
	if err != nil {
		return i
	}
	there, err := os.Stat(i.Path)
	if err != nil || os.SameFile(running, there) {
		return i
	}
	i.Changed = true
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, i.Path, "version", "--output", "json").Output() //nolint:gosec // what would run after a restart
	var build struct {
		Version string `json:"version"`
	}
	if err == nil && json.Unmarshal(text, &build) == nil {
		i.Version = build.Version
	}
	return i
}

// browsersTo leads browsers that ask for the root to the console; what else is asked for there is for next.
func browsersTo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if reads && r.URL.Path == "/" && strings.Contains(r.Header.Get("Accept"), "text/html") {
			http.Redirect(w, r, console.Root, http.StatusSeeOther)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// consoleHost is the console as the edge serves it under its own name, where there is nothing else.
func consoleHost(c http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(console.Root, c)
	mux.Handle("/{$}", http.RedirectHandler(console.Root, http.StatusSeeOther))
	return mux
}
