package provider

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Dir is a directory: a memory stick, another disk, a network share.
type Dir struct{ root, place string }

// marker is a file that says: this medium is there. An empty mount point looks
// like an empty medium, and what is written to it is on the disk that the
// backup is for.
const marker = ".sluice-backup"

// PrepareDir makes a directory one that backups are written to.
func PrepareDir(root string) error {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(root, marker), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("sluice-wallet keeps backups here; they are encrypted.\n")
	return errors.Join(err, f.Sync(), f.Close(), syncDir(root))
}

// OpenDir uses a prepared directory. Each wallet has a folder of its own in it.
func OpenDir(root, place string) *Dir { return &Dir{root: root, place: place} }

// Close implements Place.
func (d *Dir) Close() error { return nil }

func (d *Dir) folder() string { return filepath.Join(d.root, place(d.place)) }

// place keeps what is derived apart from what people put beside it.
func place(id string) string { return "sluice-" + id }

func (d *Dir) file(id string) string { return filepath.Join(d.folder(), id+".slb") }

func (d *Dir) present() error {
	if _, err := os.Stat(filepath.Join(d.root, marker)); err != nil {
		return errkind.Wrap(errkind.Unavailable, err, fmt.Sprintf("%s is not there, or is not the medium that was added (its file %s is missing): is it mounted?", d.root, marker))
	}
	return nil
}

// Get implements Place.
func (d *Dir) Get(_ context.Context, id string) (Object, error) {
	if err := d.present(); err != nil {
		return Object{}, err
	}
	return d.read(id)
}

func (d *Dir) read(id string) (Object, error) {
	f, err := os.Open(d.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Object{}, errNothing(id)
	}
	if err != nil {
		return Object{}, errkind.Wrap(errkind.Unavailable, err, "the file cannot be read")
	}
	defer func() { _ = f.Close() }()
	value, err := io.ReadAll(io.LimitReader(f, maxObject+1))
	switch {
	case err != nil:
		return Object{}, errkind.Wrap(errkind.Unavailable, err, "the file cannot be read")
	case len(value) > maxObject:
		return Object{}, errkind.Newf(errkind.Invalid, "the file %s is larger than any backup", f.Name())
	}
	sum := sha256.Sum256(value)
	return Object{Value: value, Version: hex.EncodeToString(sum[:])}, nil
}

// Put implements Place. A lock keeps two programs on one machine apart; a
// network share without locks keeps them apart as well as it can.
func (d *Dir) Put(_ context.Context, id, known string, value []byte) (Stored, error) {
	if err := d.present(); err != nil {
		return Stored{}, err
	}
	if err := os.MkdirAll(d.folder(), 0o700); err != nil {
		return Stored{}, errkind.Wrap(errkind.Unavailable, err, "the folder cannot be made")
	}
	unlock, err := d.lock()
	if err != nil {
		return Stored{}, err
	}
	defer unlock()
	have, err := d.read(id)
	switch {
	case errors.Is(err, errkind.NotFound):
	case err != nil:
		return Stored{}, err
	}
	if have.Version != known {
		return Stored{}, errChanged()
	}
	if err := replaceFile(d.file(id), value); err != nil {
		return Stored{}, errkind.Wrap(errkind.Unavailable, err, "the file cannot be written")
	}
	sum := sha256.Sum256(value)
	return Stored{Version: hex.EncodeToString(sum[:])}, nil
}

func (d *Dir) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(d.folder(), ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errkind.Wrap(errkind.Unavailable, err, "the folder cannot be locked")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOLCK) { //nolint:gosec // a descriptor
		return nil, errors.Join(errkind.Wrap(errkind.Unavailable, err, "the folder cannot be locked"), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// replaceFile leaves the old file or the new one, whole and on disk.
func replaceFile(path string, value []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(value)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	// Some network file systems cannot sync a directory.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
