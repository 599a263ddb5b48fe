package trysail

import "time"

// Task is a command that runs once, in a pod of its own with the image and the environment of one container of a
// deployment. It gets no requests, and is not started again when it ends.
type Task struct {
	ID        PodID // of its pod too
	ServiceID string
	Version   int // of the deployment
	Container string
	Command   []string
	Power     Power
	CreatedAt time.Time
	// Deadline is when it is stopped if it still runs.
	Deadline time.Time
	// StopAt is when somebody asked for its end; zero if nobody has.
	StopAt  time.Time
	EndedAt time.Time // when it was gone; zero before
	// ExitCode is that of the command, once it has ended. It means nothing with a Reason.
	ExitCode int
	// Reason says why there is no exit code: it could not be started, or was stopped. One sentence.
	Reason string
}

// The bounds of a task.
const (
	MaxTasks        = 10             // that run at a time, of one service
	DefaultTaskTime = time.Hour      // until it is stopped
	MaxTaskTime     = 24 * time.Hour // that may be asked for
)
