//go:build cluster

package replicas

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"

	"github.com/trysail/trysail/test/kit"
)

// deploy makes a version of service web active, through the API of a server, and returns the service's URL.
func (f *fleet) deploy(s *kit.Server, version string) string {
	f.t.Helper()
	return f.deployImage(s, f.registry.Host+"/web:"+version)
}

func (f *fleet) deployImage(s *kit.Server, image string) string {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "deployment.json")
	text := fmt.Sprintf(`{"containers": {"web": {"image": "%s", "ports": {"8080": "HTTP"}}},
		"publicEndpoint": {"containerName": "web", "containerPort": 8080, "healthCheck": {"path": "/health"}}}`, image)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if _, err := s.Run(f.t.Context(), "deploy", "web", "-f", file, "--wait"); err != nil {
		f.t.Fatal(err)
	}
	out, err := s.Client().GetContainerServices(f.t.Context(), &lightsail.GetContainerServicesInput{ServiceName: aws.String("web")})
	if err != nil {
		f.t.Fatal(err)
	}
	u, err := url.Parse(aws.ToString(out.ContainerServices[0].Url))
	if err != nil {
		f.t.Fatal(err)
	}
	u.Host = u.Hostname() // each edge has a port of its own
	return u.String()
}

// running waits until the service has its full scale, healthy, and nothing else.
func (f *fleet) running(s *kit.Server, scale int) {
	f.t.Helper()
	f.until("the service is at its full scale", func() error {
		out, err := s.Run(f.t.Context(), "ps", "web")
		healthy := strings.Count(out, "HEALTHY")
		if err == nil && healthy != scale {
			err = fmt.Errorf("%d are healthy:\n%s", healthy, out)
		}
		pods, podsErr := f.podsOn("")
		if len(pods) != scale {
			err = errors.Join(err, fmt.Errorf("there are %d pods", len(pods)))
		}
		return errors.Join(err, podsErr)
	})
}

// TestReplicas_Faults breaks one thing after the other while requests come in through the edges of three servers.
func TestReplicas_Faults(t *testing.T) {
	const scale = 3
	f := newFleet(t, 3)
	if _, err := f.servers[1].Run(t.Context(), "create", "web", "--power", "nano", "--scale", fmt.Sprint(scale)); err != nil {
		t.Fatal(err)
	}
	base := f.deploy(f.servers[2], "1")
	f.cordonAll(false)

	l, err := startLoad(t.Context(), f.servers, base)
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	var table []string
	row := func(what string, text string) {
		table = append(table, fmt.Sprintf("%-44s %s", what, text))
		t.Log(table[len(table)-1])
	}
	defer func() { fmt.Printf("\n%s\n", strings.Join(table, "\n")) }()

	// during breaks something and counts meanwhile. Requests to the edges of the servers listed in gone may fail; through
	// the others at most `most` may.
	during := func(what string, gone []int, most int, do func()) {
		t.Helper()
		for _, tally := range l.tallies {
			tally.reset()
		}
		do()
		<-time.After(3 * time.Second) // of requests after it
		var sent, failed int
		var slowest time.Duration
		var lost string
		for i, tally := range l.tallies {
			n, bad, refused, slow, why := tally.read()
			if isIn(gone, i) {
				lost = fmt.Sprintf("; at the server itself %d cut, %d refused", bad, refused)
				continue
			}
			if refused > 0 {
				bad, why = bad+refused, why+fmt.Sprintf("%d× refused", refused)
			}
			if bad > 0 {
				t.Logf("%s: through server %d %d of %d failed: %s", what, i, bad, n, why)
			}
			sent, failed, slowest = sent+n, failed+bad, max(slowest, slow)
		}
		row(what, fmt.Sprintf("%6d requests, %3d failed, slowest %5d ms%s", sent, failed, slowest.Milliseconds(), lost))
		if failed > most {
			t.Errorf("%s: %d requests failed, at most %d may", what, failed, most)
		}
	}

	during("nothing", nil, 0, func() { <-time.After(2 * time.Second) })

	during("deployment of a new version", nil, 0, func() {
		f.deploy(f.servers[0], "2")
		f.running(f.servers[0], scale)
	})

	led := f.leader()
	follower := (led + 1) % 3
	during("a follower killed", []int{follower}, 0, func() {
		if err := f.servers[follower].Kill(); err != nil {
			t.Fatal(err)
		}
		f.deploy(f.servers[led], "1") // it is not waited for for ever
		f.running(f.servers[led], scale)
	})
	f.restart(follower)

	during("the leader killed", []int{led}, 0, func() {
		if err := f.servers[led].Kill(); err != nil {
			t.Fatal(err)
		}
		f.until("another one leads", func() error {
			if f.leader() == led {
				return errors.New("the one that was killed still counts")
			}
			return nil
		})
		f.deploy(f.servers[f.leader()], "2")
		f.running(f.servers[f.leader()], scale)
	})
	f.restart(led)

	led = f.leader()
	during("the leader stopped, as by a rolling update", []int{led}, 0, func() {
		if err := f.servers[led].Stop(); err != nil {
			t.Error(err)
		}
		f.until("another one leads", func() error {
			if f.leader() == led {
				return errors.New("the one that was stopped still counts")
			}
			return nil
		})
	})
	// A connection that nobody uses is closed, and perhaps at the moment when its client begins to use it: HTTP/1.1 has no
	// way to tell him before.
	if cut, why := l.tallies[led].begun(); cut > 0 {
		t.Errorf("the server that was stopped has cut %d requests: %s", cut, why)
	}
	f.restart(led)

	during("PostgreSQL killed, away for 15 s", nil, 0, func() {
		if err := f.database.Kill(); err != nil {
			t.Fatal(err)
		}
		<-time.After(15 * time.Second) // longer than a lease
		if err := f.database.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.deploy(f.servers[f.leader()], "1")
		f.running(f.servers[f.leader()], scale)
	})

	during("the API server killed", nil, 0, func() {
		f.cluster("restart-api")
		f.until("the cluster answers", func() error {
			_, err := f.podsOn("")
			return err
		})
		f.deploy(f.servers[f.leader()], "2")
		f.running(f.servers[f.leader()], scale)
	})

	for n := 1; n <= 3; n++ {
		node := fmt.Sprintf("n%d", n)
		moved := 0
		during("node "+node+" drained", nil, 0, func() {
			moved = f.drain(node)
			f.running(f.servers[f.leader()], scale)
		})
		f.cordon(node, false)
		table[len(table)-1] += fmt.Sprintf(" (%d pods moved)", moved)
	}

	// Requests that are in flight at a node that dies are lost, and no others: at most one of each client.
	inFlight := len(f.servers) * workers
	for _, fault := range []struct{ what, do, undo string }{{"node killed", "kill", "start"}, {"node cut off", "cut", "heal"}} {
		node := f.busiest()
		during(fault.what, nil, inFlight, func() {
			f.cluster(fault.do, node)
			f.until("its pods have been replaced", func() error {
				pods, err := f.podsOn("n" + node)
				if err == nil && len(pods) > 0 {
					err = fmt.Errorf("there are still %v", pods)
				}
				return err
			})
			f.running(f.servers[f.leader()], scale)
		})
		f.cluster(fault.undo, node)
		f.ready()
	}
}

