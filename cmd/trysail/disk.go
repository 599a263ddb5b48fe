package main

import "golang.org/x/sys/unix"

// diskUsed is the share of the disk of dir that is in use, 0 to 1, as df has it: what only root may fill counts as used.
// It is 0 when that cannot be found out.
func diskUsed(dir string) float64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks == 0 {
		return 0
	}
	used := st.Blocks - st.Bfree
	return float64(used) / float64(used+st.Bavail)
}
