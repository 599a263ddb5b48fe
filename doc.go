// Package trysail holds the words of the program: the types that every other package speaks in.
// It imports nothing but the standard library.
//
// Trysail is Amazon Lightsail container services on your own machines. One binary serves the Lightsail
// container API, runs the deployments on an embedded containerd and serves them over HTTPS.
//
// # The map
//
//	cmd/trysail          the one binary: role by argv[0], flags → config → wire → run
//	internal/api         AWS JSON 1.1: verify, look up the operation, decode, call control, encode
//	internal/sigv4       is this request signed by this secret?
//	internal/control     every operation once: validate, authorise, write the desired state
//	internal/store       SQLite: schema, migrations, transactions, change feed: the truth
//	internal/reconcile   observe → Plan (pure) → apply; the only package that changes the world
//	internal/diagnose    evidence → Diagnosis: pure rules
//	internal/autopsy     an image's files → what is certain to go wrong
//	internal/image       image name → digest, with typed errors; manifests and layers as files
//	internal/registry    the OCI registry for what is pushed here
//	internal/push        an image from where people have it into a registry
//	internal/engine      the Engine interface: pods on nodes
//	  cri                one machine: containerd as a child, spoken to through CRI
//	  containerd         what the child and its shims run
//	  enginetest         conformance suite and an in-memory engine
//	internal/edge        HTTPS load balancer: routes, targets, health checks, drain, local CA
//	internal/fleet       several servers: the edges do what the leader says
//	internal/copies      copies of the other servers' logs and metrics
//	internal/logs        container and system log lines: append, search, filter patterns
//	internal/console     the pages, rendered on the server, with the rights of whoever signed in
//	internal/cli         the commands; they talk to any Trysail (or AWS) through the official SDK
//
// # The flow
//
//	API call → api → control → store (commit) → change feed → reconcile → engine, edge → store
//
// What an API call acknowledged is in the store before anything is done about it. Every step that reconcile
// takes can be repeated, so recovery after a crash is simply the next round of reconcile.
package trysail
