package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail"
)

// outage is how long a waiting command puts up with a server that does not answer: long enough for it to be restarted
// or upgraded.
const outage = 30 * time.Second

// watch polls one service and shows what changes.
type watch struct {
	*client
	*progress
	service string
	stage   string    // the newest that was shown
	redraw  func()    // shows the stages instead of lines; nil: nobody does
	down    time.Time // since when the server does not answer; zero while it does
}

func (a *App) watch(c *client, service string, asJSON bool) *watch {
	s := a.screen(a.Out)
	if asJSON {
		s = a.screen(a.Err) // standard output is for the JSON alone
		if !s.terminal {
			s.Writer = io.Discard
		}
	}
	return &watch{client: c, progress: newProgress(s), service: service}
}

// poll calls step until it is done, first quickly and then more and more slowly. It ends with the error of step, of
// the server if it does not answer for too long, or of ctx.
func (w *watch) poll(ctx context.Context, step func(ctx context.Context) (done bool, err error)) error {
	defer w.erase()
	interval, slowest := 100*time.Millisecond, time.Second
	if w.atAmazon() {
		interval, slowest = 3*time.Second, 10*time.Second
	}
	for {
		done, err := step(ctx)
		if ctx.Err() != nil && (isNetwork(err) || errors.Is(err, ctx.Err())) {
			return context.Cause(ctx) // it is we who have broken off the question
		}
		if err = w.tolerate(err); done || err != nil {
			return err
		}
		if err := w.pause(ctx, interval); err != nil {
			return err
		}
		if time.Since(w.start) > 5*time.Second {
			interval = min(interval*5/4, slowest)
		}
	}
}

// tolerate forgives that the server does not answer for a while.
func (w *watch) tolerate(err error) error {
	switch {
	case err == nil:
		if !w.down.IsZero() {
			w.line(plain, "the server answers again")
		}
		w.down = time.Time{}
	case !isNetwork(err):
		return err
	case w.down.IsZero():
		w.down = time.Now()
		w.line(yellow, "the server does not answer; waiting for it")
	case time.Since(w.down) > outage:
		return err
	}
	return nil
}

// pause waits, while the last line keeps moving.
func (w *watch) pause(ctx context.Context, d time.Duration) error {
	end := time.After(d)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	w.tick()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			return nil
		case <-tick.C:
			w.tick()
		}
	}
}

// tick lets the last line move, unless there is none.
func (w *watch) tick() {
	if w.redraw != nil {
		w.redraw()
		return
	}
	w.now(w.stage)
}

// look fetches the service and shows its stage if that is new.
func (w *watch) look(ctx context.Context) (*types.ContainerService, error) {
	s, err := w.client.service(ctx, w.service)
	if err != nil {
		return nil, err
	}
	w.show(s)
	return s, nil
}

// show prints the service's stage if that is new.
func (w *watch) show(s *types.ContainerService) {
	stage := string(s.State)
	if d := s.StateDetail; d != nil && d.Code != "" {
		stage += "  " + string(d.Code)
		if m := aws.ToString(d.Message); m != "" {
			stage += "  " + m
		}
	}
	if stage != w.stage {
		w.stage = stage
		if w.redraw != nil {
			return
		}
		w.line(stateColour(string(s.State)), stage)
	}
}

// isBusy reports whether the service is on its way to another state.
func isBusy(s *types.ContainerService) bool {
	switch s.State {
	case types.ContainerServiceStatePending, types.ContainerServiceStateUpdating, types.ContainerServiceStateDeploying,
		types.ContainerServiceStateDeleting:
		return true
	default:
		return false
	}
}

