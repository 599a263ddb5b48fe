package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail"
)

// networkFault is about a request that got no answer, or one that made no sense. None is final: networks recover.
func (q *query) networkFault(ctx context.Context, err error) *trysail.ImageError {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &trysail.ImageError{Code: codeSlow, Message: "Asking for " + mark(q.image) + " was given up before " + mark(q.session.host) + " answered.", Fix: "Deploy again."}
	}
	if errors.Is(err, errStalled) {
		return &trysail.ImageError{
			Code: codeSlow, Message: fmt.Sprintf("%s%s stopped sending in the middle of %s: %s.", mark(q.address()), q.via(), mark(q.image), errStalled),
			Fix: "Wait and deploy again; if it happens again, look at the network between this machine and the registry.",
		}
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dnsFault(dns.Name, dns.IsNotFound)
	}
	if f := q.tlsFault(err, time.Now()); f != nil {
		return f
	}
	if isTimeout(err) || ctx.Err() != nil {
		return q.timeoutFault()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op != "read" && op.Op != "write" {
		return q.unreachable(reason(err))
	}
	if isCut(err) {
		return &trysail.ImageError{
			Code: codeNet, Message: fmt.Sprintf("The connection to %s%s was cut before the answer.", mark(q.address()), q.via()),
			Fix: "Check the firewall and the proxy between this machine and the registry.",
		}
	}
	if q.session.proxy != "" && stage(q.session.stage.Load()) < stageConnected {
		return q.unreachable(reason(err)) // the proxy said no; the text is its status
	}
	return q.corrupt(q.registry()+" sent something damaged, or does not speak the language of registries.", false)
}

func dnsFault(host string, absent bool) *trysail.ImageError {
	if absent {
		return &trysail.ImageError{
			Code: codeDNS, Message: fmt.Sprintf("This machine cannot resolve %s: there is no such host.", mark(host)),
			Fix: "Check the spelling of the registry. If the name is right, check the DNS servers in /etc/resolv.conf.",
		}
	}
	return &trysail.ImageError{
		Code: codeDNS, Message: fmt.Sprintf("This machine cannot resolve %s: its DNS server does not answer.", mark(host)),
		Fix: "Check the DNS servers in /etc/resolv.conf, and that the firewall lets DNS out.",
	}
}

// timeoutFault says what we waited for.
func (q *query) timeoutFault() *trysail.ImageError {
	switch waited := q.waited(); stage(q.session.stage.Load()) {
	case stageDNS:
		return dnsFault(hostOnly(q.session.host), false)
	case stageStart, stageDial:
		return q.unreachable("no answer within " + waited)
	case stageTLS:
		return &trysail.ImageError{
			Code: codeNet, Message: fmt.Sprintf("%s%s takes connections but does not begin to talk (TLS) within %s.", mark(q.address()), q.via(), waited),
			Fix: "Check the firewall and the proxy between this machine and the registry.",
		}
	default:
		return &trysail.ImageError{
			Code: codeSlow, Message: fmt.Sprintf("%s%s takes requests but did not answer within %s.", mark(q.address()), q.via(), waited),
			Fix: "Wait and deploy again; if it stays slow, look at the state of the registry.",
		}
	}
}

func (q *query) waited() string {
	d := time.Since(q.began)
	if d < time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func (q *query) unreachable(why string) *trysail.ImageError {
	f := &trysail.ImageError{
		Code: codeNet, Message: fmt.Sprintf("No connection from this machine to %s%s: %s.", mark(q.address()), q.via(), why),
		Fix: "Check the name and port of the registry, and the firewall, NAT and proxy of this machine.",
	}
	if q.session.local {
		f.Fix = "Start the registry on this machine, or correct the port in the image's name."
	}
	return f
}

// address is the host:port that was asked last.
func (q *query) address() string {
	host := cmp.Or(q.session.host, q.ref.Context().RegistryStr())
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "443"
	if q.session.local && q.session.scheme == "http" {
		port = "80"
	}
	return net.JoinHostPort(hostOnly(host), port)
}

// via names the proxy in between.
func (q *query) via() string {
	if q.session.proxy == "" {
		return ""
	}
	return " through the proxy " + mark(q.session.proxy)
}

func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout()
}

// reason is a network error in a few words.
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return shorten(op.Err.Error(), 100)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return shorten(err.Error(), 100)
}

// isCertificate is true if a TLS server answered whose certificate we do not accept.
func isCertificate(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// tlsFault is about certificates and TLS; nil if err is not.
func (q *query) tlsFault(err error, now time.Time) *trysail.ImageError {
	host := mark(q.session.host)
	f := &trysail.ImageError{Code: codeTLS, Fix: "Check the proxy and the TLS settings of the registry."}
	_, record := errors.AsType[tls.RecordHeaderError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case isCertificate(err):
		return certificateFault(f, host, err, now)
	case errors.Is(err, http.ErrSchemeMismatch) || record && !q.session.local:
		f.Message = host + " does not speak TLS on this port. Trysail uses plain HTTP only for registries on this machine, or if told to."
		f.Fix = "Put TLS before the registry, or use the port at which it speaks TLS."
	case isOp && (op.Op == "remote error" || op.Op == "local error"): // how crypto/tls reports alerts
		f.Message = fmt.Sprintf("%s refuses the TLS connection: %s.", host, reason(err))
	default:
		return nil
	}
	return f
}

func certificateFault(f *trysail.ImageError, host string, err error, now time.Time) *trysail.ImageError {
	f.Fix = "Renew the certificate of the registry."
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	name, isName := errors.AsType[x509.HostnameError](err)
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case isInvalid && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		f.Message = fmt.Sprintf("%s shows a certificate that is valid only from %s on; this machine's clock says %s.", host, day(invalid.Cert.NotBefore), day(now))
		f.Fix = "Set this machine's clock: timedatectl set-ntp true"
	case isInvalid && invalid.Reason == x509.Expired:
		f.Message = fmt.Sprintf("%s shows a certificate that expired on %s; this machine's clock says %s.", host, day(invalid.Cert.NotAfter), day(now))
		f.Fix = "Renew the certificate of the registry, or set this machine's clock if it is wrong."
	case isName:
		f.Message = host + " shows a certificate that is not for this name."
		if name.Certificate != nil && len(name.Certificate.DNSNames) > 0 {
			f.Message = fmt.Sprintf("%s shows a certificate that is for %s.", host, marks(name.Certificate.DNSNames[:min(3, len(name.Certificate.DNSNames))]))
		}
		f.Fix = "Use the registry's name as its certificate has it, or check the proxy between."
	case isUnknown:
		f.Message = host + " shows a certificate that is signed by an authority which this machine does not trust."
		if unknown.Cert != nil {
			if issuer := cmp.Or(unknown.Cert.Issuer.CommonName, strings.Join(unknown.Cert.Issuer.Organization, " ")); issuer != "" {
				f.Message = fmt.Sprintf("%s shows a certificate that is signed by %s, which this machine does not trust.", host, mark(issuer))
			}
		}
		f.Fix = "Put the authority's certificate into /usr/local/share/ca-certificates, run update-ca-certificates, and restart Trysail."
	default:
		f.Message = host + " shows a certificate that this machine does not accept."
	}
	return f
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
