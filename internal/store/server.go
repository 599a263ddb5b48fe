package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/trysail/trysail"
)

// What subscribers get, in place of the id of a service, when a route, a server or a shared file has changed.
const (
	RoutesChanged  = "routes"
	ServersChanged = "servers"
	FilesChanged   = "files"
)

// markers are all that subscribers get besides ids of services.
var markers = []string{CertificatesChanged, RoutesChanged, ServersChanged, FilesChanged}

// IsService reports whether what a subscriber got is the id of a service.
func IsService(id string) bool { return !slices.Contains(markers, id) }

// Route is what all edges do for a service.
type Route struct {
	trysail.Route

	// Generation grows with every change of any route.
	Generation int64
}

// SetRoute makes r what all edges do for its service, and returns its generation. It changes nothing if that is so already.
// Errors: ErrNotFound if there is no such service.
func (t *Tx) SetRoute(r trysail.Route) (generation int64, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("encoding the route of %s: %w", r.Service, err)
	}
	var have string
	err = t.row("SELECT generation, route FROM routes WHERE service_id = $1", r.ServiceID).Scan(&generation, &have)
	switch {
	case err == nil && have == string(text):
		return generation, nil
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return 0, fmt.Errorf("reading the route of %s: %w", r.Service, err)
	}
	var there int
	if err := t.row("SELECT COUNT(*) FROM services WHERE id = $1", r.ServiceID).Scan(&there); err != nil || there == 0 {
		return 0, errors.Join(err, notFoundIf(there == 0))
	}
	if generation, err = t.nextGeneration(RoutesChanged); err != nil {
		return 0, err
	}
	t.touch(RoutesChanged)
	return generation, t.exec(`INSERT INTO routes (service_id, generation, route) VALUES ($1, $2, $3)
		ON CONFLICT (service_id) DO UPDATE SET generation = excluded.generation, route = excluded.route`, r.ServiceID, generation, string(text))
}

func notFoundIf(yes bool) error {
	if yes {
		return ErrNotFound
	}
	return nil
}

// Routes returns the routes that have changed after a generation, the ids of all services that have one, and the newest
// generation.
func (t *Tx) Routes(after int64) (changed []Route, all []string, newest int64, err error) {
	if newest, err = t.generation(RoutesChanged); err != nil {
		return nil, nil, 0, err
	}
	err = t.query(func(r *sql.Rows) error {
		var id, text string
		var route Route
		if err := r.Scan(&id, &route.Generation, &text); err != nil {
			return err
		}
		all = append(all, id)
		if text == "" {
			return nil
		}
		changed = append(changed, route)
		return json.Unmarshal([]byte(text), &changed[len(changed)-1].Route)
	}, "SELECT service_id, generation, CASE WHEN generation > $1 THEN route ELSE '' END FROM routes ORDER BY generation", after)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("reading routes: %w", err)
	}
	return changed, all, newest, nil
}

// Server is a running server of Trysail.
type Server struct {
	ID      string // of this run
	Name    string // for people
	Address string // host:port where the others reach its API; may be empty
	// Epoch is that of the lead, if it leads, else 0. Of two that say so the higher one is right.
	Epoch int64
	// Beat grows as long as the server runs and reaches the database.
	Beat int64
	// Applied is the generation of routes up to which its edge follows.
	Applied int64
	// Draining are the pods out of rotation that still have requests in flight there.
	Draining []trysail.PodID
}

// Beat writes that a server runs and how far it is, and reports whether it had been forgotten before. Others are told if
// anything but the beat has changed.
func (t *Tx) Beat(s Server) (forgotten bool, err error) {
	slices.Sort(s.Draining)
	draining, err := json.Marshal(s.Draining)
	if err != nil {
		return false, fmt.Errorf("encoding the state of a server: %w", err)
	}
	var applied, epoch int64
	var before string
	err = t.row("SELECT applied, epoch, draining FROM servers WHERE id = $1", s.ID).Scan(&applied, &epoch, &before)
	forgotten = errors.Is(err, sql.ErrNoRows)
	if err != nil && !forgotten {
		return false, fmt.Errorf("reading the state of a server: %w", err)
	}
	if forgotten || applied != s.Applied || epoch != s.Epoch || before != string(draining) {
		t.touch(ServersChanged)
	}
	return forgotten, t.exec(`INSERT INTO servers (id, name, address, started_at, epoch, beat, applied, draining) VALUES ($1, $2, $3, $4, $5, 0, $6, $7)
		ON CONFLICT (id) DO UPDATE SET beat = servers.beat + 1, epoch = excluded.epoch, applied = excluded.applied, draining = excluded.draining`,
		s.ID, s.Name, s.Address, unix(t.now), s.Epoch, s.Applied, string(draining))
}

