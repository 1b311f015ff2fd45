package webhooks

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/webhooks/store/hookdb"
)

// sweepEvery is how often is looked who has a channel.
const sweepEvery = time.Hour

func (s *Service) sweepOften(ctx context.Context) {
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("old webhooks were not looked for; tried again later", zap.Error(err))
		}
		select {
		case <-time.After(sweepEvery):
		case <-ctx.Done():
			return
		}
	}
}

// sweep forgets webhooks that nothing has kept for long enough, and what of the
// ledger is old.
//
// A client that has a channel is kept as of now. When the last one closed is
// not asked: it was there at the last sweep. So time in which nobody swept
// counts for no client, or one whose channel closed just before the gateway
// came back would lose its webhooks at once.
func (s *Service) sweep(ctx context.Context) error {
	having, err := s.withChannels(ctx)
	if err != nil {
		return err
	}
	now := s.opt.Now()
	if err := s.countAbsence(ctx, now); err != nil {
		return err
	}
	clients, err := s.clients(ctx)
	if err != nil {
		return err
	}
	forgotten := 0
	for _, c := range clients {
		switch {
		case having[c.key]:
			err = s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
				return hookdb.New(tx).KeepClient(ctx, hookdb.KeepClientParams{Client: c.key[:], KeptMs: now.UnixMilli()})
			})
		case now.Sub(c.kept) > s.cfg.Retain:
			err = s.forget(ctx, c.key)
			forgotten++
		}
		if err != nil {
			return err
		}
	}
	if forgotten > 0 {
		s.log.Info("webhooks of clients without a channel forgotten", zap.Int("clients", forgotten))
	}
	return s.prune(ctx, now)
}

// countAbsence moves all clients' clocks by the time in which nobody swept.
func (s *Service) countAbsence(ctx context.Context, now time.Time) error {
	return s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := hookdb.New(tx)
		swept, err := q.Swept(ctx)
		if err != nil && !notFound(err) {
			return err
		}
		if err == nil {
			if gap := now.Sub(time.UnixMilli(swept)) - sweepEvery; gap > sweepEvery {
				if err := q.KeepAllLonger(ctx, gap.Milliseconds()); err != nil {
					return err
				}
			}
		}
		return q.PutSwept(ctx, now.UnixMilli())
	})
}

func (s *Service) withChannels(ctx context.Context) (map[ln.PubKey]bool, error) {
	open, err := s.opt.Node.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	pending, err := s.opt.Node.PendingChannels(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[ln.PubKey]bool, len(open)+len(pending))
	for _, c := range open {
		out[c.Peer] = true
	}
	for _, c := range pending {
		out[c.Peer] = true
	}
	return out, nil
}

func (s *Service) forget(ctx context.Context, key ln.PubKey) error {
	err := s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := hookdb.New(tx)
		if _, err := q.DeleteHooks(ctx, key[:]); err != nil {
			return err
		}
		if err := q.DeleteCooldowns(ctx, key[:]); err != nil {
			return err
		}
		return q.DeleteClient(ctx, key[:])
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hooked, key)
	delete(s.left, key)
	return nil
}

// prune deletes old outcomes, a page per transaction.
func (s *Service) prune(ctx context.Context, now time.Time) error {
	for {
		var n int64
		err := s.write(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			n, err = hookdb.New(tx).DeleteOld(ctx, hookdb.DeleteOldParams{BeforeMs: now.Add(-s.cfg.KeepLedger).UnixMilli(), Most: page})
			return err
		})
		if err != nil || n < page {
			return err
		}
	}
}
