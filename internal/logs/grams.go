package logs

import (
	"bytes"
	"slices"
)

// grams is a set of the runs of gramSize bytes that occur in the lines of a block, as bits by hash. What it lacks does
// not occur; what it has may occur. A term of a filter is looked up with all its runs, so that even a rather full set
// rejects most blocks that do not have it.
//
// Runs of letters have a quarter of the set to themselves: there are few of them in logs, so words stay distinguishable,
// where numbers and identifiers would fill everything up.
type grams []byte

const (
	gramSize = 4
	// gramShare is how many bytes of lines there are per byte of the set.
	gramShare = 48
	minGrams  = 32
)

func newGrams(size int) grams { return make(grams, max(minGrams, size/gramShare)) }

// bit returns the place of a run.
func (g grams) bit(run uint32, letters bool) (index int, mask byte) {
	n := uint64(len(g)) * 8
	low, size := n/4, n-n/4
	if letters {
		low, size = 0, n/4
	}
	at := low + (uint64(run*0x9E3779B1)*size)>>32
	return int(at >> 3), 1 << (at & 7)
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// each calls visit for all runs in text, of which the first begins in what preceded it.
func each(text []byte, before uint32, have, letters int, visit func(run uint32, letters bool) bool) (run uint32, n, l int, ok bool) {
	run, n, l = before, have, letters
	for _, c := range text {
		run = run<<8 | uint32(c)
		n++
		if isLetter(c) {
			l++
		} else {
			l = 0
		}
		if n >= gramSize && !visit(run, l >= gramSize) {
			return run, n, l, false
		}
	}
	return run, n, l, true
}

// addRecords adds what occurs in the lines of these records. A line in parts counts as one.
func (g grams) addRecords(records []byte) {
	type state struct {
		run        uint32
		n, letters int
	}
	var open [2]state
	add := func(run uint32, letters bool) bool {
		i, mask := g.bit(run, letters)
		g[i] |= mask
		return true
	}
	for record := range bytes.Lines(records) {
		stream, partial, text, ok := splitRecord(record)
		if !ok {
			each(bytes.TrimSuffix(record, newline), 0, 0, 0, add)
			continue
		}
		s := &open[stream]
		s.run, s.n, s.letters, _ = each(bytes.TrimSuffix(text, newline), s.run, s.n, s.letters, add)
		if !partial {
			*s = state{}
		}
	}
}

// has reports whether the term may occur.
func (g grams) has(term []byte) bool {
	_, _, _, ok := each(term, 0, 0, 0, func(run uint32, letters bool) bool {
		// Of a run of letters in the middle of other letters it is certain that it was added as such; and so it is for
		// any other.
		i, mask := g.bit(run, letters)
		return g[i]&mask != 0
	})
	return ok
}

// lack reports whether no line of the block can match the filter.
func (g grams) lack(f *Filter) bool {
	if f == nil || len(g) == 0 {
		return false
	}
	for _, term := range f.all {
		if !g.has(term) {
			return true
		}
	}
	if len(f.some) == 0 {
		return false
	}
	return !slices.ContainsFunc(f.some, g.has)
}