// settle waits until a service that is PENDING or UPDATING is not any more. It says nothing unless there is something
// to wait for.
func (a *App) settle(ctx context.Context, c *client, w waiting, service string, asJSON bool) error {
	changing := func(s *types.ContainerService) bool {
		return s.State == types.ContainerServiceStatePending || s.State == types.ContainerServiceStateUpdating
	}
	s, err := c.service(ctx, service)
	if err != nil || !changing(s) {
		return err
	}
	ctx, cancel := w.context(ctx)
	defer cancel()
	watch := a.watch(c, service, asJSON)
	watch.show(s)
	err = watch.poll(ctx, func(ctx context.Context) (bool, error) {
		s, err := watch.look(ctx)
		return err == nil && !changing(s), err
	})
	return waitError(err, "service %q is still %s", service, watch.stage)
}

// waitService waits until the service has come to rest and prints it.
func (a *App) waitService(ctx context.Context, c *client, w waiting, service string, asJSON bool) error {
	ctx, cancel := w.context(ctx)
	defer cancel()
	watch := a.watch(c, service, asJSON)
	var last *types.ContainerService
	err := watch.poll(ctx, func(ctx context.Context) (done bool, err error) {
		last, err = watch.look(ctx)
		return err == nil && !isBusy(last), err
	})
	if err != nil {
		return waitError(err, "service %q is still %s", service, watch.stage)
	}
	return a.printService(last, asJSON)
}

// waitGone waits until there is no service of that name any more.
func (a *App) waitGone(ctx context.Context, c *client, w waiting, service string, asJSON bool) error {
	ctx, cancel := w.context(ctx)
	defer cancel()
	watch := a.watch(c, service, asJSON)
	err := watch.poll(ctx, func(ctx context.Context) (bool, error) {
		_, err := watch.look(ctx)
		if isCode(err, "NotFoundException") {
			return true, nil
		}
		return false, err
	})
	return waitError(err, "service %q is still %s", service, watch.stage)
}

// waitError says what goes on when the waiting has ended before what was waited for.
func waitError(err error, format string, args ...any) error {
	switch {
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		return WithHint(fmt.Errorf(format+" when --timeout was over", args...), "It goes on; look at it with: trysail services")
	case errors.Is(err, context.Canceled):
		return WithHint(errors.New("interrupted"), "What was started goes on; look at it with: trysail services")
	}
	return err
}

// waitDeployment shows the stages of a deployment until it is ACTIVE or FAILED, and ends with the URL or the reason.
// Errors: errDeploymentFailed.
func (a *App) waitDeployment(ctx context.Context, c *client, w waiting, service string, version int32, asJSON bool) error {
	ctx, cancel := w.context(ctx)
	defer cancel()
	d := &deploymentWatch{watch: a.watch(c, service, asJSON), version: version}
	if d.terminal && !c.onAWS() {
		d.board = newBoard(d.progress, fmt.Sprintf("Version %d of service %s", version, clean(service)))
		d.redraw = d.board.draw
	}
	err := d.poll(ctx, d.step)
	if d.board != nil {
		d.board.leave()
	}
	if err != nil {
		if isCode(err, "NotFoundException") {
			return fmt.Errorf("service %q was deleted while version %d was being deployed", service, version)
		}
		return waitError(err, "version %d of service %q is still ACTIVATING", version, service)
	}
	if d.state == types.ContainerServiceDeploymentStateFailed {
		return a.explainFailure(ctx, c, d, asJSON)
	}
	warnings := c.warnings(ctx, service, int(version))
	if asJSON {
		answer := map[string]any{"containerService": wire(d.last), "version": version, "state": string(d.state)}
		if len(warnings) > 0 {
			answer["warnings"] = warnings
		}
		return printJSON(a.Out, answer)
	}
	s := d.screen
	fmt.Fprintf(s, "Deployment %d of service %s is %s after %.1f s.\n", version, service, s.state(string(d.state)), time.Since(d.start).Seconds())
	for _, f := range warnings {
		fmt.Fprintf(s, "%s %s %s (%s)\n", s.paint(yellow, "Warning:"), clean(f.Summary), clean(f.Fix), clean(string(f.Code)))
		a.annotate("warning", fmt.Sprintf("Deployment %d of %s: %s", version, service, f.Code), f.Summary+" "+f.Fix)
	}
	if cur := d.last.CurrentDeployment; cur == nil || cur.PublicEndpoint == nil {
		fmt.Fprintln(s, "It has no public endpoint, so its URL answers 404.")
		return nil
	}
	fmt.Fprintln(s, aws.ToString(d.last.Url))
	return nil
}

