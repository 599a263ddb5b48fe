package diagnose

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

// Rules about what a program wrote. They are likely causes, unless something that was measured agrees.

// factFinding turns one fact of a container's last words into a cause.
func (p podCase) factFinding(container string, fact lastwords.Fact, words lastwords.Words) (finding, bool) {
	f := finding{confidence: trysail.Likely, container: container}
	name := p.mark(fact.Name)
	switch fact.Kind {
	case lastwords.ExecFormat:
		f.code, f.fix = "IMG-BIN-ARCH", "Build the image for this machine (docker buildx build --platform …); a script needs a first line such as #!/bin/sh."
		f.summary = p.named(fact.Name, "The program") + " is not a program for this machine's processor, or a script without a `#!` line."
	case lastwords.OldCPU:
		f.code, f.fix = "IMG-BIN-ARCH", "Build it for an older processor (for amd64: x86-64-v1), or use a machine with a newer one."
		f.summary = "The program was built for a newer processor than this machine's" + lastSentence(words) + "."
	case lastwords.NoLoader:
		f.code, f.fix = "RUN-LOADER", "Build a static program, or use the base image that it was built for; check scripts for Windows line ends (\\r\\n)."
		f.summary = name + " is in the image, but what it needs to run is not: its loader (libc), or the interpreter of its `#!` line."
	case lastwords.MissingLibrary:
		f.code, f.fix = "RUN-LOADER", "Install the library in the Dockerfile, or use the base image that the program was built for."
		f.summary = fmt.Sprintf("The program needs the library %s, which this image lacks.", name)
	case lastwords.CRLF:
		f.code, f.fix = "RUN-CRLF", `Convert it in the Dockerfile: RUN sed -i 's/\r$//' on the script; and *.sh text eol=lf in .gitattributes.`
		f.summary = "A script has Windows line ends, so " + p.named(fact.Name, "a command") + " is looked for with a carriage return in its name."
	case lastwords.MissingCommand:
		f.code, f.fix = "RUN-NOFILE", "Install it in the Dockerfile, or correct the command."
		f.summary = name + " is not in the image" + lastSentence(words) + "."
		if strings.Contains(words.Sentence, "Missing script") {
			f.summary = fmt.Sprintf("package.json has no script %s.", name)
			f.fix = fmt.Sprintf("Add the script %s to package.json, or start the program itself: [\"node\", \"server.js\"].", name)
		}
	case lastwords.PortInUse:
		return p.portInUse(container, fact, f), true
	case lastwords.PortDenied:
		f.code, f.fix = "NET-LOWPORT", "Listen on a port above 1023, such as 8080, and open that in `ports` and `publicEndpoint`."
		f.summary = "Its user may not open the port" + portText(fact.Port) + "."
	case lastwords.MissingEnv:
		return p.missingEnv(container, fact, f), true
	case lastwords.ReadOnly:
		f.code, f.fix = "FS-RO", "Write to a temporary directory."
		f.summary = "Writing " + p.named(fact.Name, "a file") + " failed: the file system is read-only there."
	case lastwords.Denied:
		f.code, f.fix = "FS-RO", fmt.Sprintf("Give it to the image's user in the Dockerfile: RUN chown -R <user> %s; or write to a temporary directory.", p.named(fact.Name, "the directory"))
		f.summary = "Its user may not use " + p.named(fact.Name, "a file") + lastSentence(words) + "."
	case lastwords.NoSpace:
		return p.diskFull(fact, f), true
	case lastwords.TooManyFiles:
		return p.openFiles(container, f), true
	case lastwords.TooManyProcesses:
		return p.processes(container, f), true
	case lastwords.OutOfMemory:
		m := p.languageMemory(container, fact, words)
		m.container = container
		return m, true
	case lastwords.Refused, lastwords.Unreached, lastwords.Unresolved:
		return p.dependency(container, fact, words, f), true
	default:
		return f, false
	}
	return f, true
}

// named is a name that a program wrote, or our own words if it wrote none.
func (c *caseFile) named(name, otherwise string) string {
	if name == "" {
		return otherwise
	}
	return c.mark(name)
}

func portText(port int) string {
	if port == 0 {
		return ""
	}
	return " " + strconv.Itoa(port)
}

