package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// keptVersions is how many deployments of a service are kept (the Lightsail quota "deployment versions").
const keptVersions = 50

// keptPods is how many ended pods of one version are kept, so that a crash loop cannot fill the disk.
const keptPods = 100

// Tx is one transaction. It is used by one goroutine and not after the function that received it has returned.
type Tx struct {
	ctx     context.Context //nolint:containedctx // a Tx lives exactly as long as the call it belongs to
	tx      *sql.Tx
	db      dialect
	now     time.Time
	seal    *sealer
	touched map[string]struct{}
	again   bool // others got in the way: the transaction has failed, and may do better when it is run again
}

// Now is the time of the transaction: the same for everything that it writes.
func (t *Tx) Now() time.Time { return t.now }

// touch notes that subscribers should look at the service after the commit.
func (t *Tx) touch(serviceID string) {
	if t.touched == nil {
		t.touched = map[string]struct{}{}
	}
	t.touched[serviceID] = struct{}{}
}

func (t *Tx) exec(query string, args ...any) error {
	_, err := t.execResult(query, args...)
	return err
}

// execOne is exec for a statement that must change exactly one row.
func (t *Tx) execOne(query string, args ...any) error {
	res, err := t.execResult(query, args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return ErrNotFound
}

func (t *Tx) execResult(query string, args ...any) (sql.Result, error) {
	args, err := t.db.args(args)
	if err != nil {
		return nil, err
	}
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	return res, t.note(err)
}

// note remembers that the transaction must be run again, whatever becomes of err.
func (t *Tx) note(err error) error {
	if err != nil && t.db.again(err) {
		t.again = true
	}
	return err
}

// row is the first row of a query.
type row struct {
	*sql.Row

	tx  *Tx
	err error
}

// Scan is sql.Row's.
func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return r.tx.note(r.Row.Scan(dest...))
}

func (t *Tx) row(query string, args ...any) row {
	args, err := t.db.args(args)
	if err != nil {
		return row{err: err}
	}
	return row{Row: t.tx.QueryRowContext(t.ctx, query, args...), tx: t}
}

