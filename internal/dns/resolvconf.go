package dns

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// Resolvers returns a function that lists the name servers of a resolv.conf, as the file is at that moment. Unlike a pod,
// this machine also reaches those on its loopback addresses.
func Resolvers(file string) func() []netip.AddrPort {
	r := &resolvConf{file: file}
	return r.servers
}

// resolvConf remembers a file as long as it does not change.
type resolvConf struct {
	file string

	mu      sync.Mutex // guards all below
	read    bool
	changed time.Time
	size    int64
	list    []netip.AddrPort
}

func (r *resolvConf) servers() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.file)
	if err != nil {
		return r.list // it is being replaced
	}
	if r.read && info.ModTime().Equal(r.changed) && info.Size() == r.size {
		return r.list
	}
	b, err := os.ReadFile(r.file)
	if err != nil {
		return r.list
	}
	r.read, r.changed, r.size, r.list = true, info.ModTime(), info.Size(), parseServers(string(b))
	return r.list
}

// maxServers is how many name servers are asked, as by the C library.
const maxServers = 3

func parseServers(text string) (list []netip.AddrPort) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(list) == maxServers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list
}
