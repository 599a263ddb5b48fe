// Package edge is the HTTPS load balancer in front of the pods: it knows which host belongs to which service, asks
// the pods whether they can serve, and sends every request to the least busy healthy one.
//
// # Shape
//
//	Edge      lifecycle, listeners, the operations reconcile uses (Apply, Remove, Health, Drain, Changes)
//	router    host → service; lock-free for readers
//	service   one Route: its targets, and a view (mode and targets in rotation) that is swapped atomically
//	target    one address: requests in flight, connections to it, health
//	prober    the health checks of one target
//	exchange  one request on its way: which target it is registered at, what it tried before
//	CA        the local certificate authority
//
// # The switch
//
// Apply stores the new view first and closes the targets that left rotation second. A request registers at its target
// under the lock that closes the target, so after Apply has returned no new request can reach a target that left, and
// Drain sees every one that did. A request that lost this race takes the new view and goes on; nothing is dropped.
//
// # What a pod sees
//
// The client's request line, Host and headers as they came, HTTP/1.1, and
//
//	X-Forwarded-For    what the client sent, with the client's address appended: the right-most one is trustworthy
//	X-Forwarded-Proto  https
//	X-Forwarded-Host   the Host of the request
//	X-Forwarded-Port   the port the client connected to
//	X-Request-Id       the client's, or a new one if it sent none that is usable
//
// Forwarded is removed, because a client could make it say anything.
//
// # Health checks
//
// GET with the check's path on a connection of its own, User-Agent ELB-HealthChecker/2.0 (applications allow-list it)
// and the target's address with its port as Host, both as AWS load balancers do it. Redirects are not followed.
package edge
