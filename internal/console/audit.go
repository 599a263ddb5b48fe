package console

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// auditView is a page of the audit trail.
type auditView struct {
	Events                          []trysail.AuditEvent
	Service, Key, Outcome, From, To string
	Outcomes                        []trysail.AuditOutcome
	Filtered                        bool
	Next                            string // address of the next page
	Problem                         string
}

// showAudit lists who changed what, and who tried to.
func (c *Console) showAudit(v *visit) (*page, error) {
	values := v.URL.Query()
	typed := func(name string) string { return strings.TrimSpace(values.Get(name)) }
	view := auditView{
		Service: typed("service"), Key: typed("key"), Outcome: typed("outcome"), From: typed("from"), To: typed("to"), Outcomes: trysail.AuditOutcomes(),
	}
	view.Filtered = view.Service+view.Key+view.Outcome+view.From+view.To != ""
	p := &page{Template: "audit", Title: "Audit trail", Section: "audit"}
	found, err := c.auditPage(v, &view, values.Get("page"))
	if err != nil {
		if trysail.ErrorCode(err) != trysail.CodeInvalid {
			return nil, err
		}
		view.Problem, p.Status = textOf(err), statusOf(err)
	} else {
		view.Events = found.Events
		if found.NextPageToken != "" {
			next := url.Values{"page": {found.NextPageToken}}
			for name, text := range map[string]string{"service": view.Service, "key": view.Key, "outcome": view.Outcome, "from": view.From, "to": view.To} {
				if text != "" {
					next.Set(name, text)
				}
			}
			view.Next = Root + "audit?" + next.Encode()
		}
	}
	p.D = view
	return p, nil
}

func (c *Console) auditPage(v *visit, view *auditView, token string) (*control.AuditPage, error) {
	in := control.GetAuditTrailInput{ServiceName: view.Service, Key: view.Key, Outcome: trysail.AuditOutcome(view.Outcome), PageToken: token}
	for _, bound := range []struct {
		text string
		to   **time.Time
	}{{view.From, &in.StartTime}, {view.To, &in.EndTime}} {
		if bound.text == "" {
			continue
		}
		t, err := parseTime(bound.text)
		if err != nil {
			return nil, err
		}
		*bound.to = &t
	}
	return c.control.GetAuditTrail(v.Context(), v.caller, in)
}

// detailRow is one of the details of an event.
type detailRow struct{ Name, Text string }

// detailRows are the details of an event that have a text, without the message, in the order of their names.
func detailRows(details map[string]string) (list []detailRow) {
	for _, name := range slices.Sorted(maps.Keys(details)) {
		if name != "message" && name != "missed" && details[name] != "" {
			list = append(list, detailRow{name, details[name]})
		}
	}
	return list
}

// missedText says of how many failures before an event there is none.
func missedText(details map[string]string) string {
	if details["missed"] == "" {
		return ""
	}
	return fmt.Sprintf("%s more failures before it were not recorded", details["missed"])
}
