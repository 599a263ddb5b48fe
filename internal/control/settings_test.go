package control_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/store"
)

func TestServiceSettings_ChangeOnlyWhatIsGiven(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	before := b.service()
	put := func(in control.PutServiceSettingsInput) trysail.ServiceSettings {
		t.Helper()
		in.ServiceName = "web"
		got, err := b.PutServiceSettings(t.Context(), caller, in)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := b.GetServiceSettings(t.Context(), caller, "web"); err != nil || !cmp.Equal(again, got) {
			t.Errorf("GetServiceSettings: %+v, %v, want %+v", again, err, got)
		}
		return got
	}
	if got := put(control.PutServiceSettingsInput{AccessLog: new(true)}); !cmp.Equal(got, trysail.ServiceSettings{AccessLog: true}) {
		t.Errorf("settings %+v", got)
	}
	if got := put(control.PutServiceSettingsInput{AccessLogHealthChecks: new(true)}); !cmp.Equal(got, trysail.ServiceSettings{AccessLog: true, AccessLogHealthChecks: true}) {
		t.Errorf("settings %+v", got)
	}
	// What others write of the service leaves them alone, and the other way round.
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		s.Scale = 3
		return tx.UpdateService(s)
	})
	if got := put(control.PutServiceSettingsInput{AccessLog: new(false)}); !cmp.Equal(got, trysail.ServiceSettings{AccessLogHealthChecks: true}) {
		t.Errorf("settings %+v", got)
	}
	if after := b.service(); after.State != before.State || after.Scale != 3 || !cmp.Equal(after.Settings, trysail.ServiceSettings{AccessLogHealthChecks: true}) {
		t.Errorf("service %+v", after)
	}
}

func TestServiceSettings_EdgeRules(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	put := func(in control.EdgeRulesInput, want trysail.EdgeRules) {
		t.Helper()
		got, err := b.PutServiceSettings(t.Context(), caller, control.PutServiceSettingsInput{ServiceName: "web", EdgeRulesInput: in})
		if err != nil {
			t.Fatal(err)
		}
		stored := b.service().Settings.EdgeRules
		if d := cmp.Diff(want, got.EdgeRules); d != "" || !stored.Equal(&want) {
			t.Errorf("(-want +got):\n%sstored: %+v", d, stored)
		}
	}
	want := trysail.EdgeRules{
		HSTSMaxAge: 31536000, HSTSIncludeSubdomains: true, HSTSPreload: true,
		AllowClients: []string{"192.0.2.0/24", "2001:db8::1/128"}, DenyClients: []string{"192.0.2.7/32"},
		MaxBody: 5 << 30, RequestsPerMinute: 600, RequestBurst: 20, MaxRequestsAtOnce: 100, MaxRequestsAtOncePerClient: 10,
		ErrorPages: map[string]string{"503": "<h1>back soon</h1>", "429": "slow down"},
	}
	put(control.EdgeRulesInput{
		HSTSMaxAge: new(31536000), HSTSIncludeSubdomains: new(true), HSTSPreload: new(true),
		AllowClients: []string{"192.0.2.0/24", "2001:db8::1", "2001:db8:0::1/128"}, DenyClients: []string{" 192.0.2.7"},
		MaxBody: new(int64(5 << 30)), RequestsPerMinute: new(600), RequestBurst: new(20), MaxRequestsAtOnce: new(100), MaxRequestsAtOncePerClient: new(10),
		ErrorPages: want.ErrorPages,
	}, want)
	put(control.EdgeRulesInput{}, want)
	want.AllowClients, want.ErrorPages, want.MaxBody = nil, map[string]string{"429": "slow down", "502": "oops"}, 0
	put(control.EdgeRulesInput{AllowClients: []string{}, MaxBody: new(int64(0)), ErrorPages: map[string]string{"503": "", "502": "oops"}}, want)
	// What is refused changes nothing.
	b.refused(trysail.CodeInvalid, `Setting denyClients: "10.0.0.1/8" is an address within a network; write 10.0.0.0/8 for the network, or 10.0.0.1 for the address.`, func() error {
		_, err := b.PutServiceSettings(t.Context(), caller, control.PutServiceSettingsInput{ServiceName: "web", AccessLog: new(true), EdgeRulesInput: control.EdgeRulesInput{DenyClients: []string{"10.0.0.1/8"}}})
		return err
	})
	put(control.EdgeRulesInput{}, want)
	if b.service().Settings.AccessLog {
		t.Error("a refused request changed the access log")
	}
}

func TestGetAccessLog(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	get := func(in control.GetContainerLogInput) *control.LogPage {
		t.Helper()
		in.ServiceName = "web"
		p, err := b.GetAccessLog(t.Context(), caller, in)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := get(control.GetContainerLogInput{}); len(p.Events) != 0 || p.NextPageToken != "" {
		t.Errorf("without lines: %+v", p)
	}
	w := b.logs.NewAccessWriter()
	done := make(chan bool)
	go func() { w.Run(t.Context()); close(done) }()
	t.Cleanup(func() { <-done })
	at := time.Now().Add(-time.Minute)
	w.Write(b.service().ID, at, []byte(`{"status":200}`))
	w.Write(b.service().ID, at.Add(time.Second), []byte(`{"status":500}`))
	for len(get(control.GetContainerLogInput{}).Events) < 2 {
		time.Sleep(time.Millisecond)
	}
	end := at.Add(time.Millisecond)
	for want, in := range map[string]control.GetContainerLogInput{
		`{"status":500}`: {FilterPattern: `"\"status\":5"`},
		`{"status":200}`: {EndTime: &end},
	} {
		if p := get(in); len(p.Events) != 1 || p.Events[0].Message != want {
			t.Errorf("%+v: %+v", in, p)
		}
	}
	// It is no container, and a container is not it.
	if _, err := b.GetContainerLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "web", ContainerName: logs.AccessLog}); trysail.ErrorCode(err) != trysail.CodeInvalid {
		t.Errorf("GetContainerLog: %v", err)
	}
	b.refused(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.", func() error {
		_, err := b.GetAccessLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "web", PageToken: "x"})
		return err
	})
	b.refused(trysail.CodeInvalid, "The start time must not be after the end time.", func() error {
		_, err := b.GetAccessLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "web", StartTime: &end, EndTime: &at})
		return err
	})
}
