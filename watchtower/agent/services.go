package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// servicesFile is the list's name in the data directory.
const servicesFile = "towers.json"

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
	raw, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, servicesFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("list of towers: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("list of towers: %w", err)
	}
	return os.Rename(path+".new", path)
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
