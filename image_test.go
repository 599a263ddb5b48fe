package trysail_test

import (
	"testing"

	"github.com/trysail/trysail"
)

func TestImageReference_ReplacesTagAndDigest(t *testing.T) {
	for name, want := range map[string]string{
		"nginx":                        "nginx@sha256:d",
		"nginx:1.27":                   "nginx@sha256:d",
		"127.0.0.1:5000/a/b":           "127.0.0.1:5000/a/b@sha256:d",
		"127.0.0.1:5000/a/b:x":         "127.0.0.1:5000/a/b@sha256:d",
		"reg.example/a:x@sha256:other": "reg.example/a@sha256:d",
	} {
		if got := trysail.ImageReference(name, "sha256:d"); got != want {
			t.Errorf("ImageReference(%q): got %q, want %q", name, got, want)
		}
	}
}
