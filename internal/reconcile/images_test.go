package reconcile_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/enginetest"
	"github.com/trysail/trysail/internal/reconcile"
	"github.com/trysail/trysail/internal/store"
)

// puller is an engine whose pulls take as long as the test wants.
type puller struct {
	*enginetest.Memory
	done  atomic.Int64 // bytes
	asked atomic.Int64
	lists atomic.Int64 // of pods that were asked for
	end   chan struct{}
}

func (p *puller) Pods(ctx context.Context) ([]trysail.Pod, error) {
	defer p.lists.Add(1)
	return p.Memory.Pods(ctx)
}

func (p *puller) Prepare(ctx context.Context, image string) error {
	select {
	case <-p.end:
		return p.Memory.Prepare(ctx, image)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *puller) Progress(image string) (trysail.Progress, bool) {
	if !strings.HasPrefix(image, "web-1@sha256:") {
		return trysail.Progress{}, false
	}
	p.asked.Add(1)
	return trysail.Progress{Done: p.done.Load(), Total: 120_400_000}, true
}

func TestReconciler_TellsHowFarAPullIs(t *testing.T) {
	in := install(t)
	in.stop()
	p := &puller{Memory: in.engine, end: make(chan struct{})}
	in.startOn(p)
	in.create(1)
	in.deploy("web-1")
	message := func() string { return in.service().Detail.Message }
	in.wait("the pull begins", func() bool { return message() == "Pulling web-1: 0 of 120 MB" })
	p.done.Store(34_900_000)
	in.wait("it goes on", func() bool { return message() == "Pulling web-1: 34 of 120 MB" })
	changes := in.store.Subscribe()
	changes.Take()
	asked := p.asked.Load()
	in.wait("it is asked thrice more", func() bool { return p.asked.Load() >= asked+3 })
	if ids := changes.Take(); len(ids) > 0 {
		t.Errorf("what did not change was written: %v", ids)
	}
	p.done.Store(120_400_000)
	in.wait("it is unpacked", func() bool { return message() == "Unpacking web-1" })
	close(p.end)
	in.waitState(trysail.ServiceRunning)
	if got := message(); got != "" {
		t.Errorf("the message stays: %s", got)
	}
}

func TestReconciler_PrivateECRNeedsThePullerRole(t *testing.T) {
	const image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/app:v1"
	in := install(t)
	in.create(1)
	in.engine.SetImage(strings.TrimSuffix(image, ":v1"), enginetest.Image{Program: enginetest.Serve(appPort, answer("private"))})
	in.deploy(image)
	in.wait("the deployment fails", func() bool { return in.operation().Status == trysail.OperationFailed })
	o := in.operation()
	if o.ErrorCode != "IMG-AUTH" || !strings.Contains(o.ErrorDetails, "update-container-service --service-name web --private-registry-access ecrImagePullerRole={isActive=true}") {
		t.Errorf("the operation: %+v", o)
	}
	in.waitState(trysail.ServiceReady)
	in.change(func(s *trysail.Service) { s.ECRPuller = true })
	in.deploy(image)
	in.wait("the image is asked for", func() bool {
		var d *trysail.Deployment
		err := in.store.View(t.Context(), func(tx *store.Tx) error {
			list, err := tx.Deployments("id-web")
			if err == nil {
				d = &list[0]
			}
			return err
		})
		return err == nil && d.Version == 2 && d.Digests[image] != ""
	})
}

// examiner is an engine that looks into images.
type examiner struct {
	*enginetest.Memory
	findings map[string][]trysail.Finding // by container
}

func (x *examiner) Examine(_ context.Context, c trysail.ContainerSpec, _ []int) (trysail.Autopsy, error) {
	if c.Name == "unknown" {
		return trysail.Autopsy{}, errors.New("nothing can be seen")
	}
	return trysail.Autopsy{Findings: x.findings[c.Name]}, nil
}

func TestReconciler_StartsNothingThatIsCertainToFail(t *testing.T) {
	in := install(t)
	in.create(1)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	in.stop()
	likely := trysail.Finding{Code: "RUN-SYSTEMD", Confidence: trysail.Likely, Summary: "maybe"}
	x := &examiner{Memory: in.engine, findings: map[string][]trysail.Finding{
		"app": {likely, {Code: "RUN-CRLF", Confidence: trysail.Certain, Summary: "It has Windows line ends.", Fix: "Remove them.", Evidence: []trysail.Evidence{{Kind: "image", Text: "#!/bin/sh\\r"}}}},
	}}
	in.startOn(x)
	in.deploy("web-2")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 1")
	if o := in.operation(); o.Status != trysail.OperationFailed || o.ErrorCode != "RUN-CRLF" {
		t.Errorf("the operation: %+v", o)
	}
	err := in.store.View(t.Context(), func(tx *store.Tx) error {
		d, err := tx.Diagnosis("id-web", 2)
		if err == nil && (d.Code != "RUN-CRLF" || d.ContainerName != "app" || d.Confidence != trysail.Certain || len(d.Evidence) == 0) {
			t.Errorf("diagnosis %+v", *d)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if lines := strings.Join(in.systemLines(), "\n"); strings.Contains(lines, "[deployment:2] Started") || !strings.Contains(lines, "[deployment:2] Canceled\n[trysail] RUN-CRLF: It has Windows line ends.") {
		t.Errorf("system lines:\n%s", lines)
	}
	// What is only likely is for the start to prove.
	x.findings["app"] = []trysail.Finding{likely}
	in.deploy("web-3")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 3")
}

// slowRouter is a router that takes as long as the test wants to report on health.
type slowRouter struct {
	reconcile.Router
	slow    atomic.Bool
	entered chan struct{}
	leave   chan struct{}
}

func (r *slowRouter) Health(service string) map[trysail.PodID]trysail.TargetHealth {
	if r.slow.CompareAndSwap(true, false) {
		close(r.entered)
		<-r.leave
	}
	return r.Router.Health(service)
}

// TestReconciler_GoesOnAfterAPullThatEndsDuringARound: the round was asked for by the pull's progress, and is not part of the pull.
func TestReconciler_GoesOnAfterAPullThatEndsDuringARound(t *testing.T) {
	in := install(t)
	in.stop()
	p := &puller{Memory: in.engine, end: make(chan struct{})}
	router := &slowRouter{Router: in.config(p).Router, entered: make(chan struct{}), leave: make(chan struct{})}
	in.router = router
	in.startOn(p)
	in.create(1)
	in.deploy("web-1")
	in.wait("the pull begins", func() bool { return in.service().Detail.Message == "Pulling web-1: 0 of 120 MB" })
	router.slow.Store(true)
	p.done.Store(34_900_000)
	<-router.entered
	lists := p.lists.Load()
	close(p.end)
	in.wait("the pull has ended", func() bool { return p.lists.Load() > lists })
	close(router.leave)
	in.waitState(trysail.ServiceRunning)
}
