package ship

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// rfc5424 is the grammar of a message with one element of structured data.
var rfc5424 = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) \[trysail@32473((?: [a-z]+="[^"\\\]]*")*)\] ((?s:.*))$`)

func TestSyslog_Message(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.FixedZone("", 3600))
	s := &syslogSender{dest: Destination{facility: 16, max: maxMessage}, host: "node-1"}
	for _, tt := range []struct {
		r    record
		want string
	}{
		{
			record{at: at, service: "web", version: 3, pod: "web-v3-0-abc", container: "app", kind: kindContainer, stderr: true, text: []byte("it \"broke\"]\xff")},
			"<131>1 2026-01-02T02:04:05.678901Z node-1 web web-v3-0-abc app [trysail@32473 kind=\"container\" service=\"web\" version=\"3\" pod=\"web-v3-0-abc\" container=\"app\" stream=\"stderr\"] it \"broke\"]\xff",
		},
		{
			record{at: at, service: "web", kind: kindAccess, text: []byte(`{"status":200}`)},
			`<134>1 2026-01-02T02:04:05.678901Z node-1 web - access [trysail@32473 kind="access" service="web"] {"status":200}`,
		},
		{
			record{at: at, service: "web", container: "app", kind: kindSystem, text: []byte("[deployment:1] Created")},
			`<134>1 2026-01-02T02:04:05.678901Z node-1 web - app [trysail@32473 kind="system" service="web" container="app"] [deployment:1] Created`,
		},
	} {
		got := string(s.message(nil, &tt.r, tt.r.text, 1, 1))
		if got != tt.want || !rfc5424.MatchString(got) {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

// TestSyslog_AnyMessageIsWellFormed holds for names and texts that nobody should have.
func TestSyslog_AnyMessageIsWellFormed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &syslogSender{dest: Destination{facility: 23, max: maxMessage}, host: headerField(rapid.String().Draw(t, "host"), 255)}
		name := rapid.StringN(1, 300, 600)
		r := record{
			at: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0), service: name.Draw(t, "service"), pod: name.Draw(t, "pod"),
			container: name.Draw(t, "container"), kind: kindContainer, version: rapid.IntRange(0, 1<<40).Draw(t, "version"),
		}
		text := rapid.SliceOf(rapid.Byte()).Draw(t, "text")
		m := rfc5424.FindStringSubmatch(string(s.message(nil, &r, text, 1, 2)))
		if m == nil || m[8] != string(text) {
			t.Fatalf("%q", m)
		}
		if n := len(s.message(nil, &r, nil, 1<<20, 1<<20)); n > overhead+256 { // the host's name may be long; nobody's is
			t.Fatalf("%d bytes without a text", n)
		}
	})
}

func TestSplitText_LosesNothingAndKeepsCharacters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }), rapid.SliceOf(rapid.Byte())).Draw(t, "text")
		limit := rapid.IntRange(4, 50).Draw(t, "limit")
		joined := ""
		for _, part := range splitText(text, limit) {
			if len(part) > limit || utf8.Valid(text) && !utf8.Valid(part) || len(part) == 0 && len(text) > 0 {
				t.Fatalf("part %q of %q", part, text)
			}
			joined += string(part)
		}
		if joined != string(text) {
			t.Fatalf("%q became %q", text, joined)
		}
	})
}

func TestSyslog_SendsEverythingInOrder(t *testing.T) {
	cfg, ca := testCA(t)
	plain := newSyslogServer(t, "127.0.0.1:0", nil, nil)
	secure := newSyslogServer(t, "127.0.0.1:0", cfg, nil)
	r := newRig(t)
	r.write("id-web", "web-v1-0-a", "app.log", 5000)
	_, stop := r.start(r.config(t.TempDir(), "syslog+tcp://"+plain.Addr().String(), "syslog+tls://"+secure.Addr().String()+"?ca="+ca))
	r.wait("the first lines are there", func() bool { return len(plain.all()) >= 5000 && len(secure.all()) >= 5000 })
	r.write("id-web", "web-v1-0-a", "app.1.log", 5000)
	r.wait("all lines are there", func() bool { return len(plain.all()) >= 10_000 && len(secure.all()) >= 10_000 })
	stop()
	for _, s := range []*syslogServer{plain, secure} {
		for i, l := range s.all() {
			if m := rfc5424.FindStringSubmatch(l); m == nil || m[8] != fmt.Sprint("line ", i) {
				t.Fatalf("line %d is %q", i, l)
			}
		}
	}
}

