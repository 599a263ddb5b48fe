package trysail

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// checkInvalid fails unless err has the text (none: no error) and, if any, is an Error of CodeInvalid.
func checkInvalid(t *testing.T, err error, want string) {
	t.Helper()
	if d := cmp.Diff(want, text(err)); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
	if err != nil && ErrorCode(err) != CodeInvalid {
		t.Errorf("code: got %s, want %s", ErrorCode(err), CodeInvalid)
	}
}

func TestValidate_Names(t *testing.T) {
	const pattern = " does not match pattern: ^(?:[a-z0-9]{1,2}|[a-z0-9][a-z0-9-]+[a-z0-9])$"
	for _, tc := range []struct {
		check func(string) error
		name  string
		want  string
	}{
		{ValidateServiceName, "a", ""},
		{ValidateServiceName, "a1", ""},
		{ValidateServiceName, "container-service-1", ""},
		{ValidateServiceName, strings.Repeat("a", 63), ""},
		{ValidateServiceName, strings.Repeat("a", 64), `Service name "` + strings.Repeat("a", 64) + `" is 64 characters long. It can have 1 to 63.`},
		{ValidateServiceName, "", `Service name ""` + pattern},
		{ValidateServiceName, "UPPER_bad", `Service name "UPPER_bad"` + pattern},
		{ValidateServiceName, "-a", `Service name "-a"` + pattern},
		{ValidateServiceName, "a-", `Service name "a-"` + pattern},
		{ValidateServiceName, "a\n", `Service name "a\n"` + pattern},
		{ValidateServiceName, "../x", `Service name "../x"` + pattern},
		{ValidateServiceName, strings.Repeat("é", 150), `Service name "` + strings.Repeat("é", 100) + `…"` + pattern},
		{ValidateContainerName, "backend_api", `Container name "backend_api"` + pattern},
		{ValidateContainerName, strings.Repeat("b", 53), ""},
		{ValidateContainerName, strings.Repeat("b", 54), `Container name "` + strings.Repeat("b", 54) + `" is 54 characters long. It can have 1 to 53.`},
		{ValidateLabel, "www", ""},
		{ValidateLabel, "W", `Label "W"` + pattern},
		{ValidatePower, "xlarge", ""},
		{ValidatePower, "huge", `Power "huge" is not valid. It must be one of: nano, micro, small, medium, large, xlarge.`},
		{ValidatePower, "Nano", `Power "Nano" is not valid. It must be one of: nano, micro, small, medium, large, xlarge.`},
		{ValidateKeyName, "ci", ""},
		{ValidateKeyName, "", `Access key name "" is not valid. It must have 1 to 64 printable characters.`},
		{ValidateKeyName, "a\nb", `Access key name "a\nb" is not valid. It must have 1 to 64 printable characters.`},
	} {
		t.Run(tc.name, func(t *testing.T) { checkInvalid(t, tc.check(tc.name), tc.want) })
	}
}

func TestValidate_NamePatternIsTheWrittenOne(t *testing.T) {
	pattern := regexp.MustCompile(NamePattern)
	alphabet := []string{"", "a", "9", "-", "Z", "_", "é", "\n"}
	for _, a := range alphabet {
		for _, b := range alphabet {
			for _, c := range alphabet {
				for _, d := range alphabet {
					if s := a + b + c + d; matchesName(s) != pattern.MatchString(s) {
						t.Errorf("%q: got %v, the pattern says %v", s, matchesName(s), pattern.MatchString(s))
					}
				}
			}
		}
	}
}

func TestValidate_Scale(t *testing.T) {
	for scale, want := range map[int]string{
		1: "", 20: "",
		0:  "Scale 0 is not valid. It must be between 1 and 20.",
		-1: "Scale -1 is not valid. It must be between 1 and 20.",
		21: "Scale 21 is not valid. It must be between 1 and 20.",
	} {
		t.Run(fmt.Sprint(scale), func(t *testing.T) { checkInvalid(t, ValidateScale(scale), want) })
	}
}

