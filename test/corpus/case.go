// Package corpus runs deployments of which it is known what must come of them against a real Trysail server, and keeps the
// score: broken ones with the verdict that is expected, healthy ones that must become ACTIVE. The deployments themselves are in
// test/broken and test/healthy; make diagnose runs all of them, the end-to-end tests the quick ones.
package corpus

import (
	"context"
	"maps"

	"github.com/trysail/trysail"
)

// Container is a container of a deployment.
type Container struct {
	// Image is a name in the corpus's registry, such as "misbehave:1"; "@fault/name:tag" is one of the registry with that
	// fault, and "=name" is taken as it stands. One that begins with a colon is a stored image.
	Image   string
	Command []string
	Env     map[string]string
	Ports   map[string]string // port → protocol
}

// Endpoint is a public endpoint. Zero numbers and texts are left out of the request, except for Path and Codes, which are
// "/" and "200" then; Defaults leaves those out, too.
type Endpoint struct {
	Container                  string
	Port                       int32
	Path, Codes                string
	Timeout, Interval, Healthy int32
	Defaults                   bool
}

// Deployment is what is asked for.
type Deployment struct {
	Containers map[string]Container
	Endpoint   *Endpoint
}

// Outcome is how a deployment ends.
type Outcome int

// The outcomes.
const (
	Fails   Outcome = iota // the version FAILED, with a verdict
	Refused                // it is not even begun: InvalidInputException
	Works                  // the version is ACTIVE and its endpoint answers
	Crashes                // the version is ACTIVE and gets a verdict when a pod of it crashes
)

// Place is where a case runs.
type Place int

// The places.
const (
	Shared    Place = iota // the server that all cases use at the same time
	SmallDisk              // a server with a small disk of its own, one case after the other
	Nowhere                // not on this machine: see Case.Why
)

// Case is a deployment and what must come of it.
type Case struct {
	Name string
	Deployment
	// Before is deployed first and must become ACTIVE; nil: nothing is.
	Before *Deployment
	Power  string // default nano
	Scale  int32  // default 1

	Outcome Outcome
	// What the verdict must say. Fix and Says are parts of its fix and its summary, or of a refusal. Empty ones may be anything,
	// but Code; "-" as Container means none.
	Code       trysail.DiagnosisCode
	Container  string
	Fix, Says  string
	Confidence trysail.Confidence
	// Warning is a code that must be among the warnings of the version.
	Warning trysail.DiagnosisCode
	// WarnsBefore is true if it is the version before that has the warning.
	WarnsBefore bool

	// Answer is what the endpoint's Path must answer through the edge: a part of the body, and the status (default 200).
	Answer string
	Status int

	Place Place
	Why   string // why it runs nowhere
	// Quick cases are decided in seconds; the end-to-end tests run them.
	Quick bool
	// Last is true for what leaves its server in a state in which nothing else can be run there.
	Last bool
	// Miss says why the answer is known to be wrong as yet; empty if it must be right.
	Miss string
	// Prepare is done before the case, Act once its deployment is under way, by the time limit of ctx.
	Prepare func(context.Context, *Run) error
	Act     func(context.Context, *Run) error
}

// Web is the deployment of one container web, which takes the steps of test/programs/misbehave and is asked for / on port 8080.
func Web(steps ...string) Deployment { return WebImage("misbehave:1", steps...) }

// WebImage is Web with another image.
func WebImage(image string, command ...string) Deployment {
	return Deployment{
		Containers: map[string]Container{"web": {Image: image, Command: command, Ports: map[string]string{"8080": "HTTP"}}},
		Endpoint:   &Endpoint{Container: "web", Port: 8080},
	}
}

// Worker is a deployment of one container without a port.
func Worker(steps ...string) Deployment {
	return Deployment{Containers: map[string]Container{"worker": {Image: "misbehave:1", Command: steps}}}
}

// With adds a container.
func (d Deployment) With(name string, c Container) Deployment {
	d.Containers = maps.Clone(d.Containers)
	d.Containers[name] = c
	return d
}

// Env adds to the environment of container web.
func (d Deployment) Env(pairs ...string) Deployment {
	web := d.Containers["web"]
	web.Env = maps.Clone(web.Env)
	if web.Env == nil {
		web.Env = map[string]string{}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		web.Env[pairs[i]] = pairs[i+1]
	}
	return d.With("web", web)
}

// At changes the endpoint.
func (d Deployment) At(e Endpoint) Deployment {
	if e.Container == "" {
		e.Container = "web"
	}
	if e.Port == 0 {
		e.Port = 8080
	}
	d.Endpoint = &e
	return d
}

// Steps is a sidecar that takes steps.
func Steps(steps ...string) Container { return Container{Image: "misbehave:1", Command: steps} }
