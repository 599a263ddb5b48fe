//go:build cluster

package replicas

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// TestReplicas_AreOneInstallation sends requests through the edges of three servers, kills the one that leads, and asks the
// others for what it knew: metrics, access log, logs of pods that are gone, and who is signed in.
func TestReplicas_AreOneInstallation(t *testing.T) {
	const each = 20 // requests through each edge
	f := newFleet(t, 3)
	if _, err := f.servers[0].Run(t.Context(), "create", "web", "--power", "nano", "--scale", "1"); err != nil {
		t.Fatal(err)
	}
	base := f.deploy(f.servers[0], "1")
	for _, args := range [][]string{{"settings", "web", "--access-log", "on"}} {
		if out, err := f.servers[1].Run(t.Context(), args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	f.until("all edges write the access log", func() error {
		for i, s := range f.servers {
			if err := f.get(s, base, fmt.Sprintf("log?line=edge+%d", i)); err != nil {
				return err
			}
		}
		out, err := f.servers[2].Run(t.Context(), "logs", "web", "--access", "-o", "json")
		for i := range f.servers {
			if err == nil && !strings.Contains(out, fmt.Sprintf("edge+%d", i)) && !strings.Contains(out, `"path":"/log"`) {
				err = fmt.Errorf("the access log is:\n%s", out)
			}
		}
		return err
	})
	led := f.leader()
	for i, s := range f.servers {
		for n := range each {
			if err := f.get(s, base, fmt.Sprintf("log?line=server+%d+request+%d.", i, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.until("the leader has read the log of the pod", func() error { return errors.Join(f.lacks(f.servers[led], each)...) })
	for i, s := range f.servers { // and then all have it
		f.hasAll(s, fmt.Sprintf("server %d", i), each)
	}
	f.deploy(f.servers[(led+1)%3], "2") // the pod that has written the lines goes
	f.until("the pod of version 1 is gone", func() error {
		pods, err := f.podsOn("")
		if err == nil && len(pods) != 1 {
			err = fmt.Errorf("there are %v", pods)
		}
		return err
	})
	browser := f.signIn(f.servers[led])
	counted := 0.0
	f.until("the minute is over and the requests are counted", func() (err error) {
		if counted, err = f.requests(f.servers[led]); err == nil && counted < 3*each {
			err = fmt.Errorf("%v requests are counted", counted)
		}
		return err
	})
	<-time.After(75 * time.Second) // what is lost is at most the last minute's

	if err := f.servers[led].Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i, s := range f.servers {
		if i == led {
			continue
		}
		// Nobody leads yet, and all this is there.
		f.hasAll(s, fmt.Sprintf("server %d, the leader being killed", i), each)
		if n, err := f.requests(s); err != nil || n < counted {
			t.Errorf("server %d knows of %v requests, %v before the leader was killed: %v", i, n, counted, err)
		}
		if status := f.page(browser, s); status != http.StatusOK {
			t.Errorf("the console of server %d answers %d to who has signed in at the leader", i, status)
		}
		if out, err := s.Run(t.Context(), "exec", "web", "--", "/web", "-h"); time.Since(began) < 5*time.Second && (err == nil || !strings.Contains(out+err.Error(), "takes over within")) {
			t.Errorf("what needs a leader while there is none: %v: %s", err, out)
		}
	}
	f.until("another one leads", func() error {
		if f.leader() == led {
			return errors.New("not yet")
		}
		return nil
	})
	next := f.leader()
	third := 3 - led - next
	if err := f.get(f.servers[next], base, "log?line=to+the+new+leader."); err != nil {
		t.Error(err)
	}
	f.until("the new leader goes on with the logs", func() error {
		for _, i := range []int{next, third} {
			out, err := f.servers[i].Run(t.Context(), "logs", "web", "web")
			if n := strings.Count(out, "to the new leader."); err != nil || n != 1 {
				return fmt.Errorf("server %d has the line %d times: %w", i, n, err)
			}
		}
		return nil
	})
	// The one that was killed comes back, without its disk: it gets everything from the others.
	for _, dir := range []string{"logs", "metrics", "copies", "server.id"} {
		if err := os.RemoveAll(filepath.Join(f.servers[led].DataDir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	f.restart(led)
	f.until("it has everything", func() error {
		return errors.Join(f.lacks(f.servers[led], each)...)
	})
	for i, s := range f.servers {
		f.hasAll(s, fmt.Sprintf("server %d in the end", i), each)
		if status := f.page(browser, s); status != http.StatusOK {
			t.Errorf("the console of server %d answers %d in the end", i, status)
		}
	}
	if _, err := f.servers[third].Run(t.Context(), "delete", "web", "--yes", "--wait"); err != nil {
		t.Error(err)
	}
}

// get sends a request through the edge of a server.
func (f *fleet) get(s *kit.Server, base, path string) error {
	client, err := s.HTTPClient(true)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return send(f.t.Context(), client, base+path)
}

// hasAll checks that a server has every line and every request once.
func (f *fleet) hasAll(s *kit.Server, what string, each int) {
	f.t.Helper()
	for _, err := range f.lacks(s, each) {
		f.t.Errorf("%s: %v", what, err)
	}
}

func (f *fleet) lacks(s *kit.Server, each int) (errs []error) {
	lines, err := s.Run(f.t.Context(), "logs", "web", "web")
	if err != nil {
		return []error{err}
	}
	access, err := s.Run(f.t.Context(), "logs", "web", "--access", "-o", "json")
	if err != nil {
		return []error{err}
	}
	for i := range 3 {
		for n := range each {
			if got := strings.Count(lines, fmt.Sprintf("server %d request %d.", i, n)); got != 1 {
				errs = append(errs, fmt.Errorf("the line of request %d through server %d is there %d times", n, i, got))
			}
		}
	}
	if n := strings.Count(access, `"path":"/log"`); n < 3*each {
		errs = append(errs, fmt.Errorf("the access log has %d requests", n))
	}
	ids := map[string]int{}
	for _, m := range regexp.MustCompile(`"requestId":"([^"]+)"`).FindAllStringSubmatch(access, -1) {
		if ids[m[1]]++; ids[m[1]] > 1 {
			errs = append(errs, fmt.Errorf("request %s is in the access log more than once", m[1]))
		}
	}
	if len(errs) > 5 {
		errs = append(errs[:5], fmt.Errorf("and %d more", len(errs)-5))
	}
	return errs
}

// requests is how many requests a server knows of.
func (f *fleet) requests(s *kit.Server) (n float64, err error) {
	out, err := s.Run(f.t.Context(), "metrics", "web", "Requests", "-o", "json", "--since", "1h")
	var answer struct {
		Metrics []struct {
			MetricData []struct{ Statistics map[string]float64 }
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &answer)
	}
	for _, m := range answer.Metrics {
		for _, p := range m.MetricData {
			n += p.Statistics["Sum"]
		}
	}
	return n, err
}

// signIn signs in to a server's console. The browser takes all servers for one host.
func (f *fleet) signIn(s *kit.Server) *http.Client {
	f.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.PostForm("http://"+s.API+"/console/sign-in", url.Values{"key": {s.Vars["AWS_ACCESS_KEY_ID"]}, "secret": {s.Vars["AWS_SECRET_ACCESS_KEY"]}}) //nolint:noctx // it answers
	if err != nil {
		f.t.Fatal(err)
	}
	resp.Body.Close()
	if cookies := jar.Cookies(&url.URL{Scheme: "http", Host: s.API, Path: "/console/"}); resp.StatusCode != http.StatusSeeOther || len(cookies) != 1 {
		f.t.Fatalf("signing in: %d, %v", resp.StatusCode, cookies)
	}
	return browser
}

// page is the status of the console's first page at a server, with the cookie of another one: behind one address it is the
// same host, and the port is in the cookie's name.
func (f *fleet) page(browser *http.Client, s *kit.Server) int {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://"+s.API+"/console/", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, other := range f.servers {
		for _, c := range browser.Jar.Cookies(&url.URL{Scheme: "http", Host: other.API, Path: "/console/"}) {
			c.Name = "trysail-" + s.API[strings.LastIndexByte(s.API, ':')+1:]
			req.AddCookie(c)
		}
	}
	resp, err := (&http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		f.t.Error(err)
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}
