package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail"
)

// composeExtension is what a Compose file may say for us, at its top level, under x-trysail.
type composeExtension struct {
	Service  string           `json:"service,omitempty"`
	Power    string           `json:"power,omitempty"`
	Scale    int              `json:"scale,omitempty"`
	Endpoint *composeEndpoint `json:"endpoint,omitempty"`
}

type composeEndpoint struct {
	Container   string                                   `json:"container"`
	Port        int32                                    `json:"port"`
	HealthCheck *types.ContainerServiceHealthCheckConfig `json:"healthCheck,omitempty"`
}

// composed is a Compose file as a deployment.
type composed struct {
	composeExtension
	deployment *lightsail.CreateContainerServiceDeploymentInput
	// problems are what would make the deployment mean something else than the file, notes what is left out or different
	// without harm.
	problems, notes []string
}

func (c *composed) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func (c *composed) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// mapCompose turns a Compose file into one deployment, whose containers are the file's services.
func mapCompose(f *composeFile, service, endpoint string) (*composed, error) {
	c := &composed{deployment: &lightsail.CreateContainerServiceDeploymentInput{Containers: map[string]types.Container{}}}
	if err := c.readExtension(f.top); err != nil {
		return nil, err
	}
	if service != "" {
		c.Service = service
	} else if c.Service == "" {
		c.Service = strings.ReplaceAll(f.name, "_", "-")
	}
	if err := trysail.ValidateServiceName(c.Service); err != nil {
		return nil, WithHint(fmt.Errorf("%q cannot be the name of a service", c.Service), "Name it: trysail up SERVICE, or with x-trysail: {service: NAME} in the file")
	}
	c.deployment.ServiceName = &c.Service
	for _, name := range slices.Sorted(maps.Keys(f.services)) {
		c.container(name, f.services[name])
	}
	for _, name := range f.left {
		c.note("%s: left out, as its profile is not active; add --profile", name)
	}
	c.resources(f.top)
	c.portsOnce()
	if err := c.endpoint(f, endpoint); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *composed) readExtension(top map[string]any) error {
	x, ok := top["x-trysail"]
	if !ok {
		return nil
	}
	text, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("reading x-trysail: %w", err)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&c.composeExtension); err != nil {
		return WithHint(fmt.Errorf("reading x-trysail: %w", err), "It may have: service, power, scale, endpoint (container, port, healthCheck)")
	}
	return nil
}

// resources looks at what stands beside the services.
func (c *composed) resources(top map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(top)) {
		switch key {
		case "name", "services", "version", "x-trysail":
		case "volumes", "secrets", "configs":
			// A service that uses one is a problem; one that nobody uses is none.
		case "networks":
			networks, _ := top[key].(map[string]any)
			for _, name := range slices.Sorted(maps.Keys(networks)) {
				if name != "default" {
					c.note("networks.%s: left out, as all containers share one network", name)
				}
			}
		case "include":
			c.problem("include: %s", useConfig)
		default:
			if strings.HasPrefix(key, "x-") {
				c.note("%s: left out", key)
			} else {
				c.problem("%s: there is no such thing here", key)
			}
		}
	}
}

// useConfig says how to get at what only docker compose can put together.
const useConfig = "put the parts together first: docker compose config > whole.yaml; trysail up -f whole.yaml"

// container maps one service of the file. Every key that it has is looked at: none is dropped without a word.
func (c *composed) container(name string, s *composeService) {
	if trysail.ValidateContainerName(name) != nil {
		c.problem("%s: a container's name has lower-case letters, digits and single dashes only; rename the service", name)
	}
	made := types.Container{Command: s.command, Environment: map[string]string{}, Ports: map[string]types.ContainerServiceProtocol{}}
	if s.image != "" {
		made.Image = aws.String(s.image)
	}
	for _, key := range slices.Sorted(maps.Keys(s.environment)) {
		value := s.environment[key]
		if value == nil {
			c.note("%s: environment.%s: left out, as it is not set here", name, key)
			continue
		}
		made.Environment[key] = *value
	}
	for _, p := range s.ports {
		protocol := types.ContainerServiceProtocolHttp
		if p.Protocol == "udp" {
			protocol = types.ContainerServiceProtocolUdp
		}
		made.Ports[strconv.Itoa(int(p.Target))] = protocol
		if p.Published != "" && p.Published != strconv.Itoa(int(p.Target)) || p.HostIP != "" {
			c.note("%s: ports: %s is not opened on the machine; the service's URL leads to port %d if it is the endpoint", name, strings.Trim(p.HostIP+":"+p.Published, ":"), p.Target)
		}
	}
	for _, port := range s.expose {
		number, protocol, _ := strings.Cut(port, "/")
		if _, known := made.Ports[number]; !known {
			made.Ports[number] = types.ContainerServiceProtocolTcp
			if protocol == "udp" {
				made.Ports[number] = types.ContainerServiceProtocolUdp
			}
		}
	}
	c.deployment.Containers[name] = made
	c.otherKeys(name, s)
}

