package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Build says what this binary was made from.
type Build struct {
	Version    string `json:"version"`
	Commit     string `json:"commit,omitempty"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
	Containerd string `json:"containerd,omitempty"`
}

// ReadBuild reads what the Go tool wrote into the binary. version is what the release build says; empty otherwise.
func ReadBuild(version string) Build {
	b := Build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	modified := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+changes"
			}
		}
	}
	if b.Commit != "" {
		b.Commit += modified
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/containerd/containerd/v2" {
			b.Containerd = dep.Version
		}
	}
	return b
}

func (a *App) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of this program",
		Example: `  trysail version -o json`, Args: exactArgs(),
	}
	outputFlag(cmd, &output)
	cmd.RunE = func(*cobra.Command, []string) error {
		asJSON, err := (&common{output: output}).json()
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, a.Build)
		}
		rows := [][2]string{
			{"trysail", a.Build.Version},
			{"commit", a.Build.Commit},
			{"go", a.Build.Go},
			{"platform", a.Build.Platform},
			{"containerd", a.Build.Containerd},
		}
		for _, r := range rows {
			if r[1] != "" {
				fmt.Fprintf(a.Out, "%-10s  %s\n", r[0], r[1])
			}
		}
		return nil
	}
	return cmd
}
