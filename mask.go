package trysail

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Masker takes the values of environment variables out of texts that come from outside: logs, answers, error messages.
type Masker struct {
	secrets []secret // longest first
}

type secret struct{ value, name string }

// NewMasker learns the values of the deployments; nil ones are passed over.
func NewMasker(all ...*Deployment) Masker {
	found := map[string]string{}
	for _, d := range all {
		if d == nil {
			continue
		}
		for _, c := range d.Containers {
			for name, value := range c.Environment {
				learn(found, name, value)
			}
		}
	}
	var m Masker
	for value, name := range found {
		m.secrets = append(m.secrets, secret{value, name})
	}
	slices.SortFunc(m.secrets, func(a, b secret) int {
		return cmp.Or(len(b.value)-len(a.value), strings.Compare(a.value, b.value))
	})
	return m
}

// learn adds what of a variable's value must not be shown.
func learn(found map[string]string, name, value string) {
	least := 8
	if looksSecret(name) {
		least = 4
	}
	add := func(v string) {
		before, known := found[v]
		// Of two variables with the same value the name is chosen so that the same input gives the same text.
		if len(v) >= least && (looksSecret(name) || !isHarmless(v)) && (!known || name < before) {
			found[v] = name
		}
	}
	add(value)
	for line := range strings.Lines(value) { // keys and certificates are logged line by line
		add(strings.TrimSpace(line))
	}
	if u, err := url.Parse(value); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok {
			least = 4
			add(password)
			add(url.QueryEscape(password))
		}
	}
}

func looksSecret(name string) bool {
	upper := strings.ToUpper(name)
	for _, word := range []string{"SECRET", "PASSW", "PASSPHRASE", "PWD", "TOKEN", "KEY", "CREDENTIAL", "PRIVATE", "AUTH", "DSN", "SALT", "COOKIE", "SESSION", "SIGNATURE", "CERT"} {
		if strings.Contains(upper, word) {
			return true
		}
	}
	return false
}

// isHarmless reports whether a value is so common that hiding it would hide the cause and protect nothing.
func isHarmless(v string) bool {
	switch strings.ToLower(v) {
	case "localhost", "127.0.0.1", "production", "development", "staging", "/usr/local/bin", "0.0.0.0:80", "0.0.0.0:8080", "0.0.0.0:3000":
		return true
	}
	return false
}

// userinfo is a password in a URL.
var userinfo = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(://[^/\s:@]*:)[^@/\s]+@`) })

// Text puts the name of a variable, as in $NAME, where its value stands, and hides passwords in URLs. What is short or common
// stays, since hiding it would hide the cause and protect nothing.
func (m Masker) Text(s string) string {
	for _, x := range m.secrets {
		if strings.Contains(s, x.value) {
			s = strings.ReplaceAll(s, x.value, "$"+x.name)
		}
	}
	if strings.Contains(s, "://") {
		s = userinfo().ReplaceAllString(s, "${1}***@")
	}
	return s
}

// IsSecret reports whether a text is the value of a variable whose name says that it is a secret.
func (m Masker) IsSecret(text string) bool {
	return slices.ContainsFunc(m.secrets, func(x secret) bool { return x.value == text && looksSecret(x.name) })
}

// JSON masks every text in a JSON document, but no names of members.
func (m Masker) JSON(document []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(m.walk(v))
}

func (m Masker) walk(v any) any {
	switch v := v.(type) {
	case string:
		return m.Text(v)
	case []any:
		for i := range v {
			v[i] = m.walk(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = m.walk(v[name])
		}
	}
	return v
}
