package gate

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// watched is a file that is read again when it changed.
type watched[T any] struct {
	path  string
	parse func([]byte) (T, error)

	at   time.Time
	size int64
	have T
	err  error
	read bool
}

// get gives what the file says now. It looks at the file at each call, so that a change
// counts from the next request on.
func (w *watched[T]) get() (T, error) {
	info, err := os.Stat(w.path)
	if err != nil {
		var none T
		w.read = false
		return none, err
	}
	if w.read && info.ModTime().Equal(w.at) && info.Size() == w.size {
		return w.have, w.err
	}
	raw, err := os.ReadFile(w.path)
	if err != nil {
		var none T
		return none, err
	}
	w.have, w.err = w.parse(raw)
	// One that was written within the clock's grain may be written again unnoticed.
	w.at, w.size, w.read = info.ModTime(), info.Size(), time.Since(info.ModTime()) > time.Second
	return w.have, w.err
}

// hostKeySize is a macaroon root key's.
const hostKeySize = 32

func parseHostKey(raw []byte) ([]byte, error) {
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != hostKeySize {
		return nil, fmt.Errorf("%s holds no key", FileHostKey)
	}
	return key, nil
}

func strict(raw []byte, into any) error {
	return toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields().Decode(into)
}

func readAccounts(path string) ([]guard.Account, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []guard.Account
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

func join(dir, name string) string { return filepath.Join(dir, name) }

// lock keeps a second guard from counting beside this one.
func lock(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		return errLocked
	}
	return nil
}

// Prepare makes a guard's directory: keys and accounts as they are now, a policy unless
// there is one.
func Prepare(dir string, p guard.Policy, accounts []guard.Account, hostKey []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(accounts, "", " ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(join(dir, FileAccounts), append(raw, '\n'), 0o600); err != nil {
		return err
	}
	if hostKey != nil {
		if err := durable.WriteFile(join(dir, FileHostKey), []byte(hex.EncodeToString(hostKey)+"\n"), 0o600); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(join(dir, FilePolicy)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	text, err := RenderPolicy(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(join(dir, FilePolicy), text, 0o600)
}

// ReadHostKey reads the root key of the host's macaroon.
func ReadHostKey(dir string) ([]byte, error) {
	raw, err := os.ReadFile(join(dir, FileHostKey))
	if err != nil {
		return nil, err
	}
	return parseHostKey(raw)
}
