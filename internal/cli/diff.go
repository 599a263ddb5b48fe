package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"

	"github.com/trysail/trysail"
)

func (a *App) diffCommand() *cobra.Command {
	var values, exitCode bool
	cmd := &cobra.Command{
		Use:   "diff SERVICE [A] [B]",
		Short: "Compare two versions, or a version with a deployment file",
		Long: `Compare two versions of a service, or a version with a deployment file. A and B are numbers of versions, or files as for
trysail deploy; - reads standard input.

Without B, A is compared with what serves now, and without both, what served before with what serves now. Values of
environment variables are not shown unless --values is given: they may be secrets.`,
		Example: `  trysail diff web
  trysail diff web web.json
  trysail diff web 3 5`,
		Args:              rangeArgs(1, "SERVICE", "A", "B"),
		ValidArgsFunction: a.completeVersion,
	}
	cmd.Flags().BoolVar(&values, "values", false, "show the values of environment variables")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "end with status 1 if there is a difference")
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		before, after, err := a.sides(ctx, c, args[0], args[1:])
		if err != nil {
			return err
		}
		diff := compare(before.fields, after.fields, values)
		if asJSON {
			err = printJSON(a.Out, map[string]any{"before": before.name, "after": after.name, "diff": diff})
		} else {
			printDiff(a.screen(a.Out), before.name, after.name, diff)
		}
		if err == nil && exitCode && len(diff) > 0 {
			return errSilent
		}
		return err
	})
}

// side is one of two deployments that are compared.
type side struct {
	name   string
	fields map[string]string
}

// sides finds what the arguments behind the service name.
func (a *App) sides(ctx context.Context, c *client, service string, args []string) (before, after side, err error) {
	list, err := c.deployments(ctx, service)
	if err != nil {
		return before, after, err
	}
	current := slices.IndexFunc(list, func(d types.ContainerServiceDeployment) bool {
		return d.State == types.ContainerServiceDeploymentStateActive
	})
	if len(args) < 2 && current < 0 {
		return before, after, WithHint(fmt.Errorf("no version of service %q serves now", service), "Name two: trysail diff %s A B; see trysail deployments %s", service, service)
	}
	var now string
	if current >= 0 {
		now = strconv.Itoa(int(aws.ToInt32(list[current].Version)))
	}
	switch len(args) {
	case 0:
		earlier, err := servedBefore(list)
		if err != nil {
			return before, after, WithHint(err, "Name two: trysail diff %s A B; see trysail deployments %s", service, service)
		}
		args = []string{strconv.Itoa(int(aws.ToInt32(earlier.Version))), now}
	case 1:
		args = []string{now, args[0]}
		if n, err := strconv.Atoi(args[1]); err == nil && n > 0 { // an older version comes first
			args[0], args[1] = args[1], now
		}
	}
	if before, err = a.side(list, service, args[0]); err != nil {
		return before, after, err
	}
	after, err = a.side(list, service, args[1])
	return before, after, err
}

// side is a version of the list, or a file.
func (a *App) side(list []types.ContainerServiceDeployment, service, name string) (side, error) {
	if n, err := strconv.Atoi(name); err == nil {
		d, err := versionOf(list, service, n)
		if err != nil {
			return side{}, err
		}
		return side{"version " + name, deploymentFields(d.Containers, d.PublicEndpoint)}, nil
	}
	in, err := a.readDraft(name, service)
	if errors.Is(err, os.ErrNotExist) {
		return side{}, fmt.Errorf("%q is neither a version nor a file", name)
	}
	if err != nil {
		return side{}, err
	}
	var endpoint *types.ContainerServiceEndpoint
	if e := in.PublicEndpoint; e != nil {
		endpoint = &types.ContainerServiceEndpoint{ContainerName: e.ContainerName, ContainerPort: e.ContainerPort, HealthCheck: e.HealthCheck}
	}
	return side{name, deploymentFields(in.Containers, endpoint)}, nil
}

// deployments are the versions of a service that are kept, newest first.
func (c *client) deployments(ctx context.Context, service string) ([]types.ContainerServiceDeployment, error) {
	out, err := c.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &service})
	if err != nil {
		return nil, err
	}
	return out.Deployments, nil
}

