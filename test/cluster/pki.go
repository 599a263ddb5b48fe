package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs the cluster's certificates.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func pemFile(name, kind string, der []byte) error {
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, pemFile(file, "EC PRIVATE KEY", der)
}

func certificate(cn string, orgs []string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: cn, Organization: orgs}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

func newAuthority() (*authority, error) {
	key, err := newKey(place("pki/ca.key"))
	if err != nil {
		return nil, err
	}
	t := certificate("trysail-cluster", nil)
	t.SerialNumber, t.IsCA, t.BasicConstraintsValid, t.KeyUsage, t.ExtKeyUsage = big.NewInt(1), true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key, 1}, pemFile(place("pki/ca.crt"), "CERTIFICATE", der)
}

// issue writes pki/<name>.crt and .key.
func (a *authority) issue(name, cn string, orgs []string, sans ...string) error {
	key, err := newKey(place("pki", name+".key"))
	if err != nil {
		return err
	}
	t := certificate(cn, orgs)
	a.serial++
	t.SerialNumber = big.NewInt(a.serial)
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	return pemFile(place("pki", name+".crt"), "CERTIFICATE", der)
}

// client issues a certificate and writes the kubeconfig that uses it.
func (a *authority) client(name, cn string, orgs []string, sans ...string) error {
	if err := a.issue(name, cn, orgs, sans...); err != nil {
		return err
	}
	return writeFile(place("pki", name+".kubeconfig"), fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s", certificate-authority: %s}}]
users: [{name: u, user: {client-certificate: %s, client-key: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, apiServer, place("pki/ca.crt"), place("pki", name+".crt"), place("pki", name+".key")))
}

// makePKI makes all keys and certificates of a cluster.
func makePKI(nodes int) error {
	if err := os.MkdirAll(place("pki"), 0o700); err != nil {
		return err
	}
	a, err := newAuthority()
	if err != nil {
		return err
	}
	errs := []error{
		a.issue("apiserver", "kube-apiserver", nil, gateway, "127.0.0.1", "10.79.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
		a.client("admin", "admin", []string{"system:masters"}),
		a.client("controllers", "system:kube-controller-manager", nil),
		a.client("scheduler", "system:kube-scheduler", nil),
		a.client("proxy", "system:kube-proxy", nil),
		// Who runs Trysail may do what packaging/kubernetes grants and nothing else.
		a.client("trysail", "trysail", nil),
	}
	for n := 1; n <= nodes; n++ {
		errs = append(errs, a.client(nodeName(n), "system:node:"+nodeName(n), []string{"system:nodes"}, nodeName(n), nodeIP(n)))
	}
	sa, err := newKey(place("pki/sa.key"))
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&sa.PublicKey)
	return errors.Join(append(errs, err, pemFile(place("pki/sa.pub"), "PUBLIC KEY", der))...)
}
