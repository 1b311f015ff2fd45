package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// servicesFile is the list's name in the data directory.
const servicesFile = "towers.json"

// lockFile is held for a moment by whoever writes.
const lockFile = "towers.lock"

// LoadServices reads the towers that the wallet registered at.
func LoadServices(dir string) ([]Service, error) {
	raw, err := os.ReadFile(filepath.Join(dir, servicesFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list of towers: %w", err)
	}
	var out []Service
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("list of towers %s is damaged: %w", servicesFile, err)
	}
	return out, nil
}

// SaveServices writes them in one step: a crash leaves the old list or the new.
func SaveServices(dir string, list []Service) error {
	if err := save(dir, servicesFile, list); err != nil {
		return fmt.Errorf("list of towers: %w", err)
	}
	return nil
}

func save(dir, name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, name), append(raw, '\n'), 0o600)
}

// locked keeps the daemon and a command from writing the files at once.
func locked(dir string, f func() error) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a descriptor
		return fmt.Errorf("lock the list of towers: %w", err)
	}
	return f()
}

// UpdateServices changes the list in one step.
func UpdateServices(dir string, change func([]Service) []Service) error {
	return locked(dir, func() error {
		list, err := LoadServices(dir)
		if err != nil {
			return err
		}
		return SaveServices(dir, change(list))
	})
}

// Put adds a service, or replaces the one of its name.
func Put(list []Service, s Service) []Service {
	if i := slices.IndexFunc(list, func(known Service) bool { return known.Name == s.Name }); i >= 0 {
		list = slices.Clone(list)
		list[i] = s
		return list
	}
	return append(slices.Clone(list), s)
}

// Find gives the service of a name.
func Find(list []Service, name string) (Service, error) {
	for _, s := range list {
		if s.Name == name {
			return s, nil
		}
	}
	return Service{}, errkind.Newf(errkind.NotFound, "There is no tower %q: `sluice-wallet towers list` shows them.", name)
}