func TestValidate_Tags(t *testing.T) {
	many := make([]Tag, 51)
	for i := range many {
		many[i].Key = fmt.Sprint("k", i)
	}
	for name, tc := range map[string]struct {
		tags []Tag
		want string
	}{
		"none":      {nil, ""},
		"most":      {many[:50], ""},
		"charset":   {[]Tag{{"Ümlaut 1+-=._:/@", "v"}, {"empty", ""}}, ""},
		"case":      {[]Tag{{"a", ""}, {"A", ""}}, ""},
		"too many":  {many, "51 tags are too many. A service can have up to 50."},
		"no key":    {[]Tag{{"", "v"}}, `Tag key "" is 0 characters long. It must have 1 to 128.`},
		"reserved":  {[]Tag{{"aws:x", "v"}}, `Tag key "aws:x" is not valid. Keys that begin with "aws:" are reserved.`},
		"bad key":   {[]Tag{{"a#", "v"}}, `Tag key "a#" is not valid. It can have letters, digits, spaces and + - = . _ : / @`},
		"bad value": {[]Tag{{"a", "<"}}, `The value "<" of tag "a" is not valid. It can have letters, digits, spaces and + - = . _ : / @`},
		"long":      {[]Tag{{"a", strings.Repeat("é", 257)}}, `The value of tag "a" is 257 characters long. It can have up to 256.`},
		"twice":     {[]Tag{{"a", "1"}, {"a", "2"}}, `Tag key "a" is given twice.`},
	} {
		t.Run(name, func(t *testing.T) { checkInvalid(t, ValidateTags(tc.tags), tc.want) })
	}
}

func TestValidate_PublicDomainNames(t *testing.T) {
	for name, tc := range map[string]struct {
		names map[string][]string
		want  string
	}{
		"none":    {nil, ""},
		"four":    {map[string][]string{"c": {"a.example.com", "b.example.com"}, "d": {"example.com"}, "_": {"x.cloudfront.net"}}, ""},
		"detach":  {map[string][]string{"a": nil, "b": nil, "c": {}, "d": nil, "e": nil}, ""},
		"address": {map[string][]string{"a": {"192.0.2.1"}}, `Domain "192.0.2.1" is an IP address. A certificate is for names such as www.example.com.`},
		"five":    {map[string][]string{"c": {"a.b", "b.b", "c.b", "d.b", "e.b"}}, "5 public domain names are too many. A service can have up to 4."},
		"certs":   {map[string][]string{"a": {"a.b"}, "b": {"b.b"}, "c": {"c.b"}, "d": {"d.b"}, "e": {"e.b"}}, "5 certificates are too many. A service can have up to 4."},
		"twice":   {map[string][]string{"a": {"a.b"}, "b": {"A.b"}}, `Public domain name "A.b" is given twice.`},
		"bad":     {map[string][]string{"a": {"*.b.c"}}, `Domain "*.b.c" is a wildcard. Wildcards are not supported: name each domain.`},
	} {
		t.Run(name, func(t *testing.T) { checkInvalid(t, ValidatePublicDomainNames(tc.names), tc.want) })
	}
}

// deployment is a valid one of containers "web" and "side"; change makes it invalid.
func deployment(change func(*Deployment)) *Deployment {
	d := &Deployment{
		Containers: map[string]Container{
			"web":  {Image: "nginx:latest", Ports: map[string]Protocol{"80": ProtocolHTTP, "53": ProtocolUDP, "9000": ProtocolTCP}, Environment: map[string]string{"A.b-c": "x"}},
			"side": {Image: ":web.side.latest", Command: []string{"run", ""}, Ports: map[string]Protocol{"53": ProtocolTCP}},
		},
		PublicEndpoint: &PublicEndpoint{ContainerName: "web", ContainerPort: 80, HealthCheck: DefaultHealthCheck()},
	}
	if change != nil {
		change(d)
	}
	return d
}

// web returns a change of container web.
func web(change func(*Container)) func(*Deployment) {
	return func(d *Deployment) {
		c := d.Containers["web"]
		c.Ports, c.Environment = maps.Clone(c.Ports), maps.Clone(c.Environment)
		change(&c)
		d.Containers["web"] = c
	}
}

func health(change func(*HealthCheck)) func(*Deployment) {
	return func(d *Deployment) { change(&d.PublicEndpoint.HealthCheck) }
}

