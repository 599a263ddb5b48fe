package console

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// functions are what templates can call.
func (c *Console) functions() template.FuncMap {
	return template.FuncMap{
		"asset":   func(name string) string { return c.names[name] },
		"ago":     ago,
		"at":      at,
		"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"size":    size,
		"mark":    mark,
		"word":    word,
		"url":     c.url,
		"short":   shortDigest,
		"join":    strings.Join,
		"dict":    dict,
		"host":    func(url string) string { return strings.Trim(strings.TrimPrefix(url, "https://"), "/") },
		"plural":  plural,
		"command": func(words []string) string { return strings.Join(words, " ") },
		"field":   func(label, name, value, hint string) fieldView { return fieldView{label, name, value, hint} },
		"words":   joinWords,
		"details": detailRows,
		"missed":  missedText,
		"add":     func(a, b int) int { return a + b },
	}
}

// fieldView is a labelled text field.
type fieldView struct{ Label, Name, Value, Hint string }

// dict makes a map of names and values, for templates that take more than one thing.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict takes names and values")
	}
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return m, nil
}

// at is a time to the second.
func at(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// ago is how long ago a time was, coarse enough to stand still for a while.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "–"
	case d < -time.Minute:
		return "in " + coarse(-d)
	case d < time.Minute:
		return "just now"
	}
	return coarse(d) + " ago"
}

func coarse(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// size is a number of bytes in words.
func size(n int64) string {
	const unit = 1024
	f := float64(n)
	for _, u := range []string{"B", "kB", "MB", "GB"} {
		if f < unit {
			if u == "B" || f >= 100 {
				return fmt.Sprintf("%.0f %s", f, u)
			}
			return fmt.Sprintf("%.1f %s", f, u)
		}
		f /= unit
	}
	return fmt.Sprintf("%.1f TB", f)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func shortDigest(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) < 12 {
		return digest
	}
	return hex[:12]
}

// mark is the kind of a state: it chooses the colour and the sign, so that neither stands alone.
func mark(state any) string {
	switch fmt.Sprint(state) {
	case string(trysail.ServiceRunning), string(trysail.DeploymentActive), string(trysail.CertificateIssued), "healthy", string(trysail.AuditSuccess), "done":
		return "good"
	case string(trysail.ServicePending), string(trysail.ServiceUpdating), string(trysail.ServiceDeploying), string(trysail.DeploymentActivating),
		string(trysail.CertificatePending), "starting", "now", "running now", "stopping":
		return "busy"
	case string(trysail.DeploymentFailed), string(trysail.CertificateExpired), string(trysail.CertificateRevoked),
		string(trysail.CertificateTimedOut), string(trysail.ServiceDeleting), "failed", string(trysail.AuditFailure), string(trysail.AuditUnauthenticated):
		return "bad"
	case "warning", "held":
		return "warn"
	}
	return "calm"
}

// word is a state as a person says it.
func word(state any) string {
	text := strings.ToLower(strings.ReplaceAll(fmt.Sprint(state), "_", " "))
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
