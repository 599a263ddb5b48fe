package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// node is a node as the API shows it.
type node struct {
	Name         string    `json:"name"`
	State        string    `json:"state"`
	Message      string    `json:"message,omitempty"`
	Cordoned     bool      `json:"cordoned"`
	Pressures    []string  `json:"pressures"`
	OS           string    `json:"os"`
	Architecture string    `json:"architecture"`
	Version      string    `json:"version"`
	CreatedAt    float64   `json:"createdAt"` // Unix seconds
	MilliCPU     int64     `json:"milliCpu"`
	Memory       int64     `json:"memory"` // bytes
	ReservedCPU  int64     `json:"reservedMilliCpu"`
	ReservedMem  int64     `json:"reservedMemory"`
	MaxPods      int       `json:"maxPods,omitempty"`
	Pods         []nodePod `json:"pods"`
}

type nodePod struct {
	ID          string `json:"id"`
	ServiceName string `json:"serviceName,omitempty"`
}

func (a *App) nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the machines that run pods; empty one for work on it",
		Long: `List the machines that run pods: how much they have and how much of it is reserved for pods, which version runs the
containers, and what they run short of. Without --engine kubernetes there is one: this machine.

To work on a machine of a cluster, or to replace it:

  trysail nodes drain n1      its pods are started elsewhere, and when these are healthy, stopped here
  … work on the machine …
  trysail nodes uncordon n1   it takes pods again

Every service keeps its full scale the whole time. kubectl cordon and kubectl drain do the same.`,
		Example: `  trysail nodes
  trysail nodes -o json | jq '.nodes[] | select(.state != "READY")'
  trysail nodes drain n1 --timeout 20m`,
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		list, err := c.nodes(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"nodes": list})
		}
		return printNodes(a.screen(a.Out), list)
	}
	cmd.AddCommand(a.cordonCommand(), a.uncordonCommand(), a.drainCommand())
	return cmd
}

func (c *client) nodes(ctx context.Context) ([]node, error) {
	var out struct {
		Nodes []node `json:"nodes"`
	}
	err := c.call(ctx, "ListNodes", struct{}{}, &out)
	return out.Nodes, err
}

func printNodes(s screen, list []node) error {
	var rows [][]string
	for _, n := range list {
		cpu, memory, pods := fmt.Sprintf("%.0f", float64(n.MilliCPU)/1000), fmt.Sprintf("%.1f GB", float64(n.Memory)/(1<<30)), fmt.Sprint(len(n.Pods))
		if n.ReservedMem > 0 {
			cpu = fmt.Sprintf("%.2f of %s", float64(n.ReservedCPU)/1000, cpu)
			memory = fmt.Sprintf("%.1f of %s", float64(n.ReservedMem)/(1<<30), memory)
		}
		rows = append(rows, []string{
			clean(n.Name), s.paint(nodeColour(n), n.State), pods, cpu, memory, clean(n.Version), age(time.Since(unixTime(n.CreatedAt))),
			orDash(strings.Join(n.Pressures, ", ")), clean(n.Message),
		})
	}
	return s.table([]string{"NODE", s.paint(plain, "STATE"), "PODS", "CPU", "MEMORY", "VERSION", "AGE", "SHORT OF", ""}, rows)
}

func nodeColour(n node) string {
	switch {
	case n.State == "NOT_READY":
		return red
	case n.Cordoned || len(n.Pressures) > 0:
		return yellow
	}
	return green
}

// age shows a time span to people, in its largest unit.
func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%ds", int(max(0, d).Seconds()))
}

func (a *App) nodeNames() completer {
	return a.ask(func(ctx context.Context, c *client, _ []string) (names []string, err error) {
		list, err := c.nodes(ctx)
		for _, n := range list {
			names = append(names, n.Name+"\t"+n.State)
		}
		return names, err
	})
}

// nodeCommand makes a command that is about one node.
func (a *App) nodeCommand(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use + " NODE", Short: short, Long: short + ".\n\n" + long, Example: "  trysail nodes " + use + " n1",
		Args: exactArgs("NODE"), ValidArgsFunction: inOrder(a.nodeNames()),
	}
}

func (a *App) cordonCommand() *cobra.Command {
	cmd := a.nodeCommand("cordon", "Put no new pods on a node, and move those that it has",
		`The pods are moved one for one, while the command has long returned: each is started on another node, and the old one
is stopped when the new one is healthy. trysail nodes drain is the same and waits for the end.`)
	return a.changing(cmd, "CordonNode", func(n node) string {
		return fmt.Sprintf("Node %s takes no new pods; the %d that it has are being moved.", n.Name, len(n.Pods))
	})
}

func (a *App) uncordonCommand() *cobra.Command {
	cmd := a.nodeCommand("uncordon", "Let a node take pods again", "What has moved away stays where it is; new pods are spread over all nodes.")
	return a.changing(cmd, "UncordonNode", func(n node) string { return fmt.Sprintf("Node %s takes pods.", n.Name) })
}

// changing makes a command call an operation that changes its node, and say what came of it.
func (a *App) changing(cmd *cobra.Command, operation string, say func(node) string) *cobra.Command {
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		n, err := c.changeNode(cmd.Context(), operation, args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, n)
		}
		fmt.Fprintln(a.Out, say(n))
		return nil
	}
	return cmd
}

func (c *client) changeNode(ctx context.Context, operation, name string) (node, error) {
	var out struct {
		Node node `json:"node"`
	}
	err := c.call(ctx, operation, map[string]string{"nodeName": name}, &out)
	return out.Node, err
}

