// Package healthy is services that are unusual and yet well. Each must become ACTIVE, answer through the edge, and get no
// verdict: false alarms destroy trust.
package healthy

import (
	"github.com/trysail/trysail/test/corpus"
)

// answer is what test/programs/misbehave serves.
const answer = "misbehave is well"

// Cases are all of them. Names are the names of services, too.
func Cases() []corpus.Case {
	list := []corpus.Case{
		{Name: "ok-plain", Deployment: corpus.Web("serve"), Answer: answer, Quick: true},
		{Name: "ok-slow-start", Deployment: corpus.Web("say warming up", "sleep 60s", "serve"), Answer: answer},
		{Name: "ok-throttled-start", Deployment: corpus.Web("burn 5s", "serve"), Answer: answer},
		{Name: "ok-worker", Deployment: corpus.Worker("say working"), Quick: true},
		{Name: "ok-worker-listens", Deployment: corpus.Worker("listen :9000")},
		{Name: "ok-no-endpoint", Deployment: corpus.Deployment{Containers: corpus.Web("serve").Containers}},
		{Name: "ok-scratch", Deployment: corpus.WebImage("scratch:1", "serve"), Answer: answer, Quick: true},
		{Name: "ok-user-name", Deployment: corpus.WebImage("unprivileged:1", "serve"), Answer: answer},
		{Name: "ok-user-number", Deployment: corpus.WebImage("number:1", "serve"), Answer: answer},
		{Name: "ok-reads-only", Deployment: corpus.WebImage("readonly:1", "serve"), Answer: answer},
		{Name: "ok-port-80-unprivileged", Deployment: onPort(corpus.WebImage("unprivileged:1", "serve", "addr=:80"), 80), Answer: answer},
		{Name: "ok-nginx", Deployment: onPort(corpus.WebImage("nginx:1"), 80), Answer: "nginx is well", Quick: true},
		{Name: "ok-supervised", Deployment: corpus.WebImage("shellwrapper:1"), Answer: answer},
		{Name: "ok-exec-wrapper", Deployment: corpus.WebImage("execwrapper:1"), Answer: answer},
		{Name: "ok-forks", Deployment: corpus.WebImage("python:1", pythonForks), Answer: "python is well"},
		{Name: "ok-node", Deployment: corpus.WebImage("node:1", "server.js"), Answer: "node is well"},
		{Name: "ok-old-http", Deployment: corpus.WebImage("python:1", pythonServer), Answer: "Directory listing"},
		{Name: "ok-old-http-bare", Deployment: corpus.Web("serve", "http10"), Answer: answer},
		{Name: "ok-dual-stack", Deployment: corpus.Web("serve", "addr=[::]:8080"), Answer: answer},
		{Name: "ok-499", Deployment: corpus.Web("serve", "default=499").At(corpus.Endpoint{Codes: "499"}), Answer: answer, Status: 499},
		{Name: "ok-404", Deployment: corpus.Web("serve", "default=404").At(corpus.Endpoint{Defaults: true}), Answer: answer, Status: 404, Warning: "HC-DEFAULT", Quick: true},
		{Name: "ok-404-meant", Deployment: corpus.Web("serve", "default=404").At(corpus.Endpoint{Codes: "404"}), Answer: answer, Status: 404},
		{Name: "ok-redirect", Deployment: corpus.Web("serve", "status=/:302", "location=/shop").At(corpus.Endpoint{Codes: "200-399"}), Status: 302},
		{Name: "ok-204", Deployment: corpus.Web("serve", "default=204").At(corpus.Endpoint{Codes: "200-299"}), Status: 204},
		{Name: "ok-more-ports", Deployment: corpus.Web("listen :9100", "listen 127.0.0.1:9101", "udp :9102", "serve"), Answer: answer},
		{Name: "ok-other-expose", Deployment: corpus.WebImage("exposed:1", "serve"), Answer: answer},
		{Name: "ok-noisy-sidecar", Deployment: corpus.Web("serve").With("agent", corpus.Steps("retry 127.0.0.1:4317")), Answer: answer},
		{Name: "ok-retries", Deployment: corpus.Web("retry 127.0.0.1:6379", "serve").With("cache", corpus.Steps("sleep 5s", "listen :6379")), Answer: answer, Quick: true},
		{Name: "ok-words", Deployment: corpus.Web("cry panic: runtime error: out of memory", "cry Killed", "cry bind: address already in use", "cry OOMKilled exec format error", "serve"), Answer: answer},
		{Name: "ok-traceback", Deployment: corpus.WebImage("python:1", pythonTraceback), Answer: "Directory listing"},
		{Name: "ok-big-environment", Deployment: corpus.WebImage("bigenv:1", "serve"), Answer: answer},
		{Name: "ok-many-threads", Deployment: corpus.Web("threads 3500", "serve"), Answer: answer},
		{Name: "ok-much-memory", Deployment: corpus.Web("alloc 470", "serve"), Answer: answer},
		{Name: "ok-many-files", Deployment: corpus.WebImage("python:1", pythonFiles), Answer: "Directory listing"},
		{Name: "ok-https", Deployment: https(corpus.Web("serve", "tls")), Answer: answer},
		{Name: "ok-slow-body", Deployment: corpus.Web("serve", "slowbody", "body=this is said one word after the other"), Answer: "one word after the other"},
		{Name: "ok-slow-answer", Deployment: corpus.Web("serve", "wait=1500ms"), Answer: answer},
		{Name: "ok-no-keep-alive", Deployment: corpus.Web("serve", "nokeepalive"), Answer: answer},
		{Name: "ok-reads-bodies", Deployment: corpus.Web("serve", "continue"), Answer: answer},
		{Name: "ok-names", Deployment: corpus.Deployment{
			Containers: map[string]corpus.Container{"1-2-web-3": corpus.Web("serve").Containers["web"], "2": corpus.Steps("say two")},
			Endpoint:   &corpus.Endpoint{Container: "1-2-web-3", Port: 8080},
		}, Answer: answer},
		{Name: "ok-ten-containers", Deployment: ten(), Answer: answer},
		{Name: "ok-helper-restarts", Deployment: corpus.Web("helper", "sleep 500ms", "exit 1", ".", "serve"), Answer: answer},
		{Name: "ok-late-health", Deployment: corpus.Web("serve", "addr=:8081", ".", "sleep 5s", "serve"), Answer: answer},
		{Name: "ok-deaf", Deployment: corpus.Web("deaf", "serve"), Answer: answer},
		{Name: "ok-zombies", Deployment: corpus.WebImage("busybox:1", "sh", "-c", "i=0; while [ $i -lt 50 ]; do sh -c 'sh -c true &'; i=$((i+1)); done; exec /misbehave serve"), Answer: answer},
		{Name: "ok-two-nodes", Deployment: corpus.Web("serve"), Scale: 2, Answer: answer},
	}
	for i := range list {
		list[i].Outcome = corpus.Works
	}
	return list
}

