package corpus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/aws/smithy-go"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/test/kit"
)

// Run is a case under way.
type Run struct {
	*World
	Case    Case
	On      *kit.Server
	Service string
	Version int32 // that the case is about; 0 before it is deployed
	api     *lightsail.Client
}

// large are images that take seconds to unpack. How long that takes is no part of the cases that use them.
var large = map[string][]string{
	"python:1": {"import time\ntime.sleep(3600)"},
	"node:1":   {"-e", "setTimeout(() => {}, 3600000)"},
}

// warm has the large images of the cases on the shared server before they begin. What goes wrong shows in the cases.
func (w *World) warm(ctx context.Context, cases []Case) {
	d := Deployment{Containers: map[string]Container{}}
	for _, c := range cases {
		for _, container := range c.Containers {
			if command := large[container.Image]; command != nil && c.Place == Shared {
				name, _, _ := strings.Cut(container.Image, ":")
				d.Containers[name] = Container{Image: container.Image, Command: command}
			}
		}
	}
	for i := 0; i < 3 && len(d.Containers) > 0; i++ {
		if res := w.Run(ctx, Case{Name: fmt.Sprint("warm-up-", i), Deployment: d, Power: "small", Outcome: Works}); res.OK() {
			return
		}
	}
}

// Result is what came of a case.
type Result struct {
	Case Case
	Got  trysail.Diagnosis // Code is ACTIVE for what works and refused for what is refused without a code
	// Wait is the time from what decided the case to the verdict; Total the time from the request for the deployment on.
	Wait, Total time.Duration
	// Faults are what is wrong with the outcome; none: it is as expected.
	Faults []string
	// Text is what trysail explain prints, or the refusal.
	Text string
}

// Active stands for the code of a deployment that works, RefusedCode for one that is refused without naming a code.
const (
	Active      trysail.DiagnosisCode = "ACTIVE"
	RefusedCode trysail.DiagnosisCode = "refused"
)

func (r *Result) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// most bounds a case beyond the activation window.
const most = 2 * time.Minute

// Run carries a case out and deletes its service.
func (w *World) Run(ctx context.Context, c Case) (res Result) {
	res.Case = c
	ctx, cancel := context.WithTimeout(ctx, 2*w.window+most)
	defer cancel()
	server, err := w.Server(ctx, c.Place)
	if err != nil {
		res.fault("%v", err)
		return res
	}
	r := &Run{World: w, Case: c, On: server, Service: c.Name, api: server.Client()}
	defer r.remove(context.WithoutCancel(ctx), &res)
	if err := r.carryOut(ctx, &res); err != nil {
		res.fault("%v", err)
	}
	return res
}

func (r *Run) carryOut(ctx context.Context, res *Result) error {
	power, scale := r.Case.Power, max(1, r.Case.Scale)
	if power == "" {
		power = "nano"
	}
	_, err := r.api.CreateContainerService(ctx, &lightsail.CreateContainerServiceInput{
		ServiceName: &r.Service, Power: types.ContainerServicePowerName(power), Scale: &scale,
	})
	if err != nil {
		return err
	}
	if _, err := r.until(ctx, "the service to be there", func(s types.ContainerService) bool { return s.State == types.ContainerServiceStateReady }); err != nil {
		return err
	}
	if r.Case.Before != nil {
		version, _, err := r.deploy(ctx, *r.Case.Before)
		if err != nil {
			return fmt.Errorf("deploying what was before: %w", err)
		}
		if state, err := r.settled(ctx, version); err != nil || state != types.ContainerServiceDeploymentStateActive {
			return fmt.Errorf("what was before is %s (%w)", state, err)
		}
	}
	if r.Case.Prepare != nil {
		if err := r.Case.Prepare(ctx, r); err != nil {
			return fmt.Errorf("preparing: %w", err)
		}
	}
	start := time.Now()
	version, in, err := r.deploy(ctx, r.Case.Deployment)
	if invalid, ok := errors.AsType[*types.InvalidInputException](err); ok {
		res.Wait = time.Since(start)
		res.Total = res.Wait
		return r.refused(ctx, res, in, invalid.ErrorMessage())
	}
	if err != nil {
		return err
	}
	r.Version = version
	acted := make(chan error, 1)
	go func() {
		var err error
		if r.Case.Act != nil {
			err = r.Case.Act(ctx, r)
		}
		acted <- err
	}()
	state, err := r.settled(ctx, version)
	if err != nil {
		return err
	}
	if err := <-acted; err != nil {
		res.fault("acting: %v", err)
	}
	if state == types.ContainerServiceDeploymentStateActive && r.Case.Outcome == Crashes {
		return r.crashed(ctx, res)
	}
	if state == types.ContainerServiceDeploymentStateActive {
		res.Got.Code, res.Total = Active, time.Since(start)
		return r.active(ctx, res)
	}
	if err := r.diagnosis(ctx, res, version); err != nil {
		return err
	}
	r.check(res)
	return r.views(ctx, res, start)
}

