package cri

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/internal/engine/podnet"
)

// socket is a TCP socket that listens, or a UDP socket that has an address and no peer.
type socket struct {
	addr  netip.AddrPort
	udp   bool
	inode uint64
}

// protocols are the kernel's tables of sockets.
var protocols = [...]struct {
	table            string // in /proc/<pid>/net
	family, protocol uint8
	state            uint8 // of those that wait for somebody: TCP_LISTEN, TCP_CLOSE
}{
	{"tcp", unix.AF_INET, unix.IPPROTO_TCP, 10},
	{"tcp6", unix.AF_INET6, unix.IPPROTO_TCP, 10},
	{"udp", unix.AF_INET, unix.IPPROTO_UDP, 7},
	{"udp6", unix.AF_INET6, unix.IPPROTO_UDP, 7},
}

// maxListening bounds how many sockets of one kind are looked at.
const maxListening = 1024

// tableSockets reads the sockets from the tables that a process sees. On a machine with much memory that takes the kernel
// milliseconds, as it walks the connections of all namespaces; socketQuery does not.
func tableSockets(pid int) (list []socket, err error) {
	for _, p := range protocols {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, p.table))
		if errors.Is(err, os.ErrNotExist) && p.family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		found, err := parseSockets(f, p.state, p.protocol == unix.IPPROTO_UDP)
		f.Close()
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

// parseSockets reads the sockets in a state from a table in the form of /proc/net/tcp:
//
//	sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode
//	0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 …
func parseSockets(r io.Reader, state uint8, udp bool) (list []socket, err error) {
	s := bufio.NewScanner(r)
	want := fmt.Sprintf("%02X", state)
	for s.Scan() && len(list) < maxListening {
		f := strings.Fields(s.Text())
		if len(f) < 10 || f[3] != want {
			continue
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if addr, ok := parseAddrPort(f[1]); ok && err == nil {
			list = append(list, socket{addr, udp, inode})
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

// socketQuery asks the kernel for the sockets of one network namespace over netlink (sock_diag(7)).
type socketQuery struct {
	fd  int
	seq uint32 // of the last question, so that a late answer is not taken for that of another
	buf []byte
}

// openSocketQuery makes a query for the namespace that the process is in. It can then be used from anywhere.
func openSocketQuery(pid int) (q *socketQuery, err error) {
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	err = podnet.Within(namespace, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err == nil {
			q = &socketQuery{fd: fd, buf: make([]byte, 32<<10)}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// The kernel answers at once; this is against waiting for ever if it does not.
	if err := unix.SetsockoptTimeval(q.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return q, nil
}

// Close releases the socket.
func (q *socketQuery) Close() error { return unix.Close(q.fd) }

// sockets lists who waits for whom.
func (q *socketQuery) sockets() (list []socket, err error) {
	for _, p := range protocols {
		found, err := q.dump(p.family, p.protocol, p.state)
		if err != nil {
			return nil, fmt.Errorf("asking the kernel for the sockets of a pod: %w", err)
		}
		list = append(list, found...)
	}
	return list, nil
}

// dump asks for one kind of socket.
func (q *socketQuery) dump(family, protocol, state uint8) (list []socket, err error) {
	const header, request = unix.SizeofNlMsghdr, 56 // struct inet_diag_req_v2
	msg := make([]byte, header+request)
	order := binary.NativeEndian
	order.PutUint32(msg[0:], header+request)
	order.PutUint16(msg[4:], unix.SOCK_DIAG_BY_FAMILY)
	order.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	q.seq++
	order.PutUint32(msg[8:], q.seq)
	msg[header], msg[header+1] = family, protocol
	order.PutUint32(msg[header+4:], 1<<state)
	if err := unix.Sendto(q.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for {
		n, _, err := unix.Recvfrom(q.fd, q.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(q.buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if m.Header.Seq != q.seq {
				continue
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return list, nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return nil, unix.EPROTO
				}
				return nil, unix.Errno(-int32(order.Uint32(m.Data))) //nolint:gosec // a negative errno
			}
			if s, ok := parseDiag(m.Data, protocol == unix.IPPROTO_UDP); ok && len(list) < maxListening {
				list = append(list, s)
			}
		}
	}
}

// parseDiag reads the kernel's struct inet_diag_msg. In its part that names the socket the port comes at 4, the
// address at 8; the inode is the last word.
func parseDiag(b []byte, udp bool) (s socket, ok bool) {
	const size = 72
	if len(b) < size {
		return s, false
	}
	var addr netip.Addr
	switch b[0] {
	case unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(b[8:12]))
	case unix.AF_INET6:
		addr = netip.AddrFrom16([16]byte(b[8:24]))
	default:
		return s, false
	}
	port := binary.BigEndian.Uint16(b[4:])
	return socket{netip.AddrPortFrom(addr, port), udp, uint64(binary.NativeEndian.Uint32(b[68:]))}, true
}
