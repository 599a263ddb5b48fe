package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// state is what the rules are made from.
type state struct {
	// Services are those that have been published, by name.
	Services map[string]*published `json:"services"`
	// Members are the pods in the network, by IPv4 address.
	Members map[netip.Addr]member `json:"members"`
}

// published is one service.
type published struct {
	Addr netip.Addr   `json:"addr"`
	Pods []netip.Addr `json:"pods"`
	TCP  []uint16     `json:"tcp"`
	UDP  []uint16     `json:"udp"`
}

// same reports whether both have the same pods and ports.
func (s *published) same(o *published) bool {
	return slices.Equal(s.Pods, o.Pods) && slices.Equal(s.TCP, o.TCP) && slices.Equal(s.UDP, o.UDP)
}

func (st state) clone() state { return state{maps.Clone(st.Services), maps.Clone(st.Members)} }

func readState(file string) (state, error) {
	st := state{Services: map[string]*published{}, Members: map[netip.Addr]member{}}
	b, err := os.ReadFile(file) //nolint:gosec // the path is ours
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, fmt.Errorf("reading the services' addresses from %s: %w", file, err)
	}
	if st.Services == nil {
		st.Services = map[string]*published{}
	}
	if st.Members == nil {
		st.Members = map[netip.Addr]member{}
	}
	return st, nil
}

// writeState replaces the file. It need not be on the disk when this returns: after the loss of power no pod runs, and a
// service gets its address by its name.
func writeState(file string, st state) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	next := file + ".new"
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(next, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("keeping the services' addresses: %w", err)
	}
	return os.Rename(next, file)
}
