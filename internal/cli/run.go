package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// taskInfo is a task as the API shows it.
type taskInfo struct {
	ID            string   `json:"taskId"`
	Version       int      `json:"version"`
	ContainerName string   `json:"containerName"`
	Command       []string `json:"command"`
	State         string   `json:"state"`
	ExitCode      *int     `json:"exitCode,omitempty"`
	Reason        string   `json:"reason,omitempty"`
	CreatedAt     float64  `json:"createdAt"`
	EndedAt       float64  `json:"endedAt,omitempty"`
}

type taskAnswer struct {
	Task taskInfo `json:"task"`
}

// taskRequest is the request of CreateTask.
type taskRequest struct {
	ServiceName    string   `json:"serviceName"`
	Version        int      `json:"version,omitempty"`
	ContainerName  string   `json:"containerName,omitempty"`
	Command        []string `json:"command"`
	TimeoutSeconds int      `json:"timeoutSeconds,omitempty"`
}

// stopTime is how long an interrupted command waits for the end of what it has started.
const stopTime = 15 * time.Second

func (a *App) runCommand() *cobra.Command {
	var in taskRequest
	var timeout time.Duration
	var detach bool
	cmd := &cobra.Command{
		Use:   "run SERVICE -- COMMAND [ARGUMENT]...",
		Short: "Run a command once, in a service's image and environment",
		Long: `Run a command once, in a pod of its own with the image, the environment and the power of a service. As with docker run,
COMMAND replaces the image's CMD and keeps its ENTRYPOINT. The pod gets no requests and is removed at the end.

What the command writes is shown here and kept in the service's log. The exit status is that of the command. Ctrl-C stops
it, and so does --timeout. If the connection is lost it goes on.`,
		Example: `  trysail run web -- ./manage.py migrate
  trysail run web --version 12 --timeout 10m -- ./report`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return Usagef("%s is missing", []string{"SERVICE", "COMMAND"}[len(args)])
			}
			return nil
		},
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().IntVar(&in.Version, "version", 0, "with the image and environment of this version; by default of the one that serves")
	cmd.Flags().StringVar(&in.ContainerName, "container", "", "of this container; by default of the one with the public endpoint")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "stop it after so long; at most 24h")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "print the task's name and do not wait")
	a.completeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if timeout < time.Second {
			return Usagef("--timeout must be 1s or more")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		if c.onAWS() {
			return errors.New("AWS cannot run one-off commands in Lightsail")
		}
		in.ServiceName, in.Command, in.TimeoutSeconds = args[0], args[1:], int(timeout.Seconds())
		var out taskAnswer
		if err := c.call(cmd.Context(), "CreateTask", in, &out); err != nil {
			return err
		}
		if detach {
			if asJSON {
				return printJSON(a.Out, out)
			}
			fmt.Fprintln(a.Out, clean(out.Task.ID))
			return nil
		}
		return a.attend(cmd.Context(), c, in.ServiceName, out.Task, asJSON)
	}
	return cmd
}

// attend shows what a task writes until it ends. Errors: *exitError.
func (a *App) attend(ctx context.Context, c *client, service string, task taskInfo, asJSON bool) error {
	log := &follower{client: c, logQuery: logQuery{service: service, container: task.ContainerName, pod: task.ID}, from: unixTime(task.CreatedAt).Add(-time.Second)}
	show := func(e event) {
		out := a.Out
		if e.stream == "stderr" || asJSON { // standard output is for the JSON alone
			out = a.Err
		}
		fmt.Fprintln(out, e.message)
	}
	w := &watch{client: c, progress: newProgress(a.screen(a.Err)), service: service, stage: "running " + task.ID}
	err := w.poll(ctx, func(ctx context.Context) (bool, error) {
		var now taskAnswer
		if err := c.call(ctx, "GetTask", map[string]string{"serviceName": service, "taskId": task.ID}, &now); err != nil {
			return false, err
		}
		task = now.Task
		// The log is read after the state: a task that has ended writes no more.
		err := log.next(ctx, func(e event) {
			w.erase()
			show(e)
		})
		if isCode(err, "NotFoundException") {
			err = nil // it has not written anything yet
		}
		return task.State == "ENDED", err
	})
	if ctx.Err() != nil {
		return a.stopTask(context.WithoutCancel(ctx), c, service, task.ID)
	}
	if err != nil {
		return err
	}
	return a.taskResult(task, asJSON)
}

// taskResult ends the program as the task has ended.
func (a *App) taskResult(task taskInfo, asJSON bool) error {
	if asJSON {
		if err := printJSON(a.Out, taskAnswer{task}); err != nil {
			return err
		}
	}
	switch {
	case task.Reason != "":
		return errors.New(task.Reason)
	case task.ExitCode != nil && *task.ExitCode != 0:
		return &exitError{*task.ExitCode}
	}
	return nil
}

// stopTask stops what was interrupted.
func (a *App) stopTask(ctx context.Context, c *client, service, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	if err := c.call(ctx, "StopTask", map[string]string{"serviceName": service, "taskId": id}, &struct{}{}); err != nil {
		return fmt.Errorf("stopping %s: %w", id, err)
	}
	return errors.New("interrupted, and the task was told to stop")
}
