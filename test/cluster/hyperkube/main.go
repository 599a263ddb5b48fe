// Hyperkube is all programs of Kubernetes that the test cluster runs, in one file: they share most of their code.
// The first argument says which of them it is.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	var c *cobra.Command
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "kube-apiserver":
			c = apiserver.NewAPIServerCommand()
		case "kube-controller-manager":
			c = controllers.NewControllerManagerCommand()
		case "kube-proxy":
			c = proxy.NewProxyCommand()
		case "kube-scheduler":
			c = scheduler.NewSchedulerCommand()
		case "kubelet":
			c = kubelet.NewKubeletCommand(context.Background())
		}
	}
	if c == nil {
		fmt.Fprintln(os.Stderr, "usage: hyperkube kube-apiserver | kube-controller-manager | kube-proxy | kube-scheduler | kubelet [flag…]")
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(cli.Run(c))
}
