package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The channels of a session: the first byte of each of its messages.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelEnd    = 3
	channelResize = 4
)

// maxExecMessage bounds a message of the server.
const maxExecMessage = 1 << 20

// execRequest is the request of CreateExecSession.
type execRequest struct {
	ServiceName   string   `json:"serviceName"`
	PodID         string   `json:"podId,omitempty"`
	Version       int      `json:"version,omitempty"`
	ContainerName string   `json:"containerName,omitempty"`
	Command       []string `json:"command"`
	TTY           bool     `json:"tty"`
}

type execSession struct {
	Path          string `json:"path"`
	Protocol      string `json:"protocol"`
	PodID         string `json:"podId"`
	ContainerName string `json:"containerName"`
}

// exitError ends the program with the exit status of somebody else's command, which has said itself what is wrong.
type exitError struct{ code int }

func (e *exitError) Error() string {
	return fmt.Sprintf("the command ended with exit status %d", e.code)
}

func (a *App) execCommand() *cobra.Command {
	var in execRequest
	var noTTY, noStdin bool
	cmd := &cobra.Command{
		Use:   "exec SERVICE [-- COMMAND [ARGUMENT]...]",
		Short: "Run a command in a container that runs, such as a shell",
		Long: `Run a command in a container that runs, with its environment, user and limits. Without COMMAND it is sh.

It is run in one pod of the version that serves. Choose another with --pod (see trysail ps), which may also be a pod of a
failed deployment that is kept by trysail deploy --hold. On a terminal the command gets a terminal; the exit status is that
of the command. Who runs what is in the audit trail. It takes a key with the role admin.`,
		Example: `  trysail exec web
  trysail exec web --container app -- printenv
  trysail exec web -- sh -c 'cat > /tmp/seed.sql' < seed.sql`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return Usagef("SERVICE is missing")
			}
			return nil
		},
		ValidArgsFunction: a.completeService,
	}
	var dataDir string
	a.dataDirFlag(cmd, &dataDir)
	cmd.Flags().StringVar(&in.PodID, "pod", "", "in this pod, as trysail ps lists it")
	cmd.Flags().IntVar(&in.Version, "version", 0, "in a pod of this version")
	cmd.Flags().StringVar(&in.ContainerName, "container", "", "in this container; by default the one with the public endpoint")
	cmd.Flags().BoolVarP(&noTTY, "no-tty", "T", false, "give the command no terminal")
	cmd.Flags().BoolVarP(&noStdin, "no-stdin", "n", false, "give the command no input")
	a.completeFlags(cmd)
	must(cmd.RegisterFlagCompletionFunc("pod", a.podNames()))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(dataDir)
		if err != nil {
			return err
		}
		if c.onAWS() {
			return errors.New("AWS cannot run commands in containers of Lightsail")
		}
		in.ServiceName, in.Command = args[0], args[1:]
		if len(in.Command) == 0 {
			in.Command = []string{"sh"}
		}
		in.TTY = !noTTY && !noStdin && a.onTerminal()
		var session execSession
		if err := c.call(cmd.Context(), "CreateExecSession", in, &session); err != nil {
			return err
		}
		x := &remote{client: c, session: session, out: a.Out, err: a.Err}
		if !noStdin {
			x.in = a.In
		}
		return x.run(cmd.Context(), in.TTY)
	}
	return cmd
}

// onTerminal reports whether a person sits before standard input and sees standard output.
func (a *App) onTerminal() bool {
	in, ok := a.In.(*os.File)
	return ok && isTerminal(in.Fd()) && a.screen(a.Out).terminal
}

// remote is a command that runs elsewhere.
type remote struct {
	client   *client
	session  execSession
	in       io.Reader // nil: no input
	out, err io.Writer
}

// run shows the command here until it ends. Errors: *exitError.
func (x *remote) run(ctx context.Context, tty bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := x.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.CloseNow() //nolint:errcheck // it is closed either way
	conn.SetReadLimit(maxExecMessage)
	if tty {
		restore, err := x.takeTerminal(ctx, conn)
		if err != nil {
			return err
		}
		defer restore()
	}
	// This goroutine cannot be waited for: nothing interrupts a read of standard input. It ends with the program.
	go x.send(ctx, conn)
	return x.receive(ctx, conn)
}