// deploymentWatch follows one version until it is ACTIVE or FAILED.
type deploymentWatch struct {
	*watch
	version int32
	last    *types.ContainerService
	state   types.ContainerServiceDeploymentState
	board   *board // on a terminal; nil elsewhere
	log     *follower
	said    bool // the line that ends every deployment was shown
}

func (d *deploymentWatch) step(ctx context.Context) (done bool, err error) {
	s, err := d.look(ctx)
	if err != nil {
		return false, err
	}
	d.last = s
	if d.board != nil {
		return d.stepBoard(ctx, s)
	}
	if d.log == nil {
		d.log = d.systemLog(s)
	}
	if d.state, err = d.stateIn(ctx, s); err != nil {
		return false, err
	}
	if d.state == types.ContainerServiceDeploymentStateActivating {
		return false, d.showLog(ctx)
	}
	// The last line is written right after the state. It is worth a moment, but not more: the state is what counts.
	for range 5 {
		if err := d.showLog(ctx); err != nil || d.said || d.log == nil {
			return true, err
		}
		if err := d.pause(ctx, 50*time.Millisecond); err != nil {
			return true, err
		}
	}
	return true, nil
}

// stepBoard brings the board up to date.
func (d *deploymentWatch) stepBoard(ctx context.Context, s *types.ContainerService) (done bool, err error) {
	if d.state, err = d.stateIn(ctx, s); err != nil {
		return false, err
	}
	var pods struct {
		Pods []podInfo `json:"pods"`
	}
	if err := d.call(ctx, "ListPods", map[string]any{"serviceName": d.service}, &pods); err != nil {
		return false, err
	}
	message := ""
	if s.StateDetail != nil {
		message = aws.ToString(s.StateDetail.Message)
	}
	serves := d.state == types.ContainerServiceDeploymentStateActive
	at, note := stagesOf(int(d.version), serves, int(aws.ToInt32(s.Scale)), message, pods.Pods)
	if d.state == types.ContainerServiceDeploymentStateFailed {
		d.board.fail()
	} else {
		d.board.reach(at, note)
	}
	d.board.draw()
	return d.state != types.ContainerServiceDeploymentStateActivating, nil
}

// stateIn is the version's state; the list of deployments is only asked for when the service does not tell.
func (d *deploymentWatch) stateIn(ctx context.Context, s *types.ContainerService) (types.ContainerServiceDeploymentState, error) {
	for _, dep := range []*types.ContainerServiceDeployment{s.NextDeployment, s.CurrentDeployment} {
		if dep != nil && aws.ToInt32(dep.Version) == d.version {
			return dep.State, nil
		}
	}
	if s.State == types.ContainerServiceStatePending { // the first deployment begins after the service is provisioned
		return types.ContainerServiceDeploymentStateActivating, nil
	}
	out, err := d.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &d.service})
	if err != nil {
		return "", err
	}
	for _, dep := range out.Deployments {
		if aws.ToInt32(dep.Version) == d.version {
			return dep.State, nil
		}
	}
	return "", fmt.Errorf("service %q has no version %d", d.service, d.version)
}

// systemLog follows the lines that the service itself writes about the deployment. It writes them into the log of each
// container, so one is enough. Nil while no container is known.
func (d *deploymentWatch) systemLog(s *types.ContainerService) *follower {
	dep := s.NextDeployment
	if dep == nil {
		dep = s.CurrentDeployment
	}
	if dep == nil || aws.ToInt32(dep.Version) != d.version || len(dep.Containers) == 0 {
		return nil
	}
	return &follower{
		client: d.client,
		// The filter spares the server to send what the app writes.
		logQuery: logQuery{service: d.service, container: containerNames(dep)[0], filter: "deployment"},
		from:     aws.ToTime(dep.CreatedAt),
	}
}