// Servers lists the servers that run, and those that ended without saying so and were not forgotten yet.
func (t *Tx) Servers() (list []Server, err error) {
	err = t.query(func(r *sql.Rows) error {
		var s Server
		var draining string
		if err := r.Scan(&s.ID, &s.Name, &s.Address, &s.Epoch, &s.Beat, &s.Applied, &draining); err != nil {
			return err
		}
		list = append(list, s)
		return json.Unmarshal([]byte(draining), &list[len(list)-1].Draining)
	}, "SELECT id, name, address, epoch, beat, applied, draining FROM servers ORDER BY started_at, id")
	if err != nil {
		return nil, fmt.Errorf("reading servers: %w", err)
	}
	return list, nil
}

// ForgetServer removes a server that has ended.
func (t *Tx) ForgetServer(id string) error {
	t.touch(ServersChanged)
	return t.exec("DELETE FROM servers WHERE id = $1", id)
}

// SharedFile returns a file that all servers have. Errors: ErrNotFound.
func (t *Tx) SharedFile(name string) ([]byte, error) {
	var sealed []byte
	err := t.row("SELECT content FROM shared_files WHERE name = $1", name).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading the shared file %s: %w", name, err)
	}
	return t.openFile(name, sealed)
}

func (t *Tx) openFile(name string, sealed []byte) ([]byte, error) {
	text, err := t.seal.open("file "+name, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening the shared file %s: %w", name, err)
	}
	return []byte(text), nil
}

// SharedFiles returns the files that have changed after a generation, by name, the names of all, and the newest generation.
func (t *Tx) SharedFiles(after int64) (changed map[string][]byte, all []string, newest int64, err error) {
	if newest, err = t.generation(FilesChanged); err != nil {
		return nil, nil, 0, err
	}
	changed = map[string][]byte{}
	err = t.query(func(r *sql.Rows) error {
		var name string
		var sealed []byte
		if err := r.Scan(&name, &sealed); err != nil {
			return err
		}
		all = append(all, name)
		if len(sealed) == 0 {
			return nil
		}
		changed[name], err = t.openFile(name, sealed)
		return err
	}, "SELECT name, CASE WHEN generation > $1 THEN content END FROM shared_files ORDER BY name", after)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("reading shared files: %w", err)
	}
	return changed, all, newest, nil
}

// PutSharedFile gives all servers a file, in place of an earlier one of that name.
func (t *Tx) PutSharedFile(name string, content []byte) error {
	generation, err := t.nextGeneration(FilesChanged)
	if err != nil {
		return err
	}
	t.touch(FilesChanged)
	return t.exec(`INSERT INTO shared_files (name, generation, content) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET generation = excluded.generation, content = excluded.content`,
		name, generation, t.seal.seal("file "+name, string(content)))
}

// DeleteSharedFile takes a file away from all servers.
func (t *Tx) DeleteSharedFile(name string) error {
	t.touch(FilesChanged)
	return t.exec("DELETE FROM shared_files WHERE name = $1", name)
}

// generation is how far something has come.
func (t *Tx) generation(of string) (n int64, err error) {
	if err := t.row("SELECT COALESCE(MAX(generation), 0) FROM generations WHERE name = $1", of).Scan(&n); err != nil {
		return 0, fmt.Errorf("reading the generation of %s: %w", of, err)
	}
	return n, nil
}

func (t *Tx) nextGeneration(of string) (n int64, err error) {
	err = t.row(`INSERT INTO generations (name, generation) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET generation = generations.generation + 1 RETURNING generation`, of).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting the changes of %s: %w", of, err)
	}
	return n, nil
}