func TestValidate_Deployment(t *testing.T) {
	eleven := map[string]Container{}
	for i := range 11 {
		eleven[fmt.Sprint("c", i)] = Container{Image: "x"}
	}
	for name, tc := range map[string]struct {
		change func(*Deployment)
		want   string
	}{
		"valid":              {nil, ""},
		"without endpoint":   {func(d *Deployment) { d.PublicEndpoint = nil }, ""},
		"none":               {func(d *Deployment) { d.Containers = nil }, "The deployment has 0 containers. It must have 1 to 10."},
		"eleven":             {func(d *Deployment) { d.Containers = eleven }, "The deployment has 11 containers. It must have 1 to 10."},
		"container name":     {func(d *Deployment) { d.Containers["backend_api"] = Container{Image: "x"} }, `Container name "backend_api" does not match pattern: ^(?:[a-z0-9]{1,2}|[a-z0-9][a-z0-9-]+[a-z0-9])$`},
		"stored image":       {web(func(c *Container) { c.Image = ":container-service-1.my-react-ui.LATEST" }), `Container "web" has invalid image ":container-service-1.my-react-ui.LATEST". Example of valid image: ":svc.web.123".`},
		"no image":           {web(func(c *Container) { c.Image = "" }), `Container "web" has invalid image "": it is empty.`},
		"upper image":        {web(func(c *Container) { c.Image = "docker.io/NGINX:1" }), `Container "web" has invalid image "docker.io/NGINX:1": a repository has only lower-case letters. Did you mean "docker.io/nginx:1"?`},
		"port word":          {web(func(c *Container) { c.Ports["http"] = ProtocolHTTP }), `Container "web" has invalid port "http". A port is a number from 1 to 65535.`},
		"port 0":             {web(func(c *Container) { c.Ports["0"] = ProtocolHTTP }), `Container "web" has invalid port "0". A port is a number from 1 to 65535.`},
		"port 65536":         {web(func(c *Container) { c.Ports["65536"] = ProtocolHTTP }), `Container "web" has invalid port "65536". A port is a number from 1 to 65535.`},
		"port 080":           {web(func(c *Container) { c.Ports["080"] = ProtocolHTTP }), `Container "web" has invalid port "080". A port is a number from 1 to 65535.`},
		"protocol":           {web(func(c *Container) { c.Ports["81"] = "http" }), `Container "web" has invalid protocol "http" for port 81. It must be one of: HTTP, HTTPS, TCP, UDP.`},
		"port twice":         {web(func(c *Container) { c.Ports["53"] = ProtocolHTTP }), `Containers "side" and "web" both open port 53. The containers of a deployment share one network, so only one of them can open a port.`},
		"environment name":   {web(func(c *Container) { c.Environment["A=B"] = "x" }), `Container "web" has invalid environment variable name "A=B". A name is not empty and has no = and no NUL character.`},
		"environment empty":  {web(func(c *Container) { c.Environment[""] = "x" }), `Container "web" has invalid environment variable name "". A name is not empty and has no = and no NUL character.`},
		"environment value":  {web(func(c *Container) { c.Environment["SECRET"] = "s3cret\x00" }), `Container "web" has a NUL character in the value of environment variable "SECRET".`},
		"command":            {web(func(c *Container) { c.Command = []string{"a", "b\x00"} }), `Container "web" has a NUL character in word 2 of its command.`},
		"size":               {web(func(c *Container) { c.Environment["A"] = strings.Repeat("x", 64<<10) }), "The containers of the deployment take 65604 bytes with their commands, environment and ports. They can take up to 65536."},
		"endpoint container": {func(d *Deployment) { d.PublicEndpoint.ContainerName = "wep" }, `Invalid container "wep" specified. You must specify one of the containers of the deployment: side, web.`},
		"endpoint port":      {func(d *Deployment) { d.PublicEndpoint.ContainerPort = 8080 }, "Invalid port specified. You must specify a port that is in the list of ports of the specified container."},
		"endpoint tcp":       {func(d *Deployment) { d.PublicEndpoint.ContainerPort = 9000 }, `Invalid port specified. Container "web" opens port 9000 as TCP; a public endpoint must be HTTP or HTTPS.`},
		"healthy 1":          {health(func(h *HealthCheck) { h.HealthyThreshold = 1 }), `The health check of container "web" has invalid healthyThreshold 1. It must be between 2 and 10.`},
		"unhealthy 11":       {health(func(h *HealthCheck) { h.UnhealthyThreshold = 11 }), `The health check of container "web" has invalid unhealthyThreshold 11. It must be between 2 and 10.`},
		"timeout 1":          {health(func(h *HealthCheck) { h.TimeoutSeconds = 1 }), `The health check of container "web" has invalid timeoutSeconds 1. It must be between 2 and 60.`},
		"timeout 61":         {health(func(h *HealthCheck) { h.TimeoutSeconds = 61 }), `The health check of container "web" has invalid timeoutSeconds 61. It must be between 2 and 60.`},
		"interval 4":         {health(func(h *HealthCheck) { h.IntervalSeconds = 4 }), `The health check of container "web" has invalid intervalSeconds 4. It must be between 5 and 300.`},
		"interval 301":       {health(func(h *HealthCheck) { h.IntervalSeconds = 301 }), `The health check of container "web" has invalid intervalSeconds 301. It must be between 5 and 300.`},
		"timeout = interval": {health(func(h *HealthCheck) { h.TimeoutSeconds = 5 }), `The health check of container "web" has timeoutSeconds 5, which must be less than intervalSeconds 5.`},
		"path":               {health(func(h *HealthCheck) { h.Path = "up" }), `The health check of container "web" has invalid path "up". It must begin with / and have up to 1024 characters of ASCII without spaces.`},
		"path split":         {health(func(h *HealthCheck) { h.Path = "/ HTTP/1.1\r\nX: y" }), `The health check of container "web" has invalid path "/ HTTP/1.1\r\nX: y". It must begin with / and have up to 1024 characters of ASCII without spaces.`},
		"codes":              {health(func(h *HealthCheck) { h.SuccessCodes = "200-500" }), `The health check of container "web" has invalid successCodes "200-500": it must be codes from 200 to 499, such as 200 or 200,202 or 200-299.`},
	} {
		t.Run(name, func(t *testing.T) { checkInvalid(t, ValidateDeployment("svc", deployment(tc.change)), tc.want) })
	}
}