// otherKeys goes through all keys of a service that the mapping does not use.
func (c *composed) otherKeys(name string, s *composeService) {
	mapped, harmless, serious := mappedKeys(), harmlessKeys(), seriousKeys()
	for _, key := range slices.Sorted(maps.Keys(s.keys)) {
		if isEmpty(s.keys[key]) {
			continue
		}
		switch {
		case key == "build" && s.image == "":
			c.problem("%s: build: images are not built here; build it (docker build -t %s .), push it (trysail push %s --service %s --label %s), and name it as image: \":%s.%s.latest\"",
				name, name, name, c.Service, name, c.Service, name)
		case key == "build":
			c.note("%s: build: left out; the image %s is run as it is", name, s.image)
		case key == "networks":
			// said once for the file, in resources
		case mapped[key]:
		case key == "restart" && fmt.Sprint(s.keys[key]) == "no":
			c.note("%s: restart: no: a container that ends is started again nevertheless; for one-off work there is trysail run", name)
		case key == "restart":
		case key == "scale" && fmt.Sprint(s.keys[key]) == "1":
		case harmless[key] != "":
			c.note("%s: %s: left out, as %s", name, key, harmless[key])
		case serious[key] != "":
			c.problem("%s: %s: %s", name, key, serious[key])
		case key == "x-trysail":
			c.problem("%s: x-trysail belongs to the top level of the file", name)
		case strings.HasPrefix(key, "x-"):
			c.note("%s: %s: left out", name, key)
		default:
			c.problem("%s: %s: there is no such thing here", name, key)
		}
	}
	if s.image == "" && !s.hasBuild {
		c.problem("%s: it has no image", name)
	}
}

// isEmpty reports whether a key says nothing.
func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case bool:
		return !v
	case string:
		return v == ""
	}
	return false
}

// mappedKeys are the keys that are used.
func mappedKeys() map[string]bool {
	return map[string]bool{
		"image": true, "command": true, "environment": true, "env_file": true, "ports": true, "expose": true, "profiles": true,
	}
}

// harmlessKeys are those that may be left out, with the reason.
func harmlessKeys() map[string]string {
	return map[string]string{
		"depends_on":        "all containers start at once; an app must wait for what it needs",
		"healthcheck":       "the edge asks the endpoint from outside; set its path with x-trysail: {endpoint: {healthCheck: {path: /…}}}",
		"deploy":            "power and scale are of the whole service: x-trysail: {power: …, scale: …}",
		"scale":             "the scale is of the whole service: x-trysail: {scale: …}",
		"container_name":    "containers are named by their service",
		"hostname":          "a container's host name is that of its pod; the others reach it by the name of its service",
		"labels":            "containers have no labels here",
		"label_file":        "containers have no labels here",
		"annotations":       "containers have no annotations here",
		"logging":           "all output is kept: trysail logs",
		"links":             "all containers reach each other by the names of their services",
		"mem_limit":         "memory is that of the service's power",
		"mem_reservation":   "memory is that of the service's power",
		"memswap_limit":     "memory is that of the service's power",
		"cpus":              "CPU is that of the service's power",
		"cpu_shares":        "CPU is that of the service's power",
		"cpu_quota":         "CPU is that of the service's power",
		"cpu_period":        "CPU is that of the service's power",
		"stop_grace_period": "containers have 30 s between SIGTERM and SIGKILL",
		"init":              "zombies are of no concern in a pod",
		"stdin_open":        "there is trysail exec",
		"tty":               "there is trysail exec",
		"pull_policy":       "an image is fetched when its digest is not there yet",
		"read_only":         "containers can write to their own files, which are gone with them",
		"develop":           "it is for development",
		"attach":            "there is trysail logs -f",
		"security_opt":      "containers are confined as with Docker's defaults",
		"cap_drop":          "containers have Docker's default capabilities",
		"storage_opt":       "there are no quotas of a container's own files",
		"oom_score_adj":     "it is the engine's to set",
		"blkio_config":      "there are no weights of disks",
		"dns_search":        "names are looked up as they are",
		"platform":          "the machine's own is run; an image for another one is refused",
		"use_api_socket":    "there is no Docker here",
		"pids_limit":        "there is no such limit here",
		"oom_kill_disable":  "memory is that of the service's power",
		"mem_swappiness":    "memory is that of the service's power",
		"cgroup":            "the engine chooses",
		"cgroup_parent":     "the engine chooses",
		"credential_spec":   "it is for Windows",
		"isolation":         "it is for Windows",
	}
}

