package certs

import (
	"math/rand/v2"
	"time"

	"github.com/trysail/trysail"
)

const (
	// renewalEvery is how often an authority is asked when a certificate should be replaced, unless it says otherwise.
	renewalEvery = 6 * time.Hour
	// lookSoon and lookLate bound the pause between our own looks at a name that cannot be validated yet. They cost nobody
	// but us, and a person may be waiting for what they just changed.
	lookSoon, lookLate = 30 * time.Second, 10 * time.Minute
	// tryLate bounds the pause between two tries with an authority.
	tryLate = 12 * time.Hour
)

// step is what is to be done about a name.
type step int

const (
	stepWait  step = iota
	stepIssue      // get a certificate, or a new one
	stepAsk        // ask the authority whether it is time
)

// plan says what is to be done about a name now, or when to look again (zero: when something changes). It is pure.
func plan(d *trysail.DomainCertificate, askAt, now time.Time) (s step, at time.Time) {
	if d.Refused && d.Leaf == nil {
		return stepWait, time.Time{}
	}
	due := d.RenewAt
	if !d.Valid(now) {
		due = time.Time{}
	}
	if d.NextTry.After(due) {
		due = d.NextTry
	}
	if !now.Before(due) {
		return stepIssue, now
	}
	if !askAt.IsZero() && d.Valid(now) && askAt.Before(due) {
		if !now.Before(askAt) {
			return stepAsk, now
		}
		return stepWait, askAt
	}
	return stepWait, due
}

// renewAt is when a certificate is renewed if nobody says otherwise: when a third of its life is left.
func renewAt(notBefore, notAfter time.Time) time.Time {
	return notAfter.Add(-notAfter.Sub(notBefore) / 3)
}

// pause is how long to wait after a number of tries that failed in a row. Let's Encrypt allows five failed validations of a
// name in an hour: these are the first four, then it goes on more slowly. unit is a minute, but in tests.
func pause(tries int, unit time.Duration) time.Duration {
	steps := [...]int{1, 5, 15, 60, 180, 360}
	d := time.Duration(steps[min(max(tries-1, 0), len(steps)-1)]) * time.Minute
	return jitter(scale(min(d, tryLate), unit))
}

// lookPause is how long to wait before we look again at a name that was found not to be ready.
func lookPause(tries int, unit time.Duration) time.Duration {
	d := lookSoon
	for range min(tries-1, 10) {
		d = d * 3 / 2
	}
	return jitter(scale(min(d, lookLate), unit))
}

// scale shortens a pause in tests, where a minute is a unit.
func scale(d, unit time.Duration) time.Duration {
	return time.Duration(float64(d) * float64(unit) / float64(time.Minute))
}

// jitter spreads what would come at the same time: up to a tenth earlier or later.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d)) //nolint:gosec // spreads load, keeps no secret
}