func TestValidate_SecretsAreNotRepeated(t *testing.T) {
	err := ValidateDeployment("svc", deployment(web(func(c *Container) { c.Environment["TOKEN"] = "s3cret\x00" })))
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want an error without the value", err)
	}
}

func TestParseSuccessCodes(t *testing.T) {
	for s, want := range map[string][]CodeRange{
		"200":             {{200, 200}},
		"200,202":         {{200, 200}, {202, 202}},
		"200-299":         {{200, 299}},
		"200-299,401,499": {{200, 299}, {401, 401}, {499, 499}},
		"":                nil, "199": nil, "500": nil, "299-200": nil, "200,": nil, "0200": nil, "+20": nil, "200-": nil, "200 ,201": nil, "2xx": nil,
	} {
		got, err := ParseSuccessCodes(s)
		if d := cmp.Diff(want, got); d != "" || (err == nil) != (want != nil) {
			t.Errorf("%q: %v (-want +got):\n%s", s, err, d)
		}
	}
}

func TestParseStoredImage(t *testing.T) {
	for image, want := range map[string]StoredImage{
		":web.www.1":      {"web", "www", 1},
		":web.www.latest": {"web", "www", 0},
		":web.www.196":    {"web", "www", 196},
	} {
		if got, ok := ParseStoredImage(image); !ok || got != want {
			t.Errorf("%q: got %v, %v, want %v", image, got, ok, want)
		}
	}
	for _, image := range []string{"", ":", "web.www.1", ":web.www", ":web.www.0", ":web.www.01", ":web.www.LATEST", ":web.www.1.2", ":Web.www.1", ":web.w_w.1", ":web.www.-1"} {
		if got, ok := ParseStoredImage(image); ok {
			t.Errorf("%q: got %v, want it refused", image, got)
		}
	}
}

func TestValidateImageName(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for _, image := range []string{
		"nginx", "nginx:latest", "library/nginx:1.27-alpine", "docker.io/library/nginx", "public.ecr.aws/nginx/nginx:stable",
		"localhost/x", "localhost:5000/a/b_c/d__e/f-g---h:V1.0_x-y", "127.0.0.1:5000/a", "[::1]:5000/a", "a.b/c@" + digest, "a:tag@" + digest,
		"123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1", "Registry.Example.com/app", "a.b-c",
	} {
		checkInvalid(t, ValidateImageName(image), "")
	}
	for image, want := range map[string]string{
		"NGINX":                   `"NGINX" is not a valid image name: a repository has only lower-case letters. Did you mean "nginx"?`,
		"A.b/A:X":                 `"A.b/A:X" is not a valid image name: a repository has only lower-case letters. Did you mean "A.b/a:X"?`,
		"https://ghcr.io/a/b":     `"https://ghcr.io/a/b" is not a valid image name: it is written without https://. Did you mean "ghcr.io/a/b"?`,
		" nginx:1":                `" nginx:1" is not a valid image name: it has a space. Did you mean "nginx:1"?`,
		"nginx:":                  `"nginx:" is not a valid image name: tag "" must have 1 to 128 letters, digits and _ . - and not begin with . or -`,
		"nginx@sha256:12":         `"nginx@sha256:12" is not a valid image name: what follows the @ must be sha256: and 64 hexadecimal digits.`,
		"a..b/c":                  `"a..b/c" is not a valid image name: "a..b" is not the name of a registry.`,
		"a.b:99999/c":             `"a.b:99999/c" is not a valid image name: "a.b:99999" is not the name of a registry.`,
		"a/b/-c":                  `"a/b/-c" is not a valid image name: "-c" is not valid in a repository: each part has lower-case letters and digits, which can be joined by . _ __ or dashes.`,
		"a//b":                    `"a//b" is not a valid image name: "" is not valid in a repository: each part has lower-case letters and digits, which can be joined by . _ __ or dashes.`,
		strings.Repeat("a", 513):  `"` + strings.Repeat("a", 200) + `…" is not a valid image name: it is 513 characters long, more than 512.`,
		strings.Repeat("ab", 128): `"` + strings.Repeat("ab", 100) + `…" is not a valid image name: a repository has up to 255 characters.`,
	} {
		checkInvalid(t, ValidateImageName(image), want)
	}
}

