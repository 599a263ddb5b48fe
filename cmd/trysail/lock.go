package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/trysail/trysail/internal/cli"
)

// openDataDir makes the data directory, keeps others out of it and takes its lock, which is held until the file is
// closed. Errors: another server has the lock.
func openDataDir(dir string) (lock *os.File, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cli.WithHint(fmt.Errorf("making the data directory: %w", err), "Choose another one with --data-dir.")
	}
	// It may have been made by somebody else, or come from a backup.
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs the x bit
		return nil, fmt.Errorf("closing the data directory to others: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking the data directory: %w", err)
		}
		return nil, cli.WithHint(fmt.Errorf("another trysail serve%s uses %s", holder(f), dir),
			"Stop it first, or give this one a data directory of its own with --data-dir.")
	}
	// The number is for people and for the message above; the lock itself is the kernel's and ends with the process.
	err = errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n"), f.Sync())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the data directory: %w", err), f.Close())
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// holder is who has the lock, as far as the file tells: " (pid 123)".
func holder(f *os.File) string {
	text, err := io.ReadAll(io.LimitReader(f, 32))
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || convErr != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}
