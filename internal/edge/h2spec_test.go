package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"github.com/trysail/trysail"
)

// TestH2spec runs all cases of h2spec against a service, the strict ones too.
func TestH2spec(t *testing.T) {
	e := testEdge(t)
	e.Apply(trysail.Route{Service: "web", Host: "localhost", Mode: trysail.RouteServe, Targets: []trysail.Target{
		testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, strings.Repeat("some body, ", 100))
		}),
	}})
	host, port, err := net.SplitHostPort(e.HTTPSAddr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil || host != "127.0.0.1" {
		t.Fatal(host, err)
	}
	c := &config.Config{Host: "localhost", Port: number, Path: "/", Timeout: 5 * time.Second, MaxHeaderLen: 4000, TLS: true, Insecure: true, Strict: true}
	// What differs from h2spec's expectation, and why that is as it should be.
	expected := map[string]string{
		"http2/6.5.3/1":   "a SETTINGS frame with the same setting twice ends the connection",
		"http2/8.1.2.2/1": "the request gets 400 rather than a reset; see TestHTTP2_Requests",
		"http2/8.1.2.2/2": "the same",
	}
	var passed, differ atomic.Int64
	var run func(t *testing.T, g *spec.TestGroup)
	run = func(t *testing.T, g *spec.TestGroup) {
		t.Helper()
		for i, tc := range slices.Concat(g.Tests, g.StrictTests) {
			id := fmt.Sprintf("%s/%d", g.ID(), i+1)
			t.Run(id, func(t *testing.T) {
				t.Parallel()
				conn, err := spec.Dial(c)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				err = tc.Run(c, conn)
				switch {
				case errors.Is(err, spec.ErrSkipped):
					t.Skip(tc.Desc)
				case err != nil && expected[id] != "":
					differ.Add(1)
					t.Logf("%s: differs as expected: %s", tc.Desc, expected[id])
				case err != nil:
					t.Errorf("%s\n%s\n%v", tc.Desc, tc.Requirement, err)
				default:
					passed.Add(1)
				}
			})
		}
		for _, sub := range g.Groups {
			run(t, sub)
		}
	}
	t.Run("cases", func(t *testing.T) {
		for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
			run(t, g)
		}
	})
	t.Logf("%d passed, %d differ", passed.Load(), differ.Load())
	if passed.Load() < 140 {
		t.Errorf("only %d cases passed", passed.Load())
	}
}
