package control

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// MovingRows is a page of what moves from one installation to another.
type MovingRows struct {
	Format        int // of the database; both sides must have the same
	Rows          []json.RawMessage
	NextPageToken string
}

// exportBytes is about how much one page has.
const exportBytes = 2 << 20

// MovingTables lists what ExportRows and ImportRows know, in the order in which it has to be imported.
func MovingTables() []string { return store.MovingTables() }

// ExportRowsInput is the request of ExportRows.
type ExportRowsInput struct {
	Table     string
	PageToken string
}

// ExportRows reads a page of the rows of a table, with their secrets, for another installation. Errors: Invalid.
func (c *Control) ExportRows(ctx context.Context, caller trysail.Caller, in ExportRowsInput) (_ *MovingRows, err error) {
	defer c.auditFailure(ctx, caller, "ExportRows", in.Table, &err)
	if err := caller.May(trysail.RoleAdmin, "ExportRows", ""); err != nil {
		return nil, err
	}
	skip := 0
	if in.PageToken != "" {
		var err error
		if skip, err = strconv.Atoi(in.PageToken); err != nil || skip < 0 {
			return nil, trysail.Errorf(trysail.CodeInvalid, "Invalid page token.")
		}
	}
	format, err := store.Format()
	if err != nil {
		return nil, err
	}
	page := &MovingRows{Format: format, Rows: []json.RawMessage{}}
	if skip == 0 {
		// Who has taken secrets away shall be known afterwards.
		if _, err := c.change(ctx, caller, "ExportRows", in.Table, func(*store.Tx) error { return knownTable(in.Table) }); err != nil {
			return nil, err
		}
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		rows, more, err := tx.ExportRows(in.Table, skip, exportBytes)
		if errors.Is(err, store.ErrNotFound) {
			return knownTable(in.Table)
		}
		if err != nil {
			return err
		}
		if more {
			page.NextPageToken = strconv.Itoa(skip + len(rows))
		}
		for _, r := range rows {
			text, err := encodeRow(r)
			if err != nil {
				return err
			}
			page.Rows = append(page.Rows, text)
		}
		return nil
	})
	return page, err
}

func knownTable(table string) error {
	if slices.Contains(store.MovingTables(), table) {
		return nil
	}
	return trysail.Errorf(trysail.CodeInvalid, "Table %.40q does not move. Those that do are: %s.", table, strings.Join(store.MovingTables(), ", "))
}

// ImportRowsInput is the request of ImportRows.
type ImportRowsInput struct {
	Table  string
	Format int
	Rows   []json.RawMessage
}

// ImportRows writes rows that another installation's ExportRows has read, in one transaction, and returns how many of them
// changed something. Services come disabled; what belongs to one that has been enabled here is left out. Errors: Invalid.
func (c *Control) ImportRows(ctx context.Context, caller trysail.Caller, in ImportRowsInput) (changed int, err error) {
	defer c.auditFailure(ctx, caller, "ImportRows", in.Table, &err)
	if err := caller.May(trysail.RoleAdmin, "ImportRows", ""); err != nil {
		return 0, err
	}
	if err := knownTable(in.Table); err != nil {
		return 0, err
	}
	format, err := store.Format()
	if err != nil {
		return 0, err
	}
	if in.Format != format {
		return 0, trysail.Errorf(trysail.CodeInvalid, "The rows have format %d, this Trysail has %d. Run the same version of Trysail on both sides.", in.Format, format)
	}
	_, err = c.change(ctx, caller, "ImportRows", in.Table, func(tx *store.Tx) error {
		changed = 0
		for _, text := range in.Rows {
			row, err := decodeRow(text)
			if err != nil {
				return trysail.Errorf(trysail.CodeInvalid, "A row of table %s cannot be read.", in.Table)
			}
			yes, err := tx.ImportRow(in.Table, row)
			switch {
			case errors.Is(err, store.ErrTaken):
				return trysail.Errorf(trysail.CodeInvalid, "There is another service %q here already. Delete or rename one of the two.", row["name"])
			case errors.Is(err, store.ErrNotFound):
				return trysail.Errorf(trysail.CodeInvalid, "A row of table %s belongs to a service that is not here.", in.Table)
			case err != nil:
				return err
			case yes:
				changed++
			}
		}
		return nil
	})
	return changed, err
}

// bytesPrefix is the only member of the object that stands for bytes.
const bytesPrefix = "base64:"

func encodeRow(r store.Row) (json.RawMessage, error) {
	out := map[string]any{}
	for c, v := range r {
		switch v := v.(type) {
		case []byte:
			out[c] = map[string]string{bytesPrefix: base64.StdEncoding.EncodeToString(v)}
		case int64, string:
			out[c] = v
		default:
			return nil, fmt.Errorf("column %s has a %T", c, v)
		}
	}
	return json.Marshal(out)
}

func decodeRow(text json.RawMessage) (store.Row, error) {
	var in map[string]json.RawMessage
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, err
	}
	row := store.Row{}
	for c, v := range in {
		var (
			number int64
			word   string
			raw    map[string][]byte
		)
		switch {
		case json.Unmarshal(v, &number) == nil:
			row[c] = number
		case json.Unmarshal(v, &word) == nil:
			row[c] = word
		case json.Unmarshal(v, &raw) == nil && len(raw) == 1 && raw[bytesPrefix] != nil:
			row[c] = raw[bytesPrefix]
		default:
			return nil, fmt.Errorf("column %s has neither a number nor text nor bytes", c)
		}
	}
	return row, nil
}
