package edge

import (
	"crypto/tls"
	"net"
	"testing"
)

// BenchmarkHandshake makes TLS connections, of which both sides are in the result; -cpuprofile tells them apart.
func BenchmarkHandshake(b *testing.B) {
	e := &Edge{cfg: Config{Domain: "localhost"}}
	ca, err := openCA(b.TempDir(), "localhost", nil, testLog(b))
	if err != nil {
		b.Fatal(err)
	}
	e.ca = ca
	e.router.move(&service{name: "web"}, "", testHost)
	for _, group := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519} {
		for _, kind := range []string{"full", "resumed"} {
			b.Run(group.String()+"/"+kind, func(b *testing.B) {
				client := &tls.Config{ServerName: testHost, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{group}}
				if kind == "resumed" {
					client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					handshake(b, e.tlsConfig(), client)
				}
				server := e.tlsConfig()
				handshake(b, server, client)
				b.ReportAllocs()
				for b.Loop() {
					if resumed := handshake(b, server, client); resumed != (kind == "resumed") {
						b.Fatal("resumed: ", resumed)
					}
				}
			})
		}
	}
}

// handshake makes a connection and reports whether it was a resumption.
func handshake(tb testing.TB, server, client *tls.Config) bool {
	tb.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(far, server)
		_, err := s.Write([]byte("x")) // after the ticket
		done <- err
	}()
	c := tls.Client(near, client)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	near.Close()
	far.Close()
	return c.ConnectionState().DidResume
}