// portInUse is about a port that was taken. Containers of a pod share their ports, so another one has it.
func (p podCase) portInUse(container string, fact lastwords.Fact, f finding) finding {
	f.code, f.fix = "NET-INUSE", "Make each container listen on a port of its own."
	f.summary = fmt.Sprintf("The port%s that %s wants was taken: the containers of one deployment share their ports.", portText(fact.Port), container)
	if fact.Port == 0 {
		return f
	}
	other := ""
	for _, s := range p.e.Sockets {
		if int(s.Address.Port()) == fact.Port && s.Container != "" && s.Container != container {
			other = s.Container
			f.confidence = trysail.Certain
			f.prove("socket", "container %s (%s) listened on %s", s.Container, p.show(s.Process), s.Address)
			break
		}
	}
	for _, name := range p.Deployment.ContainerNames() {
		if _, opens := p.Deployment.Containers[name].Ports[strconv.Itoa(fact.Port)]; other == "" && opens && name != container {
			other = name
		}
	}
	if other != "" {
		f.summary = fmt.Sprintf("Containers %s and %s both want port %d; the containers of one deployment share their ports.", other, container, fact.Port)
		f.fix = fmt.Sprintf("Make %s listen on another port than %d, and open that in `ports`.", container, fact.Port)
		return f
	}
	if len(p.Deployment.Containers) == 1 {
		f.summary = fmt.Sprintf("The port%s that %s wants was taken: the program, or another one in the container, opens it twice. Containers of one deployment share their ports.", portText(fact.Port), container)
		f.fix = "Start the server once, or give the second one a port of its own."
	}
	return f
}

// missingEnv is about a variable that is not set, and whether it was set before.
func (p podCase) missingEnv(container string, fact lastwords.Fact, f finding) finding {
	variable := p.variable(fact.Name)
	f.code = "RUN-ENV"
	f.summary = fmt.Sprintf("It stopped because the variable %s is not set.", variable)
	f.fix = fmt.Sprintf("Add %s to `environment` of the container.", variable)
	value, set := p.Deployment.Containers[container].Environment[fact.Name]
	switch {
	case set && strings.TrimSpace(value) == "":
		f.summary = fmt.Sprintf("It stopped because the variable %s is empty.", variable)
		f.fix = fmt.Sprintf("Give %s a value in `environment` of the container.", variable)
		f.prove("record", "`environment` of %s has %s without a value", container, variable)
	case set:
		f.summary = fmt.Sprintf("It stopped because of the variable %s, which is set but was not accepted.", variable)
		f.fix = fmt.Sprintf("Check the value of %s in `environment` of the container.", variable)
	case p.Previous != nil:
		if _, before := p.Previous.Containers[container].Environment[fact.Name]; before {
			f.summary = fmt.Sprintf("It stopped because the variable %s is not set; it was set in version %d.", variable, p.Previous.Version)
			f.fix = fmt.Sprintf("Restore %s in `environment` of the container, as in version %d.", variable, p.Previous.Version)
			f.prove("record", "version %d had %s, this one has not", p.Previous.Version, variable)
		}
	}
	return f
}

// diskFull is about a file system without space.
func (p podCase) diskFull(fact lastwords.Fact, f finding) finding {
	f.code, f.fix = "FS-FULL", "Remove files and unused images (`trysail images` shows them), write less, or use a larger disk."
	f.summary = "Writing " + p.named(fact.Name, "a file") + " failed: there is no space left."
	m := p.machine()
	if m == nil || m.DiskTotal == 0 {
		return f
	}
	f.prove("machine", "%s of %s are free on %s", size(m.DiskFree), size(m.DiskTotal), m.DiskPath)
	if isFull(m) {
		f.confidence = trysail.Certain
		f.summary = fmt.Sprintf("Writing %s failed: this machine's disk is full, %s of %s are free.", p.named(fact.Name, "a file"), size(m.DiskFree), size(m.DiskTotal))
	}
	return f
}

// isFull reports whether a machine's disk has no room worth the name.
func isFull(m *trysail.MachineState) bool {
	return m.DiskTotal > 0 && (m.DiskFree < m.DiskTotal/100 || m.DiskFree < 64<<20)
}

// machine is how the machine was.
func (p podCase) machine() *trysail.MachineState {
	if p.e.Machine != nil {
		return p.e.Machine
	}
	return p.Version.Machine
}

// openFiles is about the limit of open files.
func (p podCase) openFiles(container string, f finding) finding {
	f.code, f.fix = "FILES", "Close files and connections that are not needed, or raise the soft limit where the program starts (ulimit -n)."
	d := p.e.Details[container]
	f.summary = "It ran out of open files."
	if d.FileLimit > 0 {
		f.summary = fmt.Sprintf("It ran out of open files: %d are allowed.", d.FileLimit)
		f.prove("counter", "%d open files of %d were seen", d.OpenFiles, d.FileLimit)
		if d.OpenFiles >= d.FileLimit*9/10 {
			f.confidence = trysail.Certain
		}
	}
	return f
}

