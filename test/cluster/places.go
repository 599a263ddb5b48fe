package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The cluster's places on this machine. Paths are short: sockets lie below them.
const (
	dir       = "/var/tmp/trysail-cluster"
	bridge    = "trysailk8s"
	gateway   = "10.77.0.1" // this machine, as the nodes see it
	registry  = gateway + ":5000"
	apiServer = "https://" + gateway + ":6443"
	services  = "10.79.0.0/16"
	etcdURL   = "http://127.0.0.1:23790"
	etcdPeer  = "http://127.0.0.1:23791"
	groups    = "trysail-cluster" // in every hierarchy of control groups
	// bridgeMAC is fixed: a bridge without an address of its own takes that of a port, and all nodes would lose the API
	// server for some seconds when the node of that port crashes.
	bridgeMAC = "02:77:00:00:00:01"
	comment   = "trysail-cluster" // of the rule in the firewall
)

// maxNodes is how many nodes there may be: their numbers have one digit.
const maxNodes = 9

func place(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }

func nodeName(n int) string  { return fmt.Sprintf("n%d", n) }
func nodeIP(n int) string    { return fmt.Sprintf("10.77.0.%d", 10+n) }
func podCIDR(n int) string   { return fmt.Sprintf("10.88.%d.0/24", n) }
func nodeMAC(n int) string   { return fmt.Sprintf("02:77:00:00:01:%02d", n) }
func nodeLink(n int) string  { return fmt.Sprintf("trysailk8s%d", n) }
func nodeGroup(n int) string { return "/" + groups + "/" + nodeName(n) }

// shell runs a script that stops at the first error.
func shell(format string, args ...any) error {
	script := fmt.Sprintf(format, args...)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

func writeFile(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o600)
}

// tools are the programs that the cluster is made of.
type tools struct{ hyperkube, etcd, trysail string }
