package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/internal/push"
)

const (
	// maxImport is about how many bytes of rows go with one call.
	maxImport = 400 << 10
)

// table is a table of the database that moves.
type table struct {
	name string
	// service is the column that names a row's service by id; empty if rows belong to none, or may be copied whatever
	// becomes of the service.
	service string
}

// tables are in the order in which they have to be written.
func movingTables() []table {
	return []table{
		{"access_keys", ""},
		{"registries", ""},
		{"registry_logins", ""},
		{"installation", ""},
		{"certificates", ""},
		{"certificate_domains", ""},
		{"certificate_tags", ""},
		{"domains", ""},
		{"services", "id"},
		{"tags", "service_id"},
		{"deployments", "service_id"},
		{"images", "service_id"},
		{"public_domains", "service_id"},
		{"pods", ""},
		{"tasks", ""},
		{"operations", ""},
		{"audit", ""},
	}
}

// rows reads a table of one side.
func (c *client) rows(ctx context.Context, name string) (rows []string, format int, err error) {
	token := ""
	for {
		var page struct {
			Format        int      `json:"format"`
			Rows          []string `json:"rows"`
			NextPageToken string   `json:"nextPageToken"`
		}
		if err := c.call(ctx, "ExportRows", map[string]string{"table": name, "pageToken": token}, &page); err != nil {
			return nil, 0, fmt.Errorf("reading the %s of %s: %w", strings.ReplaceAll(name, "_", " "), c.settings.endpoint, err)
		}
		rows, format = append(rows, page.Rows...), page.Format
		if token = page.NextPageToken; token == "" {
			return rows, format, nil
		}
	}
}

// ids are the services whose rows are to be copied: those that are not there, or not started there.
func (m *migration) ids(services []string) (ids map[string]bool, err error) {
	ids = map[string]bool{}
	for _, text := range services {
		var s struct{ ID, Name string }
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return nil, fmt.Errorf("reading a service: %w", err)
		}
		if slices.Contains(m.names(), s.Name) && (m.there[s.Name] == nil || isDisabled(m.there[s.Name])) {
			ids[s.ID] = true
		}
	}
	return ids, nil
}

// different returns the rows of a table that have to be written there.
func (m *migration) different(ctx context.Context, t table, ids map[string]bool) (missing []string, format int, err error) {
	here, format, err := m.from.rows(ctx, t.name)
	if err != nil {
		return nil, 0, err
	}
	there, other, err := m.to.rows(ctx, t.name)
	if err != nil {
		return nil, 0, err
	}
	if format != other {
		return nil, 0, WithHint(fmt.Errorf("the state has format %d here and %d there", format, other), "Run the same version of Trysail on both sides.")
	}
	have := map[string]bool{}
	for _, row := range there {
		have[keyOf(t.name, row)] = true
	}
	for _, row := range here {
		if t.service != "" {
			var values map[string]any
			if err := json.Unmarshal([]byte(row), &values); err != nil {
				return nil, 0, err
			}
			id, _ := values[t.service].(string)
			if ids[id] {
				missing = append(missing, row)
			}
			continue
		}
		if !have[keyOf(t.name, row)] {
			missing = append(missing, row)
		}
	}
	return missing, format, nil
}

// keyOf is what a row is compared by: its key where the other side may have changed the rest, else all of it.
func keyOf(table, row string) string {
	column := map[string]string{"pods": "id", "tasks": "id", "operations": "id", "installation": "key"}[table]
	if column == "" {
		return row
	}
	var values map[string]any
	if json.Unmarshal([]byte(row), &values) != nil {
		return row
	}
	return fmt.Sprint(values[column])
}

// copyRows copies what is in the database.
func (m *migration) copyRows(ctx context.Context) error {
	var ids map[string]bool
	total := 0
	services, _, err := m.from.rows(ctx, "services")
	if err == nil {
		ids, err = m.ids(services)
	}
	if err != nil {
		return err
	}
	for _, t := range movingTables() {
		rows, format, err := m.different(ctx, t, ids)
		if err != nil {
			return err
		}
		if t.name == "pods" || t.name == "tasks" {
			rows = slices.DeleteFunc(rows, func(row string) bool { return !m.isKnown(row, services) })
		}
		for len(rows) > 0 {
			n, size := 0, 0
			for n < len(rows) && (n == 0 || size+len(rows[n]) < maxImport) {
				size += len(rows[n])
				n++
			}
			var out struct {
				Changed int `json:"changed"`
			}
			m.show.now(fmt.Sprintf("copying %s", strings.ReplaceAll(t.name, "_", " ")))
			if err := m.to.call(ctx, "ImportRows", map[string]any{"table": t.name, "format": format, "rows": rows[:n]}, &out); err != nil {
				return fmt.Errorf("writing %s: %w", strings.ReplaceAll(t.name, "_", " "), err)
			}
			total += out.Changed
			rows = rows[n:]
		}
	}
	m.show.line(plain, fmt.Sprintf("services, versions, keys, domains, settings: %s copied", count(total, "record")))
	return m.look(ctx)
}

