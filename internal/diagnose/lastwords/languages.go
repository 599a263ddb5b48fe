package lastwords

import (
	"path"
	"strings"
)

// goBlock recognizes a panic or a fatal error of Go.
func goBlock(lines []string, i int) (block, bool) {
	line := strings.TrimPrefix(lines[i], "\t")
	fatal := strings.HasPrefix(line, "fatal error: ")
	if !strings.HasPrefix(line, "panic: ") && !fatal {
		return block{}, false
	}
	p := patterns()
	b := block{from: max(0, i-2), to: i + 1, sentence: strings.TrimSuffix(strings.TrimSuffix(line, " [recovered]"), " [recovered, repanicked]"), language: Go}
	traced := false
	for j := i + 1; j < len(lines); j++ {
		text := lines[j]
		switch m := p.goFrame.FindStringSubmatch(text); {
		case p.goTrace.MatchString(text):
			if traced && b.where != "" {
				return b, true // the next goroutine
			}
			traced = true
		case strings.HasPrefix(text, "\tpanic: "):
			b.sentence = strings.TrimSpace(text)
		case m != nil && b.where == "" && !strings.Contains(m[1], "/go/src/") && !strings.Contains(m[1], "/src/runtime/"):
			b.where = path.Base(m[1]) + ":" + m[2]
		}
		b.to = j + 1
	}
	return b, traced || !fatal
}

// pythonBlock recognizes a traceback, with what caused it.
func pythonBlock(lines []string, i int) (block, bool) {
	p := patterns()
	if p.pyBare.MatchString(lines[i]) {
		for j := i - 1; j >= max(0, i-6); j-- {
			if m := p.pyFrame.FindStringSubmatch(lines[j]); m != nil {
				return block{from: j, to: i + 1, sentence: lines[i], language: Python, where: path.Base(m[1]) + ":" + m[2]}, true
			}
		}
	}
	if !strings.HasSuffix(lines[i], "Traceback (most recent call last):") {
		return block{}, false
	}
	b, ok := traceback(lines, i)
	if !ok {
		return block{}, false
	}
	if before, ok := chainedTo(lines, i); ok {
		if isWrapper(b.sentence) {
			b.sentence = before.sentence
		} else {
			b.sentence += " (caused by " + before.sentence + ")"
		}
		b.from = before.from
	}
	if isWrapper(b.sentence) {
		for j := i - 1; j >= 0; j-- {
			if strings.HasSuffix(lines[j], "Traceback (most recent call last):") {
				if first, ok := pythonBlock(lines, j); ok {
					return first, true
				}
			}
		}
	}
	return b, true
}

// traceback reads one traceback.
func traceback(lines []string, i int) (block, bool) {
	p := patterns()
	b := block{from: i, language: Python}
	for j := i + 1; j < len(lines); j++ {
		text := withoutBars(lines[j])
		if m := p.pyFrame.FindStringSubmatch(text); m != nil {
			if !strings.Contains(m[1], "/lib/python") && !strings.Contains(m[1], "site-packages") && !strings.HasPrefix(m[1], "<frozen") {
				b.where = path.Base(m[1]) + ":" + m[2]
			}
			continue
		}
		if text == "" || text[0] == ' ' || text[0] == '\t' || strings.HasPrefix(text, "[Previous line") {
			continue
		}
		if !p.pyException.MatchString(text) {
			return block{}, false
		}
		b.sentence, b.to = text, j+1
		// What follows without a gap belongs to the message, or to the members of a group.
		for b.to < len(lines) && b.to < j+12 && strings.TrimSpace(lines[b.to]) != "" && !strings.Contains(lines[b.to], "Traceback (") {
			b.to++
		}
		return b, true
	}
	return block{}, false
}

// withoutBars removes what Python draws on the left of exception groups.
func withoutBars(s string) string {
	t := strings.TrimLeft(s, " ")
	if !strings.HasPrefix(t, "|") && !strings.HasPrefix(t, "+") {
		return s
	}
	return strings.TrimPrefix(strings.TrimLeft(t, "|+-"), " ")
}

// chainedTo finds the traceback that the one at i says it follows from.
func chainedTo(lines []string, i int) (block, bool) {
	for j := i - 1; j >= max(0, i-3); j-- {
		if !strings.Contains(lines[j], "During handling of the above exception") && !strings.Contains(lines[j], "above exception was the direct cause") {
			continue
		}
		for k := j - 1; k >= 0; k-- {
			if strings.HasSuffix(lines[k], "Traceback (most recent call last):") {
				if first, ok := chainedTo(lines, k); ok {
					return first, true // the first of all is what it began with
				}
				return traceback(lines, k)
			}
		}
	}
	return block{}, false
}

// isWrapper recognizes exceptions that only say that there was another one.
func isWrapper(sentence string) bool {
	for _, prefix := range []string{"gunicorn.errors.HaltServer", "SystemExit", "click.exceptions.Exit", "KeyboardInterrupt", "asyncio.exceptions.CancelledError"} {
		if strings.HasPrefix(sentence, prefix) {
			return true
		}
	}
	return false
}

// nodeBlock recognizes an error of JavaScript with its stack.
func nodeBlock(lines []string, i int) (block, bool) {
	p := patterns()
	m := p.nodeHead.FindStringSubmatch(lines[i])
	if m == nil {
		return block{}, false
	}
	b := block{from: max(0, i-5), sentence: lines[i], language: Node}
	framed := false
	for j := i + 1; j < len(lines); j++ {
		text := lines[j]
		if c := p.nodeCause.FindStringSubmatch(text); c != nil && framed {
			b.sentence += " (caused by " + c[1] + ")"
			b.to = j + 1
			continue
		}
		if f := p.nodeFrame.FindStringSubmatch(text); f != nil {
			if !isScript(f[1]) {
				if !framed {
					return block{}, false // another language
				}
				continue
			}
			framed = true
			if b.where == "" && !strings.HasPrefix(f[1], "node:") && !strings.HasPrefix(f[1], "internal/") && !strings.Contains(f[1], "node_modules") {
				b.where = path.Base(f[1]) + ":" + f[2]
			}
			b.to = j + 1
			continue
		}
		if framed && (text == "" || text[0] != ' ' && text[0] != '}') || !framed && j > i+12 {
			break
		}
		b.to = j + 1
	}
	return b, framed
}

