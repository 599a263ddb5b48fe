package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mholt/acmez/v3/acme"
)

// storedAccount is an account on the disk.
type storedAccount struct {
	Directory string       `json:"directory"`
	Account   acme.Account `json:"account"`
	Key       []byte       `json:"key"` // PKCS #8
}

// accountPath is where the account at a directory is. Another binding is another account.
func (a *authority) accountPath() string {
	sum := sha256.Sum256([]byte(a.dir.URL + "\n" + a.dir.KeyID))
	return filepath.Join(a.files.dir, "accounts", hex.EncodeToString(sum[:8])+".json")
}

// account returns our account, from the disk or by opening one. Its key is on the disk before the authority hears of it, so
// that an account that was opened just before a crash is found again.
func (a *authority) account(ctx context.Context) (acme.Account, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	a.mu.Lock()
	open := a.open
	a.mu.Unlock()
	if open != nil {
		return *open, nil
	}
	account, err := a.loadAccount()
	if errors.Is(err, fs.ErrNotExist) {
		account, err = a.newAccount(ctx)
	}
	if err != nil {
		return account, fmt.Errorf("reading the account: %w", err)
	}
	if account.Status != acme.StatusValid {
		if account, err = a.register(ctx, account); err != nil {
			return account, accountError{err}
		}
	}
	a.mu.Lock()
	a.open = &account
	a.mu.Unlock()
	return account, nil
}

// accountError is an account that could not be opened.
type accountError struct{ error }

func (e accountError) Unwrap() error { return e.error }

// newAccount makes one that the authority does not know of yet.
func (a *authority) newAccount(ctx context.Context) (acme.Account, error) {
	key, err := newKey()
	if err != nil {
		return acme.Account{}, err
	}
	account := acme.Account{PrivateKey: key, TermsOfServiceAgreed: true}
	if a.email != "" {
		account.Contact = []string{"mailto:" + a.email}
	}
	return account, a.saveAccount(ctx, account)
}

func (a *authority) register(ctx context.Context, account acme.Account) (acme.Account, error) {
	if a.dir.KeyID != "" {
		if err := account.SetExternalAccountBinding(ctx, a.client, acme.EAB{KeyID: a.dir.KeyID, MACKey: a.dir.MACKey}); err != nil {
			return account, fmt.Errorf("binding the account: %w", err)
		}
	}
	account, err := a.client.NewAccount(ctx, account)
	if err != nil {
		return account, fmt.Errorf("opening an account: %w", err)
	}
	account.ExternalAccountBinding = nil
	a.log.InfoContext(ctx, "account opened", "account", account.Location)
	return account, a.saveAccount(ctx, account)
}

func (a *authority) saveAccount(ctx context.Context, account acme.Account) error {
	key, err := x509.MarshalPKCS8PrivateKey(account.PrivateKey)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(storedAccount{a.dir.URL, account, key}, "", "  ")
	if err != nil {
		return err
	}
	return a.files.write(ctx, a.accountPath(), text)
}

func (a *authority) loadAccount() (acme.Account, error) {
	text, err := os.ReadFile(a.accountPath())
	if err != nil {
		return acme.Account{}, err
	}
	var stored storedAccount
	if err := json.Unmarshal(text, &stored); err != nil {
		return acme.Account{}, fmt.Errorf("%s: %w", a.accountPath(), err)
	}
	key, err := parseKey(stored.Key)
	stored.Account.PrivateKey = key
	return stored.Account, err
}

// forget removes an account that the authority does not know any more.
func (a *authority) forget(ctx context.Context) error {
	a.opening.Lock()
	defer a.opening.Unlock()
	a.mu.Lock()
	a.open = nil
	a.mu.Unlock()
	return a.files.remove(ctx, a.accountPath())
}
