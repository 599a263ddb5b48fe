package podnet

import (
	"context"
	"errors"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// guardEvery is how often the rules are looked at even if the kernel reports no change of any.
	guardEvery = 10 * time.Second
	// hostEvery is how often the machine's other firewalls are asked to let pods through: Docker sets its policy when it
	// starts, firewalld forgets what it was told when it is reloaded.
	hostEvery = time.Minute
	// hostPause is the least time between two such questions, when rules of the machine change.
	hostPause = 10 * time.Second
	// quiet is how long changes are collected before the rules are looked at.
	quiet = 50 * time.Millisecond
)

// guard puts the rules back when somebody has removed or changed them, until ctx ends.
func (n *Network) guard(ctx context.Context) {
	changes := make(chan struct{}, 1)
	listener, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		n.log.WarnContext(ctx, "the kernel does not report changes of the packet filter; the rules are looked at now and then", "error", err)
	} else {
		n.wg.Go(func() { listen(listener, changes) })
		defer listener.Close()
	}
	changed := make(chan struct{}, 1)
	n.wg.Go(func() { n.guardHost(ctx, changed) })
	look := time.NewTicker(guardEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		case <-changes:
			select {
			case <-ctx.Done():
				return
			case <-time.After(quiet):
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		if err := n.restore(ctx); err != nil {
			n.log.ErrorContext(ctx, "the rules of the pods' network are not in force", "error", err)
		}
	}
}

// guardHost looks now and then, and soon after changes, whether the rest of the machine lets pods through, until ctx ends. Its
// tools may take long.
func (n *Network) guardHost(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTimer(hostEvery)
	defer timer.Stop()
	for asked := time.Now(); ; asked = time.Now() {
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				timer.Reset(max(0, hostPause-time.Since(asked)))
			case <-timer.C:
				waiting = false
			}
		}
		admitByHost(ctx, n.cfg)
		n.warn(ctx)
		n.mu.Lock()
		err := n.reachAll()
		n.mu.Unlock()
		if err != nil {
			n.log.ErrorContext(ctx, "the machine does not reach all pods", "error", err)
		}
		timer.Reset(hostEvery)
	}
}

// listen puts a token into changes whenever any rule on the machine changes, until the connection is closed.
func listen(c *netlink.Conn, changes chan<- struct{}) {
	for {
		_, err := c.Receive()
		if err != nil && !isOverflow(err) {
			return
		}
		select {
		case changes <- struct{}{}:
		default:
		}
	}
}

// restore installs the rules again unless they are as they should be.
func (n *Network) restore(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ok, err := intact(n.cfg, n.mark)
	if ok && err == nil {
		return nil
	}
	if err := n.install(); err != nil {
		return err
	}
	n.log.WarnContext(ctx, "somebody has changed the rules of the pods' network; they have been put back", "table", n.cfg.tableName())
	return nil
}

// isOverflow reports whether changes came faster than they were read: some are lost, and the connection goes on.
func isOverflow(err error) bool { return errors.Is(err, unix.ENOBUFS) }