func (a *App) drainCommand() *cobra.Command {
	var w waiting
	cmd := a.nodeCommand("drain", "Move all pods of a node to others, and wait until it has none",
		`No service has fewer healthy pods than its scale at any time, and no request is cut. If the other nodes have no room,
nothing is begun. Commands that trysail run has started are not moved: the drain waits for their end.

When --timeout is over, or after Ctrl-C, the node stays cordoned and its pods go on moving; trysail nodes uncordon ends that.`)
	f := a.commonFlags(cmd)
	cmd.Flags().BoolVar(&w.wait, "wait", true, "wait until the node has no pods")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 10*time.Minute, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if w.timeout <= 0 {
			return Usagef("--timeout must be more than 0")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		n, err := c.changeNode(cmd.Context(), "CordonNode", args[0])
		if err != nil {
			return err
		}
		if w.wait {
			ctx, cancel := w.context(cmd.Context())
			defer cancel()
			if n, err = a.drain(ctx, c, n, asJSON); err != nil {
				return err
			}
		}
		switch {
		case asJSON:
			return printJSON(a.Out, n)
		case len(n.Pods) > 0:
			fmt.Fprintf(a.Out, "Node %s takes no new pods; the %d that it has are being moved.\n", n.Name, len(n.Pods))
		default:
			fmt.Fprintf(a.Out, "Node %s is empty. When it shall take pods again: trysail nodes uncordon %s\n", n.Name, n.Name)
		}
		return nil
	}
	return cmd
}

// drain waits until the node has no pods, and tells of each that has gone.
func (a *App) drain(ctx context.Context, c *client, n node, asJSON bool) (node, error) {
	w := a.watch(c, "", asJSON)
	began, told := time.Now(), map[string]bool{}
	if len(n.Pods) > 0 {
		w.line(plain, fmt.Sprintf("moving %s away from %s", count(len(n.Pods), "pod"), n.Name))
	}
	err := w.poll(ctx, func(ctx context.Context) (bool, error) {
		list, err := c.nodes(ctx)
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(list, func(other node) bool { return other.Name == n.Name })
		if i < 0 {
			w.line(yellow, "the node is gone")
			n.Pods = nil
			return true, nil
		}
		for _, gone := range withoutPods(n.Pods, list[i].Pods) {
			w.line(plain, fmt.Sprintf("%s has moved%s", gone.ID, newest(list, n, gone)))
		}
		n = list[i]
		if !n.Cordoned {
			return false, fmt.Errorf("node %s was uncordoned meanwhile", n.Name)
		}
		w.stage = fmt.Sprintf("%s left on %s", count(len(n.Pods), "pod"), n.Name)
		if len(n.Pods) == 0 {
			return true, nil
		}
		return false, c.tellTrouble(ctx, w, n, began, told)
	})
	if errors.Is(err, errTimeout) {
		err = WithHint(fmt.Errorf("%w; %s on %s: %s", errTimeout, count(len(n.Pods), "pod is", "pods are"), n.Name, strings.Join(podNames(n.Pods), ", ")),
			"They go on moving. See why they wait with: trysail ps SERVICE --all; give up with: trysail nodes uncordon %s", n.Name)
	}
	return n, err
}

// withoutPods are the pods that are not in now.
func withoutPods(before, now []nodePod) (list []nodePod) {
	for _, p := range before {
		if !slices.Contains(now, p) {
			list = append(list, p)
		}
	}
	return list
}

// newest says where the service of a pod runs now, besides the node that is being emptied.
func newest(list []node, emptied node, gone nodePod) string {
	var on []string
	for _, n := range list {
		if n.Name != emptied.Name && slices.ContainsFunc(n.Pods, func(p nodePod) bool { return p.ServiceName == gone.ServiceName }) {
			on = append(on, n.Name)
		}
	}
	if gone.ServiceName == "" || len(on) == 0 {
		return ""
	}
	return fmt.Sprintf("; %s runs on %s", gone.ServiceName, strings.Join(on, ", "))
}

func podNames(pods []nodePod) (names []string) {
	for _, p := range pods {
		names = append(names, p.ID)
	}
	return names
}

// tellTrouble says, once each, which starts of pods have failed since the drain has begun, of the services that wait.
func (c *client) tellTrouble(ctx context.Context, w *watch, n node, began time.Time, told map[string]bool) error {
	const patience = 5 * time.Second
	if time.Since(began) < patience {
		return nil
	}
	asked := map[string]bool{}
	for _, p := range n.Pods {
		if p.ServiceName == "" || asked[p.ServiceName] {
			continue
		}
		asked[p.ServiceName] = true
		var out struct {
			Pods []podInfo `json:"pods"`
		}
		if err := c.call(ctx, "ListPods", map[string]any{"serviceName": p.ServiceName, "ended": true}, &out); err != nil {
			if isCode(err, "NotFoundException") {
				continue // deleted meanwhile
			}
			return err
		}
		for _, pod := range slices.Backward(out.Pods) {
			if pod.State == "FAILED" && !unixTime(pod.CreatedAt).Before(began) && !told[pod.ID] {
				told[pod.ID] = true
				w.line(yellow, fmt.Sprintf("%s waits: %s did not start, as %s", p.ServiceName, pod.ID, pod.Reason))
			}
		}
	}
	return nil
}

// count puts a number before a word: 1 pod, 2 pods. The plural may be given.
func count(n int, one string, many ...string) string {
	if n == 1 {
		return "1 " + one
	}
	if len(many) > 0 {
		return fmt.Sprintf("%d %s", n, many[0])
	}
	return fmt.Sprintf("%d %ss", n, one)
}
