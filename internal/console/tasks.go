package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// tasksView is the tasks of a service, and the form of a new one.
type tasksView struct {
	Service    string
	Tasks      []taskRow
	Containers []string
	Versions   []int
	Timeouts   []rangeChoice
	Form       taskForm
	Problem    string
	Serves     bool // there is a version that a task can use
}

// taskForm is a task while it is being written, as text.
type taskForm struct{ Command, Container, Version, Timeout string }

// taskRow is a task as people see it.
type taskRow struct{ trysail.Task }

// State is a word for how the task is.
func (r taskRow) State() string {
	switch {
	case r.EndedAt.IsZero() && !r.StopAt.IsZero():
		return "stopping"
	case r.EndedAt.IsZero():
		return "running now"
	case !r.StopAt.IsZero():
		return "stopped"
	case r.Reason != "" || r.ExitCode != 0:
		return "failed"
	}
	return "done"
}

// Said is what came of the task.
func (r taskRow) Said() string {
	switch {
	case r.EndedAt.IsZero():
		return ""
	case r.Reason != "":
		return r.Reason
	}
	return fmt.Sprintf("exit status %d", r.ExitCode)
}

// Took is how long it ran.
func (r taskRow) Took() string {
	if r.EndedAt.IsZero() {
		return "–"
	}
	return coarse(max(r.EndedAt.Sub(r.CreatedAt), 0))
}

// taskTimes are the times after which a task is stopped, to choose from.
func taskTimes() []rangeChoice {
	return []rangeChoice{
		{"10m", "10 minutes", 10 * time.Minute},
		{"1h", "1 hour", time.Hour},
		{"6h", "6 hours", 6 * time.Hour},
		{"24h", "24 hours", 24 * time.Hour},
	}
}

// showTasks lists the tasks of a service.
func (c *Console) showTasks(v *visit) (*page, error) {
	return c.tasksPage(v, taskForm{Timeout: "1h", Command: strings.TrimSpace(v.URL.Query().Get("command"))}, nil)
}

// tasksPage is the list with the form as it was typed, and what is wrong with it.
func (c *Console) tasksPage(v *visit, f taskForm, problem error) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	view := tasksView{Service: s.Name, Form: f, Timeouts: taskTimes(), Serves: s.Current != nil}
	p := c.servicePage(s, &page{Template: "tasks", Title: "Tasks", Tab: "tasks", Live: true, LiveURL: serviceURL(s.Name, "tasks")})
	if problem != nil {
		view.Problem, p.Status = textOf(problem), statusOf(problem)
	}
	list, err := c.control.ListTasks(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	for _, k := range list {
		view.Tasks = append(view.Tasks, taskRow{k})
	}
	if s.Current != nil {
		view.Containers = s.Current.ContainerNames()
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		view.Versions = append(view.Versions, d.Version)
		view.Serves = true
	}
	p.D = view
	return p, nil
}

// runTask runs a command once.
func (c *Console) runTask(v *visit) (*page, error) {
	f := taskForm{
		Command: strings.TrimSpace(v.PostFormValue("command")), Container: v.PostFormValue("container"), Version: v.PostFormValue("version"),
		Timeout: v.PostFormValue("timeout"),
	}
	in, err := f.input()
	if err == nil {
		in.ServiceName = v.service()
		var k *trysail.Task
		if k, err = c.control.CreateTask(v.Context(), v.caller, in); err == nil {
			return v.redirect(serviceURL(v.service(), "tasks", k.ID), "The task is being run.")
		}
	}
	if statusOf(err) == http.StatusInternalServerError {
		return nil, err
	}
	return c.tasksPage(v, f, err)
}

// input is the task that the form describes. Errors: Invalid.
func (f *taskForm) input() (in control.CreateTaskInput, err error) {
	if in.Command, err = splitWords(f.Command); err != nil {
		return in, err
	}
	in.ContainerName = f.Container
	version, err := number("The version", f.Version)
	if err != nil {
		return in, err
	}
	if version != nil {
		in.Version = *version
	}
	for _, t := range taskTimes() {
		if t.Value == f.Timeout {
			in.Timeout = t.length
			return in, nil
		}
	}
	return in, trysail.Errorf(trysail.CodeInvalid, "The time is not one of those offered.")
}

// splitWords makes arguments of a line as a shell does: quotes keep words together, a backslash takes the meaning of what
// follows. Nothing is expanded. Errors: Invalid.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	quote, within, escaped := rune(0), false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, within = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, within = r, true
		case strings.ContainsRune(" \t\r\n", r):
			if within {
				words = append(words, word.String())
				word.Reset()
				within = false
			}
		default:
			word.WriteRune(r)
			within = true
		}
	}
	if quote != 0 || escaped {
		return nil, trysail.Errorf(trysail.CodeInvalid, "The command is not complete: a quote is open, or it ends with a backslash.")
	}
	if within {
		words = append(words, word.String())
	}
	return words, nil
}

// taskView is one task with what it wrote.
type taskView struct {
	Service    string
	Task       taskRow
	Lines      []logLine
	More       bool
	Incomplete bool
	Again      string // address of the form, filled in with the same command
}

// showTask is one task, live as long as it runs.
func (c *Console) showTask(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	k, err := c.control.GetTask(v.Context(), v.caller, s.Name, v.PathValue("task"))
	if err != nil {
		return nil, err
	}
	view := taskView{Service: s.Name, Task: taskRow{*k}, Again: serviceURL(s.Name, "tasks") + "?command=" + url.QueryEscape(joinWords(k.Command))}
	q := &question{service: s.Name, containers: []string{k.Container}, pod: string(k.ID), start: k.CreatedAt.Add(-time.Second)}
	if !k.EndedAt.IsZero() {
		q.end = k.EndedAt.Add(time.Minute)
	}
	view.Lines, view.More, view.Incomplete, err = c.tail(v, q, time.Now())
	if err != nil && !gone(err) { // it has not written anything yet
		return nil, err
	}
	p := &page{Template: "task", Title: "Task " + string(k.ID), Tab: "tasks", D: view}
	p.Live = k.EndedAt.IsZero() || isStream(v.Request) // the last answer of a stream says how it ended
	return c.servicePage(s, p), nil
}

// joinWords is the line that splitWords makes these words of.
func joinWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\r\n'\"\\") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// stopTask asks for the end of a task.
func (c *Console) stopTask(v *visit) (*page, error) {
	err := c.control.StopTask(v.Context(), v.caller, v.service(), v.PathValue("task"))
	return v.outcome(serviceURL(v.service(), "tasks", url.PathEscape(v.PathValue("task"))), err, "The task is being stopped.")
}
