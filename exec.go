package trysail

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrNotRunning is in the chain of an error when there is no such pod or container, or it does not run.
var ErrNotRunning = errors.New("the container does not run")

// CommandError says why a command could not be started in a container that runs.
type CommandError struct{ Reason string }

func (e *CommandError) Error() string {
	return fmt.Sprintf("the command cannot be started: %s", e.Reason)
}

// Command is a program that shall run in a container that is there already.
type Command struct {
	Args []string // the program, found in the container's PATH, and its arguments
	// TTY gives the program a terminal; what it writes to either stream comes out of Stdout then.
	TTY bool
	// Stdin is what the program reads until its end; nil: nothing. It may be read from for a moment after the command has
	// ended, so the caller ends it.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize yields the terminal's size, first and whenever it changes; nil without a terminal.
	Resize <-chan TerminalSize
}

// TerminalSize is how large a terminal is, in characters.
type TerminalSize struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// ExecSession is the permission to run one command in one container, once and soon.
type ExecSession struct {
	Token     string // the secret that the command is fetched with, once
	Service   string
	Pod       PodID
	Container string
	Args      []string
	TTY       bool
	Caller    Caller
	ExpiresAt time.Time
}
