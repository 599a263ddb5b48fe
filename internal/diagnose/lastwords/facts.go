package lastwords

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Kind is what a fact is about.
type Kind string

// The kinds of facts.
const (
	PortInUse        Kind = "port-in-use"        // Port
	PortDenied       Kind = "port-denied"        // Port
	MissingEnv       Kind = "missing-env"        // Name: the variable
	MissingFile      Kind = "missing-file"       // Name: the path
	MissingModule    Kind = "missing-module"     // Name: module, package, class or gem
	MissingCommand   Kind = "missing-command"    // Name
	MissingLibrary   Kind = "missing-library"    // Name
	Refused          Kind = "refused"            // Host, Port, if they were said
	Unreached        Kind = "unreached"          // Host, Port: timed out, or no route
	Unresolved       Kind = "unresolved"         // Host
	LoginRefused     Kind = "login-refused"      // Name: the user; a database or the like said no
	ReadOnly         Kind = "read-only"          // Name: the path
	Denied           Kind = "denied"             // Name: the path
	NoSpace          Kind = "no-space"           // Name: the path
	TooManyFiles     Kind = "too-many-files"     //
	TooManyProcesses Kind = "too-many-processes" //
	ExecFormat       Kind = "exec-format"        // Name: the file
	NoLoader         Kind = "no-loader"          // Name: the file that is there and cannot be run
	CRLF             Kind = "crlf"               // Name: the program with the carriage return
	OutOfMemory      Kind = "out-of-memory"      // Name: the language that said it
	HostRefused      Kind = "host-refused"       // Name: the Host header
	Migrations       Kind = "migrations"         // Name: a table that is absent
	Systemd          Kind = "systemd"            //
	OldCPU           Kind = "old-cpu"            //
)

// Fact is one thing that a program's words say for sure.
type Fact struct {
	Kind  Kind
	Name  string // variable, path, module …: see the Kind; may be empty
	Host  string // without port; may be empty
	Port  int    // 0 if it was not said
	Fatal bool   // it belongs to the last words
}

// factPattern recognizes a fact. A pattern is tried only on lines that contain must, in lower case.
type factPattern struct {
	kind    Kind
	must    string
	pattern string // groups: n name, h host, p port
	name    string // instead of the group n
}

