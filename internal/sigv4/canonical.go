package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// canonicalRequest is the text that the client hashed:
//
//	method \n path \n query \n (name:value\n)… \n name;name;… \n hex(body hash)
func (s *Signature) canonicalRequest(r *http.Request, bodySum [sha256.Size]byte) (string, error) {
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.Grow(1024)
	b.WriteString(r.Method)
	b.WriteByte('\n')
	b.WriteString(canonicalPath(r.URL))
	b.WriteByte('\n')
	b.WriteString(query)
	b.WriteByte('\n')
	for _, name := range s.SignedHeaders {
		values := headerValues(r, name)
		if len(values) == 0 {
			return "", errorf(ReasonHeaders, "The header '%s' is in 'SignedHeaders', but the request does not have it.", name)
		}
		b.WriteString(name)
		for i, v := range values {
			b.WriteByte(":,"[min(i, 1)])
			writeHeaderValue(&b, v)
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(s.SignedHeaders, ";"))
	b.WriteByte('\n')
	b.WriteString(hex.EncodeToString(bodySum[:]))
	return b.String(), nil
}

func (s *Signature) stringToSign(canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	return Algorithm + "\n" + s.Time.Format(dateTime) + "\n" + s.scope() + "\n" + hex.EncodeToString(sum[:])
}

// headerValues returns the values of a header with a lower-case name, including those that net/http takes out of the
// header map. It returns nil if the request does not have the header.
func headerValues(r *http.Request, name string) []string {
	switch name {
	case "host":
		return []string{r.Host}
	case "transfer-encoding":
		return r.TransferEncoding
	}
	values := r.Header.Values(name)
	if name == "content-length" && len(values) == 0 && r.ContentLength >= 0 {
		return []string{strconv.FormatInt(r.ContentLength, 10)}
	}
	return values
}

// writeHeaderValue writes v without white space at its ends and with each run of spaces inside made one space.
func writeHeaderValue(b *strings.Builder, v string) {
	v = strings.Trim(v, " \t")
	for i := range len(v) {
		if v[i] != ' ' || v[i-1] != ' ' {
			b.WriteByte(v[i])
		}
	}
}

// canonicalPath is the path as it was sent, encoded once more; all services but S3 do that.
func canonicalPath(u *url.URL) string {
	path := u.EscapedPath()
	if path == "" {
		return "/"
	}
	return escape(path, true)
}

// canonicalQuery sorts the parameters by their encoded name and then value. Sorting the joined "name=value" texts would
// be wrong: '=' sorts after '-' and '.', which may be part of a name. So would sorting before encoding.
func canonicalQuery(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	type pair struct{ name, value string }
	var pairs []pair
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil {
			return "", errorf(ReasonIncomplete, "The query string of the request is malformed.")
		}
		pairs = append(pairs, pair{escape(name, false), escape(value, false)})
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if a.name != b.name {
			return strings.Compare(a.name, b.name)
		}
		return strings.Compare(a.value, b.value)
	})
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(p.value)
	}
	return b.String(), nil
}

// escape percent-encodes every byte but letters, digits and -_.~, and slashes where slash is true.
func escape(s string, slash bool) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~' || c == '/' && slash {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}
