package store

import (
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Session is somebody who is signed in to the console. What opens it is not in the store.
type Session struct {
	Hash   string // of the cookie, in hexadecimal
	KeyID  string
	Token  string // that forms carry; sealed on the disk
	MadeAt time.Time
	UsedAt time.Time
	Flash  string // what the next page says first; sealed on the disk
}

// InsertSession adds a session. Those that were made or used before these times are over and go, and of the others all but
// the most that were used last.
func (t *Tx) InsertSession(s Session, madeAfter, usedAfter time.Time, most int) error {
	if err := t.exec("DELETE FROM sessions WHERE made_at < $1 OR used_at < $2", unix(madeAfter), unix(usedAfter)); err != nil {
		return err
	}
	err := t.exec("INSERT INTO sessions (hash, key_id, token, made_at, used_at, flash) VALUES ($1, $2, $3, $4, $5, $6)",
		s.Hash, s.KeyID, t.seal.seal("session "+s.Hash, s.Token), unix(s.MadeAt), unix(s.UsedAt), t.sealFlash(s.Hash, s.Flash))
	if err != nil {
		return fmt.Errorf("inserting a session: %w", err)
	}
	return t.exec("DELETE FROM sessions WHERE hash NOT IN (SELECT hash FROM sessions ORDER BY used_at DESC, hash LIMIT $1)", most)
}

// Session returns a session. Errors: ErrNotFound.
func (t *Tx) Session(hash string) (s Session, err error) {
	s.Hash = hash
	var token, flash []byte
	var made, used int64
	err = t.row("SELECT key_id, token, made_at, used_at, flash FROM sessions WHERE hash = $1", hash).Scan(&s.KeyID, &token, &made, &used, &flash)
	if errors.Is(err, sql.ErrNoRows) {
		return s, ErrNotFound
	}
	if err == nil {
		s.Token, err = t.seal.open("session "+hash, token)
	}
	if err == nil && len(flash) > 0 {
		s.Flash, err = t.seal.open("flash "+hash, flash)
	}
	if err != nil {
		return s, fmt.Errorf("reading a session: %w", err)
	}
	s.MadeAt, s.UsedAt = fromUnix(made), fromUnix(used)
	return s, nil
}

// UseSession notes when somebody was there, and what the next page says first. A session that is over stays so.
func (t *Tx) UseSession(hash string, used time.Time, flash string) error {
	return t.exec("UPDATE sessions SET used_at = $1, flash = $2 WHERE hash = $3", unix(used), t.sealFlash(hash, flash), hash)
}

// DeleteSession ends a session.
func (t *Tx) DeleteSession(hash string) error {
	return t.exec("DELETE FROM sessions WHERE hash = $1", hash)
}

func (t *Tx) sealFlash(hash, text string) []byte {
	if text == "" {
		return []byte{}
	}
	return t.seal.seal("flash "+hash, text)
}
