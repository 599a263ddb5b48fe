package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// deployForm is a deployment while it is being written: all as text, so that nothing that was typed is lost.
type deployForm struct {
	Containers []containerForm
	// Endpoint is the container that is public; empty if none is.
	Endpoint, Port                string
	Path, Codes                   string
	Timeout, Interval, Up, Down   string
	Names                         []string // of containers, to choose the endpoint from
	From                          int      // the version that it began with
	Check                         *control.Check
	Problem                       string
	Protocols                     []trysail.Protocol
	Service                       string
	DefaultPath, DefaultCodes     string
	DefaultTimeout, DefaultPeriod int
}

// containerForm is a container of it.
type containerForm struct {
	Name, Image string
	Command     string // one argument on each line, see commandText
	Environment []pairForm
	Ports       []pairForm
}

// pairForm is a name and a value: of a variable, or a port and its protocol.
type pairForm struct{ Name, Value string }

// The bounds of a form: those of a deployment, with room for what is too much and gets an error.
const (
	maxFormContainers = 20
	maxFormRows       = 500
)

// newForm is the form of a deployment; nil is an empty one.
func newForm(d *trysail.Deployment) *deployForm {
	f := &deployForm{}
	if d == nil {
		f.Containers = []containerForm{{Name: "web", Ports: []pairForm{{"80", string(trysail.ProtocolHTTP)}}}}
		f.Endpoint, f.Port = "web", "80"
		return f
	}
	f.From = d.Version
	for _, name := range d.ContainerNames() {
		c := d.Containers[name]
		one := containerForm{Name: name, Image: c.Image, Command: commandText(c.Command)}
		for _, key := range slices.Sorted(maps.Keys(c.Environment)) {
			one.Environment = append(one.Environment, pairForm{key, c.Environment[key]})
		}
		for _, port := range slices.Sorted(maps.Keys(c.Ports)) {
			one.Ports = append(one.Ports, pairForm{port, string(c.Ports[port])})
		}
		f.Containers = append(f.Containers, one)
	}
	if ep := d.PublicEndpoint; ep != nil {
		h := ep.HealthCheck
		f.Endpoint, f.Port, f.Path, f.Codes = ep.ContainerName, strconv.Itoa(ep.ContainerPort), h.Path, h.SuccessCodes
		f.Timeout, f.Interval = strconv.Itoa(h.TimeoutSeconds), strconv.Itoa(h.IntervalSeconds)
		f.Up, f.Down = strconv.Itoa(h.HealthyThreshold), strconv.Itoa(h.UnhealthyThreshold)
	}
	return f
}

// readDeployForm takes what was typed.
func readDeployForm(v url.Values) *deployForm {
	f := &deployForm{
		Endpoint: strings.TrimSpace(v.Get("endpoint")), Port: strings.TrimSpace(v.Get("port")), Path: strings.TrimSpace(v.Get("path")),
		Codes: strings.TrimSpace(v.Get("codes")), Timeout: strings.TrimSpace(v.Get("timeout")), Interval: strings.TrimSpace(v.Get("interval")),
		Up: strings.TrimSpace(v.Get("up")), Down: strings.TrimSpace(v.Get("down")),
	}
	f.From, _ = strconv.Atoi(v.Get("from"))
	for i := range maxFormContainers {
		at := fmt.Sprintf("c%d.", i)
		if !v.Has(at + "name") {
			break
		}
		c := containerForm{Name: strings.TrimSpace(v.Get(at + "name")), Image: strings.TrimSpace(v.Get(at + "image"))}
		c.Command = plainLines(v.Get(at + "command"))
		c.Environment = readPairs(v, at+"env")
		c.Ports = readPairs(v, at+"port")
		f.Containers = append(f.Containers, c)
	}
	return f
}

// readPairs takes rows of a name and a value; those without a name are blank.
func readPairs(v url.Values, at string) (list []pairForm) {
	for i := range maxFormRows {
		name := fmt.Sprintf("%s%d.name", at, i)
		if !v.Has(name) {
			break
		}
		list = append(list, pairForm{strings.TrimSpace(v.Get(name)), plainLines(v.Get(fmt.Sprintf("%s%d.value", at, i)))})
	}
	return list
}

// commandText is a command line with an argument on each line. One that would not be one line, or not be seen, is written
// as a string of JSON.
func commandText(args []string) string {
	lines := make([]string, len(args))
	for i, arg := range args {
		lines[i] = arg
		if strings.TrimSpace(arg) == "" || strings.ContainsAny(arg, "\r\n") || strings.HasPrefix(arg, `"`) {
			lines[i] = quoted(arg)
		}
	}
	return strings.Join(lines, "\n")
}

// quoted is a string of JSON.
func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		return s // cannot be: strings always have a JSON form
	}
	return string(text)
}

// readCommand reads what commandText has written. Lines without anything are no arguments.
func readCommand(text string) (args []string) {
	for line := range strings.SplitSeq(text, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var arg string
		if !strings.HasPrefix(line, `"`) || json.Unmarshal([]byte(line), &arg) != nil {
			arg = line
		}
		args = append(args, arg)
	}
	return args
}

// restore gives those variables that were not touched back what forms cannot carry: the ends of lines are all alike in them,
// and fields of one line have none. d is the deployment that the form began with.
func (f *deployForm) restore(d *trysail.Deployment) {
	for i := range f.Containers {
		env := d.Containers[f.Containers[i].Name].Environment
		for name, value := range env {
			shown := strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(name))
			for j := range f.Containers[i].Environment {
				e := &f.Containers[i].Environment[j]
				if e.Name == shown && e.Value == strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(value) {
					e.Name, e.Value = name, value
				}
			}
		}
	}
}

