package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// The files in the wallet's data directory.
const (
	SettingsFile = "backups.toml"
	KeyFile      = "backup.key"
	stateFile    = "backups-state.json"
	restoreFile  = "restore-state.json"
)

// The kinds of providers.
const (
	KindGateway = "gateway"
	KindVSS     = "vss"
	KindDir     = "dir"
	KindS3      = "s3"
)

// ProviderConfig is one place to keep backups at.
type ProviderConfig struct {
	Name string `toml:"name"`
	Kind string `toml:"kind"`
	// Address is HOST:PORT of a gateway, the https address of a VSS server or a
	// bucket, or the path of a directory.
	Address string `toml:"address"`
	// NodeKey is a gateway's node.
	NodeKey ln.PubKey `toml:"node_key,omitempty"`
	// Certificate is a file whose key is pinned; empty trusts the system's roots.
	Certificate string `toml:"certificate,omitempty"`
	// Credentials is a file: a VSS server's token, or a bucket's access key and
	// secret on two lines.
	Credentials string `toml:"credentials,omitempty"`
	Region      string `toml:"region,omitempty"`
}

// Place names the provider for ever, whatever it is called here.
func (p ProviderConfig) Place() string {
	if p.Kind == KindGateway {
		return p.Kind + ":" + p.NodeKey.String()
	}
	return p.Kind + ":" + p.Address
}

