package logs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// cluster is what the cluster has of the log of one container, and several servers that follow it, one after the other.
type cluster struct {
	t       *rapid.T
	servers []*serverOf
	epoch   int64
	leader  int
	clock   int
	lines   [2][]clusterLine // by stream
	woven   bool             // the streams are read at the same pace
}

type clusterLine struct {
	at   time.Time
	text string
}

// serverOf is one of the servers.
type serverOf struct {
	*Store

	goOn *Continuation // nil if it does not follow
	read [2]int        // lines of each stream, as far as it follows
}

var streamsOf = [2]string{"stdout", "stderr"}

func newCluster(rt *rapid.T, dir string) *cluster {
	c := &cluster{t: rt, leader: -1, woven: rapid.Bool().Draw(rt, "woven")}
	for i := range 3 {
		c.servers = append(c.servers, &serverOf{})
		c.start(i, dir)
	}
	return c
}

func originOf(i int) string { return fmt.Sprint("SERVER00", i) }

// start starts a server, with what it has on its disk.
func (c *cluster) start(i int, dir string) {
	s := New(filepath.Join(dir, fmt.Sprint(i), "logs"))
	s.Share(originOf(i), filepath.Join(dir, fmt.Sprint(i), "copies"))
	*c.servers[i] = serverOf{Store: s}
}

// emit makes the container write a line. Within a stream no two have the same time.
func (c *cluster) emit() {
	stream := rapid.IntRange(0, 1).Draw(c.t, "stream")
	c.clock += rapid.IntRange(1, 1500).Draw(c.t, "ms")
	c.lines[stream] = append(c.lines[stream], clusterLine{epoch.Add(time.Duration(c.clock) * time.Millisecond), fmt.Sprintf("%s %d", streamsOf[stream], len(c.lines[stream]))})
}

// lead makes a server lead and go on with the log. The one before may not know that yet.
func (c *cluster) lead(i int) {
	c.epoch++
	s := c.servers[i]
	s.Lead(c.epoch)
	var err error
	if s.goOn, err = s.Continue(s.PodDir("svc", "pod"), "web"); err != nil {
		c.t.Fatal(err)
	}
	for stream, name := range streamsOf {
		end, known := s.goOn.Ends[name]
		s.read[stream] = 0
		for known && s.read[stream] < len(c.lines[stream]) {
			l := c.lines[stream][s.read[stream]]
			if l.at.After(end.Last) || l.at.Equal(end.Last) && end.Count == 0 {
				break
			}
			s.read[stream]++
		}
	}
	c.leader = i
}

// follow lets a server read lines of a stream, as many as there are, or n.
func (c *cluster) follow(i, stream, n int) {
	s := c.servers[i]
	left := func(stream int) []clusterLine { return c.lines[stream][s.read[stream]:] }
	for s.goOn != nil && n != 0 {
		if other := 1 - stream; c.woven && len(left(other)) > 0 && (len(left(stream)) == 0 || left(other)[0].at.Before(left(stream)[0].at)) {
			stream = other
		}
		if len(left(stream)) == 0 {
			return
		}
		l := left(stream)[0]
		if err := s.goOn.Begin(streamsOf[stream], l.at); err != nil {
			c.t.Fatal(err)
		}
		file := filepath.Base(segment{container: "web", number: s.goOn.Number}.path())
		write(c.t, s.Store, "pod", file, l.at.Format(timeFixed)+" "+streamsOf[stream]+" F "+l.text+"\n")
		s.read[stream]++
		n--
	}
}

// give brings a server's copies of another one's files up to date, or breaks off after n pieces.
func (c *cluster) give(from, to, origin, n int) {
	files, err := c.servers[from].Files(originOf(origin))
	if err != nil {
		c.t.Fatal(err)
	}
	have, err := c.servers[to].Files(originOf(origin))
	if err != nil {
		c.t.Fatal(err)
	}
	names := slices.Collect(maps.Keys(files))
	c.servers[from].Sort(names)
	for _, name := range names {
		if n--; n == -1 {
			return
		}
		if have[name] >= files[name] {
			continue
		}
		data, next, at, err := c.servers[from].Piece(originOf(origin), name, have[name])
		if err != nil {
			c.t.Fatal(err)
		}
		got, err := c.servers[to].AddPiece(originOf(origin), name, have[name], next, data, at)
		if err != nil || got < next {
			c.t.Fatalf("adding %s from %d to %d: %d, %v", name, have[name], next, got, err)
		}
	}
}