// factPatterns are in order: the first that matches a line decides, so what is special stands before what is general.
var factPatterns = []factPattern{
	{CRLF, `\r`, `['‘](?P<n>[^'’]*?)\\r['’]: No such file`, ""},
	{CRLF, `\r`, `\$'(?P<n>[^']*)\\r': command not found`, ""},
	{CRLF, "\r", "(?P<n>\\S*)\r(?:: not found|: command not found|': No such file|: bad option)", ""},
	{CRLF, "^m", `(?P<n>\S+)\^M: bad interpreter`, ""},
	{ExecFormat, "exec format error", `exec(?: container process)? [\x60'"]?(?P<n>[^\s:\x60'"]+)[\x60'"]?: [Ee]xec format error`, ""},
	{ExecFormat, "exec format error", `(?P<n>\S+): (?:cannot execute binary file: )?Exec format error`, ""},
	{ExecFormat, "exec format error", ``, ""},
	{ExecFormat, "cannot execute binary file", `(?P<n>\S+): cannot execute binary file`, ""},
	{NoLoader, "no such file or directory", `^exec (?P<n>/\S+): no such file or directory$`, ""},
	{MissingLibrary, "shared librar", `(?:loading shared libraries: |Error loading shared library )(?P<n>[^:\s]+):`, ""},
	{MissingLibrary, "glibc", `version .(?P<n>GLIBC(?:XX)?_[\d.]+). not found`, ""},
	{OldCPU, "cpu", `CPU does not support (?P<n>x86-64-v\d)`, ""},
	{OldCPU, "avx", `(?i)requires? .*AVX|AVX support`, ""},
	{OldCPU, "illegal instruction", ``, ""},

	{TooManyProcesses, "native thread", `unable to create (?:new )?native thread`, ""},
	{OutOfMemory, "javascript heap out of memory", ``, "node"},
	{OutOfMemory, "outofmemoryerror", `OutOfMemoryError(?:: (?:Java heap|Metaspace|GC overhead|Compressed|Direct))?`, "java"},
	{OutOfMemory, "out of memory", `(?:fatal error|runtime): (?:runtime: )?(?:cannot allocate memory|out of memory)`, "go"},
	{OutOfMemory, "memoryerror", `^\s*MemoryError`, "python"},
	{OutOfMemory, "nomemoryerror", ``, "ruby"},
	{OutOfMemory, "allowed memory size", `Allowed memory size of \d+ bytes exhausted`, "php"},
	{OutOfMemory, "outofmemoryexception", ``, "dotnet"},
	{OutOfMemory, "memory allocation of", `memory allocation of \d+ bytes failed`, "rust"},
	{OutOfMemory, "bad_alloc", ``, "c++"},
	{OutOfMemory, "perhaps out of memory", ``, "gunicorn"},
	{OutOfMemory, "cannot allocate memory", ``, ""},
	{OutOfMemory, "heap size", `Initial heap size set to a larger value|Could not reserve enough space`, "java"},

	{TooManyProcesses, "start new thread", ``, ""},
	{TooManyProcesses, "fork", `(?i)fork\b.*(?:Resource temporarily unavailable|EAGAIN)|cannot fork|can't fork`, ""},
	{TooManyProcesses, "thread", `failed to create new OS thread|pthread_create.*(?:failed|EAGAIN|Resource temporarily)|uv_thread_create|can't create Thread`, ""},
	{TooManyProcesses, "eagain", `spawn \S+ EAGAIN`, ""},
	{TooManyProcesses, "resource temporarily unavailable", `(?:os error 11|uv_spawn|BlockingIOError.*)`, ""},
	{TooManyFiles, "file watchers", ``, ""},
	{TooManyFiles, "emfile", ``, ""},
	{TooManyFiles, "too many open files", ``, ""},
	{TooManyFiles, "inotify", `inotify (?:instances|watch)`, ""},

	{PortInUse, "eaddrinuse", `EADDRINUSE[^\n]*?:(?P<p>\d+)\b`, ""},
	{PortInUse, "in use", `listen (?:tcp|udp)\d? \S*:(?P<p>\d+): bind: address already in use`, ""},
	{PortInUse, "in use", `bind\(\) to \S*?:(?P<p>\d+) failed \(98`, ""},
	{PortInUse, "in use", `(?i)\('[^']*', (?P<p>\d+)[^)]*\).*address already in use`, ""},
	{PortInUse, "in use", `Connection in use: \('[^']*', (?P<p>\d+)\)`, ""},
	{PortInUse, "in use", `Address already in use: AH\d+: make_sock: could not bind to address \S*:(?P<p>\d+)`, ""},
	{PortInUse, "in use", `Address already in use - bind\(2\) for \S* port (?P<p>\d+)`, ""},
	{PortInUse, "in use", `socket \S*:(?P<p>\d+): bind: Address already in use`, ""},
	{PortInUse, "in use", `[Pp]ort (?P<p>\d+) (?:was|is) already in use`, ""},
	{PortInUse, "in use", `(?i)address '?(?:https?://)?\S*?:(?P<p>\d+)'?[:)].*already in use`, ""},
	{PortInUse, "in use", `(?i)cannot bind socket \(Address already in use\) \[\S*:(?P<p>\d+)\]`, ""},
	{PortInUse, "in use", `(?i)address (?:already )?in use`, ""},
	{PortInUse, "addrinuse", ``, ""},

	{PortDenied, "permission denied", `listen (?:tcp|udp)\d? \S*:(?P<p>\d+): bind: permission denied`, ""},
	{PortDenied, "eacces", `listen EACCES: permission denied \S*?:(?P<p>\d+)`, ""},
	{PortDenied, "permission denied", `bind\(\) to \S*?:(?P<p>\d+) failed \(13`, ""},
	{PortDenied, "permission denied", `Permission denied: AH\d+: make_sock: could not bind to address \S*:(?P<p>\d+)`, ""},
	{PortDenied, "permission denied", `bind socket \(Permission denied\) \[\S*:(?P<p>\d+)\]`, ""},
	{PortDenied, "permission denied", `(?i)\('[^']*', (?P<p>\d+)[^)]*\).*permission denied`, ""},
	{PortDenied, "permission denied", `Permission denied - bind\(2\) for \S* port (?P<p>\d+)`, ""},
	{PortDenied, "permission denied", `(?i)bind[^/]*: permission denied|Permission denied \(Bind failed\)`, ""},

	{LoginRefused, "authentication failed", `authentication failed for user "(?P<n>[^"]*)"`, ""},
	{LoginRefused, "access denied for user", `Access denied for user '(?P<n>[^']*)'`, ""},
	{LoginRefused, "auth", `NOAUTH Authentication required|WRONGPASS|SCRAM authentication failed|MongoServerError: Authentication failed`, ""},
	{Migrations, "migrat", `(?i)migrations are pending|PendingMigrationError|unapplied migration|failed migrations in the target`, ""},
	{Migrations, "relation", `relation "(?P<n>[^"]+)" does not exist`, ""},
	{Migrations, "no such table", `no such table: (?P<n>\S+)`, ""},
	{Migrations, "doesn't exist", `Table '(?P<n>[^']+)' doesn't exist`, ""},
	{Systemd, "systemd", `System has not been booted with systemd|Failed to create .*control group`, ""},
	{Systemd, "failed to connect to bus", ``, ""},
	{Systemd, "exiting pid 1", ``, ""},
	{Systemd, "failed to mount api filesystems", ``, ""},
	{Systemd, "control group", `Failed to (?:create|allocate|mount) .*(?:control group|cgroup)`, ""},
	{HostRefused, "http_host", `Invalid HTTP_HOST header: '(?P<n>[^']*)'`, ""},
	{HostRefused, "blocked", `Blocked (?:hosts?: (?P<n>\S+)|request\. This host)`, ""},
	{HostRefused, "disallowedhost", ``, ""},
	{HostRefused, "invalid host header", ``, ""},

	{Unresolved, "getaddrinfo", `getaddrinfo (?:ENOTFOUND|EAI_AGAIN) (?P<h>[^\s:,]+)(?::(?P<p>\d+))?`, ""},
	{Unresolved, "lookup", `lookup (?P<h>[^\s:]+)(?: on \S+)?: (?:no such host|server misbehaving|i/o timeout|Temporary failure|.*connection refused|.*i/o timeout)`, ""},
	{Unresolved, "could not translate host name", `could not translate host name "(?P<h>[^"]+)"`, ""},
	{Unresolved, "getaddrinfo for", `getaddrinfo for (?P<h>\S+) failed`, ""},
	{Unresolved, "unknownhostexception", `UnknownHostException: (?P<h>[\w.-]+)`, ""},
	{Unresolved, "not found in upstream", `host not found in upstream "(?P<h>[^":]+)(?::(?P<p>\d+))?`, ""},
	{Unresolved, "unknown mysql server host", `Unknown MySQL server host '(?P<h>[^']+)'`, ""},
	{Unresolved, "failed to resolve", `Failed to resolve '(?P<h>[^']+)'`, ""},
	{Unresolved, "name", `connecting to (?P<h>[^\s:]+):(?P<p>\d+)\. (?:Name or service not known|Temporary failure in name|nodename nor)`, ""},
	{Unresolved, "errno -", `(?P<h>[A-Za-z][\w.-]*):(?P<p>\d+): \[Errno -[235]\]`, ""},
	{Unresolved, "name", `(?:Name or service not known|Temporary failure in name resolution) \((?P<h>[^:()\s]+):(?P<p>\d+)\)`, ""},
	{Unresolved, "name", `(?:Name or service not known|Temporary failure in name resolution|failed to lookup address information|Name does not resolve)`, ""},
	{Unresolved, "no such host", `(?i)no such host`, ""},

	{Refused, "connection refused", `dial tcp (?P<h>\[[^\]]+\]|[^\s:]+):(?P<p>\d+): connect: connection refused`, ""},
	{Refused, "econnrefused", `connect ECONNREFUSED (?P<h>[^\s,]+):(?P<p>\d+)`, ""},
	{Refused, "connection refused", `connection to server at "(?P<h>[^"]+)"(?: \([^)]*\))?, port (?P<p>\d+) failed: Connection refused`, ""},
	{Refused, "connection refused", `connecting to (?P<h>[^\s:]+):(?P<p>\d+)\. .*Connection refused`, ""},
	{Refused, "connection refused", `host='(?P<h>[^']+)', port=(?P<p>\d+)\).*Connection refused`, ""},
	{Refused, "connection refused", `Connection refused \((?P<h>[^\s:()]+):(?P<p>\d+)\)`, ""},
	{Refused, "connection refused", `connect\(2\) for "(?P<h>[^"]+)" port (?P<p>\d+)`, ""},
	{Refused, "connection refused", `Connection refused\).*upstream: "\w+://(?P<h>[^:/"]+):(?P<p>\d+)`, ""},
	{Refused, "connection refused", `(?P<h>[A-Za-z][\w.-]*|\d+\.\d+\.\d+\.\d+):(?P<p>\d+):? .*Connection refused`, ""},
	{Refused, "mysql server", `Can't connect to (?:local )?MySQL server on '(?P<h>[^':]+)(?::(?P<p>\d+))?'.*(?:111|refused)`, ""},
	{Refused, "refused", `Connection to (?P<h>[^\s:]+):(?P<p>\d+) refused`, ""},
	{Refused, "refused", `connect(?:ing)? to (?P<h>[A-Za-z][\w.-]*|\d+\.\d+\.\d+\.\d+):(?P<p>\d+)\b.*[Rr]efused`, ""},
	{Refused, "refused", `connect to (?P<h>\S+) port (?P<p>\d+) .*[Rr]efused`, ""},
	{Refused, "redis", `Error connecting to Redis on (?P<h>[^\s:]+):(?P<p>\d+)`, ""},
	{Refused, "is the server running", `running on host "(?P<h>[^"]+)".*port (?P<p>\d+)`, ""},
	{Refused, "can't reach database server", `Can't reach database server at [\x60'"]?(?P<h>[\w.-]+)[\x60'"]?:[\x60'"]?(?P<p>\d+)`, ""},
	{Refused, "refused", `(?i)connection ?refused|ECONNREFUSED`, ""},

	{Unreached, "timeout", `dial tcp (?P<h>\[[^\]]+\]|[^\s:]+):(?P<p>\d+): i/o timeout`, ""},
	{Unreached, "etimedout", `connect ETIMEDOUT (?P<h>[^\s,]+):(?P<p>\d+)`, ""},
	{Unreached, "timed out", `connection to server at "(?P<h>[^"]+)"(?: \([^)]*\))?, port (?P<p>\d+) failed: (?:Connection timed out|timeout expired)`, ""},
	{Unreached, "no route to host", `dial tcp (?P<h>[^\s:]+):(?P<p>\d+): connect: no route to host`, ""},
	{Unreached, "timed out", `(?i)connect(?:ion|ing)?(?: to \S+)? timed out|connect timeout`, ""},
	{Unreached, "unreachable", `(?i)network is unreachable|EHOSTUNREACH|ENETUNREACH`, ""},
	{Unreached, "no route to host", ``, ""},

	{ReadOnly, "erofs", `EROFS: read-only file system, \w+ '(?P<n>[^']+)'`, ""},
	{ReadOnly, "read-only file system", `Read-only file system: '(?P<n>[^']+)'`, ""},
	{ReadOnly, "read-only file system", `['‘](?P<n>/[^'’]+)['’]: Read-only file system`, ""},
	{ReadOnly, "read-only file system", `(?P<n>/[^\s:'"()]+)['"]?:? (?:failed )?\(?(?:\d+: )?[Rr]ead-only file system`, ""},
	{ReadOnly, "read-only file system", ``, ""},
	{ReadOnly, "readonlyfilesystem", ``, ""},
	{ReadOnly, "erofs", ``, ""},
	{NoSpace, "no space left", `(?:No space left on device: '|write |open |mkdir )(?P<n>/[^\s:']+)`, ""},
	{NoSpace, "enospc", `ENOSPC: no space left on device, \w+ '(?P<n>[^']+)'`, ""},
	{NoSpace, "no space left", `(?P<n>/[^\s:'"()]+)['’"]?: (?i:no space left on device)`, ""},
	{NoSpace, "no space left", ``, ""},
	{NoSpace, "enospc", ``, ""},
	{NoSpace, "disk quota exceeded", ``, ""},
	{Denied, "eacces", `EACCES: permission denied, \w+ '(?P<n>[^']+)'`, ""},
	{Denied, "permission denied", `Permission denied: '(?P<n>[^']+)'`, ""},
	{Denied, "permission denied", `(?:open|mkdir|create|unlink|stat|chmod|chown|exec|rename|write|access) (?P<n>/[^\s:]+): permission denied`, ""},
	{Denied, "permission denied", `\(\) "(?P<n>[^"]+)" failed \(13`, ""},
	{Denied, "permission denied", `['‘](?P<n>/[^'’]+)['’]:? Permission denied`, ""},
	{Denied, "permission denied", `@ \w+ - (?P<n>/\S+)`, ""},
	{Denied, "permission denied", `\((?P<n>/[^\s)]+)\): [Ff]ailed to open stream: Permission denied`, ""},
	{Denied, "permission denied", `(?P<n>/[^\s:'"()]+)['"]?:? \(?Permission denied`, ""},
	{Denied, "not permitted", `['‘]?(?P<n>/[^\s:'’"()]+)['’]?: [Oo]peration not permitted`, ""},
	{Denied, "accessdenied", `AccessDeniedException: (?P<n>/\S+)`, ""},
	{Denied, "permissiondenied", `kind: PermissionDenied`, ""},
	{Denied, "access to the path", `Access to the path '(?P<n>[^']+)' is denied`, ""},

	{MissingEnv, "keyerror", `KeyError: '(?P<n>[A-Z][A-Z0-9_]+)'`, ""},
	{MissingEnv, "key not found", `key not found: "(?P<n>[A-Z][A-Z0-9_]+)"`, ""},
	{MissingEnv, "environment variable", `(?i)environment variables? not found: [\x60'"]?(?P<n>\w+)`, ""},
	{MissingEnv, "environment", `(?i)missing (?:required )?(?:env|environment)(?: variables?| vars?)?:? [\x60'"]?(?P<n>[A-Za-z_]\w+)`, ""},
	{MissingEnv, "environment", `(?i:environment variable) [\x60'"]?(?P<n>[A-Z][A-Z0-9_]+)[\x60'"]? (?i:(?:is |was |has |must )?(?:not|missing|required|undefined|unset|be set|empty))`, ""},
	{MissingEnv, "must not be empty", `The (?P<n>[A-Z][A-Z0-9_]+) setting must not be empty`, ""},
	{MissingEnv, "secret_key_base", "(?i)missing [`'\"]?secret_key_base", "SECRET_KEY_BASE"},
	{MissingEnv, "could not resolve placeholder", `Could not resolve placeholder '(?P<n>[^']+)'`, ""},
	{MissingEnv, "password", `\b(?P<n>(?:POSTGRES|MYSQL_ROOT|MARIADB_ROOT)_PASSWORD)\b`, ""},
	{
		MissingEnv, "",
		`(?:^|[^\w.$/-])\$?(?P<n>[A-Z][A-Z0-9_]{2,})[\x60'"]?:? (?i:(?:environment variable |env var(?:iable)? )?(?:is |was |are )?(?:not set|not defined|not provided|not specified|not configured|undefined|missing|required|must be set|must be specified|must be provided|must be defined|unset|empty|cannot be empty|parameter not set|parameter null or not set|unbound variable))`,
		"",
	},
	{MissingEnv, "", `(?i:(?:must|please|need to|have to|you should|^)(?: \w+)? ?(?:set|specify|provide|define|export) (?:the )?(?:environment variable )?)[\x60'"$]?(?P<n>[A-Z][A-Z0-9]*_[A-Z0-9_]+)\b`, ""},
	{MissingEnv, "missing", `(?i:missing (?:required )?(?:config(?:uration)?|setting|variable|secret)?:? ?)[\x60'"]?(?P<n>[A-Z][A-Z0-9]*_[A-Z0-9_]+)\b`, ""},

	{MissingModule, "cannot find", `Cannot find (?:module|package) ['"](?P<n>[^'"]+)['"]`, ""},
	{MissingModule, "no module named", `No module named '?(?P<n>[\w.-]+)'?`, ""},
	{MissingModule, "could not import module", `Could not import module "(?P<n>[^"]+)"`, ""},
	{MissingModule, "cannot load such file", `cannot load such file -- (?P<n>\S+)`, ""},
	{MissingModule, "class", `(?:ClassNotFoundException|NoClassDefFoundError): (?P<n>[\w.$/]+)`, ""},
	{MissingModule, "main class", `Could not find or load main class (?P<n>\S+)`, ""},
	{MissingModule, "can't locate", `Can't locate (?P<n>\S+) in @INC`, ""},
	{MissingModule, "could not find", `Could not find (?P<n>\S+) in (?:locally installed gems|any of the sources)`, ""},
	{MissingModule, "failed opening required", `Failed opening required '(?P<n>[^']+)'`, ""},
	{MissingModule, "not found", `Class ["'](?P<n>[^"']+)["'] not found`, ""},
	{MissingModule, "assembly", `Could not load file or assembly '(?P<n>[^',]+)`, ""},

	{MissingFile, "can't open", `can't open (?:config )?(?:file )?'(?P<n>[^']+)'`, ""},
	{MissingFile, "jarfile", `Unable to access jarfile (?P<n>\S+)`, ""},
	{MissingFile, "input file", `Could not open input file: (?P<n>\S+)`, ""},
	{MissingFile, "no such file", `No such file or directory: '(?P<n>[^']+)'`, ""},
	{MissingFile, "enoent", `ENOENT: no such file or directory, \w+ '(?P<n>[^']+)'`, ""},
	{MissingFile, "no such file", `(?:open|stat|lstat|chdir|read) (?P<n>[^\s:]*/[^\s:]*): no such file or directory`, ""},
	{MissingFile, "does not exist", `application to execute does not exist: '(?P<n>[^']+)'`, ""},
	{MissingFile, "exception", `(?:NoSuchFileException: (?P<n>/\S+)|FileNotFoundException: \S+ \(No such file)`, ""},
	{MissingFile, "no such file", `@ rb_sysopen - (?P<n>\S+)`, ""},
	{MissingFile, "no such file", `\(\) "(?P<n>[^"]+)" failed \(2`, ""},
	{MissingFile, "no such file", `cannot open (?P<n>\S+): No such file`, ""},
	{MissingCommand, "no such file", `\[FATAL tini \(\d+\)\] exec (?P<n>\S+) failed: No such file`, ""},
	{MissingCommand, "no such file", `(?:su-exec|gosu|env|\[dumb-init\]):? ['‘]?(?P<n>[^\s'’:]+)['’]?: (?i:no such file)`, ""},
	{MissingFile, "no such file", `(?P<n>/[^\s:'"]+): No such file or directory`, ""},

	{MissingCommand, "executable file not found", `exec: "(?P<n>[^"]+)": executable file not found`, ""},
	{MissingCommand, "missing script", `Missing script: "?(?P<n>[\w:.-]+)"?`, ""},
	{MissingCommand, "enoent", `spawn (?P<n>\S+) ENOENT`, ""},
	{MissingCommand, "command", `Command "(?P<n>[^"]+)" not found`, ""},
	{MissingCommand, "not found", `(?:^|: )(?P<n>[\w./+@-]+): (?:command )?not found$`, ""},
	{MissingCommand, "not found", `command not found: (?P<n>\S+)$`, ""},
}

