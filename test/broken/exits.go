package broken

import "github.com/trysail/trysail/test/corpus"

// exits are programs that end.
func exits() []corpus.Case {
	return []corpus.Case{
		{Name: "exit-code", Deployment: corpus.Web("say starting the shop", "cry fatal: the configuration makes no sense", "exit 3"), Code: "EXIT-CODE", Says: "code 3", Confidence: certain, Quick: true},
		{Name: "exit-silent", Deployment: corpus.Web("exit 9"), Code: "EXIT-CODE", Says: "without a word", Confidence: certain},
		{Name: "exit-go", Deployment: corpus.Web("panic assignment to entry in nil map"), Code: "EXIT-CODE", Says: "nil map", Fix: "main.go", Confidence: certain},
		{Name: "exit-python", Deployment: corpus.WebImage("python:1", "def main():\n  return 1/0\nmain()"), Code: "EXIT-CODE", Says: "ZeroDivisionError", Confidence: certain, Quick: true},
		{Name: "exit-python-module", Deployment: corpus.WebImage("python:1", "import flask"), Code: "EXIT-CODE", Says: "flask", Fix: "install", Confidence: certain},
		{Name: "exit-node", Deployment: corpus.WebImage("node:1", "-e", "null.listen(8080)"), Code: "EXIT-CODE", Says: "TypeError", Confidence: certain, Quick: true},
		{Name: "exit-node-module", Deployment: corpus.WebImage("node:1", "-e", "require('express')"), Code: "EXIT-CODE", Says: "express", Fix: "express", Confidence: certain},
		{Name: "exit-node-file", Deployment: corpus.WebImage("node:1", "dist/index.js"), Code: "EXIT-CODE", Says: "dist/index.js", Confidence: certain},
		{
			Name: "exit-java", Deployment: said(1, `Exception in thread "main" java.lang.IllegalStateException: no dialect for jdbc:shop`, "\tat com.example.Shop.open(Shop.java:41)", "\tat com.example.Shop.main(Shop.java:12)"),
			Code: "EXIT-CODE", Says: "no dialect", Confidence: certain,
		},
		{
			Name: "exit-ruby", Deployment: said(1, "/app/config/boot.rb:3:in `<top (required)>': undefined method `load' for nil:NilClass (NoMethodError)", "\tfrom /app/config.ru:1:in `require'"),
			Code: "EXIT-CODE", Says: "NoMethodError", Confidence: certain,
		},
		{
			Name: "exit-php", Deployment: said(255, "PHP Fatal error:  Uncaught Error: Call to undefined function mb_strlen() in /srv/index.php:7", "Stack trace:", "#0 {main}", "  thrown in /srv/index.php on line 7"),
			Code: "EXIT-CODE", Says: "mb_strlen", Confidence: certain,
		},
		{
			Name: "exit-dotnet", Deployment: said(134, "Unhandled exception. System.InvalidOperationException: No service for type 'Shop.Cart'", "   at Shop.Program.Main(String[] args) in /src/Program.cs:line 9"),
			Code: "EXIT-SIGNAL", Says: "Shop.Cart", Confidence: certain,
		},
		{
			Name: "exit-rust", Deployment: said(101, "thread 'main' panicked at src/main.rs:4:10:", "called `Result::unwrap()` on an `Err` value: ParseIntError { kind: InvalidDigit }", "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace"),
			Code: "EXIT-CODE", Says: "ParseIntError", Confidence: certain,
		},
		{Name: "exit-zero", Deployment: corpus.Web("say migrations done", "exit 0"), Code: "EXIT-ZERO", Says: "finished", Fix: "foreground", Confidence: certain, Quick: true},
		{Name: "exit-zero-shell", Deployment: corpus.WebImage("busybox:1"), Code: "EXIT-ZERO", Says: "finished", Confidence: certain},
		{Name: "exit-worker", Deployment: corpus.Worker("cry no queue", "exit 2"), Container: "worker", Code: "EXIT-CODE", Says: "no queue", Confidence: certain},
		{
			Name: "exit-forked", Deployment: corpus.Web("daemon", "sleep 3s", "serve"), Code: "EXIT-FORKED", Says: "background", Fix: "foreground", Confidence: certain,
			Miss: "which processes a container leaves behind when its first one ends is not looked at; well-known programs are told by their names",
		},
		{Name: "exit-forked-nginx", Deployment: corpus.WebImage("nginxdaemon:1"), Code: "EXIT-FORKED", Says: "nginx", Fix: "daemon off"},
		{Name: "exit-forked-redis", Deployment: corpus.WebImage("redis:1", "--daemonize", "yes", "--protected-mode", "no"), Code: "EXIT-FORKED", Fix: "--daemonize no"},
		{Name: "exit-segv", Deployment: corpus.WebImage("segv:1"), Code: "EXIT-SIGNAL", Says: "SIGSEGV", Confidence: certain, Quick: true},
		{Name: "exit-sigill", Deployment: corpus.WebImage("sigill:1"), Code: "EXIT-SIGNAL", Says: "SIGILL", Fix: "older processor", Confidence: certain, Quick: true},
		{Name: "exit-abort", Deployment: corpus.WebImage("python:1", pythonAbort), Code: "EXIT-SIGNAL", Says: "SIGABRT", Confidence: certain},
		{Name: "exit-killed", Deployment: corpus.Web("sleep 1h"), Code: "EXIT-SIGNAL", Says: "SIGKILL", Act: killAll("sleep 1h"), Confidence: certain},
	}
}

// pythonAbort ends as a wrapper does whose child has aborted. (The first process of a container cannot abort itself: the
// kernel ignores its SIGABRT, and it dies of the memory access that the C library makes then.)
const pythonAbort = "import os, sys\nif os.fork() == 0:\n  os.abort()\n_, status = os.wait()\nsys.exit(128 + os.WTERMSIG(status))"

// said is a program that writes lines and ends. They are those of languages that this corpus has no image of.
func said(code int, lines ...string) corpus.Deployment {
	return corpus.Web(saying(code, lines...)...)
}
