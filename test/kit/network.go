package kit

import (
	"context"
	"path/filepath"

	"github.com/trysail/trysail/internal/engine/cri"
)

// forgetNetwork removes the bridge of the server's pods and the firewall rules that name it. A server leaves both when
// it stops: its pods may still run.
func (s *Server) forgetNetwork(ctx context.Context) error {
	if s.bridge() == "" {
		return nil // it never came so far
	}
	return cri.Purge(ctx, cri.Config{Dir: filepath.Join(s.DataDir, "engine")})
}