// factPatternRegexps are the compiled patterns, nil where the word alone decides.
var factPatternRegexps = sync.OnceValue(func() []*regexp.Regexp {
	list := make([]*regexp.Regexp, len(factPatterns))
	for i, f := range factPatterns {
		if f.pattern != "" {
			list[i] = regexp.MustCompile(f.pattern)
		}
	}
	return list
})

// facts lists what the lines say, those of the block first, and of the same the newest first.
func facts(lines []string, b block) []Fact {
	var found []Fact
	read := func(from, to int, fatal bool) {
		for i := to - 1; i >= from; i-- {
			if len(found) == maxFacts {
				return
			}
			f, ok := factOf(lines, i)
			f.Fatal = fatal
			if !ok || slices.ContainsFunc(found, func(g Fact) bool { return f.same(g) }) {
				continue
			}
			found = append(found, f)
		}
	}
	read(b.from, b.to, true)
	// In a block the general form of an error and the one that names what it is about may both stand.
	slices.SortStableFunc(found, func(x, y Fact) int { return y.detail() - x.detail() })
	// The sentence itself outweighs what stands around it.
	if f, ok := factOfLine(b.sentence); ok && f.detail() > 0 {
		f.Fatal = true
		found = append([]Fact{f}, slices.DeleteFunc(found, f.same)...)
	}
	read(b.to, len(lines), true)
	read(0, b.from, false)
	var kept []Fact
	for _, f := range found {
		if !slices.ContainsFunc(kept, f.same) {
			kept = append(kept, f)
		}
	}
	return kept[:min(len(kept), maxFacts)]
}

