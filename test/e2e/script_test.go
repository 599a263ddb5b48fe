//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/trysail/trysail/test/kit"
)

// TestScripts runs testdata/*.txtar against the shared server. Besides the commands of testscript, a script has
//
//	aws OPERATION ARG…             the AWS CLI: aws lightsail --endpoint-url … OPERATION ARG…
//	expand FILE…                   replace $NAME in files by the script's environment
//	state SERVICE STATE            wait until the service is in the state
//	version SERVICE N STATE        wait until the deployment is in the state
//	fetch [-status N] SERVICE PATH ask the service over HTTPS: the headers go to stderr, the body to stdout
//	log SERVICE CONTAINER REGEXP   wait until the container's log has a line that matches
//	gone SERVICE                   wait until there is no such service
//
// and $REGISTRY, where the images are. Scripts run side by side: each uses names of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"aws":     cmdAWS,
			"expand":  cmdExpand,
			"state":   cmdState,
			"version": cmdVersion,
			"fetch":   cmdFetch,
			"log":     cmdLog,
			"gone":    cmdGone,
		},
	})
}

func setupScript(env *testscript.Env) error {
	s := shared.server
	for k, v := range s.Vars {
		env.Setenv(k, v)
	}
	env.Setenv("AWS_PAGER", "")
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env.Setenv("REGISTRY", shared.registry.Host)
	env.Setenv("DATA_DIR", s.DataDir)
	env.Setenv("HTTPS", s.HTTPS)
	env.Setenv("NODE_PATH", filepath.Join(kit.Root(), "test", "js", "node_modules"))
	// The program under test may have any name; scripts call it trysail.
	bin := filepath.Join(env.WorkDir, ".bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(s.Binary, filepath.Join(bin, "trysail")); err != nil {
		return err
	}
	env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	return nil
}

func cmdAWS(ts *testscript.TestScript, neg bool, args []string) {
	line := append([]string{"lightsail", "--endpoint-url", ts.Getenv("AWS_ENDPOINT_URL_LIGHTSAIL")}, args...)
	check(ts, neg, ts.Exec("/usr/bin/aws", line...))
}

func check(ts *testscript.TestScript, neg bool, err error) {
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("unexpected success")
	}
}

func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE…")
	}
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

func cmdState(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: state SERVICE STATE")
	}
	api := shared.server.Client()
	ts.Check(kit.Until(context.Background(), 90*time.Second, func() error {
		out, err := api.GetContainerServices(context.Background(), &lightsail.GetContainerServicesInput{ServiceName: &args[0]})
		if err != nil {
			return err
		}
		if s := out.ContainerServices[0]; string(s.State) != args[1] {
			return fmt.Errorf("service %s is %s (%s), want %s", args[0], s.State, detail(s), args[1])
		}
		return nil
	}))
}

func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: gone SERVICE")
	}
	api := shared.server.Client()
	ts.Check(kit.Until(context.Background(), 90*time.Second, func() error {
		out, err := api.GetContainerServices(context.Background(), &lightsail.GetContainerServicesInput{})
		if err != nil {
			return err
		}
		for _, s := range out.ContainerServices {
			if aws.ToString(s.ContainerServiceName) == args[0] {
				return fmt.Errorf("service %s is %s", args[0], s.State)
			}
		}
		return nil
	}))
}

func cmdVersion(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: version SERVICE N STATE")
	}
	api := shared.server.Client()
	ts.Check(kit.Until(context.Background(), 90*time.Second, func() error {
		out, err := api.GetContainerServiceDeployments(context.Background(), &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &args[0]})
		if err != nil {
			return err
		}
		for _, d := range out.Deployments {
			if strconv.Itoa(int(aws.ToInt32(d.Version))) != args[1] {
				continue
			}
			if string(d.State) == args[2] {
				return nil
			}
			return fmt.Errorf("version %s of %s is %s, want %s", args[1], args[0], d.State, args[2])
		}
		return fmt.Errorf("service %s has no version %s", args[0], args[1])
	}))
}

func cmdLog(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: log SERVICE CONTAINER REGEXP")
	}
	re, err := regexp.Compile(args[2])
	ts.Check(err)
	api := shared.server.Client()
	ts.Check(kit.Until(context.Background(), 30*time.Second, func() error {
		out, err := api.GetContainerLog(context.Background(), &lightsail.GetContainerLogInput{ServiceName: &args[0], ContainerName: &args[1]})
		if err != nil {
			return err
		}
		var lines []string
		for _, e := range out.LogEvents {
			if re.MatchString(aws.ToString(e.Message)) {
				return nil
			}
			lines = append(lines, aws.ToString(e.Message))
		}
		return fmt.Errorf("no line matches %q:\n%s", args[2], strings.Join(lines, "\n"))
	}))
}

func cmdFetch(ts *testscript.TestScript, neg bool, args []string) {
	want := http.StatusOK
	if len(args) > 2 && args[0] == "-status" {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		want, args = n, args[2:]
	}
	if len(args) != 2 || neg {
		ts.Fatalf("usage: fetch [-status N] SERVICE PATH")
	}
	out, err := shared.server.Client().GetContainerServices(context.Background(), &lightsail.GetContainerServicesInput{ServiceName: &args[0]})
	ts.Check(err)
	url := strings.TrimSuffix(aws.ToString(out.ContainerServices[0].Url), "/") + args[1]
	client, err := shared.server.HTTPClient(true)
	ts.Check(err)
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s", body)
	fmt.Fprintln(ts.Stderr(), resp.Status)
	ts.Check(resp.Header.Write(ts.Stderr()))
	if resp.StatusCode != want {
		ts.Check(errors.New(url + " answered " + resp.Status))
	}
}
