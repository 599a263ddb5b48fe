package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// pack makes a Debian or RPM package.
func (r *release) pack(ctx context.Context, arch, packager string) error {
	config, err := r.packageConfig(arch, packager)
	if err != nil {
		return err
	}
	file := filepath.Join(r.work, arch+"."+packager+".json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	target := filepath.Join(r.dist, r.fileName("linux_"+arch+"."+packager))
	cmd := exec.CommandContext(ctx, "go", "run", nfpm, "package", "--config", file, "--packager", packager, "--target", target) //nolint:gosec // our own arguments
	// Tools are run outside of the module, and for this machine whatever is built.
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "SOURCE_DATE_EPOCH="+fmt.Sprint(r.time.Unix()))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making %s: %w\n%s", target, err, out)
	}
	return nil
}

// packageConfig is what nfpm reads. JSON is YAML.
func (r *release) packageConfig(arch, packager string) ([]byte, error) {
	type object = map[string]any
	file := func(source, target string, mode int) object {
		return object{"src": source, "dst": target, "file_info": object{"mode": mode, "mtime": r.time.Format(time.RFC3339)}}
	}
	scripts, err := r.scripts()
	if err != nil {
		return nil, err
	}
	contents := []object{
		file("packaging/scripts/purge.sh", "/usr/lib/trysail/purge.sh", 0o755),
		file(r.binary(arch), "/usr/bin/trysail", 0o755),
		file(filepath.Join(r.work, "trysail.service"), "/usr/lib/systemd/system/trysail.service", 0o644),
		file("LICENSE", "/usr/share/doc/trysail/copyright", 0o644),
		file("CHANGELOG.md", "/usr/share/doc/trysail/CHANGELOG.md", 0o644),
		file(filepath.Join(r.work, "completions", "trysail"), "/usr/share/bash-completion/completions/trysail", 0o644),
		file(filepath.Join(r.work, "completions", "_trysail"), "/usr/share/zsh/vendor-completions/_trysail", 0o644),
		file(filepath.Join(r.work, "completions", "trysail.fish"), "/usr/share/fish/vendor_completions.d/trysail.fish", 0o644),
	}
	settings := file("packaging/trysail.env", "/etc/trysail/trysail.env", 0o640)
	settings["type"] = "config|noreplace"
	contents = append(contents, settings)
	pages, err := os.ReadDir(filepath.Join(r.work, "man"))
	if err != nil {
		return nil, err
	}
	for _, p := range pages {
		contents = append(contents, file(filepath.Join(r.work, "man", p.Name()), "/usr/share/man/man1/"+p.Name(), 0o644))
	}
	depends := []string{"runc (>= 1.1.5)", "containernetworking-plugins", "ca-certificates"}
	if packager == "rpm" {
		depends = []string{"runc >= 1.1.5", "containernetworking-plugins", "ca-certificates"}
	}
	return json.MarshalIndent(object{
		"name": "trysail", "arch": arch, "platform": "linux", "version": r.number(), "version_schema": "none",
		"section": "admin", "priority": "optional", "license": "Apache-2.0", "homepage": "https://github.com/trysail/trysail",
		"maintainer":  "The Trysail authors <maintainers@trysail.invalid>",
		"description": "Amazon Lightsail container services on your own machines\nOne program serves the Lightsail container API and runs the deployments for real,\nover HTTPS, without dropping a request, and says why one failed.",
		"mtime":       r.time.Format(time.RFC3339), "depends": depends, "recommends": []string{"iptables"}, "contents": contents,
		"rpm":     object{"buildhost": "localhost", "compression": "gzip"},
		"deb":     object{"compression": "gzip"},
		"scripts": scripts,
	}, "", "  ")
}

// scripts are what the packages run. When Debian's purges, the package's files are gone: what it has to do is a part of the
// script itself.
func (r *release) scripts() (map[string]string, error) {
	after, err := os.ReadFile("packaging/scripts/postremove.sh")
	if err != nil {
		return nil, err
	}
	purge, err := os.ReadFile("packaging/scripts/purge.sh")
	if err != nil {
		return nil, err
	}
	_, purge, _ = bytes.Cut(purge, []byte("\n")) // its #! line
	file := filepath.Join(r.work, "postremove.sh")
	return map[string]string{
		"postinstall": "packaging/scripts/postinstall.sh", "preremove": "packaging/scripts/preremove.sh", "postremove": file,
	}, os.WriteFile(file, append(after, purge...), 0o600) //nolint:gosec // our own file
}
