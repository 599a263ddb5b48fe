package http1

import "iter"

// strand runs a function that can stop in the middle and go on later, on the goroutine of whoever calls resume: a coroutine, which
// in Go is made by iter.Pull. Changing to it and back costs a tenth of what waking a goroutine does, as no scheduler is asked. A
// strand that waits can also be resumed by a goroutine of its own: from then on it may block like any other function.
type strand struct {
	job    func()
	next   func() (strandState, bool)
	cancel func()
	yield  func(strandState) bool // of the iterator, for pause
}

// strandState is why a strand has stopped.
type strandState int

const (
	ended   strandState = iota // its job is done, and it can take another one
	waiting                    // somebody will resume it
	leaving                    // it is to be resumed by a goroutine of its own
)

func newStrand() *strand {
	st := &strand{}
	st.next, st.cancel = iter.Pull(func(yield func(strandState) bool) {
		st.yield = yield
		for again := true; again; again = yield(ended) {
			st.job()
			st.job = nil
		}
	})
	return st
}

// resume runs the strand until it stops.
func (st *strand) resume() strandState {
	state, _ := st.next()
	return state
}

// pause is called by the job, and returns when the strand is resumed.
func (st *strand) pause(why strandState) { st.yield(why) }

// finish runs the strand to its end and is the end of it. It must have a job.
func (st *strand) finish() {
	st.resume()
	st.cancel()
}
