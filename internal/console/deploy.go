package console

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// showDeploy is the form for a new version. It begins with the version that from names, or else with the one that serves.
func (c *Console) showDeploy(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	begin := s.Current
	if text := v.URL.Query().Get("from"); text != "" {
		version, err := strconv.Atoi(text)
		if err != nil || version < 1 {
			return nil, trysail.Errorf(trysail.CodeNotFound, "Deployment %q of service %q not found.", text, s.Name)
		}
		r, err := c.control.GetDeploymentRecord(v.Context(), v.caller, s.Name, version)
		if err != nil {
			return nil, err
		}
		begin = &r.Deployment
	}
	return c.deployPage(s, newForm(begin), 0), nil
}

func (c *Console) deployPage(s *trysail.Service, f *deployForm, status int) *page {
	return c.servicePage(s, &page{Template: "deploy", Title: "Deploy", Tab: "deployments", Status: status, D: f.complete(s.Name)})
}

// deploy takes the form: a row more or less, a check, or the deployment itself.
func (c *Console) deploy(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	f := readDeployForm(v.PostForm)
	do := v.PostFormValue("do")
	if f.change(do) {
		return c.deployPage(s, f, 0), nil
	}
	if do != "deploy" {
		if f.Check, err = c.checkForm(v, s.Name, f); err != nil {
			return nil, err
		}
		return c.deployPage(s, f, 0), nil
	}
	if f.From > 0 {
		r, err := c.control.GetDeploymentRecord(v.Context(), v.caller, s.Name, f.From)
		if err == nil {
			f.restore(&r.Deployment)
		} else if !gone(err) {
			return nil, err
		}
	}
	in, err := f.input()
	if err == nil {
		if s, err = c.control.CreateContainerServiceDeployment(v.Context(), v.caller, v.service(), in); err == nil {
			return v.redirect(serviceURL(v.service()), fmt.Sprintf("Version %d is being deployed.", nextVersion(s)))
		}
		if s, _ = c.serviceOf(v); s == nil {
			return nil, err
		}
	}
	if statusOf(err) == http.StatusInternalServerError {
		return nil, err
	}
	f.Problem = textOf(err)
	return c.deployPage(s, f, statusOf(err)), nil
}

// check says what is wrong with what was typed so far, for a form that is being filled in.
func (c *Console) check(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	f := readDeployForm(v.PostForm)
	if f.Check, err = c.checkForm(v, s.Name, f); err != nil {
		return nil, err
	}
	p := c.deployPage(s, f, 0)
	p.Fragment = "checkresult"
	return p, nil
}

// checkForm checks a deployment without making it.
func (c *Console) checkForm(v *visit, service string, f *deployForm) (*control.Check, error) {
	in, err := f.input()
	if err != nil {
		return &control.Check{Problems: []string{textOf(err)}}, nil // it is what the check says
	}
	return c.control.CheckDeployment(v.Context(), v.caller, control.CheckDeploymentInput{ServiceName: service, Deployment: in})
}