// processes is about the limit of processes and threads.
func (p podCase) processes(container string, f finding) finding {
	f.code, f.fix = "PIDS", "Start fewer workers or threads."
	f.summary = "It could not start another process or thread."
	for _, c := range []*trysail.CgroupCounters{p.e.Cgroup, p.e.Details[container].Cgroup} {
		if c != nil && c.ProcessLimitHits > 0 {
			f.confidence = trysail.Certain
			f.summary = fmt.Sprintf("It hit the limit of %d processes and threads.", c.ProcessLimit)
			f.prove("counter", "%d times a process was refused; %d are allowed", c.ProcessLimitHits, c.ProcessLimit)
			break
		}
	}
	return f
}

// limits is about counters that were hit where the last words agree.
func (p podCase) limits(s trysail.ContainerStatus, words lastwords.Words) (finding, bool) {
	if fact, ok := words.Has(lastwords.TooManyProcesses); ok {
		if f := p.processes(s.Name, finding{confidence: trysail.Likely}); f.confidence == trysail.Certain || fact.Fatal {
			return f, true
		}
	}
	if fact, ok := words.Has(lastwords.TooManyFiles); ok {
		if f := p.openFiles(s.Name, finding{confidence: trysail.Likely}); f.confidence == trysail.Certain || fact.Fatal {
			return f, true
		}
	}
	return finding{}, false
}

// dependency is about something that a container needs and cannot reach.
func (p podCase) dependency(container string, fact lastwords.Fact, words lastwords.Words, f finding) finding {
	f.code = "DEP-DOWN"
	reach, measured := p.reach(fact)
	if fact.Host != "" && isLoopback(fact.Host) {
		return p.local(container, fact, reach, measured, f)
	}
	target := p.target(fact)
	said := map[lastwords.Kind]string{lastwords.Refused: "connection refused", lastwords.Unreached: "no answer", lastwords.Unresolved: "the name does not resolve"}[fact.Kind]
	f.summary = fmt.Sprintf("It cannot reach %s: %s.", target, said)
	f.fix = "Check the address, and that what it names is running and listens there."
	if fact.Host == "" {
		f.summary = "It could not reach something it needs: " + said + lastSentence(words) + "."
	}
	if fact.Kind == lastwords.Unresolved {
		f.fix = "Check the name. Services of this installation are reached as <service>.service.local."
		if n, ok := p.neighbor(fact.Host); ok {
			f.fix = fmt.Sprintf("Use the name %s.service.local: that is how service %s is reached.", n.Service, n.Service)
		}
	}
	if _, inPod := p.Deployment.Containers[fact.Host]; inPod && fact.Host != container {
		f.summary = fmt.Sprintf("It cannot reach %s: containers of one deployment reach each other on localhost, not by name.", target)
		f.fix = fmt.Sprintf("Use localhost%s instead of %s.", colonPort(fact.Port), target)
	}
	if !measured {
		return f
	}
	f.prove("reach", "from the pod's network: %s %s", p.target(lastwords.Fact{Host: reach.Host, Port: reach.Port}), reachText(reach.Result))
	if reach.Result == trysail.ReachOK {
		f.summary = strings.TrimSuffix(f.summary, ".") + "; afterwards it could be reached."
		f.fix = "It came up later than this: make the program try again for a while before it gives up."
		return f
	}
	f.confidence = trysail.Certain
	if fact.Host != "" {
		f.summary = fmt.Sprintf("It cannot reach %s; from the container's network that %s.", target, reachText(reach.Result))
	}
	return f
}

