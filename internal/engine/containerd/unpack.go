package containerd

import (
	"context"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// aheadSize and aheadCount bound what of a layer is decompressed before it is written, in bytes and in pieces.
	aheadSize  = 256 << 10
	aheadCount = 16
)

// decompressAhead makes containerd decompress a layer on one processor while it writes the files on another. By itself
// it does one after the other, which takes nearly the sum of both.
func decompressAhead() {
	diff.RegisterProcessor(func(ctx context.Context, mediaType string) (diff.StreamProcessorInit, bool) {
		if packed, err := images.DiffCompression(ctx, mediaType); err != nil || packed == "" {
			return nil, false
		}
		return func(_ context.Context, stream diff.StreamProcessor, _ map[string]typeurl.Any) (diff.StreamProcessor, error) {
			r, err := compression.DecompressStream(stream)
			if err != nil {
				return nil, err
			}
			return layer{newAhead(r)}, nil
		}, true
	})
}

// layer is an unpacked layer.
type layer struct{ io.ReadCloser }

// MediaType implements diff.StreamProcessor.
func (layer) MediaType() string { return ocispec.MediaTypeImageLayer }

// ahead reads ahead.
type ahead struct {
	full, empty chan []byte
	end         chan struct{} // closed by Close
	done        sync.WaitGroup
	from        io.Closer

	rest []byte // of buf
	buf  []byte
	err  error // of the reading; set before full is closed
}

func newAhead(r io.ReadCloser) io.ReadCloser {
	a := &ahead{full: make(chan []byte, aheadCount), empty: make(chan []byte, aheadCount), end: make(chan struct{}), from: r}
	for range aheadCount {
		a.empty <- nil
	}
	a.done.Go(func() { a.fill(r) })
	return a
}

// fill reads until the end, an error, or Close.
func (a *ahead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var b []byte
		select {
		case b = <-a.empty:
		case <-a.end:
			return
		}
		if b == nil {
			b = make([]byte, 0, aheadSize)
		}
		b = b[:0]
		var err error
		for err == nil && len(b) < aheadSize {
			var n int
			n, err = r.Read(b[len(b):aheadSize])
			b = b[:len(b)+n]
		}
		a.full <- b // there is room for all
		if err != nil {
			a.err = err
			return
		}
	}
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.buf != nil {
			a.empty <- a.buf
			a.buf = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.buf, a.rest = b, b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (a *ahead) Close() error {
	close(a.end)
	a.done.Wait()
	return a.from.Close()
}
