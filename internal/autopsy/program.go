package autopsy

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/trysail/trysail"
)

const (
	headSize = 4096 // bytes of a program that are read first
	lineSize = 256  // bytes of a #! line that the kernel reads
	maxDepth = 5    // of scripts that are run by scripts, as in the kernel
)

// formats are files that look like programs and are none for Linux.
var formats = []struct{ magic, kind, what string }{
	{"MZ", "windows", "a Windows program"},
	{"\xcf\xfa\xed\xfe", "macos", "a macOS program"},
	{"\xce\xfa\xed\xfe", "macos", "a macOS program"},
	{"\xca\xfe\xba\xbe", "macos", "a macOS program or a Java class"},
	{"\x00asm", "wasm", "a WebAssembly module"},
	{"PK\x03\x04", "zip", "an archive (zip, jar)"},
	{"\x1f\x8b", "gzip", "a compressed file (gzip)"},
	{"!<arch>", "archive", "a library archive"},
}

// program looks at the file that the kernel would execute.
func (x *examiner) program(file string, args []string) {
	head, err := x.head(file, headSize)
	if err != nil {
		x.note(err)
		return
	}
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		x.a.Kind = "elf"
		x.elf(file, head, true)
	case bytes.HasPrefix(head, []byte("#!")):
		x.a.Kind = "script"
		x.script(file, head, 1)
		x.shellScript(file, args)
	case len(head) == 0:
		x.a.Kind = "empty"
		x.found("RUN-NOSHEBANG", trysail.Certain, mark(file)+" is an empty file.", "Check the COPY or RUN line in the Dockerfile that makes it.", mark(file)+" has 0 bytes")
	default:
		x.noProgram(file, head)
	}
}

// noProgram is about a file that the kernel cannot execute.
func (x *examiner) noProgram(file string, head []byte) {
	sure := trysail.Certain
	if x.m.OtherFormats {
		sure = trysail.Likely
	}
	for _, f := range formats {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			x.a.Kind = f.kind
			x.found("IMG-BIN-ARCH", sure, fmt.Sprintf("%s is %s, not a Linux program.", mark(file), f.what),
				"Build it for Linux, or start it with the program that runs such files.", fmt.Sprintf("%s begins with %q", mark(file), f.magic))
			return
		}
	}
	if !isText(head) {
		x.a.Kind = "unknown"
		x.found("IMG-BIN-ARCH", trysail.Likely, mark(file)+" is not a program that Linux knows.", "Check what the Dockerfile copies there, and for which platform it was built.",
			fmt.Sprintf("%s begins with % x", mark(file), head[:min(len(head), 8)]))
		return
	}
	x.a.Kind = "text"
	first, _, _ := bytes.Cut(head, []byte("\n"))
	if bytes.HasPrefix(head, []byte("\xef\xbb\xbf#!")) {
		x.found("RUN-NOSHEBANG", sure, fmt.Sprintf("%s begins with a byte order mark, which hides its `#!` line.", mark(file)),
			"Save it as UTF-8 without BOM.", fmt.Sprintf("%s begins with ef bb bf", mark(file)))
		return
	}
	x.found("RUN-NOSHEBANG", sure, mark(file)+" is a script without a `#!` first line.",
		fmt.Sprintf("Make its first line #!%s", x.guessInterpreter(file)), "its first line is "+mark(string(first)))
}

func (x *examiner) guessInterpreter(file string) string {
	switch path.Ext(file) {
	case ".py":
		return "/usr/bin/env python3"
	case ".js", ".mjs", ".cjs":
		return "/usr/bin/env node"
	case ".rb":
		return "/usr/bin/env ruby"
	case ".pl":
		return "/usr/bin/perl"
	}
	return "/bin/sh"
}

// isText reports whether bytes look like text.
func isText(b []byte) bool {
	if bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	odd := 0
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && len(b) >= utf8.UTFMax || r < ' ' && r != '\n' && r != '\t' && r != '\r' {
			odd++
		}
		b = b[n:]
	}
	return odd <= 2
}

// elf checks a program's machine and loader. main is false for interpreters of scripts.
func (x *examiner) elf(file string, head []byte, main bool) {
	p, err := readELF(head, func(at int64, n int) ([]byte, error) { return x.part(file, at, n) })
	if errors.Is(err, errBadELF) && p.machine == 0 {
		x.found("IMG-BIN-ARCH", trysail.Likely, mark(file)+" is a damaged program.", "Build and push the image again.", err.Error())
		return
	}
	if main {
		x.a.Architecture = p.architecture
	}
	if yes, certain := x.m.runs(p); !yes {
		how := trysail.Likely
		if certain {
			how = trysail.Certain
		}
		x.found("IMG-BIN-ARCH", how, fmt.Sprintf("%s in the image is a program for %s; this machine is %s.", mark(file), p.architecture, x.m.Architecture),
			fmt.Sprintf("Build it for this machine: docker buildx build --platform linux/%s (and for Go GOARCH=%s).", x.m.Architecture, x.m.Architecture),
			mark(file)+": "+p.evidence())
		return
	}
	if err != nil {
		x.note(err)
		return
	}
	if main {
		x.a.Interpreter = clean(p.interpreter)
	}
	if p.interpreter != "" && !x.exists(path.Join("/", p.interpreter)) {
		x.found("RUN-LOADER", trysail.Certain, fmt.Sprintf("%s needs %s, which this image lacks.", mark(file), mark(p.interpreter)), loaderFix(p.interpreter),
			fmt.Sprintf("%s: its loader is %s", mark(file), mark(p.interpreter)), mark(p.interpreter)+" is not in the image")
	}
}

