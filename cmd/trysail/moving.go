package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/store"
)

// arrived begins to use a file from another installation, here and on the other servers.
func (s *server) arrived(ctx context.Context, path string) error {
	if file, ok := strings.CutPrefix(path, "certs/"); ok {
		return s.certs.Adopt(ctx, file)
	}
	file, ok := strings.CutPrefix(path, "moved-ca/")
	if !ok {
		return nil
	}
	if s.cfg.manyEdges() {
		data, err := os.ReadFile(filepath.Join(s.cfg.dataDir, "ca", "moved", file)) //nolint:gosec // control has checked the path
		if err == nil {
			err = s.store.Update(ctx, func(tx *store.Tx) error { return tx.PutSharedFile(sharedCA+"moved/"+file, data) })
		}
		if err != nil {
			return fmt.Errorf("sharing the CA that has moved here: %w", err)
		}
	}
	return s.edge.CA().Adopt()
}

// moving says what moves to another installation besides the database, and how that is spoken to.
func (s *server) moving() {
	dir := func(name ...string) string { return filepath.Join(append([]string{s.cfg.dataDir}, name...)...) }
	s.control.Files = &control.MovingFiles{
		Dirs:    map[string]string{"logs": dir("logs"), "metrics": dir("metrics"), "certs": dir("certs"), "ca": dir("ca"), "moved-ca": dir("ca", "moved")},
		Arrived: s.arrived,
	}
	log := s.log.With("part", "edge")
	s.control.TrustTLS = func(t trysail.TargetTrust) *tls.Config { return edge.TrustTLS(t, s.edge.CA().RootFile(), log) }
}
