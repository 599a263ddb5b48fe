package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/interpolation"
	compose "github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// composeFile is a Compose file with its variables put in.
//
// It is read with compose-go's packages for values, variables and .env files, but without its loader: that compiles JSON
// schemas when a program starts, and every container's shim is this program. What only the loader does (extends,
// include) is refused with what to do; keys that do not exist are found by the mapping, which looks at all of them.
type composeFile struct {
	name     string // of the project
	top      map[string]any
	services map[string]*composeService
	left     []string // services whose profile is not active
}

// composeService is one service of the file.
type composeService struct {
	image       string
	hasBuild    bool
	command     []string
	environment map[string]*string // nil: not set
	ports       []compose.ServicePortConfig
	expose      []string
	keys        map[string]any // all that the file has, these among them
}

// composeNames are the files that are looked for, as docker compose does.
func composeNames() []string {
	return []string{"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"}
}

// readCompose reads a Compose file; an empty name stands for the one that is here.
func (a *App) readCompose(file string, profiles []string) (*composeFile, error) {
	if file == "" {
		i := slices.IndexFunc(composeNames(), func(name string) bool { _, err := os.Stat(name); return err == nil })
		if i < 0 {
			return nil, WithHint(errors.New("there is no compose.yaml here"), "Name the file: trysail up -f FILE")
		}
		file = composeNames()[i]
	}
	text, err := a.readFile(file)
	if err != nil {
		return nil, err
	}
	f, err := parseCompose(file, text, os.Environ(), profiles)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return f, nil
}

func parseCompose(file string, text []byte, environ, profiles []string) (*composeFile, error) {
	dir := "."
	if file != "-" {
		dir = filepath.Dir(file)
	}
	env, err := composeEnvironment(dir, environ)
	if err != nil {
		return nil, err
	}
	raw := map[string]any{}
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return nil, err
	}
	lookUp := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	top, err := interpolation.Interpolate(raw, interpolation.Options{LookupValue: lookUp})
	if err != nil {
		return nil, err
	}
	f := &composeFile{top: top, services: map[string]*composeService{}}
	if f.name, err = projectName(top, env, dir); err != nil {
		return nil, err
	}
	services, ok := top["services"].(map[string]any)
	if !ok || len(services) == 0 {
		return nil, errors.New("it has no services")
	}
	if profile := env["COMPOSE_PROFILES"]; profile != "" {
		profiles = append(slices.Clone(profiles), strings.Split(profile, ",")...)
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		keys, ok := services[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("services.%s is no mapping", name)
		}
		s, err := newComposeService(keys, dir, env)
		if err != nil {
			return nil, fmt.Errorf("services.%s.%w", name, err)
		}
		if !isActive(keys["profiles"], profiles) {
			f.left = append(f.left, name)
			continue
		}
		f.services[name] = s
	}
	return f, nil
}

// composeEnvironment has what variables stand for: the environment, and before it the file .env.
func composeEnvironment(dir string, environ []string) (map[string]string, error) {
	env := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	file := filepath.Join(dir, ".env")
	if _, err := os.Stat(file); err != nil {
		return env, nil //nolint:nilerr // there need not be one
	}
	fromFile, err := dotenv.GetEnvFromFile(env, []string{file})
	if err != nil {
		return nil, err
	}
	maps.Copy(fromFile, env)
	return fromFile, nil
}

// projectName is the file's name, or that of its folder.
func projectName(top map[string]any, env map[string]string, dir string) (string, error) {
	if name, ok := top["name"].(string); ok && name != "" {
		return name, nil
	}
	if name := env["COMPOSE_PROJECT_NAME"]; name != "" {
		return name, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, strings.ToLower(filepath.Base(abs))), nil
}

func isActive(profiles any, active []string) bool {
	list, ok := profiles.([]any)
	return !ok || len(list) == 0 || slices.Contains(active, "*") || slices.ContainsFunc(list, func(p any) bool {
		name, ok := p.(string)
		return ok && slices.Contains(active, name)
	})
}

