package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/trysail/trysail/internal/push"
)

// comparison is a line of what both sides have.
type comparison struct {
	What    string   `json:"what"`
	Here    int      `json:"here"`
	Missing int      `json:"missing"` // there
	Names   []string `json:"names,omitempty"`
}

// compare counts what is here and not there.
func (m *migration) compare(ctx context.Context) (list []comparison, err error) {
	if err := m.look(ctx); err != nil {
		return nil, err
	}
	services := comparison{What: "services"}
	for _, name := range m.names() {
		services.Here++
		there := m.there[name]
		switch {
		case there == nil:
			services.Names = append(services.Names, name+" is not there")
		case version(there) != version(m.here[name]) && len(m.moved[name].To) == 0:
			services.Names = append(services.Names, fmt.Sprintf("%s serves version %d there and %d here", name, version(there), version(m.here[name])))
		case isDisabled(there) && !isDisabled(m.here[name]):
			services.Names = append(services.Names, name+" is not started there")
		}
	}
	services.Missing = len(services.Names)
	list = append(list, services)
	for _, t := range movingTables() {
		if t.service != "" || t.name == "installation" || t.name == "registry_logins" { // logins last for hours
			continue
		}
		c, err := m.compareTable(ctx, t)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	images, err := m.compareImages(ctx)
	if err != nil {
		return nil, err
	}
	files, err := m.compareFiles(ctx)
	return append(append(list, images), files...), err
}

func (m *migration) compareTable(ctx context.Context, t table) (c comparison, err error) {
	c.What = strings.ReplaceAll(t.name, "_", " ")
	here, _, err := m.from.rows(ctx, t.name)
	if err != nil {
		return c, err
	}
	missing, _, err := m.different(ctx, t, nil)
	if t.name == "audit" || t.name == "operations" {
		// What moving and comparing are recorded as themselves.
		missing = slices.DeleteFunc(missing, func(row string) bool {
			return slices.ContainsFunc([]string{"ExportRows", "ReadMovingFile", "ForwardService", "CreateContainerServiceRegistryLogin"}, func(operation string) bool { return strings.Contains(row, `"`+operation+`"`) })
		})
	}
	if len(m.only) > 0 && (t.name == "pods" || t.name == "tasks") {
		services, _, err := m.from.rows(ctx, "services")
		if err != nil {
			return c, err
		}
		missing = slices.DeleteFunc(missing, func(row string) bool { return !m.isKnown(row, services) })
	}
	c.Here, c.Missing = len(here), len(missing)
	return c, err
}

func (m *migration) compareImages(ctx context.Context) (c comparison, err error) {
	c.What = "pushed images"
	digests, err := m.digests(ctx)
	if err != nil || len(digests) == 0 {
		return c, err
	}
	c.Here = len(digests)
	to, err := m.to.repository(ctx)
	if err != nil {
		return c, err
	}
	for _, d := range digests {
		if _, err := push.Fetch(ctx, to, d); err != nil {
			c.Missing++
			c.Names = append(c.Names, d)
		}
	}
	return c, nil
}

// compareFiles compares the content of what does not change any more, and the lengths of the rest.
func (m *migration) compareFiles(ctx context.Context) (list []comparison, err error) {
	for _, dir := range []struct{ what, from, to string }{
		{"certificates", "certs", "certs"}, {"local CA", "ca/root-key.pem", "moved-ca/root-key.pem"}, {"logs", "logs", "logs"}, {"metrics", "metrics", "metrics"},
	} {
		c := comparison{What: "files: " + dir.what}
		here, err := m.from.files(ctx, dir.from, false)
		if err != nil {
			return nil, err
		}
		there, err := m.to.files(ctx, dir.to, false)
		if err != nil {
			return nil, err
		}
		have := map[string]int64{}
		for _, f := range there {
			have[strings.TrimSuffix(f.Path, ".zst")] = f.Size
		}
		for _, f := range here {
			c.Here++
			to := strings.TrimSuffix(dir.to+strings.TrimPrefix(f.Path, dir.from), ".zst")
			size, is := have[to]
			if !is || size < f.Size && !isShared(f.Path) && !strings.HasSuffix(f.Path, ".log") {
				c.Missing++
				c.Names = append(c.Names, f.Path)
			}
		}
		list = append(list, c)
	}
	return list, nil
}

func (m *migration) printComparison(list []comparison, asJSON bool) (missing int, err error) {
	for _, c := range list {
		missing += c.Missing
	}
	if asJSON {
		return missing, printJSON(m.app.Out, map[string]any{"compared": list, "missing": missing})
	}
	s := m.app.screen(m.app.Out)
	var rows [][]string
	for _, c := range list {
		names := strings.Join(c.Names[:min(len(c.Names), 3)], "; ")
		if len(c.Names) > 3 {
			names += fmt.Sprintf("; and %d more", len(c.Names)-3)
		}
		colour := green
		if c.Missing > 0 {
			colour = yellow
		}
		rows = append(rows, []string{c.What, fmt.Sprint(c.Here), s.paint(colour, fmt.Sprint(c.Missing)), clean(names)})
	}
	return missing, s.table([]string{"WHAT", "HERE", s.paint(plain, "MISSING THERE"), ""}, rows)
}

// check compares and fails if something is missing there.
func (m *migration) check(ctx context.Context, asJSON bool) error {
	list, err := m.compare(ctx)
	if err != nil {
		return err
	}
	missing, err := m.printComparison(list, asJSON)
	if err == nil && missing > 0 {
		return errSilent
	}
	return err
}

// plan says what a run would do.
func (m *migration) plan(ctx context.Context, asJSON bool) error {
	list, err := m.compare(ctx)
	if err != nil {
		return err
	}
	if _, err := m.printComparison(list, asJSON); err != nil || asJSON {
		return err
	}
	fmt.Fprintf(m.app.Out, "\nThat would be copied from %s to %s.\n", m.from.settings.endpoint, m.to.settings.endpoint)
	for _, name := range m.names() {
		here, there := m.here[name], m.there[name]
		switch {
		case isDisabled(here):
			fmt.Fprintf(m.app.Out, "%s is disabled and stays so.\n", name)
		case there == nil || isDisabled(there):
			fmt.Fprintf(m.app.Out, "%s would be started there: version %d, %s × %d.\n", name, version(here), here.Power, deref(here.Scale))
		}
		if len(m.forward) > 0 && len(m.moved[name].To) == 0 && version(here) > 0 && !isDisabled(here) {
			fmt.Fprintf(m.app.Out, "Requests for %s would go to %s.\n", name, strings.Join(m.forward, ", "))
		}
	}
	return nil
}

func deref(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}
