package ship

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"syslog+udp://10.0.0.5":                          "syslog+udp://10.0.0.5:514",
		"syslog+tcp://logs.example.com/?facility=user":   "syslog+tcp://logs.example.com:514",
		"syslog+tls://[::1]:99?max=65536":                "syslog+tls://[::1]:99",
		"syslog+tls://logs.example.com":                  "syslog+tls://logs.example.com:6514",
		"otlp+http://127.0.0.1":                          "otlp+http://127.0.0.1:4318/v1/logs",
		"otlp+https://example.com/otlp":                  "otlp+https://example.com:4318/otlp/v1/logs",
		"otlp+https://example.com:443/v1/logs":           "otlp+https://example.com:443/v1/logs",
		"otlp+https://example.com:443/?compression=none": "otlp+https://example.com:443/v1/logs",
	} {
		if d, err := Parse(text); err != nil || d.String() != want {
			t.Errorf("%s: %s, %v, want %s", text, d, err, want)
		}
	}
}

func TestParse_RefusesWithAReason(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for text, want := range map[string]string{
		"":                                 "it must begin with",
		"logs.example.com":                 "it must begin with",
		"syslog://a":                       "it must begin with",
		"https://a":                        "it must begin with",
		"syslog+tcp://":                    "names no host",
		"syslog+tcp://a:0":                 "port",
		"syslog+tcp://a:99999":             "port",
		"syslog+tcp://a/b":                 "no use for the path",
		"otlp+https://user:s3cret@a":       "?headers=FILE",
		"otlp+https://a:s3cret":            "not a URL",
		"syslog+tcp://a?token=s3cret":      `does not have the option "token"`,
		"syslog+tcp://a?ca=x":              `does not have the option "ca"`,
		"syslog+tcp://a?max=2000&max=3000": "each once",
		"syslog+tcp://a?facility=nobody":   "not a syslog facility",
		"syslog+tcp://a?max=1":             "is not a size",
		"syslog+udp://a?max=100000":        "is not a size",
		"syslog+tls://a?cert=x":            "cert and key go together",
		"syslog+tls://a?ca=/nowhere":       "no such file",
		"otlp+https://a?ca=" + file("empty", "", 0o600):                                    "no certificate",
		"otlp+https://a?headers=/nowhere":                                                  "no such file",
		"otlp+https://a?headers=" + file("open", "A: b", 0o644):                            "chmod 600",
		"otlp+https://a?headers=" + file("bad", "A: b\ns3cret", 0o600):                     "line 2 of",
		"otlp+https://a?headers=" + file("split", "A: s3cret\x00", 0o600):                  "line 1 of",
		"otlp+https://a?headers=" + file("large", strings.Repeat("A: b\n", 20_000), 0o600): "larger than",
		"otlp+https://a?compression=zip":                                                   "compression must be",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells the secret: %v", text, err)
		}
	}
}
