// Package copies gives every server a copy of what the others write: the lines of logs and the points of metrics. So any of
// them answers for all, also when the others are gone. docs/adr/026-several-servers-one-installation.md has the reasons.
//
// A server writes its own files and nobody else's, and only ever adds to them. Each server sends what is new in its files to
// each of the others (push.go), which add it to their copies (receive.go); how far a copy has come is a position in each
// file, so what is sent twice is added once. What a server has left behind that is gone is sent by those that have it to
// those that lack it. Before a server answers it asks the others for their latest (Fresh), and says who did not reply.
package copies

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Part is a kind of files: what logs.Store and metrics.Store keep. Positions are numbers that grow.
type Part interface {
	// Origins lists the other servers of whose files there are copies.
	Origins() ([]string, error)
	// Files lists the files of a server, by name: how far each has come.
	Files(origin string) (map[string]int64, error)
	// Sort puts names in the order in which their files have to be sent.
	Sort(names []string)
	// Piece reads a file from a position on. next is the position behind it, at when the file was written last.
	Piece(origin, name string, from int64) (data []byte, next int64, at time.Time, err error)
	// AddPiece adds to a copy what Piece has read, and returns how far the copy has come. It adds nothing that does not
	// follow what is there. Several servers may send the same piece at the same time.
	AddPiece(origin, name string, from, next int64, data []byte, at time.Time) (have int64, err error)
}

// Peer is another server that runs.
type Peer struct {
	ID   string // of this run of it
	Name string // for people
	URL  string // of its API; empty if nobody knows where that is
}

// Config is what Copies work with. The fields without a default are required.
type Config struct {
	// Self names this server for ever, in letters and digits.
	Self string
	// Peers lists the other servers that run.
	Peers func() []Peer
	// Client reaches them. It checks who they are.
	Client *http.Client
	// Token is the secret by which servers know each other.
	Token func(context.Context) (string, error)
	Log   *slog.Logger
	// Interval is how often files are looked through for what is new; zero means a second.
	Interval time.Duration
}

const (
	// patience bounds how long Fresh waits.
	patience = 2 * time.Second
	// fresh is how old an answer to Fresh may be: whoever asks again and again costs the others little.
	fresh = 200 * time.Millisecond
	// sulk is how long Fresh does not wait for a server that did not answer.
	sulk = 5 * time.Second
	// lastTime bounds how long the end of a server waits until the others have what it has written.
	lastTime = 5 * time.Second
	// leftTime is how often the files of servers that are gone are compared with those of the others.
	leftTime = time.Minute
)

// Copies are what this server gives to the others and has of them.
type Copies struct {
	Config

	scanning sync.Mutex // held while files are looked through, although that is I/O: one look serves all peers
	seen     map[string]map[string]int64
	seenAt   time.Time // when the last look began
	took     time.Duration

	mu    sync.Mutex // guards all below
	parts map[string]Part
	peers map[string]*peer // by ID
	wg    sync.WaitGroup
}

// New makes Copies. Run does the work.
func New(cfg Config) *Copies {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	return &Copies{Config: cfg, parts: map[string]Part{}, peers: map[string]*peer{}}
}

// Add adds a kind of files.
func (c *Copies) Add(name string, p Part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parts[name] = p
}

func (c *Copies) part(name string) Part {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[name]
}

func (c *Copies) all() map[string]Part {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.parts)
}

// Run gives the other servers what is new until ctx ends, and then what is left, not for ever.
func (c *Copies) Run(ctx context.Context) error {
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer c.wg.Wait()
	defer stop()
	for {
		c.meet(work)
		select {
		case <-ctx.Done():
			c.finish(work)
			return nil
		case <-tick.C:
		}
	}
}

// meet begins to work for servers that are new, and ends it for those that are gone.
func (c *Copies) meet(ctx context.Context) {
	there := map[string]Peer{}
	for _, p := range c.Peers() {
		there[p.ID] = p
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.peers {
		if _, ok := there[id]; !ok {
			p.stop()
			delete(c.peers, id)
		}
	}
	for id, info := range there {
		if c.peers[id] != nil || info.URL == "" {
			continue
		}
		p := &peer{Peer: info, copies: c, ask: make(chan chan error), origins: map[string]*progress{}}
		var run context.Context
		run, p.stop = context.WithCancel(ctx)
		c.peers[id] = p
		c.wg.Go(func() { p.run(run) })
	}
}

// finish waits until the others have what there is now.
func (c *Copies) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range c.working() {
		wg.Go(func() {
			if !p.flush(ctx) {
				c.Log.InfoContext(ctx, "another server may lack the last lines and points of this one", "server", p.Name)
			}
		})
	}
	wg.Wait()
}

func (c *Copies) working() []*peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.peers))
}

// pauseAfter is how long to wait between two looks: one through many files makes the next one wait.
func (c *Copies) pauseAfter() time.Duration {
	c.scanning.Lock()
	defer c.scanning.Unlock()
	return max(c.Interval, 10*c.took)
}

// Late is a server of which something may be missing.
type Late struct {
	Name string // for people
	// Self is what it is named for ever; empty if nobody knows.
	Self string
	// Since is when everything that it had written was here; zero if that is not known.
	Since time.Time
}

// Fresh asks all other servers for what they have written until now, waits for it, not for long, and returns those of which
// something may be missing.
func (c *Copies) Fresh(ctx context.Context) (missing []Late) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now := time.Now()
	var mu sync.Mutex // guards missing
	var wg sync.WaitGroup
	for _, info := range c.Peers() {
		c.mu.Lock()
		p := c.peers[info.ID]
		c.mu.Unlock()
		wg.Go(func() {
			late := Late{Name: info.Name}
			if p != nil {
				ok, since := p.pull(ctx, now)
				if ok {
					return
				}
				late.Self, late.Since = p.origin(), since
			}
			mu.Lock()
			defer mu.Unlock()
			missing = append(missing, late)
		})
	}
	wg.Wait()
	slices.SortFunc(missing, func(a, b Late) int { return strings.Compare(a.Name, b.Name) })
	return missing
}

// scan lists our own files, as they were at a time or later.
func (c *Copies) scan(after time.Time) (map[string]map[string]int64, error) {
	c.scanning.Lock()
	defer c.scanning.Unlock()
	if !c.seenAt.Before(after) {
		return c.seen, nil
	}
	began := time.Now()
	seen, err := c.filesOf(c.Self)
	if err == nil {
		c.seen, c.seenAt, c.took = seen, began, time.Since(began)
	}
	return seen, err
}

// filesOf lists the files of a server, by part and name.
func (c *Copies) filesOf(origin string) (map[string]map[string]int64, error) {
	files := map[string]map[string]int64{}
	for name, part := range c.all() {
		list, err := part.Files(origin)
		if err != nil {
			return nil, err
		}
		files[name] = list
	}
	return files, nil
}

// left lists the servers that are gone and of whose files there are copies here.
func (c *Copies) left() (list []string) {
	alive := map[string]bool{c.Self: true}
	for _, p := range c.working() {
		alive[p.origin()] = true
	}
	for _, part := range c.all() {
		origins, err := part.Origins()
		if err != nil {
			continue // Files says so
		}
		for _, o := range origins {
			if !alive[o] && !slices.Contains(list, o) {
				list = append(list, o)
			}
		}
	}
	return list
}