// input is the deployment as a request.
func (r *Run) input(d Deployment) (*lightsail.CreateContainerServiceDeploymentInput, error) {
	in := &lightsail.CreateContainerServiceDeploymentInput{ServiceName: &r.Service, Containers: map[string]types.Container{}}
	for name, c := range d.Containers {
		image, err := r.image(c.Image)
		if err != nil {
			return nil, err
		}
		wire := types.Container{Image: &image, Command: c.Command, Environment: c.Env}
		for port, protocol := range c.Ports {
			if wire.Ports == nil {
				wire.Ports = map[string]types.ContainerServiceProtocol{}
			}
			wire.Ports[port] = types.ContainerServiceProtocol(protocol)
		}
		in.Containers[name] = wire
	}
	if e := d.Endpoint; e != nil {
		in.PublicEndpoint = &types.EndpointRequest{ContainerName: &e.Container, ContainerPort: &e.Port, HealthCheck: e.check()}
	}
	return in, nil
}

func (e *Endpoint) check() *types.ContainerServiceHealthCheckConfig {
	if e.Defaults {
		return nil
	}
	number := func(n int32) *int32 {
		if n == 0 {
			return nil
		}
		return &n
	}
	text := func(s, otherwise string) *string {
		if s == "" {
			s = otherwise
		}
		return &s
	}
	return &types.ContainerServiceHealthCheckConfig{
		Path: text(e.Path, "/"), SuccessCodes: text(e.Codes, "200"), TimeoutSeconds: number(e.Timeout), IntervalSeconds: number(e.Interval), HealthyThreshold: number(e.Healthy),
	}
}

func (r *Run) deploy(ctx context.Context, d Deployment) (int32, *lightsail.CreateContainerServiceDeploymentInput, error) {
	in, err := r.input(d)
	if err != nil {
		return 0, nil, err
	}
	out, err := r.api.CreateContainerServiceDeployment(ctx, in)
	if err != nil {
		return 0, in, err
	}
	next := out.ContainerService.NextDeployment
	if next == nil {
		return 0, in, errors.New("the answer to a deployment names no version")
	}
	return aws.ToInt32(next.Version), in, nil
}

// until waits for the service.
func (r *Run) until(ctx context.Context, what string, ok func(types.ContainerService) bool) (s types.ContainerService, err error) {
	err = kit.Until(ctx, most, func() error {
		out, err := r.api.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{ServiceName: &r.Service})
		if err != nil {
			return err
		}
		if s = out.ContainerServices[0]; !ok(s) {
			return fmt.Errorf("waiting for %s, which is %s", what, s.State)
		}
		return nil
	})
	return s, err
}

// settled waits until a version is no longer being activated.
func (r *Run) settled(ctx context.Context, version int32) (state types.ContainerServiceDeploymentState, err error) {
	err = kit.Until(ctx, r.window+most, func() error {
		out, err := r.api.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &r.Service})
		if err != nil {
			return err
		}
		for _, d := range out.Deployments {
			if aws.ToInt32(d.Version) != version {
				continue
			}
			if state = d.State; state != types.ContainerServiceDeploymentStateActivating {
				return nil
			}
		}
		return fmt.Errorf("version %d is %s", version, state)
	})
	return state, err
}

