package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// LSP is one service provider that the user trusts with what its zero-conf
// channels ask for.
type LSP struct {
	Name    string    `toml:"name"`
	NodeKey ln.PubKey `toml:"node_key"`
	// Address is where its Lightning node listens, GRPC its service; HOST:PORT. An
	// LSP without a service of Sluice's is asked over the Lightning connection (LSPS).
	Address string `toml:"address"`
	GRPC    string `toml:"grpc,omitempty"`
	// Certificate is the file with its TLS certificate, whose key is pinned;
	// empty trusts the system's roots.
	Certificate string `toml:"certificate,omitempty"`
	// ZeroConf says that its channels may be used unconfirmed.
	ZeroConf bool `toml:"zero_conf"`
}

// maxLSPs bounds the list: every one is asked at each receive.
const maxLSPs = 32

// Validate names what is wrong.
func (l LSP) Validate() error {
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)
	switch {
	case !name.MatchString(l.Name):
		return errkind.Newf(errkind.Invalid, "LSP name %q: use up to 32 lower-case letters, digits, dots and hyphens", clip(l.Name))
	case l.NodeKey.IsZero():
		return errkind.Newf(errkind.Invalid, "LSP %s: its node key is missing; it stands before the @ of the URI that the operator publishes", l.Name)
	}
	if err := checkHostPort(l.Address); err != nil {
		return errkind.Newf(errkind.Invalid, "LSP %s: node address: %s", l.Name, err)
	}
	if l.GRPC == "" {
		return nil
	}
	if err := checkHostPort(l.GRPC); err != nil {
		return errkind.Newf(errkind.Invalid, "LSP %s: service address (grpc): %s", l.Name, err)
	}
	return nil
}

func checkHostPort(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || len(text) > 260 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%q is not HOST:PORT", clip(text))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port between 1 and 65535", clip(text))
	}
	return nil
}

// ParseLSP reads "NAME,NODEKEY@HOST:PORT[,grpc=HOST:PORT][,cert=FILE][,zero-conf=no]".
func ParseLSP(text string) (LSP, error) {
	form := errkind.Newf(errkind.Invalid, "LSP %q: want NAME,NODEKEY@HOST:PORT[,grpc=HOST:PORT][,cert=FILE][,zero-conf=no]", clip(text))
	parts := strings.Split(text, ",")
	if len(parts) < 2 {
		return LSP{}, form
	}
	key, address, ok := strings.Cut(parts[1], "@")
	if !ok {
		return LSP{}, form
	}
	l := LSP{Name: parts[0], Address: address, ZeroConf: true}
	var err error
	if l.NodeKey, err = ln.ParsePubKey(key); err != nil {
		return LSP{}, errkind.Wrap(errkind.Invalid, err, form.Error())
	}
	for _, p := range parts[2:] {
		name, value, _ := strings.Cut(p, "=")
		switch name {
		case "grpc":
			l.GRPC = value
		case "cert":
			l.Certificate = value
		case "zero-conf":
			if value != "yes" && value != "no" {
				return LSP{}, form
			}
			l.ZeroConf = value == "yes"
		default:
			return LSP{}, form
		}
	}
	return l, l.Validate()
}

// Book is the list of LSPs, kept in a TOML file that is always whole: people
// may edit it while the daemon is stopped.
type Book struct {
	path string

	mu   sync.Mutex
	lsps []LSP
}

type bookFile struct {
	LSP []LSP `toml:"lsp"`
}

// OpenBook reads the file; one that is missing is an empty list.
func OpenBook(path string) (*Book, error) {
	b := &Book{path: path}
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list of LSPs: %w", err)
	}
	if b.lsps, err = decodeBook(content); err != nil {
		return nil, fmt.Errorf("list of LSPs %s: %w", path, err)
	}
	return b, nil
}

func decodeBook(content []byte) ([]LSP, error) {
	var file bookFile
	if err := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields().Decode(&file); err != nil {
		return nil, err
	}
	var out []LSP
	for _, l := range file.LSP {
		var err error
		if out, err = with(out, l, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// with gives the list with l at its end, or in place of the one of its name
// when replace allows it.
func with(list []LSP, l LSP, replace bool) ([]LSP, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	out, at := slices.Clone(list), -1
	for i, have := range out {
		switch {
		case have.Name == l.Name && !replace:
			return nil, errkind.Newf(errkind.Conflict, "there is an LSP named %s already: choose another name, or remove it first", l.Name)
		case have.Name == l.Name:
			at = i
		case have.NodeKey == l.NodeKey:
			return nil, errkind.Newf(errkind.Conflict, "the LSP %s has the same node key: remove it first, or keep it", have.Name)
		}
	}
	if at >= 0 {
		out[at] = l
		return out, nil
	}
	if len(out) >= maxLSPs {
		return nil, errkind.Newf(errkind.Exhausted, "there are %d LSPs already: remove one first", len(out))
	}
	return append(out, l), nil
}

// List is a copy of the list.
func (b *Book) List() []LSP {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lsps)
}

// ByNode finds the LSP with a node key.
func (b *Book) ByNode(key ln.PubKey) (LSP, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lsps {
		if l.NodeKey == key {
			return l, true
		}
	}
	return LSP{}, false
}

// ByName finds an LSP, or says which there are.
func (b *Book) ByName(name string) (LSP, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, 0, len(b.lsps))
	for _, l := range b.lsps {
		if l.Name == name {
			return l, nil
		}
		names = append(names, l.Name)
	}
	if len(names) == 0 {
		return LSP{}, errNoLSP
	}
	return LSP{}, errkind.Newf(errkind.NotFound, "there is no LSP named %s: there are %s", clip(name), strings.Join(names, ", "))
}

var errNoLSP = errkind.New(errkind.NotFound, "no LSP is configured: add one with `sluice-wallet lsps add`")

// Put adds an LSP, or replaces the one of its name, once the file is written.
func (b *Book) Put(l LSP, replace bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next, err := with(b.lsps, l, replace)
	if err != nil || slices.Equal(next, b.lsps) {
		return err
	}
	return b.store(next)
}

// Remove forgets an LSP, or is errkind.NotFound.
func (b *Book) Remove(name string) (LSP, error) {
	l, err := b.ByName(name)
	if err != nil {
		return LSP{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return l, b.store(slices.DeleteFunc(slices.Clone(b.lsps), func(have LSP) bool { return have.Name == name }))
}

func (b *Book) store(next []LSP) error {
	content, err := toml.Marshal(bookFile{LSP: next})
	if err != nil {
		return fmt.Errorf("list of LSPs: %w", err)
	}
	if err := durable.WriteFile(b.path, append([]byte("# The LSPs of this wallet; `sluice-wallet lsps` changes them.\n\n"), content...), 0o600); err != nil {
		return fmt.Errorf("list of LSPs: %w", err)
	}
	b.lsps = next
	return nil
}

// clip bounds what an error repeats of somebody's input.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
