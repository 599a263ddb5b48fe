package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/trysail/trysail/internal/control"
)

// sessions are those of all who are signed in. Those of one server are in memory only: a restart signs everybody out. Where
// several servers serve the console they are in the store, so that it does not matter which one is asked.
type sessions struct {
	shared *control.Control // nil: they are in memory

	mu sync.Mutex
	by map[[sha256.Size]byte]*session
}

func newSessions(shared *control.Control) *sessions {
	return &sessions{shared: shared, by: map[[sha256.Size]byte]*session{}}
}

// usedEvery is how exactly the store knows when a session was used last: not every page has to write.
const usedEvery = time.Minute

// begin makes a session and returns the value of its cookie.
func (s *sessions) begin(ctx context.Context, keyID string, now time.Time) (cookie string, err error) {
	cookie = secretText()
	made := &session{hash: sha256.Sum256([]byte(cookie)), keyID: keyID, made: now, used: now}
	_, _ = rand.Read(made.token[:]) // never fails
	if s.shared != nil {
		return cookie, s.shared.BeginSession(ctx, control.Session{
			Hash: made.name(), KeyID: keyID, Token: string(made.token[:]), MadeAt: now, UsedAt: now,
		}, now.Add(-lifeTime), now.Add(-idleTime), maxSessions)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) >= maxSessions {
		s.makeRoom(now)
	}
	s.by[made.hash] = made
	return cookie, nil
}

// name is that of the session in the store.
func (s *session) name() string { return hex.EncodeToString(s.hash[:]) }

// makeRoom removes what is over, and else the session that was used least recently.
func (s *sessions) makeRoom(now time.Time) {
	var oldest *session
	var at time.Time
	for hash, have := range s.by {
		have.mu.Lock()
		used := have.used
		have.mu.Unlock()
		if !have.alive(now) {
			delete(s.by, hash)
		} else if oldest == nil || used.Before(at) {
			oldest, at = have, used
		}
	}
	if len(s.by) >= maxSessions {
		oldest.mu.Lock()
		oldest.ended = true
		oldest.mu.Unlock()
		delete(s.by, oldest.hash)
	}
}

// find returns the session of a request, nil if it has none.
func (s *sessions) find(r *http.Request, now time.Time) (*session, error) {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // nobody is no error
	}
	have, err := s.get(r.Context(), sha256.Sum256([]byte(cookie.Value)))
	if have == nil || err != nil {
		return nil, err
	}
	if !have.alive(now) {
		return nil, s.end(r.Context(), have)
	}
	if isStream(r) { // a page that stays open is not a person
		return have, nil
	}
	if before := have.use(now); s.shared != nil && now.Sub(before) >= usedEvery {
		return have, s.save(r.Context(), have)
	}
	return have, nil
}

// get looks a session up.
func (s *sessions) get(ctx context.Context, hash [sha256.Size]byte) (*session, error) {
	if s.shared == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.by[hash], nil
	}
	have := &session{hash: hash}
	row, ok, err := s.shared.FindSession(ctx, have.name())
	if err != nil || !ok || len(row.Token) != tokenSize {
		return nil, err
	}
	have.keyID, have.made, have.used = row.KeyID, row.MadeAt, row.UsedAt
	copy(have.token[:], row.Token)
	if row.Flash != "" {
		have.flash = &flash{}
		err = json.Unmarshal([]byte(row.Flash), have.flash)
	}
	return have, err
}

// goesOn reports whether a session is not over, at whichever server it was ended.
func (s *sessions) goesOn(ctx context.Context, have *session, now time.Time) bool {
	if s.shared != nil {
		found, err := s.get(ctx, have.hash)
		if err != nil || found == nil {
			return false
		}
		have = found
	}
	return have.alive(now)
}

// save writes what has changed of a session.
func (s *sessions) save(ctx context.Context, have *session) error {
	have.mu.Lock()
	used, text := have.used, ""
	if have.flash != nil {
		b, _ := json.Marshal(have.flash) //nolint:errchkjson // a text and a flag
		text = string(b)
	}
	have.mu.Unlock()
	return s.shared.UseSession(ctx, have.name(), used, text)
}

// say leaves a message for the next page.
func (s *sessions) say(ctx context.Context, have *session, f *flash) error {
	have.mu.Lock()
	have.flash = f
	have.mu.Unlock()
	if s.shared == nil {
		return nil
	}
	return s.save(ctx, have)
}

// heard takes the message, if there is one.
func (s *sessions) heard(ctx context.Context, have *session) (*flash, error) {
	have.mu.Lock()
	f := have.flash
	have.flash = nil
	have.mu.Unlock()
	if s.shared == nil || f == nil {
		return f, nil
	}
	return f, s.save(ctx, have)
}

// end forgets a session. Streams of it see that it is over.
func (s *sessions) end(ctx context.Context, have *session) error {
	have.mu.Lock()
	have.ended = true
	have.mu.Unlock()
	if s.shared != nil {
		return s.shared.EndSession(ctx, have.name())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, have.hash)
	return nil
}
