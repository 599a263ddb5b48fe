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
// # Who reads, who writes
//
// One goroutine serves a connection and does everything; one that is parked in the lot has none. There are three others, each of
// which it waits for before it goes on: the upload (a body that did not come with its head), the watch (somebody has to notice that a client left while
// its pod is silent; it starts after watchAfter) and one direction of a tunnel. They wake it by a deadline in the past on
// the pod's connection (Exchange.poke); the reason is in the exchange.
//
// # What keeps the connections in step
//
// Requests are parsed strictly: whatever two implementations could read in two ways is refused. Bodies are never passed
// on as they came; they are taken out of their framing and framed anew. A connection is used again only after both
// messages on it have ended where their framing says, and a pod's only if nothing has come on it since.
package http1
