package broken

import (
	"fmt"
	"time"

	"github.com/trysail/trysail/test/corpus"
)

// network are programs that nobody can talk to.
func network() []corpus.Case {
	udp := corpus.Web("udp :8080")
	return []corpus.Case{
		{Name: "net-nolisten", Deployment: corpus.Web("say doing nothing"), Code: "NET-NOLISTEN", Says: "nothing", Confidence: certain},
		{Name: "net-udp", Deployment: udp, Code: "NET-NOLISTEN", Says: "UDP", Confidence: certain},
		{
			Name: "net-worker", Deployment: corpus.Web("say waiting for work").With("api", corpus.Container{Image: "misbehave:1", Command: []string{"serve", "addr=:3000"}, Ports: map[string]string{"3000": "HTTP"}}),
			Code: "NET-NOLISTEN", Says: "web", Confidence: certain,
		},
		{Name: "net-stopped", Deployment: corpus.Web("serve", "status=/:503", "close=5s"), Code: "NET-NOLISTEN", Says: "stopped listening", Confidence: certain},
		{Name: "net-wrongport", Deployment: corpus.WebImage("exposed:1", "serve", "addr=:3000"), Before: good(), Code: "NET-WRONGPORT", Says: "3000", Fix: "3000", Confidence: certain},
		{Name: "net-wrongport-env", Deployment: corpus.WebImage("node:1", "server.js").Env("PORT", "5000"), Code: "NET-WRONGPORT", Says: "5000", Fix: `"PORT": "8080"`, Confidence: certain},
		{Name: "net-loopback", Deployment: corpus.Web("serve", "addr=127.0.0.1:8080"), Code: "NET-LOOPBACK", Says: "127.0.0.1:8080", Fix: "0.0.0.0:8080", Confidence: certain},
		{Name: "net-loopback-env", Deployment: corpus.WebImage("node:1", "server.js").Env("HOST", "127.0.0.1"), Code: "NET-LOOPBACK", Says: "127.0.0.1:8080", Fix: `set "HOST"`, Confidence: certain},
		{Name: "net-loopback-v6", Deployment: corpus.Web("serve", "addr=[::1]:8080"), Code: "NET-LOOPBACK", Says: "[::1]:8080", Confidence: certain},
		{Name: "net-inuse", Deployment: corpus.Web("serve", "status=/:503").With("admin", corpus.Steps("sleep 500ms", "serve")), Container: "admin", Code: "NET-INUSE", Says: "8080", Fix: "another port", Quick: true},
		{Name: "net-inuse-node", Deployment: slowly(corpus.WebImage("node:1", "server.js").Env("DELAY", "500")).With("admin", corpus.Container{
			Image: "node:1", Command: []string{"-e", "setTimeout(() => require('./server.js'), 1000)"},
		}), Container: "admin", Code: "NET-INUSE", Says: "8080"},
		{Name: "net-proto-tls", Deployment: corpus.Web("serve", "tls"), Code: "NET-PROTO", Says: "TLS", Fix: "HTTPS", Confidence: certain},
		{Name: "net-proto-plain", Deployment: https("serve"), Code: "NET-PROTO", Says: "TLS", Fix: `"HTTP"`, Confidence: certain},
		{Name: "net-proto-grpc", Deployment: corpus.Web("serve", "grpc"), Code: "NET-PROTO", Says: "HTTP/2", Fix: "HTTP/1.1", Confidence: certain},
		{Name: "net-proto-h2c", Deployment: corpus.Web("serve", "h2c"), Code: "NET-PROTO", Says: "closes", Confidence: likely},
		{Name: "net-proto-ssh", Deployment: corpus.Web("serve", "raw=SSH-2.0-OpenSSH_9.2p1"), Code: "NET-PROTO", Says: "SSH", Confidence: certain},
		{Name: "net-proto-redis", Deployment: redis(), Code: "NET-PROTO", Confidence: likely},
		{Name: "net-proto-hangup", Deployment: corpus.Web("serve", "hangup"), Code: "NET-PROTO", Says: "closes", Confidence: likely},
	}
}