func (c *cluster) giveAll() {
	for from := range c.servers {
		for to := range c.servers {
			if from != to {
				c.give(from, to, from, -1)
			}
		}
	}
}

func (c *cluster) archive(i int) {
	a, err := newArchiver()
	if err != nil {
		c.t.Fatal(err)
	}
	all, err := c.servers[i].all()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, seg := range all {
		s := c.servers[i]
		if own := seg.dir == s.PodDir("svc", "pod"); seg.plain && seg.size > 0 && (!own || s.goOn == nil || seg.number < s.goOn.Number) {
			if err := s.archiveOne(a, seg); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// pages reads all pages and returns how often each line is there.
func (c *cluster) pages(q Query, at func() int) (seen map[string]int) {
	seen = map[string]int{}
	var last Event
	for {
		if q.Limit = 10_000; c.woven { // lines in pages are in order within a second
			q.Limit = rapid.IntRange(1, 7).Draw(c.t, "limit")
		}
		events, next, err := c.servers[at()].Query(c.t.Context(), q)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range events {
			if c.woven && e.At.Before(last.At) {
				c.t.Fatalf("%q comes after %q", e.Text, last.Text)
			}
			last = e
			seen[e.Text]++
		}
		if q.Token = next; next == "" {
			return seen
		}
	}
}

// step does something.
func (c *cluster) step(dir string) {
	any3 := func(what string) int { return rapid.IntRange(0, 2).Draw(c.t, what) }
	switch rapid.IntRange(0, 13).Draw(c.t, "action") {
	case 0:
		before := c.leader
		c.lead(any3("leader"))
		if before >= 0 && before != c.leader && rapid.Bool().Draw(c.t, "knows") {
			c.servers[before].goOn = nil
		}
	case 1: // killed, and started again
		i := any3("killed")
		c.start(i, dir)
		if c.leader == i {
			c.leader = -1
		}
	case 2:
		c.archive(any3("archiving"))
	case 3, 4:
		from, to := any3("from"), any3("to")
		if from != to {
			c.give(from, to, from, rapid.IntRange(0, 6).Draw(c.t, "pieces"))
		}
	case 5:
		c.giveAll()
	case 6: // one that was killed, and what the others have of it
		from, to, origin := any3("holder"), any3("to"), any3("origin")
		if from != to && to != origin {
			c.give(from, to, origin, -1)
		}
	case 7, 8, 9:
		c.follow(any3("follower"), rapid.IntRange(0, 1).Draw(c.t, "stream"), rapid.IntRange(1, 5).Draw(c.t, "lines"))
	default:
		c.emit()
	}
}

// TestTakeover_EveryLineIsThereOnce: whoever leads, however far the copies are, and also if a former leader does not know for a
// while that it is one: in the end every server has every line once, in the order of its stream.
func TestTakeover_EveryLineIsThereOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "trysail-takeover-") //nolint:usetesting // one for each of many runs
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c := newCluster(rt, dir)
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			c.step(dir)
		}
		c.lead(rapid.IntRange(0, 2).Draw(rt, "last leader"))
		for i, s := range c.servers {
			if i != c.leader {
				s.goOn = nil
			}
		}
		c.follow(c.leader, 0, -1)
		c.follow(c.leader, 1, -1)
		c.giveAll()
		for i := range c.servers {
			seen := c.pages(Query{ServiceID: "svc", Container: "web"}, func() int { return i })
			for _, stream := range c.lines {
				for _, l := range stream {
					if seen[l.text] != 1 {
						rt.Fatalf("server %d has %q %d times", i, l.text, seen[l.text])
					}
				}
			}
			tail, err := c.servers[i].Tail("svc", "pod", "web", 1000)
			if err != nil || len(tail) != len(c.lines[0])+len(c.lines[1]) {
				rt.Fatalf("server %d: the last lines are %q, %v", i, tail, err)
			}
		}
	})
}

