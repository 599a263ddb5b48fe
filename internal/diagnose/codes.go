package diagnose

import "github.com/trysail/trysail"

// Code describes one code for the people who look it up.
type Code struct {
	Code    trysail.DiagnosisCode
	Title   string // what happened, in a few words
	Meaning string // one or two sentences
	Fix     string
	// Basis says when the verdict is certain and when only likely.
	Basis string
	// Final is true if a certain verdict with this code means that no further start can work: the deployment may end at
	// once.
	Final bool
}

// Group is a part of the list of codes.
type Group struct {
	Title string
	Codes []Code
}

const (
	byRegistry = "certain: the registry's or the network's own answer"
	byBytes    = "certain from the bytes of the image; likely from the log alone"
	byLog      = "likely: it rests on what the program wrote"
	bySockets  = "certain from the sockets in the pod; likely if they could not be seen"
	byProbe    = "certain from the answers to the health check"
	byCounter  = "certain from the kernel's counters; likely from the log alone"
	byRecord   = "certain: from Trysail's own records"
)

// Codes lists every code that a diagnosis can have, in the order in which causes are looked for within a group. It is the one
// table; docs/diagnosis.md is written from it.
func Codes() []Group {
	return []Group{
		{"Images", []Code{
			{"IMG-NAME", "malformed image name", "The image's name cannot be read.", "Write it as `[registry/]repository[:tag]`.", byRegistry, true},
			{"IMG-REPO", "repository absent or private", "The registry knows no such repository, or does not show it without a login. The two look the same from outside.", "Check the spelling; push the image with `trysail push`; give Trysail a login for the registry.", byRegistry, true},
			{"IMG-TAG", "tag absent", "The repository exists, the tag or digest does not.", "Pick a tag that exists, or push it.", byRegistry, true},
			{"IMG-LOCAL", "stored image absent", "No image `:service.label.N` is registered on the service.", "Push it with `trysail push` or `aws lightsail push-container-image`, or use `latest`.", byRecord, true},
			{"IMG-AUTH", "login refused", "The registry refused the login that Trysail has for it.", "Renew the login of the registry.", byRegistry, true},
			{"IMG-RATE", "pull limit used up", "The registry lets this address or user pull no more for now.", "Log in, wait, or push the image to Trysail.", byRegistry, false},
			{"IMG-DNS", "registry's name does not resolve", "This machine cannot find the registry's address.", "Check the spelling and the resolver of the machine.", byRegistry, false},
			{"IMG-NET", "registry not reachable", "No connection from this machine to the registry, or the registry has a fault of its own.", "Check firewall, NAT and proxy.", "certain if the network said why; likely otherwise", false},
			{"IMG-TLS", "certificate not trusted", "The registry's certificate is expired, or signed by an authority that this machine does not know, or this machine's clock is wrong.", "Add the authority's certificate to the registry's settings; set the clock.", byRegistry, false},
			{"IMG-ARCH", "no variant for this processor", "The image does not offer this machine's platform.", "`docker buildx build --platform linux/amd64` (or `linux/arm64`).", byRegistry, true},
			{"IMG-BIN-ARCH", "program for another processor", "The image is labelled right, but the program in it is for another processor or system.", "Build the program itself for this machine; check `FROM --platform` and `GOARCH`.", byBytes, true},
			{"IMG-DISK", "disk full while unpacking", "The image does not fit on the disk of the machine.", "Remove unused images and files, or use a larger disk.", byRecord, false},
			{"IMG-CORRUPT", "image damaged", "What the registry sent does not have the digest that it announced, or is no image.", "Push it again; check the proxy.", "certain if that is what the registry means to send; likely if another try may do better", false},
			{"IMG-SLOW", "pull too slow", "The image was not there within the time for it.", "Make it smaller, or wait and deploy again.", "likely: another time it may be faster", false},
		}},
		{"Start", []Code{
			{"RUN-NOFILE", "command not in the image", "The program that the container shall start is not in the image.", "Correct `command`, or ENTRYPOINT and CMD.", byBytes, true},
			{"RUN-ONEWORD", "command given as one word", "`command` is a list of words, and was given as one string.", "`[\"sh\", \"-c\", \"…\"]`, or one element per word.", byBytes, true},
			{"RUN-CRLF", "Windows line ends", "The script's `#!` line ends with a carriage return, so its interpreter is not found.", "`sed -i 's/\\r$//'` in the Dockerfile; `*.sh text eol=lf` in .gitattributes.", byBytes, true},
			{"RUN-NOSHEBANG", "script without `#!`", "The file is text and does not say what shall run it.", "Make `#!/bin/sh` its first line.", byBytes, true},
			{"RUN-LOADER", "loader or interpreter absent", "The program is there, but what it needs to run is not: its libc and loader, a library, or the interpreter of its `#!` line.", "Build a static program, or use the base image that it was built for.", byBytes, true},
			{"RUN-PERM", "not executable", "The file is not executable, or not for the image's user.", "`RUN chmod +x …` in the Dockerfile.", byBytes, true},
			{"RUN-USER", "unknown user", "The image's USER is not in its /etc/passwd or /etc/group.", "Create the user, or use a number.", byBytes, true},
			{"RUN-WORKDIR", "bad working directory", "The image's WORKDIR is not a directory.", "Correct WORKDIR.", byBytes, true},
			{"RUN-NOCMD", "no command", "Neither the image nor the deployment says what to run.", "Set `command`.", byBytes, true},
			{"RUN-SYSTEMD", "expects a whole machine", "The image starts systemd or needs privileges that containers do not have.", "Run the program itself.", "certain if systemd is what the image starts and it ended; likely from the log", false},
			{"RUN-ENV", "setting missing", "The program ended because a variable is not set.", "Add it to `environment`.", byLog, false},
			{"RUN-SECRET", "secret absent", "The deployment names a secret that does not exist.", "Create it, or correct the name.", byRecord, true},
			{"RUN-MOUNT", "volume absent", "The deployment names a volume that does not exist on this machine.", "Create it, or correct the name.", byRecord, true},
			{"RUN-RUNTIME", "container runtime refused", "Not the application: the machine's container runtime could not start the pod.", "`trysail doctor`.", byRecord, false},
		}},
		{"Run", []Code{
			{"EXIT-CODE", "crashed", "The program ended with an exit code, and no better cause is known. Its last words are shown.", "Read the last words.", "certain: the exit code", false},
			{"EXIT-ZERO", "finished", "The program ended without an error. A service has to keep running.", "Run it in the foreground, such as `nginx -g 'daemon off;'`.", "certain: the exit code", false},
			{"EXIT-FORKED", "went into the background", "The first process ended, and the container with it; the server itself was a child of it.", "Run it in the foreground.", "certain if the children were seen; likely from the program's name", false},
			{"EXIT-SIGNAL", "killed by a signal", "The program crashed (SIGSEGV, SIGABRT, SIGILL, …) or somebody killed it.", "SIGILL: build for an older processor. Else read the last words.", "certain: the exit status", false},
			{"MEM-OOM", "out of memory", "The container needed more memory than the power gives it.", "A larger power, or limits in the language's runtime (`--max-old-space-size`, `-Xmx`, `GOMEMLIMIT`).", byCounter, false},
			{"MEM-SIBLING", "another container took the memory", "The containers of a pod share its memory. One was killed, another had used it up.", "A larger power, or a service of its own for the large one.", byCounter, false},
			{"MEM-HOST", "the machine ran out of memory", "The container was killed although it was within its limit: the machine as a whole had no memory left.", "Run fewer or smaller services on the machine.", byCounter, false},
			{"MEM-CRAWL", "waiting for memory", "Nothing was killed, but the pod spent its time waiting for memory.", "A larger power.", byCounter, false},
			{"CPU-THROTTLE", "too little CPU to start in time", "The pod used up its share of the CPU nearly all the time and was still starting when the window closed.", "A larger power, or a longer window (`--activation-timeout`).", "likely: the counters are certain, that it would have come up is not", false},
			{"PIDS", "process limit", "The pod may have no more processes or threads.", "Start fewer workers.", byCounter, false},
			{"FILES", "open files limit", "A process may have no more open files.", "Close files; raise the soft limit in the program's start.", byCounter, false},
			{"FS-RO", "not writable", "The program may not write there: the file system is read-only, or the directory belongs to another user.", "Write to a directory that belongs to the image's user, such as one below /tmp.", byLog, false},
			{"FS-FULL", "disk full", "There is no space left where the program writes.", "Remove files and unused images; write less.", "certain if the disk was full; likely from the log alone", false},
			{"DEP-DOWN", "dependency not reachable", "The program needs something that it cannot reach: a database, a queue, another service.", "Start it first; check name, port and firewall.", "certain if it could not be reached from the pod either; likely from the log alone", false},
			{"DEP-LOCAL", "`localhost` used for another service", "The program looks for another service on localhost. Only the containers of one deployment share localhost.", "Use the service's name: `<service>.service.local`.", "certain if nothing listens there in the pod; likely from the log alone", false},
		}},
		{"Network and health", []Code{
			{"NET-NOLISTEN", "nothing listens", "The program runs, but waits for connections on no port.", "Make it listen on 0.0.0.0 and the endpoint's port; check that it is the right command.", bySockets, false},
			{"NET-WRONGPORT", "listens on another port", "The program listens, but not on the endpoint's port.", "Set `containerPort` to the port that it uses, or the program's port to the endpoint's.", bySockets, false},
			{"NET-LOOPBACK", "listens on localhost only", "The program listens where only the pod itself can reach it.", "Bind to 0.0.0.0 (often a HOST or `--host` setting).", bySockets, false},
			{"NET-INUSE", "port in use", "The containers of a deployment share their ports, and two want the same one.", "Give each a port of its own.", "certain if the other one was seen; likely from the log alone", false},
			{"NET-LOWPORT", "may not open the port", "The image's user may not open a port below 1024.", "Listen on 8080.", byLog, false},
			{"NET-PROTO", "another protocol", "The port answers, but not in the protocol that the endpoint speaks.", "Set the port's protocol to HTTPS or HTTP as the program speaks it.", byProbe, false},
			{"HC-REDIRECT", "answers with a redirect", "The health check's path redirects, and redirects are not among the success codes.", "Use a path that answers directly, add the code, or trust `X-Forwarded-Proto`.", byProbe, false},
			{"HC-AUTH", "asks for a login", "The health check's path answers 401 or 403.", "Use a path that needs no login.", byProbe, false},
			{"HC-404", "path not found", "The health check's path does not exist.", "Set `healthCheck.path` to one that does.", byProbe, false},
			{"HC-HOST", "refuses the Host header", "The application answers only for host names that it knows, and the health check uses the pod's address.", "Let the application accept any host for the health check's path.", byProbe, false},
			{"HC-5XX", "error of the application", "The health check's path answers 500 or above.", "Read the answer and the log.", byProbe, false},
			{"HC-STATUS", "unexpected status", "The answer's status is not among the success codes.", "Add it to `successCodes`, or use another path.", byProbe, false},
			{"HC-SLOW", "answers too late", "The port takes connections, but the answer does not come within the timeout.", "Raise `healthCheck.timeoutSeconds`, or use a path that answers quickly.", byProbe, false},
			{"HC-NOTYET", "came up too late", "The program became healthy, or began to listen, only when the window was closing.", "A longer window (`--activation-timeout`), or a larger power.", "certain if it was healthy afterwards; likely if it had just begun to listen", false},
			{"HC-FLAP", "was healthy and is not any more", "The health check passed for a while and then failed.", "See what the summary says happened then.", byProbe, false},
			{"HC-DEFAULT", "warning: healthy by an error page", "Nothing failed: the check passes because 404, 401 and the like are among the default success codes (200-499).", "Set `successCodes` to 200-299 and `path` to a page that exists.", byProbe, false},
		}},
		{"Platform", []Code{
			{"CFG-ENDPOINT", "endpoint not declared", "`publicEndpoint` names a container or port that the deployment does not have.", "Declare the port in `ports`.", byRecord, true},
			{"CAP-NOFIT", "does not fit on the machine", "The pods need more memory or CPU than the machine has, even when the version before has stopped.", "A smaller power or scale, or fewer services.", byRecord, true},
			{"CAP-SURGE", "does not fit beside the version before", "It would fit alone, but not while the version before still runs.", "Stop other services, or disable the service, deploy and enable it (with downtime).", byRecord, true},
			{"DRAIN-KILL", "warning: ignored SIGTERM", "A container did not end when it was asked to, and was killed after the grace.", "Handle SIGTERM; if a shell is the first process, start the program with `exec`.", byRecord, false},
			{"NODE-LOST", "the machine restarted", "The machine restarted, or the pod disappeared from outside.", "Nothing: deploy again if it was not retried.", "certain if the machine restarted; likely otherwise", false},
			{"CERT-DNS", "warning: domain points elsewhere", "The domain does not lead to this machine, so no certificate can be had for it.", "Set the DNS record that the message names.", byRecord, false},
			{"CERT-CAA", "warning: issuer forbidden", "The domain's CAA records do not allow the certificate authority.", "Add the CAA record that the message names.", byRecord, false},
			{"CERT-80", "warning: port 80 closed", "The certificate authority cannot reach port 80 of this machine.", "Open port 80, or use a DNS challenge.", byRecord, false},
			{"USER-CANCEL", "canceled", "A caller canceled the deployment.", "Nothing.", byRecord, true},
			{"SUPERSEDED", "replaced", "A newer deployment replaced it before it was active.", "Nothing.", byRecord, true},
			{"UNKNOWN", "no known cause", "None of the rules matches. Everything that was collected is shown, the most telling first.", "Read the evidence, and the log of the container.", "never certain", false},
		}},
	}
}

// known returns the description of a code.
func known(code trysail.DiagnosisCode) (Code, bool) {
	for _, g := range Codes() {
		for _, c := range g.Codes {
			if c.Code == code {
				return c, true
			}
		}
	}
	return Code{}, false
}
