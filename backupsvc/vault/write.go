package vault

import (
	"crypto/sha256"
	"math"
	"unicode/utf8"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Limits of VSS.
const (
	MaxItems      = 1000
	MaxPage       = 100
	MaxStoreChars = 120
	MaxKeyChars   = 600
)

// Versions with a meaning of their own.
const (
	// Unconditional writes or deletes whatever version is there.
	Unconditional int64 = -1
	// Absent is the version of what does not exist: a put with it inserts only.
	Absent int64 = 0
	// FirstVersion is an object's version after an insert, and after every
	// unconditional put.
	FirstVersion int64 = 1
)

// GlobalVersionKey is the reserved key whose version is a store's global
// version. It is read like any key, and written through Write.GlobalVersion only.
const GlobalVersionKey = "global_version"

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// Item is one key in a write. Version is the one that the client knows.
type Item struct {
	Key     string
	Version int64
	Value   []byte
}

// Write is a set of changes in one store, done entirely or not at all.
type Write struct {
	Store string
	// GlobalVersion, if set, must be the store's present global version, and is
	// raised by one.
	GlobalVersion *int64
	Puts          []Item
	// Deletes have no value. One that does not exist, or has another version,
	// is a conflict.
	Deletes []Item
	// Idempotent skips a delete that would conflict instead, so that deleting
	// twice is no error (VSS, deleteObject).
	Idempotent bool
}

// Check validates what needs no state.
func (w Write) Check() error {
	if err := CheckStore(w.Store); err != nil {
		return err
	}
	if n := len(w.Puts) + len(w.Deletes); n > MaxItems {
		return errkind.Newf(errkind.Invalid, "A write may have %d items, this one has %d: split what need not change together.", MaxItems, n)
	}
	if w.GlobalVersion != nil {
		if err := checkVersion(*w.GlobalVersion); err != nil {
			return err
		}
	}
	seen := make(map[string]struct{}, len(w.Puts)+len(w.Deletes))
	for _, items := range [][]Item{w.Puts, w.Deletes} {
		for _, item := range items {
			if err := CheckKey(item.Key); err != nil {
				return err
			}
			if item.Key == GlobalVersionKey {
				return errkind.Newf(errkind.Invalid, "The key %q is the store's version: use the field global_version.", GlobalVersionKey)
			}
			if err := checkVersion(item.Version); err != nil {
				return err
			}
			// Which of two changes of one key comes last would be a guess.
			if _, twice := seen[item.Key]; twice {
				return errkind.New(errkind.Invalid, "A write names a key twice: each key may stand once, in puts or in deletes.")
			}
			seen[item.Key] = struct{}{}
		}
	}
	return nil
}

// Keys are the keys whose present state Decide needs.
func (w Write) Keys() []string {
	out := make([]string, 0, len(w.Puts)+len(w.Deletes)+1)
	for _, items := range [][]Item{w.Puts, w.Deletes} {
		for _, item := range items {
			out = append(out, item.Key)
		}
	}
	if w.GlobalVersion != nil {
		out = append(out, GlobalVersionKey)
	}
	return out
}

// puts are the puts in order, the global version's last.
func (w Write) puts() []Item {
	if w.GlobalVersion == nil {
		return w.Puts
	}
	return append(w.Puts[:len(w.Puts):len(w.Puts)], Item{Key: GlobalVersionKey, Version: *w.GlobalVersion})
}

// CheckStore validates a store's name. The empty name is a store as well.
func CheckStore(store string) error {
	if !utf8.ValidString(store) || utf8.RuneCountInString(store) > MaxStoreChars {
		return errkind.Newf(errkind.Invalid, "A store_id has at most %d characters.", MaxStoreChars)
	}
	return nil
}

// CheckKey validates a key.
func CheckKey(key string) error {
	if key == "" || !utf8.ValidString(key) || utf8.RuneCountInString(key) > MaxKeyChars {
		return errkind.Newf(errkind.Invalid, "A key has 1 to %d characters.", MaxKeyChars)
	}
	return nil
}

// CheckPrefix validates the beginning of keys; the empty one begins all.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(prefix)
}

func checkVersion(v int64) error {
	if v < Unconditional || v == math.MaxInt64 {
		return errkind.New(errkind.Invalid, "A version is -1 (whatever is there), 0 (nothing is there), or the present one.")
	}
	return nil
}
