package cri

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Sockets = (*Engine)(nil)

// Listeners implements engine.Sockets. It reads the kernel's tables of the pod's network namespace, and finds the
// programs by the sockets among their open files.
func (e *Engine) Listeners(_ context.Context, id trysail.PodID) ([]trysail.Listener, error) {
	pids, err := e.cgroups.processes(id)
	if err != nil {
		return nil, fmt.Errorf("finding the processes of pod %s: %w", id, err)
	}
	for _, pid := range pids {
		sockets, err := listeningSockets(pid)
		if err != nil {
			continue // it has ended meanwhile; any other process of the pod sees the same
		}
		return named(sockets, pids), nil
	}
	return nil, fmt.Errorf("pod %s has no process", id)
}

// processes lists the processes of the pod and of the cgroups below it.
func (g *cgroups) processes(id trysail.PodID) (pids []int, err error) {
	err = filepath.WalkDir(filepath.Join(g.dir("memory"), g.path(id)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		b, err := os.ReadFile(path) //nolint:gosec // the path is ours
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// socket is one line of the kernel's table of TCP sockets.
type socket struct {
	addr  netip.AddrPort
	inode string
}

func listeningSockets(pid int) (list []socket, err error) {
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			return nil, err
		}
		found, err := parseSockets(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

// parseSockets reads the listening sockets from a table in the form of /proc/net/tcp:
//
//	sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode
//	0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 …
func parseSockets(r io.Reader) (list []socket, err error) {
	const listening = "0A"
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 10 || f[3] != listening {
			continue
		}
		if addr, ok := parseAddrPort(f[1]); ok {
			list = append(list, socket{addr, f[9]})
		}
	}
	return list, s.Err()
}

// parseAddrPort reads an address as the kernel prints it: each 32-bit word in the machine's byte order, then the port.
func parseAddrPort(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(n)), true
}

// named adds the names of the programs that have the sockets open, as far as they can be found.
func named(sockets []socket, pids []int) []trysail.Listener {
	owner := map[string]string{} // inode → program
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		files, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(dir + "/comm") //nolint:gosec // the path is ours
		for _, f := range files {
			if link, err := os.Readlink(filepath.Join(dir, "fd", f.Name())); err == nil {
				if inode, ok := strings.CutPrefix(link, "socket:["); ok {
					owner[strings.TrimSuffix(inode, "]")] = strings.TrimSpace(string(comm))
				}
			}
		}
	}
	list := make([]trysail.Listener, 0, len(sockets))
	for _, s := range sockets {
		list = append(list, trysail.Listener{Address: s.addr, Process: owner[s.inode]})
	}
	slices.SortFunc(list, func(a, b trysail.Listener) int { return a.Address.Compare(b.Address) })
	return list
}
