package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/fleet"
	"github.com/trysail/trysail/internal/reconcile"
	"github.com/trysail/trysail/internal/store"
)

// manyEdges reports whether the edges of several servers serve the same pods: the state is in a database of them all, and
// the pods are in a cluster, where all of them reach them.
func (c *config) manyEdges() bool { return c.database.url != "" && c.engine == engineKubernetes }

// checkAdvertise checks where the other servers shall reach this one. Errors: usage.
func checkAdvertise(address string) error {
	if address == "" {
		return nil
	}
	return checkAddress("--advertise", address)
}

// openFleet makes this server one of several, if there can be others, and makes the routes known that the leader has
// written. It returns what the reconciler works with when this server leads.
func (s *server) openFleet(ctx context.Context, routes *gate) (func(context.Context) (reconcile.Router, error), error) {
	if !s.cfg.manyEdges() {
		alone := fleet.NewAlone(routes)
		return func(context.Context) (reconcile.Router, error) { return alone, nil }, nil
	}
	s.fleet = fleet.New(fleet.Config{
		Store: s.store, Edge: routes, Log: s.log.With("part", "fleet"), Name: hostname(), Address: s.cfg.advertise, DrainTimeout: s.cfg.drainTimeout, Pods: s.engine.Pods,
	})
	s.others.Store(s.fleet)
	s.forward = newForwarder(s.fleet.Leader, s.edge.CA().RootFile(), s.log.With("part", "forward"))
	if err := s.fleet.Join(ctx); err != nil {
		return nil, err
	}
	s.work(ctx, "following the leader", s.fleet.Run)
	return func(ctx context.Context) (reconcile.Router, error) {
		s.logs.Lead(store.Epoch(ctx))
		s.cluster.Lead()
		return s.fleet.Lead(ctx)
	}, nil
}

const (
	// sharedCA is where the store has the files of the local CA.
	sharedCA = "ca/"
	// caRootKey is the root with its key, within the folder of the CA.
	caRootKey = "root-key.pem"
	// caNames is the folder of the roots that were made for single names.
	caNames = "names"
	// shareTime bounds one exchange of files with the store.
	shareTime = 30 * time.Second
)

// newEdge makes the edge with the CA of all servers.
func (s *server) newEdge(ctx context.Context, cfg edge.Config) (*edge.Edge, error) {
	if !s.cfg.manyEdges() {
		return edge.New(cfg, s.log.With("part", "edge"))
	}
	for {
		before, err := s.takeCA(ctx, cfg.Dir)
		if err != nil {
			return nil, err
		}
		e, err := edge.New(cfg, s.log.With("part", "edge"))
		if err != nil {
			return nil, err
		}
		ours, err := os.ReadFile(filepath.Join(cfg.Dir, caRootKey))
		if err == nil {
			err = s.giveCA(ctx, before, ours)
		}
		if err == nil {
			return e, nil
		}
		if err := e.Close(ctx); err != nil {
			return nil, err
		}
		if !errors.Is(err, errOtherCA) {
			return nil, fmt.Errorf("sharing the local CA: %w", err)
		}
	}
}

// errOtherCA says that another server has made a CA at the same time.
var errOtherCA = errors.New("another server has made the local CA")

// takeCA writes the files of the CA that the other servers have, and returns its root with the key, nil if there is none.
func (s *server) takeCA(ctx context.Context, dir string) (root []byte, err error) {
	var files map[string][]byte
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		files, _, _, err = tx.SharedFiles(0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the local CA: %w", err)
	}
	for name, data := range files {
		path, ok := strings.CutPrefix(name, sharedCA)
		if !ok || !filepath.IsLocal(path) {
			continue
		}
		if path == caRootKey {
			root = data
		}
		if err := writeShared(filepath.Join(dir, path), data); err != nil {
			return nil, fmt.Errorf("writing the local CA: %w", err)
		}
	}
	return root, nil
}

// giveCA gives the root to the other servers, if it is another one than before. Errors: errOtherCA.
func (s *server) giveCA(ctx context.Context, before, ours []byte) error {
	if bytes.Equal(before, ours) {
		return nil
	}
	return s.store.Update(ctx, func(tx *store.Tx) error {
		now, err := tx.SharedFile(sharedCA + caRootKey)
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		case !bytes.Equal(now, before):
			return errOtherCA
		}
		return tx.PutSharedFile(sharedCA+caRootKey, ours)
	})
}

// shareRoots gives the roots of single names, which clients have to trust, to the other servers.
func (s *server) shareRoots(ctx context.Context) error {
	if !s.cfg.manyEdges() {
		return nil
	}
	dir := filepath.Join(s.cfg.dataDir, "ca", caNames)
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, shareTime)
	defer cancel()
	return s.store.Update(ctx, func(tx *store.Tx) error {
		for _, entry := range list {
			data, err := os.ReadFile(filepath.Join(dir, entry.Name())) //nolint:gosec // within the data directory
			if err != nil {
				return err
			}
			name := sharedCA + caNames + "/" + entry.Name()
			have, err := tx.SharedFile(name)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err != nil || !bytes.Equal(have, data) {
				if err := tx.PutSharedFile(name, data); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// followCA writes the roots that the leader makes for single names.
func (s *server) followCA(ctx context.Context) error {
	sub := s.store.Subscribe()
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Wake():
		}
		if !slices.Contains(sub.Take(), store.FilesChanged) {
			continue
		}
		_, err := s.takeCA(ctx, filepath.Join(s.cfg.dataDir, "ca"))
		if err = errors.Join(err, s.edge.CA().Adopt(), s.edge.CA().Publish()); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the roots of the local CA cannot be followed", "error", err)
		}
	}
}

// writeShared puts a file where it belongs, unless it is there already, so that after a crash it is whole.
func writeShared(path string, data []byte) (err error) {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) { //nolint:gosec // within the data directory
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// followCerts takes the certificates that the leader has and gets.
func (s *server) followCerts(ctx context.Context) error {
	if !s.cfg.manyEdges() {
		return nil
	}
	if err := s.certs.Join(ctx); err != nil {
		return err
	}
	s.work(ctx, "following the leader's certificates", s.certs.Follow)
	s.work(ctx, "following the leader's roots", s.followCA)
	return nil
}
