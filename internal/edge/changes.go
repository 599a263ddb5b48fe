package edge

import "sync"

// changes hands names of services to whoever receives from out. A name that was not received yet is not queued twice,
// so the senders never wait and the queue is never longer than there are services.
type changes struct {
	out  chan string
	wake chan struct{} // holds at most one token: queue is not empty

	// mu guards queue and queued, which hold the same names.
	mu     sync.Mutex
	queue  []string
	queued map[string]bool
}

func newChanges() *changes {
	return &changes{out: make(chan string), wake: make(chan struct{}, 1), queued: map[string]bool{}}
}

// add queues service unless it is queued already.
func (c *changes) add(service string) {
	c.mu.Lock()
	if !c.queued[service] {
		c.queued[service] = true
		c.queue = append(c.queue, service)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest name from the queue.
func (c *changes) next() (service string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.queue = nil // let the array go
		return "", false
	}
	service = c.queue[0]
	c.queue = c.queue[1:]
	delete(c.queued, service)
	return service, true
}

// run delivers until stop is closed, then closes out.
func (c *changes) run(stop <-chan struct{}) {
	defer close(c.out)
	for {
		select {
		case <-c.wake:
		case <-stop:
			return
		}
		for service, ok := c.next(); ok; service, ok = c.next() {
			select {
			case c.out <- service:
			case <-stop:
				return
			}
		}
	}
}
