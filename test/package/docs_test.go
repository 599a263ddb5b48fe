//go:build package

package packages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trysail/trysail/test/kit"
)

// block is one of docs/install.md that says on which machine it is run.
var block = regexp.MustCompile("(?ms)^```sh run=\"([a-z]+)\"\n(.*?)^```$")

// The commands of docs/install.md, typed in one shell on a clean Debian that has the files of a release.
func TestDocs_Install(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(kit.Root(), "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	scripts := map[string]string{}
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		scripts[m[1]] += m[2]
	}
	for _, way := range []string{"deb", "archive"} {
		t.Run(way, func(t *testing.T) {
			if scripts[way] == "" {
				t.Fatal("there are no such blocks")
			}
			m := bootDebian(t)
			for _, pattern := range []string{"*.deb", "*.tar.gz", "SHA256SUMS"} {
				file := one(t, releases.new, pattern)
				m.put(t, file, filepath.Join("root", filepath.Base(file)))
			}
			script := "set -eux; cd /root; export VERSION=" + strings.TrimPrefix(newVersion, "v") + "\n" + scripts[way]
			out, err := m.command(t.Context(), "bash", "-c", script).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
