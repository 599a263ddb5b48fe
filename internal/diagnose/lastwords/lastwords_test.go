package lastwords_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

var update = flag.Bool("update", false, "write what is understood into testdata/samples.txtar")

func TestExtract_Samples(t *testing.T) {
	file := filepath.Join("testdata", "samples.txtar")
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wants := map[string]string{}
	var logs []txtar.File
	for _, f := range a.Files {
		if name, ok := strings.CutSuffix(f.Name, ".want"); ok {
			wants[name] = string(f.Data)
		} else {
			logs = append(logs, f)
		}
	}
	if len(logs) < 60 {
		t.Errorf("%d samples, want at least 60", len(logs))
	}
	var files []txtar.File
	for _, f := range logs {
		name := strings.TrimSuffix(f.Name, ".log")
		got := describe(lastwords.Extract(strings.Split(strings.TrimSuffix(string(f.Data), "\n"), "\n")))
		files = append(files, f, txtar.File{Name: name + ".want", Data: []byte(got)})
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(wants[name], got); diff != "" && !*update {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(&txtar.Archive{Comment: a.Comment, Files: files}), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// describe makes words readable, one thing per line.
func describe(w lastwords.Words) string {
	var b bytes.Buffer
	how := "guessed"
	if w.Told {
		how = "told"
	}
	fmt.Fprintf(&b, "%s\n%s %s %s\n", w.Sentence, how, orDash(string(w.Language)), orDash(w.Where))
	for _, f := range w.Facts {
		when := "before"
		if f.Fatal {
			when = "fatal"
		}
		fmt.Fprintf(&b, "%s %s name=%s host=%s port=%d\n", when, f.Kind, orDash(f.Name), orDash(f.Host), f.Port)
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func TestExtract_CarriageReturnInAScript(t *testing.T) {
	w := lastwords.Extract([]string{"/start.sh: 2: cd\r: not found"})
	if f, ok := w.Fatal(); !ok || f.Kind != lastwords.CRLF {
		t.Errorf("%+v", w)
	}
}

func TestExtract_ReadsOnlyTheEnd(t *testing.T) {
	lines := []string{"panic: long ago", "", "goroutine 1 [running]:"}
	for range 500 {
		lines = append(lines, "all is well")
	}
	if w := lastwords.Extract(lines); w.Told || w.Sentence != "all is well" || len(w.Facts) > 0 {
		t.Errorf("%+v", w)
	}
	if w := lastwords.Extract(nil); w.Sentence != "" || w.Told {
		t.Errorf("%+v of nothing", w)
	}
}

func FuzzExtract(f *testing.F) {
	a, err := txtar.ParseFile(filepath.Join("testdata", "samples.txtar"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range a.Files {
		f.Add(string(file.Data))
	}
	f.Add("\x1b[3\x1b]\xff{\"msg\":\"a\\u0000b\\nc\"}\r")
	f.Fuzz(func(t *testing.T, log string) {
		w := lastwords.Extract(strings.Split(log, "\n"))
		if len(w.Sentence) > lastwords.MaxSentence || !utf8.ValidString(w.Sentence) || strings.ContainsAny(w.Sentence, "\n\x1b\x00") {
			t.Errorf("sentence %q", w.Sentence)
		}
		if len(w.Facts) > 8 {
			t.Errorf("%d facts", len(w.Facts))
		}
		for _, fact := range w.Facts {
			if fact.Kind == "" || len(fact.Name) > 203 || len(fact.Host) > 203 || fact.Port < 0 || fact.Port > 65535 {
				t.Errorf("%+v", fact)
			}
		}
	})
}

func BenchmarkExtract(b *testing.B) {
	var lines []string
	for range 200 {
		lines = append(lines, `2026-11-21T12:00:00Z INFO request served method=GET path=/api/orders/42 status=200 duration=12ms remote=10.88.0.1`)
	}
	for b.Loop() {
		lastwords.Extract(lines)
	}
}
