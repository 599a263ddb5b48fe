//go:build e2e

package e2e

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

// commandLine runs trysail against a server and returns its output, both streams, and its exit status.
func commandLine(t *testing.T, s *kit.Server, args ...string) (out string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Binary, args...)
	cmd.Env = s.Environ()
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// TestMigrate_NoRequestFails moves an installation of one machine to another server, whose pods run in the cluster if there is
// one, under load at the old address: copied, broken off, copied again, sent on, stopped, compared, and one service taken back.
func TestMigrate_NoRequestFails(t *testing.T) {
	quick := []string{"--activation-timeout", "60s", "--drain-timeout", "10s"}
	from := newCertified(t, kit.ServerOptions{OneMachine: true, Flags: slices.Clone(quick)})
	c, old := from.client, from.server
	next := dedicated(t, kit.ServerOptions{Flags: quick}) // it knows nobody who would give it a certificate
	d := clientOf(t, next)
	_, nextPort, _ := strings.Cut(next.HTTPS, ":")
	must := func(status int, words []string, args ...string) string {
		t.Helper()
		out, got := commandLine(t, old, args...)
		if got != status {
			t.Fatalf("trysail %s: status %d, want %d\n%s\n%s", strings.Join(args, " "), got, status, out, next.LogTail(40))
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Fatalf("trysail %s: no %q in\n%s", strings.Join(args, " "), w, out)
			}
		}
		return out
	}
	to := []string{"migrate", "--to-admin", filepath.Join(next.DataDir, "admin.json")}
	migrate := func(status int, words []string, more ...string) {
		t.Helper()
		must(status, words, append(to, more...)...)
	}

	// Two services: one that has had two versions, and one of an image that was pushed.
	c.create("web", types.ContainerServicePowerNameNano, 2)
	c.deploy(webDeployment("web", "web:1", nil))
	c.waitState("web", types.ContainerServiceStateRunning)
	c.deploy(webDeployment("web", "web:2", map[string]string{"SECRET": "s3cret"}))
	c.waitVersion("web", 2, types.ContainerServiceDeploymentStateActive)
	c.create("pushed", types.ContainerServicePowerNameNano, 1)
	archive, _ := archives(t)
	must(0, []string{":pushed.www.1"}, "push", archive, "--service", "pushed", "--label", "www")
	c.deployStored("pushed", ":pushed.www.1", "version 1")
	must(0, nil, "settings", "web", "--access-log", "on", "--max-body", "10MB")
	must(0, nil, "keys", "create", "ci", "--role", "deploy")
	tags := []types.Tag{{Key: aws.String("team"), Value: aws.String("blue")}}
	if _, err := c.api.TagResource(t.Context(), &lightsail.TagResourceInput{ResourceName: aws.String("web"), Tags: tags}); err != nil {
		t.Fatal(err)
	}
	// Its users know it by a domain of its own.
	const domain = "shop.example.com"
	from.dns.Set(t, domain, "A 127.0.0.1")
	must(0, nil, "domains", "add", "web", domain)
	onDomain := func(port string) func() (string, error) {
		return func() (string, error) { return from.curlAt(port, domain, "/") }
	}
	until(t, "the domain", onDomain(from.https), "version 2")
	serial := from.serial(from.https, domain)
	before := c.service("web")

	loads := map[string]*load{"web": startLoad(t, c, c.url("web", "/")), "pushed": startLoad(t, c, c.url("pushed", "/"))}
	stopped := false
	stop := func() {
		for _, l := range loads {
			l.stop()
		}
		stopped = true
	}
	defer func() {
		if !stopped {
			stop()
		}
	}()
	moreAnswers := func() {
		t.Helper()
		n := map[string]int{}
		for name, l := range loads {
			n[name] = l.served()
		}
		for name, l := range loads {
			c.eventually("more answers of "+name, func() bool { return l.served() > n[name]+200 })
		}
	}
	moreAnswers()

	migrate(0, []string{"web is not there", "web would be started there: version 2", "Requests for pushed would go to"}, "--dry-run", "--forward", next.HTTPS)
	if list, err := d.api.GetContainerServices(t.Context(), &lightsail.GetContainerServicesInput{}); err != nil || len(list.ContainerServices) != 0 {
		t.Fatalf("a dry run made %+v, %v", list, err)
	}
	migrate(1, []string{"web is not there"}, "--check")

	// It is broken off, at moments that come as they come, and run again.
	for _, after := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond} {
		cmd := exec.CommandContext(t.Context(), old.Binary, to...)
		cmd.Env = old.Environ()
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // the moment is the point, not a wait
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	migrate(0, []string{"everything is there"})
	for _, name := range []string{"web", "pushed"} {
		d.waitState(name, types.ContainerServiceStateRunning) // one whose move was broken off may still be UPDATING
	}
	moreAnswers()
	migrate(0, []string{"web: its requests go there", "its containers here are being stopped"}, "--forward", next.HTTPS)
	moreAnswers()
	must(0, []string{"stopped here"}, "migrate", "--status")
	migrate(0, nil, "--check")
	for name, want := range map[string]string{"web": "No pod of service web is running", "pushed": "No pod of service pushed is running"} {
		must(0, []string{want}, "ps", name)
	}
	must(1, []string{"has moved to another installation"}, "update", "web", "--scale", "1")
	migrate(0, nil, "--forward", next.HTTPS) // once more changes nothing
	moreAnswers()

	// The domain is served from here as before, and from there when the DNS leads there, with the same certificate.
	for where, port := range map[string]string{"here": from.https, "there": nextPort} {
		if out, err := onDomain(port)(); err != nil || !strings.Contains(out, "version 2") {
			t.Errorf("%s from %s: %v\n%s", domain, where, err, out)
		}
		if got := from.serial(port, domain); got != serial {
			t.Errorf("%s has another certificate %s: %s, want %s", domain, where, got, serial)
		}
	}

	// What is there is what was here.
	after := d.service("web")
	if len(after.Tags) != 1 || aws.ToInt32(after.Scale) != 2 || aws.ToString(after.Arn) != aws.ToString(before.Arn) || aws.ToInt32(after.CurrentDeployment.Version) != 2 ||
		after.CurrentDeployment.Containers["web"].Environment["SECRET"] != "s3cret" {
		t.Errorf("there it is %+v", after)
	}
	out, err := d.api.GetContainerServiceDeployments(t.Context(), &lightsail.GetContainerServiceDeploymentsInput{ServiceName: aws.String("web")})
	if err != nil || len(out.Deployments) != 2 {
		t.Errorf("versions %+v, %v", out, err)
	}
	if lines := strings.Join(d.logs("web"), "\n"); !strings.Contains(lines, "[deployment:1] Reached a steady state") {
		t.Errorf("the log of the first version is missing there:\n%.2000s", lines)
	}
	// The old key's secret works there.
	there := *next
	there.Vars = maps.Clone(next.Vars)
	there.Vars["AWS_ACCESS_KEY_ID"], there.Vars["AWS_SECRET_ACCESS_KEY"] = old.Vars["AWS_ACCESS_KEY_ID"], old.Vars["AWS_SECRET_ACCESS_KEY"]
	for _, tt := range []struct{ command, want string }{{"keys", "ci"}, {"settings web", "10MB"}, {"audit -n 0", "CreateContainerServiceDeployment"}, {"images pushed", ":pushed.www.1"}, {"certs", "ISSUED"}, {"domains list web", "shop.example.com"}, {"ps web --all", "web-"}} {
		if out, status := commandLine(t, &there, strings.Fields(tt.command)...); status != 0 || !strings.Contains(out, tt.want) {
			t.Errorf("with the old key there, trysail %s: %d\n%s", tt.command, status, out)
		}
	}
	root, err := os.ReadFile(filepath.Join(old.DataDir, "ca", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(filepath.Join(next.DataDir, "ca", "root.pem")); err != nil || !strings.Contains(string(have), strings.TrimSpace(string(root))) {
		t.Errorf("the old CA is not published there: %v", err)
	}

	must(0, []string{"serves here again"}, "migrate", "--back", "web")
	moreAnswers()
	if out, err := onDomain(from.https)(); err != nil || !strings.Contains(out, "version 2") {
		t.Errorf("%s after it came back: %v\n%s", domain, err, out)
	}
	if out, _ := commandLine(t, old, "ps", "web"); strings.Count(out, "HEALTHY") != 2 {
		t.Errorf("after it came back:\n%s", out)
	}
	stop()
	for name, l := range loads {
		t.Logf("%s: %d requests, %v", name, l.total, l.answers)
		for what, n := range l.failures {
			t.Errorf("%s: %8d × FAILED %s", name, n, what)
		}
	}
}
