// Caddy with what a reverse proxy needs of it, for the benchmark of the edge.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // registers itself
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"               // likewise
	_ "github.com/caddyserver/caddy/v2/modules/logging"                // likewise
	_ "github.com/caddyserver/caddy/v2/modules/metrics"                // likewise
)

func main() { caddycmd.Main() }
