package http1

import "sync"

const (
	// headSize is the first buffer of a connection: most heads fit.
	headSize = 4 << 10
	// bodySize is how much of a body is moved at once.
	bodySize = 32 << 10
	// outSize is room for a head and a piece of a body, so that they go out together.
	outSize = bodySize + headSize
)

// buffers keeps those of one size for the next user.
type buffers struct {
	size int
	pool sync.Pool // of *[]byte
}

func (p *buffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, p.size)
	return &b
}

// put takes back what get gave out. The slice behind b must be the one it was.
func (p *buffers) put(b *[]byte) { p.pool.Put(b) }