// versionOf finds a version in a list.
func versionOf(list []types.ContainerServiceDeployment, service string, version int) (*types.ContainerServiceDeployment, error) {
	for i := range list {
		if int(aws.ToInt32(list[i].Version)) == version {
			return &list[i], nil
		}
	}
	return nil, WithHint(fmt.Errorf("service %q has no version %d", service, version), "See which there are with: trysail deployments %s", service)
}

// servedBefore finds the version that served before the one that serves now.
func servedBefore(list []types.ContainerServiceDeployment) (*types.ContainerServiceDeployment, error) {
	for i := range list {
		if list[i].State == types.ContainerServiceDeploymentStateInactive {
			return &list[i], nil
		}
	}
	return nil, errors.New("no earlier version that has served is kept")
}

// withDefaults fills in what the API does for a health check.
func withDefaults(h *types.ContainerServiceHealthCheckConfig) *types.ContainerServiceHealthCheckConfig {
	std := trysail.DefaultHealthCheck()
	full := types.ContainerServiceHealthCheckConfig{
		HealthyThreshold: aws.Int32(int32(std.HealthyThreshold)), UnhealthyThreshold: aws.Int32(int32(std.UnhealthyThreshold)), //nolint:gosec // small constants
		TimeoutSeconds: aws.Int32(int32(std.TimeoutSeconds)), IntervalSeconds: aws.Int32(int32(std.IntervalSeconds)), //nolint:gosec // small constants
		Path: &std.Path, SuccessCodes: &std.SuccessCodes,
	}
	if h == nil {
		return &full
	}
	replace(&full.HealthyThreshold, h.HealthyThreshold)
	replace(&full.UnhealthyThreshold, h.UnhealthyThreshold)
	replace(&full.TimeoutSeconds, h.TimeoutSeconds)
	replace(&full.IntervalSeconds, h.IntervalSeconds)
	replace(&full.Path, h.Path)
	replace(&full.SuccessCodes, h.SuccessCodes)
	return &full
}

func replace[T any](old **T, with *T) {
	if with != nil {
		*old = with
	}
}

// deploymentFields flattens a deployment into the paths that its file has.
func deploymentFields(containers map[string]types.Container, endpoint *types.ContainerServiceEndpoint) map[string]string {
	all := map[string]any{"containers": wire(containers)}
	if endpoint != nil {
		full := *endpoint
		full.HealthCheck = withDefaults(endpoint.HealthCheck)
		all["publicEndpoint"] = wire(full)
	}
	fields := map[string]string{}
	flatten(fields, "", all)
	return fields
}

func flatten(fields map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			flatten(fields, join(path, name), member)
		}
	case []any:
		var text strings.Builder
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false) // people read it
		if err := e.Encode(v); err == nil && len(v) > 0 {
			fields[path] = strings.TrimSpace(text.String())
		}
	default:
		fields[path] = fmt.Sprint(v)
	}
}

// compare lists what differs, ordered by field.
func compare(before, after map[string]string, values bool) []trysail.Difference {
	all := maps.Clone(before)
	maps.Copy(all, after)
	diff := []trysail.Difference{}
	for _, f := range slices.Sorted(maps.Keys(all)) {
		b, inBefore := before[f]
		n, inAfter := after[f]
		if inBefore == inAfter && b == n {
			continue
		}
		if strings.Contains(f, ".environment.") && !values {
			b, n = hide(inBefore, "(set)"), hide(inAfter, "(set)")
			if inBefore && inAfter {
				n = "(set to something else)"
			}
		}
		diff = append(diff, trysail.Difference{Field: f, Before: b, After: n})
	}
	return diff
}

func hide(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

func printDiff(s screen, before, after string, diff []trysail.Difference) {
	if len(diff) == 0 {
		fmt.Fprintf(s, "There is no difference between %s and %s.\n", clean(before), clean(after))
		return
	}
	fmt.Fprintf(s, "From %s to %s:\n\n", clean(before), clean(after))
	for _, d := range diff {
		fmt.Fprintf(s, "  %s\n", clean(d.Field))
		if d.Before != "" {
			fmt.Fprintln(s, s.paint(red, "    - "+clean(d.Before)))
		}
		if d.After != "" {
			fmt.Fprintln(s, s.paint(green, "    + "+clean(d.After)))
		}
	}
}
