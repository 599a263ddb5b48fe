package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/trysail/trysail"
)

// execFake runs every session with a function.
type execFake func(context.Context, trysail.Command) (int, error)

func (execFake) TakeExecSession(token string) (trysail.ExecSession, bool) {
	return trysail.ExecSession{}, token == "good"
}

func (f execFake) RunExecSession(ctx context.Context, _ trysail.ExecSession, c trysail.Command) (int, error) {
	return f(ctx, c)
}

func openExec(t *testing.T, run execFake) (*websocket.Conn, *ExecHandler) {
	t.Helper()
	h := NewExec(run, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Cleanup(h.Close)
	conn, _, err := websocket.Dial(t.Context(), server.URL+"/exec/good", &websocket.DialOptions{Subprotocols: []string{ExecProtocol}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn, h
}

func sendExec(t *testing.T, conn *websocket.Conn, channel byte, text string) {
	t.Helper()
	if err := conn.Write(t.Context(), websocket.MessageBinary, append([]byte{channel}, text...)); err != nil {
		t.Fatal(err)
	}
}

// readExec reads to the end: what came on each channel.
func readExec(t *testing.T, conn *websocket.Conn) map[byte]string {
	t.Helper()
	got := map[byte]string{}
	for {
		_, message, err := conn.Read(t.Context())
		if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got[message[0]] += string(message[1:])
	}
}

func TestExecHandler_PassesEverythingOn(t *testing.T) {
	conn, _ := openExec(t, func(_ context.Context, c trysail.Command) (int, error) {
		size := <-c.Resize
		in, err := io.ReadAll(c.Stdin)
		fmt.Fprintf(c.Stdout, "%dx%d %s", size.Columns, size.Rows, in)
		fmt.Fprint(c.Stderr, "oops")
		return 5, err
	})
	sendExec(t, conn, channelResize, `{"columns":90,"rows":30}`)
	sendExec(t, conn, channelStdin, "some ")
	sendExec(t, conn, channelStdin, "input")
	sendExec(t, conn, channelStdin, "")
	got := readExec(t, conn)
	if got[channelStdout] != "90x30 some input" || got[channelStderr] != "oops" || got[channelEnd] != `{"exitCode":5}` {
		t.Errorf("got %q", got)
	}
}

func TestExecHandler_TellsErrorsThatAreForClients(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{trysail.Errorf(trysail.CodeInvalid, "no such program"), "no such program"},
		{fmt.Errorf("dialing /run/secret.sock"), "internal error"},
	} {
		conn, _ := openExec(t, func(context.Context, trysail.Command) (int, error) { return 0, tt.err })
		var end struct{ Error string }
		if err := json.Unmarshal([]byte(readExec(t, conn)[channelEnd]), &end); err != nil || !strings.Contains(strings.ToLower(end.Error), tt.want) || strings.Contains(end.Error, "secret") {
			t.Errorf("%v: got %q, %v", tt.err, end.Error, err)
		}
	}
}

func TestExecHandler_EndsTheCommandOfAClientThatGoes(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	conn, _ := openExec(t, func(ctx context.Context, _ trysail.Command) (int, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return 0, ctx.Err()
	})
	<-started
	conn.CloseNow()
	<-ended
}

func TestExecHandler_CloseEndsWhatIsOpen(t *testing.T) {
	started := make(chan struct{})
	conn, h := openExec(t, func(ctx context.Context, _ trysail.Command) (int, error) {
		close(started)
		<-ctx.Done()
		return 0, ctx.Err()
	})
	<-started
	h.Close()
	if _, _, err := conn.Read(t.Context()); err == nil {
		t.Error("the connection is still open")
	}
}

func TestExecHandler_RefusesWhoHasNoToken(t *testing.T) {
	server := httptest.NewServer(NewExec(execFake(nil), slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	_, resp, err := websocket.Dial(t.Context(), server.URL+"/exec/bad", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %v", err)
	}
	plain, err := http.Get(server.URL + "/exec/good")
	if err != nil {
		t.Fatal(err)
	}
	plain.Body.Close()
	if plain.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: got %d", plain.StatusCode)
	}
}
