package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/ln"
	fundings "github.com/sluice-lsp/sluice/lsp/collab/agent"
)

// invoicesThing is the name of what is backed up of lnd's open invoices.
const invoicesThing = "invoices.json"

// fundingsThing is the name of what is backed up of signed joint fundings. They are files
// of a folder on the disk.
const fundingsThing = "fundings.json"

// restoredDir is where a restore puts what has no place of its own on the new
// machine.
const restoredDir = "restored"

// extraFiles are the wallet's other things: what it was set up with, and what
// it agreed on. Their names are those of the files.
func extraFiles() []string {
	return []string{"lsps.toml", "towers.json", "agreements.json", "orders.json", "swaps.json", "trusted.json", agent.SettingsFile}
}

// restoredPath is where a restore puts a thing; false for names that are not ours.
func restoredPath(dir, thing string) (string, bool) {
	if slices.Contains(extraFiles(), thing) {
		return filepath.Join(dir, thing), true
	}
	if name, ours := agent.FileName(thing); ours {
		return filepath.Join(dir, restoredDir, name), true
	}
	return filepath.Join(dir, restoredDir, thing), thing == invoicesThing
}

// restoreThing writes a thing where it belongs, unless something is there; told is what it
// wrote.
func restoreThing(dir, thing string, content []byte) (told []string, err error) {
	if thing == fundingsThing {
		keys, err := fundings.Restore(dir, content)
		for _, key := range keys {
			told = append(told, "the joint funding "+key)
		}
		return told, err
	}
	path, ours := restoredPath(dir, thing)
	if !ours {
		return nil, nil // not a name of ours: nothing is written by what a file says of itself
	}
	if _, statErr := os.Stat(path); !errors.Is(statErr, os.ErrNotExist) {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return []string{path}, durable.WriteFile(path, content, 0o600)
}

// invoiceLister is lnd's open invoices.
type invoiceLister interface {
	OpenInvoices(ctx context.Context) ([]ln.Invoice, error)
}

func extras(dir string, invoices invoiceLister, now func() time.Time) map[string]agent.Read {
	out := map[string]agent.Read{
		invoicesThing: (&openInvoices{lnd: invoices, now: now}).read,
		fundingsThing: func(context.Context) ([]byte, error) { return fundings.Backup(dir) },
	}
	for _, name := range extraFiles() {
		out[name] = func(context.Context) ([]byte, error) {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if errors.Is(err, os.ErrNotExist) {
				return nil, nil
			}
			return content, err
		}
	}
	return out
}

// openInvoices reads lnd's open invoices, once a minute at most.
type openInvoices struct {
	lnd  invoiceLister
	now  func() time.Time
	at   time.Time
	last []byte
}

// backedInvoice is an invoice that may still be paid, with the preimage that only
// this node has.
type backedInvoice struct {
	Hash       ln.Hash `json:"payment_hash"`
	Preimage   string  `json:"preimage"`
	AmountMsat ln.Msat `json:"amount_msat"`
	Invoice    string  `json:"invoice"`
	Memo       string  `json:"memo,omitempty"`
	CreatedMs  int64   `json:"created_ms"`
	ExpiresMs  int64   `json:"expires_ms"`
}

func (o *openInvoices) read(ctx context.Context) ([]byte, error) {
	if since := o.now().Sub(o.at); o.last != nil && since >= 0 && since < time.Minute {
		return o.last, nil
	}
	list, err := o.lnd.OpenInvoices(ctx)
	if err != nil {
		return nil, err
	}
	out := []backedInvoice{}
	for _, inv := range list {
		if inv.Preimage == (ln.Preimage{}) {
			continue // a hold invoice, whose preimage somebody else has
		}
		out = append(out, backedInvoice{
			Hash: inv.Hash, Preimage: hex.EncodeToString(inv.Preimage.Bytes()), AmountMsat: inv.AmountMsat, Invoice: inv.Bolt11, Memo: inv.Memo,
			CreatedMs: inv.CreatedAt.UnixMilli(), ExpiresMs: inv.ExpiresAt.UnixMilli(),
		})
	}
	content, err := json.MarshalIndent(out, "", " ")
	if err == nil {
		o.at, o.last = o.now(), content
	}
	return content, err
}

// files reads other programs' files. One that did not change is not read again.
type files struct {
	// dir is the owner's alone: copies lie there for a moment.
	dir  string
	mu   sync.Mutex
	seen map[string]fileSeen
}

type fileSeen struct {
	mark    string
	content []byte
}

func newFiles(dir string) *files { return &files{dir: dir, seen: map[string]fileSeen{}} }

func (f *files) read(path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	mark, err := fileMark(path)
	if err != nil {
		return nil, err
	}
	if s, ok := f.seen[path]; ok && s.mark == mark {
		return s.content, nil
	}
	content, err := readWhole(path, f.dir)
	if err == nil {
		f.seen[path] = fileSeen{mark, content}
	}
	return content, err
}

// fileMark changes with the file, and with the log of a SQLite database.
func fileMark(path string) (mark string, err error) {
	for _, name := range []string{path, path + "-wal"} {
		info, err := os.Stat(name)
		switch {
		case err == nil:
			mark += fmt.Sprintf("%d %d\n", info.Size(), info.ModTime().UnixNano())
		case !errors.Is(err, os.ErrNotExist) || name == path:
			return "", err
		}
	}
	return mark, nil
}

// readWhole reads a file; of a SQLite database it takes a copy in which no
// transaction is half, whoever writes meanwhile.
func readWhole(path, dir string) (content []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 16)
	n, _ := file.Read(head)
	if err := file.Close(); err != nil {
		return nil, err
	}
	if !bytes.Equal(head[:n], []byte("SQLite format 3\x00")) {
		return os.ReadFile(path)
	}
	tmp, err := os.MkdirTemp(dir, ".copy-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}).String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	to := filepath.Join(tmp, "copy")
	if _, err := db.Exec("VACUUM INTO ?", to); err != nil {
		return nil, fmt.Errorf("copy of the database %s: %w", path, err)
	}
	return os.ReadFile(to)
}