// https is Web with a port that is declared HTTPS.
func https(steps ...string) corpus.Deployment {
	d := corpus.Web(steps...)
	web := d.Containers["web"]
	web.Ports = map[string]string{"8080": "HTTPS"}
	return d.With("web", web)
}

func redis() corpus.Deployment {
	return corpus.Deployment{
		Containers: map[string]corpus.Container{"web": {Image: "redis:1", Ports: map[string]string{"6379": "HTTP"}}},
		Endpoint:   &corpus.Endpoint{Container: "web", Port: 6379},
	}
}

// slowly makes a deployment need ten good answers, so that what goes wrong a moment after the start is still in time.
func slowly(d corpus.Deployment) corpus.Deployment { return d.At(corpus.Endpoint{Healthy: 10}) }

// health are programs that answer, but not as they should.
func health() []corpus.Case {
	return []corpus.Case{
		{Name: "hc-redirect", Deployment: corpus.Web("serve", "default=301", "location=https://shop.example/"), Code: "HC-REDIRECT", Says: "https://shop.example/", Fix: "X-Forwarded-Proto", Confidence: certain},
		{Name: "hc-redirect-path", Deployment: corpus.Web("serve", "status=/:302", "location=/login"), Code: "HC-REDIRECT", Says: "/login", Confidence: certain},
		{Name: "hc-auth", Deployment: corpus.Web("serve", "login", "status=/up:200"), Code: "HC-AUTH", Says: "login", Fix: "path", Confidence: certain},
		{Name: "hc-auth-403", Deployment: corpus.Web("serve", "default=403"), Code: "HC-AUTH", Says: "403", Confidence: certain},
		{Name: "hc-404", Deployment: corpus.Web("serve", "default=404", "status=/up:200").At(corpus.Endpoint{Path: "/healthz"}), Code: "HC-404", Says: "/healthz", Fix: "/up", Confidence: certain},
		{Name: "hc-404-all", Deployment: corpus.Web("serve", "default=404"), Code: "HC-404", Says: "404", Confidence: certain},
		{Name: "hc-host", Deployment: corpus.Web("serve", "host=shop.example"), Code: "HC-HOST", Says: "host", Fix: "ALLOWED_HOSTS", Confidence: certain},
		{Name: "hc-5xx", Deployment: corpus.Web("serve", "default=500", "body=no such table: users"), Code: "HC-5XX", Says: "no such table", Confidence: certain},
		{Name: "hc-gateway", Deployment: corpus.Web("serve", "default=502", "body=<h1>502 Bad Gateway</h1>"), Code: "HC-5XX", Says: "proxy", Confidence: certain},
		{Name: "hc-status", Deployment: corpus.Web("serve", "default=418"), Code: "HC-STATUS", Says: "418", Fix: "418", Confidence: certain},
		{Name: "hc-slow", Deployment: corpus.Web("serve", "wait=4s"), Code: "HC-SLOW", Says: "2 s", Fix: "timeoutSeconds", Confidence: certain},
		{Name: "hc-stuck", Deployment: corpus.WebImage("python:1", "import socket, time\ns = socket.socket()\ns.bind(('', 8080))\ns.listen(0)\ntime.sleep(3600)"), Code: "HC-SLOW", Says: "2 s"},
		{Name: "hc-mute", Deployment: corpus.Web("listen :8080"), Code: "HC-SLOW", Says: "2 s", Confidence: certain},
		{Name: "hc-notyet", Deployment: slowly(corpus.Web(fmt.Sprint("sleep ", corpus.Window-3500*time.Millisecond), "serve", "wait=400ms")), Code: "HC-NOTYET", Fix: "--activation-timeout", Confidence: certain},
		{Name: "hc-flap", Deployment: slowly(corpus.Web("serve", "wait=200ms", "good=2s")), Code: "HC-FLAP", Says: "healthy for", Confidence: certain},
	}
}
