package store

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Row is a row of a table, by column: integers (int64), text (string) and bytes ([]byte). Secrets in it are open.
type Row map[string]any

// moving says how the rows of a table move from one installation to another.
type moving struct {
	table string
	key   string // the columns that tell rows apart
	// service is the column with the id of the service that the row belongs to; empty if it belongs to none.
	service string
	// keep leaves a row alone that is there already: both sides have written to the table.
	keep bool
	// number is a column that the database numbers itself.
	number string
	// secret is the sealed column, and sealed what its content is bound to.
	secret string
	sealed func(Row) string
}

// movings are the tables whose rows move, in an order in which they can be written. Manifests are not among them: they come
// with their blobs, through the registry.
func movings() []moving {
	text := func(r Row, column string) string { s, _ := r[column].(string); return s }
	return []moving{
		{table: "access_keys", key: "id", secret: "secret", sealed: func(r Row) string { return text(r, "id") }},
		{table: "registries", key: "host", secret: "secret", sealed: func(r Row) string { return "registry " + text(r, "host") }},
		{table: "registry_logins", key: "hash"},
		{table: "installation", key: "key", keep: true},
		{table: "certificates", key: "id"},
		{table: "certificate_domains", key: "certificate_id, position"},
		{table: "certificate_tags", key: "certificate_id, key"},
		{table: "domains", key: "domain"},
		{table: "services", key: "id", service: "id"},
		{table: "tags", key: "service_id, key", service: "service_id"},
		{table: "deployments", key: "service_id, version", service: "service_id"},
		{table: "images", key: "service_id, number", service: "service_id"},
		{table: "public_domains", key: "domain", service: "service_id"},
		{table: "pods", key: "id", keep: true},
		{table: "tasks", key: "id", keep: true},
		{table: "operations", key: "id", keep: true, number: "seq"},
		{table: "audit", key: "at, key_id, operation, resource", keep: true, number: "seq"},
	}
}

// MovingTables lists the tables of ExportRows and ImportRows, in the order in which they have to be imported.
func MovingTables() (names []string) {
	for _, m := range movings() {
		names = append(names, m.table)
	}
	return names
}

func movingOf(table string) (moving, error) {
	list := movings()
	i := slices.IndexFunc(list, func(m moving) bool { return m.table == table })
	if i < 0 {
		return moving{}, ErrNotFound
	}
	return list[i], nil
}

// Format is how many migrations the database has seen. Rows move between databases of the same format only.
func Format() (int, error) {
	list, err := migrationTexts(false)
	return len(list), err
}

// ExportRows reads rows of a table by their keys, leaving out the first skip of them, until they have more than bytes or
// there are no more. Secrets are open in them. Errors: ErrNotFound (no such table).
func (t *Tx) ExportRows(table string, skip, bytes int) (rows []Row, more bool, err error) {
	m, err := movingOf(table)
	if err != nil {
		return nil, false, err
	}
	size := 0
	query := "SELECT * FROM " + m.table
	if m.table == "installation" {
		query += " WHERE key <> '" + sealFact + "'" // it belongs to the database, not to what it holds
	}
	query += " ORDER BY " + m.key + " LIMIT 1000000 OFFSET $1"
	err = t.query(func(r *sql.Rows) error {
		if more = size > bytes; more {
			return errEnough
		}
		row, n, err := scanRow(r)
		if err != nil {
			return err
		}
		if m.number != "" {
			delete(row, m.number)
		}
		if m.secret != "" {
			sealed, _ := row[m.secret].([]byte)
			if len(sealed) > 0 {
				if row[m.secret], err = t.seal.open(m.sealed(row), sealed); err != nil {
					return err
				}
			} else {
				row[m.secret] = ""
			}
		}
		rows, size = append(rows, row), size+n
		return nil
	}, query, skip)
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading table %s: %w", table, err)
	}
	return rows, more, nil
}

// errEnough ends the reading of rows.
var errEnough = errors.New("enough")

