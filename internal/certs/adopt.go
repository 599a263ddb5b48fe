package certs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Adopt begins to use a file that has come from another installation: names/<domain>.pem or accounts/…, which is in the
// folder of the certificates already. The other servers get it, too.
func (m *Manager) Adopt(ctx context.Context, path string) error {
	root, err := os.OpenRoot(m.files.dir)
	if err != nil {
		return fmt.Errorf("adopting a certificate: %w", err)
	}
	defer root.Close()
	data, err := root.ReadFile(path)
	if err != nil {
		return fmt.Errorf("adopting a certificate: %w", err)
	}
	if err := m.files.share(ctx, sharedFiles+filepath.ToSlash(path), data); err != nil {
		return fmt.Errorf("adopting a certificate: %w", err)
	}
	folder, file := filepath.Split(path)
	if domain, ok := strings.CutSuffix(file, ".pem"); ok && folder == "names/" {
		m.table.put(strings.Replace(domain, "_wildcard", "*", 1))
	}
	return nil
}