const (
	pythonServer = "import http.server\nhttp.server.HTTPServer(('', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()"
	// A master that binds and two workers that serve, as gunicorn does it.
	pythonForks = `import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self.send_response(200); self.end_headers(); self.wfile.write(b'python is well\n')
server = http.server.HTTPServer(('', 8080), Handler)
for _ in range(2):
  if os.fork() == 0:
    server.serve_forever()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
  os.wait()
`
	pythonTraceback = "import traceback\ntry:\n  {}['DATABASE_URL']\nexcept KeyError:\n  traceback.print_exc()\n" + pythonServer
	pythonFiles     = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\nheld = [open('/dev/null') for _ in range(230)]\n" + pythonServer
)

func onPort(d corpus.Deployment, port int32) corpus.Deployment {
	web := d.Containers["web"]
	web.Ports = map[string]string{"80": "HTTP"}
	return d.With("web", web).At(corpus.Endpoint{Port: port})
}

func https(d corpus.Deployment) corpus.Deployment {
	web := d.Containers["web"]
	web.Ports = map[string]string{"8080": "HTTPS"}
	return d.With("web", web)
}

func ten() corpus.Deployment {
	d := corpus.Web("serve")
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"} {
		d = d.With(name, corpus.Steps("say "+name))
	}
	return d
}