// query calls scan for each row. scan must not use the transaction.
func (t *Tx) query(scan func(*sql.Rows) error, query string, args ...any) error {
	args, err := t.db.args(args)
	if err != nil {
		return err
	}
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		return t.note(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return t.note(rows.Err())
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnix(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

const serviceColumns = `s.id, s.name, s.created_at, COALESCE(NULLIF(s.shared_label, ''), s.host_label), s.power, s.scale, s.state, s.detail_code, s.detail_message,
	s.disabled, s.ecr_puller, s.fallback_power, s.fallback_scale, s.settings, s.forward`

// Services lists all services by creation time, with tags, current and next deployment.
func (t *Tx) Services() ([]trysail.Service, error) { return t.selectServices("1 = 1") }

// CountServices counts all services.
func (t *Tx) CountServices() (n int, err error) {
	return n, t.row("SELECT COUNT(*) FROM services").Scan(&n)
}

// Service returns the service of that name. Errors: ErrNotFound.
func (t *Tx) Service(name string) (*trysail.Service, error) { return t.oneService("s.name = $1", name) }

// ServiceByID returns the service with that id. Errors: ErrNotFound.
func (t *Tx) ServiceByID(id string) (*trysail.Service, error) { return t.oneService("s.id = $1", id) }

func (t *Tx) oneService(where string, arg any) (*trysail.Service, error) {
	list, err := t.selectServices(where, arg)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, ErrNotFound
	}
	return &list[0], nil
}

func (t *Tx) selectServices(where string, args ...any) ([]trysail.Service, error) {
	var list []trysail.Service
	at := map[string]int{}
	err := t.query(func(r *sql.Rows) error {
		s, err := scanService(r)
		at[s.ID] = len(list)
		list = append(list, s)
		return err
	}, "SELECT "+serviceColumns+" FROM services s WHERE "+where+" ORDER BY s.created_at, s.name", args...)
	if err != nil {
		return nil, fmt.Errorf("reading services: %w", err)
	}
	err = t.query(func(r *sql.Rows) error {
		var id string
		var tag trysail.Tag
		err := r.Scan(&id, &tag.Key, &tag.Value)
		list[at[id]].Tags = append(list[at[id]].Tags, tag)
		return err
	}, "SELECT t.service_id, t.key, t.value FROM tags t JOIN services s ON s.id = t.service_id WHERE "+where+" ORDER BY t.key", args...)
	if err != nil {
		return nil, fmt.Errorf("reading tags: %w", err)
	}
	if err := t.readPublicDomains(list, at, where, args...); err != nil {
		return nil, fmt.Errorf("reading public domains: %w", err)
	}
	err = t.query(func(r *sql.Rows) error {
		id, d, err := scanDeployment(r)
		if err != nil {
			return err
		}
		if d.State == trysail.DeploymentActive {
			list[at[id]].Current = d
		} else {
			list[at[id]].Next = d
		}
		return nil
	}, "SELECT "+deploymentColumns+" FROM deployments d JOIN services s ON s.id = d.service_id WHERE d.state IN ('ACTIVE', 'ACTIVATING') AND "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("reading deployments: %w", err)
	}
	return list, nil
}

func scanService(r *sql.Rows) (trysail.Service, error) {
	var s trysail.Service
	var created int64
	var fallback trysail.Capacity
	var settings, forward string
	err := r.Scan(&s.ID, &s.Name, &created, &s.HostLabel, &s.Power, &s.Scale, &s.State, &s.Detail.Code, &s.Detail.Message,
		&s.Disabled, &s.ECRPuller, &fallback.Power, &fallback.Scale, &settings, &forward)
	if err == nil {
		err = json.Unmarshal([]byte(settings), &s.Settings)
	}
	if err == nil && forward != "" {
		err = json.Unmarshal([]byte(forward), &s.Forward)
	}
	s.CreatedAt = fromUnix(created)
	if fallback.Scale > 0 {
		s.Fallback = &fallback
	}
	return s, err
}

// InsertService adds a service with its tags and public domains. Its deployments are added with InsertDeployment. The
// label of its host goes to shared_label, which need not be unique; host_label, which must be, gets the id.
func (t *Tx) InsertService(s *trysail.Service) error {
	err := t.exec(`INSERT INTO services (id, name, created_at, host_label, shared_label, power, scale, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		s.ID, s.Name, unix(s.CreatedAt), s.ID, s.HostLabel, s.Power, s.Scale, s.State)
	if err != nil {
		return fmt.Errorf("inserting service: %w", err)
	}
	if len(s.PublicDomains) > 0 {
		if err := t.SetPublicDomains(s.ID, s.PublicDomains); err != nil {
			return err
		}
	}
	if err := t.SetTags(s.ID, s.Tags); err != nil {
		return err
	}
	return t.UpdateService(s)
}

// UpdateService writes everything of the service that can change but its tags, public domains and deployments. Errors: ErrNotFound.
func (t *Tx) UpdateService(s *trysail.Service) error {
	var fallback trysail.Capacity
	if s.Fallback != nil {
		fallback = *s.Fallback
	}
	settings, err := json.Marshal(s.Settings)
	if err != nil {
		return err
	}
	var forward []byte
	if s.Forward != nil {
		if forward, err = json.Marshal(s.Forward); err != nil {
			return err
		}
	}
	t.touch(s.ID)
	return t.execOne(`UPDATE services SET power = $1, scale = $2, state = $3, detail_code = $4, detail_message = $5, disabled = $6,
		ecr_puller = $7, fallback_power = $8, fallback_scale = $9, settings = $10, forward = $11 WHERE id = $12`,
		s.Power, s.Scale, s.State, s.Detail.Code, s.Detail.Message, s.Disabled, s.ECRPuller, fallback.Power, fallback.Scale, string(settings), string(forward), s.ID)
}

// DeleteService removes the service and everything that hangs on it.
func (t *Tx) DeleteService(id string) error {
	t.touch(id)
	return t.exec("DELETE FROM services WHERE id = $1", id)
}

// SetTags replaces the service's tags.
func (t *Tx) SetTags(serviceID string, tags []trysail.Tag) error {
	t.touch(serviceID)
	if err := t.exec("DELETE FROM tags WHERE service_id = $1", serviceID); err != nil {
		return err
	}
	for _, tag := range tags {
		if err := t.exec("INSERT INTO tags (service_id, key, value) VALUES ($1, $2, $3)", serviceID, tag.Key, tag.Value); err != nil {
			return fmt.Errorf("inserting tag: %w", err)
		}
	}
	return nil
}

const deploymentColumns = "d.service_id, d.version, d.state, d.created_at, d.deadline, d.spec, d.digests, d.hold"

// spec is the JSON form of what is immutable in a deployment.
type spec struct {
	Containers     map[string]trysail.Container `json:"containers"`
	PublicEndpoint *trysail.PublicEndpoint      `json:"publicEndpoint,omitempty"`
}

func scanDeployment(r *sql.Rows) (serviceID string, d *trysail.Deployment, err error) {
	d = &trysail.Deployment{}
	var created, deadline int64
	var text, digests string
	if err := r.Scan(&serviceID, &d.Version, &d.State, &created, &deadline, &text, &digests, &d.Hold); err != nil {
		return "", nil, err
	}
	d.CreatedAt, d.Deadline = fromUnix(created), fromUnix(deadline)
	var sp spec
	if err := errors.Join(json.Unmarshal([]byte(text), &sp), json.Unmarshal([]byte(digests), &d.Digests)); err != nil {
		return "", nil, fmt.Errorf("decoding version %d: %w", d.Version, err)
	}
	d.Containers, d.PublicEndpoint = sp.Containers, sp.PublicEndpoint
	return serviceID, d, nil
}

// InsertDeployment adds a deployment, sets its Version to the service's next one and forgets the oldest versions beyond
// the 50 that are kept; a version that is ACTIVE or ACTIVATING is never forgotten. Errors: ErrNotFound.
func (t *Tx) InsertDeployment(serviceID string, d *trysail.Deployment) error {
	t.touch(serviceID)
	if err := t.execOne("UPDATE services SET last_version = last_version + 1 WHERE id = $1", serviceID); err != nil {
		return err
	}
	if err := t.row("SELECT last_version FROM services WHERE id = $1", serviceID).Scan(&d.Version); err != nil {
		return err
	}
	text, err := json.Marshal(spec{d.Containers, d.PublicEndpoint})
	if err != nil {
		return err
	}
	err = t.exec("INSERT INTO deployments (service_id, version, state, created_at, deadline, spec, digests) VALUES ($1, $2, $3, $4, $5, $6, '{}')",
		serviceID, d.Version, d.State, unix(d.CreatedAt), unix(d.Deadline), string(text))
	if err != nil {
		return fmt.Errorf("inserting deployment: %w", err)
	}
	if err := t.UpdateDeployment(serviceID, d); err != nil {
		return err
	}
	err = t.exec(`DELETE FROM deployments WHERE service_id = $1 AND state NOT IN ('ACTIVE', 'ACTIVATING') AND version NOT IN
		(SELECT version FROM deployments WHERE service_id = $1 ORDER BY state IN ('ACTIVE', 'ACTIVATING') DESC, version DESC LIMIT $2)`,
		serviceID, keptVersions)
	if err != nil {
		return fmt.Errorf("forgetting old versions: %w", err)
	}
	return t.exec(`DELETE FROM pods WHERE service_id = $1 AND ended_at > 0 AND version NOT IN
		(SELECT version FROM deployments WHERE service_id = $1)`, serviceID)
}

// UpdateDeployment writes what can change of a deployment: state, deadline, digests and hold. Errors: ErrNotFound.
func (t *Tx) UpdateDeployment(serviceID string, d *trysail.Deployment) error {
	t.touch(serviceID)
	digests := d.Digests
	if digests == nil {
		digests = map[string]string{}
	}
	text, err := json.Marshal(digests)
	if err != nil {
		return err
	}
	return t.execOne("UPDATE deployments SET state = $1, deadline = $2, digests = $3, hold = $4 WHERE service_id = $5 AND version = $6",
		d.State, unix(d.Deadline), string(text), d.Hold, serviceID, d.Version)
}

// Deployments lists the service's kept deployments, newest first.
func (t *Tx) Deployments(serviceID string) ([]trysail.Deployment, error) {
	var list []trysail.Deployment
	err := t.query(func(r *sql.Rows) error {
		_, d, err := scanDeployment(r)
		if err != nil {
			return err
		}
		list = append(list, *d)
		return nil
	}, "SELECT "+deploymentColumns+" FROM deployments d WHERE d.service_id = $1 ORDER BY d.version DESC", serviceID)
	return list, err
}

// SetDiagnosis keeps why the version failed. Errors: ErrNotFound.
func (t *Tx) SetDiagnosis(serviceID string, d *trysail.Diagnosis) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return t.execOne("UPDATE deployments SET diagnosis = $1 WHERE service_id = $2 AND version = $3", string(text), serviceID, d.Version)
}

// Diagnosis returns why the version failed. Errors: ErrNotFound when there is no such version or no diagnosis.
func (t *Tx) Diagnosis(serviceID string, version int) (*trysail.Diagnosis, error) {
	var text string
	err := t.row("SELECT diagnosis FROM deployments WHERE service_id = $1 AND version = $2", serviceID, version).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) || err == nil && text == "" {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	d := &trysail.Diagnosis{}
	return d, json.Unmarshal([]byte(text), d)
}

// Pods lists the pods of a service by creation time: those that have not ended, or all that are kept.
func (t *Tx) Pods(serviceID string, ended bool) ([]trysail.PodRecord, error) {
	where := "service_id = $1"
	if !ended {
		where += " AND ended_at = 0"
	}
	return t.pods(where, serviceID)
}

// PodsToPlan lists the pods of a service that have not ended, and those of the two versions that have, by creation time.
// Version 0 is none. Only those of the next version come with their evidence: a plan needs no other.
func (t *Tx) PodsToPlan(serviceID string, current, next int) ([]trysail.PodRecord, error) {
	return t.podsWith("CASE WHEN version = $1 THEN evidence ELSE '' END", "service_id = $2 AND (ended_at = 0 OR version IN ($1, $3))", next, serviceID, current)
}

// Pod returns the record of one pod. Errors: ErrNotFound.
func (t *Tx) Pod(id trysail.PodID) (trysail.PodRecord, error) {
	list, err := t.pods("id = $1", id)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return trysail.PodRecord{}, err
	}
	return list[0], nil
}

func (t *Tx) pods(where string, args ...any) ([]trysail.PodRecord, error) {
	return t.podsWith("evidence", where, args...)
}

func (t *Tx) podsWith(evidenceColumn, where string, args ...any) ([]trysail.PodRecord, error) {
	var list []trysail.PodRecord
	err := t.query(func(r *sql.Rows) error {
		var p trysail.PodRecord
		var created, healthy, stop, ended, hold int64
		var evidence string
		err := r.Scan(&p.ID, &p.ServiceID, &p.Version, &p.Power, &p.Slot, &p.Attempt, &created, &healthy, &stop, &ended, &hold, &p.Reason, &p.Failed, &evidence)
		p.HoldUntil = fromUnix(hold)
		p.CreatedAt, p.HealthyAt, p.StopAt, p.EndedAt = fromUnix(created), fromUnix(healthy), fromUnix(stop), fromUnix(ended)
		if err == nil && evidence != "" {
			err = json.Unmarshal([]byte(evidence), &p.Evidence)
		}
		list = append(list, p)
		return err
	}, `SELECT id, service_id, version, power, slot, attempt, created_at, healthy_at, stop_at, ended_at, hold_until, reason, failed, `+evidenceColumn+`
		FROM pods WHERE `+where+" ORDER BY created_at, id", args...)
	if err != nil {
		return nil, fmt.Errorf("reading pods: %w", err)
	}
	return list, nil
}

// InsertPod records that a pod shall exist, before it is started. The oldest ended pods of the version beyond 100 are
// forgotten.
func (t *Tx) InsertPod(p *trysail.PodRecord) error {
	t.touch(p.ServiceID)
	err := t.exec(`INSERT INTO pods (id, service_id, version, power, slot, attempt, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		p.ID, p.ServiceID, p.Version, p.Power, p.Slot, p.Attempt, unix(p.CreatedAt))
	if err != nil {
		return fmt.Errorf("inserting pod: %w", err)
	}
	return t.exec(`DELETE FROM pods WHERE service_id = $1 AND version = $2 AND ended_at > 0 AND id NOT IN
		(SELECT id FROM pods WHERE service_id = $1 AND version = $2 AND ended_at > 0 ORDER BY ended_at DESC LIMIT $3)`,
		p.ServiceID, p.Version, keptPods)
}

// UpdatePod writes what can change of a pod's record. Evidence that is there stays when p has none. Errors: ErrNotFound.
func (t *Tx) UpdatePod(p *trysail.PodRecord) error {
	t.touch(p.ServiceID)
	err := t.execOne("UPDATE pods SET healthy_at = $1, stop_at = $2, ended_at = $3, hold_until = $4, reason = $5, failed = $6 WHERE id = $7",
		unix(p.HealthyAt), unix(p.StopAt), unix(p.EndedAt), unix(p.HoldUntil), p.Reason, p.Failed, p.ID)
	if err != nil || p.Evidence == nil {
		return err
	}
	return t.setPodEvidence(p)
}

// AccessKey is a key that may sign API calls.
type AccessKey struct {
	ID        string
	Name      string
	Secret    string
	Role      trysail.Role
	Services  []string // the only ones it is for; empty: all
	CreatedAt time.Time
}

// InsertKey adds an access key; its secret is sealed on the disk.
func (t *Tx) InsertKey(k AccessKey) error {
	return t.exec("INSERT INTO access_keys (id, name, secret, role, services, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
		k.ID, k.Name, t.seal.seal(k.ID, k.Secret), k.Role, strings.Join(k.Services, " "), unix(k.CreatedAt))
}

// DeleteKey removes an access key. Errors: ErrNotFound.
func (t *Tx) DeleteKey(id string) error {
	return t.execOne("DELETE FROM access_keys WHERE id = $1", id)
}

// Key returns the access key with its secret. Errors: ErrNotFound.
func (t *Tx) Key(id string) (AccessKey, error) {
	keys, err := t.keys("id = $1", id)
	if err == nil && len(keys) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return AccessKey{}, err
	}
	return keys[0], nil
}

// Keys lists all access keys with their secrets, oldest first.
func (t *Tx) Keys() ([]AccessKey, error) { return t.keys("1 = 1") }

func (t *Tx) keys(where string, args ...any) ([]AccessKey, error) {
	var list []AccessKey
	err := t.query(func(r *sql.Rows) error {
		var k AccessKey
		var sealed []byte
		var created int64
		var services string
		if err := r.Scan(&k.ID, &k.Name, &sealed, &k.Role, &services, &created); err != nil {
			return err
		}
		k.CreatedAt = fromUnix(created)
		if services != "" {
			k.Services = strings.Fields(services)
		}
		secret, err := t.seal.open(k.ID, sealed)
		k.Secret = secret
		list = append(list, k)
		return err
	}, "SELECT id, name, secret, role, services, created_at FROM access_keys WHERE "+where+" ORDER BY created_at, id", args...)
	return list, err
}