// restart starts a server again that has ended, and waits until it is one of all.
func (f *fleet) restart(i int) {
	f.t.Helper()
	if err := f.servers[i].Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// busiest is the number of the node with most of our pods.
func (f *fleet) busiest() (number string) {
	f.t.Helper()
	most := -1
	for _, n := range []string{"1", "2", "3"} {
		pods, err := f.podsOn("n" + n)
		if err != nil {
			f.t.Fatal(err)
		}
		if len(pods) > most {
			number, most = n, len(pods)
		}
	}
	return number
}

func (f *fleet) cordonAll(yes bool) {
	f.t.Helper()
	for n := 1; n <= 3; n++ {
		f.cordon(fmt.Sprintf("n%d", n), yes)
	}
}

func isIn(list []int, i int) bool {
	for _, x := range list {
		if x == i {
			return true
		}
	}
	return false
}

// TestReplicas_ActAsOne: whichever server is asked, the answer is the same.
func TestReplicas_ActAsOne(t *testing.T) {
	f := newFleet(t, 2)
	led := f.leader()
	leader, other := f.servers[led], f.servers[1-led]
	if _, err := other.Run(t.Context(), "create", "web", "--power", "nano", "--scale", "1"); err != nil {
		t.Fatal(err)
	}
	base := f.deploy(other, "1")
	for _, file := range []string{"root.pem", "root-key.pem"} {
		a, errA := os.ReadFile(filepath.Join(leader.DataDir, "ca", file))
		b, errB := os.ReadFile(filepath.Join(other.DataDir, "ca", file))
		if err := errors.Join(errA, errB); err != nil || string(a) != string(b) {
			t.Errorf("%s differs between the servers: %v", file, err)
		}
	}
	client, err := other.HTTPClient(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), client, base+"log?line=through+the+other+edge"); err != nil {
		t.Error(err)
	}
	f.until("the log is there", func() error {
		out, err := other.Run(t.Context(), "logs", "web", "web")
		if err == nil && !strings.Contains(out, "through the other edge") {
			err = fmt.Errorf("the log is:\n%s", out)
		}
		return err
	})
	if out, err := other.Run(t.Context(), "exec", "web", "--", "/web", "-h"); err != nil && !strings.Contains(err.Error()+out, "web") {
		t.Errorf("exec through the other server: %v", err)
	}
	resp, err := http.Get("http://" + other.API + "/readyz") //nolint:noctx // it answers
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %v", err)
	} else {
		resp.Body.Close()
	}
	// A new leader goes on with the logs where the old one ended.
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	f.until("the other one leads", func() error {
		if f.leader() != 1-led {
			return errors.New("not yet")
		}
		return nil
	})
	if err := send(t.Context(), client, base+"log?line=to+the+new+leader"); err != nil {
		t.Error(err)
	}
	f.until("both lines are there", func() error {
		out, err := other.Run(t.Context(), "logs", "web", "web")
		for _, line := range []string{"through the other edge", "to the new leader"} {
			if n := strings.Count(out, line); err == nil && n != 1 {
				err = fmt.Errorf("%q is there %d times:\n%s", line, n, out)
			}
		}
		return err
	})
	if _, err := other.Run(t.Context(), "delete", "web", "--yes", "--wait"); err != nil {
		t.Error(err)
	}
}
