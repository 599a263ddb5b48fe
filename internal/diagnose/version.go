package diagnose

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/trysail/trysail"
)

// Rules about a version as a whole: what somebody decided, what it asks for, its images, the room for it, the machine.

// decided is about versions that did not fail by themselves.
func (c *caseFile) decided() (f finding, ok bool) {
	v := c.Version
	switch {
	case !v.CanceledAt.IsZero():
		f = finding{code: "USER-CANCEL", confidence: trysail.Certain, summary: fmt.Sprintf("Canceled by %s at %s.", c.mark(v.CanceledBy), v.CanceledAt.UTC().Format("15:04:05 UTC")), fix: "Deploy again when you want it."}
		f.prove("record", "canceled by %s", c.show(v.CanceledBy))
	case v.ReplacedBy != 0:
		f = finding{code: "SUPERSEDED", confidence: trysail.Certain, summary: fmt.Sprintf("Replaced by version %d before it was active.", v.ReplacedBy), fix: "Nothing: the newer version counts."}
		f.prove("record", "version %d was deployed", v.ReplacedBy)
	default:
		return f, false
	}
	f.rank = rankRuntime
	return f, true
}

// configuration is about what a deployment names and does not exist.
func (c *caseFile) configuration() (f finding, ok bool) {
	if len(c.Version.Missing) > 0 {
		m := c.Version.Missing[0]
		f = finding{container: m.Container, confidence: trysail.Certain, rank: rankRuntime}
		if m.Kind == "volume" {
			f.code, f.summary, f.fix = "RUN-MOUNT", fmt.Sprintf("Volume %s does not exist on this machine.", c.mark(m.Name)), "Create it, or correct the name."
		} else {
			f.code, f.summary, f.fix = "RUN-SECRET", fmt.Sprintf("Secret %s does not exist.", c.mark(m.Name)), "Create it, or correct the name."
		}
		f.prove("record", "container %s names %s %s", m.Container, m.Kind, c.mark(m.Name))
		return f, true
	}
	return c.endpoint()
}

// endpoint checks that the public endpoint is a port that a container opens.
func (c *caseFile) endpoint() (f finding, ok bool) {
	ep := c.Deployment.PublicEndpoint
	if ep == nil {
		return f, false
	}
	f = finding{code: "CFG-ENDPOINT", confidence: trysail.Certain, container: ep.ContainerName, rank: rankRuntime}
	container, ok := c.Deployment.Containers[ep.ContainerName]
	if !ok {
		f.summary = fmt.Sprintf("publicEndpoint names container %s, which the deployment does not have.", c.mark(ep.ContainerName))
		f.fix = "Set publicEndpoint.containerName to one of the containers."
		f.prove("record", "the containers are %q", c.Deployment.ContainerNames())
		return f, true
	}
	port := strconv.Itoa(ep.ContainerPort)
	if _, open := container.Ports[port]; open {
		return f, false
	}
	f.summary = fmt.Sprintf("publicEndpoint port %s is not among the open ports of container %s.", port, ep.ContainerName)
	f.fix = fmt.Sprintf(`Add to the container: "ports": {"%s": "HTTP"}`, port)
	f.prove("record", "the open ports are %v", sortedPorts(container))
	return f, true
}

