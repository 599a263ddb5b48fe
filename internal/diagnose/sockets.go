package diagnose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// sockets explains a refused connection by who listens where.
func (p podCase) sockets(ep *trysail.PublicEndpoint) (finding, bool) {
	listeners := p.e.Listeners
	if listeners == nil {
		listeners = p.knocked()
	}
	var here, elsewhere []trysail.Listener
	for _, l := range listeners {
		switch {
		case l.UDP:
		case int(l.Address.Port()) == ep.ContainerPort:
			here = append(here, l)
		case p.isOurs(ep, l):
			elsewhere = append(elsewhere, l)
		}
	}
	if i := slices.IndexFunc(here, func(l trysail.Listener) bool { return !l.Address.Addr().IsLoopback() }); i >= 0 {
		return finding{}, false // it listens where it should
	}
	if len(here) > 0 {
		return p.loopback(ep, here[0]), true
	}
	if len(elsewhere) > 0 {
		return p.wrongPort(ep, elsewhere), true
	}
	if p.e.Listeners == nil {
		if f, ok := p.stopped(ep); ok {
			return f, true
		}
		return p.saidLoopback(ep)
	}
	if f, ok := p.stuck(ep); ok {
		return f, true
	}
	if f, ok := p.starving(); ok {
		return f, true
	}
	return p.nothing(ep), true
}

// starving explains why nothing listens yet by what the pod did not get.
func (p podCase) starving() (finding, bool) {
	if f, ok := p.memoryCrawl(); ok {
		return f, true
	}
	f, ok := p.cpuThrottle()
	if ok = ok && p.TookTooLong; ok {
		f.prove("socket", "nothing listens yet")
	}
	return f, ok
}

// isOurs reports whether a socket can be the one that is meant: not one that belongs to another container.
func (p podCase) isOurs(ep *trysail.PublicEndpoint, l trysail.Listener) bool {
	if l.Container != "" {
		return l.Container == ep.ContainerName
	}
	port := strconv.Itoa(int(l.Address.Port()))
	if _, own := p.Deployment.Containers[ep.ContainerName].Ports[port]; own {
		return true
	}
	for name, c := range p.Deployment.Containers {
		if _, opens := c.Ports[port]; opens && name != ep.ContainerName {
			return false
		}
		if name != ep.ContainerName && slices.Contains(p.Version.Autopsies[name].Exposed, port+"/tcp") && !slices.Contains(p.Version.Autopsies[ep.ContainerName].Exposed, port+"/tcp") {
			return false
		}
	}
	return true
}

// loopback is about a program that only the pod itself can reach.
func (p podCase) loopback(ep *trysail.PublicEndpoint, l trysail.Listener) finding {
	f := finding{code: "NET-LOOPBACK", confidence: trysail.Certain, rank: rankSocket}
	where := l.Address.String()
	if p.e.Listeners == nil {
		where = fmt.Sprintf("127.0.0.1:%d or [::1]:%d", ep.ContainerPort, ep.ContainerPort)
	}
	f.summary = fmt.Sprintf("The program%s listens on %s, which only the pod itself can reach.", p.ofProcess(l), where)
	f.fix = fmt.Sprintf("Make it listen on 0.0.0.0:%d%s.", ep.ContainerPort, p.bindHint(ep, l))
	p.proveListener(&f, l)
	return f
}

// stopped is about a port that answered and then refused connections, from outside and from inside of the pod.
func (p podCase) stopped(ep *trysail.PublicEndpoint) (f finding, ok bool) {
	k, _ := p.knock(ep.ContainerPort)
	if k.Outside != trysail.ReachRefused || k.Inside != trysail.ReachRefused {
		return f, false
	}
	var until time.Time
	for _, o := range p.e.Probes {
		if o.Kind == trysail.ProbeAnswer && o.Last.After(until) {
			until = o.Last
		}
	}
	if until.IsZero() {
		return f, false
	}
	f = finding{code: "NET-NOLISTEN", confidence: trysail.Certain, rank: rankSocket, fix: "See its log from that time."}
	f.summary = fmt.Sprintf("The program stopped listening: port %d answered until %s, and at the end nothing listened there.", ep.ContainerPort, until.UTC().Format("15:04:05 UTC"))
	f.prove("socket", "port %d: refused from outside and from inside of the pod", ep.ContainerPort)
	return f, true
}