// TestValidate_AgreesWithTheModel compares the table with AWS's service model, where that is installed.
func TestValidate_AgreesWithTheModel(t *testing.T) {
	path := os.Getenv("TRYSAIL_TEST_BOTOCORE_MODEL")
	if path == "" {
		path = "/usr/lib/python3/dist-packages/botocore/data/lightsail/2016-11-28/service-2.json"
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("botocore's model is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	var model struct {
		Shapes map[string]struct {
			Min, Max int
			Pattern  string
			Enum     []string
		}
	}
	if err := json.Unmarshal(text, &model); err != nil {
		t.Fatal(err)
	}
	if got := model.Shapes["ContainerServiceScale"]; got.Min != MinScale || got.Max != MaxScale {
		t.Errorf("ContainerServiceScale: model %v", got)
	}
	if got := model.Shapes["ContainerServiceName"]; got.Max != MaxServiceName || got.Pattern == "" {
		t.Errorf("ContainerServiceName: model %v", got)
	}
	if got := model.Shapes["ContainerName"]; got.Max != MaxContainerName {
		t.Errorf("ContainerName: model %v", got)
	}
	var names []string
	for _, p := range Powers() {
		names = append(names, string(p.Name))
	}
	if d := cmp.Diff(model.Shapes["ContainerServicePowerName"].Enum, names); d != "" {
		t.Errorf("ContainerServicePowerName (-model +ours):\n%s", d)
	}
}

func FuzzValidateDeployment(f *testing.F) {
	f.Add("web", "nginx:1", "80", "HTTP", "A", "v", 80, "/", "200-499")
	f.Add("a_", ":svc.web.LATEST", "x", "http", "=", "\x00", -1, "", "2-")
	f.Add("a", "A://B://C D", "0", "", "", "", 1<<40, "/\n", ",")
	f.Fuzz(func(t *testing.T, name, image, port, protocol, key, value string, endpoint int, path, codes string) {
		d := &Deployment{
			Containers: map[string]Container{name: {
				Image: image, Command: []string{value}, Environment: map[string]string{key: value}, Ports: map[string]Protocol{port: Protocol(protocol)},
			}},
			PublicEndpoint: &PublicEndpoint{ContainerName: name, ContainerPort: endpoint, HealthCheck: DefaultHealthCheck()},
		}
		d.PublicEndpoint.HealthCheck.Path, d.PublicEndpoint.HealthCheck.SuccessCodes = path, codes
		err := ValidateDeployment("svc", d)
		if err == nil {
			return
		}
		if ErrorCode(err) != CodeInvalid || len(err.Error()) > 8<<10 || strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("got %q of code %s, want a short single line of code %s", err, ErrorCode(err), CodeInvalid)
		}
	})
}

func FuzzValidateImageName(f *testing.F) {
	digest := strings.Repeat("a", 64)
	for _, s := range []string{"nginx", "a.b:5000/c:d@sha256:" + digest, "A/İ", "a://b://", "[::1]:1/x", ":::", "@", "\xff/A"} {
		f.Add(s)
	}
	// The grammar of github.com/distribution/reference, as a pattern.
	component := `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	host := `(?:\[[a-fA-F0-9:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::[0-9]+)?`
	reference := regexp.MustCompile(`^(?:` + host + `/)?` + component + `(?:/` + component + `)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$`)
	f.Fuzz(func(t *testing.T, image string) {
		if err := ValidateImageName(image); err == nil && !reference.MatchString(image) {
			t.Errorf("%q was accepted and is no reference", image)
		}
	})
}
