package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/trysail/trysail"
)

// RegisterImage puts an image on a service under the service's next number. A number is never given twice, also not
// after its image was deleted. Errors: ErrNotFound when the registry has no such manifest.
func (t *Tx) RegisterImage(s *trysail.Service, label, digest string) (trysail.RegisteredImage, error) {
	if err := t.execOne("UPDATE manifests SET pushed_at = $1 WHERE digest = $2", unix(t.now), digest); err != nil {
		return trysail.RegisteredImage{}, err
	}
	img := trysail.RegisteredImage{StoredImage: trysail.StoredImage{Service: s.Name, Label: label}, Digest: digest, CreatedAt: t.now}
	err := t.row("UPDATE services SET last_image = last_image + 1 WHERE id = $1 RETURNING last_image", s.ID).Scan(&img.Number)
	if err != nil {
		return img, fmt.Errorf("counting images: %w", err)
	}
	return img, t.exec("INSERT INTO images (service_id, number, label, digest, created_at) VALUES ($1, $2, $3, $4, $5)",
		s.ID, img.Number, label, digest, unix(t.now))
}

// Images lists the images of a service, newest first.
func (t *Tx) Images(s *trysail.Service) ([]trysail.RegisteredImage, error) {
	return t.images("i.service_id = $1", s.ID)
}

// AllImages lists the images of all services.
func (t *Tx) AllImages() ([]trysail.RegisteredImage, error) { return t.images("1 = 1") }

// FindImage finds an image by its name; with number 0 the newest of its label. Errors: ErrNotFound.
func (t *Tx) FindImage(name trysail.StoredImage) (trysail.RegisteredImage, error) {
	list, err := t.images("s.name = $1 AND i.label = $2 AND (i.number = $3 OR $3 = 0)", name.Service, name.Label, name.Number)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return trysail.RegisteredImage{}, err
	}
	return list[0], nil
}

func (t *Tx) images(where string, args ...any) ([]trysail.RegisteredImage, error) {
	var list []trysail.RegisteredImage
	err := t.query(func(r *sql.Rows) error {
		var i trysail.RegisteredImage
		var created int64
		err := r.Scan(&i.Service, &i.Label, &i.Number, &i.Digest, &created)
		i.CreatedAt = fromUnix(created)
		list = append(list, i)
		return err
	}, "SELECT s.name, i.label, i.number, i.digest, i.created_at FROM images i JOIN services s ON s.id = i.service_id WHERE "+where+
		" ORDER BY s.name, i.number DESC", args...)
	return list, err
}

// DeleteImage takes an image off a service. Errors: ErrNotFound.
func (t *Tx) DeleteImage(s *trysail.Service, number int) error {
	return t.execOne("DELETE FROM images WHERE service_id = $1 AND number = $2", s.ID, number)
}

// ImageUses lists which kept version of which service needs which image, as far as digests are known.
func (t *Tx) ImageUses() ([]trysail.ImageUse, error) {
	var list []trysail.ImageUse
	newer, last := 0, ""
	err := t.query(func(r *sql.Rows) error {
		u := trysail.ImageUse{}
		var digests string
		if err := r.Scan(&u.Service, &u.Version, &u.State, &digests); err != nil {
			return err
		}
		if u.Service != last {
			newer, last = 0, u.Service
		}
		u.Newer = newer
		newer++
		var byName map[string]string
		if err := json.Unmarshal([]byte(digests), &byName); err != nil {
			return fmt.Errorf("reading the digests of version %d of %s: %w", u.Version, u.Service, err)
		}
		for name, digest := range byName {
			u.Name, u.Digest = name, digest
			list = append(list, u)
		}
		return nil
	}, "SELECT s.name, d.version, d.state, d.digests FROM deployments d JOIN services s ON s.id = d.service_id ORDER BY s.name, d.version DESC")
	return list, err
}

// InsertLogin keeps the hash of a registry login's password, and forgets the logins that have expired.
func (t *Tx) InsertLogin(hash []byte, keyID string, expires time.Time) error {
	if err := t.exec("DELETE FROM registry_logins WHERE expires_at <= $1", unix(t.now)); err != nil {
		return err
	}
	return t.exec("INSERT INTO registry_logins (hash, key_id, created_at, expires_at) VALUES ($1, $2, $3, $4)", hash, keyID, unix(t.now), unix(expires))
}

// Login finds the login with the hash of a password: which access key asked for it, and until when it is valid. A login
// whose access key was deleted is not found. Errors: ErrNotFound.
func (t *Tx) Login(hash []byte) (keyID string, expires time.Time, err error) {
	err = ErrNotFound
	qerr := t.query(func(r *sql.Rows) error {
		var at int64
		err = r.Scan(&keyID, &at)
		expires = fromUnix(at)
		return err
	}, "SELECT l.key_id, l.expires_at FROM registry_logins l JOIN access_keys k ON k.id = l.key_id WHERE l.hash = $1", hash)
	if qerr != nil {
		err = qerr
	}
	return keyID, expires, err
}

// PutRegistry sets what is known of a registry elsewhere; its secret is sealed on the disk.
func (t *Tx) PutRegistry(r trysail.Registry) error {
	mirrors, err := json.Marshal(r.Mirrors)
	if err != nil {
		return err
	}
	return t.exec(`INSERT INTO registries (host, username, secret, mirrors, ca, plain_http, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (host) DO UPDATE SET username = excluded.username, secret = excluded.secret, mirrors = excluded.mirrors,
  ca = excluded.ca, plain_http = excluded.plain_http, updated_at = excluded.updated_at`,
		r.Host, r.Username, t.seal.seal("registry "+r.Host, r.Secret), string(mirrors), r.CA, r.PlainHTTP, unix(t.now))
}

// DeleteRegistry forgets a registry. Errors: ErrNotFound.
func (t *Tx) DeleteRegistry(host string) error {
	return t.execOne("DELETE FROM registries WHERE host = $1", host)
}

// Registry returns what is known of a registry, with its secret. Errors: ErrNotFound.
func (t *Tx) Registry(host string) (trysail.Registry, error) {
	list, err := t.registries("host = $1", host)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return trysail.Registry{}, err
	}
	return list[0], nil
}

// Registries lists all registries with their secrets, by host.
func (t *Tx) Registries() ([]trysail.Registry, error) { return t.registries("1 = 1") }

func (t *Tx) registries(where string, args ...any) ([]trysail.Registry, error) {
	var list []trysail.Registry
	err := t.query(func(r *sql.Rows) error {
		var reg trysail.Registry
		var sealed []byte
		var mirrors string
		var updated int64
		if err := r.Scan(&reg.Host, &reg.Username, &sealed, &mirrors, &reg.CA, &reg.PlainHTTP, &updated); err != nil {
			return err
		}
		reg.UpdatedAt = fromUnix(updated)
		if err := json.Unmarshal([]byte(mirrors), &reg.Mirrors); err != nil {
			return fmt.Errorf("reading the mirrors of %s: %w", reg.Host, err)
		}
		secret, err := t.seal.open("registry "+reg.Host, sealed)
		reg.Secret = secret
		list = append(list, reg)
		return err
	}, "SELECT host, username, secret, mirrors, ca, plain_http, updated_at FROM registries WHERE "+where+" ORDER BY host", args...)
	return list, err
}
