package console

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// createView is the form of a new service.
type createView struct {
	Name, Power, Scale string
	Powers             []trysail.PowerSpec
	Problem            string
}

func createPage(view createView, status int) *page {
	view.Powers = trysail.Powers()
	return &page{Template: "create", Title: "Create service", Section: "services", Status: status, D: view}
}

func (c *Console) showCreate(v *visit) (*page, error) {
	if err := v.caller.May(trysail.RoleAdmin, "CreateContainerService", ""); err != nil {
		return nil, err
	}
	return createPage(createView{Power: string(trysail.PowerNano), Scale: "1"}, 0), nil
}

// create makes a service and leads to its first deployment.
func (c *Console) create(v *visit) (*page, error) {
	view := createView{Name: strings.TrimSpace(v.PostFormValue("name")), Power: v.PostFormValue("power"), Scale: strings.TrimSpace(v.PostFormValue("scale"))}
	scale, err := scaleOf(view.Scale)
	if err == nil {
		_, err = c.control.CreateContainerService(v.Context(), v.caller, control.CreateContainerServiceInput{ServiceName: view.Name, Power: view.Power, Scale: scale})
	}
	if err == nil {
		return v.redirect(serviceURL(view.Name), fmt.Sprintf("Service %s is being created. Deploy to it as soon as it is ready.", view.Name))
	}
	if statusOf(err) == http.StatusInternalServerError {
		return nil, err
	}
	view.Problem = textOf(err)
	return createPage(view, statusOf(err)), nil
}

func scaleOf(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, trysail.Errorf(trysail.CodeInvalid, "The scale must be a number.")
	}
	return n, nil
}

// manageView is the settings of a service.
type manageView struct {
	S        *trysail.Service
	Powers   []trysail.PowerSpec
	Settings trysail.ServiceSettings
	Choices  []domainChoice
	Edge     *edgeForm
}

// domainChoice is a domain of a certificate that can lead to the service.
type domainChoice struct {
	Certificate, Domain string
	Status              trysail.CertificateStatus
	On                  bool
	Elsewhere           string // the other service that it leads to
}

// showManage is the settings of a service.
func (c *Console) showManage(v *visit) (*page, error) { return c.managePage(v, nil) }

// managePage is the settings of a service, with rules of the edge as they were typed; nil: as they are.
func (c *Console) managePage(v *visit, typed *edgeForm) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	view := manageView{S: s, Powers: trysail.Powers()}
	if view.Settings, err = c.control.GetServiceSettings(v.Context(), v.caller, s.Name); err != nil {
		return nil, err
	}
	if view.Choices, err = c.domainChoices(v, s); err != nil {
		return nil, err
	}
	status := http.StatusOK
	if view.Edge = typed; typed == nil {
		view.Edge = newEdgeForm(&view.Settings.EdgeRules)
	} else if typed.Problem != "" {
		status = http.StatusBadRequest
	}
	return c.servicePage(s, &page{Template: "manage", Title: "Settings", Tab: "settings", Status: status, D: view}), nil
}

// domainChoices are the domains that the caller may know of.
func (c *Console) domainChoices(v *visit, s *trysail.Service) (list []domainChoice, err error) {
	elsewhere := map[string]string{}
	all, err := c.control.GetContainerServices(v.Context(), v.caller, "")
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		for _, names := range other.PublicDomains {
			for _, name := range names {
				if other.Name != s.Name {
					elsewhere[name] = other.Name
				}
			}
		}
	}
	certificates, err := c.allCertificates(v)
	if trysail.ErrorCode(err) == trysail.CodeAccessDenied {
		certificates, err = nil, nil
	}
	for _, cert := range certificates {
		for _, d := range cert.Domains {
			list = append(list, domainChoice{
				Certificate: cert.Name, Domain: d.Domain, Status: cert.Status(v.now()), On: slices.Contains(s.PublicDomains[cert.Name], d.Domain), Elsewhere: elsewhere[d.Domain],
			})
		}
	}
	slices.SortFunc(list, func(a, b domainChoice) int {
		return cmp.Or(cmp.Compare(a.Certificate, b.Certificate), cmp.Compare(a.Domain, b.Domain))
	})
	return list, err
}

// update changes one of a service's settings: each form of the page has its own button.
func (c *Console) update(v *visit) (*page, error) {
	back := serviceURL(v.service(), "settings")
	in := control.UpdateContainerServiceInput{ServiceName: v.service()}
	said := "The service is being updated."
	switch v.PostFormValue("do") {
	case "capacity":
		power := v.PostFormValue("power")
		scale, err := scaleOf(strings.TrimSpace(v.PostFormValue("scale")))
		if err != nil {
			return v.outcome(back, err, "")
		}
		in.Power, in.Scale = &power, &scale
	case "disable", "enable":
		disabled := v.PostFormValue("do") == "disable"
		in.IsDisabled = &disabled
		said = "The service is being enabled."
		if disabled {
			said = "The service is being disabled."
		}
	case "domains":
		in.PublicDomainNames = domainsOf(v.PostForm["offered"], v.PostForm["domain"])
		said = "The domains of the service are set."
	default:
		return nil, trysail.Errorf(trysail.CodeInvalid, "The form does not say what to do.")
	}
	_, err := c.control.UpdateContainerService(v.Context(), v.caller, in)
	return v.outcome(back, err, said)
}

// domainsOf is the chosen ones of what was offered, as certificate|domain; a certificate of which none is chosen has an
// empty list, which takes its domains away.
func domainsOf(offered, chosen []string) map[string][]string {
	m := map[string][]string{}
	for _, one := range offered {
		if cert, _, ok := strings.Cut(one, "|"); ok && m[cert] == nil {
			m[cert] = []string{}
		}
	}
	for _, one := range chosen {
		if cert, domain, ok := strings.Cut(one, "|"); ok {
			m[cert] = append(m[cert], domain)
		}
	}
	return m
}

// setAccessLog says which requests are logged.
func (c *Console) setAccessLog(v *visit) (*page, error) {
	requests, checks := v.PostFormValue("requests") != "", v.PostFormValue("checks") != ""
	_, err := c.control.PutServiceSettings(v.Context(), v.caller, control.PutServiceSettingsInput{ServiceName: v.service(), AccessLog: &requests, AccessLogHealthChecks: &checks})
	return v.outcome(serviceURL(v.service(), "settings"), err, "The access log is set.")
}

// deleteService deletes a service whose name was typed.
func (c *Console) deleteService(v *visit) (*page, error) {
	if strings.TrimSpace(v.PostFormValue("name")) != v.service() {
		return v.outcome(serviceURL(v.service(), "settings"), trysail.Errorf(trysail.CodeInvalid, "Nothing was deleted: type the name %q to delete the service.", v.service()), "")
	}
	if err := c.control.DeleteContainerService(v.Context(), v.caller, v.service()); err != nil {
		return v.outcome(serviceURL(v.service(), "settings"), err, "")
	}
	return v.redirect(Root, fmt.Sprintf("Service %s is being deleted.", v.service()))
}