// same reports whether two facts say the same, or f is a less exact form of g.
func (f Fact) same(g Fact) bool {
	return f.Kind == g.Kind && (f.Name == g.Name || f.Name == "") && (f.Host == g.Host || f.Host == "") && (f.Port == g.Port || f.Port == 0)
}

// detail is how much a fact names.
func (f Fact) detail() int {
	if f.Name != "" || f.Host != "" || f.Port != 0 {
		return 1
	}
	return 0
}

// factOf reads line i, with the lines after it where one thing is said on two lines.
func factOf(lines []string, i int) (Fact, bool) {
	line := lines[i]
	if i+1 < len(lines) {
		switch next := strings.TrimSpace(lines[i+1]); {
		case strings.HasPrefix(next, "Field required") || strings.HasPrefix(next, "field required"): // pydantic
			return Fact{Kind: MissingEnv, Name: short(strings.TrimSpace(line), maxName)}, strings.TrimSpace(line) != ""
		case strings.HasPrefix(next, "Is the server running on host"):
			return factOfLine(next)
		}
	}
	return factOfLine(line)
}

func factOfLine(line string) (Fact, bool) {
	lower := strings.ToLower(line)
	for i, p := range factPatterns {
		if !strings.Contains(lower, p.must) {
			continue
		}
		f := Fact{Kind: p.kind, Name: p.name}
		if re := factPatternRegexps()[i]; re != nil {
			m := re.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			f.fill(re, m)
		}
		if f.Kind == MissingEnv && !isVariable(f.Name) {
			continue
		}
		return f, true
	}
	return Fact{}, false
}

