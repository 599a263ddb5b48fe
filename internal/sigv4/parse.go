package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Parse reads the signature of r from its Authorization header and its date from X-Amz-Date, or else from Date. It
// checks the form only. Errors: ReasonMissing, ReasonIncomplete, ReasonScope (form of the scope), ReasonHeaders.
func Parse(r *http.Request) (*Signature, error) {
	authorization, err := authorization(r)
	if err != nil {
		return nil, err
	}
	p, err := parseParameters(authorization)
	if err != nil {
		return nil, err
	}
	s := &Signature{}
	if s.Time, err = requestTime(r.Header); err != nil {
		return nil, err
	}
	if err := s.parseCredential(p.credential); err != nil {
		return nil, err
	}
	if err := s.parseSignedHeaders(p.signedHeaders, r.Header); err != nil {
		return nil, err
	}
	s.signature, err = hex.DecodeString(p.signature)
	if err != nil || len(s.signature) != sha256.Size {
		return nil, errorf(ReasonIncomplete, "'Signature' in the Authorization header must be %d hexadecimal digits.", 2*sha256.Size)
	}
	return s, nil
}

func errorf(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// authorization returns what follows the algorithm in the Authorization header. The header's text is never repeated
// in an error: with another scheme it may be a password.
func authorization(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	switch {
	case len(values) > 1:
		return "", errorf(ReasonIncomplete, "The request has more than one Authorization header.")
	case len(values) == 0 || values[0] == "":
		query := "&" + r.URL.RawQuery
		if strings.Contains(query, "&X-Amz-Signature=") || strings.Contains(query, "&X-Amz-Algorithm=") {
			return "", errorf(ReasonIncomplete, "Presigned requests are not supported: sign the request in its Authorization header.")
		}
		return "", errorf(ReasonMissing, "Missing Authentication Token")
	case len(values[0]) > maxAuthorization:
		return "", errorf(ReasonIncomplete, "The Authorization header is longer than %d bytes.", maxAuthorization)
	}
	algorithm, rest, _ := strings.Cut(values[0], " ")
	if algorithm != Algorithm {
		return "", errorf(ReasonIncomplete, "The Authorization header must begin with the algorithm '%s'.", Algorithm)
	}
	return rest, nil
}

type parameters struct{ credential, signedHeaders, signature string }

// parseParameters reads "Credential=…, SignedHeaders=…, Signature=…", in any order. Each has to be there once.
func parseParameters(text string) (parameters, error) {
	var p parameters
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		var field *string
		switch name {
		case "Credential":
			field = &p.credential
		case "SignedHeaders":
			field = &p.signedHeaders
		case "Signature":
			field = &p.signature
		default:
			return p, errorf(ReasonIncomplete, "The Authorization header has a parameter other than 'Credential', 'SignedHeaders' and 'Signature'.")
		}
		if *field != "" {
			return p, errorf(ReasonIncomplete, "The Authorization header has the parameter '%s' twice.", name)
		}
		*field = value
	}
	for _, f := range [...]struct{ name, value string }{{"Credential", p.credential}, {"SignedHeaders", p.signedHeaders}, {"Signature", p.signature}} {
		if f.value == "" {
			return p, errorf(ReasonIncomplete, "Authorization header requires '%s' parameter.", f.name)
		}
	}
	return p, nil
}

// requestTime returns when the client says that it signed.
func requestTime(h http.Header) (time.Time, error) {
	for _, name := range [...]string{"X-Amz-Date", "Date"} {
		values := h.Values(name)
		if len(values) == 0 {
			continue
		}
		t, err := time.Parse(dateTime, values[0])
		ok := err == nil && t.Format(dateTime) == values[0] // Parse alone would also take fractions of a second
		if !ok && name == "Date" {
			t, err = http.ParseTime(values[0])
			ok = err == nil
		}
		if !ok || len(values) > 1 {
			return t, errorf(ReasonIncomplete, "Date must be in ISO-8601 'basic format', such as 20060102T150405Z, and be given once: see the header '%s'.", name)
		}
		return t.UTC(), nil
	}
	return time.Time{}, errorf(ReasonIncomplete, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
}

// parseCredential reads <key id>/<day>/<region>/<service>/aws4_request. s.Time has to be set.
func (s *Signature) parseCredential(text string) error {
	parts := strings.Split(text, "/")
	if len(parts) != 5 || !isWord(parts[0], isKeyByte) {
		return errorf(ReasonIncomplete, "Credential must have exactly 5 slash-delimited elements: <key id>/<date>/<region>/<service>/%s.", terminator)
	}
	s.AccessKeyID, s.day, s.Region, s.Service = parts[0], parts[1], parts[2], parts[3]
	if want := s.Time.Format(date); s.day != want {
		return errorf(ReasonScope, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%.16s' != '%s', from '%s'.",
			s.day, want, s.Time.Format(dateTime))
	}
	if !isWord(s.Region, isNameByte) {
		return errorf(ReasonScope, "Credential should be scoped to a valid region.")
	}
	if parts[4] != terminator {
		return errorf(ReasonScope, "Credential should be scoped with a valid terminator: '%s'.", terminator)
	}
	return nil
}

// parseSignedHeaders reads names separated by semicolons and makes sure that what decides the meaning of the request
// is among them. Otherwise somebody on the way could turn a signed call into another one.
func (s *Signature) parseSignedHeaders(text string, h http.Header) error {
	s.SignedHeaders = strings.Split(text, ";")
	seen := make(map[string]bool, len(s.SignedHeaders))
	for _, name := range s.SignedHeaders {
		if !isWord(name, isHeaderByte) || seen[name] {
			return errorf(ReasonIncomplete, "'SignedHeaders' must be header names in lower case, each once, separated by semicolons.")
		}
		seen[name] = true
	}
	if !seen["host"] {
		return errorf(ReasonHeaders, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for _, name := range [...]string{"x-amz-target", "content-type"} {
		if len(h.Values(name)) > 0 && !seen[name] {
			return errorf(ReasonHeaders, "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	return nil
}

// isWord reports whether s has 1 to 128 bytes, all of them allowed.
func isWord(s string, allowed func(byte) bool) bool {
	return s != "" && len(s) <= 128 && !slices.ContainsFunc([]byte(s), func(c byte) bool { return !allowed(c) })
}

func isNameByte(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' }

func isKeyByte(c byte) bool { return isNameByte(c) || 'A' <= c && c <= 'Z' || c == '_' }

// isHeaderByte allows what a header name may consist of (RFC 9110), in lower case.
func isHeaderByte(c byte) bool {
	return isNameByte(c) || strings.IndexByte("!#$%&'*+.^_`|~", c) >= 0
}