func scanRow(r *sql.Rows) (row Row, bytes int, err error) {
	columns, err := r.Columns()
	if err != nil {
		return nil, 0, err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := r.Scan(into...); err != nil {
		return nil, 0, err
	}
	row = Row{}
	for i, c := range columns {
		switch v := plainValue(values[i]).(type) {
		case string:
			bytes += len(v)
			row[c] = v
		case []byte:
			bytes += len(v)
			row[c] = slices.Clone(v)
		default:
			row[c] = v
		}
		bytes += len(c) + 16
	}
	return row, bytes, nil
}

// ImportRow writes a row that ExportRows has read elsewhere, and reports whether that changed anything.
//
// A service comes disabled: nothing runs before somebody enables it. From then on it is this installation's, and its rows
// from elsewhere are left out. Pods and tasks come as ended. Errors: ErrNotFound (no such table, or no such service),
// ErrTaken.
func (t *Tx) ImportRow(table string, row Row) (changed bool, err error) {
	m, err := movingOf(table)
	if err != nil {
		return false, err
	}
	if m.service != "" {
		id, _ := row[m.service].(string)
		if mine, err := t.isMine(m, id, row); mine || err != nil {
			return false, err
		}
		t.touch(id)
	}
	if err := t.adapt(m, row); err != nil {
		return false, err
	}
	columns := make([]string, 0, len(row))
	for c := range row {
		columns = append(columns, c)
	}
	slices.Sort(columns)
	known, err := columnsOf(t.ctx, t.tx, m.table)
	if err != nil {
		return false, t.note(err)
	}
	known = slices.DeleteFunc(known, func(c string) bool { return c == m.number })
	if !slices.Equal(columns, known) {
		return false, fmt.Errorf("a row of table %s has the columns %q, not %q", m.table, columns, known)
	}
	if m.table == "audit" {
		return t.importAudit(row)
	}
	var marks, set []string
	var args []any
	for i, c := range columns {
		marks = append(marks, "$"+strconv.Itoa(i+1))
		args = append(args, row[c])
		if !slices.Contains(strings.Split(m.key, ", "), c) {
			set = append(set, `"`+c+`" = excluded."`+c+`"`)
		}
	}
	conflict := "DO NOTHING"
	if !m.keep && len(set) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(set, ", ")
	}
	res, err := t.execResult("INSERT INTO "+m.table+" ("+quoted(columns)+") VALUES ("+strings.Join(marks, ", ")+") ON CONFLICT ("+m.key+") "+conflict, args...)
	if err != nil {
		return false, fmt.Errorf("writing to table %s: %w", m.table, err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// ErrTaken is returned by ImportRow for a service whose name another one has here.
var ErrTaken = errors.New("the name is in use")

// isMine reports whether a service has been enabled here, so that what is known of it elsewhere does not count any more.
func (t *Tx) isMine(m moving, id string, row Row) (bool, error) {
	s, err := t.ServiceByID(id)
	switch {
	case err == nil && !s.Disabled:
		return true, nil
	case err == nil && m.table == "services":
		// What hangs on it comes anew.
		for _, table := range []string{"tags", "deployments", "images", "public_domains"} {
			if err := t.exec("DELETE FROM "+table+" WHERE service_id = $1", id); err != nil {
				return false, err
			}
		}
		return false, nil
	case !errors.Is(err, ErrNotFound) || m.table != "services":
		return false, err
	}
	name, _ := row["name"].(string)
	if _, err := t.Service(name); err == nil {
		return false, fmt.Errorf("service %s: %w", name, ErrTaken)
	} else if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	return false, nil
}

// adapt makes a row fit here.
func (t *Tx) adapt(m moving, row Row) error {
	now := unix(t.now)
	switch m.table {
	case "services":
		row["state"], row["disabled"], row["detail_code"], row["detail_message"] = "DISABLED", int64(1), "", ""
		row["fallback_power"], row["fallback_scale"], row["forward"] = "", int64(0), ""
	case "deployments":
		if row["state"] == "ACTIVATING" {
			row["state"] = "INACTIVE"
		}
	case "pods", "tasks":
		if row["ended_at"] == int64(0) {
			row["stop_at"], row["ended_at"], row["reason"] = now, now, "the service has moved here from another installation"
		}
	case "registry_logins":
		if hash, ok := row["hash"].([]byte); !ok || len(hash) == 0 {
			return errors.New("a login has no hash")
		}
	}
	if m.secret != "" {
		secret, ok := row[m.secret].(string)
		if !ok {
			return fmt.Errorf("a row of table %s has no secret", m.table)
		}
		row[m.secret] = t.seal.seal(m.sealed(row), secret)
	}
	return nil
}

// importAudit adds an entry of the audit trail unless it is there.
func (t *Tx) importAudit(row Row) (bool, error) {
	var n int
	err := t.row("SELECT COUNT(*) FROM audit WHERE at = $1 AND key_id = $2 AND operation = $3 AND resource = $4", row["at"], row["key_id"], row["operation"], row["resource"]).Scan(&n)
	if err != nil || n > 0 {
		return false, err
	}
	var columns, marks []string
	var args []any
	for c, v := range row {
		columns, args = append(columns, c), append(args, v)
		marks = append(marks, "$"+strconv.Itoa(len(args)))
	}
	return true, t.exec("INSERT INTO audit ("+quoted(columns)+") VALUES ("+strings.Join(marks, ", ")+")", args...)
}
