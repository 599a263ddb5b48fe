package kit

import (
	"fmt"
	"math/rand/v2"
)

// LogLines makes lines as a web application logs them: about 140 bytes each, most of a request with a random
// identifier, some of a component, few with an error. The same seed makes the same lines.
type LogLines struct {
	rand *rand.Rand
	at   int64 // milliseconds
}

// NewLogLines returns a source of lines.
func NewLogLines(seed uint64) *LogLines {
	return &LogLines{rand: rand.New(rand.NewPCG(seed, 1)), at: 1_800_000_000_000}
}

// Append adds the next line, without a newline.
func (l *LogLines) Append(b []byte) []byte {
	r := l.rand
	l.at += r.Int64N(20)
	method := [...]string{"GET", "GET", "GET", "POST", "PUT"}[r.IntN(5)]
	path := [...]string{"/api/v1/items", "/api/v1/orders", "/login", "/static/app.js", "/api/v1/users", "/health"}[r.IntN(6)]
	b = fmt.Appendf(b, "ts=%d.%03d ", l.at/1000, l.at%1000)
	switch n := r.IntN(100); {
	case n < 80:
		return fmt.Appendf(b, "level=info msg=request method=%s path=%s/%d status=%d bytes=%d duration=%dms remote=10.%d.%d.%d request_id=%08x",
			method, path, r.IntN(100_000), [...]int{200, 200, 200, 200, 201, 204, 304, 404}[r.IntN(8)], r.IntN(50_000), r.IntN(400), r.IntN(4), r.IntN(256), r.IntN(256), r.Uint32())
	case n < 95:
		return fmt.Appendf(b, "level=debug msg=\"cache lookup\" component=%s key=%s:%d hit=%t pool=%d idle=%d",
			[...]string{"session", "catalog", "pricing"}[r.IntN(3)], path, r.IntN(10_000), r.IntN(3) > 0, r.IntN(32), r.IntN(32))
	case n < 99:
		return fmt.Appendf(b, "level=warn msg=\"slow query\" component=db table=%s rows=%d duration=%dms", path, r.IntN(5000), 400+r.IntN(3000))
	}
	return fmt.Appendf(b, "level=error msg=\"upstream failed\" component=http error=\"connection reset by peer\" attempt=%d request_id=%08x", 1+r.IntN(3), r.Uint32())
}