func TestSyslog_CutsLongLines(t *testing.T) {
	server := newSyslogServer(t, "127.0.0.1:0", nil, nil)
	r := newRig(t)
	long := strings.Repeat("ü0123456789", 50_000)
	at := time.Now().UTC().Format(time.RFC3339Nano)
	r.raw("id-web", "pod", "app.log", at+" stdout P "+long[:100_000]+"\n"+at+" stdout F "+long[100_000:]+"\n")
	r.start(r.config(t.TempDir(), "syslog+tcp://"+server.Addr().String()+"?max=2000"))
	got := ""
	r.wait("the line is there", func() bool {
		got = ""
		for _, l := range server.all() {
			if len(l) > 2000 {
				t.Fatalf("a message of %d bytes", len(l))
			}
			got += rfc5424.FindStringSubmatch(l)[8]
		}
		return len(got) >= len(long)
	})
	if got != long || !strings.Contains(server.all()[0], `part="1" parts="`) {
		t.Errorf("%d bytes, want %d; %q", len(got), len(long), server.all()[0])
	}
}

// TestSyslog_ServerThatDies loses connections in the middle, with what it had received and not read.
func TestSyslog_ServerThatDies(t *testing.T) {
	var connections atomic.Int64
	server := newSyslogServer(t, "127.0.0.1:0", nil, func(s *syslogServer, c net.Conn) {
		defer c.Close()
		if n := connections.Add(1); n%3 != 0 {
			s.receive(io.LimitReader(c, 20_000*n%90_000))
			_ = c.(*net.TCPConn).SetLinger(0) // as a killed process ends it
			return
		}
		s.receive(c)
	})
	r := newRig(t)
	cfg := r.config(t.TempDir(), "syslog+tcp://"+server.Addr().String())
	s, _ := r.start(cfg)
	for range 5 {
		n := connections.Load()
		r.write("id-web", "pod", "app.log", 3000)
		r.wait("there was another connection", func() bool { return connections.Load() > n })
	}
	r.wait("all lines are there", func() bool { missing, _ := server.missing(r.written); return missing == 0 })
	r.wait("they are confirmed", func() bool { return s.Status()[0].Sent == int64(r.written) })
}

// TestSyslog_ServerThatKeepsItsSideOpen is confirmed by its kernel.
func TestSyslog_ServerThatKeepsItsSideOpen(t *testing.T) {
	server := newSyslogServer(t, "127.0.0.1:0", nil, func(s *syslogServer, c net.Conn) {
		s.receive(c)
		t.Cleanup(func() { c.Close() })
	})
	r := newRig(t)
	cfg := r.config(t.TempDir(), "syslog+tcp://"+server.Addr().String())
	r.write("id-web", "pod", "app.log", 10)
	sender, err := newSyslog(cfg.Destinations[0], "node")
	if err != nil {
		t.Fatal(err)
	}
	sender.lingers = true
	for range 2 {
		if _, err := sender.send(t.Context(), []record{{service: "web", text: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("both are there", func() bool { return len(server.all()) == 2 })
}

func TestSyslog_Datagrams(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().String()
	conn.Close() // nobody listens yet
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 20)
	s, _ := r.start(r.config(t.TempDir(), "syslog+udp://"+addr))
	r.wait("it is noticed that nobody listens", func() bool { return s.Status()[0].Failing != "" })
	if conn, err = net.ListenPacket("udp", addr); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 65536)
	for i := range 20 {
		if err := conn.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if m := rfc5424.FindStringSubmatch(string(buf[:n])); m == nil || m[8] != fmt.Sprint("line ", i) {
			t.Fatalf("message %d is %q", i, buf[:n])
		}
	}
}

func TestSyslog_DistrustsStrangers(t *testing.T) {
	cfg, _ := testCA(t)
	_, other := testCA(t)
	server := newSyslogServer(t, "127.0.0.1:0", cfg, nil)
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 1)
	s, _ := r.start(r.config(t.TempDir(), "syslog+tls://"+server.Addr().String()+"?ca="+other))
	r.wait("it fails", func() bool { return strings.Contains(s.Status()[0].Failing, "certificate") })
	if got := server.all(); len(got) > 0 {
		t.Errorf("a stranger got %q", got)
	}
}
