package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// evidence measures what it costs a healthy deployment that the image is looked into before it starts and the pod while it
// does: the same deployments, in turns, by Trysail and by a build of it that does not look.
func evidence(ctx context.Context, t *table, o options, img images, dir string) (err error) {
	blind := filepath.Join(dir, "trysail-blind")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "blind", "-o", blind, "./cmd/trysail")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building without evidence: %w\n%s", err, out)
	}
	var deployers [2]*deployer
	for i, binary := range []string{"", blind} {
		s, err := kit.StartServer(ctx, kit.ServerOptions{Binary: binary})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
		if deployers[i], err = newDeployer(ctx, s, img.web); err != nil {
			return err
		}
	}
	var took [2][]time.Duration
	for run := range 3*o.runs + 2 { // the first two are not counted
		for i, d := range deployers {
			one, err := d.deploy(ctx, run)
			if err != nil {
				return err
			}
			if run >= 2 {
				took[i] = append(took[i], one)
			}
		}
	}
	t.add("deployment with evidence", spread(took[0]), "with/without "+ratio(took[0], took[1], "≤ 1.05"))
	t.add("deployment without", spread(took[1]), "")
	return nil
}
