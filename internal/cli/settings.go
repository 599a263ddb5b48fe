package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// serviceSettings is what can be set of a service beyond Lightsail. In a request, nil members stay as they are.
type serviceSettings struct {
	AccessLog             *bool `json:"accessLog,omitempty"`
	AccessLogHealthChecks *bool `json:"accessLogHealthChecks,omitempty"`
	edgeRules
}

// settingsAnswer is the answer of GetServiceSettings and PutServiceSettings.
type settingsAnswer struct {
	Settings serviceSettings `json:"settings"`
}

func (a *App) settingsCommand() *cobra.Command {
	var accessLog, healthChecks string
	var rules edgeRuleFlags
	cmd := &cobra.Command{
		Use:   "settings SERVICE",
		Short: "Access log and rules of a service: limits, lists, HSTS",
		Long: `Show or change the settings of a service that Lightsail has no word for. What is not given stays as it is. A change
takes effect at once and restarts nothing.

With the access log on, the edge writes one line of JSON for each request: trysail logs SERVICE --access shows them. They
hold addresses of clients, so think of your privacy rules. Of a query they hold the names of the parameters only.

The other settings are rules of the edge for the HTTPS requests of the service. Who may not come gets 403, a body that is too
large 413, too many requests 429. A client is an IPv4 address or a /64 of IPv6. In error pages, {{requestId}} and {{status}}
are replaced.`,
		Example: `  trysail settings web
  trysail settings web --access-log on
  trysail settings web --hsts 365d --max-body 10MB --rate 10/s --burst 50
  trysail settings web --allow 192.0.2.0/24,2001:db8::/32
  trysail settings web --error-page 502=sorry.html --error-page 503=sorry.html`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	onOff := cobra.FixedCompletions([]string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp)
	cmd.Flags().StringVar(&accessLog, "access-log", "", "on or off: a line for each request of the service")
	cmd.Flags().StringVar(&healthChecks, "access-log-health-checks", "", "on or off: lines for the edge's own health checks too")
	rules.declare(cmd)
	must(cmd.RegisterFlagCompletionFunc("access-log", onOff))
	must(cmd.RegisterFlagCompletionFunc("access-log-health-checks", onOff))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := f.json()
		if err != nil {
			return err
		}
		var change serviceSettings
		if change.AccessLog, err = parseSwitch("--access-log", accessLog, cmd.Flags().Changed("access-log")); err != nil {
			return err
		}
		if change.AccessLogHealthChecks, err = parseSwitch("--access-log-health-checks", healthChecks, cmd.Flags().Changed("access-log-health-checks")); err != nil {
			return err
		}
		if change.edgeRules, err = rules.read(); err != nil {
			return err
		}
		c, err := a.connect(f.dataDir)
		if err != nil {
			return err
		}
		var now settingsAnswer
		if change.AccessLog == nil && change.AccessLogHealthChecks == nil && change.isZero() {
			now, err = c.settingsOf(cmd.Context(), args[0])
		} else {
			err = c.call(cmd.Context(), "PutServiceSettings", map[string]any{"serviceName": args[0], "settings": change}, &now)
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, now.Settings)
		}
		return a.screen(a.Out).table([]string{"SETTING", "VALUE"}, append([][]string{
			{"access-log", switchText(now.Settings.AccessLog)},
			{"access-log-health-checks", switchText(now.Settings.AccessLogHealthChecks)},
		}, now.Settings.rows()...))
	}
	return cmd
}

func (c *client) settingsOf(ctx context.Context, service string) (out settingsAnswer, err error) {
	err = c.call(ctx, "GetServiceSettings", map[string]string{"serviceName": service}, &out)
	return out, err
}

// noteAccessLog says on standard error that there will be no new lines, if so.
func (a *App) noteAccessLog(ctx context.Context, c *client, service string) error {
	if c.onAWS() {
		return Usagef("--access is for Trysail only: AWS keeps no access logs of container services")
	}
	now, err := c.settingsOf(ctx, service)
	if err != nil {
		return err
	}
	if s := now.Settings.AccessLog; s == nil || !*s {
		fmt.Fprintf(a.Err, "The access log of %s is off. Turn it on with: trysail settings %s --access-log on\n", service, service)
	}
	return nil
}

// parseSwitch reads on or off; nil if the flag was not given. Errors: usage.
func parseSwitch(flag, value string, given bool) (*bool, error) {
	switch {
	case !given:
		return nil, nil
	case value == "on":
		return new(true), nil
	case value == "off":
		return new(false), nil
	}
	return nil, Usagef("%s must be on or off, not %q", flag, value)
}

func switchText(on *bool) string {
	if on != nil && *on {
		return "on"
	}
	return "off"
}
