package kit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
)

// forgetNetwork removes the bridge of the server's pods and the firewall rules that name it. A server leaves both when
// it stops: its pods may still run.
func (s *Server) forgetNetwork(ctx context.Context) error {
	bridge := s.bridge()
	if bridge == "" {
		return nil
	}
	errs := []error{forgetRules(ctx, bridge)}
	if link, err := net.InterfaceByName(bridge); err == nil {
		errs = append(errs, deleteLink(link.Index))
	}
	return errors.Join(errs...)
}

// forgetRules deletes every iptables rule that names the bridge.
func forgetRules(ctx context.Context, bridge string) error {
	out, err := exec.CommandContext(ctx, "iptables-save").Output()
	if err != nil {
		return nil // a machine without iptables has no rules
	}
	table := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		rule, ok := strings.CutPrefix(line, "-A ")
		if !ok || !strings.Contains(rule, bridge) {
			continue
		}
		// The shell takes the quotes of iptables-save apart; the rule is the kernel's own text.
		cmd := exec.CommandContext(ctx, "sh", "-c", "iptables -w -t "+table+" -D "+rule)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("deleting the firewall rule %q: %w: %s", rule, err, out)
		}
	}
	return nil
}

// deleteLink removes a network device. It does what "ip link delete" does, which a small system may not have.
func deleteLink(index int) error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("deleting a network device: %w", err)
	}
	defer syscall.Close(fd)
	order := binary.NativeEndian
	msg := make([]byte, syscall.NLMSG_HDRLEN+syscall.SizeofIfInfomsg)
	order.PutUint32(msg[0:], uint32(len(msg)))
	order.PutUint16(msg[4:], syscall.RTM_DELLINK)
	order.PutUint16(msg[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_ACK)
	order.PutUint32(msg[syscall.NLMSG_HDRLEN+4:], uint32(index))
	if err := syscall.Sendto(fd, msg, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return fmt.Errorf("deleting a network device: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("deleting a network device: %w", err)
	}
	if n < syscall.NLMSG_HDRLEN+4 {
		return errors.New("deleting a network device: the kernel's answer is too short")
	}
	if code := int32(order.Uint32(answer[syscall.NLMSG_HDRLEN:])); code != 0 {
		return fmt.Errorf("deleting a network device: %w", syscall.Errno(-code))
	}
	return nil
}
