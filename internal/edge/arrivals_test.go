package edge

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// Who has connected before the edge is told to stop gets an answer, whenever the request comes.
func TestEdge_CloseAnswersThoseWhoHaveCome(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a") })))
	plain, err := net.Dial("tcp", e.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	conns := []net.Conn{dialTLS(t, e), dialTLS(t, e), dialTLS(t, e), plain}
	// The last one has been accepted, not only taken by the kernel, when a request on it has been answered.
	fmt.Fprintf(plain, "GET /.well-known/none HTTP/1.1\r\nHost: nobody\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(plain), nil); err != nil {
		t.Fatal(err)
	}
	addr := e.HTTPSAddr()
	closed := make(chan error, 1)
	go func() { closed <- e.Close(within(t, 20*time.Second)) }()
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
	}
	for i, c := range conns[:3] {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", testHost)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("connection %d: %v", i, err)
			continue
		}
		if res.StatusCode != http.StatusOK || !res.Close {
			t.Errorf("connection %d: %s, and it is not said that this is the last answer", i, res.Status)
		}
	}
	if err := receive(t, closed, "the end of the edge"); err != nil {
		t.Error(err)
	}
}

// Who has connected and says nothing keeps it for a moment only.
func TestEdge_CloseDoesNotWaitForThoseWhoSayNothing(t *testing.T) {
	e := testEdge(t)
	dialTLS(t, e)
	began := time.Now()
	if err := e.Close(within(t, 20*time.Second)); err != nil {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
}