// diagnosis asks for the verdict on a version.
func (r *Run) diagnosis(ctx context.Context, res *Result, version int32) error {
	var out struct {
		Diagnosis trysail.Diagnosis `json:"diagnosis"`
	}
	body, err := json.Marshal(map[string]any{"serviceName": r.Service, "version": version})
	if err != nil {
		return err
	}
	answer, err := r.On.Call(ctx, kit.Call{Target: "Trysail_20261120.GetDeploymentDiagnosis", Body: string(body)})
	if err != nil {
		return err
	}
	if answer.Status != http.StatusOK {
		return fmt.Errorf("asking for the verdict: %s", answer.Message)
	}
	if err := json.Unmarshal(answer.Body, &out); err != nil {
		return fmt.Errorf("reading the verdict: %w", err)
	}
	res.Got = out.Diagnosis
	if res.Text, err = r.On.Run(ctx, "explain", r.Service, "--version", fmt.Sprint(version)); err != nil {
		return err
	}
	return nil
}

// check compares a verdict with what is expected.
func (r *Run) check(res *Result) {
	c, got := res.Case, res.Got
	if c.Outcome != Fails && c.Outcome != Crashes {
		res.fault("it failed")
		return
	}
	if got.Code != c.Code {
		res.fault("code %s, want %s", got.Code, c.Code)
	}
	want := c.Container
	switch want {
	case "":
		want = "web"
	case "-":
		want = ""
	}
	if got.ContainerName != want {
		res.fault("container %q, want %q", got.ContainerName, want)
	}
	if c.Confidence != "" && got.Confidence != c.Confidence {
		res.fault("%s, want %s", got.Confidence, c.Confidence)
	}
	r.contains(res, "fix", got.Fix, c.Fix)
	r.contains(res, "summary", got.Summary, c.Says)
	if got.Fix == "" || got.Summary == "" || len(got.Evidence) == 0 {
		res.fault("the verdict has no fix, no summary or no evidence")
	}
	if c.Warning != "" {
		if err := r.warned(res); err != nil {
			res.fault("%v", err)
		}
	}
}

// warned returns an error unless the version has the warning that the case wants.
func (r *Run) warned(res *Result) error {
	for _, w := range res.Got.Warnings {
		if w.Code == res.Case.Warning {
			return nil
		}
	}
	return fmt.Errorf("no warning %s", res.Case.Warning)
}

func (r *Run) contains(res *Result, what, got, want string) {
	if !strings.Contains(strings.ToLower(got), strings.ToLower(want)) {
		res.fault("the %s does not say %q: %s", what, want, got)
	}
}

var codeName = regexp.MustCompile(`\b(IMG|RUN|CFG|CAP|NET|HC)-[A-Z0-9-]+\b`)

// refused is about a deployment that is not begun. trysail check must say the same beforehand.
func (r *Run) refused(ctx context.Context, res *Result, in *lightsail.CreateContainerServiceDeploymentInput, message string) error {
	res.Got.Code, res.Got.Confidence, res.Got.Summary = RefusedCode, trysail.Certain, message
	res.Text = message + "\n"
	if r.Case.Outcome != Refused {
		res.fault("it was refused: %s", message)
		return nil
	}
	r.contains(res, "refusal", message, r.Case.Says)
	r.contains(res, "refusal", message, r.Case.Fix)
	body, err := json.Marshal(wire(in))
	if err != nil {
		return err
	}
	problems, err := r.On.RunInput(ctx, string(body), "check", r.Service, "-f", "-")
	if err == nil {
		res.fault("trysail check finds nothing wrong with it: %s", problems)
		return nil
	}
	res.Text += problems
	if code := codeName.FindString(problems); code != "" {
		res.Got.Code = trysail.DiagnosisCode(code)
	}
	if res.Got.Code != r.Case.Code && res.Got.Code != RefusedCode {
		res.fault("code %s, want %s", res.Got.Code, r.Case.Code)
	}
	return nil
}

// wire is a request as a deployment file has it.
func wire(in *lightsail.CreateContainerServiceDeploymentInput) map[string]any {
	containers := map[string]any{}
	for name, c := range in.Containers {
		one := map[string]any{"image": c.Image}
		if c.Command != nil {
			one["command"] = c.Command
		}
		if c.Environment != nil {
			one["environment"] = c.Environment
		}
		if c.Ports != nil {
			one["ports"] = c.Ports
		}
		containers[name] = one
	}
	out := map[string]any{"serviceName": in.ServiceName, "containers": containers}
	if e := in.PublicEndpoint; e != nil {
		out["publicEndpoint"] = map[string]any{"containerName": e.ContainerName, "containerPort": e.ContainerPort}
	}
	return out
}

