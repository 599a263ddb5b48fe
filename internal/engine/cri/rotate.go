package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rotateLogs sets log files aside that have grown too large: <name>.log becomes <name>.log.1, and so on. Containerd
// goes on writing into the renamed file until it is told to open the new one, so no line is lost: a reader finds the
// older lines in the file with the higher number.
func (e *Engine) rotateLogs(ctx context.Context) {
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	resp, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{State: running}})
	if err != nil {
		return // containerd is being started again; there is no hurry
	}
	for _, c := range resp.Containers {
		st, err := e.containerStatus(ctx, c)
		if err != nil || st.LogPath == "" {
			continue
		}
		if err := e.rotateLog(ctx, c.Id, st.LogPath); err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "cannot rotate a log", "file", st.LogPath, "error", err)
		}
	}
}

// rotateLog rotates one log if need be. A log that is not there was set aside before, but containerd could not be told.
func (e *Engine) rotateLog(ctx context.Context, containerID, path string) error {
	info, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	if !missing {
		if info.Size() < e.cfg.LogMaxBytes {
			return nil
		}
		if err := shift(path, e.cfg.LogMaxFiles); err != nil {
			return err
		}
	}
	if _, err := e.runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: containerID}); err != nil {
		return fmt.Errorf("opening a new log file: %w", err)
	}
	return nil
}

// shift renames a file to <file>.1, after <file>.1 to <file>.2 and so on. At most files-1 of them stay.
func shift(path string, files int) error {
	name := func(n int) string {
		if n == 0 {
			return path
		}
		return fmt.Sprintf("%s.%d", path, n)
	}
	if files == 1 {
		return os.Remove(path)
	}
	for n := files - 2; n >= 0; n-- {
		if err := os.Rename(name(n), name(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