// fill takes the groups of a match.
func (f *Fact) fill(re *regexp.Regexp, match []string) {
	for i, name := range re.SubexpNames() {
		value := match[i]
		switch {
		case value == "":
		case name == "n":
			f.Name = short(strings.Trim(value, "\r\""), maxName)
		case name == "h":
			f.Host = short(strings.Trim(value, "[]"), maxName)
		case name == "p":
			if port, err := strconv.ParseUint(value, 10, 16); err == nil {
				f.Port = int(port)
			}
		}
	}
}

// isVariable tells names of variables from the other words that are written in capitals in logs.
func isVariable(name string) bool {
	switch name {
	case "", "ERROR", "ERR", "FATAL", "WARN", "WARNING", "INFO", "DEBUG", "TRACE", "PANIC", "ALERT", "CRITICAL", "NOTICE", "EMERG",
		"HTTP", "HTTPS", "SQL", "JSON", "YAML", "TLS", "SSL", "DNS", "TCP", "UDP", "NULL", "NOT", "FILE", "GET", "POST", "XML", "CSV", "JWT", "URI", "SMTP",
		"ENOENT", "EACCES", "ENOTFOUND", "MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND", "ELIFECYCLE", "UTC", "LOG", "HINT", "DETAIL", "STATEMENT":
		return false
	}
	return true
}
