package console

import (
	"net/url"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// auditView is a page of the audit trail.
type auditView struct {
	Events            []control.AuditEvent
	Service, From, To string
	Next              string // address of the next page
	Problem           string
}

// showAudit lists who changed what.
func (c *Console) showAudit(v *visit) (*page, error) {
	values := v.URL.Query()
	view := auditView{Service: strings.TrimSpace(values.Get("service")), From: strings.TrimSpace(values.Get("from")), To: strings.TrimSpace(values.Get("to"))}
	p := &page{Template: "audit", Title: "Audit trail", Section: "audit"}
	in := control.GetAuditTrailInput{ServiceName: view.Service, PageToken: values.Get("page")}
	var err error
	for text, to := range map[string]**time.Time{view.From: &in.StartTime, view.To: &in.EndTime} {
		if text == "" || err != nil {
			continue
		}
		var t time.Time
		t, err = parseTime(text)
		*to = &t
	}
	if err == nil {
		var found *control.AuditPage
		if found, err = c.control.GetAuditTrail(v.Context(), v.caller, in); err == nil {
			view.Events = found.Events
			if found.NextPageToken != "" {
				view.Next = Root + "audit?" + url.Values{"service": {view.Service}, "from": {view.From}, "to": {view.To}, "page": {found.NextPageToken}}.Encode()
			}
		}
	}
	if err != nil {
		if trysail.ErrorCode(err) != trysail.CodeInvalid {
			return nil, err
		}
		view.Problem, p.Status = textOf(err), statusOf(err)
	}
	p.D = view
	return p, nil
}
