package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestStore_ReserveLetsAFullDiskTakeATransaction works on a file system of 128 MB.
func TestStore_ReserveLetsAFullDiskTakeATransaction(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128m"); err != nil {
		t.Skipf("mounting: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH) // the test is over
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := errors.Join(s.Reserve(), s.Reserve()); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "filler"))
	serial := 0
	write := func() error {
		return s.Update(t.Context(), func(tx *Tx) error {
			serial++
			return tx.InsertKey(AccessKey{ID: fmt.Sprint(serial), Name: string(make([]byte, 1<<20))})
		})
	}
	if err := write(); !errors.Is(err, ErrFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	if released, err := s.ReleaseReserve(); !released || err != nil {
		t.Fatalf("%v, %v", released, err)
	}
	if err := write(); err != nil {
		t.Errorf("with the reserve given up: %v", err)
	}
	if released, err := s.ReleaseReserve(); released || err != nil {
		t.Errorf("a second time: %v, %v", released, err)
	}
	if err := s.Reserve(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, reserveName)); !os.IsNotExist(err) {
		t.Errorf("a reserve was made on a full disk: %v", err)
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}