// seriousKeys are those without which the app would be another one, with what to do.
func seriousKeys() map[string]string {
	return map[string]string{ //nolint:gosec // no credentials: keys of Compose files
		"volumes":      "containers have no volumes: files are gone with their pod; keep data in a database or an object store elsewhere",
		"extends":      useConfig,
		"volumes_from": "containers have no volumes",
		"tmpfs":        "there are no mounts; containers can write to /tmp of their own",
		"secrets":      "give them as environment variables",
		"configs":      "put the file into the image, or give it as an environment variable",
		"entrypoint":   "a deployment cannot replace the image's ENTRYPOINT, only its CMD (command); set it in the image",
		"user":         "set USER in the image",
		"working_dir":  "set WORKDIR in the image",
		"privileged":   "containers cannot be privileged",
		"network_mode": "all containers share one network of their own",
		"stop_signal":  "containers are told to end by SIGTERM; set STOPSIGNAL in the image",
		"extra_hosts":  "there are no host entries; use names that DNS knows",
		"gpus":         "there are no GPUs",
		"devices":      "there are no devices",
		"cap_add":      "containers have Docker's default capabilities",
	}
}

// portsOnce finds ports that two containers open: they share one network.
func (c *composed) portsOnce() {
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.deployment.Containers)) {
		for _, port := range slices.Sorted(maps.Keys(c.deployment.Containers[name].Ports)) {
			if other := owner[port]; other != "" {
				c.problem("%s: port %s is also that of %s, and they share one network: let one of them listen on another port", name, port, other)
			}
			owner[port] = name
		}
	}
}

// endpoint chooses what the service's URL leads to: what is asked for, or the only service of the file with a port.
func (c *composed) endpoint(f *composeFile, asked string) error {
	e := c.Endpoint
	if asked != "" {
		name, port, ok := strings.Cut(asked, ":")
		n, err := strconv.ParseInt(port, 10, 32)
		if !ok || err != nil {
			return Usagef("--endpoint is CONTAINER:PORT, not %q", asked)
		}
		chosen := composeEndpoint{Container: name, Port: int32(n)}
		if e != nil {
			chosen.HealthCheck = e.HealthCheck
		}
		e = &chosen
	}
	if e == nil {
		var candidates []composeEndpoint
		for _, name := range slices.Sorted(maps.Keys(f.services)) {
			for _, port := range f.services[name].ports {
				if port.Protocol != "udp" {
					candidates = append(candidates, composeEndpoint{Container: name, Port: int32(port.Target)}) //nolint:gosec // the loader has checked it
				}
			}
		}
		switch len(candidates) {
		case 0:
			c.note("no service has ports, so the service's URL leads nowhere; choose one with --endpoint CONTAINER:PORT")
			return nil
		case 1:
			e = &candidates[0]
		default:
			var names []string
			for _, one := range candidates {
				names = append(names, fmt.Sprintf("%s:%d", one.Container, one.Port))
			}
			c.problem("ports: the service has one URL; choose what it leads to with --endpoint, or x-trysail: {endpoint: {container: …, port: …}}: %s", strings.Join(names, ", "))
			return nil
		}
	}
	container, ok := c.deployment.Containers[e.Container]
	if !ok {
		return fmt.Errorf("the endpoint's container %q is no service of the file", e.Container)
	}
	if port := strconv.Itoa(int(e.Port)); container.Ports[port] == "" || container.Ports[port] == types.ContainerServiceProtocolTcp {
		container.Ports[port] = types.ContainerServiceProtocolHttp
	}
	c.deployment.PublicEndpoint = &types.EndpointRequest{ContainerName: &e.Container, ContainerPort: &e.Port, HealthCheck: e.HealthCheck}
	return nil
}
