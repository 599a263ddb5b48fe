package lastwords

import (
	"regexp"
	"strings"
	"sync"
)

// maxAfter is how many lines may follow the last words. What was said before that was not the end.
const maxAfter = 40

// block is a part of a log that tells why the program ended.
type block struct {
	from, to int // first line, and the one after the last
	sentence string
	language Language
	where    string
}

// shapes are the expressions that recognize the forms of the languages. They are compiled when they are needed first:
// every process of the program would pay for them otherwise.
type shapes struct {
	time, severe, noise                  *regexp.Regexp
	goTrace, goFrame, goLog              *regexp.Regexp
	pyException, pyBare, pyFrame         *regexp.Regexp
	nodeHead, nodeFrame, nodeCause       *regexp.Regexp
	javaHead, javaFrame                  *regexp.Regexp
	rubyHead, rustHead, rustOld, dotHead *regexp.Regexp
	lines                                []lineShape
}

// lineShape is a line that is last words by itself.
type lineShape struct {
	language Language
	*regexp.Regexp
}

var patterns = sync.OnceValue(func() *shapes {
	re := regexp.MustCompile
	s := &shapes{
		time:        re(`^(?:\[|time=")?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?UTC| ?[+-]\d\d:?\d\d|Z)?(?:\]|"|:)?\s+`),
		severe:      re(`(?i)\b(?:fatal|panic|error|exception|critical|fail(?:ed|ure|s)?|cannot|can't|could not|couldn't|unable to|refused|denied|invalid|missing|not found|no such|unknown|unexpected|abort(?:ed|ing)?|required|must)\b|\w(?:Error|Exception)\b`),
		noise:       re(`(?i)^(?:npm (?:err!|error|warn|notice)(?: (?:code|errno|path|command|a complete log|.*-debug-).*)?$|npm (?:err!|error|warn|notice) *(?:a complete log|    |this is probably|lifecycle|exit status|unknown user config).*|\s+at .*|note: .*|node\.js v\d.*|exit(?:ed|ing| status| code)?\b.*|error command failed with exit code.*|info visit .*|emitted 'error' event.*|error: a fatal exception has occurred.*|error: could not create the java virtual machine.*|begin failed--.*|error: process completed.*|make: \*\*\*.*|\s*[\]}^~)]+,?\s*|\[notice\].*|stack backtrace:|\s*\d+: .*)`),
		goTrace:     re(`^goroutine \d+ .*\[.*\]:?$`),
		goFrame:     re(`^\t(\S+\.go):(\d+)`),
		goLog:       re(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)? (?:(\S+\.go:\d+): )?(\S.*)$`),
		pyException: re(`^([A-Za-z_][\w.]*)(?:: ?(.*))?$`),
		pyBare:      re(`^(?:SyntaxError|IndentationError|TabError): `),
		pyFrame:     re(`^\s*File "([^"]+)", line (\d+)`),
		nodeHead:    re(`^(?:Uncaught )?(?:\(node:\d+\) UnhandledPromiseRejectionWarning: )?((?:[A-Za-z_$][\w$]*)?(?:Error|Exception|Rejection)(?: \[\w+\])?)(?:: (.*))?$`),
		nodeFrame:   re(`^\s+at (?:.*\(|async |new )*(?:file://)?((?:node:|/|<anonymous>|[\w.-]+/)?[^()\s]*?):(\d+)(?::\d+)?\)?`),
		nodeCause:   re(`^\s+\[(?:cause|errors)\]: (.+?)(?: \{)?$`),
		javaHead:    re(`^(?:Exception in thread "[^"]*" )?((?:[a-zA-Z_$][\w$]*\.)+[A-Z][\w$]*(?:Exception|Error|Throwable|Failure)?)(?:: (.*))?$`),
		javaFrame:   re(`^\s+at [\w.$/@<>-]+\(([\w$]+\.(?:java|kt|scala|groovy|clj)):(\d+)\)`),
		rubyHead:    re("^(?:\\s*\\d+: from )?(\\S+?:\\d+):in ['`‘].*?['’]: (.*) \\(([A-Z]\\w*(?:::\\w+)*)\\)$"),
		rustHead:    re(`^thread '.*' (?:\(\d+\) )?panicked at (?:([^\s']+:\d+)(?::\d+)?:)?$`),
		rustOld:     re(`^thread '.*' panicked at '(.*)', (\S+:\d+)(?::\d+)?$`),
		dotHead:     re(`^(?:Unhandled [Ee]xception[.:]) (.*)$`),
	}
	for _, l := range lineShapes {
		s.lines = append(s.lines, lineShape{l.language, re(l.pattern)})
	}
	return s
})

