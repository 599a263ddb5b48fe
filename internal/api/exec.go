package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/trysail/trysail"
)

// ExecPath is where the WebSockets of exec sessions are; the token follows.
const ExecPath = "/exec/"

// ExecProtocol is the WebSocket subprotocol of exec sessions. Each message is binary and begins with a byte that says
// what it is, much as in Kubernetes' remote command protocol:
//
//	0  standard input, to the server; empty: its end
//	1  standard output, to the client
//	2  standard error, to the client
//	3  the end, to the client: {"exitCode": 0} or {"error": "…"}
//	4  the terminal's size, to the server: {"columns": 80, "rows": 24}
const ExecProtocol = "v1.exec.trysail"

const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelEnd    = 3
	channelResize = 4

	// maxExecOpen is how many commands may run at a time.
	maxExecOpen = 64
	// maxExecMessage is the largest message of a client, in bytes.
	maxExecMessage = 64 << 10
	// pingEvery is how often a quiet client is asked whether it is there, and pingTime how long it may take to say so: a
	// person may have stopped the output and gone for a coffee.
	pingEvery = 30 * time.Second
	pingTime  = 10 * time.Minute
)

// execControl runs exec sessions; *control.Control does.
type execControl interface {
	TakeExecSession(token string) (s trysail.ExecSession, ok bool)
	RunExecSession(ctx context.Context, s trysail.ExecSession, io trysail.Command) (exit int, err error)
}

// ExecHandler serves the WebSockets of exec sessions. A session is authorised by its token, which CreateExecSession has
// given to a signed call.
type ExecHandler struct {
	control execControl
	log     *slog.Logger
	slots   chan struct{}

	ctx  context.Context //nolint:containedctx // ends what is open; requests of upgraded connections have no end of their own
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// NewExec makes the handler. End it with Close.
func NewExec(c execControl, log *slog.Logger) *ExecHandler {
	h := &ExecHandler{control: c, log: log, slots: make(chan struct{}, maxExecOpen)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

// Close kills the commands that run and waits for them.
func (h *ExecHandler) Close() {
	h.stop()
	h.wg.Wait()
}

// ServeHTTP runs one session.
func (h *ExecHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.wg.Add(1)
	defer h.wg.Done()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		http.Error(w, "too many commands are running", http.StatusServiceUnavailable)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "this is for WebSockets, see CreateExecSession", http.StatusUpgradeRequired)
		return
	}
	session, ok := h.control.TakeExecSession(strings.TrimPrefix(r.URL.Path, ExecPath))
	if !ok {
		http.Error(w, "there is no such session; a session is valid once and for half a minute", http.StatusForbidden)
		return
	}
	// The connection is of a program that has the token; a browser of another site has not.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{ExecProtocol}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		h.log.DebugContext(r.Context(), "a client does not speak WebSocket", "error", err)
		return
	}
	defer conn.CloseNow() //nolint:errcheck // it is closed either way
	conn.SetReadLimit(maxExecMessage)
	h.run(conn, session) //nolint:contextcheck // a request that was upgraded has no end of its own
}

func (h *ExecHandler) run(conn *websocket.Conn, session trysail.ExecSession) {
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	stdin, typed := io.Pipe()
	resize := make(chan trysail.TerminalSize, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel() // a client that has gone ends its command
		receive(ctx, conn, typed, resize)
	})
	wg.Go(func() {
		defer cancel()
		keepAlive(ctx, conn)
	})
	exit, err := h.control.RunExecSession(ctx, session, trysail.Command{
		Stdin: stdin, Stdout: &channel{ctx, conn, channelStdout}, Stderr: &channel{ctx, conn, channelStderr}, Resize: resize,
	})
	_ = stdin.CloseWithError(io.ErrClosedPipe) // who still sends input is told that nobody reads it
	if ctx.Err() == nil {
		h.end(ctx, conn, exit, err)
	}
	cancel()
}

// end tells the client what came of the command.
func (h *ExecHandler) end(ctx context.Context, conn *websocket.Conn, exit int, err error) {
	last := map[string]any{"exitCode": exit}
	if err != nil {
		if _, ok := errors.AsType[*trysail.Error](err); !ok {
			h.log.ErrorContext(ctx, "an exec session failed", "error", err)
		}
		last = map[string]any{"error": exceptionOf(err).message}
	}
	text, err := json.Marshal(last)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageBinary, append([]byte{channelEnd}, text...))
	}
	if err == nil {
		_ = conn.Close(websocket.StatusNormalClosure, "")
	}
}

// receive takes what the client sends until it goes.
func receive(ctx context.Context, conn *websocket.Conn, stdin *io.PipeWriter, resize chan trysail.TerminalSize) {
	defer stdin.Close()
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil || kind != websocket.MessageBinary || len(message) == 0 {
			return
		}
		switch data := message[1:]; message[0] {
		case channelStdin:
			if len(data) == 0 {
				_ = stdin.Close() // never fails
				continue
			}
			// An error means that the command reads no more; its end is on the way.
			_, _ = stdin.Write(data)
		case channelResize:
			var size trysail.TerminalSize
			if json.Unmarshal(data, &size) != nil {
				return
			}
			select { // only the newest counts
			case <-resize:
			default:
			}
			resize <- size
		default:
			return
		}
	}
}

// keepAlive returns when the client does not answer any more.
func keepAlive(ctx context.Context, conn *websocket.Conn) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pinging, cancel := context.WithTimeout(ctx, pingTime)
		err := conn.Ping(pinging)
		cancel()
		if err != nil {
			return
		}
	}
}

// channel sends what is written to it as messages.
type channel struct {
	ctx  context.Context //nolint:containedctx // io.Writer has no place for it
	conn *websocket.Conn
	kind byte
}

func (c *channel) Write(p []byte) (int, error) {
	if err := c.conn.Write(c.ctx, websocket.MessageBinary, append([]byte{c.kind}, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}
