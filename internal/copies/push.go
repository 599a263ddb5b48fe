package copies

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

const (
	// Path is where a server takes what others send.
	Path = "/peer/copies/"
	// maxBatch is about how much is sent at once, in bytes.
	maxBatch = 4 << 20
	// maxAnswer bounds what another server answers, in bytes: the names of all its files.
	maxAnswer = 256 << 20
	// sendTime bounds one exchange.
	sendTime = 30 * time.Second
)

// piece is what stands before the bytes of a piece of a file.
type piece struct {
	Part   string `json:"part"`
	Origin string `json:"origin"`
	Name   string `json:"name"`
	From   int64  `json:"from"`
	Next   int64  `json:"next"`
	At     int64  `json:"at"` // Unix time in nanoseconds
	Size   int    `json:"size"`
}

// state is how far a server's copies of another one's files have come.
type state struct {
	Self  string                      `json:"self"` // the server that says so
	Parts map[string]map[string]int64 `json:"parts"`
}

// progress is how far the copies of one server's files have come at another one, as far as is known here.
type progress struct {
	have map[string]map[string]int64
}

// peer is another server, and what it has.
type peer struct {
	Peer

	copies  *Copies
	stop    context.CancelFunc
	ask     chan chan error // somebody waits until everything has been sent
	origins map[string]*progress

	mu       sync.Mutex // guards self and failing
	self     string     // its name for ever; empty until it has said so
	failing  bool
	pulling  sync.Mutex // held while it is asked for its latest
	pulled   time.Time  // when it was asked last and has answered
	sulksFor time.Time  // until when it is not waited for
}

func (p *peer) origin() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.self
}

// run sends what is new until ctx ends.
func (p *peer) run(ctx context.Context) {
	var left time.Time
	for ctx.Err() == nil {
		err := p.send(ctx)
		if err == nil && time.Since(left) >= leftTime {
			left = time.Now()
			err = p.sendLeft(ctx)
		}
		p.report(ctx, err)
		timer := time.NewTimer(p.copies.pauseAfter())
		select {
		case <-ctx.Done():
		case <-timer.C:
		case done := <-p.ask:
			done <- p.send(ctx) // it has room for that
		}
		timer.Stop()
	}
}

// report logs that a server cannot be reached, and that it can be again.
func (p *peer) report(ctx context.Context, err error) {
	p.mu.Lock()
	was := p.failing
	p.failing = err != nil
	p.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err != nil && !was:
		p.copies.Log.WarnContext(ctx, "another server does not get copies of logs and metrics", "server", p.Name, "error", err)
	case err == nil && was:
		p.copies.Log.InfoContext(ctx, "another server gets copies of logs and metrics again", "server", p.Name)
	}
}