// local is about something that is looked for on localhost.
func (p podCase) local(container string, fact lastwords.Fact, reach trysail.Reach, measured bool, f finding) finding {
	port := strconv.Itoa(fact.Port)
	for _, name := range p.Deployment.ContainerNames() {
		if _, opens := p.Deployment.Containers[name].Ports[port]; opens && name != container {
			f.summary = fmt.Sprintf("It cannot reach localhost:%s, the port of container %s of the same deployment, which was not listening yet or not any more.", port, name)
			f.fix = fmt.Sprintf("Make the program try again until %s is up; see the log of %s if it does not come up.", name, name)
			return f
		}
	}
	f.code = "DEP-LOCAL"
	f.summary = fmt.Sprintf("It looks for something on localhost%s, and nothing in this deployment listens there.", colonPort(fact.Port))
	f.fix = "localhost is the pod itself. Use the address of what is meant; another service is <service>.service.local."
	for _, n := range p.Version.Neighbors {
		if fact.Port != 0 && slices.Contains(n.Ports, fact.Port) {
			f.summary = fmt.Sprintf("Nothing listens on localhost:%s in this deployment; service %s has it at %s.service.local:%s.", port, n.Service, n.Service, port)
			f.fix = fmt.Sprintf("Use %s.service.local:%s instead of localhost:%s in `environment`.", n.Service, port, port)
			f.prove("log", "service %s opens port %s", n.Service, port)
			break
		}
	}
	switch {
	case measured && reach.Result != trysail.ReachOK:
		f.confidence = trysail.Certain
		f.prove("reach", "from the pod's network: localhost:%s %s", port, reachText(reach.Result))
	case p.e.Listeners != nil && fact.Port != 0 && !p.listens(fact.Port), p.isClosed(fact.Port):
		f.confidence = trysail.Certain
		f.prove("socket", "nothing in the pod listens on port %s", port)
	case len(p.e.Sockets) > 0 && p.listened(fact.Port):
		f.code = "DEP-DOWN" // it was there at another time
		f.summary = fmt.Sprintf("It could not reach localhost:%s at that moment; something in the pod did listen there at another.", port)
		f.fix = "Make the program try again for a while before it gives up."
	}
	return f
}

// reach finds what was measured about a fact's target.
func (p podCase) reach(fact lastwords.Fact) (trysail.Reach, bool) {
	if fact.Host == "" && len(p.e.Reaches) == 1 {
		return p.e.Reaches[0], true
	}
	for _, r := range p.e.Reaches {
		if strings.EqualFold(r.Host, fact.Host) && fact.Host != "" && (r.Port == fact.Port || fact.Port == 0 || fact.Kind == lastwords.Unresolved) {
			return r, true
		}
	}
	return trysail.Reach{}, false
}

func (p podCase) target(fact lastwords.Fact) string {
	if fact.Port == 0 {
		return p.mark(fact.Host)
	}
	return p.mark(net.JoinHostPort(fact.Host, strconv.Itoa(fact.Port)))
}

func (p podCase) neighbor(host string) (trysail.Neighbor, bool) {
	for _, n := range p.Version.Neighbors {
		if host == n.Service {
			return n, true
		}
	}
	return trysail.Neighbor{}, false
}

// listens reports whether anything listened on the port at the end.
func (p podCase) listens(port int) bool {
	return slices.ContainsFunc(p.e.Listeners, func(l trysail.Listener) bool { return int(l.Address.Port()) == port })
}

// isClosed reports whether a port was tried from inside of the pod, and refused.
func (p podCase) isClosed(port int) bool {
	k, _ := p.knock(port)
	return k.Inside == trysail.ReachRefused
}

// listened reports whether anything ever listened on the port.
func (p podCase) listened(port int) bool {
	return slices.ContainsFunc(p.e.Sockets, func(s trysail.SocketSpan) bool { return int(s.Address.Port()) == port })
}

func colonPort(port int) string {
	if port == 0 {
		return ""
	}
	return ":" + strconv.Itoa(port)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

func reachText(r trysail.ReachResult) string {
	switch r {
	case trysail.ReachOK:
		return "is reachable"
	case trysail.ReachRefused:
		return "refuses connections"
	case trysail.ReachTimeout:
		return "times out"
	case trysail.ReachUnresolved:
		return "does not resolve"
	case trysail.ReachNoDNS:
		return "cannot be looked up: the resolver does not answer"
	case trysail.ReachUnreachable:
		return "is unreachable: there is no way to it"
	}
	return string(r)
}

// Suspects lists what the containers of a pod wrote that they cannot reach, so that somebody can try it from the pod's
// network. It looks at the last words and at what was said before.
func Suspects(e *trysail.PodEvidence) (list []trysail.Reach) {
	const most = 8
	var names []string
	for name := range e.LogTail {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, fact := range lastwords.Extract(e.LogTail[name]).Facts {
			switch fact.Kind {
			case lastwords.Refused, lastwords.Unreached, lastwords.Unresolved:
			default:
				continue
			}
			r := trysail.Reach{Host: fact.Host, Port: fact.Port}
			if fact.Host != "" && len(list) < most && !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
	}
	return list
}
