package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// ForwardServiceInput is the request of ForwardService.
type ForwardServiceInput struct {
	ServiceName string
	// Version is the one that serves there; it must be the one that serves here.
	Version int
	// To is where the other installation's edge takes HTTPS: host:port, one or several. Empty: the service comes back.
	To []string
	// CA vouches for its certificates, in PEM form, besides our own authority and those that the machine trusts.
	CA string
	// Stop ends the pods here.
	Stop bool
}

// ServiceForward is a service that has moved.
type ServiceForward struct {
	ServiceName string
	trysail.Forward
}

const (
	// maxForwardTo is how many addresses an installation may have.
	maxForwardTo = 20
	// maxForwardCA bounds its certificates, in bytes.
	maxForwardCA = 256 << 10
	// forwardTime bounds one try of the way there.
	forwardTime = 10 * time.Second
)

// ListForwards lists the services that have moved, by name.
func (c *Control) ListForwards(ctx context.Context, caller trysail.Caller) (list []ServiceForward, err error) {
	if err := caller.May(trysail.RoleRead, "ListForwards", ""); err != nil {
		return nil, err
	}
	all, err := c.Store.Services(ctx)
	for _, s := range all {
		if s.Forward != nil {
			list = append(list, ServiceForward{s.Name, *s.Forward})
		}
	}
	slices.SortFunc(list, func(a, b ServiceForward) int { return strings.Compare(a.ServiceName, b.ServiceName) })
	return list, err
}

// ForwardService sends the requests for a service to another installation, which runs the same version, once it answers
// from there; or, without To, back here, as soon as the pods here are healthy. Errors: Invalid (another version serves,
// busy, the other installation does not answer), NotFound.
func (c *Control) ForwardService(ctx context.Context, caller trysail.Caller, in ForwardServiceInput) (_ *ServiceForward, err error) {
	defer c.auditFailure(ctx, caller, "ForwardService", in.ServiceName, &err)
	if err := caller.May(trysail.RoleAdmin, "ForwardService", in.ServiceName); err != nil {
		return nil, err
	}
	if err := trysail.ValidateServiceName(in.ServiceName); err != nil {
		return nil, err
	}
	if len(in.To) > maxForwardTo || len(in.CA) > maxForwardCA {
		return nil, trysail.Errorf(trysail.CodeInvalid, "There may be up to %d addresses, and certificates of %d bytes.", maxForwardTo, maxForwardCA)
	}
	to, err := resolveAll(ctx, in.To)
	if err != nil {
		return nil, err
	}
	if len(to) > 0 {
		list, err := c.GetContainerServices(ctx, caller, in.ServiceName)
		if err != nil {
			return nil, err
		}
		if err := c.tryForward(ctx, &list[0], to, in.CA); err != nil {
			return nil, err
		}
	}
	after, err := c.changeService(ctx, caller, "ForwardService", in.ServiceName, func(_ *store.Tx, s *trysail.Service) error {
		if len(to) == 0 {
			if s.Forward != nil {
				s.Forward = &trysail.Forward{To: s.Forward.To, CA: s.Forward.CA, Back: true}
			}
			return nil
		}
		if err := mayForward(s, in.Version); err != nil {
			return err
		}
		s.Forward = &trysail.Forward{To: to, CA: in.CA, Stop: in.Stop}
		return nil
	})
	if err != nil {
		return nil, err
	}
	answer := &ServiceForward{ServiceName: after.Name}
	if after.Forward != nil {
		answer.Forward = *after.Forward
	}
	return answer, nil
}

// mayForward refuses to forward what is not the same there.
func mayForward(s *trysail.Service, version int) error {
	now := *s
	now.Forward = nil
	if err := busy(&now); err != nil {
		return err
	}
	have := 0
	if s.Current != nil {
		have = s.Current.Version
	}
	if s.Disabled || have != version {
		return trysail.Errorf(trysail.CodeInvalid, "Service %q has moved on: version %d serves here now (disabled: %t), not %d. Take it over again before its requests are sent on.", s.Name, have, s.Disabled, version)
	}
	return nil
}

// moved refuses changes of a service that has moved.
func moved(s *trysail.Service) error {
	if s.Forward == nil {
		return nil
	}
	return trysail.Errorf(trysail.CodeInvalid, "Service %q has moved to another installation, at %s: change it there, or take it back with: trysail migrate --back %s.", s.Name, s.Forward.To[0], s.Name)
}

func resolveAll(ctx context.Context, list []string) (addrs []netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	for _, to := range list {
		host, port, err := net.SplitHostPort(to)
		number, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || number == 0 || host == "" {
			return nil, trysail.Errorf(trysail.CodeInvalid, "%q is not an address of HTTPS such as 10.0.0.5:443.", to)
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, trysail.Errorf(trysail.CodeInvalid, "The name %q of the other installation leads nowhere.", host)
		}
		for _, ip := range ips {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(number)))
		}
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return slices.Compact(addrs), nil
}

// tryForward asks the other installation for the service by each address, as the edge will.
func (c *Control) tryForward(ctx context.Context, s *trysail.Service, to []netip.AddrPort, ca string) error {
	if s.Current == nil || s.Current.PublicEndpoint == nil || c.TrustTLS == nil {
		return nil // nobody outside asks for it
	}
	host := s.Host(c.Region, c.Domain)
	check := s.Current.PublicEndpoint.HealthCheck
	for _, addr := range to {
		status, err := askThere(ctx, addr, host, cmp.Or(check.Path, "/"), c.TrustTLS(trysail.TargetTrust{Name: host, CA: ca}))
		switch {
		case err != nil:
			return trysail.Errorf(trysail.CodeInvalid, "The other installation at %s does not answer for %s: %s.", addr, host, plainReason(err))
		case status >= http.StatusInternalServerError || status == http.StatusNotFound && !strings.Contains(check.SuccessCodes, "404"):
			return trysail.Errorf(trysail.CodeInvalid, "The other installation at %s answers %d for https://%s%s. The service must serve there before its requests are sent on.", addr, status, host, check.Path)
		}
	}
	return nil
}

func askThere(ctx context.Context, addr netip.AddrPort, host, path string, secure *tls.Config) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	transport := &http.Transport{
		TLSClientConfig: secure, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr.String())
		},
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, nil
}

// plainReason is the cause at the end of an error's chain: what stands around it repeats the address.
func plainReason(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return strings.TrimSuffix(fmt.Sprint(err), ".")
}
