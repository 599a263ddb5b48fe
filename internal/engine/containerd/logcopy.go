package containerd

import (
	"bytes"
	"io"
	"slices"
	"time"
)

const (
	minRead = 4 << 10
	// maxRead is the buffer of a stream. Longer lines are written in parts, which readers join.
	maxRead = 64 << 10
	// smallRead is how much is read at once at least when output comes in a burst. With less, reading pauses for
	// burstPause, so that many lines are written at once and the container is not disturbed for each one. Its pipe has
	// room for much more meanwhile.
	smallRead  = 16 << 10
	burstPause = 2 * time.Millisecond
)

// copyLog writes what comes from one of a container's streams to its log, until the stream ends. Lines are written as
// soon as they are read; the beginning of one is kept until its end is read, or the buffer is full.
func copyLog(l *logFile, stream int, r io.Reader) {
	buf := make([]byte, minRead)
	held := 0
	var last time.Time
	for {
		n, err := r.Read(buf[held:])
		held += n
		if n > 0 {
			whole := bytes.LastIndexByte(buf[:held], '\n') + 1
			if whole == 0 && held == maxRead {
				whole = held
			}
			if whole > 0 {
				l.write(stream, buf[:whole], false)
				held = copy(buf, buf[whole:held])
			}
		}
		if err != nil {
			break
		}
		switch now := time.Now(); {
		case held == len(buf) || n >= len(buf)/2 && len(buf) < maxRead:
			buf = slices.Grow(buf[:held], 2*len(buf)-held)[:min(2*len(buf), maxRead)]
		case n < smallRead && now.Sub(last) < 2*burstPause:
			l.sleep(burstPause)
			last = time.Now()
		default:
			last = now
		}
	}
	l.write(stream, buf[:held], true)
}