// change carries out what a button asks for: rows more or less. done is false for any other button.
func (f *deployForm) change(do string) (done bool) {
	what, rest, _ := strings.Cut(do, ":")
	first, second, _ := strings.Cut(rest, ":")
	i, err := strconv.Atoi(first)
	if what != "add-container" && (err != nil || i < 0 || i >= len(f.Containers)) {
		return false
	}
	j, err := strconv.Atoi(second)
	if err != nil {
		j = -1
	}
	remove := func(list []pairForm) []pairForm {
		if j < 0 || j >= len(list) {
			return list
		}
		return slices.Delete(list, j, j+1)
	}
	switch what {
	case "add-container":
		if len(f.Containers) < maxFormContainers {
			f.Containers = append(f.Containers, containerForm{})
		}
	case "remove-container":
		f.Containers = slices.Delete(f.Containers, i, i+1)
	case "add-env":
		f.Containers[i].Environment = append(f.Containers[i].Environment, pairForm{})
	case "remove-env":
		f.Containers[i].Environment = remove(f.Containers[i].Environment)
	case "add-port":
		f.Containers[i].Ports = append(f.Containers[i].Ports, pairForm{Value: string(trysail.ProtocolHTTP)})
	case "remove-port":
		f.Containers[i].Ports = remove(f.Containers[i].Ports)
	default:
		return false
	}
	return true
}

// complete adds what the template needs besides what was typed.
func (f *deployForm) complete(service string) *deployForm {
	usual := trysail.DefaultHealthCheck()
	f.Service, f.Protocols = service, []trysail.Protocol{trysail.ProtocolHTTP, trysail.ProtocolHTTPS, trysail.ProtocolTCP, trysail.ProtocolUDP}
	f.DefaultPath, f.DefaultCodes, f.DefaultTimeout, f.DefaultPeriod = usual.Path, usual.SuccessCodes, usual.TimeoutSeconds, usual.IntervalSeconds
	f.Names = nil
	for i := range f.Containers {
		c := &f.Containers[i]
		if c.Name != "" {
			f.Names = append(f.Names, c.Name)
		}
		// There is always a row to type into.
		if n := len(c.Environment); n == 0 || c.Environment[n-1].Name != "" {
			c.Environment = append(c.Environment, pairForm{})
		}
		if len(c.Ports) == 0 {
			c.Ports = append(c.Ports, pairForm{Value: string(trysail.ProtocolHTTP)})
		}
	}
	return f
}

// input is the deployment that the form describes. Errors: Invalid, for what cannot even be said to control.
func (f *deployForm) input() (in control.DeploymentInput, err error) {
	in.Containers = map[string]trysail.Container{}
	for i, c := range f.Containers {
		if c.Name == "" && c.Image == "" && len(f.Containers) > 1 {
			continue // a blank one
		}
		if c.Name == "" {
			return in, trysail.Errorf(trysail.CodeInvalid, "Container %d has no name.", i+1)
		}
		if _, twice := in.Containers[c.Name]; twice {
			return in, trysail.Errorf(trysail.CodeInvalid, "Two containers have the name %q.", c.Name)
		}
		if in.Containers[c.Name], err = c.input(); err != nil {
			return in, err
		}
	}
	if f.Endpoint == "" {
		return in, nil
	}
	port, err := number("The port of the public endpoint", f.Port)
	if err != nil {
		return in, err
	}
	in.PublicEndpoint = &control.EndpointInput{ContainerName: f.Endpoint, HealthCheck: &control.HealthCheckInput{}}
	if port != nil {
		in.PublicEndpoint.ContainerPort = *port
	}
	h := in.PublicEndpoint.HealthCheck
	for _, n := range []struct {
		what, text string
		to         **int
	}{
		{"The timeout", f.Timeout, &h.TimeoutSeconds},
		{"The interval", f.Interval, &h.IntervalSeconds},
		{"The healthy threshold", f.Up, &h.HealthyThreshold},
		{"The unhealthy threshold", f.Down, &h.UnhealthyThreshold},
	} {
		if *n.to, err = number(n.what, n.text); err != nil {
			return in, err
		}
	}
	h.Path, h.SuccessCodes = given(f.Path), given(f.Codes)
	return in, nil
}

// input is the container that the form describes.
func (c *containerForm) input() (trysail.Container, error) {
	out := trysail.Container{Image: c.Image}
	out.Command = readCommand(c.Command)
	for _, e := range c.Environment {
		if e.Name == "" {
			if e.Value != "" {
				return out, trysail.Errorf(trysail.CodeInvalid, "A variable of container %q has a value and no name.", c.Name)
			}
			continue
		}
		if _, twice := out.Environment[e.Name]; twice {
			return out, trysail.Errorf(trysail.CodeInvalid, "Variable %q of container %q is given twice.", e.Name, c.Name)
		}
		if out.Environment == nil {
			out.Environment = map[string]string{}
		}
		out.Environment[e.Name] = e.Value
	}
	for _, p := range c.Ports {
		if p.Name == "" {
			continue
		}
		if _, twice := out.Ports[p.Name]; twice {
			return out, trysail.Errorf(trysail.CodeInvalid, "Port %s of container %q is given twice.", p.Name, c.Name)
		}
		if out.Ports == nil {
			out.Ports = map[string]trysail.Protocol{}
		}
		out.Ports[p.Name] = trysail.Protocol(p.Value)
	}
	return out, nil
}

// number reads a number; nothing typed is nil.
func number(what, text string) (*int, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // nothing is no number and no error
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, trysail.Errorf(trysail.CodeInvalid, "%s must be a number.", what)
	}
	return &n, nil
}

func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
