package diagnose

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// startErrors are the runtime's refusals to start a container's first process.
var startErrors = []struct {
	text string // in the runtime's message
	find func(command string) finding
}{
	{"unable to find user", func(string) finding {
		return finding{code: "RUN-USER", summary: "The image's USER is not in its /etc/passwd.", fix: "Create the user in the Dockerfile, or use a numeric USER."}
	}},
	{"permission denied", func(cmd string) finding {
		return finding{code: "RUN-PERM", summary: fmt.Sprintf("`%s` is not executable.", cmd), fix: fmt.Sprintf("RUN chmod +x %s in the Dockerfile.", cmd)}
	}},
	{"executable file not found in $PATH", noFile},
	{"no such file or directory", noFile},
	{"no command specified", func(string) finding {
		return finding{code: "RUN-NOCMD", summary: "The image has no default command, and the deployment gives none.", fix: "Set `command` of the container."}
	}},
	{"exec format error", func(cmd string) finding {
		return finding{code: "IMG-BIN-ARCH", summary: fmt.Sprintf("`%s` is not a program for this machine's processor, or a script without a `#!` line.", cmd), fix: "Build the image for this machine: docker buildx build --platform linux/amd64 (or linux/arm64)."}
	}},
}

func noFile(cmd string) finding {
	if strings.ContainsAny(cmd, " \t") {
		words := strings.Fields(cmd)
		return finding{code: "RUN-ONEWORD", summary: fmt.Sprintf("`command` is a list of words, and %q was given as one word.", cmd), fix: fmt.Sprintf("Write it as a list: [\"%s\"], or [\"sh\", \"-c\", %q].", strings.Join(words, `", "`), cmd)}
	}
	return finding{code: "RUN-NOFILE", summary: fmt.Sprintf("`%s` is not in the image.", cmd), fix: "Correct `command`, or the image's ENTRYPOINT."}
}

// execName finds what the runtime tried to run: exec: "/nope": stat /nope: …
var execName = regexp.MustCompile(`exec: "((?:[^"\\]|\\.)*)"`)

// lastWords are what a program says on its last lines when it fails for a well-known reason.
var lastWords = []struct {
	match *regexp.Regexp
	find  func(m []string) finding
}{
	{regexp.MustCompile(`exec (\S+): exec format error`), func(m []string) finding {
		return finding{code: "IMG-BIN-ARCH", summary: fmt.Sprintf("`%s` is not a program for this machine's processor, or a script without a `#!` line.", m[1]), fix: "Build the image for this machine (docker buildx build --platform …); a script needs a first line such as #!/bin/sh."}
	}},
	{regexp.MustCompile(`exec (\S+): no such file or directory`), func(m []string) finding {
		return finding{code: "RUN-LOADER", summary: fmt.Sprintf("`%s` is in the image, but what it needs to run is not: its loader (libc), or the interpreter of its `#!` line.", m[1]), fix: "Build a static program, or use the base image that it was built for; check scripts for Windows line ends (\\r\\n)."}
	}},
	{regexp.MustCompile(`(?i)EADDRINUSE|address already in use`), func([]string) finding {
		return finding{code: "NET-INUSE", summary: "Its port was taken: the containers of one deployment share their ports.", fix: "Make each container listen on a port of its own."}
	}},
	{regexp.MustCompile(`(?i)bind.*permission denied|EACCES.*:\d+`), func([]string) finding {
		return finding{code: "NET-LOWPORT", summary: "Its user may not open the port.", fix: "Listen on a port above 1023, such as 8080, and open that in `ports` and `publicEndpoint`."}
	}},
	{regexp.MustCompile(`(?i)read-only file system|EROFS`), func([]string) finding {
		return finding{code: "FS-RO", summary: "It tried to write where the file system is read-only.", fix: "Write to a temporary directory."}
	}},
	{regexp.MustCompile(`(?i)(ECONNREFUSED|connection refused)[^\n]*`), func(m []string) finding {
		return finding{code: "DEP-DOWN", summary: fmt.Sprintf("It could not reach something it needs: %s.", strings.TrimSpace(m[0])), fix: "Check the address, and that what it names is running and listens there."}
	}},
	{regexp.MustCompile(`KeyError: '([A-Z][A-Z0-9_]+)'`), missingEnv},
	{regexp.MustCompile(`\b([A-Z][A-Z0-9_]{2,})\b[^\n]{0,40}(?:is not set|is not defined|is required|must be set|not provided)`), missingEnv},
}