// newComposeService reads the keys that can be mapped. The text of an error begins with the key.
func newComposeService(keys map[string]any, dir string, env map[string]string) (s *composeService, err error) {
	s = &composeService{keys: keys}
	var ok bool
	if s.image, ok = keys["image"].(string); !ok && keys["image"] != nil {
		return nil, errors.New("image is no text")
	}
	_, s.hasBuild = keys["build"]
	if v := keys["command"]; v != nil {
		var command compose.ShellCommand
		if err := command.DecodeMapstructure(v); err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
		s.command = command
	}
	if s.environment, err = composeVariables(keys, dir, env); err != nil {
		return nil, err
	}
	if s.ports, err = composePorts(keys["ports"]); err != nil {
		return nil, fmt.Errorf("ports: %w", err)
	}
	expose, ok := keys["expose"].([]any)
	if !ok && keys["expose"] != nil {
		return nil, errors.New("expose is no list")
	}
	for _, port := range expose {
		s.expose = append(s.expose, fmt.Sprint(port))
	}
	return s, nil
}

// composeVariables has the variables of env_file, and before them those of environment. One without a value is that of
// the environment here.
func composeVariables(keys map[string]any, dir string, env map[string]string) (map[string]*string, error) {
	all := map[string]*string{}
	files, err := envFiles(keys["env_file"])
	if err != nil {
		return nil, fmt.Errorf("env_file: %w", err)
	}
	for _, file := range files {
		path := file.path
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && file.optional {
			continue
		}
		vars, err := dotenv.GetEnvFromFile(env, []string{path})
		if err != nil {
			return nil, fmt.Errorf("env_file: %w", err)
		}
		for name, value := range vars {
			all[name] = &value
		}
	}
	var own compose.MappingWithEquals
	if v := keys["environment"]; v != nil {
		if err := own.DecodeMapstructure(v); err != nil {
			return nil, fmt.Errorf("environment: %w", err)
		}
	}
	for name, value := range own {
		if here, ok := env[name]; value == nil && ok {
			value = &here
		}
		all[name] = value
	}
	return all, nil
}

type envFile struct {
	path     string
	optional bool
}

// envFiles reads a path, or a list of paths and of {path, required}.
func envFiles(v any) (files []envFile, err error) {
	switch v := v.(type) {
	case nil:
	case string:
		files = []envFile{{path: v}}
	case []any:
		for _, one := range v {
			more, err := envFiles(one)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
		}
	case map[string]any:
		path, ok := v["path"].(string)
		if !ok {
			return nil, errors.New("path is missing")
		}
		if v["format"] != nil {
			return nil, errors.New("format is not known here")
		}
		files = []envFile{{path, v["required"] == false || v["required"] == "false"}}
	default:
		return nil, errors.New("it is neither a path nor a list of them")
	}
	return files, nil
}

// composePorts reads the short form ("8080:80", 80) and the long one.
func composePorts(v any) (ports []compose.ServicePortConfig, err error) {
	list, ok := v.([]any)
	if !ok && v != nil {
		return nil, errors.New("it is no list")
	}
	for _, one := range list {
		long, ok := one.(map[string]any)
		if !ok {
			short, err := compose.ParsePortConfig(fmt.Sprint(one))
			if err != nil {
				return nil, err
			}
			ports = append(ports, short...)
			continue
		}
		target, err := strconv.ParseUint(fmt.Sprint(long["target"]), 10, 16)
		if err != nil {
			return nil, errors.New("target is no port")
		}
		p := compose.ServicePortConfig{Target: uint32(target), Protocol: "tcp"}
		for key, value := range long {
			switch text := fmt.Sprint(value); key {
			case "published":
				p.Published = text
			case "host_ip":
				p.HostIP = text
			case "protocol":
				p.Protocol = text
			}
		}
		ports = append(ports, p)
	}
	return ports, nil
}
