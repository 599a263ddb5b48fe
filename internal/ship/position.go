package ship

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/trysail/trysail/internal/logs"
)

// positions is how far a destination has come. It is kept in a file, which is replaced as a whole.
type positions struct {
	Destination string `json:"destination"` // for whoever looks into the file
	// Services holds the place in the logs of each service, by its id.
	Services map[string]logs.Cursor `json:"services"`
	// Lost is how many lines of a service, by name, were removed before they could be sent, and not told yet.
	Lost map[string]int64 `json:"lost,omitempty"`
}

// positionsFile is where the positions of a destination are kept.
func positionsFile(dir string, d Destination) string {
	sum := sha256.Sum256([]byte(d.String()))
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+".json")
}

// readPositions reads the file. A missing one means that nothing was sent yet.
func readPositions(file string) (positions, error) {
	p := positions{Services: map[string]logs.Cursor{}, Lost: map[string]int64{}}
	text, err := os.ReadFile(file) //nolint:gosec // in our directory
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading shipping positions: %w", err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("%w: %s: %w", errDamaged, file, err)
	}
	if p.Services == nil {
		p.Services = map[string]logs.Cursor{}
	}
	if p.Lost == nil {
		p.Lost = map[string]int64{}
	}
	return p, nil
}

// errDamaged means that the positions are lost.
var errDamaged = errors.New("the shipping positions are damaged")

// write replaces the file. A crash leaves the old one or the new one.
func (p *positions) write(file string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // in our directory
	if err != nil {
		return fmt.Errorf("writing shipping positions: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		return fmt.Errorf("writing shipping positions: %w", err)
	}
	return nil
}

// cloneCursor copies a cursor, which logs.Lines changes.
func cloneCursor(c logs.Cursor) *logs.Cursor { return &logs.Cursor{Places: maps.Clone(c.Places)} }
