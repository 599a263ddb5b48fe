package diagnose

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

const (
	exitKill = 137 // 128 + SIGKILL
	exitTerm = 143 // 128 + SIGTERM
)

// exit explains why container s of the pod ended by itself.
func (p podCase) exit(s trysail.ContainerStatus) finding {
	f := p.exitCause(s)
	if f.container == "" {
		f.container = s.Name
	}
	f.rank, f.at = rankExit, s.FinishedAt
	after := ""
	if !p.rec.HealthyAt.IsZero() && s.FinishedAt.After(p.rec.HealthyAt) {
		after = fmt.Sprintf(", %s after it had become healthy", span(s.FinishedAt.Sub(p.rec.HealthyAt)))
	}
	f.prove("exit", "container %s: exit code %d after %s%s, %d starts", s.Name, s.ExitCode, lived(s), after, max(1, len(p.Pods)))
	for _, o := range p.e.Containers {
		if o.Name != s.Name && o.State == trysail.ContainerExited && o.FinishedAt.After(s.FinishedAt) && !p.endedByUs(o) {
			f.prove("exit", "container %s ended %s later with exit code %d, as a consequence or by itself", o.Name, span(o.FinishedAt.Sub(s.FinishedAt)), o.ExitCode)
		}
	}
	p.proveLog(&f, s.Name)
	return f
}

// exitCause goes from what is certain to what is only said.
func (p podCase) exitCause(s trysail.ContainerStatus) finding {
	if f, ok := p.execFailure(s); ok {
		return f
	}
	if f, ok := p.outOfMemory(s); ok {
		return f
	}
	words := p.words(s.Name)
	if s.ExitCode == 0 {
		return p.finished(s, words)
	}
	if f, ok := p.systemd(s, words); ok {
		return f
	}
	if f, ok := p.limits(s, words); ok {
		return f
	}
	for _, fact := range words.Facts {
		if !fact.Fatal {
			break
		}
		if f, ok := p.factFinding(s.Name, fact, words); ok {
			return f
		}
	}
	if f, ok := p.childOutOfMemory(s); ok {
		return f
	}
	if f := p.processes(s.Name, finding{}); f.confidence == trysail.Certain {
		f.confidence = trysail.Likely // the limit was hit, and it did not say that it ended of that
		return f
	}
	if m := p.machine(); m != nil && words.Sentence == "" && isFull(m) {
		// Its last words would be on that disk.
		f := p.diskFull(lastwords.Fact{}, finding{})
		f.confidence = trysail.Likely
		return f
	}
	if name, ok := signals(s.ExitCode); ok {
		return p.signal(s, name, words)
	}
	return p.crash(s, words)
}

// crash is an exit code that says nothing by itself.
func (p podCase) crash(s trysail.ContainerStatus, words lastwords.Words) finding {
	f := finding{code: "EXIT-CODE", confidence: trysail.Certain}
	f.summary = fmt.Sprintf("Container %s exited with code %d after %s%s.", s.Name, s.ExitCode, lived(s), lastSentence(words))
	f.fix = "Its last lines say why; run the image with the same command and environment to see it again."
	if words.Where != "" {
		f.fix = fmt.Sprintf("Look at %s; its last lines are below.", words.Where)
	}
	for _, fact := range words.Facts {
		if fix, ok := p.wordFix(fact); ok && fact.Fatal {
			f.fix = fix
			break
		}
	}
	return f
}

// wordFix is what to do about facts that have no code of their own.
func (p podCase) wordFix(fact lastwords.Fact) (string, bool) {
	switch fact.Kind {
	case lastwords.MissingModule:
		return fmt.Sprintf("%s is not in the image: install it in the Dockerfile, and check that the build copies it to where it is looked for.", p.mark(fact.Name)), true
	case lastwords.MissingFile:
		return fmt.Sprintf("%s is not in the image: check COPY and WORKDIR in the Dockerfile, and .dockerignore.", p.mark(fact.Name)), true
	case lastwords.LoginRefused:
		return "The database refused the login: check user name and password in `environment`.", true
	case lastwords.Migrations:
		return "Run the migrations of the database before the program, or as its first step.", true
	default:
		return "", false
	}
}

func lastSentence(words lastwords.Words) string {
	if words.Sentence == "" {
		return " without a word"
	}
	return "; it last said: " + strings.TrimSuffix(short(words.Sentence, maxValue), ".")
}

// signal is about a program that a signal ended.
func (p podCase) signal(s trysail.ContainerStatus, name string, words lastwords.Words) finding {
	f := finding{code: "EXIT-SIGNAL", confidence: trysail.Certain}
	f.summary = fmt.Sprintf("Container %s was ended by %s after %s.", s.Name, name, lived(s))
	f.fix = "Look at its last lines below."
	switch s.ExitCode {
	case 132:
		f.summary = fmt.Sprintf("Container %s was ended by %s after %s: it was built for a newer processor than this machine's.", s.Name, name, lived(s))
		f.fix = "Build it for an older processor (for amd64: x86-64-v1, no -march=native), or use a machine with a newer one."
	case exitKill, exitTerm:
		f.fix = "Somebody or something inside the container or on the machine killed it; Trysail did not. Its last lines are below."
	default:
		if words.Told {
			f.summary = strings.TrimSuffix(f.summary, ".") + lastSentence(words) + "."
		}
	}
	return f
}

