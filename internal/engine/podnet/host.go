package podnet

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// hostTime bounds the calls of the tools of another firewall.
const hostTime = 30 * time.Second

// admitByHost asks the machine's other firewalls to let pods through. An accept in a table of ours would not help: the
// packet still passes the other tables. What a pod may reach is decided by our table, which it passes as well.
func admitByHost(ctx context.Context, cfg Config) {
	ctx, cancel := context.WithTimeout(ctx, hostTime)
	defer cancel()
	for what, do := range map[string]func(context.Context, Config) error{"iptables": admitByIptables, "firewalld": admitByFirewalld} {
		if err := do(ctx, cfg); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			cfg.Log.WarnContext(ctx, "cannot let pods through the host's firewall", "firewall", what, "error", err)
		}
	}
}

// admitByIptables lets packets from and to the bridge pass where the policy is to drop what is forwarded, as Docker and
// ufw set it (that would hit even packets between two pods), and lets pods ask the name server where the policy is to drop
// what comes in, as ufw sets it. Without iptables on the machine, nobody has set those policies with it.
func admitByIptables(ctx context.Context, cfg Config) error {
	forward := []string{"-i " + cfg.Bridge + " -j ACCEPT", "-o " + cfg.Bridge + " -j ACCEPT"}
	input := []string{"-d " + single(cfg.Gateway()).String() + " -i " + cfg.Bridge + " -j ACCEPT"}
	err := admitByTool(ctx, "iptables", map[string][]string{"FORWARD": forward, "INPUT": input})
	if cfg.Subnet6.IsValid() {
		err = errors.Join(err, admitByTool(ctx, "ip6tables", map[string][]string{"FORWARD": forward}))
	}
	return err
}

// admitByTool puts the rules at the head of their chains, as far as these drop what no rule accepts.
func admitByTool(ctx context.Context, tool string, chains map[string][]string) error {
	run := iptables(ctx, tool)
	for chain, wanted := range chains {
		rules, err := run("-S", chain)
		if err != nil || !strings.HasPrefix(rules, "-P "+chain+" DROP") {
			continue // no such tool, no such chain in this kernel, or nothing is dropped
		}
		for _, rule := range wanted {
			if strings.Contains(rules, "-A "+chain+" "+rule+"\n") {
				continue
			}
			if out, err := run(append([]string{"-I", chain}, strings.Fields(rule)...)...); err != nil {
				return fmt.Errorf("%s: %w: %s", tool, err, out)
			}
		}
	}
	return nil
}

// iptables returns a function that runs the tool. On a machine without it, each call fails.
func iptables(ctx context.Context, tool string) func(args ...string) (string, error) {
	path, err := exec.LookPath(tool)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + tool)
		}
	}
	return func(args ...string) (string, error) {
		if err != nil {
			return "", err
		}
		out, err := exec.CommandContext(ctx, path, append([]string{"-w", "5"}, args...)...).CombinedOutput() //nolint:gosec // fixed arguments
		return string(out), err
	}
}

// purgeIptables removes the rules that admitByIptables has added.
func purgeIptables(ctx context.Context, bridge string) error {
	ctx, cancel := context.WithTimeout(ctx, hostTime)
	defer cancel()
	var errs []error
	for _, tool := range []string{"iptables", "ip6tables"} {
		run := iptables(ctx, tool)
		for _, chain := range []string{"FORWARD", "INPUT"} {
			rules, err := run("-S", chain)
			if err != nil {
				continue // no such tool, or no such chain in this kernel
			}
			for line := range strings.Lines(rules) {
				f := strings.Fields(line)
				if f[0] != "-A" || !slices.Contains(f, bridge) || f[len(f)-1] != "ACCEPT" {
					continue
				}
				f[0] = "-D"
				if out, err := run(f...); err != nil {
					errs = append(errs, fmt.Errorf("removing a rule with %s: %w: %s", tool, err, out))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// admitByFirewalld puts the bridge into firewalld's zone for networks that are filtered elsewhere, until it is reloaded.
func admitByFirewalld(ctx context.Context, cfg Config) error {
	tool, err := exec.LookPath("firewall-cmd")
	if err != nil {
		return nil //nolint:nilerr // there is none
	}
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput() //nolint:gosec // fixed arguments
		return strings.TrimSpace(string(out)), err
	}
	zone, err := run("--get-zone-of-interface=" + cfg.Bridge)
	const notRunning = 252
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == notRunning || err == nil && zone == "trusted" {
		return nil
	}
	if out, err := run("--zone=trusted", "--change-interface="+cfg.Bridge); err != nil {
		return fmt.Errorf("firewall-cmd: %w: %s", err, out)
	}
	return nil
}