func (d *deploymentWatch) showLog(ctx context.Context) error {
	if d.log == nil {
		return nil
	}
	mine := fmt.Sprintf("[deployment:%d] ", d.version)
	err := d.log.next(ctx, func(e event) {
		text, ok := strings.CutPrefix(e.message, mine)
		if ok {
			d.line(plain, e.message)
			d.said = d.said || text == "Canceled" || text == "Reached a steady state"
		}
	})
	if isCode(err, "NotFoundException") || isCode(err, "InvalidInputException") {
		return nil // there is no log yet; the deployment is what matters
	}
	return err
}

// explainFailure prints why the deployment failed. It always returns an error.
func (a *App) explainFailure(ctx context.Context, c *client, d *deploymentWatch, asJSON bool) error {
	diagnosis, err := c.diagnosis(ctx, d.service, int(d.version))
	title := fmt.Sprintf("Deployment %d of service %s FAILED", d.version, d.service)
	if err == nil {
		a.annotate("error", fmt.Sprintf("%s (%s)", title, diagnosis.Code), diagnosis.Summary+" "+diagnosis.Fix)
	} else {
		a.annotate("error", title, "See: trysail logs "+d.service)
	}
	if asJSON {
		answer := map[string]any{"containerService": wire(d.last), "version": d.version, "state": string(d.state)}
		if err == nil {
			answer["diagnosis"] = diagnosis
		}
		return errors.Join(printJSON(a.Out, answer), errDeploymentFailed)
	}
	if err != nil {
		// Without a diagnosis (on AWS, say) the log is where to look.
		text, _ := describe(err)
		fmt.Fprintf(a.Out, "Deployment %d of service %s FAILED. The reason is not known (%s); look at: trysail logs %s\n", d.version, d.service, text, d.service)
		return errDeploymentFailed
	}
	s := a.screen(a.Out)
	fmt.Fprintf(s, "Deployment %d of service %s is %s.\n\n", d.version, d.service, s.state("FAILED"))
	printDiagnosis(s, diagnosis)
	c.showHeld(ctx, s, d)
	if cur := d.last.CurrentDeployment; cur != nil {
		fmt.Fprintf(s, "\nVersion %d goes on serving.\n", aws.ToInt32(cur.Version))
	}
	return errDeploymentFailed
}

// showHeld names the pods that are kept for a look.
func (c *client) showHeld(ctx context.Context, s screen, d *deploymentWatch) {
	var out struct {
		Pods []podInfo `json:"pods"`
	}
	in := map[string]any{"serviceName": d.service, "version": d.version, "ended": true}
	if err := c.call(ctx, "ListPods", in, &out); err != nil {
		return
	}
	for _, p := range out.Pods {
		if p.HoldUntil > 0 && p.EndedAt == 0 {
			fmt.Fprintf(s, "\nPod %s is kept until %s, out of rotation.\n", clean(p.ID), unixTime(p.HoldUntil).Format("15:04:05"))
		}
	}
}

// warnings are what there is to say about a version that works. A server that cannot tell has none.
func (c *client) warnings(ctx context.Context, service string, version int) []trysail.Finding {
	if c.onAWS() {
		return nil
	}
	d, err := c.diagnosis(ctx, service, version)
	if err != nil {
		return nil
	}
	return d.Warnings
}

// diagnosis asks why a version failed; version 0 stands for the newest that did.
func (c *client) diagnosis(ctx context.Context, service string, version int) (*trysail.Diagnosis, error) {
	in := map[string]any{"serviceName": service}
	if version > 0 {
		in["version"] = version
	}
	var out struct {
		Diagnosis *trysail.Diagnosis `json:"diagnosis"`
	}
	if err := c.call(ctx, "GetDeploymentDiagnosis", in, &out); err != nil {
		return nil, err
	}
	if out.Diagnosis == nil {
		return nil, errors.New("there is no diagnosis")
	}
	return out.Diagnosis, nil
}
