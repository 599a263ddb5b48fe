package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

// journal remembers what containerd does not: with which code containers ended while it was down, and why containers
// could not even be created. It is a small file, replaced as a whole.
type journal struct {
	path string

	mu      sync.Mutex // guards content
	content journalContent
}

type journalContent struct {
	// Exits is by container id.
	Exits map[string]exit `json:"exits"`
	// StartErrors is by pod, then by container name.
	StartErrors map[trysail.PodID]map[string]startError `json:"startErrors"`
}

type exit struct {
	At   time.Time `json:"at"`
	Code int       `json:"code"`
	OOM  bool      `json:"oom,omitempty"` // the kernel has killed in the container for want of memory
}

type startError struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

func openJournal(path string) (*journal, error) {
	j := &journal{path: path}
	b, err := os.ReadFile(path) //nolint:gosec // the path is ours
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if err := json.Unmarshal(b, &j.content); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	if j.content.Exits == nil {
		j.content.Exits = map[string]exit{}
	}
	if j.content.StartErrors == nil {
		j.content.StartErrors = map[trysail.PodID]map[string]startError{}
	}
	return j, nil
}

// harvest notes the exit codes that the shims have left in their bundles. Containerd deletes them when it starts, so
// this comes before. outOfMemory looks into the container's cgroup, which is there just as long.
func (j *journal) harvest(bundles string, outOfMemory func(containerID string) bool) error {
	files, err := filepath.Glob(filepath.Join(bundles, "*", "exit.json"))
	if err != nil {
		return err
	}
	found := false
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range files {
		var e struct {
			Timestamp time.Time
			Status    int
		}
		b, err := os.ReadFile(f) //nolint:gosec // the path is ours
		if err != nil || json.Unmarshal(b, &e) != nil {
			continue // a bundle that is being removed, or a shim that was killed while it wrote
		}
		id := filepath.Base(filepath.Dir(f))
		if _, known := j.content.Exits[id]; !known {
			j.content.Exits[id] = exit{At: e.Timestamp, Code: e.Status, OOM: outOfMemory(id)}
			found = true
		}
	}
	if !found {
		return nil
	}
	return j.saveLocked()
}

// exit returns how the container ended, if that was noted.
func (j *journal) exit(containerID string) (exit, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.content.Exits[containerID]
	return e, ok
}

// startErrors returns the pod's containers that could not be created.
func (j *journal) startErrors(id trysail.PodID) map[string]startError {
	j.mu.Lock()
	defer j.mu.Unlock()
	errs := map[string]startError{}
	maps.Copy(errs, j.content.StartErrors[id])
	return errs
}

// addStartError notes why a container could not be created.
func (j *journal) addStartError(id trysail.PodID, container, text string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.content.StartErrors[id] == nil {
		j.content.StartErrors[id] = map[string]startError{}
	}
	j.content.StartErrors[id][container] = startError{At: time.Now(), Text: text}
	return j.saveLocked()
}

// forget drops what is noted of a pod and its containers.
func (j *journal) forget(id trysail.PodID, containers []string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, changed := j.content.StartErrors[id]
	delete(j.content.StartErrors, id)
	for _, c := range containers {
		if _, ok := j.content.Exits[c]; ok {
			delete(j.content.Exits, c)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return j.saveLocked()
}

// keep drops all that is about other pods and containers than these.
func (j *journal) keep(pods map[trysail.PodID]bool, containers map[string]bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	changed := false
	for id := range j.content.StartErrors {
		if !pods[id] {
			delete(j.content.StartErrors, id)
			changed = true
		}
	}
	for id := range j.content.Exits {
		if !containers[id] {
			delete(j.content.Exits, id)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return j.saveLocked()
}

func (j *journal) saveLocked() error {
	b, err := json.Marshal(j.content)
	if err != nil {
		return err
	}
	return writeFile(j.path, b)
}
