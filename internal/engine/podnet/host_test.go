package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAdmitByIptables_LetsPodsThroughDockersPolicy works in a network of its own, so that the machine's rules stay.
func TestAdmitByIptables_LetsPodsThroughDockersPolicy(t *testing.T) {
	cfg := Config{Bridge: "trysail0", Subnet: netip.MustParsePrefix("10.92.0.0/20")}
	done := make(chan error, 1)
	var rules [3]string
	onSpareThread(func() { // the network ends with the thread
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			list := func(i int) error {
				out, err := exec.Command("iptables", "-S", "FORWARD").CombinedOutput()
				rules[i] = string(out)
				return err
			}
			if err := errors.Join(admitByIptables(t.Context(), cfg), list(0)); err != nil {
				return err
			}
			if out, err := exec.Command("iptables", "-P", "FORWARD", "DROP").CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if err := errors.Join(admitByIptables(t.Context(), cfg), list(1)); err != nil {
				return err
			}
			return errors.Join(admitByIptables(t.Context(), cfg), list(2))
		}()
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if strings.Contains(rules[0], "trysail0") {
		t.Errorf("rules where nothing is dropped:\n%s", rules[0])
	}
	if want := "-P FORWARD DROP\n-A FORWARD -o trysail0 -j ACCEPT\n-A FORWARD -i trysail0 -j ACCEPT\n"; rules[1] != want || rules[2] != want {
		t.Errorf("rules:\n%s\nand the second time:\n%s\nwant:\n%s", rules[1], rules[2], want)
	}
}
