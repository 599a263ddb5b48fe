package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

func (a *App) servicesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "services [SERVICE]",
		Aliases:           []string{"ls"},
		Short:             "List the services",
		Example:           "  trysail services\n  trysail services web -o json | jq -r '.containerServices[0].url'",
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		in := &lightsail.GetContainerServicesInput{}
		if len(args) > 0 {
			in.ServiceName = &args[0]
		}
		out, err := c.GetContainerServices(ctx, in)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, wire(out))
		}
		if len(out.ContainerServices) == 0 {
			fmt.Fprintln(a.Err, "There is no service yet. Make one with: trysail create NAME")
			return nil
		}
		return a.printServices(out.ContainerServices)
	})
}

func (a *App) printServices(services []types.ContainerService) error {
	s := a.screen(a.Out)
	var rows [][]string
	for _, svc := range services {
		rows = append(rows, []string{
			aws.ToString(svc.ContainerServiceName), s.state(string(svc.State)), string(svc.Power),
			strconv.Itoa(int(aws.ToInt32(svc.Scale))), versions(&svc), aws.ToString(svc.Url),
		})
	}
	return s.table([]string{"SERVICE", s.state("STATE"), "POWER", "SCALE", "VERSION", "URL"}, rows)
}

// versions shows the ACTIVE version and, behind an arrow, the one that shall replace it.
func versions(s *types.ContainerService) string {
	text := "-"
	if d := s.CurrentDeployment; d != nil {
		text = strconv.Itoa(int(aws.ToInt32(d.Version)))
	}
	if d := s.NextDeployment; d != nil {
		text += " → " + strconv.Itoa(int(aws.ToInt32(d.Version)))
	}
	return text
}

// capacity is the power and scale of a service as flags.
type capacity struct {
	power string
	scale int
}

func (p *capacity) flags(cmd *cobra.Command, power string, scale int) {
	cmd.Flags().StringVar(&p.power, "power", power, "size of each node: nano, micro, small, medium, large or xlarge")
	cmd.Flags().IntVar(&p.scale, "scale", scale, "number of nodes, 1 to 20")
	must(cmd.RegisterFlagCompletionFunc("power",
		cobra.FixedCompletions([]string{"nano", "micro", "small", "medium", "large", "xlarge"}, cobra.ShellCompDirectiveNoFileComp)))
}

// waiting is whether and how long a command waits for what it started.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (w *waiting) flags(cmd *cobra.Command, until string) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until "+until)
	cmd.Flags().DurationVar(&w.timeout, "timeout", 10*time.Minute, "how long --wait waits; what was started goes on after it")
}

func (w *waiting) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, w.timeout, errTimeout)
}

var errTimeout = errors.New("the time of --timeout is over")

func (a *App) createCommand() *cobra.Command {
	var size capacity
	var w waiting
	var tags []string
	var file string
	cmd := &cobra.Command{
		Use:   "create SERVICE",
		Short: "Make a service",
		Example: `  trysail create web
  trysail create web --power small --scale 2 -f web.json --wait`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := a.commonFlags(cmd)
	size.flags(cmd, "nano", 1)
	w.flags(cmd, "the service is ready, or its first deployment ACTIVE or FAILED")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "tag of the service, KEY or KEY=VALUE; may be given several times")
	cmd.Flags().StringVarP(&file, "file", "f", "", "first deployment, a file as for trysail deploy")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := &lightsail.CreateContainerServiceInput{
			ServiceName: &args[0], Power: types.ContainerServicePowerName(size.power), Scale: aws.Int32(int32(size.scale)), Tags: parseTags(tags), //nolint:gosec // the server refuses what is out of range
		}
		if file != "" {
			d, err := a.readDeployment(file, args[0])
			if err != nil {
				return err
			}
			in.Deployment = &types.ContainerServiceDeploymentRequest{Containers: d.Containers, PublicEndpoint: d.PublicEndpoint}
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		out, err := c.CreateContainerService(cmd.Context(), in)
		if err != nil {
			return err
		}
		if !w.wait {
			return a.printService(out.ContainerService, asJSON)
		}
		if in.Deployment != nil {
			return a.waitDeployment(cmd.Context(), c, w, args[0], 1, asJSON)
		}
		return a.waitService(cmd.Context(), c, w, args[0], asJSON)
	}
	return cmd
}

func parseTags(tags []string) []types.Tag {
	var list []types.Tag
	for _, tag := range tags {
		key, value, ok := strings.Cut(tag, "=")
		t := types.Tag{Key: &key}
		if ok {
			t.Value = &value
		}
		list = append(list, t)
	}
	return list
}

