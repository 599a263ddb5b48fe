package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

const (
	// pullTime is how long a node may fail to get an image, with tries of its own in between.
	pullTime = 20 * time.Second
)

// Start implements engine.Engine.
func (e *Engine) Start(ctx context.Context, spec trysail.PodSpec) error {
	release, err := e.acquire(ctx, spec.ID)
	if err != nil {
		return err
	}
	defer release()
	if err := e.remember(spec); err != nil {
		return err
	}
	if p := e.watch.pod(spec.ID); p != nil && p.DeletionTimestamp != nil {
		// Somebody else deletes it: it can be made again when it is gone.
		if err := e.watch.wait(ctx, spec.ID, func(now *corev1.Pod) error {
			if now == nil || now.UID != p.UID {
				return errEnough
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if e.watch.pod(spec.ID) == nil {
		unprivileged, err := e.unprivileged(ctx, spec)
		if err != nil {
			return err
		}
		o := e.podObject(spec, unprivileged)
		err = e.api.apply(ctx, e.api.core, "pods", o)
		switch {
		case err == nil && o.Spec.Resources == nil:
			return errors.Join(errors.New("the cluster ignores the limits of pods as a whole; it needs Kubernetes 1.34 or newer"),
				e.api.remove(ctx, e.api.core, "pods", o.Name, o.UID, nil))
		case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
			return errors.New(trysail.StartNoRoom + err.Error())
		case err != nil && !errors.Is(err, engine.ErrUnavailable) && ctx.Err() == nil:
			return fmt.Errorf("creating the pod in the cluster: %w", err)
		case err != nil:
			return err
		}
	}
	e.sample.begin(spec.ID)
	return e.started(ctx, spec)
}

// started waits until all containers have been started, or could not be.
func (e *Engine) started(ctx context.Context, spec trysail.PodSpec) error {
	began := time.Now()
	var stuck time.Time // since when a node has failed to get an image
	return e.watch.wait(ctx, spec.ID, func(p *corev1.Pod) error {
		if p == nil {
			if time.Since(began) > openTime {
				return fmt.Errorf("%w: the pod does not appear", engine.ErrUnavailable)
			}
			return nil
		}
		pod := e.podOf(p)
		if pod.Lost || len(pod.Containers) == len(spec.Containers) && (pod.Addr.IsValid() || pod.Crashed()) {
			return errEnough
		}
		if why := unschedulable(p); why != "" && time.Since(began) > e.cfg.RoomTime {
			return errors.New(trysail.StartNoRoom + why)
		}
		why := pulling(p)
		switch {
		case why == "":
			stuck = time.Time{}
		case stuck.IsZero():
			stuck = time.Now()
		case time.Since(stuck) > pullTime:
			return errors.New(trysail.StartNoImage + why)
		}
		return nil
	})
}

// unschedulable is why no node takes the pod; empty if one has.
func unschedulable(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return c.Message
		}
	}
	return ""
}

// pulling is why the pod's node cannot get an image; empty while it has not failed.
func pulling(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"}, w.Reason) {
			return w.Message
		}
	}
	return ""
}

// recordDir holds a file for each pod whose logs are kept on this machine.
const recordDir = "pods"

// record is what is needed of a pod besides what the cluster knows. It is not kept there: whoever may change a pod in the
// cluster must not be able to make us write files.
type record struct {
	LogDir string `json:"logDir"`
}

func (e *Engine) recordFile(id trysail.PodID) string {
	return filepath.Join(e.cfg.Dir, recordDir, string(id)+".json")
}

func (e *Engine) remember(spec trysail.PodSpec) error {
	r := record{LogDir: spec.LogDir}
	e.mu.Lock()
	have, known := e.records[spec.ID]
	e.records[spec.ID] = r
	e.mu.Unlock()
	if known && have == r || r.LogDir == "" {
		return nil
	}
	text, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(e.recordFile(spec.ID), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording where the logs of pod %s go: %w", spec.ID, err)
	}
	return nil
}

// Adopt implements engine.Adopter.
func (e *Engine) Adopt(id trysail.PodID, logDir string) error {
	if err := e.remember(trysail.PodSpec{ID: id, LogDir: logDir}); err != nil {
		return err
	}
	e.follow.see(e.watch.pod(id))
	return nil
}

func (e *Engine) forget(id trysail.PodID) {
	e.sample.end(id)
	e.mu.Lock()
	delete(e.records, id)
	delete(e.stopping, id)
	e.mu.Unlock()
	_ = os.Remove(e.recordFile(id))
}

func (e *Engine) logDir(id trysail.PodID) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.records[id].LogDir
}

func (e *Engine) loadRecords() error {
	files, err := filepath.Glob(e.recordFile("*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // within the engine's directory
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var r record
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		if err != nil {
			return fmt.Errorf("reading where the logs of a pod go: %w", err)
		}
		e.records[trysail.PodID(strings.TrimSuffix(filepath.Base(file), ".json"))] = r
	}
	return nil
}
