package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// labEnv names the test that is to be run in this process, which is alone in a network of its own and sees mounts of its
// own: the tests may do with rules, addresses and files what they like.
const labEnv = "TRYSAIL_TEST_LAB"

// inLab reports whether this process has a network of its own. If not, the test is run in one that has.
func inLab(t *testing.T) bool {
	t.Helper()
	if os.Getenv(labEnv) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root, to have a network of its own")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=9m")
	cmd.Env = append(os.Environ(), labEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// space is a network namespace: a pod, or the world outside.
type space struct {
	name   string
	handle *os.File // nil: that of this process
}

func newSpace(t *testing.T, name string) *space {
	t.Helper()
	s := &space{name: name}
	done := make(chan error, 1)
	onSpareThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		var err error
		s.handle, err = os.Open("/proc/thread-self/ns/net")
		done <- err
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.handle.Close() })
	s.in(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return s
}

// in calls do on a thread that is in the namespace.
func (s *space) in(t *testing.T, do func() error) {
	t.Helper()
	if s.handle == nil {
		if err := do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		return
	}
	done := make(chan error, 1)
	onSpareThread(func() {
		if err := unix.Setns(int(s.handle.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- do()
	})
	if err := <-done; err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
}

// plug connects the namespace by a cable; eth0 is its end there. It returns the other end.
func (s *space) plug(t *testing.T, end string, addrs ...string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = end
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer-" + end, PeerNamespace: netlink.NsFd(int(s.handle.Fd()))}
	if err := netlink.LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	s.in(t, func() error {
		l, err := netlink.LinkByName("peer-" + end)
		if err == nil {
			err = netlink.LinkSetName(l, "eth0")
		}
		for _, a := range addrs {
			addr, parseErr := netlink.ParseAddr(a)
			if err = errors.Join(err, parseErr); err == nil {
				if addr.IP.To4() == nil {
					addr.Flags = unix.IFA_F_NODAD
				}
				err = netlink.AddrAdd(l, addr)
			}
		}
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		return err
	})
	l, err := netlink.LinkByName(end)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (s *space) route(t *testing.T, gateway netip.Addr) {
	t.Helper()
	s.in(t, func() error { return netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}) })
}

// serve answers every connection and every packet at the address with a text.
func (s *space) serve(t *testing.T, network, addr, text string) {
	t.Helper()
	var end io.Closer
	s.in(t, func() error {
		if network == "tcp" {
			l, err := net.Listen(network, addr)
			if err != nil {
				return err
			}
			end = l
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprintf(c, "%s to %s", text, host(c.RemoteAddr()))
					c.Close()
				}
			}()
			return nil
		}
		p, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		end = p
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := p.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = p.WriteTo([]byte(text+" to "+host(from)), from)
				}
			}
		}()
		return nil
	})
	t.Cleanup(func() { end.Close() })
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

// patience is how long an answer may take. It is only waited for where there is none.
const (
	patience    = 20 * time.Second
	noPatience  = 400 * time.Millisecond
	denied      = "denied"
	udpAttempts = 8
)

// ask connects from the namespace and returns the answer, or denied. hopeful says that one is expected.
func (s *space) ask(t *testing.T, network, addr string, hopeful bool) (answer string) {
	t.Helper()
	wait := noPatience
	if hopeful {
		wait = patience
	}
	answer = denied
	s.in(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil
		}
		defer c.Close()
		if network == "tcp" {
			_ = c.SetDeadline(time.Now().Add(wait))
			if b, err := io.ReadAll(c); err == nil && len(b) > 0 {
				answer = string(b)
			}
			return nil
		}
		answer = exchange(c, wait)
		return nil
	})
	return answer
}

// exchange sends a packet, again and again if need be, and returns the answer.
func exchange(c net.Conn, wait time.Duration) string {
	buf := make([]byte, 100)
	for range udpAttempts {
		_, _ = c.Write([]byte("?"))
		_ = c.SetReadDeadline(time.Now().Add(wait / udpAttempts))
		if n, err := c.Read(buf); err == nil {
			return string(buf[:n])
		}
	}
	return denied
}

