package kit

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail/internal/engine/cri"
)

// forgetNetwork removes the bridge of the server's pods and the firewall rules that name it. A server leaves both when
// it stops: its pods may still run.
func (s *Server) forgetNetwork(ctx context.Context) error {
	bridge := s.bridge()
	if bridge == "" {
		return nil
	}
	return errors.Join(forgetRules(ctx, bridge), cri.Purge(cri.Config{Dir: filepath.Join(s.DataDir, "engine")}))
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