func (x *remote) dial(ctx context.Context) (*websocket.Conn, error) {
	// A WebSocket needs HTTP/1.1, and no time limit for the whole of it.
	transport := x.client.http.Transport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // we made it
	transport.ForceAttemptHTTP2 = false
	transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	if transport.TLSClientConfig != nil {
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	dialing, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, resp, err := websocket.Dial(dialing, x.client.settings.endpoint+x.session.Path, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{x.session.Protocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is
		return nil, WithHint(fmt.Errorf("the server did not open the session: HTTP status %s %s", resp.Status, clean(string(text))),
			"If there is a proxy between, it must let WebSockets through")
	}
	return conn, err
}

// takeTerminal makes the terminal hand on every key, and the other one as large as it, until restore is called.
func (x *remote) takeTerminal(ctx context.Context, conn *websocket.Conn) (restore func(), err error) {
	f := x.in.(*os.File) //nolint:errcheck,forcetypeassert // onTerminal has seen that it is one
	fd := int(f.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if columns, rows, err := term.GetSize(fd); err == nil {
				text, _ := json.Marshal(map[string]int{"columns": columns, "rows": rows})
				if conn.Write(ctx, websocket.MessageBinary, append([]byte{channelResize}, text...)) != nil {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case _, open := <-changed:
				if !open {
					return
				}
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(changed)
		<-done
		_ = term.Restore(fd, before) // there is nothing else to try
	}, nil
}

// send passes on the input to its end.
func (x *remote) send(ctx context.Context, conn *websocket.Conn) {
	if x.in != nil {
		buf := make([]byte, 32<<10)
		buf[0] = channelStdin
		for {
			n, err := x.in.Read(buf[1:])
			if n > 0 && conn.Write(ctx, websocket.MessageBinary, buf[:n+1]) != nil {
				return
			}
			if err != nil {
				break
			}
		}
	}
	// An error means that the session is over.
	_ = conn.Write(ctx, websocket.MessageBinary, []byte{channelStdin})
}

// receive shows the output until the command has ended.
func (x *remote) receive(ctx context.Context, conn *websocket.Conn) error {
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return WithHint(errors.New("the connection was lost, and the command with it"), "Check that the server is up with: trysail doctor")
		}
		if len(message) == 0 {
			continue
		}
		switch data := message[1:]; message[0] {
		case channelStdout:
			_, err = x.out.Write(data)
		case channelStderr:
			_, err = x.err.Write(data)
		case channelEnd:
			return ended(data)
		}
		if err != nil {
			return fmt.Errorf("writing the output: %w", err)
		}
	}
}

// ended is what came of a command.
func ended(data []byte) error {
	var last struct {
		ExitCode int    `json:"exitCode"`
		Error    string `json:"error"`
	}
	if err := json.Unmarshal(data, &last); err != nil {
		return fmt.Errorf("reading how the command ended: %w", err)
	}
	switch {
	case last.Error != "":
		if hint := nextCommand(last.Error); hint != "" {
			return WithHint(errors.New(last.Error), "%s", hint)
		}
		return errors.New(last.Error)
	case last.ExitCode != 0:
		return &exitError{last.ExitCode}
	}
	return nil
}

// podNames offers the pods of a service that run.
func (a *App) podNames() completer {
	return a.ask(func(ctx context.Context, c *client, args []string) (names []string, err error) {
		if len(args) == 0 {
			return nil, nil
		}
		var out struct {
			Pods []podInfo `json:"pods"`
		}
		err = c.call(ctx, "ListPods", map[string]any{"serviceName": args[0]}, &out)
		for _, p := range out.Pods {
			names = append(names, fmt.Sprintf("%s\tversion %d %s", p.ID, p.Version, p.State))
		}
		return names, err
	})
}
