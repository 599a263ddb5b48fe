package console

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// edgeForm is the rules of the edge for a service while they are being written: all as text, so that nothing that was typed
// is lost.
type edgeForm struct {
	MaxBody, Rate, HSTS       unitForm
	Burst, AtOnce, PerClient  string
	Allow, Deny               string // a network on each line
	HSTSSubdomains, HSTSReady bool
	Pages                     []errorPageForm
	Problem                   string
}

// unitForm is a number and what it counts.
type unitForm struct {
	Number, Unit string
	Units        []unit
}

// unit is one of what a number can count: bytes, seconds, requests in a minute.
type unit struct {
	Name string
	Size int64
}

// errorPageForm is the page for a status of the edge's own.
type errorPageForm struct{ Status, Meaning, Page string }

func bodyUnits() []unit { return []unit{{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"bytes", 1}} }
func hstsUnits() []unit { return []unit{{"days", 24 * 3600}, {"hours", 3600}, {"seconds", 1}} }
func rateUnits() []unit { return []unit{{"a second", 60}, {"a minute", 1}} }

// newUnitForm shows a number in the largest unit that it is a multiple of; 0 is shown as nothing, in the usual unit.
func newUnitForm(n int64, units []unit, usual string) unitForm {
	f := unitForm{Unit: usual, Units: units}
	if n == 0 {
		return f
	}
	for _, u := range units {
		if n%u.Size == 0 {
			f.Number, f.Unit = strconv.FormatInt(n/u.Size, 10), u.Name
			break
		}
	}
	return f
}

// value is what the form says; nothing is 0. Errors: Invalid.
func (f *unitForm) value(what string) (int64, error) {
	if f.Number == "" {
		return 0, nil
	}
	i := slices.IndexFunc(f.Units, func(u unit) bool { return u.Name == f.Unit })
	n, err := strconv.ParseInt(f.Number, 10, 64)
	if err != nil || n < 0 || i < 0 || n > math.MaxInt64/f.Units[i].Size {
		return 0, trysail.Errorf(trysail.CodeInvalid, "%s must be a number, or empty for no limit.", what)
	}
	return n * f.Units[i].Size, nil
}

// newEdgeForm is the form of rules.
func newEdgeForm(r *trysail.EdgeRules) *edgeForm {
	f := &edgeForm{
		MaxBody: newUnitForm(r.MaxBody, bodyUnits(), "MB"), Rate: newUnitForm(int64(r.RequestsPerMinute), rateUnits(), "a second"),
		HSTS:  newUnitForm(int64(r.HSTSMaxAge), hstsUnits(), "days"),
		Burst: countText(r.RequestBurst), AtOnce: countText(r.MaxRequestsAtOnce), PerClient: countText(r.MaxRequestsAtOncePerClient),
		Allow: strings.Join(r.AllowClients, "\n"), Deny: strings.Join(r.DenyClients, "\n"),
		HSTSSubdomains: r.HSTSIncludeSubdomains, HSTSReady: r.HSTSPreload,
	}
	for _, status := range trysail.ErrorPageStatuses() {
		n, _ := strconv.Atoi(status) // they all are numbers
		f.Pages = append(f.Pages, errorPageForm{status, http.StatusText(n), r.ErrorPages[status]})
	}
	return f
}

// countText is a number as it is typed; 0 is nothing.
func countText(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// Own is how many error pages the service has of its own.
func (f *edgeForm) Own() (n int) {
	for _, p := range f.Pages {
		if p.Page != "" {
			n++
		}
	}
	return n
}

// readEdgeForm takes what was typed.
func readEdgeForm(get func(string) string) *edgeForm {
	typed := func(name string) string { return strings.TrimSpace(get(name)) }
	pair := func(name string, units []unit) unitForm { return unitForm{typed(name), get(name + "-unit"), units} }
	f := &edgeForm{
		MaxBody: pair("max-body", bodyUnits()), Rate: pair("rate", rateUnits()), HSTS: pair("hsts", hstsUnits()),
		Burst: typed("burst"), AtOnce: typed("at-once"), PerClient: typed("per-client"),
		Allow: plainLines(get("allow")), Deny: plainLines(get("deny")),
		HSTSSubdomains: get("hsts-subdomains") != "", HSTSReady: get("hsts-preload") != "",
	}
	for _, p := range newEdgeForm(&trysail.EdgeRules{}).Pages {
		p.Page = plainLines(get("page-" + p.Status))
		f.Pages = append(f.Pages, p)
	}
	return f
}

// plainLines undoes what browsers make of the ends of lines.
func plainLines(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

// input is the change that sets all rules as the form has them. Errors: Invalid.
func (f *edgeForm) input() (in control.EdgeRulesInput, err error) {
	var body, rate, age int64
	for _, n := range []struct {
		what string
		from *unitForm
		to   *int64
	}{{"The largest body", &f.MaxBody, &body}, {"The rate", &f.Rate, &rate}, {"The time of HTTPS only", &f.HSTS, &age}} {
		if *n.to, err = n.from.value(n.what); err != nil {
			return in, err
		}
	}
	if rate > trysail.MaxRequestsPerMinute || age > trysail.MaxHSTSAge {
		// The same text as control's, before the numbers are made smaller than they are.
		return in, trysail.Errorf(trysail.CodeInvalid, "A rate can be up to %d requests a minute, and HTTPS only up to %d days.", trysail.MaxRequestsPerMinute, trysail.MaxHSTSAge/86400)
	}
	in.MaxBody, in.RequestsPerMinute, in.HSTSMaxAge = &body, new(int(rate)), new(int(age))
	in.HSTSIncludeSubdomains, in.HSTSPreload = &f.HSTSSubdomains, &f.HSTSReady
	for _, n := range []struct {
		what, text string
		to         **int
	}{
		{"The burst", f.Burst, &in.RequestBurst},
		{"The number of requests at once", f.AtOnce, &in.MaxRequestsAtOnce},
		{"The number of requests at once of a client", f.PerClient, &in.MaxRequestsAtOncePerClient},
	} {
		if *n.to, err = number(n.what, n.text); err != nil {
			return in, err
		}
		if *n.to == nil {
			*n.to = new(0)
		}
	}
	in.AllowClients, in.DenyClients = networksOf(f.Allow), networksOf(f.Deny)
	in.ErrorPages = map[string]string{}
	for _, p := range f.Pages {
		in.ErrorPages[p.Status] = p.Page
		if strings.TrimSpace(p.Page) == "" {
			in.ErrorPages[p.Status] = "" // takes it away
		}
	}
	return in, nil
}

// networksOf are the networks of a list; never nil, so that an empty list takes away what was there.
func networksOf(text string) []string {
	list := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,\t\r\n", r) })
	return append([]string{}, list...)
}

// setEdgeRules sets the rules of the edge for a service.
func (c *Console) setEdgeRules(v *visit) (*page, error) {
	f := readEdgeForm(v.PostFormValue)
	rules, err := f.input()
	if err == nil {
		_, err = c.control.PutServiceSettings(v.Context(), v.caller, control.PutServiceSettingsInput{ServiceName: v.service(), EdgeRulesInput: rules})
	}
	if err == nil {
		return v.redirect(fmt.Sprintf("%s#edge", serviceURL(v.service(), "settings")), "The rules for requests are set.")
	}
	if trysail.ErrorCode(err) != trysail.CodeInvalid {
		return v.outcome(serviceURL(v.service(), "settings"), err, "")
	}
	f.Problem = textOf(err)
	return c.managePage(v, f)
}
