package http1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

// counted counts the writes to a connection, of which the one after the last good one fails.
type counted struct {
	net.Conn
	writes, good int
}

var errCut = errors.New("cut")

func (c *counted) Write(p []byte) (int, error) {
	if c.writes++; c.writes > c.good {
		return 0, errCut
	}
	return c.Conn.Write(p)
}

// gathered makes a TLS connection on a gatherer, and gives what its client reads.
func gathered(t *testing.T) (secure *tls.Conn, g *gatherer, below *counted, read func() []byte) {
	t.Helper()
	near, far := net.Pipe()
	below = &counted{Conn: near, good: 1 << 20}
	g = &gatherer{Conn: below, pool: &buffers{size: gatherSize}}
	secure = tls.Server(g, &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}})
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	got := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(client)
		got <- all
	}()
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := secure.Write([]byte("x")); err != nil { // after it nothing of the handshake is left
		t.Fatal(err)
	}
	return secure, g, below, func() []byte { return (<-got)[1:] }
}

func TestGatherer_SendsRecordsTogether(t *testing.T) {
	for _, size := range []int{1, recordSize, recordSize + 1, bodySize, outSize, 5*bodySize + 7} {
		secure, g, below, read := gathered(t)
		body := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
		before := below.writes
		if err := g.writeTo(secure, body); err != nil {
			t.Fatal(err)
		}
		if writes := below.writes - before; writes > size/bodySize+1 {
			t.Errorf("%d bytes: %d writes", size, writes)
		}
		if g.buf != nil || g.n != 0 {
			t.Errorf("%d bytes: something is kept", size)
		}
		if _, err := secure.Write([]byte("end")); err != nil { // by itself
			t.Fatal(err)
		}
		if err := secure.Close(); err != nil {
			t.Fatal(err)
		}
		below.Close()
		if got := read(); !bytes.Equal(got, append(body, "end"...)) {
			t.Errorf("%d bytes: the client got %d", size, len(got))
		}
	}
}

// TestGatherer_TellsThatItFailed: also those who write later, since the client has but a part of a record.
func TestGatherer_TellsThatItFailed(t *testing.T) {
	secure, g, below, read := gathered(t)
	below.good = below.writes
	if err := g.writeTo(secure, make([]byte, bodySize)); !errors.Is(err, errCut) {
		t.Errorf("error %v", err)
	}
	writes := below.writes
	if err := secure.Close(); !errors.Is(err, errCut) || below.writes != writes {
		t.Errorf("closing: error %v, %d more writes", err, below.writes-writes)
	}
	below.Close()
	if got := read(); len(got) > 0 {
		t.Errorf("the client got %d bytes", len(got))
	}
}
