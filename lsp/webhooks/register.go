package webhooks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/webhooks/store/hookdb"
)

// Refusals that the spec has no code for.
var (
	errStranger  = errkind.New(errkind.Denied, "webhooks are for clients of this LSP: buy a channel, or agree on one, first")
	errFull      = errkind.New(errkind.Exhausted, "this LSP takes no more webhooks at the moment: try again later")
	errTooOften  = errkind.New(errkind.Exhausted, "your webhooks were changed too often: try again in an hour")
	errForbidden = errkind.New(errkind.Invalid, "the webhook leads into a private network, or to a port that is no web server's")
)

// registeredFor is how long a webhook is told that it was registered.
const registeredFor = 15 * time.Minute

// Set implements lsps5.Service.
func (s *Service) Set(ctx context.Context, client ln.PubKey, h lsps5.Hook) (lsps5.SetResult, error) {
	result := lsps5.SetResult{MaxWebhooks: s.cfg.PerClient}
	if a, is := h.Target.Address(); is && !s.opt.Sender.Allowed(a) || !h.Target.IsWebPort() {
		return result, errForbidden
	}
	known, err := s.opt.Clients.Known(ctx, client)
	if err != nil {
		return result, err
	}
	if !known {
		return result, errStranger
	}
	id, err := s.newID()
	if err != nil {
		return result, err
	}
	now := s.opt.Now()
	err = s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := hookdb.New(tx)
		result.NoChange = false
		count, err := q.CountHooks(ctx, client[:])
		if err != nil {
			return err
		}
		old, err := q.Hook(ctx, hookdb.HookParams{Client: client[:], AppName: []byte(h.AppName)})
		switch {
		case err == nil && old.Url == h.Target.URL:
			result.NumWebhooks, result.NoChange = int(count), true
			return q.KeepClient(ctx, hookdb.KeepClientParams{Client: client[:], KeptMs: now.UnixMilli()})
		case err == nil:
		case notFound(err):
			if err := s.roomForOne(ctx, q, count); err != nil {
				return err
			}
			count++
		default:
			return err
		}
		result.NumWebhooks = int(count)
		return s.put(ctx, q, id, client, h, now)
	})
	if err != nil {
		return result, err
	}
	s.mu.Lock()
	s.hooked[client] = true
	s.mu.Unlock()
	if !result.NoChange {
		s.log.Info("a webhook was registered", zap.Stringer("client", client), zap.String("host", h.Target.Host))
		s.wake()
	}
	return result, nil
}

// roomForOne: a webhook that replaces another needs none.
func (s *Service) roomForOne(ctx context.Context, q *hookdb.Queries, count int64) error {
	if count >= int64(s.cfg.PerClient) {
		return lsps5.TooManyWebhooks(s.cfg.PerClient)
	}
	all, err := q.CountAllHooks(ctx)
	if err != nil {
		return err
	}
	if all >= int64(s.cfg.All) {
		return errFull
	}
	return nil
}

// put stores a new webhook or a new URL, and that it is to be told.
func (s *Service) put(ctx context.Context, q *hookdb.Queries, id string, client ln.PubKey, h lsps5.Hook, now time.Time) error {
	made, err := q.CountMade(ctx, hookdb.CountMadeParams{
		Client: client[:], Method: lsps5.WebhookRegistered, MadeMs: now.Add(-time.Hour).UnixMilli(),
	})
	if err != nil {
		return err
	}
	if made >= int64(s.cfg.SetsPerHour) {
		return errTooOften
	}
	if err := q.PutHook(ctx, hookdb.PutHookParams{
		Client: client[:], AppName: []byte(h.AppName), Url: h.Target.URL, Form: string(lsps5.FormSpec), SetMs: now.UnixMilli(),
	}); err != nil {
		return err
	}
	if err := q.KeepClient(ctx, hookdb.KeepClientParams{Client: client[:], KeptMs: now.UnixMilli()}); err != nil {
		return err
	}
	// The URL that it was registered at is no longer called.
	if err := q.EndPending(ctx, hookdb.EndPendingParams{
		Client: client[:], AppName: []byte(h.AppName), State: StateDropped, Outcome: "the webhook was changed",
		NowMs: now.UnixMilli(), OneMethod: lsps5.WebhookRegistered,
	}); err != nil {
		return err
	}
	return q.InsertNotification(ctx, hookdb.InsertNotificationParams{
		ID: id, Client: client[:], AppName: []byte(h.AppName), Host: h.Target.Host, Method: lsps5.WebhookRegistered,
		Body: lsps5.Body(lsps5.WebhookRegistered), MadeMs: now.UnixMilli(), DueMs: now.UnixMilli(),
		UntilMs: now.Add(registeredFor).UnixMilli(), UpdatedMs: now.UnixMilli(),
	})
}

// List implements lsps5.Service.
func (s *Service) List(ctx context.Context, client ln.PubKey) (lsps5.ListResult, error) {
	result := lsps5.ListResult{MaxWebhooks: s.cfg.PerClient}
	var rows []hookdb.Webhook
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		rows, err = hookdb.New(tx).Hooks(ctx, client[:])
		return err
	})
	if err != nil {
		return result, fmt.Errorf("list webhooks: %w", err)
	}
	for _, r := range rows {
		result.AppNames = append(result.AppNames, string(r.AppName))
	}
	return result, nil
}

// Remove implements lsps5.Service.
func (s *Service) Remove(ctx context.Context, client ln.PubKey, appName string) error {
	now := s.opt.Now().UnixMilli()
	var left int64
	err := s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := hookdb.New(tx)
		n, err := q.DeleteHook(ctx, hookdb.DeleteHookParams{Client: client[:], AppName: []byte(appName)})
		if err != nil {
			return err
		}
		if n == 0 {
			return lsps5.AppNameNotFound()
		}
		if err := q.EndPending(ctx, hookdb.EndPendingParams{
			Client: client[:], AppName: []byte(appName), State: StateDropped, Outcome: "the webhook was removed", NowMs: now,
		}); err != nil {
			return err
		}
		left, err = q.CountHooks(ctx, client[:])
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if left == 0 {
		delete(s.hooked, client)
		delete(s.left, client)
	}
	return nil
}

// client is one that has, or had, webhooks.
type client struct {
	key   ln.PubKey
	kept  time.Time
	hooks int64
}

// clients reads them all, page by page.
func (s *Service) clients(ctx context.Context) ([]client, error) {
	const page = 500
	var out []client
	after := []byte{}
	for {
		var rows []hookdb.HookClientsRow
		err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			rows, err = hookdb.New(tx).HookClients(ctx, hookdb.HookClientsParams{Client: after, Most: page})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			key, err := ln.PubKeyFromBytes(r.Client)
			if err != nil {
				return nil, errors.Join(errors.New("a client's key is damaged"), err)
			}
			out = append(out, client{key: key, kept: time.UnixMilli(r.KeptMs), hooks: r.Hooks})
			after = r.Client
		}
		if len(rows) < page {
			return out, nil
		}
	}
}