// proveListener adds how it is known who listens.
func (p podCase) proveListener(f *finding, l trysail.Listener) {
	port := l.Address.Port()
	k, tried := p.knock(int(port))
	switch {
	case p.e.Listeners != nil || !tried:
		f.prove("socket", "%s", p.listenerText(l))
	case k.Outside == trysail.ReachOK:
		f.prove("socket", "port %d of the pod takes connections", port)
	default:
		f.prove("socket", "port %d: %s", port, knockText(k))
	}
}

// bindHint says how the program is told to listen everywhere.
func (p podCase) bindHint(ep *trysail.PublicEndpoint, l trysail.Listener) string {
	what := strings.ToLower(l.Process + " " + strings.Join(p.commandLine(ep.ContainerName), " "))
	log := strings.ToLower(strings.Join(p.e.LogTail[ep.ContainerName], "\n"))
	env := p.Deployment.Containers[ep.ContainerName].Environment
	for _, name := range []string{"HOST", "BIND", "BIND_ADDRESS", "LISTEN_ADDR", "LISTEN", "HOSTNAME", "ADDRESS", "ADDR"} {
		if v := env[name]; strings.Contains(v, l.Address.Addr().String()) || strings.Contains(v, "localhost") {
			return fmt.Sprintf(`: set "%s" in environment`, name)
		}
	}
	for _, h := range []struct{ has, log, hint string }{
		{"vite", "vite v", ": vite --host 0.0.0.0"},
		{"next", "next.js", ": next start -H 0.0.0.0"},
		{"uvicorn", "uvicorn running", ": uvicorn --host 0.0.0.0"},
		{"gunicorn", "starting gunicorn", fmt.Sprintf(": gunicorn --bind 0.0.0.0:%d", ep.ContainerPort)},
		{"flask", "serving flask app", ": flask run --host 0.0.0.0"},
		{"runserver", "django version", fmt.Sprintf(": manage.py runserver 0.0.0.0:%d", ep.ContainerPort)},
		{"streamlit", "streamlit app", ": --server.address 0.0.0.0"},
		{"rails", "puma starting", ": rails server -b 0.0.0.0"},
		{"dotnet", "now listening on: http://localhost", fmt.Sprintf(": ASPNETCORE_URLS=http://0.0.0.0:%d", ep.ContainerPort)},
	} {
		if strings.Contains(what, h.has) || strings.Contains(log, h.log) {
			return h.hint
		}
	}
	return " (often a HOST or --host setting)"
}

