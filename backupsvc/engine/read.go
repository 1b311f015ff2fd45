package engine

import (
	"context"
	"errors"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Get reads the present value of a key.
func (e *Engine) Get(ctx context.Context, id vault.Identity, storeID, key string) (backups.Object, error) {
	if err := e.admit(id); err != nil {
		return backups.Object{}, err
	}
	obj, _, err := e.store.Get(ctx, id, storeID, key)
	return obj, explain(err)
}

// GetProven is Get with the log's head of the same moment, signed over the
// caller's nonce.
func (e *Engine) GetProven(ctx context.Context, id vault.Identity, storeID, key string, nonce []byte) (backups.Object, vault.SignedHead, error) {
	if err := e.admit(id); err != nil {
		return backups.Object{}, vault.SignedHead{}, err
	}
	obj, acc, err := e.store.Get(ctx, id, storeID, key)
	if err != nil {
		return obj, vault.SignedHead{}, explain(err)
	}
	head, err := e.o.Signer.Head(acc, e.o.Epoch, e.o.Now(), nonce)
	return obj, head, err
}

// List lists keys (see backups.Store.List).
func (e *Engine) List(ctx context.Context, id vault.Identity, storeID, prefix string, before uint64, limit int) (backups.Page, error) {
	if err := e.admit(id); err != nil {
		return backups.Page{}, err
	}
	page, err := e.store.List(ctx, id, storeID, prefix, before, limit)
	return page, explain(err)
}

// Head signs where an identity's log stands, also that it is empty.
func (e *Engine) Head(ctx context.Context, id vault.Identity, nonce []byte) (vault.SignedHead, error) {
	if err := e.admit(id); err != nil {
		return vault.SignedHead{}, err
	}
	acc, err := e.store.Account(ctx, id)
	if err != nil {
		return vault.SignedHead{}, explain(err)
	}
	return e.o.Signer.Head(acc, e.o.Epoch, e.o.Now(), nonce)
}

// Account is an identity's usage and limits.
func (e *Engine) Account(ctx context.Context, id vault.Identity) (vault.Account, error) {
	if err := e.admit(id); err != nil {
		return vault.Account{}, err
	}
	acc, err := e.store.Account(ctx, id)
	acc.Usage = acc.On(e.o.Now())
	return acc, explain(err)
}

// Entries reads an identity's log.
func (e *Engine) Entries(ctx context.Context, id vault.Identity, after uint64, limit int) ([]vault.Entry, error) {
	if err := e.admit(id); err != nil {
		return nil, err
	}
	entries, err := e.store.Entries(ctx, id, after, limit)
	return entries, explain(err)
}

// watchPage is how many entries are told at once.
const watchPage = 100

// Watch tells an identity's entries after a number, those that are there and
// those to come, until ctx ends. tell is called again and again, in order.
func (e *Engine) Watch(ctx context.Context, id vault.Identity, after uint64, tell func([]vault.Entry) error) error {
	if err := e.admit(id); err != nil {
		return err
	}
	acc, err := e.store.Account(ctx, id)
	if err != nil {
		return explain(err)
	}
	if after > acc.Seq {
		// Whoever knows more than the log has must hear it, not wait for it.
		return errkind.Newf(errkind.Conflict, "The log ends at entry %d: this server has lost what came after. Store it anew.", acc.Seq)
	}
	// Listening comes before looking, so that nothing falls in between.
	changed := e.o.DB.Listen(ctx, backups.Topic(id))
	for {
		entries, err := e.store.Entries(ctx, id, after, watchPage)
		if err != nil {
			return explain(err)
		}
		if len(entries) > 0 {
			if err := tell(entries); err != nil {
				return err
			}
			after = entries[len(entries)-1].Seq
			continue
		}
		if _, open := <-changed; !open {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errkind.New(errkind.Unavailable, "The service is stopping: watch again in a moment.")
		}
	}
}

// Export tells every value that is kept, past ones too, after an entry and in
// the log's order.
func (e *Engine) Export(ctx context.Context, id vault.Identity, after uint64, tell func(backups.Kept) error) error {
	if err := e.admit(id); err != nil {
		return err
	}
	for {
		kept, err := e.store.NextKept(ctx, id, after)
		if err != nil {
			return explain(err)
		}
		if kept == nil {
			return nil
		}
		if err := errors.Join(ctx.Err(), tell(*kept)); err != nil {
			return err
		}
		after = kept.Entry.Seq
	}
}

// Identities lists identities for the operator.
func (e *Engine) Identities(ctx context.Context, after string, limit int) ([]backups.Tenancy, error) {
	list, err := e.store.Identities(ctx, after, limit)
	for i := range list {
		list[i].Usage = list[i].On(e.o.Now())
	}
	return list, explain(err)
}

// Tenancy shows one identity to the operator.
func (e *Engine) Tenancy(ctx context.Context, id vault.Identity) (backups.Tenancy, []backups.StoreUsage, error) {
	t, stores, err := e.store.Tenancy(ctx, id)
	t.Usage = t.On(e.o.Now())
	return t, stores, explain(err)
}

// SetLimits sets an identity's own limits.
func (e *Engine) SetLimits(ctx context.Context, id vault.Identity, own vault.Quota, blocked bool) error {
	if err := errors.Join(own.CheckOwn(), e.o.Config.Quota.With(own).Check()); err != nil {
		return errkind.Newf(errkind.Invalid, "These limits cannot work: %w", err)
	}
	return explain(e.store.SetLimits(ctx, id, own, blocked))
}
