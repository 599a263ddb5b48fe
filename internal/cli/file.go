package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/smithy-go/ptr"
)

// maxFile bounds a deployment file. The API itself takes less.
const maxFile = 1 << 20

// shape is what one place of a deployment file may hold.
type shape struct {
	kind     string            // "an object", "a list", "a string", "an integer"
	members  map[string]*shape // of an object with fixed members
	required []string          // of members
	each     *shape            // of a list, or of an object whose names are free
}

const (
	object  = "an object"
	list    = "a list"
	text    = "a string"
	integer = "an integer"
)

// deploymentShape is the request of CreateContainerServiceDeployment. The members' values are checked by the server.
func deploymentShape() *shape {
	str, num := &shape{kind: text}, &shape{kind: integer}
	byName := &shape{kind: object, each: str}
	container := &shape{kind: object, members: map[string]*shape{
		"image": str, "command": {kind: list, each: str}, "environment": byName, "ports": byName,
	}}
	check := &shape{kind: object, members: map[string]*shape{
		"healthyThreshold": num, "unhealthyThreshold": num, "timeoutSeconds": num, "intervalSeconds": num,
		"path": str, "successCodes": str,
	}}
	endpoint := &shape{kind: object, required: []string{"containerName", "containerPort"}, members: map[string]*shape{
		"containerName": str, "containerPort": num, "healthCheck": check,
	}}
	return &shape{kind: object, required: []string{"containers"}, members: map[string]*shape{
		"serviceName": str, "containers": {kind: object, each: container}, "publicEndpoint": endpoint,
	}}
}

// readDeployment is readDraft of a deployment whose service is known.
func (a *App) readDeployment(name, service string) (*lightsail.CreateContainerServiceDeploymentInput, error) {
	in, err := a.readDraft(name, service)
	if err == nil && ptr.ToString(in.ServiceName) == "" {
		return nil, Usagef("neither the command line nor %s names the service", name)
	}
	return in, err
}

// readDraft reads the file, or standard input for "-", and gives it the service's name unless that is empty.
// A member that the API does not know is an error, as are members of the wrong type or named twice: all of them
// would be lost on the way without a word.
func (a *App) readDraft(name, service string) (*lightsail.CreateContainerServiceDeploymentInput, error) {
	data, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	in, err := parseDeployment(data)
	if err != nil {
		return nil, fmt.Errorf("%s%w", name, err)
	}
	if service != "" {
		in.ServiceName = &service
	}
	return in, nil
}

func (a *App) readFile(name string) ([]byte, error) {
	in := a.In
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the path is the user's
		if err != nil {
			return nil, fmt.Errorf("reading the deployment file: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the deployment file: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes, so it cannot be a deployment", name, maxFile)
	}
	return data, nil
}

// parseDeployment decodes the text of a file. The text of an error begins with the position, ":line:column: ".
func parseDeployment(data []byte) (*lightsail.CreateContainerServiceDeploymentInput, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // some editors begin a file with a byte order mark
	var any any
	if err := json.Unmarshal(data, &any); err != nil {
		return nil, syntaxError(data, err)
	}
	c := checker{data: data, decoder: json.NewDecoder(bytes.NewReader(data))}
	c.decoder.UseNumber()
	if err := c.value(deploymentShape(), ""); err != nil {
		return nil, err
	}
	in := &lightsail.CreateContainerServiceDeploymentInput{}
	if err := json.Unmarshal(data, in); err != nil {
		return nil, fmt.Errorf(": %w", err)
	}
	return in, nil
}

func syntaxError(data []byte, err error) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New(" is empty")
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return at(data, e.Offset-1, "this is not JSON: %v", err)
	}
	return fmt.Errorf(": %w", err)
}

// at makes an error about the byte at offset.
func at(data []byte, offset int64, format string, args ...any) error {
	before := data[:min(max(offset, 0), int64(len(data)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + len([]rune(string(before[bytes.LastIndexByte(before, '\n')+1:])))
	return fmt.Errorf(":%d:%d: %s", line, column, fmt.Sprintf(format, args...))
}

// checker walks through valid JSON and compares it with a shape.
type checker struct {
	data    []byte
	decoder *json.Decoder
}

// token returns the next token and where it begins.
func (c *checker) token() (token json.Token, start int64, err error) {
	start = c.decoder.InputOffset()
	for start < int64(len(c.data)) && strings.IndexByte(" \t\r\n,:", c.data[start]) >= 0 {
		start++
	}
	token, err = c.decoder.Token()
	return token, start, err
}

// value checks one value; path is where it stands, such as containers.app.ports.
func (c *checker) value(want *shape, path string) error {
	token, start, err := c.token()
	if err != nil {
		return err
	}
	if token == nil { // null stands for an absent member
		return nil
	}
	if got := kindOf(token); got != want.kind {
		if path == "" {
			path = "the file"
		}
		return at(c.data, start, "%s must be %s, not %s", path, want.kind, got)
	}
	switch want.kind {
	case object:
		return c.members(want, path, start)
	case list:
		for i := 0; c.decoder.More(); i++ {
			if err := c.value(want.each, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		_, _, err = c.token()
	}
	return err
}

// members checks the members of an object that begins at start, to its closing brace.
func (c *checker) members(want *shape, path string, start int64) error {
	seen := map[string]bool{}
	for c.decoder.More() {
		token, at0, err := c.token()
		if err != nil {
			return err
		}
		name := fmt.Sprint(token)
		if seen[name] {
			return at(c.data, at0, "%s is named twice", join(path, name))
		}
		seen[name] = true
		member := want.each
		if want.members != nil {
			member = want.members[name]
		}
		if member == nil {
			return at(c.data, at0, "unknown member %q%s", join(path, name), suggest(name, want.members))
		}
		if err := c.value(member, join(path, name)); err != nil {
			return err
		}
	}
	for _, name := range want.required {
		if !seen[name] {
			return at(c.data, start, "the member %s is missing", join(path, name))
		}
	}
	_, _, err := c.token()
	return err
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func kindOf(token json.Token) string {
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return object
		}
		return list
	case string:
		return text
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") {
			return "a number with a fraction"
		}
		if _, err := strconv.ParseInt(t.String(), 10, 32); err != nil {
			return "a number out of range"
		}
		return integer
	case bool:
		return "true or false"
	}
	return "null"
}

// suggest names the member that was probably meant, or lists them all.
func suggest(name string, members map[string]*shape) string {
	names := slices.Sorted(maps.Keys(members))
	best, least := "", 3
	for _, m := range names {
		if d := distance(strings.ToLower(m), strings.ToLower(name)); d < least {
			best, least = m, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known here: " + strings.Join(names, ", ")
}

// distance counts the letters that have to be inserted, deleted or replaced to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
