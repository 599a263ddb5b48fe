package edge

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"

	"github.com/trysail/trysail"
)

// sameTrust reports whether two targets' certificates are verified in the same way.
func sameTrust(a, b *trysail.TargetTrust) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// targetTLS is how the edge speaks TLS to a target; nil if it does not.
func (e *Edge) targetTLS(spec trysail.Target, log *slog.Logger) *tls.Config {
	switch {
	case !spec.TLS:
		return nil
	case spec.Trust == nil:
		return podTLS()
	}
	return TrustTLS(*spec.Trust, e.ca.RootFile(), log)
}

// TrustTLS is how to speak TLS to whoever has a certificate for the name, from an authority of the file, of ca or of the
// machine's.
func TrustTLS(t trysail.TargetTrust, rootFile string, log *slog.Logger) *tls.Config {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without trusted roots still has ours
	}
	if own, err := os.ReadFile(rootFile); err != nil { //nolint:gosec // the path is configuration
		log.Warn("our own authority cannot be read", "error", err)
	} else {
		roots.AppendCertsFromPEM(own)
	}
	roots.AppendCertsFromPEM([]byte(t.CA))
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.Name, RootCAs: roots}
}