func sortedPorts(container trysail.Container) []int {
	var list []int
	for text := range container.Ports {
		if n, err := strconv.Atoi(text); err == nil {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// images is about an image that could not be had. What failed before that is the cause, if it did.
func (c *caseFile) images() (f finding, ok bool) {
	e := c.Image
	if p := c.Version.Pull; e == nil && p != nil {
		e = &trysail.ImageError{Code: p.Code, Image: p.Image, Message: p.Message, Fix: p.Fix, Final: p.Final}
		if p.Text != "" {
			e.Err = errors.New(p.Text)
		}
	}
	if e == nil {
		return f, false
	}
	if p := c.Version.Pull; p != nil && !p.At.IsZero() {
		if first, ok := c.pods(); ok && !first.at.IsZero() && first.at.Before(p.At) && first.code != "UNKNOWN" {
			return f, false
		}
	}
	f = finding{code: e.Code, confidence: trysail.Likely, summary: c.text(e.Message), fix: c.text(e.Fix), rank: rankRuntime, container: e.Container}
	for _, name := range c.Deployment.ContainerNames() {
		if f.container == "" && c.Deployment.Containers[name].Image == e.Image {
			f.container = name
			break
		}
	}
	if e.Err != nil {
		f.prove("image", "%s", c.show(e.Err.Error()))
	} else {
		f.prove("image", "%s", c.show(e.Message))
	}
	if e.Final || isTyped(e) {
		f.confidence = trysail.Certain
	}
	if m := c.Version.Machine; e.Code == "IMG-DISK" && m != nil && m.DiskTotal > 0 {
		f.prove("machine", "%s of %s are free on %s", size(m.DiskFree), size(m.DiskTotal), m.DiskPath)
	}
	if f.fix == "" {
		f.fix = "See the evidence."
	}
	return f, true
}

// awaited is about a version whose window closed before a pod of it was created. Pods are created when all images are there.
func (c *caseFile) awaited() finding {
	f := finding{
		code: "UNKNOWN", summary: fmt.Sprintf("No node was running after %s.", c.Window),
		fix: "Look at the log of trysail itself for what it waited for.", rank: rankNone,
	}
	if len(c.Pods) > 0 {
		return f
	}
	for _, name := range c.Deployment.ContainerNames() {
		image := c.Deployment.Containers[name].Image
		f.code, f.confidence, f.container, f.rank = "IMG-SLOW", trysail.Likely, name, rankTime
		if c.Deployment.Digests[image] == "" {
			f.code = "IMG-NET"
			f.summary = fmt.Sprintf("The registry of %s had not answered when the window of %s closed.", c.mark(image), c.Window)
			f.fix = "Check the registry, and the firewall and the proxy between this machine and it."
			f.prove("record", "it is not known which digest %s has", c.mark(image))
			return f
		}
		f.summary = fmt.Sprintf("%s was still being pulled when the window of %s closed.", c.mark(image), c.Window)
		f.fix = "Deploy again: what was pulled is kept. Or make the image smaller, or the window longer (--activation-timeout)."
	}
	if len(c.Deployment.Containers) > 1 {
		f.container, f.summary = "", fmt.Sprintf("The images were still being pulled when the window of %s closed.", c.Window)
	}
	f.prove("record", "no node was started in %s", c.Window)
	return f
}

// isTyped reports whether an image error was made from what a registry or the network said in so many words. Another try may
// still help, but what happened is no guess.
func isTyped(e *trysail.ImageError) bool {
	switch e.Code {
	case "IMG-DNS", "IMG-TLS", "IMG-RATE", "IMG-AUTH", "IMG-DISK", "IMG-REPO", "IMG-TAG", "IMG-ARCH", "IMG-NAME", "IMG-LOCAL":
		return true
	case "IMG-NET":
		_, errno := errors.AsType[syscall.Errno](e.Err)
		_, op := errors.AsType[*net.OpError](e.Err)
		return errno || op
	default:
		return false
	}
}

// room is about a machine that is too small.
func (c *caseFile) room() (f finding, ok bool) {
	r := c.Version.Room
	if r == nil {
		return f, false
	}
	f = finding{confidence: trysail.Certain, rank: rankRuntime}
	need, free := limitsText(r.Needed), limitsText(r.Free)
	if fits(r.Needed, r.Later) {
		f.code = "CAP-SURGE"
		f.summary = fmt.Sprintf("It needs %s, and %s are free while %s still runs. Alone it would fit.", need, free, c.before())
		f.fix = "Stop another service for the time of the deployment; or, with downtime, disable this service, deploy, and enable it again."
	} else {
		f.code = "CAP-NOFIT"
		f.summary = fmt.Sprintf("It needs %s, and this machine has %s free.", need, free)
		f.fix = "Choose a smaller power or scale, or stop other services."
		if c.Previous != nil {
			f.summary += fmt.Sprintf(" Version %d keeps serving.", c.Previous.Version)
		}
	}
	f.prove("record", "needed %s, free %s, free when the version before has stopped %s", need, free, limitsText(r.Later))
	return f, true
}

func (c *caseFile) before() string {
	if c.Previous == nil {
		return "the version before"
	}
	return fmt.Sprintf("version %d", c.Previous.Version)
}

func fits(need, room trysail.Limits) bool {
	return need.Memory <= room.Memory && need.MilliCPU <= room.MilliCPU
}

func limitsText(l trysail.Limits) string {
	return fmt.Sprintf("%s of memory and %.4g vCPU", size(l.Memory), float64(l.MilliCPU)/1000)
}

// restarted is about a machine that restarted while nothing else was found.
func (c *caseFile) restarted() (f finding, ok bool) {
	if c.Version.RestartedAt.IsZero() {
		return f, false
	}
	f = finding{
		code: "NODE-LOST", confidence: trysail.Certain, rank: rankRuntime,
		summary: fmt.Sprintf("The machine restarted at %s during the deployment.", c.Version.RestartedAt.UTC().Format("15:04:05 UTC")), fix: "Deploy again.",
	}
	f.prove("machine", "the machine booted at %s", c.Version.RestartedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	return f, true
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d kB", n>>10)
}
