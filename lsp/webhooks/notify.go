package webhooks

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/webhooks/store/hookdb"
)

// ErrNoWebhook says that a client has none.
var ErrNoWebhook = errkind.New(errkind.NotFound, "the wallet has no webhook")

// PaymentIncoming tells a client that is away that a payment waits for it, until
// it goes back to its payer.
func (s *Service) PaymentIncoming(ctx context.Context, client ln.PubKey, until time.Time) error {
	return s.notify(ctx, client, lsps5.PaymentIncoming, lsps5.Body(lsps5.PaymentIncoming), until)
}

// LiquidityManagementRequest tells a client that is away that the gateway takes back
// liquidity: of use until then.
func (s *Service) LiquidityManagementRequest(ctx context.Context, client ln.PubKey, until time.Time) error {
	return s.notify(ctx, client, lsps5.LiquidityManagementRequest, lsps5.Body(lsps5.LiquidityManagementRequest), until)
}

// notify writes down what the client's webhooks are to be told. Within the
// method's cooldown they are told at its end, if that is soon enough and the
// client has not come by then.
func (s *Service) notify(ctx context.Context, client ln.PubKey, method string, body []byte, until time.Time) error {
	s.mu.Lock()
	hooked, online, left := s.hooked[client], s.online[client], s.left[client]
	s.mu.Unlock()
	if !hooked {
		return ErrNoWebhook
	}
	if online {
		return nil // it learns over its connection
	}
	now := s.opt.Now()
	err := s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := hookdb.New(tx)
		hooks, err := q.Hooks(ctx, client[:])
		if err != nil || len(hooks) == 0 {
			return err
		}
		last := lsps5.Sent{}
		row, err := q.Cooldown(ctx, hookdb.CooldownParams{Client: client[:], Method: method})
		switch {
		case err == nil:
			last.At = time.UnixMilli(row.SentMs)
			if row.LiftedMs > 0 {
				last.Lifted = time.UnixMilli(row.LiftedMs)
			}
		case !notFound(err):
			return err
		}
		next := last
		// What is written down and has not gone out yet stands for this, too.
		if !last.At.After(now) {
			next = s.cfg.Cooldown.Next(now, last, left)
		}
		if !next.At.Before(until) {
			return nil
		}
		lifted := int64(0)
		if !next.Lifted.IsZero() {
			lifted = next.Lifted.UnixMilli()
		}
		if err := q.PutCooldown(ctx, hookdb.PutCooldownParams{
			Client: client[:], Method: method, SentMs: next.At.UnixMilli(), LiftedMs: lifted,
		}); err != nil {
			return err
		}
		for _, h := range hooks {
			if err := s.enqueue(ctx, q, h, method, body, next.At, until, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write down a notification: %w", err)
	}
	s.wake()
	return nil
}

// enqueue writes one notification down, unless the same one waits already.
func (s *Service) enqueue(ctx context.Context, q *hookdb.Queries, h hookdb.Webhook, method string, body []byte, due, until, now time.Time) error {
	n, err := q.ExtendWaiting(ctx, hookdb.ExtendWaitingParams{
		Client: h.Client, AppName: h.AppName, Method: method, Body: body, UntilMs: until.UnixMilli(), NowMs: now.UnixMilli(),
	})
	if err != nil || n > 0 {
		return err
	}
	target, refused := lsps5.ParseTarget(h.Url)
	if refused != nil {
		return nil //nolint:nilerr // an older version took it: there is nothing to call
	}
	id, err := s.newID()
	if err != nil {
		return err
	}
	return q.InsertNotification(ctx, hookdb.InsertNotificationParams{
		ID: id, Client: h.Client, AppName: h.AppName, Host: target.Host, Method: method, Body: body, MadeMs: due.UnixMilli(), DueMs: due.UnixMilli(),
		UntilMs: until.UnixMilli(), UpdatedMs: now.UnixMilli(),
	})
}
