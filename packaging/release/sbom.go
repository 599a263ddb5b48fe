package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The parts of CycloneDX 1.6 that an SBOM of a Go program has.
type bom struct {
	Format      string      `json:"bomFormat"`
	SpecVersion string      `json:"specVersion"`
	Version     int         `json:"version"`
	Metadata    metadata    `json:"metadata"`
	Components  []component `json:"components"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type    string `json:"type"`
	Ref     string `json:"bom-ref"`
	Name    string `json:"name"`
	Version string `json:"version"`
	PURL    string `json:"purl"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// sbom writes what is linked into a binary, as the binary itself says.
func (r *release) sbom(arch string) error {
	return r.writeSBOM(arch, "linux_"+arch, nil)
}

// imageSBOM is that of the image, which has files of Debian packages as well.
func (r *release) imageSBOM(arch string, debs []deb) error {
	var more []component
	for _, d := range debs {
		purl := "pkg:deb/debian/" + d.name + "@" + url.PathEscape(d.version) + "?arch=" + d.arch
		more = append(more, component{Type: "library", Ref: purl, Name: d.name, Version: d.version, PURL: purl})
	}
	return r.writeSBOM(arch, "oci_"+arch, more)
}

func (r *release) writeSBOM(arch, what string, more []component) error {
	info, err := buildinfo.ReadFile(r.binary(arch))
	if err != nil {
		return fmt.Errorf("reading what is in the binary: %w", err)
	}
	sum, err := fileSum(r.binary(arch))
	if err != nil {
		return err
	}
	own := newComponent("application", info.Main.Path, r.number())
	own.Hashes = []hash{{"SHA-256", sum}}
	out := bom{"CycloneDX", "1.6", 1, metadata{r.time.Format(time.RFC3339), own}, nil}
	out.Components = append(out.Components, newComponent("library", "std", strings.TrimPrefix(info.GoVersion, "go")))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		out.Components = append(out.Components, newComponent("library", m.Path, m.Version))
	}
	out.Components = append(out.Components, more...)
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dist, r.fileName(what+".cdx.json")), append(text, '\n'), 0o644) //nolint:gosec // it is to be published
}

func newComponent(kind, path, version string) component {
	purl := "pkg:golang/" + path + "@" + url.PathEscape(version)
	return component{Type: kind, Ref: purl, Name: path, Version: version, PURL: purl}
}
