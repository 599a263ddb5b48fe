package autopsy

import (
	"path"
	"slices"
	"strings"
)

// maxSimilar is how many other names a finding offers.
const maxSimilar = 3

// similar lists programs in the image with a name like that of file, best first.
func (x *examiner) similar(file string) []string {
	word := path.Base(file)
	if word == "." || word == "/" {
		return nil
	}
	type candidate struct {
		file     string
		distance int
	}
	var found []candidate
	seen := map[string]bool{}
	for _, dir := range x.places(file) {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		for _, e := range x.list(dir) {
			name := e.Name()
			d := distance(strings.ToLower(stem(name)), strings.ToLower(stem(word)))
			if d > min(2, len(stem(word))/3) || e.IsDir() {
				continue
			}
			if info, _, err := x.stat(path.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
				continue
			}
			if name != word && stem(name) == name && stem(word) != word {
				d++ // prefer the one that has the same ending
			}
			found = append(found, candidate{path.Join(dir, name), d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.distance - b.distance })
	var names []string
	for _, c := range found[:min(len(found), maxSimilar)] {
		names = append(names, clean(c.file))
	}
	return names
}

// places are the directories in which the program may be after all.
func (x *examiner) places(file string) []string {
	var dirs []string
	if strings.Contains(file, "/") {
		dirs = append(dirs, path.Dir(file))
	}
	dirs = append(dirs, path.Join("/", x.c.WorkingDir))
	for dir := range strings.SplitSeq(cmpOr(x.c.Path, defaultPath), ":") {
		dirs = append(dirs, path.Join("/", dir))
	}
	return append(dirs, "/", "/app", "/app/bin", "/usr/src/app", "/srv", "/opt", "/workspace", "/go/bin", "/home/app")
}

// programsIn lists at most n executable files of a directory.
func (x *examiner) programsIn(dir string, n int) (names []string) {
	for _, e := range x.list(dir) {
		file := path.Join(dir, e.Name())
		if info, _, err := x.stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, clean(file))
		}
		if len(names) == n {
			break
		}
	}
	return names
}

// stem is a name without its ending.
func stem(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return name
}

// distance is how many bytes have to be inserted, removed or replaced to make one name of the other. Names of different
// length are far apart at once.
func distance(a, b string) int {
	const most = 64
	if len(a) > most || len(b) > most || max(len(a), len(b))-min(len(a), len(b)) > 2 {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			before, row[j+1] = row[j+1], min(before+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
