package auth

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// FileRootKeys keeps root keys as files of mode 0600 in a directory of mode
// 0700: enough for one daemon on one machine. Replicas need keys in their
// shared database.
type FileRootKeys struct {
	dir string
	// mu makes put-unless-there one step within the process; one daemon owns
	// the directory.
	mu sync.Mutex
}

// NewFileRootKeys opens or makes the directory.
func NewFileRootKeys(dir string) (*FileRootKeys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("root keys: %w", err)
	}
	return &FileRootKeys{dir: dir}, nil
}

func (f *FileRootKeys) path(id uint64) string {
	return filepath.Join(f.dir, "rootkey-"+strconv.FormatUint(id, 10))
}

// RootKey implements RootKeys.
func (f *FileRootKeys) RootKey(_ context.Context, id uint64) ([]byte, error) {
	text, err := os.ReadFile(f.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errkind.Wrap(errkind.NotFound, err, "There is no such root key.")
	}
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		return nil, fmt.Errorf("root key file %s is damaged: %w", f.path(id), err)
	}
	return key, nil
}

// PutRootKey implements RootKeys.
func (f *FileRootKeys) PutRootKey(ctx context.Context, id uint64, key []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	existing, err := f.RootKey(ctx, id)
	if err == nil || !errors.Is(err, errkind.NotFound) {
		return existing, err
	}
	return key, WriteFileAtomic(f.path(id), []byte(hex.EncodeToString(key)+"\n"))
}

// DeleteRootKey implements RootKeys.
func (f *FileRootKeys) DeleteRootKey(_ context.Context, id uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
