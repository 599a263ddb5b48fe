package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

// migration moves what an installation has to another one. Every step of it compares first and changes what differs, so
// that it can be broken off and run again at any time.
type migration struct {
	app      *App
	from, to *client
	show     *progress
	only     []string // services; empty: all
	forward  []string // where the destination's edge takes HTTPS
	keep     bool     // the pods here go on running
	timeout  time.Duration

	here, there map[string]*types.ContainerService // by name
	moved       map[string]forwardInfo             // services that are sent on already
}

type forwardInfo struct {
	ServiceName string   `json:"serviceName"`
	To          []string `json:"to"`
	Stop        bool     `json:"stop"`
	Back        bool     `json:"back"`
}

func (a *App) migrateCommand() *cobra.Command {
	var profile, adminFile, back string
	var check, dryRun, status bool
	m := &migration{app: a}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move everything to another Trysail while services go on serving",
		Long: `Move everything to another Trysail, such as one on a cluster, while services go on serving: services with all their versions,
pushed images, certificates and the local CA with their keys, access keys with their secrets, domains, settings, logins at
registries, logs, metrics and the audit trail. The other Trysail must be of the same version, with the same --domain and
--region, and is given with --to-profile (a profile of the AWS configuration with endpoint_url) or --to-admin (its admin.json).

First everything is copied and the services are started there. Then, with --forward, the edge here sends the requests for each
service to the edge there, so that the DNS can follow at leisure, and in the end the containers here are stopped. No service is
without healthy containers at any time. Whatever interrupts the command: run it again, it goes on where it was. docs/migrate.md
has the whole way.`,
		Example: `  trysail migrate --to-profile cluster --dry-run
  trysail migrate --to-profile cluster
  trysail migrate --to-profile cluster --forward 10.0.0.40:443
  trysail migrate --to-profile cluster --check
  trysail migrate --back web`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVar(&profile, "to-profile", "", "the other Trysail: a profile of the AWS configuration")
	cmd.Flags().StringVar(&adminFile, "to-admin", "", "the other Trysail: a copy of its admin.json, with the path of its CA in it")
	cmd.Flags().StringSliceVar(&m.only, "service", nil, "only these services; what belongs to none is copied all the same")
	cmd.Flags().StringSliceVar(&m.forward, "forward", nil, "host:port where the other Trysail's edge takes HTTPS from here: send the services' requests there, and stop them here")
	cmd.Flags().BoolVar(&m.keep, "keep", false, "with --forward: let the containers here run on")
	cmd.Flags().DurationVar(&m.timeout, "timeout", 10*time.Minute, "how long to wait for each service")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be copied and moved, and change nothing")
	cmd.Flags().BoolVar(&check, "check", false, "compare both sides and change nothing; exit status 1 if something is missing there")
	cmd.Flags().BoolVar(&status, "status", false, "list the services whose requests are sent on")
	cmd.Flags().StringVar(&back, "back", "", "take this service back: its containers are started here, and then its requests stay here")
	must(cmd.RegisterFlagCompletionFunc("back", a.serviceNames()))
	must(cmd.RegisterFlagCompletionFunc("service", a.serviceNames()))
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		asJSON, err := f.json()
		if err != nil {
			return err
		}
		if m.from, err = a.connect(f.dataDir); err != nil {
			return err
		}
		m.show = a.watch(m.from, "", asJSON).progress
		defer m.show.erase()
		switch {
		case status:
			return m.status(cmd.Context(), asJSON)
		case back != "":
			return m.back(cmd.Context(), back, asJSON)
		case (profile == "") == (adminFile == ""):
			return Usagef("where to? Give --to-profile or --to-admin")
		case check && dryRun:
			return Usagef("--check and --dry-run exclude each other")
		}
		if m.to, err = a.connectOther(cmd.Context(), profile, adminFile); err != nil {
			return err
		}
		if m.to.settings.endpoint == m.from.settings.endpoint {
			return Usagef("both sides are the same Trysail, %s", m.from.settings.endpoint)
		}
		switch {
		case check:
			return m.check(cmd.Context(), asJSON)
		case dryRun:
			return m.plan(cmd.Context(), asJSON)
		}
		if err := m.run(cmd.Context()); err != nil {
			return err
		}
		if asJSON {
			return m.status(cmd.Context(), true)
		}
		return nil
	}
	return cmd
}