// TestPages_AreTheSameAtAllServers: pages are asked of any server, while lines are written and the leader changes. No line comes
// twice, and in the end none is missing that a server had that has been reached.
func TestPages_AreTheSameAtAllServers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "trysail-pages-") //nolint:usetesting // one for each of many runs
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c := newCluster(rt, dir)
		seen := map[string]int{}
		synced := map[[2]int]time.Time{} // when a server last had everything of another one
		q := Query{ServiceID: "svc", Container: logDrawn(rt)}
		access := q.Container == AccessLog
		done := false
		page := func() {
			if done {
				return
			}
			at := rapid.IntRange(0, 2).Draw(rt, "asked")
			q.Late, q.Limit = map[string]time.Time{}, rapid.IntRange(1, 5).Draw(rt, "limit")
			for i := range c.servers {
				switch {
				case i == at:
				case rapid.IntRange(0, 3).Draw(rt, "reached") > 0:
					c.give(i, at, i, -1)
					synced[[2]int{i, at}] = epoch.Add(time.Duration(c.clock) * time.Millisecond)
				default:
					q.Late[originOf(i)] = synced[[2]int{i, at}]
				}
			}
			events, next, err := c.servers[at].Query(rt.Context(), q)
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range events {
				if seen[e.Text]++; seen[e.Text] > 1 {
					rt.Fatalf("%q comes twice", e.Text)
				}
			}
			q.Token, done = next, next == ""
		}
		c.lead(0)
		accessed := 0
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch {
			case rapid.IntRange(0, 4).Draw(rt, "page") == 0:
				page()
			case access:
				i := rapid.IntRange(0, 2).Draw(rt, "edge")
				c.clock += rapid.IntRange(1, 1500).Draw(rt, "ms")
				at := epoch.Add(time.Duration(c.clock) * time.Millisecond)
				write(rt, c.servers[i].Store, accessDir, AccessLog+".log", at.Format(timeFixed)+fmt.Sprintf(" stdout F request %d\n", accessed))
				accessed++
			default:
				c.step(dir)
			}
		}
		if !access || q.Token == "" {
			return
		}
		c.giveAll()
		q.Late = nil
		all := c.pages(Query{ServiceID: "svc", Container: AccessLog}, func() int { return 0 })
		for q.Token != "" {
			events, next, err := c.servers[0].Query(rt.Context(), q)
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range events {
				seen[e.Text]++
			}
			q.Token = next
		}
		for text := range all {
			if seen[text] != 1 {
				rt.Fatalf("%q came %d times", text, seen[text])
			}
		}
	})
}

// logDrawn draws the log of a container or the access log.
func logDrawn(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"web", AccessLog}).Draw(rt, "log")
}

func TestAddPiece_RefusesWhatIsNoCopy(t *testing.T) {
	s := New(t.TempDir())
	s.Share("SERVERAAA", t.TempDir())
	for _, name := range []string{"../x/web.log", "svc/pod/../web.log", "svc/web.log", "svc/pod/web.log.zst", "/svc/pod/web.log", "svc/pod/seal.key", "svc/pod/.log", ""} {
		if _, err := s.AddPiece("SERVERBBB", name, 0, 1, []byte("\n"), time.Now()); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, origin := range []string{"SERVERAAA", "..", "a/b", ""} {
		if _, err := s.AddPiece(origin, "svc/pod/web.log", 0, 1, []byte("\n"), time.Now()); err == nil {
			t.Errorf("files of %q are taken", origin)
		}
	}
	const name = "svc/pod/web.log"
	text := strings.Repeat(line(1, "stdout F hello"), 3)
	size := int64(len(text))
	add := func(from int64, data string) int64 {
		t.Helper()
		have, err := s.AddPiece("SERVERBBB", name, from, from+int64(len(data)), []byte(data), second(1))
		if err != nil {
			t.Fatal(err)
		}
		return have
	}
	for _, step := range []struct {
		from int64
		text string
		want int64
	}{{5, "later", 0}, {0, text, size}, {0, text, size}, {0, text + text, 2 * size}, {size, text, 2 * size}, {9 * size, text, 2 * size}} {
		if have := add(step.from, step.text); have != step.want {
			t.Errorf("%d bytes from %d on: it has %d, want %d", len(step.text), step.from, have, step.want)
		}
	}
	if got := query(t, s, Query{}); len(got) != 6 {
		t.Errorf("the copy has %q", got)
	}
}
