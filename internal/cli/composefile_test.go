package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCompose_ReadsEveryForm(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{".env": "TAG=3\nWHO=file\n", "one.env": "A=one\nB=one\n", "two.env": "B=two\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := parseCompose(filepath.Join(dir, "compose.yaml"), []byte(`
name: shop
x-common: &common
  environment: [C=list, HERE, NOWHERE]
services:
  web:
    <<: *common
    image: web:${TAG}-${WHO}-${NONE:-none}
    command: serve --name "two words"
    env_file: [one.env, {path: two.env}, {path: three.env, required: false}]
    ports: [80, "127.0.0.1:8443:443", {target: 53, published: "5353", protocol: udp}]
  off: {image: x, profiles: [debug]}
`), []string{"WHO=me", "HERE=yes"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	web := f.services["web"]
	if f.name != "shop" || web.image != "web:3-me-none" || len(f.left) != 1 {
		t.Errorf("name %q, image %q, left out %v", f.name, web.image, f.left)
	}
	if d := cmp.Diff([]string{"serve", "--name", "two words"}, web.command); d != "" {
		t.Errorf("command (-want +got):\n%s", d)
	}
	text := func(s string) *string { return &s }
	if d := cmp.Diff(map[string]*string{"A": text("one"), "B": text("two"), "C": text("list"), "HERE": text("yes"), "NOWHERE": nil}, web.environment); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	var ports []string
	for _, p := range web.ports {
		ports = append(ports, strings.Join([]string{p.HostIP, p.Published, p.Protocol}, "/"))
	}
	if d := cmp.Diff([]string{"//tcp", "127.0.0.1/8443/tcp", "/5353/udp"}, ports); d != "" {
		t.Errorf("ports (-want +got):\n%s", d)
	}
}

func TestParseCompose_SaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"services: {}":       "it has no services",
		"a: [":               "yaml",
		"services: {web: 3}": "services.web is no mapping",
		"services: {web: {image: '${TAG:?no tag}'}}":           "no tag",
		"services: {web: {image: a, ports: 80}}":               "services.web.ports: it is no list",
		"services: {web: {image: a, ports: [{published: 1}]}}": "services.web.ports: target is no port",
		"services: {web: {image: a, ports: ['x:y']}}":          "services.web.ports: ",
		"services: {web: {image: a, env_file: nothere.env}}":   "services.web.env_file: ",
		"services: {web: {image: a, command: 'unclosed \"'}}":  "services.web.command: ",
		"services: {web: {image: [a]}}":                        "services.web.image is no text",
		"services: {web: {image: a, expose: 80}}":              "services.web.expose is no list",
	} {
		if _, err := parseCompose(filepath.Join(t.TempDir(), "c.yaml"), []byte(text), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestMapCompose_RefusesWhatOnlyDockerComposePutsTogether(t *testing.T) {
	f, err := parseCompose("c.yaml", []byte("name: a\ninclude: [b.yaml]\nservices: {web: {image: a, extends: {file: b.yaml, service: web}}}"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := mapCompose(f, "", "web:80")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.problems, "\n"); strings.Count(got, "docker compose config") != 2 {
		t.Errorf("problems:\n%s", got)
	}
}

func FuzzParseCompose(f *testing.F) {
	f.Add("services: {web: {image: a, ports: [80], environment: [A=b], command: x}}")
	f.Add("x-trysail: {scale: 2}\nservices: {web: {image: a, ports: ['80:80/udp'], expose: [1]}}")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := parseCompose(filepath.Join(t.TempDir(), "c.yaml"), []byte(text), []string{"A=1"}, nil)
		if err != nil {
			return
		}
		if _, err := mapCompose(file, "web", ""); err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
