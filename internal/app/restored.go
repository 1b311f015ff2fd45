package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	interceptorengine "github.com/sluice-lsp/sluice/interceptor/engine"
	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
)

// recogniseRestore finds out whether the database was restored from an older
// dump. Then held payments are only resumed, never failed, until lnd has been
// asked about each.
//
// Processes that share a database may each run one service, and each has a file
// of its own. Whoever recognises the copy says so in the database, for all: a
// service that knows of nothing could neither find out by itself, nor be spared
// by another that has accepted the copy for its own part.
func (d *Daemon) recogniseRestore(ctx context.Context) error {
	gen, err := store.CheckGeneration(ctx, d.db, d.path(fileGeneration))
	if restored := (*store.RestoredError)(nil); errors.As(err, &restored) && restored.Kind == store.RestoreNoFile {
		used, usedErr := d.inUse(ctx)
		if usedErr != nil {
			return usedErr
		}
		if used {
			d.log.Info("joins a database that another sluiced is using")
			gen, err = store.Join(ctx, d.db, d.path(fileGeneration))
		}
	}
	if errors.Is(err, store.ErrRestored) {
		gen, err = d.markRestored(ctx, err.Error())
	}
	if err != nil {
		return err
	}
	d.fileID = gen.FileID
	return d.distrust(ctx)
}

// markRestored says in the database, for all services, that it is an older copy.
func (d *Daemon) markRestored(ctx context.Context, reason string) (store.Generation, error) {
	d.log.Error("the database is an older copy: nothing that may have been decided since is decided anew until lnd was asked", zap.String("because", reason))
	gen, err := store.MarkRestored(ctx, d.db, d.path(fileGeneration), reason, serviceInterceptor, lspapi.Name, backupsapi.Name, towerapi.Name)
	return gen, err
}

// distrust reads which services of this process have not reconciled the database.
func (d *Daemon) distrust(ctx context.Context) error {
	roles, err := store.RestoredRoles(ctx, d.db)
	if err != nil {
		return err
	}
	d.marks = make(map[string]time.Time, len(roles))
	names := make([]string, 0, len(roles))
	for _, r := range roles {
		names = append(names, r.Role)
		d.marks[r.Role] = r.Since
	}
	if len(roles) == 0 {
		return nil
	}
	marked, err := ParseRoles(names)
	if err != nil {
		return err
	}
	before := d.restored
	d.restored = Roles{
		Interceptor: marked.Interceptor && d.roles.Interceptor, LSP: marked.LSP && d.roles.LSP, Backups: marked.Backups && d.roles.Backups,
		Watchtower: marked.Watchtower && d.roles.Watchtower,
	}
	d.restoredWhy = ""
	for _, r := range roles {
		// Of a mark that an earlier version left the reason is not known.
		if role, err := ParseRoles([]string{r.Role}); err == nil && d.restored.has(role) {
			d.restoredWhy = cmp.Or(d.restoredWhy, r.Reason, "see the log of the start that found it")
		}
	}
	if d.restored != before {
		d.log.Warn("the database was restored, and these services have not reconciled it yet", zap.Any("services", d.restored), zap.String("because", d.restoredWhy))
	}
	return nil
}

// askLnd finds out whether lnd knows more than the database: then that is an older copy
// that the file did not betray, since both were put back (a snapshot of the disk), or
// since it was made after the file's last raise. It comes before anything is decided,
// and waits for lnd to answer.
func (d *Daemon) askLnd(ctx context.Context) error {
	if !d.roles.Interceptor && !d.roles.LSP && !d.roles.Backups {
		return nil // a watchtower's macaroon may not ask, and swaps look after themselves
	}
	const shown = 5
	for {
		found, marks, err := d.lookBeyond(ctx)
		if err == nil && len(found) > 0 {
			text := strings.Join(found[:min(shown, len(found))], "; ")
			if len(found) > shown {
				text += fmt.Sprintf("; and %d more", len(found)-shown)
			}
			if _, err = d.markRestored(ctx, text); err == nil {
				err = d.distrust(ctx)
			}
		}
		if err == nil {
			// Marked first: a crash in between finds the same again.
			err = d.putMarks(ctx, marks)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		d.log.Warn("lnd could not be asked yet whether the database is an older copy: nothing is decided before", zap.Error(err))
		d.state("waiting for what lnd knows that the database may not")
		_ = pace.Pause(ctx, time.Second)
	}
}

// lookBeyond compares lnd with what this database answers for. Services apart may have
// another one; marks show that the one that opens channels uses this.
func (d *Daemon) lookBeyond(ctx context.Context) (found []string, marks map[string]int64, err error) {
	marks = make(map[string]int64)
	seen, err := store.NodeMarks(ctx, d.db)
	if err != nil {
		return nil, nil, err
	}
	if d.roles.LSP || len(seen) > 0 {
		if marks, err = d.newestMarks(ctx); err != nil {
			return nil, nil, err
		}
		beyond, err := lspengine.LookBeyond(ctx, d.db, d.lnd, seen)
		if err != nil {
			return nil, nil, err
		}
		for name, position := range beyond.Marks {
			marks[name] = position
		}
		found = beyond.Found
	}
	if d.roles.Interceptor {
		rows, err := interceptorengine.LookBeyond(ctx, interceptorstore.New(d.db, leaseGateway), d.lnd, d.lnd)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, rows...)
	}
	return found, marks, nil
}

