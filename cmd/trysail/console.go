package main

import (
	"net/http"
	"strings"

	"github.com/trysail/trysail/internal/console"
)

// newConsole makes the web console, which answers on --listen beside the API and on the edge under a name of its own.
func (s *server) newConsole(endpoint, edgePort string) (*console.Console, error) {
	return console.New(console.Config{
		Version: version, Region: s.cfg.region, Domain: s.cfg.domain, EdgePort: edgePort, Endpoint: endpoint, ValidationZone: s.cfg.validationZone(),
	}, s.control, s.log.With("part", "console"))
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