// lab is a machine with a network of pods and a world around it.
type lab struct {
	cfg      Config
	network  *Network
	host     *space
	internet *space
	pods     map[string]*space
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func set(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	hostAddr     = "203.0.113.1"
	internetAddr = "198.51.100.7"
	metadataAddr = "169.254.169.254"

	hostAddr6     = "2001:db8:1::1"
	internetAddr6 = "2001:db8:7::7"
	metadataAddr6 = "fd00:ec2::254"
)

// literal is an IPv4 address with what follows an address in a text: a port, or nothing.
var literal = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+)(:\d+)?`)

// six puts the IPv6 addresses of everything in place of its IPv4 addresses.
func (x *lab) six(text string) string {
	others := map[string]string{
		hostAddr: hostAddr6, "203.0.113.2": "2001:db8:1::2", internetAddr: internetAddr6, metadataAddr: metadataAddr6, "127.0.0.1": "::1",
	}
	return literal.ReplaceAllStringFunc(text, func(s string) string {
		part := literal.FindStringSubmatch(s)
		to := others[part[1]]
		if to == "" {
			to = x.cfg.Six(netip.MustParseAddr(part[1])).String()
		}
		if part[2] != "" {
			to = "[" + to + "]" + part[2]
		}
		return to
	})
}

// newLab makes the machine, with an edge on ports 80 and 443.
func newLab(t *testing.T) *lab {
	t.Helper()
	run(t, "ip", "link", "set", "lo", "up")
	set(t, "/proc/sys/net/ipv4/ip_forward", "1")
	x := &lab{host: &space{name: "host"}, pods: map[string]*space{}}
	x.internet = newSpace(t, "internet")
	x.internet.plug(t, "eth0", "203.0.113.2/24", internetAddr+"/32", metadataAddr+"/32", "2001:db8:1::2/64", internetAddr6+"/128", metadataAddr6+"/128")
	run(t, "ip", "addr", "add", hostAddr+"/24", "dev", "eth0")
	run(t, "ip", "route", "add", "default", "via", "203.0.113.2")
	run(t, "ip", "addr", "add", hostAddr6+"/64", "dev", "eth0", "nodad")
	run(t, "ip", "route", "add", "default", "via", "2001:db8:1::2")
	x.cfg = Config{
		ID: "12345678", Bridge: "trysail0", Subnet: netip.MustParsePrefix("10.99.0.0/24"), Subnet6: netip.MustParsePrefix("fd42:1:2:3::/64"), File: t.TempDir() + "/services.json",
		Edge: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("0.0.0.0:443")},
		Log:  slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	x.cfg.Resolvers = []netip.Addr{x.cfg.Gateway()}
	x.open(t)
	t.Cleanup(func() { x.network.Close() })
	return x
}

func (x *lab) open(t *testing.T) {
	t.Helper()
	var err error
	if x.network, err = Open(t.Context(), x.cfg); err != nil {
		t.Fatal(err)
	}
}

// pod makes a pod with the address, as the CNI plugin would.
func (x *lab) pod(t *testing.T, name, addr string) *space {
	t.Helper()
	s := newSpace(t, name)
	end := s.plug(t, "v-"+name, addr+"/24")
	bridge, err := netlink.LinkByName(x.cfg.Bridge)
	if err == nil {
		err = errors.Join(netlink.LinkSetMaster(end, bridge), netlink.LinkSetHairpin(end, true))
	}
	if err != nil {
		t.Fatal(err)
	}
	x.admit(t, s, addr)
	s.route(t, x.cfg.Gateway())
	x.pods[name] = s
	return s
}

func (x *lab) admit(t *testing.T, s *space, addr string) {
	t.Helper()
	if err := x.network.Admit(fmt.Sprintf("/proc/self/fd/%d", s.handle.Fd()), netip.MustParseAddr(addr)); err != nil {
		t.Fatal(err)
	}
}

func routeAdd(to netip.Prefix, via netip.Addr) error {
	dst := &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
	return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()})
}
