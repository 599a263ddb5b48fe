// Package http1 is our own HTTP/1.1 engine under the edge: a server loop for clients and pools of connections to pods,
// with a strict parser between them. It moves bytes and keeps both sides in step; which pod is asked, what is logged
// and what an error page looks like is its handler's business.
//
// # The way of a request
//
//	conn.run          a connection: TLS handshake, ALPN (HTTP/2 leaves for net/http), then one request after the other
//	Request.parse     the head, in place: no copy, no map, no allocation
//	Handler           chooses a pod and calls
//	Exchange.Ask      connection from the Pool, head and body to the pod, head of its answer back
//	Exchange.Relay    answer to the client, framed anew; or a tunnel after 101
//	Exchange.Respond  what the handler answers itself
//	lot               where a connection goes that has had no request for a second, until it has one
//
// # Loops
//
// With Config.Loops, requests that need little time are served by event loops instead of goroutines, which spares the scheduler
// and the threads that it wakes. It is the same code: everything above runs in a strand, a coroutine of its loop.
//
//	            ┌────────────── loop: one goroutine, one epoll ──────────────┐
//	goroutine ──┼─▶ rest ──(a request comes)──▶ strand: conn.run ──▶ rest    │
//	   ▲  TLS,  │   warm: conn kept              │ read or write finds        │
//	   │  first │   cold: socket and TLS only    ▼ nothing: strand waits      │
//	   │ request│              ◀──(epoll, deadline, poke) resumed             │
//	   │        └────────────────────────────────┼───────────────────────────┘
//	   └── leave: both sockets go to the runtime's poller, and a goroutine resumes the strand where it was
//
//	strand            a function that can stop in the middle (iter.Pull)
//	socket            a net.Conn that a goroutine or a strand may block in; Read and Write are all that knows the difference
//	loop              events, deadlines by sweep, connections at rest; everything that touches a descriptor of its is on its goroutine
//	conn.leave        is called where something may take long or needs a second goroutine: uploads that did not come with the head,
//	                  bodies beyond bodySize, tunnels, TLS to pods, what the handler gives away, clients that say something while
//	                  their pod is silent. On a goroutine it does nothing but note that the connection is not for a loop until it rests.
//	conn.aside        is for what blocks and is short: connecting to a pod
//
// A strand must not wait for a socket while it holds a lock that another strand of its loop may want: nobody would release it. Only
// crypto/tls does that, with locks of its connection.
//
// # Who reads, who writes
//
// One goroutine serves a connection and does everything; one that is parked in the lot has none. There are three others, each of
// which it waits for before it goes on, and none of which there is on a loop: the upload (a body that did not come with its
// head), the watch (somebody has to notice that a client left while its pod is silent; it starts after watchAfter) and one
// direction of a tunnel. They wake it by a deadline in the past on the pod's connection (Exchange.poke); the reason is in the
// exchange.
//
// # What keeps the connections in step
//
// Requests are parsed strictly: whatever two implementations could read in two ways is refused. Bodies are never passed
// on as they came; they are taken out of their framing and framed anew. A connection is used again only after both
// messages on it have ended where their framing says, and a pod's only if nothing has come on it since.
package http1