// wrongPort is about a program that listens on another port than the endpoint's.
func (p podCase) wrongPort(ep *trysail.PublicEndpoint, elsewhere []trysail.Listener) finding {
	exposed := p.Version.Autopsies[ep.ContainerName].Exposed
	isExposed := func(l trysail.Listener) int {
		if slices.Contains(exposed, fmt.Sprintf("%d/tcp", l.Address.Port())) {
			return 0
		}
		return 1
	}
	isInside := func(l trysail.Listener) int {
		if l.Address.Addr().IsLoopback() {
			return 1
		}
		return 0
	}
	slices.SortFunc(elsewhere, func(a, b trysail.Listener) int {
		if n := isInside(a) - isInside(b); n != 0 {
			return n
		}
		if n := isExposed(a) - isExposed(b); n != 0 {
			return n
		}
		return a.Address.Compare(b.Address)
	})
	best := elsewhere[0]
	port := best.Address.Port()
	f := finding{code: "NET-WRONGPORT", confidence: trysail.Certain, rank: rankSocket}
	f.summary = fmt.Sprintf("The endpoint is port %d, but the pod listens on %s%s.", ep.ContainerPort, ports(elsewhere), p.ofProcess(best))
	f.fix = fmt.Sprintf(`Set "containerPort": %d in publicEndpoint and "ports": {"%d": "HTTP"}, or make the program listen on %d`, port, port, ep.ContainerPort)
	if _, uses := p.Deployment.Containers[ep.ContainerName].Environment["PORT"]; uses || len(exposed) == 0 {
		f.fix += fmt.Sprintf(` (often "PORT": "%d" in environment)`, ep.ContainerPort)
	}
	f.fix += "."
	if best.Address.Addr().IsLoopback() {
		where := best.Address.String()
		if p.e.Listeners == nil {
			where = fmt.Sprintf("localhost:%d", port)
		}
		f.summary = fmt.Sprintf("The endpoint is port %d, but the pod listens on %s only%s, which is also not reachable from outside.", ep.ContainerPort, where, p.ofProcess(best))
		f.fix = fmt.Sprintf("Make the program listen on 0.0.0.0:%d (often HOST and PORT settings).", ep.ContainerPort)
	}
	p.proveListener(&f, best)
	if p.e.Listeners == nil && best.Container == "" {
		f.confidence = trysail.Likely // it may be another container's
	}
	if len(exposed) > 0 {
		f.prove("image", "the image's EXPOSE says %s", p.show(strings.Join(exposed, ", ")))
	}
	return f
}

func (p podCase) ofProcess(l trysail.Listener) string {
	if l.Process == "" {
		return ""
	}
	return " (" + p.show(l.Process) + ")"
}

// nothing is about pods in which nobody waits for connections.
func (p podCase) nothing(ep *trysail.PublicEndpoint) finding {
	f := finding{code: "NET-NOLISTEN", confidence: trysail.Certain, rank: rankSocket}
	others := ""
	for _, l := range p.e.Listeners {
		if l.UDP || !p.isOurs(ep, l) {
			others = fmt.Sprintf(" (there is %s)", p.listenerText(l))
		}
	}
	f.summary = fmt.Sprintf("After %s nothing in the pod listens on any port, though its containers are running.", p.Window)
	if others != "" {
		f.summary = fmt.Sprintf("After %s container %s listens on no TCP port, though it is running%s.", p.Window, ep.ContainerName, others)
	}
	f.fix = fmt.Sprintf("Make the program listen on 0.0.0.0:%d. If it is still starting, give it more time (--activation-timeout) or CPU (power).", ep.ContainerPort)
	if len(p.Version.Autopsies[ep.ContainerName].Exposed) == 0 && len(p.Deployment.Containers) > 1 {
		f.fix += " If it is a worker, point publicEndpoint at another container."
	}
	for _, s := range p.e.Sockets {
		if !s.UDP && p.isOurs(ep, s.Listener) {
			f.summary = fmt.Sprintf("The program stopped listening: it was on %s until %s, and at the end nothing in the pod listened.", s.Address, s.Last.UTC().Format("15:04:05 UTC"))
			f.fix = "See its log from that time."
			break
		}
	}
	if c := p.e.Cgroup; c != nil && c.CPU > 0 {
		f.prove("counter", "the pod used %s of CPU", span(c.CPU))
	}
	f.prove("socket", "no listening TCP socket of container %s", ep.ContainerName)
	return f
}

func (p podCase) listenerText(l trysail.Listener) string {
	proto := ""
	if l.UDP {
		proto = "UDP "
	}
	return strings.TrimSpace(fmt.Sprintf("listens on %s%s %s", proto, l.Address, p.show(l.Process)))
}

func ports(list []trysail.Listener) string {
	var texts []string
	for _, l := range list {
		if t := fmt.Sprint("port ", l.Address.Port()); !slices.Contains(texts, t) && len(texts) < 6 {
			texts = append(texts, t)
		}
	}
	return strings.Join(texts, ", ")
}