// newestMarks are lnd's indexes as they stand.
func (d *Daemon) newestMarks(ctx context.Context) (map[string]int64, error) {
	invoices, payments, err := d.lnd.NewestIndexes(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]int64{lspengine.MarkInvoices: int64(invoices), lspengine.MarkPayments: int64(payments)}, nil //nolint:gosec // counts
}

// putMarks writes what has changed.
func (d *Daemon) putMarks(ctx context.Context, marks map[string]int64) error {
	seen, err := store.NodeMarks(ctx, d.db)
	if err != nil {
		return err
	}
	maps.DeleteFunc(marks, func(name string, position int64) bool {
		before, known := seen[name]
		return known && before == position
	})
	if len(marks) == 0 {
		return nil
	}
	return store.PutNodeMarks(ctx, d.db, marks)
}

// keepMarks notes every minute how far lnd's records have come, so that the next start
// has little to read. Whatever of it is ours is on record: rows are committed first.
func (d *Daemon) keepMarks(ctx context.Context) {
	for pace.Pause(ctx, advanceEvery) == nil {
		marks, err := d.newestMarks(ctx)
		if err == nil {
			err = d.putMarks(ctx, marks)
		}
		if err != nil && ctx.Err() == nil {
			d.log.Debug("how far lnd's records have come could not be noted", zap.Error(err))
		}
	}
}

// inUse finds out whether a machine without a generation file is a new replica:
// a database whose leases are being renewed by another is in use, and so is not
// an older copy of what is in use. Without this every new standby would resume,
// at its first take-over, what it ought to go on holding.
func (d *Daemon) inUse(ctx context.Context) (bool, error) {
	if d.db.Engine() != store.Postgres {
		return false, nil
	}
	renewed := func(seen map[string]store.LeaseInfo) (bool, error) {
		for _, name := range []string{leaseGateway, leaseServices, leaseSwaps, leaseTower} {
			info, err := d.db.LeaseInfo(ctx, name)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return false, err
			}
			before, known := seen[name]
			if known && info.Owner != "" && info.Expires.After(before.Expires) {
				return true, nil
			}
			seen[name] = info
		}
		return false, nil
	}
	seen := map[string]store.LeaseInfo{}
	end := time.After(d.cfg.Interceptor.LeaseFor.Std())
	for {
		used, err := renewed(seen)
		if err != nil {
			return false, err
		}
		if used {
			return true, nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-end:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// acceptRestore records that a service has reconciled a restored database.
func (d *Daemon) acceptRestore(ctx context.Context, service string) error {
	if err := store.AcceptRestore(ctx, d.db, service, d.marks[service]); err != nil {
		return err
	}
	d.log.Warn("the restored database was reconciled with lnd: trusted from the next start on", zap.String("service", service))
	return nil
}

// acceptHeld accepts a restored database for the interceptor: once nothing is
// held any more that the copy knew. Until then another start must not take
// for held what may have been resumed since.
func (d *Daemon) acceptHeld(ctx context.Context) {
	for {
		if left, known := d.hold.Distrusted(); known && left == 0 {
			err := d.acceptRestore(ctx, serviceInterceptor)
			if err == nil {
				return
			}
			d.log.Warn("the restored database could not be accepted; trying again", zap.Error(err))
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}
