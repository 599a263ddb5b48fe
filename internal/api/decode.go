package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/trysail/trysail"
)

// maxDepth bounds the nesting of a request. The deepest that the model knows has six levels.
const maxDepth = 32

// members are the members of one JSON object of a request, read by name. The first thing that is wrong with any of them
// is kept in fault; a reader goes on with zero values and looks at err once, at the end.
//
// A member that is null counts as absent, and one that nobody asks for is ignored, both as on AWS.
type members struct {
	path   string // of the object in the request, "" or ending with a dot
	values map[string]any
	fault  *error // shared by all objects of a request
}

// parseBody reads the whole request. An empty body stands for {}. It refuses what different parsers read differently:
// text that is not UTF-8, the same member twice, and anything after the object.
func parseBody(body []byte) (members, error) {
	m := members{fault: new(error)}
	if len(body) == 0 {
		return m, nil
	}
	if !utf8.Valid(body) {
		return m, notReadable("The request body is not valid UTF-8.")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			return m, notReadable("The request body is not valid JSON: see byte %d of %d.", e.Offset, len(body))
		}
		return m, notReadable("The request body is not valid JSON.")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	value, err := readValue(d, "", 0)
	if err != nil {
		return m, err
	}
	values, ok := value.(map[string]any)
	if !ok {
		return m, notReadable("The request body must be a JSON object, not %s.", kind(value))
	}
	m.values = values
	return m, nil
}

// readValue reads one value of text that is known to be valid JSON, as map[string]any, []any, string, json.Number, bool
// or nil.
func readValue(d *json.Decoder, path string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, notReadable("The request body is nested more than %d levels deep.", maxDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, notReadable("The request body is not valid JSON.")
	}
	switch token {
	case json.Delim('{'):
		return readObject(d, path, depth)
	case json.Delim('['):
		return readList(d, path, depth)
	default:
		return token, nil
	}
}

func readObject(d *json.Decoder, path string, depth int) (any, error) {
	object := make(map[string]any)
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, notReadable("The request body is not valid JSON.")
		}
		if _, twice := object[name]; twice {
			return nil, notReadable("Member %q occurs twice.", shorten(path+name))
		}
		if object[name], err = readValue(d, path+name+".", depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token() // the closing brace
	return object, err
}

func readList(d *json.Decoder, path string, depth int) (any, error) {
	list := []any{}
	for d.More() {
		value, err := readValue(d, path, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := d.Token() // the closing bracket
	return list, err
}

// err returns the first thing that was wrong.
func (m members) err() error { return *m.fault }

func (m members) fail(err error) {
	if *m.fault == nil {
		*m.fault = err
	}
}

// wrongType notes that a member has a type that it may not have.
func (m members) wrongType(name, want string, got any) {
	m.fail(notReadable("Member %q must be %s, not %s.", shorten(m.path+name), want, kind(got)))
}

// require notes those of the members that are missing.
func (m members) require(names ...string) members {
	for _, name := range names {
		if m.values[name] == nil {
			m.fail(trysail.Errorf(trysail.CodeInvalid, "Missing required member %q.", m.path+name))
		}
	}
	return m
}

// resource is the name of what the request is about, for the log; empty if there is none.
func (m members) resource() string {
	for _, name := range [...]string{"serviceName", "resourceName", "accessKeyId", "certificateName", "nodeName"} {
		if s, ok := m.values[name].(string); ok {
			return shorten(s)
		}
	}
	return ""
}

// optional returns a member of Go type T, nil if it is absent.
func optional[T any](m members, name, want string) *T {
	value := m.values[name]
	if value == nil {
		return nil
	}
	v, ok := value.(T)
	if !ok {
		m.wrongType(name, want, value)
		return nil
	}
	return &v
}

// zeroIfNil returns what p points to.
func zeroIfNil[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (m members) string(name string) *string { return optional[string](m, name, "a string") }

func (m members) bool(name string) *bool { return optional[bool](m, name, "a boolean") }

// int reads a 32-bit integer, also when it is written as 2.0 or 2e0.
func (m members) int(name string) *int {
	n := optional[json.Number](m, name, "an integer")
	if n == nil {
		return nil
	}
	if i, err := strconv.ParseInt(n.String(), 10, 32); err == nil {
		v := int(i)
		return &v
	}
	f, err := n.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		m.fail(notReadable("Member %q must be an integer of 32 bits, not %s.", shorten(m.path+name), shorten(n.String())))
		return nil
	}
	v := int(f)
	return &v
}

// long reads a 64-bit integer.
func (m members) long(name string) *int64 {
	n := optional[json.Number](m, name, "an integer")
	if n == nil {
		return nil
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil {
		m.fail(notReadable("Member %q must be an integer of 64 bits, not %s.", shorten(m.path+name), shorten(n.String())))
		return nil
	}
	return &i
}

// time reads seconds since 1970, with or without fraction and exponent. More than milliseconds nobody sends.
func (m members) time(name string) *time.Time {
	n := optional[json.Number](m, name, "a timestamp in seconds since 1970 as a number")
	if n == nil {
		return nil
	}
	const year9999 = 253402300799
	f, err := n.Float64()
	if err != nil || math.Abs(f) > year9999 {
		m.fail(notReadable("Member %q must be a timestamp in seconds since 1970, not %s.", shorten(m.path+name), shorten(n.String())))
		return nil
	}
	t := time.UnixMilli(int64(math.Round(f * 1000))).UTC()
	return &t
}

// object reads a structure or map; ok is false if it is absent.
func (m members) object(name string) (o members, ok bool) {
	o = members{path: m.path + name + ".", fault: m.fault}
	values := optional[map[string]any](m, name, "an object")
	if values == nil {
		return o, false
	}
	o.values = *values
	return o, true
}

// names lists the members that are there, in order, so that the same request always gets the same error.
func (m members) names() []string {
	names := slices.Sorted(maps.Keys(m.values))
	return slices.DeleteFunc(names, func(name string) bool { return m.values[name] == nil })
}

// list calls each with every element's place: a members with just that element, and its name there.
func (m members) list(name string, each func(e members, element string)) {
	list := optional[[]any](m, name, "a list")
	if list == nil {
		return
	}
	for i, value := range *list {
		element := name + "[" + strconv.Itoa(i) + "]"
		if value == nil {
			m.fail(notReadable("Member %q must not be null.", shorten(m.path+element)))
			return
		}
		each(members{path: m.path, values: map[string]any{element: value}, fault: m.fault}, element)
	}
}

// strings reads a list of strings: nil if it is absent, not nil if it is empty.
func (m members) strings(name string) []string {
	if m.values[name] == nil {
		return nil
	}
	out := []string{}
	m.list(name, func(e members, element string) { out = append(out, zeroIfNil(e.string(element))) })
	return out
}

// stringMap reads a map of strings: nil if it is absent, not nil if it is empty.
func stringMap[T ~string](m members, name string) map[string]T {
	o, ok := m.object(name)
	if !ok {
		return nil
	}
	out := make(map[string]T, len(o.values))
	for _, key := range o.names() {
		out[key] = T(zeroIfNil(o.string(key)))
	}
	return out
}

// kind names the JSON type of a value in an error.
func kind(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	default:
		return "an object"
	}
}
