//go:build cluster

package kube_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/enginetest"
)

func certificateFor(tb testing.TB, host string) *tls.Config {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(host)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// TestEngine_Contract runs the suite that every engine passes.
func TestEngine_Contract(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Fixture {
		t.Parallel() // each has a namespace of its own
		r := newRig(t)
		return enginetest.Fixture{
			Engine: r.engine, Image: r.images.program, Missing: r.images.missing, Broken: r.images.broken,
			Reopen: func(*testing.T) engine.Engine {
				r.close()
				return r.open()
			},
		}
	})
}
