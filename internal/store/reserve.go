package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const (
	reserveName = "reserve"
	// reserveSize is what a full disk must still give for a pod that fills it to be stopped, which begins with a transaction.
	reserveSize = 8 << 20
	// reserveRoom is how much must be free for the reserve to be made.
	reserveRoom = 8 * reserveSize
)

// Reserve makes a file that only takes up room, if there is plenty and the file is not there. ReleaseReserve gives that
// room to the next transaction. Where the state is in PostgreSQL there is no reserve: what runs here cannot fill that disk.
func (s *Store) Reserve() error {
	if s.reserve == "" {
		return nil
	}
	if _, err := os.Lstat(s.reserve); err == nil {
		return nil
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &disk); err != nil {
		return fmt.Errorf("looking at the disk: %w", err)
	}
	if disk.Bavail < reserveRoom/uint64(disk.Bsize) { //nolint:gosec // a size
		return nil
	}
	f, err := os.OpenFile(s.reserve+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making the reserve: %w", err)
	}
	err = syscall.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reserveSize))
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.reserve)
	}
	if err != nil {
		return fmt.Errorf("making the reserve: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// ReleaseReserve gives up the reserve, and reports whether there was one.
func (s *Store) ReleaseReserve() (released bool, err error) {
	if s.reserve == "" {
		return false, nil
	}
	err = os.Remove(s.reserve)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
