package main

import (
	"crypto/tls"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/edge"
)

// moving says what moves to another installation besides the database, and how that is spoken to.
func (s *server) moving() {
	dir := func(name ...string) string { return filepath.Join(append([]string{s.cfg.dataDir}, name...)...) }
	s.control.Files = &control.MovingFiles{
		Dirs: map[string]string{"logs": dir("logs"), "metrics": dir("metrics"), "certs": dir("certs"), "ca": dir("ca"), "moved-ca": dir("ca", "moved")},
		Arrived: func(path string) error {
			if strings.HasPrefix(path, "moved-ca/") {
				return s.edge.CA().Adopt()
			}
			return nil
		},
	}
	log := s.log.With("part", "edge")
	s.control.TrustTLS = func(t trysail.TargetTrust) *tls.Config { return edge.TrustTLS(t, s.edge.CA().RootFile(), log) }
}