func loaderFix(loader string) string {
	switch {
	case strings.Contains(loader, "ld-musl"):
		return "It was built on Alpine: use an Alpine base image, or build a static program (CGO_ENABLED=0 for Go)."
	case strings.Contains(loader, "ld-linux"):
		return "It was built with glibc: use a Debian or Ubuntu base image (also distroless/base), or build a static program (CGO_ENABLED=0 for Go)."
	}
	return "Build a static program, or use the base image that it was built for."
}

// script checks a #! line as the kernel and env read it.
func (x *examiner) script(file string, head []byte, depth int) {
	line, _, whole := bytes.Cut(head[2:min(len(head), lineSize)], []byte("\n"))
	if !whole && len(head) >= lineSize {
		x.found("RUN-LOADER", trysail.Likely, fmt.Sprintf("The `#!` line of %s is too long.", mark(file)), "Make it shorter than 255 characters.")
		return
	}
	text := strings.Trim(string(line), " \t")
	windows := strings.HasSuffix(text, "\r")
	if windows {
		x.windows(file, strings.TrimSuffix(text, "\r"))
		return
	}
	interpreter, rest := cutWord(text)
	if interpreter == "" {
		x.found("RUN-NOSHEBANG", trysail.Certain, fmt.Sprintf("The `#!` line of %s names no program.", mark(file)), "Make it #!/bin/sh")
		return
	}
	if depth == 1 {
		x.a.Interpreter = clean(interpreter)
	}
	if !path.IsAbs(interpreter) || isRuntimes(interpreter) {
		return // relative to the working directory, which nobody means
	}
	if !x.interpreter(file, interpreter, depth) {
		return
	}
	if path.Base(interpreter) == "env" {
		x.env(file, rest)
	}
}

// windows is about a #! line that ends with a carriage return, which the kernel takes for a part of it.
func (x *examiner) windows(file, line string) {
	how := trysail.Certain
	if interpreter, rest := cutWord(line); rest != "" && path.Base(interpreter) != "env" {
		how = trysail.Likely // the carriage return goes to the interpreter, and some bear it
	}
	x.found("RUN-CRLF", how, mark(file)+" has Windows line ends, so its `#!` line names a program that does not exist.",
		fmt.Sprintf(`Add to the Dockerfile: RUN sed -i 's/\r$//' %s — and to .gitattributes: *.sh text eol=lf`, clean(file)), fmt.Sprintf("first line: %q", "#!"+line+"\r"))
}

// interpreter checks what a #! line names.
func (x *examiner) interpreter(file, interpreter string, depth int) (ok bool) {
	info, _, err := x.stat(interpreter)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDirectory):
		fix := "Install it in the Dockerfile, or change the first line."
		switch path.Base(interpreter) {
		case "bash":
			fix = "Make the first line #!/bin/sh, or install bash in the Dockerfile (RUN apk add bash)."
		case "env", "sh":
			fix = "The image has no shell: start the program itself, or use a base image with one."
		}
		x.found("RUN-LOADER", trysail.Certain, fmt.Sprintf("%s needs %s, which this image lacks.", mark(file), mark(interpreter)), fix,
			"its first line is "+mark("#!"+interpreter), mark(interpreter)+" is not in the image")
		return false
	case err != nil:
		x.note(err)
		return false
	case info.IsDir() || info.Mode()&0o111 == 0:
		x.notExecutable(interpreter)
		return false
	}
	head, err := x.head(interpreter, headSize)
	switch {
	case err != nil:
		x.note(err)
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		x.elf(interpreter, head, false)
	case bytes.HasPrefix(head, []byte("#!")) && depth < maxDepth:
		x.script(interpreter, head, depth+1)
	}
	return true
}

// env checks what #!/usr/bin/env would look for.
func (x *examiner) env(file, rest string) {
	word, rest := cutWord(rest)
	if word == "-S" {
		word, _ = cutWord(rest)
	}
	if word == "" || strings.HasPrefix(word, "-") || strings.ContainsAny(word, "=/'\"$\\") {
		return
	}
	for dir := range strings.SplitSeq(cmpOr(x.c.Path, defaultPath), ":") {
		if !path.IsAbs(dir) || x.exists(path.Join(dir, word)) {
			return
		}
	}
	x.found("RUN-LOADER", trysail.Certain, fmt.Sprintf("%s needs %s, which is not in this image's PATH.", mark(file), mark(word)), "Install it in the Dockerfile, or change the first line.",
		"its first line is "+mark("#!/usr/bin/env "+word))
}

// shellScript notes whether a start script stays between the runtime and the program.
func (x *examiner) shellScript(file string, args []string) {
	switch path.Base(x.a.Interpreter) {
	case "sh", "bash", "ash", "dash":
	default:
		return
	}
	const most = 64 << 10
	text, err := x.head(file, most)
	if err != nil || len(text) == most || len(args) == 0 {
		return
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("exec ")) || bytes.Contains(line, []byte("; exec ")) || bytes.Contains(line, []byte("&& exec ")) ||
			bytes.HasPrefix(line, []byte("trap ")) {
			return
		}
	}
	x.a.Shell = true
}

// cutWord splits a text after its first word.
func cutWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}