func signals(code int) (name string, ok bool) {
	switch code {
	case 129:
		return "SIGHUP", true
	case 130:
		return "SIGINT", true
	case 131:
		return "SIGQUIT", true
	case 132:
		return "SIGILL (illegal instruction)", true
	case 133:
		return "SIGTRAP", true
	case 134:
		return "SIGABRT (it aborted itself)", true
	case 135:
		return "SIGBUS (a memory access error)", true
	case 136:
		return "SIGFPE (arithmetic error)", true
	case exitKill:
		return "SIGKILL", true
	case 139:
		return "SIGSEGV (a memory access error)", true
	case 141:
		return "SIGPIPE", true
	case exitTerm:
		return "SIGTERM", true
	case 159:
		return "SIGSYS (a forbidden system call)", true
	}
	return "", false
}

// finished is about a program that ended without an error.
func (p podCase) finished(s trysail.ContainerStatus, words lastwords.Words) finding {
	f := finding{code: "EXIT-ZERO", confidence: trysail.Certain}
	f.summary = fmt.Sprintf("Container %s finished normally after %s. A service has to keep running.", s.Name, lived(s))
	f.fix = "Run the program in the foreground (for nginx: nginx -g 'daemon off;')."
	command := p.commandLine(s.Name)
	name, fix := daemonFix(command, p.Version.Autopsies[s.Name].Program)
	daemons := p.e.Details[s.Name].Daemons
	switch {
	case len(daemons) > 0:
		f.code = "EXIT-FORKED"
		f.summary = fmt.Sprintf("Container %s started %s in the background and ended after %s; a container ends with its first process.", s.Name, p.mark(daemons[0]), lived(s))
		f.prove("counter", "processes that lost their parent: %s", p.show(strings.Join(daemons, ", ")))
	case name != "":
		f.code, f.confidence = "EXIT-FORKED", trysail.Likely
		f.summary = fmt.Sprintf("Container %s ended after %s: %s goes into the background, and a container ends with its first process.", s.Name, lived(s), name)
	case isShell(command):
		f.summary = fmt.Sprintf("Container %s finished normally after %s: a shell without a terminal ends at once. A service has to keep running.", s.Name, lived(s))
		f.fix = "Set `command` to the program that shall run; a shell has nothing to do here. Services run in the foreground."
	case words.Sentence != "":
		f.summary = strings.TrimSuffix(f.summary, ".") + lastSentence(words) + "."
	}
	if fix != "" {
		f.fix = fix
	}
	return f
}

// commandLine is what the container runs, as far as it is known.
func (p podCase) commandLine(container string) []string {
	if command := p.Deployment.Containers[container].Command; len(command) > 0 {
		return command
	}
	if program := p.Version.Autopsies[container].Program; program != "" {
		return []string{program}
	}
	return nil
}

func isShell(command []string) bool {
	if len(command) != 1 {
		return false
	}
	switch path.Base(command[0]) {
	case "sh", "bash", "ash", "dash", "zsh":
		return true
	}
	return false
}

// daemonFix knows programs that go into the background unless they are told not to.
func daemonFix(command []string, program string) (name, fix string) {
	line := " " + strings.Join(append(slices.Clone(command), program), " ")
	for _, d := range []struct{ has, lacks, name, fix string }{
		{"pm2 start", "pm2-runtime", "pm2", "Use pm2-runtime instead of pm2 (in the foreground)."},
		{" service ", "", "`service … start`", "Start the server itself in the foreground, not with `service`."},
		{"apachectl", "FOREGROUND", "apachectl", "Use apachectl -D FOREGROUND (in the foreground)."},
		{"nginx", "daemon off", "nginx", "Use nginx -g 'daemon off;' (in the foreground)."},
		{"httpd", "FOREGROUND", "httpd", "Use httpd -D FOREGROUND (in the foreground)."},
		{"supervisord", "-n", "supervisord", "Use supervisord -n (in the foreground)."},
		{"php-fpm", "-F", "php-fpm", "Use php-fpm -F (in the foreground)."},
		{"--daemonize yes", "", "with --daemonize it", "Use --daemonize no (in the foreground)."},
		{"--daemon", "", "with --daemon it", "Leave out --daemon, so that it runs in the foreground."},
		{"catalina.sh start", "", "catalina.sh start", "Use catalina.sh run (in the foreground)."},
		{"mongod --fork", "", "mongod --fork", "Leave out --fork, so that it runs in the foreground."},
	} {
		if strings.Contains(line, d.has) && (d.lacks == "" || !strings.Contains(line, d.lacks)) {
			return d.name, d.fix
		}
	}
	return "", ""
}

// systemd is about images that expect to be a whole machine.
func (p podCase) systemd(s trysail.ContainerStatus, words lastwords.Words) (finding, bool) {
	if f, ok := p.autopsyOf(s.Name, func(x trysail.Finding) bool { return x.Code == "RUN-SYSTEMD" }); ok {
		f.confidence = trysail.Certain // it is what the image starts, and it ended
		return f, true
	}
	if _, ok := words.Has(lastwords.Systemd); !ok {
		return finding{}, false
	}
	return finding{
		code: "RUN-SYSTEMD", confidence: trysail.Likely, summary: "The image expects to be a whole machine (systemd)" + lastSentence(words) + ".",
		fix: "Run the program itself: set `command` to what the service unit's ExecStart says.",
	}, true
}

// lived says how long a container ran, in words.
func lived(s trysail.ContainerStatus) string {
	d := s.FinishedAt.Sub(s.StartedAt)
	if s.StartedAt.IsZero() || d < 0 {
		return "0s"
	}
	return span(d)
}

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
