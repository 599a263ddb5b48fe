// Package certs gets the X.509 certificates of public names, keeps them and hands them to the edge. It is a small
// reconciler of its own: what shall be is in the store (certificates, services), what is are files, and every failure
// becomes a reason that a person can act on.
//
//	Manager     the loop: which names are wanted, whose turn it is, what came of it
//	plan        when a name's turn is: pure
//	looker      what the world sees of a name: addresses, CAA, validation record, port 80
//	authority   one ACME directory: account, orders, renewal information, rate limits
//	solvers     the answers to challenges: HTTP-01, TLS-ALPN-01, DNS-01
//	Zone        who writes DNS records: RFC 2136, Cloudflare, Hetzner
//	table       name → certificate for handshakes; loads lazily, forgets what is not used
//	files       key and chain of a name in one file, replaced as one
//
// Each name has a certificate of its own. So each is validated in the way that works for it, and one that cannot be
// validated keeps none of the others from being renewed.
package certs
