package lastwords

import (
	"encoding/json"
	"strings"
)

// maxStack is how many lines of a stack in a JSON line are read.
const maxStack = 30

// fromJSON makes text of a log line that is a JSON object: the message with the error, and the lines of the stack.
func fromJSON(line string) (lines []string, ok bool) {
	trimmed := strings.TrimSpace(line)
	if len(trimmed) < 2 || trimmed[0] != '{' || trimmed[len(trimmed)-1] != '}' {
		return nil, false
	}
	var fields map[string]any
	if json.Unmarshal([]byte(trimmed), &fields) != nil {
		return nil, false
	}
	message := text(fields, "msg", "message", "event", "@m", "@mt", "log", "textPayload")
	cause := text(fields, "error", "err", "exception", "@x", "reason", "exc_info", "cause")
	stack := text(fields, "stack", "stacktrace", "stack_trace", "exc_info", "@x")
	if nested, isMap := fields["err"].(map[string]any); isMap { // as pino and bunyan write it
		cause, stack = text(nested, "message"), text(nested, "stack")
	}
	if nested, isMap := fields["error"].(map[string]any); isMap {
		cause, stack = text(nested, "message"), text(nested, "stack", "stack_trace")
	}
	if message == "" && cause == "" {
		return nil, false
	}
	first := message
	if cause != "" && cause != message && !strings.Contains(cause, "\n") {
		first = strings.TrimPrefix(message+": "+cause, ": ")
	}
	lines = strings.Split(plainLines(first), "\n")
	if stack != "" {
		all := strings.Split(plainLines(stack), "\n")
		lines = append(lines, all[:min(len(all), maxStack)]...)
	}
	return lines[:min(len(lines), maxStack+1)], true
}

func plainLines(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		out = append(out, plain(line))
	}
	return strings.Join(out, "\n")
}

// text returns the first of the fields that is a string with something in it.
func text(fields map[string]any, names ...string) string {
	for _, n := range names {
		if s, ok := fields[n].(string); ok && strings.TrimSpace(s) != "" {
			return strings.TrimSpace(s)
		}
	}
	return ""
}