// lineShapes are lines that say by themselves that a program ends. The group, if there is one, is the sentence.
var lineShapes = []struct {
	language Language
	pattern  string
}{
	{Runtime, `^exec (?:container process )?\S+: .*$`},
	{Runtime, `^standard_init_linux\.go:\d+: (.*)$`},
	{Nginx, `^(?:nginx: |\d{4}/\d\d/\d\d \S+ )\[(?:emerg|alert)\] (?:\d+#\d+: )?(.*)$`},
	{Apache, `^(?:\[.*\] )?(?:\(\d+\).*: )?AH000(?:15|16|20|72|73|69|89): .*$`},
	{HAProxy, `^\[ALERT\]\s+.*?: (.*)$`},
	{Postgres, `^(?:.*? )?(?:FATAL|PANIC):  (.*)$`},
	{Postgres, `^(?:initdb|postgres|pg_ctl): error: .*$`},
	{Postgres, `^Error: Database is uninitialized and superuser password is not specified\.$`},
	{MySQL, `^.*\[ERROR\] \[Entrypoint\]: (.*)$`},
	{MySQL, `^.*\[ERROR\] \[MY-\d+\] (?:\[\w+\] )?(.*)$`},
	{Redis, `^(?:\d+:[A-Z] .*?)?[#*] (Fatal error.*|Warning: Could not create server TCP.*|Failed listening on port.*|Can't .*)$`},
	{Redis, `^(\*\*\* FATAL CONFIG FILE ERROR.*)$`},
	{Node, `^(?:<--- .* --->)?(?:.*)?FATAL ERROR: (.*)$`},
	{Node, `^npm (?:ERR!|error) (Missing script: .*|Could not read package\.json.*|[Ee]noent Could not read package\.json.*)$`},
	{Node, `^error (Command ".*" not found\.?|Couldn't find a package\.json file.*)$`},
	{Node, `^(?:error: )?(?:Uncaught \(in promise\) )(.*)$`},
	{Java, `^Error: ((?:Could not find or load main class|Unable to (?:access jarfile|initialize main class)|LinkageError|JavaFX).*)$`},
	{Java, `^(no main manifest attribute, in .*|Unrecognized (?:VM )?option.*|Could not reserve enough space.*|Terminating due to java\.lang\.OutOfMemoryError.*|Invalid (?:maximum|initial) heap size.*)$`},
	{Python, `^\S*python[\d.]*: ((?:can't open file|No module named|can't find '__main__').*|.*Error while finding module.*)$`},
	{Python, `^(?:ERROR:\s+|\[.*\] \[ERROR\] )(\[Errno \d+\].*|Error loading ASGI app.*|Connection in use.*|Can't connect to .*)$`},
	{PHP, `^(?:.*? )?(?:PHP )?((?:Fatal|Parse|Compile) error: .*)$`},
	{PHP, `^(Could not open input file: .*)$`},
	{PHP, `^\[.*\] ERROR: (.*)$`},
	{DotNet, `^(?:A fatal error.*|It was not possible to find any compatible framework version.*|You must install or update \.NET to run this application\.|The application to execute does not exist: .*|Process terminated\. .*)$`},
	{Rust, `^(memory allocation of \d+ bytes failed)$`},
	{Rust, `^Error: (Os \{ code: .*|[A-Z]\w+\(.*\)|.* \(os error \d+\).*)$`},
	{Ruby, `^(?:bundler: failed to load command: .*|Could not find .* in (?:locally installed gems|any of the sources).*|A server is already running\..*|! Unable to (?:load|start) .*|Could not locate Gemfile.*)$`},
	{Perl, `^((?:Can't locate|syntax error at|Global symbol) .*)$`},
	{Perl, `^(.* at \S+ line \d+(?:, <\w+> line \d+)?\.)$`},
	{CPP, `^(Segmentation fault.*|.*: error while loading shared libraries: .*|Error loading shared library .*|Error relocating .*|Fatal glibc error: .*|\S+: .*version .GLIBC\S* not found.*|Illegal instruction.*)$`},
	{Elixir, `^(?:.*)?(\*\* \([A-Z]\w*(?:\.\w+)*\) .*)$`},
	{Shell, `^\S*(?:sh|entrypoint\S*): (?:\d+: |line \d+: )?(.*(?:not found|No such file or directory|Permission denied|parameter not set|unbound variable|cannot execute.*|[Ee]xec format error|must be set|bad substitution))$`},
	{Shell, `^(\S+: line \d+: .*(?:not found|No such file or directory|Permission denied|unbound variable|cannot execute.*|[Ee]xec format error|must be set))$`},
	{Shell, `^(\S*env: .*: (?:No such file or directory|Permission denied))$`},
	{Shell, `^(\S+: \d+: .*: (?:not found|parameter not set|must be set|Permission denied))$`},
	{Shell, `^(?:\[FATAL tini \(\d+\)\]|\[dumb-init\]|su-exec:|error: failed switching|gosu:|s6-\S+:|env:) ?(.*)$`},
}

