// Command cluster runs a real Kubernetes cluster of several nodes on this one machine, for the tests of the Kubernetes
// engine:
//
//	cluster up [-nodes 3]     start it in the background, unless it runs, and print the path of its kubeconfig
//	cluster down              end it and remove everything it has made
//	cluster kill N            crash node N: all of its processes and containers end at once
//	cluster start N           start node N again
//	cluster cut N, heal N     take the network away from node N, which runs on, and give it back
//	cluster restart-api       end the API server with SIGKILL and start it again
//	cluster trust HOST CA     let the nodes pull from registry HOST, whose certificates the file CA vouches for
//	cluster install NS        make namespace NS as packaging/kubernetes has it
//	cluster remove NS         delete it with all that is in it
//
// It needs root, and what scripts/setup.sh cluster makes. Nothing is pulled from anywhere: the control plane and the
// kubelets are built from their Go modules, the nodes' containerd is the one inside the trysail program, and the only
// image is the sandbox's.
//
// A node is one process in namespaces of its own (mount, network, PID, UTS, IPC): to kill it is to crash the node, with
// all that runs there, and nothing stays behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "node" {
		fmt.Fprintln(os.Stderr, "node:", runNode(os.Args[2:]))
		os.Exit(1)
	}
	if len(os.Args) == 3 && os.Args[1] == "policies" {
		fmt.Fprintln(os.Stderr, "policies:", enforcePolicies(context.Background(), os.Args[2]))
		os.Exit(1)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if os.Getuid() != 0 {
		return errors.New("it needs root: nodes have namespaces, mounts and control groups")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var command string
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "up", "run":
		f := flag.NewFlagSet(command, flag.ExitOnError)
		nodes := f.Int("nodes", 3, "how many nodes, 1 to 9")
		if err := f.Parse(args); err != nil {
			return err
		}
		if *nodes < 1 || *nodes > maxNodes {
			return fmt.Errorf("-nodes must be 1 to %d", maxNodes)
		}
		if command == "run" {
			return supervise(ctx, *nodes)
		}
		return up(ctx, *nodes)
	case "down":
		return down(ctx)
	case "kill", "start", "cut", "heal":
		if len(args) != 1 {
			return fmt.Errorf("usage: cluster %s N", command)
		}
		if _, err := strconv.Atoi(args[0]); err != nil {
			return fmt.Errorf("%q is not the number of a node", args[0])
		}
		return tell(ctx, command+"/"+args[0])
	case "restart-api":
		return tell(ctx, "restart-api/0")
	case "install", "remove":
		if len(args) != 1 {
			return fmt.Errorf("usage: cluster %s NAMESPACE", command)
		}
		if command == "remove" {
			return remove(ctx, args[0])
		}
		return install(ctx, args[0])
	case "trust":
		if len(args) != 2 {
			return errors.New("usage: cluster trust HOST CA")
		}
		return trust(args[0], args[1])
	}
	return errors.New("usage: cluster up | down | kill N | start N | cut N | heal N | restart-api | trust HOST CA | install NS | remove NS")
}
