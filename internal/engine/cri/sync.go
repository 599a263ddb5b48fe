package cri

import (
	"context"
	"iter"
	"sync"
)

// broadcast wakes everybody who watches. The zero value is ready.
type broadcast struct {
	mu       sync.Mutex // guards watchers
	watchers map[chan struct{}]bool
}

// send wakes all watchers. One that has not reacted to the last call yet is woken once.
func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// all yields once at the beginning and then after each send, until ctx ends.
func (b *broadcast) all(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		c := make(chan struct{}, 1)
		c <- struct{}{}
		b.mu.Lock()
		if b.watchers == nil {
			b.watchers = map[chan struct{}]bool{}
		}
		b.watchers[c] = true
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			delete(b.watchers, c)
			b.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-c:
				if ctx.Err() != nil || !yield(struct{}{}) {
					return
				}
			}
		}
	}
}

// keyLocks is a lock per name. The zero value is ready.
type keyLocks struct {
	mu   sync.Mutex // guards held
	held map[string]chan struct{}
}

// lock waits until nobody holds the name's lock. Errors: ctx's.
func (l *keyLocks) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[string]chan struct{}{}
		}
		other := l.held[name]
		if other == nil {
			mine := make(chan struct{})
			l.held[name] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, name)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-other:
		}
	}
}

// sharedLocks are keyLocks in the form that containerd's unpacker wants. The zero value is ready.
type sharedLocks struct {
	locks keyLocks

	mu      sync.Mutex // guards unlocks
	unlocks map[string]func()
}

// Lock waits until nobody holds the key's lock. Errors: ctx's.
func (l *sharedLocks) Lock(ctx context.Context, key string) error {
	unlock, err := l.locks.lock(ctx, key)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unlocks == nil {
		l.unlocks = map[string]func(){}
	}
	l.unlocks[key] = unlock
	return nil
}

// Unlock releases what Lock has taken.
func (l *sharedLocks) Unlock(key string) {
	l.mu.Lock()
	unlock := l.unlocks[key]
	delete(l.unlocks, key)
	l.mu.Unlock()
	if unlock != nil {
		unlock()
	}
}