// active checks a deployment that is said to work: it must answer, and go on doing so without a restart.
func (r *Run) active(ctx context.Context, res *Result) error {
	if r.Case.Outcome != Works {
		res.fault("it is ACTIVE")
		return nil
	}
	if err := r.ask(ctx); err != nil {
		return err
	}
	// A verdict that comes late is no better than one that comes at once.
	select {
	case <-time.After(4 * time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := r.ask(ctx); err != nil {
		return fmt.Errorf("a moment later: %w", err)
	}
	pods, err := r.pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.Version == int(r.Version) && (p.Attempt > 1 || p.State == "failed") {
			res.fault("pod %s is %s: %s", p.ID, p.State, p.Reason)
		}
	}
	if r.Case.Warning != "" {
		version := r.Version
		if r.Case.WarnsBefore {
			version--
		}
		// What ignores SIGTERM is warned of when it has been killed.
		err := kit.Until(ctx, time.Minute, func() error {
			if err := r.diagnosis(ctx, res, version); err != nil {
				return err
			}
			return r.warned(res)
		})
		res.Got.Code = Active
		if err != nil {
			return err
		}
	}
	return nil
}

// crashed waits for the verdict on a version that is ACTIVE, and for its line in the log.
func (r *Run) crashed(ctx context.Context, res *Result) error {
	err := kit.Until(ctx, r.window, func() error {
		if err := r.diagnosis(ctx, res, r.Version); err != nil {
			return err
		}
		if res.Got.Code == trysail.DiagnosisOK {
			return errors.New("nothing is said to have failed")
		}
		return nil
	})
	if err != nil {
		res.Got.Code = Active
		return fmt.Errorf("waiting for the crash to be explained: %w", err)
	}
	r.check(res)
	verdict, _, err := r.times(ctx, res, time.Now().Add(-r.window))
	if err == nil && verdict.IsZero() {
		res.fault("the log does not name the code")
	}
	return err
}

// ask makes a request through the edge.
func (r *Run) ask(ctx context.Context) error {
	ep := r.Case.Endpoint
	if ep == nil {
		return nil
	}
	s, err := r.until(ctx, "the service to run", func(s types.ContainerService) bool { return s.State == types.ContainerServiceStateRunning })
	if err != nil {
		return err
	}
	client, err := r.On.HTTPClient(false)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	path := ep.Path
	if path == "" {
		path = "/"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(aws.ToString(s.Url), "/")+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("reading the endpoint's answer: %w", err)
	}
	want := max(r.Case.Status, http.StatusOK)
	if resp.StatusCode != want || !strings.Contains(string(body), r.Case.Answer) {
		return fmt.Errorf("the endpoint answers %d %q, want %d %q", resp.StatusCode, body, want, r.Case.Answer)
	}
	return nil
}

// pod is what trysail ps says of one.
type pod struct {
	ID        string  `json:"id"`
	Version   int     `json:"version"`
	Attempt   int     `json:"attempt"`
	State     string  `json:"state"`
	CreatedAt float64 `json:"createdAt"`
	Reason    string  `json:"reason"`
}

func (r *Run) pods(ctx context.Context) ([]pod, error) {
	out, err := r.On.Run(ctx, "ps", r.Service, "--all", "--output", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Pods []pod `json:"pods"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("reading trysail ps: %w", err)
	}
	return list.Pods, nil
}

// views checks that log and operation say what the verdict says, and measures how long it took.
func (r *Run) views(ctx context.Context, res *Result, start time.Time) error {
	verdict, decided, err := r.times(ctx, res, start)
	if err != nil {
		return err
	}
	if verdict.IsZero() {
		res.fault("the log does not name the code")
		return nil
	}
	res.Wait, res.Total = max(0, verdict.Sub(decided)), verdict.Sub(start)
	out, err := r.api.GetOperationsForResource(ctx, &lightsail.GetOperationsForResourceInput{ResourceName: &r.Service})
	if err != nil {
		return err
	}
	for _, op := range out.Operations {
		if op.OperationType == types.OperationTypeCreateContainerServiceDeployment && op.Status == types.OperationStatusFailed {
			if aws.ToString(op.ErrorCode) != string(res.Got.Code) || !strings.Contains(aws.ToString(op.ErrorDetails), res.Got.Fix) {
				res.fault("the operation says %s: %s", aws.ToString(op.ErrorCode), aws.ToString(op.ErrorDetails))
			}
			return nil
		}
	}
	res.fault("no operation failed")
	return nil
}

// times reads from the logs when the verdict was written and when the case was decided: when the window closed, when the last
// pod wrote its last line (or was created, if it wrote nothing), or when the deployment was begun.
func (r *Run) times(ctx context.Context, res *Result, start time.Time) (verdict, decided time.Time, err error) {
	var begun, last time.Time
	late := false
	mine := fmt.Sprintf("[deployment:%d] ", r.Version)
	for name := range r.Case.Containers {
		// Only a page of the log at each end: some crashes write thousands of lines.
		for _, filter := range []string{"", `"[trysail]"`, `"[deployment:"`} {
			in := &lightsail.GetContainerLogInput{ServiceName: &r.Service, ContainerName: aws.String(name), StartTime: aws.Time(start.Add(-time.Second))}
			if filter != "" {
				in.FilterPattern = &filter
			}
			out, err := r.log(ctx, in)
			if err != nil {
				return verdict, decided, err
			}
			for _, e := range out.LogEvents {
				text, at := aws.ToString(e.Message), aws.ToTime(e.CreatedAt)
				switch {
				case strings.HasPrefix(text, "[trysail] "+string(res.Got.Code)+": "):
					verdict = at
				case strings.HasPrefix(text, "[trysail] "):
				case strings.HasPrefix(text, "[deployment:"):
					late = late || text == mine+"Took too long"
					if text == mine+"Creating your deployment" {
						begun = at
					}
				case at.After(last):
					last = at
				}
			}
		}
	}
	pods, err := r.pods(ctx)
	for _, p := range pods {
		if at := time.UnixMicro(int64(p.CreatedAt * 1e6)); p.Version == int(r.Version) && at.After(last) {
			last = at
		}
	}
	switch {
	case late:
		return verdict, begun.Add(r.window), err
	case !last.IsZero():
		return verdict, last, err
	}
	return verdict, begun, err
}

// log reads a page of a log, once more if the connection broke on the way. The client does not do so by itself: everything
// else is to be seen at the first answer.
func (r *Run) log(ctx context.Context, in *lightsail.GetContainerLogInput) (out *lightsail.GetContainerLogOutput, err error) {
	for range 3 {
		out, err = r.api.GetContainerLog(ctx, in)
		if _, answered := errors.AsType[smithy.APIError](err); err == nil || answered {
			break
		}
	}
	return out, err
}

// remove deletes the service without waiting for its end.
func (r *Run) remove(ctx context.Context, res *Result) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := kit.Until(ctx, 30*time.Second, func() error {
		_, err := r.api.DeleteContainerService(ctx, &lightsail.DeleteContainerServiceInput{ServiceName: &r.Service})
		if _, gone := errors.AsType[*types.NotFoundException](err); gone {
			return nil
		}
		return err
	})
	if err != nil {
		res.fault("deleting the service: %v", err)
	}
}

// Settled reports whether the version of the case is no longer being activated.
func (r *Run) Settled(ctx context.Context) (bool, error) {
	out, err := r.api.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &r.Service})
	if err != nil {
		return false, err
	}
	for _, d := range out.Deployments {
		if aws.ToInt32(d.Version) == r.Version {
			return d.State != types.ContainerServiceDeploymentStateActivating, nil
		}
	}
	return false, fmt.Errorf("service %s has no version %d", r.Service, r.Version)
}

// Owns reports whether a process belongs to a pod of the case: the names of pods begin with the service's.
func (r *Run) Owns(p kit.Proc) bool {
	if r.On.InCluster() {
		// There they are the names of the pods' hosts.
		host, err := exec.Command("nsenter", "-t", fmt.Sprint(p.PID), "-u", "hostname").Output()
		return err == nil && strings.HasPrefix(string(host), r.Service+"-v")
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	return err == nil && strings.Contains(string(groups), "/"+r.Service+"-v")
}
