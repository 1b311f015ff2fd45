package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// keyring holds the promise keys. The database has them; every replica reads
// them often enough to sign with none that another would not know.
type keyring struct {
	db     *store.DB
	fence  func(ctx context.Context, tx *store.Tx) error
	every  time.Duration
	now    func() time.Time
	random io.Reader
	log    *zap.Logger

	mu       sync.Mutex
	keys     []lsp.PromiseKey
	promiser *lsp.Promiser
	read     time.Time
}

// staleKeys is how long ago the keys may have been read when something is
// promised: within the time that a new key waits before it signs.
const staleKeys = 3 * lsp.KeyRefresh

// errNoKeys answers while the keys cannot be read.
var errNoKeys = errkind.New(errkind.Unavailable, "the gateway cannot make offers at the moment: try again shortly")

// run reads the keys, and rotates them when that is due, until ctx ends.
func (k *keyring) run(ctx context.Context, spawn func(func())) {
	spawn(func() {
		ticker := time.NewTicker(lsp.KeyRefresh)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if err := k.refresh(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn("the promise keys could not be read; trying again in a minute", zap.Error(err))
			}
		}
	})
}

// refresh reads the keys, makes the next one when it is due, and deletes those
// that nothing valid was promised under.
func (k *keyring) refresh(ctx context.Context) error {
	now := k.now().UTC()
	var keys []lsp.PromiseKey
	err := k.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		keys, err = readKeys(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("read the promise keys: %w", err)
	}
	if r := lsp.Rotate(keys, k.every, now); r.Make || len(r.Drop) > 0 {
		if keys, err = k.rotate(ctx, now); err != nil {
			return fmt.Errorf("rotate the promise keys: %w", err)
		}
	}
	promiser, err := lsp.NewPromiserAt(keys, now)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// Of two that read at once the later picture counts.
	if !now.Before(k.read) {
		k.keys, k.promiser, k.read = keys, promiser, now
	}
	return nil
}

// rotate decides again inside its transaction: of two replicas that find a key
// due, one makes it and the other finds it.
func (k *keyring) rotate(ctx context.Context, now time.Time) ([]lsp.PromiseKey, error) {
	fresh := make([]byte, 32)
	if _, err := io.ReadFull(k.random, fresh); err != nil {
		return nil, fmt.Errorf("draw a promise key: %w", err)
	}
	var keys []lsp.PromiseKey
	var r lsp.Rotation
	err := k.db.WriteFenced(ctx, k.fence, func(ctx context.Context, tx *store.Tx) error {
		var err error
		if keys, err = readKeys(ctx, tx); err != nil {
			return err
		}
		r = lsp.Rotate(keys, k.every, now)
		q := lspdb.New(tx)
		if r.Make {
			if _, err := q.InsertPromiseKey(ctx, lspdb.InsertPromiseKeyParams{
				Version: int64(r.Version), Secret: fresh, MadeMs: now.UnixMilli(), SignsFromMs: r.SignsFrom.UnixMilli(),
			}); err != nil {
				return err
			}
		}
		for _, version := range r.Drop {
			if err := q.DeletePromiseKey(ctx, int64(version)); err != nil {
				return err
			}
		}
		keys, err = readKeys(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.Make {
		k.log.Info("made a new key for promises", zap.Uint32("version", r.Version), zap.Time("signs_from", r.SignsFrom))
	}
	for _, version := range r.Drop {
		k.log.Info("deleted an old key for promises: nothing valid was promised under it", zap.Uint32("version", version))
	}
	return keys, nil
}

func readKeys(ctx context.Context, tx *store.Tx) ([]lsp.PromiseKey, error) {
	rows, err := lspdb.New(tx).PromiseKeys(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]lsp.PromiseKey, 0, len(rows))
	for _, r := range rows {
		key := lsp.PromiseKey{
			Version: uint32(r.Version), //nolint:gosec // stored from a uint32
			Made:    time.UnixMilli(r.MadeMs).UTC(), SignsFrom: time.UnixMilli(r.SignsFromMs).UTC(),
		}
		if len(r.Secret) != len(key.Secret) {
			return nil, fmt.Errorf("promise key %d is damaged: it has %d bytes", r.Version, len(r.Secret))
		}
		copy(key.Secret[:], r.Secret)
		keys = append(keys, key)
	}
	return keys, nil
}

// current gives the keys as they were read, reading them again if that was
// longer ago than the caller can bear.
func (k *keyring) current(ctx context.Context, bear time.Duration) (*lsp.Promiser, error) {
	k.mu.Lock()
	promiser, age := k.promiser, k.now().Sub(k.read)
	k.mu.Unlock()
	if promiser != nil && age <= bear {
		return promiser, nil
	}
	if err := k.refresh(ctx); err != nil {
		return nil, errkind.Wrap(errkind.Unavailable, err, errkind.Sentence(errNoKeys))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.promiser, nil
}

// promise makes an offer of each item for the client.
func (k *keyring) promise(ctx context.Context, client ln.PubKey, items []lsp.OpeningFeeParams) ([]lsp.OpeningFeeParams, error) {
	promiser, err := k.current(ctx, staleKeys)
	if err != nil {
		return nil, err
	}
	out := make([]lsp.OpeningFeeParams, 0, len(items))
	for _, item := range items {
		out = append(out, promiser.Promise(client, item))
	}
	return out, nil
}

// verify says whether these parameters were promised to the client. A key that
// is not known is looked for once more: another replica may have made it.
func (k *keyring) verify(ctx context.Context, client ln.PubKey, params lsp.OpeningFeeParams) error {
	promiser, err := k.current(ctx, staleKeys)
	if err != nil {
		return err
	}
	err = promiser.Verify(client, params)
	if !errors.Is(err, lsp.ErrPromiseOldKey) {
		return err
	}
	if promiser, err = k.current(ctx, time.Second); err != nil {
		return err
	}
	return promiser.Verify(client, params)
}

// KeyStatus is one promise key as the operator sees it.
type KeyStatus struct {
	Version         uint32
	Made, SignsFrom time.Time
	Age             time.Duration
	// Signs says that new offers are promised under it.
	Signs bool
}

func (k *keyring) status() []KeyStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]KeyStatus, 0, len(k.keys))
	for _, key := range k.keys {
		out = append(out, KeyStatus{
			Version: key.Version, Made: key.Made, SignsFrom: key.SignsFrom, Age: max(0, k.now().Sub(key.Made)), Signs: k.promiser.Version() == key.Version,
		})
	}
	return out
}
