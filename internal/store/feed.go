package store

import (
	"slices"
	"sync"
)

// Subscription collects the ids of services that were touched by commits.
type Subscription struct {
	store *Store
	wake  chan struct{}

	mu      sync.Mutex // guards touched
	touched map[string]struct{}
}

// Subscribe begins to collect, until Close.
func (s *Store) Subscribe() *Subscription {
	sub := &Subscription{store: s, wake: make(chan struct{}, 1), touched: map[string]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(slices.Clone(s.subs), sub)
	return sub
}

// Close ends the collecting.
func (s *Subscription) Close() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.subs = slices.DeleteFunc(slices.Clone(s.store.subs), func(other *Subscription) bool { return other == s })
}

// Wake yields whenever there is something to Take.
func (s *Subscription) Wake() <-chan struct{} { return s.wake }

// Take returns the ids collected since the last call.
func (s *Subscription) Take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.touched))
	for id := range s.touched {
		ids = append(ids, id)
	}
	clear(s.touched)
	return ids
}

func (s *Store) publish(ids map[string]struct{}) {
	s.mu.Lock()
	subs := s.subs
	s.mu.Unlock()
	for _, sub := range subs {
		sub.mu.Lock()
		for id := range ids {
			sub.touched[id] = struct{}{}
		}
		sub.mu.Unlock()
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}
