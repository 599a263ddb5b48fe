// Command release makes everything that is published of a version, into dist/: static binaries in archives, Debian and
// RPM packages with a systemd unit, manual pages and completions, an OCI image, an SBOM for each of them, and checksums.
// The same commit gives the same bytes, wherever it is built; with -verify it does all of it twice and compares.
//
// It needs Go, git and dpkg-deb.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nfpm makes the packages. Newer versions need modules that are not available everywhere.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4"

// release is one run.
type release struct {
	version string    // such as v0.6.0
	time    time.Time // of the commit: that of every file
	dist    string
	work    string // for what goes into the packages
	// architectures are those of the machines that it is for, in Go's words.
	architectures []string
	// kinds are what is made: archive, sbom, deb, rpm, oci.
	kinds []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := release{}
	flag.StringVar(&r.version, "version", "", "the version, such as v0.6.0; by default what git describes")
	flag.StringVar(&r.dist, "dist", "dist", "where to put everything; emptied first")
	only := flag.String("only", "archive,sbom,deb,rpm,oci", "what to make")
	verify := flag.Bool("verify", false, "make it a second time, elsewhere, and fail unless all bytes are the same")
	list := flag.String("arch", "amd64,arm64", "for which processors, in Go's words; this machine's must be among them")
	flag.Parse()
	r.architectures, r.kinds = strings.Split(*list, ","), strings.Split(*only, ",")
	err := r.run(ctx)
	if err == nil && *verify {
		err = r.again(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func (r *release) run(ctx context.Context) (err error) {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if err := r.buildAll(ctx); err != nil {
		return err
	}
	if err := r.pages(ctx); err != nil {
		return err
	}
	for _, arch := range r.architectures {
		for kind, do := range map[string]func() error{
			"archive": func() error { return r.archive(arch) },
			"sbom":    func() error { return r.sbom(arch) },
			"deb":     func() error { return r.pack(ctx, arch, "deb") },
			"rpm":     func() error { return r.pack(ctx, arch, "rpm") },
		} {
			if !slices.Contains(r.kinds, kind) {
				continue
			}
			if err := do(); err != nil {
				return err
			}
		}
	}
	if slices.Contains(r.kinds, "oci") {
		if err := r.image(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.work); err != nil {
		return err
	}
	return r.sums()
}

// again makes the release in another folder, under other circumstances that must not matter, and compares.
func (r *release) again(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "trysail-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	second := *r
	second.dist = filepath.Join(dir, "dist")
	before := syscall.Umask(0o077)
	defer syscall.Umask(before)
	for name, value := range map[string]string{"TZ": "Pacific/Chatham", "LC_ALL": "tr_TR.UTF-8"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if err := second.run(ctx); err != nil {
		return fmt.Errorf("the second time: %w", err)
	}
	var sums [2]string
	for i, d := range []string{r.dist, second.dist} {
		text, err := os.ReadFile(filepath.Join(d, "SHA256SUMS")) //nolint:gosec // our own files
		if err != nil {
			return err
		}
		sums[i] = string(text)
	}
	if diff := differences(sums[0], sums[1]); len(diff) > 0 {
		return fmt.Errorf("the second time gave other bytes: %s", strings.Join(diff, ", "))
	}
	fmt.Printf("twice the same bytes:\n%s", sums[0])
	return nil
}

// differences lists the files that have another checksum in b than in a, or are in one of them only.
func differences(a, b string) []string {
	names := map[string]int{}
	for _, text := range []string{a, b} {
		for line := range strings.Lines(text) {
			names[line]++
		}
	}
	var diff []string
	for line, n := range names {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok && n != 2 && !slices.Contains(diff, name) {
			diff = append(diff, name)
		}
	}
	slices.Sort(diff)
	return diff
}

// prepare finds out what is built, and empties dist.
func (r *release) prepare(ctx context.Context) error {
	if r.version == "" {
		out, err := output(ctx, "git", "describe", "--tags", "--always", "--dirty")
		if err != nil {
			return fmt.Errorf("asking git for the version (or give -version): %w", err)
		}
		r.version = out
	}
	stamp := os.Getenv("SOURCE_DATE_EPOCH")
	if stamp == "" {
		out, err := output(ctx, "git", "log", "-1", "--format=%ct")
		if err != nil {
			return fmt.Errorf("asking git for the time of the commit (or set SOURCE_DATE_EPOCH): %w", err)
		}
		stamp = out
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH is %q: %w", stamp, err)
	}
	r.time = time.Unix(seconds, 0).UTC()
	r.work = filepath.Join(r.dist, "work")
	if err := os.RemoveAll(r.dist); err != nil {
		return err
	}
	return os.MkdirAll(r.work, 0o755) //nolint:gosec // it is to be published
}

// commits is what git describe adds to a tag: how many commits ago it was, and which one this is.
var commits = regexp.MustCompile(`^\d+-g[0-9a-f]+(-dirty)?$|^dirty$`)

// number is the version as packages want it: it begins with a digit, and 1.2.0-rc.1 goes before 1.2.0, which goes before
// commits after it.
func (r *release) number() string {
	v := strings.TrimPrefix(r.version, "v")
	if v == "" || v[0] < '0' || v[0] > '9' {
		return "0.0.0+" + strings.ReplaceAll(v, "-", ".") // a commit without a tag
	}
	number, rest, found := strings.Cut(v, "-")
	switch {
	case !found:
		return number
	case commits.MatchString(rest):
		return number + "+" + strings.ReplaceAll(rest, "-", ".")
	}
	return number + "~" + strings.ReplaceAll(rest, "-", ".")
}

// fileName is a file that is published: trysail_<version>_<rest>.
func (r *release) fileName(rest string) string {
	return "trysail_" + strings.TrimPrefix(r.version, "v") + "_" + rest
}

func (r *release) binary(arch string) string { return filepath.Join(r.work, arch, "trysail") }

func (r *release) buildAll(ctx context.Context) error {
	for _, arch := range r.architectures {
		for name, source := range map[string]string{"trysail": "./cmd/trysail", "trysail-init": "./packaging/init"} {
			cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", //nolint:gosec // our own arguments
				"-ldflags", "-s -w -buildid= -X main.version="+r.version, "-o", filepath.Join(filepath.Dir(r.binary(arch)), name), source)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("building %s for %s: %w\n%s", name, arch, err, out)
			}
		}
	}
	return nil
}

// pages lets the program write its manual pages and completions.
func (r *release) pages(ctx context.Context) error {
	program, err := filepath.Abs(r.binary(runtime.GOARCH))
	if err != nil {
		return err
	}
	man := filepath.Join(r.work, "man")
	completions := filepath.Join(r.work, "completions")
	for _, dir := range []string{man, completions} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // it is to be published
			return err
		}
	}
	if out, err := output(ctx, program, "man", "--dir", man); err != nil {
		return fmt.Errorf("writing the manual pages: %w %s", err, out)
	}
	for shell, name := range map[string]string{"bash": "trysail", "zsh": "_trysail", "fish": "trysail.fish"} {
		text, err := output(ctx, program, "completion", shell)
		if err != nil {
			return fmt.Errorf("writing completions: %w", err)
		}
		if err := os.WriteFile(filepath.Join(completions, name), []byte(text+"\n"), 0o644); err != nil { //nolint:gosec // it is to be published
			return err
		}
	}
	unit, err := os.ReadFile("packaging/trysail.service")
	if err != nil {
		return err
	}
	packaged := strings.Replace(string(unit), "/usr/local/bin/trysail", "/usr/bin/trysail", 1)
	if i := strings.Index(packaged, "[Unit]"); i > 0 {
		packaged = "# systemd unit of the Trysail server. Settings: /etc/trysail/trysail.env\n#\n" +
			"# When it starts again, systemd notes left-over processes in its control group: they hold the containers.\n\n" + packaged[i:]
	}
	return os.WriteFile(filepath.Join(r.work, "trysail.service"), []byte(strings.TrimSpace(packaged)+"\n"), 0o644) //nolint:gosec // it is to be published
}

// output runs a command and returns what it writes to standard output.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // our own arguments
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