// flush waits until the other server has everything that there is now.
func (p *peer) flush(ctx context.Context) bool {
	done := make(chan error, 1)
	select {
	case p.ask <- done:
	case <-ctx.Done():
		return false
	}
	select {
	case err := <-done:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

// send sends what is new in our own files.
func (p *peer) send(ctx context.Context) error {
	files, err := p.copies.scan(time.Now())
	if err != nil {
		return fmt.Errorf("looking through our files: %w", err)
	}
	return p.sendFiles(ctx, p.copies.Self, files)
}

// sendLeft sends what it lacks of servers that are gone.
func (p *peer) sendLeft(ctx context.Context) error {
	for _, origin := range p.copies.left() {
		files, err := p.copies.filesOf(origin)
		if err != nil {
			return fmt.Errorf("looking through the files of a server that is gone: %w", err)
		}
		delete(p.origins, origin) // somebody else may have sent something
		if err := p.sendFiles(ctx, origin, files); err != nil {
			return err
		}
	}
	return nil
}

// sendFiles brings its copies of a server's files as far as files says.
func (p *peer) sendFiles(ctx context.Context, origin string, files map[string]map[string]int64) error {
	known := p.origins[origin]
	if known == nil {
		var s state
		if err := p.call(ctx, http.MethodGet, "state?origin="+url.QueryEscape(origin), nil, &s); err != nil {
			return err
		}
		p.mu.Lock()
		p.self = s.Self
		p.mu.Unlock()
		if s.Self == origin {
			return nil // it is not gone
		}
		known = &progress{have: s.Parts}
		p.origins[origin] = known
	}
	err := p.sendNew(ctx, origin, files, known)
	if err != nil {
		delete(p.origins, origin) // how far it is has to be asked
	}
	return err
}

func (p *peer) sendNew(ctx context.Context, origin string, files map[string]map[string]int64, known *progress) error {
	b := batch{peer: p, known: known}
	for _, part := range slices.Sorted(maps.Keys(files)) {
		if known.have[part] == nil {
			if known.have == nil {
				known.have = map[string]map[string]int64{}
			}
			known.have[part] = map[string]int64{}
		}
		have, source := known.have[part], p.copies.part(part)
		for name := range have {
			if _, there := files[part][name]; !there {
				delete(have, name) // it was removed here
			}
		}
		names := slices.Collect(maps.Keys(files[part]))
		source.Sort(names)
		for _, name := range names {
			for from := have[name]; from < files[part][name]; from = have[name] {
				data, next, at, err := source.Piece(origin, name, from)
				if err != nil || next <= from {
					break // it was removed, or there is half a line only
				}
				if err := b.add(ctx, piece{part, origin, name, from, next, at.UnixNano(), len(data)}, data); err != nil {
					return err
				}
			}
		}
	}
	return b.flush(ctx)
}

// batch gathers pieces to be sent together.
type batch struct {
	peer  *peer
	known *progress
	body  bytes.Buffer
	sent  []piece
}

func (b *batch) add(ctx context.Context, head piece, data []byte) error {
	line, err := json.Marshal(head)
	if err != nil {
		return err
	}
	b.body.Write(append(line, '\n'))
	b.body.Write(data)
	b.sent = append(b.sent, head)
	b.known.have[head.Part][head.Name] = head.Next
	if b.body.Len() < maxBatch {
		return nil
	}
	return b.flush(ctx)
}

// errBehind says that a copy is not where it was believed to be.
var errBehind = errors.New("its copies are not what they were")

func (b *batch) flush(ctx context.Context) error {
	if len(b.sent) == 0 {
		return nil
	}
	var have []int64
	if err := b.peer.call(ctx, http.MethodPost, "", &b.body, &have); err != nil {
		return err
	}
	if len(have) != len(b.sent) {
		return errBehind
	}
	for i, p := range b.sent {
		if have[i] < p.Next {
			return errBehind
		}
		b.known.have[p.Part][p.Name] = max(b.known.have[p.Part][p.Name], have[i])
	}
	b.sent = b.sent[:0]
	b.body.Reset()
	return nil
}

// pull asks the other server for its latest, unless it was asked since. It reports whether that came, and when it did last.
func (p *peer) pull(ctx context.Context, now time.Time) (ok bool, last time.Time) {
	p.pulling.Lock()
	defer p.pulling.Unlock()
	switch {
	case p.pulled.After(now.Add(-fresh)):
		return true, p.pulled
	case time.Now().Before(p.sulksFor), ctx.Err() != nil:
		return false, p.pulled
	}
	began := time.Now()
	if p.call(ctx, http.MethodPost, "latest?for="+url.QueryEscape(p.copies.Self), nil, nil) != nil {
		if time.Since(began) > patience/2 {
			p.sulksFor = time.Now().Add(sulk)
		}
		return false, p.pulled
	}
	p.pulled = began
	return true, began
}

// call asks the other server.
func (p *peer) call(ctx context.Context, method, path string, body io.Reader, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	token, err := p.copies.Token(ctx)
	if err != nil {
		return fmt.Errorf("reading the secret of the servers: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.URL+Path+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := p.copies.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 256))
		return fmt.Errorf("it answers %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer)
}
