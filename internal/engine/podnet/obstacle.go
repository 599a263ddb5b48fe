package podnet

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Obstacle is a chain of somebody else's firewall that drops what pods send, whatever our rules accept: a packet has to
// pass every table. Only the firewall's owner can say how to change it so that it stays changed.
type Obstacle struct {
	Chain string // in nft's words: family, table, chain
	Fix   string // commands that let pods through until the firewall is loaded again
}

// Obstacles looks for chains of nftables that drop what no rule of theirs accepts, and say nothing of the bridge. Those of
// iptables and firewalld are left out: these are told to let pods through.
func Obstacles(bridge string) ([]Obstacle, error) {
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing the chains of the packet filter: %w", err)
	}
	var list []Obstacle
	for _, c := range chains {
		family, ip := map[nftables.TableFamily]string{
			nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		}[c.Table.Family]
		if !ip || familiar(c) || c.Hooknum == nil || c.Type != nftables.ChainTypeFilter {
			continue
		}
		name := fmt.Sprintf("%s %s %s", family, c.Table.Name, c.Name)
		var fix []string
		switch *c.Hooknum {
		case *nftables.ChainHookForward:
			fix = []string{fmt.Sprintf("nft insert rule %s iifname %s accept", name, bridge), fmt.Sprintf("nft insert rule %s oifname %s accept", name, bridge)}
		case *nftables.ChainHookInput:
			if family == "ip6" {
				continue // the name server has no such address
			}
			fix = []string{fmt.Sprintf("nft insert rule %s iifname %s meta l4proto '{ tcp, udp }' th dport 53 accept", name, bridge)}
		default:
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil || !dropsRest(c, rules) || mention(rules, bridge) {
			continue // a chain that is gone does not drop
		}
		list = append(list, Obstacle{Chain: name, Fix: strings.Join(fix, "; ")})
	}
	return list, nil
}

// familiar reports whether a chain is ours, or of a firewall that is told to let pods through.
func familiar(c *nftables.Chain) bool {
	iptables := c.Table.Name == "filter" && (c.Name == "FORWARD" || c.Name == "INPUT")
	return iptables || c.Table.Name == "firewalld" || strings.HasPrefix(c.Table.Name, "trysail-")
}

// dropsRest reports whether the chain drops or rejects what none of its rules accepts.
func dropsRest(c *nftables.Chain, rules []*nftables.Rule) bool {
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return true
	}
	if len(rules) == 0 {
		return false
	}
	drops := false
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			drops = true
		case *expr.Verdict:
			drops = e.Kind == expr.VerdictDrop
		default:
			return false // it is for some packets only
		}
	}
	return drops
}

// mention reports whether one of the rules is about the network interface.
func mention(rules []*nftables.Rule, link string) bool {
	return slices.ContainsFunc(rules, func(r *nftables.Rule) bool {
		return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
			c, ok := e.(*expr.Cmp)
			return ok && bytes.Equal(bytes.TrimRight(c.Data, "\x00"), []byte(link))
		})
	})
}

// warn says once of each obstacle that it is there.
func (n *Network) warn(ctx context.Context) {
	now, err := Obstacles(n.cfg.Bridge)
	if err != nil {
		n.log.DebugContext(ctx, "cannot look for other firewalls", "error", err)
		return
	}
	for _, o := range now {
		if !slices.Contains(n.warned, o) {
			n.log.WarnContext(ctx, "another firewall drops what containers send; let them through", "chain", o.Chain, "command", o.Fix)
		}
	}
	n.warned = now
}