// connectOther makes a client for the Trysail that is moved to.
func (a *App) connectOther(ctx context.Context, profile, file string) (*client, error) {
	if profile == "" {
		text, err := os.ReadFile(file) //nolint:gosec // the path is the user's
		if err != nil {
			return nil, fmt.Errorf("reading --to-admin: %w", err)
		}
		var admin Admin
		if err := json.Unmarshal(text, &admin); err != nil || admin.AccessKeyID == "" || admin.Endpoint == "" {
			return nil, WithHint(fmt.Errorf("%s is no admin.json of a Trysail", file), "It is in the data directory of the other one.")
		}
		return connectTo(settings{endpoint: admin.Endpoint, region: admin.Region, ca: admin.CA, keyID: admin.AccessKeyID, secret: admin.SecretAccessKey})
	}
	shared, err := a.sharedProfile(ctx, profile)
	if err != nil {
		return nil, err
	}
	keys := shared.Credentials
	if shared.BaseEndpoint == "" || keys.AccessKeyID == "" {
		return nil, WithHint(fmt.Errorf("profile %s has no endpoint_url or no access key", profile), "Give it both, those of the other Trysail, and its CA as ca_bundle.")
	}
	return connectTo(settings{endpoint: shared.BaseEndpoint, region: shared.Region, ca: shared.CustomCABundle, keyID: keys.AccessKeyID, secret: keys.SecretAccessKey})
}

// allServices lists the services of one side.
func (c *client) allServices(ctx context.Context) ([]types.ContainerService, error) {
	out, err := c.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
	if err != nil {
		return nil, err
	}
	return out.ContainerServices, nil
}

// setDisabled enables or disables a service.
func (c *client) setDisabled(ctx context.Context, name string, disabled bool) error {
	_, err := c.UpdateContainerService(ctx, &lightsail.UpdateContainerServiceInput{ServiceName: &name, IsDisabled: &disabled})
	return err
}

// look finds out which services both sides have.
func (m *migration) look(ctx context.Context) error {
	m.here, m.there, m.moved = map[string]*types.ContainerService{}, map[string]*types.ContainerService{}, map[string]forwardInfo{}
	for _, side := range []struct {
		c    *client
		into map[string]*types.ContainerService
	}{{m.from, m.here}, {m.to, m.there}} {
		list, err := side.c.allServices(ctx)
		if err != nil {
			return fmt.Errorf("asking %s: %w", side.c.settings.endpoint, err)
		}
		for i := range list {
			side.into[aws.ToString(list[i].ContainerServiceName)] = &list[i]
		}
	}
	list, err := m.from.forwards(ctx)
	for _, f := range list {
		m.moved[f.ServiceName] = f
	}
	for _, name := range m.only {
		if m.here[name] == nil {
			return fmt.Errorf("service %q is not here", name)
		}
	}
	return err
}

