package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/copies"
	"github.com/trysail/trysail/internal/engine/kube"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/store"
)

const (
	// identityFile has the name by which the other servers know this one for ever.
	identityFile = "server.id"
	// copiesDirName is the directory of what the other servers have written.
	copiesDirName = "copies"
	// tidyEvery is how often copies of what is not wanted any more are removed, sweepEvery how often old lines are.
	tidyEvery  = time.Minute
	sweepEvery = time.Hour
)

// copiesDir is the directory of what the other servers have written.
func (s *server) copiesDir() string { return filepath.Join(s.cfg.dataDir, copiesDirName) }

// openCopies begins to give the other servers copies of logs and metrics, if there can be others.
func (s *server) openCopies(ctx context.Context) (err error) {
	if !s.cfg.manyEdges() {
		return nil
	}
	if s.identity, err = identity(s.cfg.dataDir); err != nil {
		return fmt.Errorf("naming this server: %w", err)
	}
	s.logs.Share(s.identity, s.copiesDir())
	s.copies = copies.New(copies.Config{
		Self: s.identity, Peers: s.copyPeers, Token: s.peerToken(), Log: s.log.With("part", "copies"),
		Client: &http.Client{Transport: peerTransport(filepath.Join(s.cfg.dataDir, "ca", "root.pem"))},
	})
	s.copies.Add("logs", s.logs)
	s.work(ctx, "giving copies to the other servers", s.copies.Run)
	s.work(ctx, "removing copies that nobody wants", s.tidyCopies)
	return nil
}

// identity reads the name of this server, and makes one at the first start. It goes with the data directory.
func identity(dataDir string) (string, error) {
	path := filepath.Join(dataDir, identityFile)
	text, err := os.ReadFile(path) //nolint:gosec // within the data directory
	if id := strings.TrimSpace(string(text)); err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := rand.Text()
	return id, writeShared(path, []byte(id+"\n"))
}

// copyPeers lists the other servers that run.
func (s *server) copyPeers() (list []copies.Peer) {
	f := s.others.Load()
	if f == nil {
		return nil
	}
	for _, o := range f.Others() {
		p := copies.Peer{ID: o.ID, Name: o.Name}
		if o.Address != "" {
			p.URL = peerURL(o.Address).String()
			p.Name += " (" + o.Address + ")"
		}
		list = append(list, p)
	}
	return list
}

// peerToken returns what reads the secret by which servers know each other. It is the same as long as the process runs.
func (s *server) peerToken() func(context.Context) (string, error) {
	var mu sync.Mutex
	var known string
	return func(ctx context.Context) (_ string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if known == "" {
			known, err = s.sharedSecret(ctx, "fleet/token")
		}
		return known, err
	}
}

// latest gets what the other servers have written until now.
func (s *server) latest(ctx context.Context) (missing []control.LateServer) {
	for _, late := range s.copies.Fresh(ctx) {
		missing = append(missing, control.LateServer(late))
	}
	return missing
}

// leads reports whether this server leads.
func (s *server) leads() bool {
	if s.fleet == nil {
		return true
	}
	_, ours, _ := s.fleet.Leader()
	return ours
}

// continueLog says how to go on with the log of a container that another server may have followed before.
func (s *server) continueLog(dir, container string) (kube.Continuation, error) {
	c, err := s.logs.Continue(dir, container)
	if err != nil {
		return kube.Continuation{}, err
	}
	return kube.Continuation{Number: c.Number, Begin: c.Begin, End: func(stream string) (time.Time, int) {
		end := c.Ends[stream]
		return end.Last, end.Count
	}}, nil
}

// tidyCopies removes the lines of services that are gone and those that are too old: the leader does so with its own only.
func (s *server) tidyCopies(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	swept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		sweep := time.Since(swept) >= sweepEvery
		if sweep {
			swept = time.Now()
		}
		if err := s.tidyOnce(ctx, sweep); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrUnavailable) {
			s.log.WarnContext(ctx, "copies that nobody wants cannot be removed", "error", err)
		}
	}
}

func (s *server) tidyOnce(ctx context.Context, sweep bool) error {
	have, err := s.logs.Services() // before those that there are: a service is in the database before it has lines
	if err != nil {
		return err
	}
	var there []string
	live := map[string]bool{}
	err = s.store.View(ctx, func(tx *store.Tx) error {
		services, err := tx.Services()
		for i := range services {
			there = append(there, services[i].ID)
		}
		if err != nil {
			return err
		}
		pods, err := tx.LivePods()
		for _, p := range pods {
			live[string(p.ID)] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range have {
		if !slices.Contains(there, id) {
			errs = append(errs, s.logs.Delete(id))
		}
	}
	if sweep {
		keep := s.cfg.logRetention
		if keep == 0 {
			keep = logs.Retention
		}
		errs = append(errs, s.logs.Sweep(time.Now().Add(-keep), func(_, pod string) bool { return live[pod] }))
	}
	return errors.Join(errs...)
}
