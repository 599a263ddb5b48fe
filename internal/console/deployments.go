package console

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/diagnose"
)

// deploymentsView is the list of versions.
type deploymentsView struct {
	Rows []deploymentRow
	Busy bool // a deployment is under way
}

// deploymentRow is a version in the list.
type deploymentRow struct {
	trysail.Deployment
	Images []string
	Why    string // of a failed one
	Code   trysail.DiagnosisCode
}

// showDeployments lists the kept versions, and lets two be chosen for a comparison.
func (c *Console) showDeployments(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	view := deploymentsView{Busy: s.Next != nil}
	for i := range all {
		row := deploymentRow{Deployment: all[i]}
		for _, name := range all[i].ContainerNames() {
			row.Images = append(row.Images, all[i].Containers[name].Image)
		}
		if all[i].State == trysail.DeploymentFailed {
			found, err := c.control.GetDeploymentDiagnosis(v.Context(), v.caller, s.Name, all[i].Version)
			if err != nil && !gone(err) {
				return nil, err
			}
			if err == nil {
				row.Why, row.Code = found.Summary, found.Code
			}
		}
		view.Rows = append(view.Rows, row)
	}
	return c.servicePage(s, &page{Template: "deployments", Title: "Deployments", Tab: "deployments", D: view}), nil
}

// deploymentView is one version.
type deploymentView struct {
	R          *control.DeploymentRecord
	Containers []containerView
	Pods       []podRow
	Lines      []control.LogEvent
	Previous   int // the version before; 0 if it is not kept
	Busy       bool
}

// containerView is a container with what may be shown of it.
type containerView struct {
	Name string
	trysail.Container
	Digest      string
	Environment []variableView
}

// variableView is a variable of the environment. The value of one whose name sounds like a secret is hidden.
type variableView struct {
	Name, Value string
	Hidden      bool
}

func (v *visit) version() (int, error) {
	n, err := strconv.Atoi(v.PathValue("version"))
	if err != nil || n < 1 {
		return 0, trysail.Errorf(trysail.CodeNotFound, "Deployment %q of service %q not found.", v.PathValue("version"), v.service())
	}
	return n, nil
}

// showDeployment shows a version, and why it failed.
func (c *Console) showDeployment(v *visit) (*page, error) {
	version, err := v.version()
	if err != nil {
		return nil, err
	}
	r, err := c.control.GetDeploymentRecord(v.Context(), v.caller, v.service(), version)
	if err != nil {
		return nil, err
	}
	view := deploymentView{R: r, Containers: containersOf(&r.Deployment), Busy: r.Service.Next != nil}
	for _, p := range slices.Backward(r.Pods) {
		view.Pods = append(view.Pods, podRow{p, podState(&p)})
	}
	if view.Lines, err = c.systemLines(v, r.Service.Name, &r.Deployment); err != nil {
		return nil, err
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, r.Service.Name)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Version < version {
			view.Previous = max(view.Previous, d.Version)
		}
	}
	p := &page{Template: "deployment", Title: fmt.Sprintf("Version %d", version), Tab: "deployments", D: view}
	p.Live = r.Deployment.State == trysail.DeploymentActivating
	return c.servicePage(&r.Service, p), nil
}

func containersOf(d *trysail.Deployment) (list []containerView) {
	hidden := trysail.NewMasker(d)
	for _, name := range d.ContainerNames() {
		one := d.Containers[name]
		c := containerView{Name: name, Container: one, Digest: d.Digests[one.Image]}
		for _, key := range slices.Sorted(maps.Keys(one.Environment)) {
			value := variableView{Name: key, Value: one.Environment[key]}
			if value.Hidden = hidden.IsSecret(value.Value); value.Hidden {
				value.Value = ""
			} else {
				value.Value = hidden.Text(value.Value)
				if value.Value == "$"+key {
					value.Value = one.Environment[key]
				}
			}
			c.Environment = append(c.Environment, value)
		}
		list = append(list, c)
	}
	return list
}

// diffView is the comparison of two versions.
type diffView struct {
	From, To int
	Versions []int
	Changes  []trysail.Difference
}

// showDiff compares two versions; values of the environment are not shown.
func (c *Console) showDiff(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	var view diffView
	byVersion := map[int]*trysail.Deployment{}
	for i := range all {
		byVersion[all[i].Version] = &all[i]
		view.Versions = append(view.Versions, all[i].Version)
	}
	chosen := func(name string, usual int) (int, error) {
		text := v.URL.Query().Get(name)
		if text == "" && usual < len(view.Versions) {
			return view.Versions[usual], nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || byVersion[n] == nil {
			return 0, trysail.Errorf(trysail.CodeNotFound, "Deployment %q of service %q not found.", text, s.Name)
		}
		return n, nil
	}
	if view.From, err = chosen("from", 1); err != nil {
		return nil, err
	}
	if view.To, err = chosen("to", 0); err != nil {
		return nil, err
	}
	view.Changes = diagnose.Diff(byVersion[view.From], byVersion[view.To])
	return c.servicePage(s, &page{Template: "diff", Title: fmt.Sprintf("Version %d and %d", view.From, view.To), Tab: "deployments", D: view}), nil
}

// redeploy makes a new version that runs what an old one ran.
func (c *Console) redeploy(v *visit) (*page, error) {
	version, err := v.version()
	if err != nil {
		return nil, err
	}
	r, err := c.control.GetDeploymentRecord(v.Context(), v.caller, v.service(), version)
	if err != nil {
		return nil, err
	}
	var after *trysail.Service
	if r.Deployment.Containers, err = c.control.Again(v.Context(), r); err == nil {
		after, err = c.control.CreateContainerServiceDeployment(v.Context(), v.caller, v.service(), inputOf(&r.Deployment))
	}
	if err != nil {
		return v.outcome(serviceURL(v.service(), "deployments", version), err, "")
	}
	return v.redirect(serviceURL(v.service()), fmt.Sprintf("Version %d is being deployed: it is version %d again.", nextVersion(after), version))
}

func nextVersion(s *trysail.Service) int {
	if s.Next == nil {
		return 0
	}
	return s.Next.Version
}

// inputOf is the request that makes the deployment again.
func inputOf(d *trysail.Deployment) control.DeploymentInput {
	in := control.DeploymentInput{Containers: d.Containers}
	if ep := d.PublicEndpoint; ep != nil {
		h := ep.HealthCheck
		in.PublicEndpoint = &control.EndpointInput{ContainerName: ep.ContainerName, ContainerPort: ep.ContainerPort, HealthCheck: &control.HealthCheckInput{
			HealthyThreshold: &h.HealthyThreshold, UnhealthyThreshold: &h.UnhealthyThreshold, TimeoutSeconds: &h.TimeoutSeconds,
			IntervalSeconds: &h.IntervalSeconds, Path: &h.Path, SuccessCodes: &h.SuccessCodes,
		}}
	}
	return in
}

// cancel gives up the deployment that is under way.
func (c *Console) cancel(v *visit) (*page, error) {
	err := c.control.CancelDeployment(v.Context(), v.caller, v.service())
	return v.outcome(serviceURL(v.service()), err, "The deployment is being canceled.")
}
