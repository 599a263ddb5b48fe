package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Admin is the file admin.json in the data directory: all that a client on the same machine needs. The server writes
// it at every start, with mode 0600.
type Admin struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	Region          string `json:"region"`
	Endpoint        string `json:"endpoint"` // http:// or https://, host and port
	CA              string `json:"ca"`       // path of the local CA's root certificate, PEM
}

func adminFile(dataDir string) string { return filepath.Join(dataDir, "admin.json") }

// WriteAdmin puts the file in place in one step, so that a reader never sees half of it.
func WriteAdmin(dataDir string, admin Admin) error {
	text, err := json.MarshalIndent(admin, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dataDir, ".admin-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing admin.json: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing admin.json: %w", err)
	}
	if err := os.Rename(f.Name(), adminFile(dataDir)); err != nil {
		return fmt.Errorf("writing admin.json: %w", err)
	}
	return nil
}

// readAdmin reads the file. Its errors carry a hint.
func readAdmin(dataDir string) (Admin, error) {
	var admin Admin
	name := adminFile(dataDir)
	text, err := os.ReadFile(name) //nolint:gosec // the path is the user's
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return admin, WithHint(fmt.Errorf("there is no admin key at %s: %w", name, errNoAdmin), "It is made when the server starts: trysail serve")
	case errors.Is(err, fs.ErrPermission):
		return admin, WithHint(fmt.Errorf("%s may be read by root only", name), "Run as root: eval \"$(sudo trysail env)\"")
	case err != nil:
		return admin, fmt.Errorf("reading the admin key: %w", err)
	}
	if err := json.Unmarshal(text, &admin); err != nil {
		return admin, fmt.Errorf("reading %s: %w", name, err)
	}
	if admin.AccessKeyID == "" || admin.SecretAccessKey == "" || admin.Endpoint == "" {
		return admin, WithHint(fmt.Errorf("%s is incomplete", name), "Start the server once more, it writes the file anew: trysail serve")
	}
	return admin, nil
}

var errNoAdmin = errors.New("no such file")