func isScript(file string) bool {
	if strings.HasPrefix(file, "node:") || file == "<anonymous>" || strings.HasPrefix(file, "internal/") {
		return true
	}
	switch path.Ext(file) {
	case ".js", ".cjs", ".mjs", ".ts", ".tsx", ".jsx", ".mts", ".cts":
		return true
	}
	return false
}

// javaBlock recognizes an exception with its causes, what Spring Boot says, and what the JVM says before it starts.
func javaBlock(lines []string, i int) (block, bool) {
	line := lines[i]
	switch {
	case line == "APPLICATION FAILED TO START":
		return springBlock(lines, i)
	case strings.HasPrefix(line, "Error occurred during initialization of VM"):
		if i+1 < len(lines) {
			return block{from: i, to: i + 2, sentence: lines[i+1], language: Java}, true
		}
	}
	p := patterns()
	if m := p.javaHead.FindStringSubmatch(line); m == nil || i+1 >= len(lines) || !strings.HasPrefix(lines[i+1], "\tat ") {
		return block{}, false
	}
	b := block{from: i, to: i + 1, sentence: line, language: Java}
	if _, after, ok := strings.Cut(line, `" `); ok && strings.HasPrefix(line, `Exception in thread "`) {
		b.sentence = after
	}
	cause := ""
	for j := i + 1; j < len(lines); j++ {
		text := lines[j]
		if c, ok := strings.CutPrefix(text, "Caused by: "); ok {
			cause = c
		} else if f := p.javaFrame.FindStringSubmatch(text); f != nil {
			if b.where == "" && !strings.Contains(text, "java.base/") && !strings.Contains(text, "at java.") {
				b.where = f[1] + ":" + f[2]
			}
		} else if !strings.HasPrefix(text, "\t") {
			break
		}
		b.to = j + 1
	}
	if cause != "" {
		b.sentence = short(b.sentence, MaxSentence/2) + " (caused by " + cause + ")"
	}
	return b, true
}

// springBlock reads the description that Spring Boot gives of a failed start.
func springBlock(lines []string, i int) (block, bool) {
	for j := i + 1; j < min(len(lines), i+8); j++ {
		if lines[j] != "Description:" {
			continue
		}
		for k := j + 1; k < min(len(lines), j+4); k++ {
			if strings.TrimSpace(lines[k]) != "" {
				return block{from: max(0, i-1), to: min(len(lines), k+8), sentence: lines[k], language: Java}, true
			}
		}
	}
	return block{}, false
}

// dotNetBlock recognizes an unhandled exception of .NET.
func dotNetBlock(lines []string, i int) (block, bool) {
	m := patterns().dotHead.FindStringSubmatch(lines[i])
	if m == nil {
		return block{}, false
	}
	b := block{from: i, to: i + 1, sentence: m[1], language: DotNet}
	for j := i + 1; j < len(lines); j++ {
		text := strings.TrimSpace(lines[j])
		if inner, ok := strings.CutPrefix(text, "---> "); ok {
			b.sentence = short(m[1], MaxSentence/2) + " (caused by " + inner + ")"
		} else if !strings.HasPrefix(text, "at ") && !strings.HasPrefix(text, "---") {
			break
		}
		b.to = j + 1
	}
	return b, true
}

// rustBlock recognizes a panic of Rust, in the form before and since version 1.73.
func rustBlock(lines []string, i int) (block, bool) {
	p := patterns()
	if m := p.rustOld.FindStringSubmatch(lines[i]); m != nil {
		return block{from: i, to: i + 1, sentence: m[1], language: Rust, where: m[2]}, true
	}
	m := p.rustHead.FindStringSubmatch(lines[i])
	if m == nil || i+1 >= len(lines) {
		return block{}, false
	}
	return block{from: i, to: i + 2, sentence: lines[i+1], language: Rust, where: m[1]}, true
}

// rubyBlock recognizes an exception of Ruby.
func rubyBlock(lines []string, i int) (block, bool) {
	p := patterns()
	if m := p.rubyHead.FindStringSubmatch(lines[i]); m != nil {
		b := block{from: i, to: i + 1, sentence: m[3] + ": " + m[2], language: Ruby}
		if !strings.HasPrefix(m[1], "<internal:") && !strings.Contains(m[1], "/gems/") {
			b.where = path.Base(m[1])
		}
		return b, true
	}
	if line := lines[i]; (line == "rails aborted!" || line == "rake aborted!" || line == "bin/rails aborted!") && i+1 < len(lines) {
		return block{from: i, to: min(len(lines), i+6), sentence: lines[i+1], language: Ruby}, true
	}
	return block{}, false
}

// cppBlock recognizes an exception that nobody caught.
func cppBlock(lines []string, i int) (block, bool) {
	thrown, ok := strings.CutPrefix(lines[i], "terminate called after throwing an instance of ")
	if !ok {
		return block{}, false
	}
	b := block{from: i, to: i + 1, sentence: strings.Trim(thrown, "'"), language: CPP}
	if i+1 < len(lines) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(lines[i+1]), "what():"); ok {
			b.sentence += ": " + strings.TrimSpace(what)
			b.to++
		}
	}
	return b, true
}