func (a *App) printService(s *types.ContainerService, asJSON bool) error {
	if asJSON {
		return printJSON(a.Out, map[string]any{"containerService": wire(s)})
	}
	return a.printServices([]types.ContainerService{*s})
}

func (a *App) updateCommand() *cobra.Command {
	var size capacity
	var w waiting
	var disable, enable bool
	cmd := &cobra.Command{
		Use:   "update SERVICE",
		Short: "Change the power or scale of a service, or disable or enable it",
		Example: `  trysail update web --scale 3 --wait
  trysail update web --disable`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	size.flags(cmd, "", 0)
	w.flags(cmd, "the change is done")
	cmd.Flags().BoolVar(&disable, "disable", false, "stop all nodes; the URL answers 503")
	cmd.Flags().BoolVar(&enable, "enable", false, "start the last active deployment again, at the same URL")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := &lightsail.UpdateContainerServiceInput{ServiceName: &args[0]}
		if err := size.change(cmd, in); err != nil {
			return err
		}
		switch {
		case disable && enable:
			return Usagef("--disable and --enable exclude each other")
		case disable || enable:
			in.IsDisabled = &disable
		case in.Power == "" && in.Scale == nil:
			return Usagef("nothing to change: give --power, --scale, --disable or --enable")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		out, err := c.UpdateContainerService(cmd.Context(), in)
		if err != nil {
			return err
		}
		if w.wait {
			return a.waitService(cmd.Context(), c, w, args[0], asJSON)
		}
		return a.printService(out.ContainerService, asJSON)
	}
	return cmd
}

// change puts the flags that were given into the request.
func (p *capacity) change(cmd *cobra.Command, in *lightsail.UpdateContainerServiceInput) error {
	if cmd.Flags().Changed("power") {
		if p.power == "" {
			return Usagef("--power is empty")
		}
		in.Power = types.ContainerServicePowerName(p.power)
	}
	if cmd.Flags().Changed("scale") {
		in.Scale = aws.Int32(int32(p.scale)) //nolint:gosec // the server refuses what is out of range
	}
	return nil
}

func (a *App) deleteCommand() *cobra.Command {
	var w waiting
	var yes bool
	cmd := &cobra.Command{
		Use:               "delete SERVICE",
		Short:             "Delete a service with its deployments, images, logs and URL",
		Example:           `  trysail delete web --yes --wait`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	w.flags(cmd, "the service is gone")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if !yes {
			if err := a.confirm(fmt.Sprintf("Delete service %s with its deployments, images, logs and URL for good?", clean(args[0]))); err != nil {
				return err
			}
		}
		if _, err := c.DeleteContainerService(ctx, &lightsail.DeleteContainerServiceInput{ServiceName: &args[0]}); err != nil {
			return err
		}
		if w.wait {
			if err := a.waitGone(ctx, c, w, args[0], asJSON); err != nil {
				return err
			}
			return a.done(asJSON, "Service %s is gone.", clean(args[0]))
		}
		return a.done(asJSON, "Service %s is being deleted.", clean(args[0]))
	})
}

// confirm asks on the terminal. Without one there is nobody to ask.
func (a *App) confirm(question string) error {
	if in, ok := a.In.(interface{ Fd() uintptr }); !ok || !isTerminal(in.Fd()) {
		return Usagef("there is no terminal to ask on: add --yes")
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(a.Err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

func (a *App) deploymentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "deployments SERVICE",
		Short:             "List the deployments of a service, newest first",
		Example:           `  trysail deployments web`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		out, err := c.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &args[0]})
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, wire(out))
		}
		if len(out.Deployments) == 0 {
			fmt.Fprintf(a.Err, "Service %s has no deployment yet. Make one with: trysail deploy %s -f FILE\n", args[0], args[0])
			return nil
		}
		return a.printDeployments(out.Deployments)
	})
}

func (a *App) printDeployments(deployments []types.ContainerServiceDeployment) error {
	s := a.screen(a.Out)
	var rows [][]string
	for _, d := range deployments {
		var containers []string
		for _, name := range containerNames(&d) {
			containers = append(containers, name+"="+aws.ToString(d.Containers[name].Image))
		}
		endpoint := "-"
		if e := d.PublicEndpoint; e != nil {
			endpoint = fmt.Sprintf("%s:%d", aws.ToString(e.ContainerName), aws.ToInt32(e.ContainerPort))
		}
		rows = append(rows, []string{
			strconv.Itoa(int(aws.ToInt32(d.Version))), s.state(string(d.State)), when(d.CreatedAt), endpoint, strings.Join(containers, " "),
		})
	}
	return s.table([]string{"VERSION", s.state("STATE"), "CREATED", "ENDPOINT", "CONTAINERS"}, rows)
}