// names lists the services that move, in order.
func (m *migration) names() (names []string) {
	for name := range m.here {
		if len(m.only) == 0 || slices.Contains(m.only, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func isDisabled(s *types.ContainerService) bool { return s != nil && aws.ToBool(s.IsDisabled) }

// version is the one that serves, or 0.
func version(s *types.ContainerService) int {
	if s == nil || s.CurrentDeployment == nil {
		return 0
	}
	return int(aws.ToInt32(s.CurrentDeployment.Version))
}

// run moves.
func (m *migration) run(ctx context.Context) error {
	if err := m.look(ctx); err != nil {
		return err
	}
	for _, name := range m.names() {
		if s := m.here[name]; isBusy(s) {
			return WithHint(fmt.Errorf("service %s is %s", name, s.State), "Try again when that is done.")
		}
	}
	if err := m.takeAnew(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{m.copyKeys, m.copyRows, m.copyImages, m.copyRecords, m.start} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if len(m.forward) == 0 {
		m.show.line(green, "everything is there, and serves there as well; requests still come here")
		fmt.Fprintln(m.app.Err, "To send the requests there: run this again with --forward HOST:PORT, where the edge there takes HTTPS from here.")
		return nil
	}
	if err := m.sendOn(ctx); err != nil {
		return err
	}
	// What was written until the switch.
	return m.copyRecords(ctx)
}

// takeAnew disables services there that have been started with another version than the one that serves here now, so that
// they are copied again.
func (m *migration) takeAnew(ctx context.Context) error {
	for _, name := range m.names() {
		s := m.there[name]
		if s == nil || isDisabled(s) || version(s) == version(m.here[name]) || len(m.moved[name].To) > 0 {
			continue
		}
		m.show.line(yellow, fmt.Sprintf("%s serves version %d there and %d here: it is taken over again", name, version(s), version(m.here[name])))
		if err := m.switchThere(ctx, name, true); err != nil {
			return err
		}
	}
	return nil
}

// start starts the services there that run here.
func (m *migration) start(ctx context.Context) error {
	if err := m.look(ctx); err != nil {
		return err
	}
	for _, name := range m.names() {
		here, there := m.here[name], m.there[name]
		if there == nil {
			return fmt.Errorf("service %s is not there, although it was copied", name)
		}
		if h, t := aws.ToString(here.Url), aws.ToString(there.Url); h != t && hostOf(h) != hostOf(t) {
			return WithHint(fmt.Errorf("service %s would have the address %s there, and has %s here", name, t, h), "Start the other Trysail with the same --domain and --region as this one.")
		}
		if isDisabled(here) || !isDisabled(there) {
			continue
		}
		if err := m.switchThere(ctx, name, false); err != nil {
			return err
		}
	}
	return nil
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, ":")
	return host
}

// switchThere enables or disables a service there, and waits until it is so.
func (m *migration) switchThere(ctx context.Context, name string, disabled bool) error {
	w := &watch{client: m.to, progress: m.show, service: name}
	if !disabled {
		m.show.line(plain, "starting "+name+" there")
	}
	if err := m.to.setDisabled(ctx, name, disabled); err != nil {
		return fmt.Errorf("service %s there: %w", name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, errTimeout)
	defer cancel()
	var last *types.ContainerService
	err := w.poll(ctx, func(ctx context.Context) (bool, error) {
		s, err := w.look(ctx)
		if err != nil {
			return false, err
		}
		last = s
		return !isBusy(s), nil
	})
	if err != nil {
		return WithHint(fmt.Errorf("service %s there: %w", name, err), "See why with: trysail explain %s, there. Here it serves as before.", name)
	}
	if !disabled && version(m.here[name]) > 0 {
		if err := m.healthyThere(ctx, name); err != nil {
			return err
		}
	}
	m.there[name] = last
	return nil
}

// healthyThere makes sure that a service has as many healthy pods there as it should: one whose update was given up is
// RUNNING, too.
func (m *migration) healthyThere(ctx context.Context, name string) error {
	var out struct {
		Pods []podInfo `json:"pods"`
	}
	if err := m.to.call(ctx, "ListPods", map[string]any{"serviceName": name}, &out); err != nil {
		return err
	}
	healthy := 0
	for _, p := range out.Pods {
		if p.State == "HEALTHY" {
			healthy++
		}
	}
	if want := int(aws.ToInt32(m.here[name].Scale)); healthy < want {
		// The next run starts it again.
		err := fmt.Errorf("service %s has %d of %d healthy pods there", name, healthy, want)
		return WithHint(errors.Join(err, m.to.setDisabled(ctx, name, true)), "See why with: trysail ps %s --all, there. Here it serves as before.", name)
	}
	return nil
}

// sendOn lets the edge here send the requests to the other side, service by service, and then ends the containers here. All
// are there before the first is stopped: they may ask each other.
func (m *migration) sendOn(ctx context.Context) error {
	ca, err := m.otherCA()
	if err != nil {
		return err
	}
	stops := []bool{false, true}
	if m.keep {
		stops = stops[:1]
	}
	for _, stop := range stops {
		for _, name := range m.names() {
			if isDisabled(m.here[name]) || version(m.here[name]) == 0 {
				continue
			}
			if f := m.moved[name]; len(f.To) > 0 && !f.Back && (f.Stop || !stop) {
				continue
			}
			var out struct {
				Forward forwardInfo `json:"forward"`
			}
			in := map[string]any{"serviceName": name, "version": version(m.there[name]), "to": m.forward, "caCertificate": ca, "stop": stop}
			if err := m.from.call(ctx, "ForwardService", in, &out); err != nil {
				return err
			}
			m.moved[name] = out.Forward
			if stop {
				m.show.line(green, name+": its containers here are being stopped")
			} else {
				m.show.line(green, name+": its requests go there")
			}
		}
	}
	if m.keep {
		return nil
	}
	return m.waitStopped(ctx)
}

// waitStopped waits until the containers here have ended, so that their logs are whole.
func (m *migration) waitStopped(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, errTimeout)
	defer cancel()
	w := &watch{client: m.from, progress: m.show}
	for _, name := range m.names() {
		err := w.poll(ctx, func(ctx context.Context) (bool, error) {
			var out struct {
				Pods []podInfo `json:"pods"`
			}
			err := m.from.call(ctx, "ListPods", map[string]any{"serviceName": name}, &out)
			w.stage = fmt.Sprintf("%s: %s here", name, count(len(out.Pods), "pod"))
			return err == nil && (len(out.Pods) == 0 || isDisabled(m.here[name])), err
		})
		if err != nil {
			return fmt.Errorf("waiting for the end of %s here: %w", name, err)
		}
	}
	return nil
}

// otherCA is what vouches for the other side's edge, as far as it is known here.
func (m *migration) otherCA() (string, error) {
	if m.to.settings.ca == "" {
		return "", nil
	}
	text, err := os.ReadFile(m.to.settings.ca)
	if err != nil {
		return "", fmt.Errorf("reading the CA of the other side: %w", err)
	}
	return string(text), nil
}

func (c *client) forwards(ctx context.Context) ([]forwardInfo, error) {
	var out struct {
		Forwards []forwardInfo `json:"forwards"`
	}
	err := c.call(ctx, "ListForwards", struct{}{}, &out)
	return out.Forwards, err
}

func (m *migration) status(ctx context.Context, asJSON bool) error {
	list, err := m.from.forwards(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(m.app.Out, map[string]any{"forwards": list})
	}
	if len(list) == 0 {
		fmt.Fprintln(m.app.Out, "No service has moved.")
		return nil
	}
	var rows [][]string
	for _, f := range list {
		state := "containers run here, too"
		switch {
		case f.Back:
			state = "is coming back"
		case f.Stop:
			state = "stopped here"
		}
		rows = append(rows, []string{f.ServiceName, strings.Join(f.To, ", "), state})
	}
	return m.app.screen(m.app.Out).table([]string{"SERVICE", "REQUESTS GO TO", "STATE"}, rows)
}

// back takes a service back.
func (m *migration) back(ctx context.Context, name string, asJSON bool) error {
	if err := m.from.call(ctx, "ForwardService", map[string]any{"serviceName": name, "version": 0, "to": []string{}}, &struct{}{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(m.timeout, 10*time.Minute), errTimeout)
	defer cancel()
	w := &watch{client: m.from, progress: m.show, service: name, stage: name + " is being started here"}
	err := w.poll(ctx, func(ctx context.Context) (bool, error) {
		list, err := m.from.forwards(ctx)
		return err == nil && !slices.ContainsFunc(list, func(f forwardInfo) bool { return f.ServiceName == name }), err
	})
	if err != nil {
		return WithHint(fmt.Errorf("service %s does not become healthy here: %w", name, err), "Its requests still go to the other side. See why with: trysail ps %s --all", name)
	}
	return m.app.done(asJSON, "Service %s serves here again. There it runs on: disable or delete it there.", name)
}
