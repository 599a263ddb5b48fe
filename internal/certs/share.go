package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/trysail/trysail/internal/store"
)

// Several servers have the same certificates: what the leader keeps goes into the store first, sealed, and all others write
// it to their disks. The answers to challenges go the same way, since an authority may ask any of the servers.

// The names of shared files. Those of files on the disk are their paths within the folder, below sharedFiles.
const (
	sharedRoot  = "certs/"
	sharedFiles = sharedRoot + "files/"
	sharedHTTP  = sharedRoot + "challenges/http/"
	sharedTLS   = sharedRoot + "challenges/tls/"
)

// challengeTime bounds telling the others of a challenge.
const challengeTime = 30 * time.Second

// write puts a file on the disk, and gives it to the other servers before.
func (f files) write(ctx context.Context, path string, data []byte) error {
	name, err := filepath.Rel(f.dir, path)
	if err != nil {
		return err
	}
	if err := f.share(ctx, sharedFiles+filepath.ToSlash(name), data); err != nil {
		return err
	}
	return writeFile(path, data)
}

func (f files) remove(ctx context.Context, path string) error {
	name, err := filepath.Rel(f.dir, path)
	if err != nil {
		return err
	}
	return errors.Join(f.unshare(ctx, sharedFiles+filepath.ToSlash(name)), os.Remove(path))
}

// share gives a file to the other servers, if there are some.
func (f files) share(ctx context.Context, name string, data []byte) error {
	if f.store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, challengeTime)
	defer cancel()
	return f.store.Update(ctx, func(tx *store.Tx) error { return tx.PutSharedFile(name, data) })
}

func (f files) unshare(ctx context.Context, name string) error {
	if f.store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, challengeTime)
	defer cancel()
	return f.store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteSharedFile(name) })
}

// forgetChallenges removes those that a leader before has left.
func (m *Manager) forgetChallenges(ctx context.Context) error {
	if m.files.store == nil {
		return nil
	}
	err := m.files.store.Update(ctx, func(tx *store.Tx) error {
		_, all, _, err := tx.SharedFiles(1 << 62)
		for _, name := range all {
			if strings.HasPrefix(name, sharedHTTP) || strings.HasPrefix(name, sharedTLS) {
				err = errors.Join(err, tx.DeleteSharedFile(name))
			}
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("removing old challenges: %w", err)
	}
	return nil
}

// Join takes what the other servers have. It does nothing where there is one server only.
func (m *Manager) Join(ctx context.Context) error {
	if m.files.store == nil {
		return nil
	}
	err := m.files.store.Update(ctx, func(tx *store.Tx) (err error) {
		// An authority, and our own look at a name, may reach any of the servers.
		m.challenges.own, err = tx.Fact("look_token", m.looker.token)
		return err
	})
	if err != nil {
		return fmt.Errorf("joining the other servers: %w", err)
	}
	m.looker.token = m.challenges.own
	if err := m.take(ctx); err != nil {
		return err
	}
	return m.give(ctx)
}

// give shares what was on this disk before there were other servers.
func (m *Manager) give(ctx context.Context) error {
	for _, folder := range []string{"names", "accounts"} {
		list, err := os.ReadDir(filepath.Join(m.files.dir, folder))
		if err != nil {
			return err
		}
		for _, entry := range list {
			name := sharedFiles + folder + "/" + entry.Name()
			if m.theirs[name] || strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			data, err := os.ReadFile(filepath.Join(m.files.dir, folder, entry.Name())) //nolint:gosec // within our folder
			if err == nil {
				err = m.files.share(ctx, name, data)
			}
			if err != nil {
				return fmt.Errorf("sharing %s with the other servers: %w", name, err)
			}
		}
	}
	return nil
}

// Follow takes what the leader keeps, until ctx ends. Join comes before.
func (m *Manager) Follow(ctx context.Context) error {
	if m.files.store == nil {
		<-ctx.Done()
		return nil
	}
	sub := m.files.store.Subscribe()
	defer sub.Close()
	for again := true; ctx.Err() == nil; {
		if again {
			if err := m.take(ctx); err != nil && ctx.Err() == nil {
				m.log.WarnContext(ctx, "the certificates of the leader cannot be read", "error", err)
				m.rest(ctx, time.Second)
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-sub.Wake():
			again = false
			for _, id := range sub.Take() {
				again = again || id == store.FilesChanged
			}
		}
	}
	return nil
}

// take reads what has changed.
func (m *Manager) take(ctx context.Context) error {
	var changed map[string][]byte
	var all []string
	var newest int64
	err := m.files.store.View(ctx, func(tx *store.Tx) (err error) {
		changed, all, newest, err = tx.SharedFiles(m.taken)
		return err
	})
	if err != nil {
		return err
	}
	for name, data := range changed {
		if err := m.takeFile(name, data); err != nil {
			return fmt.Errorf("taking %s: %w", name, err)
		}
	}
	now := make(map[string]bool, len(all))
	for _, name := range all {
		now[name] = true
	}
	for name := range m.theirs {
		if !now[name] {
			m.dropChallenge(name)
		}
	}
	m.taken, m.theirs = newest, now
	return nil
}

func (m *Manager) takeFile(name string, data []byte) error {
	if rest, ok := strings.CutPrefix(name, sharedHTTP); ok {
		host, token, _ := strings.Cut(rest, "/")
		m.challenges.setHTTP(host, token, string(data))
	} else if host, ok := strings.CutPrefix(name, sharedTLS); ok {
		cert, err := acmez.TLSALPN01ChallengeCert(acme.Challenge{
			Type: acme.ChallengeTypeTLSALPN01, Identifier: acme.Identifier{Type: "dns", Value: host}, KeyAuthorization: string(data),
		})
		if err != nil {
			return err
		}
		m.challenges.setTLS(host, cert)
	} else if path, ok := strings.CutPrefix(name, sharedFiles); ok {
		return m.takeDiskFile(path, data)
	}
	return nil
}

// takeDiskFile writes a file of the leader's to the disk, and serves it if it is a certificate.
func (m *Manager) takeDiskFile(path string, data []byte) error {
	folder, file := filepath.Split(filepath.FromSlash(path))
	if folder = filepath.Clean(folder); !filepath.IsLocal(path) || folder != "names" && folder != "accounts" {
		return errors.New("there is no such file")
	}
	at := filepath.Join(m.files.dir, folder, file)
	have, err := os.ReadFile(at) //nolint:gosec // within our folder
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := err != nil || string(have) != string(data)
	if fresh {
		if err := writeFile(at, data); err != nil {
			return err
		}
	}
	domain, ok := strings.CutSuffix(file, ".pem")
	if domain = strings.Replace(domain, "_wildcard", "*", 1); ok && folder == "names" && (fresh || !m.table.has(domain)) {
		m.table.put(domain)
	}
	return nil
}

// dropChallenge forgets an answer that the leader has taken away.
func (m *Manager) dropChallenge(name string) {
	if rest, ok := strings.CutPrefix(name, sharedHTTP); ok {
		host, token, _ := strings.Cut(rest, "/")
		m.challenges.setHTTP(host, token, "")
	} else if host, ok := strings.CutPrefix(name, sharedTLS); ok {
		m.challenges.setTLS(host, nil)
	}
}