// lastBlock finds the newest block in which a program says that it ends.
func lastBlock(lines []string) (b block, ok bool) {
	for i := len(lines) - 1; i >= max(0, len(lines)-MaxLines); i-- {
		line := lines[i]
		if line == "" || line[0] == ' ' && !strings.Contains(line, "Traceback (") {
			continue
		}
		for _, read := range []func([]string, int) (block, bool){goBlock, pythonBlock, dotNetBlock, rustBlock, rubyBlock, javaBlock, nodeBlock, cppBlock, lineBlock} {
			if b, ok := read(lines, i); ok && len(lines)-b.to <= maxAfter {
				return b, true
			}
		}
	}
	return block{}, false
}

// lineBlock recognizes single lines.
func lineBlock(lines []string, i int) (block, bool) {
	p := patterns()
	line := lines[i]
	if strings.HasPrefix(line, "BEGIN failed--") {
		return block{}, false // Perl repeats the line before
	}
	if b, ok := shapedLine(lines, i); ok {
		if _, telling := factOfLine(b.sentence); telling {
			return b, true
		}
		// Servers often end with a line that only says that something before it went wrong.
		for j := i - 1; j >= max(0, i-6); j-- {
			before, ok := shapedLine(lines, j)
			if _, telling := factOfLine(before.sentence); ok && telling && before.language == b.language {
				before.to = b.to
				return before, true
			}
		}
		return b, true
	}
	if m := p.goLog.FindStringSubmatch(line); m != nil && i == len(lines)-1 {
		return block{from: i, to: i + 1, sentence: m[2], language: Go, where: m[1]}, true
	}
	return block{}, false
}

// shapedLine recognizes a line that is last words by itself.
func shapedLine(lines []string, i int) (block, bool) {
	for _, shape := range patterns().lines {
		m := shape.FindStringSubmatch(lines[i])
		if m == nil {
			continue
		}
		sentence := lines[i]
		if len(m) > 1 && m[1] != "" {
			sentence = m[1]
		}
		return block{from: max(0, i-1), to: min(len(lines), i+4), sentence: sentence, language: shape.language}, true
	}
	return block{}, false
}

// likeliest chooses the line that tells most when no program said that it ends.
func likeliest(lines []string) block {
	p := patterns()
	last, severe, telling, detailed := -1, -1, -1, false
	for i := len(lines) - 1; i >= max(0, len(lines)-20); i-- {
		line := withoutTime(lines[i])
		if line == "" || p.noise.MatchString(line) {
			continue
		}
		if last < 0 {
			last = i
		}
		if f, ok := factOfLine(line); ok && (telling < 0 || f.detail() > 0 && !detailed) {
			telling, detailed = i, f.detail() > 0
		}
		if severe < 0 && p.severe.MatchString(line) {
			severe = i
		}
	}
	at := len(lines) - 1
	switch {
	case telling >= 0:
		at = telling
	case severe >= 0:
		at = severe
	case last >= 0:
		at = last
	}
	return block{from: max(0, len(lines)-10), to: len(lines), sentence: lines[at]}
}
