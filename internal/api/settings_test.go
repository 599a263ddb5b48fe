package api

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func TestPutServiceSettings_EdgeRules(t *testing.T) {
	var got control.PutServiceSettingsInput
	server := newServer(t, &fake{putSettings: func(in control.PutServiceSettingsInput) (trysail.ServiceSettings, error) {
		got = in
		return trysail.ServiceSettings{EdgeRules: trysail.EdgeRules{MaxBody: 5 << 30, AllowClients: []string{"192.0.2.0/24"}, ErrorPages: map[string]string{"503": "p"}}}, nil
	}})
	answer := do(t, server, trysailPrefix+"PutServiceSettings", `{"serviceName":"web","settings":{"hstsMaxAgeSeconds":1,"hstsIncludeSubdomains":true,"hstsPreload":false,
		"allowClients":["192.0.2.0/24"],"denyClients":[],"maxBodyBytes":5368709120,"requestsPerMinute":2,"requestBurst":3,"maxRequestsAtOnce":4,
		"maxRequestsAtOncePerClient":5,"errorPages":{"503":"p","502":""}}}`)
	if want := `{"settings":{"accessLog":false,"accessLogHealthChecks":false,"allowClients":["192.0.2.0/24"],"maxBodyBytes":5368709120,"errorPages":{"503":"p"}}}`; answer.status != http.StatusOK || answer.body != want {
		t.Errorf("%d %s, want %s", answer.status, answer.body, want)
	}
	want := control.PutServiceSettingsInput{ServiceName: "web", EdgeRulesInput: control.EdgeRulesInput{
		HSTSMaxAge: new(1), HSTSIncludeSubdomains: new(true), HSTSPreload: new(false), AllowClients: []string{"192.0.2.0/24"}, DenyClients: []string{},
		MaxBody: new(int64(5 << 30)), RequestsPerMinute: new(2), RequestBurst: new(3), MaxRequestsAtOnce: new(4), MaxRequestsAtOncePerClient: new(5),
		ErrorPages: map[string]string{"503": "p", "502": ""},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for body, text := range map[string]string{
		`{"maxBodyBytes":1.5}`:             `Member "settings.maxBodyBytes" must be an integer of 64 bits, not 1.5.`,
		`{"maxBodyBytes":"10MB"}`:          `Member "settings.maxBodyBytes" must be an integer, not a string.`,
		`{"allowClients":"192.0.2.1"}`:     `Member "settings.allowClients" must be a list, not a string.`,
		`{"errorPages":{"503":[]}}`:        `Member "settings.errorPages.503" must be a string, not a list.`,
		`{"requestsPerMinute":9999999999}`: `Member "settings.requestsPerMinute" must be an integer of 32 bits, not 9999999999.`,
	} {
		wantException(t, do(t, server, trysailPrefix+"PutServiceSettings", `{"serviceName":"web","settings":`+body+`}`), 400, "SerializationException", text)
	}
}