func missingEnv(m []string) finding {
	return finding{code: "RUN-ENV", summary: fmt.Sprintf("It stopped because the variable %s is not set.", m[1]), fix: fmt.Sprintf("Add %s to `environment` of the container.", m[1])}
}

// exitFinding explains why container c of the pod ended.
func exitFinding(in Input, pod trysail.PodRecord, c trysail.ContainerStatus) finding {
	f := exitCause(in, pod, c)
	f.container = c.Name
	if f.confidence == "" {
		f.confidence = trysail.Certain
	}
	if c.StartError != "" {
		f.evidence = append(f.evidence, trysail.Evidence{Kind: "runtime", Text: c.StartError})
		return f
	}
	f.evidence = append(f.evidence, trysail.Evidence{Kind: "exit", Text: fmt.Sprintf("exit code %d after %s, %d starts", c.ExitCode, lived(c), len(in.Pods))})
	f.evidence = append(f.evidence, logEvidence(pod.Evidence, c.Name, 10)...)
	return f
}

func exitCause(in Input, pod trysail.PodRecord, c trysail.ContainerStatus) finding {
	if c.StartError != "" {
		return startFinding(c)
	}
	if c.OOMKilled {
		limit := in.Power.Limits().Memory >> 20
		return finding{code: "MEM-OOM", summary: fmt.Sprintf("Container %s was killed after %s because the node's %d MB (power %s) were used up.", c.Name, lived(c), limit, in.Power), fix: memoryFix(in.Power)}
	}
	tail := strings.Join(pod.Evidence.LogTail[c.Name], "\n")
	for _, w := range lastWords {
		if m := w.match.FindStringSubmatch(tail); m != nil && c.ExitCode != 0 {
			f := w.find(m)
			f.confidence = trysail.Likely // it rests on what the program wrote
			return f
		}
	}
	if name, ok := signals[c.ExitCode]; ok {
		return finding{code: "EXIT-SIGNAL", summary: fmt.Sprintf("Container %s was ended by %s after %s.", c.Name, name, lived(c)), fix: "Look at its last lines below; an illegal instruction means that it was built for a newer processor."}
	}
	if c.ExitCode == 0 {
		return finding{code: "EXIT-ZERO", summary: fmt.Sprintf("Container %s finished normally after %s. A service has to keep running.", c.Name, lived(c)), fix: "Run the program in the foreground (for nginx: nginx -g 'daemon off;')."}
	}
	return finding{code: "EXIT-CODE", summary: fmt.Sprintf("Container %s exited with code %d after %s%s.", c.Name, c.ExitCode, lived(c), lastLine(pod.Evidence.LogTail[c.Name])), fix: "Its last lines say why; run the image with the same command and environment to see it again."}
}

func startFinding(c trysail.ContainerStatus) finding {
	command := c.Name
	if m := execName.FindStringSubmatch(c.StartError); m != nil {
		command = m[1]
	}
	for _, s := range startErrors {
		if strings.Contains(c.StartError, s.text) {
			return s.find(command)
		}
	}
	return finding{code: "RUN-RUNTIME", summary: "The container runtime could not start the container.", fix: "Its message is below; run `trysail doctor` on the machine."}
}

var signals = map[int]string{132: "SIGILL (illegal instruction)", 134: "SIGABRT (it aborted itself)", 136: "SIGFPE (arithmetic error)", 137: "SIGKILL", 139: "SIGSEGV (a memory access error)", 143: "SIGTERM"}

func memoryFix(p trysail.Power) string {
	all := trysail.Powers()
	for i, s := range all {
		if s.Name == p && i+1 < len(all) {
			for _, next := range all[i+1:] {
				if next.RAMGB > s.RAMGB {
					return fmt.Sprintf("Give the service more memory (power %s), or make the program use less (--max-old-space-size, -Xmx, GOMEMLIMIT).", next.Name)
				}
			}
		}
	}
	return "Make the program use less memory (--max-old-space-size, -Xmx, GOMEMLIMIT)."
}

// lived says how long a container ran, in words.
func lived(c trysail.ContainerStatus) string {
	d := c.FinishedAt.Sub(c.StartedAt)
	switch {
	case c.StartedAt.IsZero() || d < 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// lastLine is the program's last line as the end of a sentence.
func lastLine(tail []string) string {
	for _, line := range slices.Backward(tail) {
		if line = strings.TrimSpace(line); line != "" {
			return fmt.Sprintf("; it last said: %s", short(line, 160))
		}
	}
	return " without a word"
}

func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