// validName is also the name of a file, and so has no path in it.
func validName(name string) bool {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`).MatchString(name)
}

// Validate names what is wrong.
func (p ProviderConfig) Validate() error {
	if !validName(p.Name) {
		return errkind.Newf(errkind.Invalid, "provider name %q: use up to 32 lower-case letters, digits, dots and hyphens", clip(p.Name))
	}
	fail := func(text string) error { return errkind.Newf(errkind.Invalid, "provider %s: %s", p.Name, text) }
	switch p.Kind {
	case KindGateway:
		if p.NodeKey.IsZero() {
			return fail("its node key is missing; it stands before the @ of the URI that the operator publishes")
		}
		if host, port, err := net.SplitHostPort(p.Address); err != nil || host == "" || port == "" {
			return fail("want HOST:PORT of its service")
		}
	case KindVSS, KindS3:
		if !strings.HasPrefix(p.Address, "https://") {
			return fail("want an address that begins with https://")
		}
		if p.Kind == KindS3 && p.Credentials == "" {
			return fail("want a file with its access key and secret on two lines")
		}
	case KindDir:
		if !filepath.IsAbs(p.Address) {
			return fail("want the whole path of its directory")
		}
	default:
		return fail(fmt.Sprintf("there is no kind %q: use gateway, vss, dir or s3", clip(p.Kind)))
	}
	return nil
}

// Settings are what the owner asked for. They lie in a file of their own, which
// `sluice-wallet backup status` changes and a person may take to a new machine.
type Settings struct {
	// Require is at how many providers each version must be; 0 means all.
	Require         int `toml:"require"`
	DrillEveryHours int `toml:"drill_every_hours"`
	AlarmAfterHours int `toml:"alarm_after_hours"`
	// AlarmCommand is a program with its arguments, called when something is wrong
	// (see RunAlarm).
	AlarmCommand []string         `toml:"alarm_command,omitempty"`
	Providers    []ProviderConfig `toml:"provider"`
	// Files of other programs, which are backed up as well.
	Files []FileConfig `toml:"file,omitempty"`
}

// FileConfig is one file to back up.
type FileConfig struct {
	Name string `toml:"name"`
	Path string `toml:"path"`
}

const (
	maxFiles     = 32
	maxProviders = 16
	maxArguments = 16
)

// DefaultSettings have no providers.
func DefaultSettings() Settings { return Settings{DrillEveryHours: 24, AlarmAfterHours: 72} }

// Needed is at how many providers a version must be.
func (s Settings) Needed() int {
	if s.Require == 0 {
		return max(1, len(s.Providers))
	}
	return s.Require
}

func (s Settings) drillEvery() time.Duration { return time.Duration(s.DrillEveryHours) * time.Hour }
func (s Settings) alarmAfter() time.Duration { return time.Duration(s.AlarmAfterHours) * time.Hour }

// Validate names what is wrong.
func (s Settings) Validate() error {
	names, places := map[string]bool{}, map[string]bool{}
	for _, p := range s.Providers {
		if err := p.Validate(); err != nil {
			return err
		}
		if names[p.Name] {
			return errkind.Newf(errkind.Conflict, "there is a provider named %s already", p.Name)
		}
		if places[p.Place()] {
			return errkind.Newf(errkind.Conflict, "%s is the place of another provider: twice the same is no second copy", p.Name)
		}
		names[p.Name], places[p.Place()] = true, true
	}
	if err := checkFiles(s.Files); err != nil {
		return err
	}
	switch {
	case len(s.Providers) > maxProviders:
		return errkind.Newf(errkind.Exhausted, "there are %d providers: at most %d", len(s.Providers), maxProviders)
	case s.Require < 0 || s.Require > maxProviders:
		return errkind.Newf(errkind.Invalid, "require is %d: want 0 (all) to %d", s.Require, maxProviders)
	case s.DrillEveryHours < 1 || s.AlarmAfterHours < 1 || s.DrillEveryHours > 24*365 || s.AlarmAfterHours > 24*365:
		return errkind.New(errkind.Invalid, "drill_every_hours and alarm_after_hours must be between 1 and 8760")
	case len(s.AlarmCommand) > maxArguments || len(s.AlarmCommand) > 0 && !filepath.IsAbs(s.AlarmCommand[0]):
		return errkind.New(errkind.Invalid, "alarm_command: want the whole path of a program, and its arguments")
	case s.AlarmAfterHours < s.DrillEveryHours:
		return errkind.New(errkind.Invalid, "alarm_after_hours is less than drill_every_hours: every backup would look old")
	}
	return nil
}

func checkFiles(files []FileConfig) error {
	if len(files) > maxFiles {
		return errkind.Newf(errkind.Exhausted, "there are %d files: at most %d", len(files), maxFiles)
	}
	names := map[string]bool{}
	for _, f := range files {
		switch {
		case !validName(f.Name):
			return errkind.Newf(errkind.Invalid, "file name %q: use up to 32 lower-case letters, digits, dots and hyphens", clip(f.Name))
		case names[f.Name]:
			return errkind.Newf(errkind.Conflict, "there is a file named %s already", f.Name)
		case !filepath.IsAbs(f.Path):
			return errkind.Newf(errkind.Invalid, "file %s: want its whole path", f.Name)
		}
		names[f.Name] = true
	}
	return nil
}

// LoadSettings reads the file; one that is missing is the default.
func LoadSettings(dir string) (Settings, error) {
	s := DefaultSettings()
	path := filepath.Join(dir, SettingsFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("backup settings: %w", err)
	}
	if err := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields().Decode(&s); err != nil {
		return s, errkind.Wrap(errkind.Invalid, err, path+" cannot be read")
	}
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// SaveSettings writes the file.
func SaveSettings(dir string, s Settings) error {
	if err := s.Validate(); err != nil {
		return err
	}
	content, err := toml.Marshal(s)
	if err != nil {
		return fmt.Errorf("backup settings: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, SettingsFile), append([]byte("# Where this wallet's backups are; `sluice-wallet backup status` changes it.\n\n"), content...), 0o600)
}

// Add gives the settings with one more provider.
func (s Settings) Add(p ProviderConfig) (Settings, error) {
	s.Providers = append(slices.Clone(s.Providers), p)
	return s, s.Validate()
}

// Remove gives the settings without one. What it stores stays there.
func (s Settings) Remove(name string) (Settings, error) {
	n := len(s.Providers)
	s.Providers = slices.DeleteFunc(slices.Clone(s.Providers), func(p ProviderConfig) bool { return p.Name == name })
	if len(s.Providers) == n {
		return s, errkind.Newf(errkind.NotFound, "there is no provider named %s", clip(name))
	}
	return s, nil
}

// clip bounds what an error repeats of somebody's input.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