// isKnown reports whether the row's service moves.
func (m *migration) isKnown(row string, services []string) bool {
	var r struct {
		ServiceID string `json:"service_id"`
	}
	if json.Unmarshal([]byte(row), &r) != nil {
		return false
	}
	for _, text := range services {
		var s struct{ ID, Name string }
		if json.Unmarshal([]byte(text), &s) == nil && s.ID == r.ServiceID {
			return slices.Contains(m.names(), s.Name)
		}
	}
	return false
}

// digests are the images that were pushed here and are needed: those that are registered, and those that versions have.
func (m *migration) digests(ctx context.Context) ([]string, error) {
	var list []string
	for _, name := range m.names() {
		out, err := m.from.GetContainerImages(ctx, &lightsail.GetContainerImagesInput{ServiceName: &name})
		if err != nil {
			return nil, err
		}
		for _, img := range out.ContainerImages {
			list = append(list, aws.ToString(img.Digest))
		}
	}
	rows, _, err := m.from.rows(ctx, "deployments")
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		var d struct{ Digests string }
		var byName map[string]string
		if err := errors.Join(json.Unmarshal([]byte(row), &d), json.Unmarshal([]byte(d.Digests), &byName)); err != nil {
			return nil, fmt.Errorf("reading a version: %w", err)
		}
		for name, digest := range byName {
			if strings.HasPrefix(name, ":") {
				list = append(list, digest)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func (c *client) repository(ctx context.Context) (push.Target, error) {
	out, err := c.CreateContainerServiceRegistryLogin(ctx, &lightsail.CreateContainerServiceRegistryLoginInput{})
	if err != nil {
		return push.Target{}, err
	}
	registry := aws.ToString(out.RegistryLogin.Registry)
	return push.Target{
		Repository: registry + "/sr", Username: aws.ToString(out.RegistryLogin.Username), Password: aws.ToString(out.RegistryLogin.Password),
		Transport: c.pushTransport(), Insecure: c.plainRegistry(registry),
	}, nil
}

// copyImages copies the images that were pushed here.
func (m *migration) copyImages(ctx context.Context) error {
	digests, err := m.digests(ctx)
	if err != nil || len(digests) == 0 {
		return err
	}
	from, err := m.from.repository(ctx)
	if err != nil {
		return err
	}
	to, err := m.to.repository(ctx)
	if err != nil {
		return err
	}
	copied := 0
	for i, digest := range digests {
		if _, err := push.Fetch(ctx, to, digest); err == nil {
			continue
		} else if !errors.Is(err, push.ErrNotThere) {
			return err
		}
		source, err := push.Fetch(ctx, from, digest)
		if errors.Is(err, push.ErrNotThere) {
			m.show.line(yellow, "image "+digest+" is not here any more; versions that need it cannot be started there")
			continue
		}
		if err != nil {
			return err
		}
		m.show.now(fmt.Sprintf("copying image %d of %d", i+1, len(digests)))
		if _, err := source.Push(ctx, to, nil); err != nil {
			return err
		}
		copied++
	}
	m.show.line(plain, fmt.Sprintf("%s, %d of them copied now", count(len(digests), "pushed image"), copied))
	return nil
}

// movingFile is a file of one side.
type movingFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
}

func (c *client) files(ctx context.Context, dir string, digests bool) (list []movingFile, err error) {
	token := ""
	for {
		var page struct {
			Files         []movingFile `json:"files"`
			NextPageToken string       `json:"nextPageToken"`
		}
		if err := c.call(ctx, "ListMovingFiles", map[string]any{"dir": dir, "digests": digests, "pageToken": token}, &page); err != nil {
			return nil, err
		}
		list = append(list, page.Files...)
		if token = page.NextPageToken; token == "" {
			return list, nil
		}
	}
}

// copyKeys copies certificates and keys. They come before the rows that are about them, or new ones would be asked for.
func (m *migration) copyKeys(ctx context.Context) error {
	copied := 0
	for _, dir := range []struct{ from, to string }{{"certs", "certs"}, {"ca/root-key.pem", "moved-ca/root-key.pem"}} {
		here, err := m.from.files(ctx, dir.from, true)
		if err != nil {
			return err
		}
		there, err := m.to.files(ctx, dir.to, true)
		if err != nil {
			return err
		}
		for _, f := range here {
			to := dir.to + strings.TrimPrefix(f.Path, dir.from)
			if slices.ContainsFunc(there, func(have movingFile) bool { return have.Path == to }) {
				continue // the same, or newer
			}
			if err := m.copyFile(ctx, f, to, 0, true); err != nil {
				return err
			}
			copied++
		}
	}
	m.show.line(plain, fmt.Sprintf("certificates and the local CA: %s copied", count(copied, "file")))
	return nil
}

// copyRecords copies logs and metrics, as far as they go. Those of containers that run grow meanwhile; the rest follows with
// the next time.
func (m *migration) copyRecords(ctx context.Context) error {
	services, _, err := m.from.rows(ctx, "services")
	if err != nil {
		return err
	}
	var bytes int64
	for _, text := range services {
		var s struct{ ID, Name string }
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return err
		}
		if !slices.Contains(m.names(), s.Name) {
			continue
		}
		for _, dir := range []string{"logs/" + s.ID, "metrics/" + s.ID} {
			n, err := m.copyDir(ctx, dir, m.there[s.Name])
			if err != nil {
				return err
			}
			bytes += n
		}
	}
	m.show.line(plain, fmt.Sprintf("logs and metrics: %.1f MB copied", float64(bytes)/1e6))
	return nil
}

// copyDir makes the files of a folder there as long as they are here, and returns how many bytes that took.
func (m *migration) copyDir(ctx context.Context, dir string, there *types.ContainerService) (bytes int64, err error) {
	here, err := m.from.files(ctx, dir, false)
	if err != nil {
		return 0, err
	}
	list, err := m.to.files(ctx, dir, false)
	if err != nil {
		return 0, err
	}
	have := map[string]int64{}
	for _, f := range list {
		have[f.Path] = f.Size
	}
	started := there != nil && !isDisabled(there)
	for _, f := range here {
		size, is := have[f.Path]
		if size >= f.Size || started && is && isShared(f.Path) || have[f.Path+".zst"] > 0 {
			continue
		}
		m.show.now(fmt.Sprintf("copying %s, %.1f MB", f.Path, float64(f.Size)/1e6))
		if err := m.copyFile(ctx, f, f.Path, size, false); err != nil {
			if isCode(err, "NotFoundException") {
				continue // archived or removed meanwhile
			}
			return bytes, err
		}
		bytes += f.Size - size
	}
	return bytes, nil
}

// isShared reports whether both sides write to a file of that name, so that it cannot be continued once the service has
// been started there.
func isShared(file string) bool {
	first, _, _ := strings.Cut(file, "/")
	folder := path.Base(path.Dir(file))
	return first == "metrics" || folder == "system" || folder == "access"
}

// copyFile copies a file from an offset on, a part at a time.
func (m *migration) copyFile(ctx context.Context, f movingFile, to string, offset int64, replace bool) error {
	for first := true; first || offset < f.Size; first = false {
		var part struct {
			Data string `json:"data"`
			Size int64  `json:"size"`
		}
		if err := m.from.call(ctx, "ReadMovingFile", map[string]any{"path": f.Path, "offset": offset}, &part); err != nil {
			return err
		}
		data, err := base64.StdEncoding.DecodeString(part.Data)
		if err != nil {
			return fmt.Errorf("reading %s: %w", f.Path, err)
		}
		data = data[:min(int64(len(data)), max(0, f.Size-offset))] // what is written meanwhile comes later
		end := offset + int64(len(data))
		in := map[string]any{"path": to, "offset": offset, "data": base64.StdEncoding.EncodeToString(data), "replace": replace, "last": end >= f.Size}
		if err := m.to.call(ctx, "WriteMovingFile", in, &struct{}{}); err != nil {
			return fmt.Errorf("writing %s: %w", to, err)
		}
		if len(data) == 0 {
			return nil
		}
		offset = end
	}
	return nil
}
