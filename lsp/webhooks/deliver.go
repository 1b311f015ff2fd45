package webhooks

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/webhooks/store/hookdb"
)

// The states of a notification.
const (
	StatePending   = "pending"
	StateDelivered = "delivered"
	// StateFailed: no more attempts are made.
	StateFailed = "failed"
	// StateNeedless: the client came before it was told.
	StateNeedless = "needless"
	// StateDropped: the webhook was changed or removed.
	StateDropped = "dropped"
)

const (
	// retryAfter is the pause when the database or lnd is away.
	retryAfter = time.Second
	page       = 200
)

// deliver calls webhooks until ctx ends: first when it is known who is
// connected, then whenever something becomes due.
func (s *Service) deliver(ctx context.Context) {
	select {
	case <-s.peersKnown:
	case <-ctx.Done():
		return
	}
	for {
		next, err := s.dispatch(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("the ledger of notifications could not be read; trying again", zap.Error(err))
		}
		var due <-chan time.Time
		if err != nil {
			due = time.After(retryAfter)
		} else if !next.IsZero() {
			due = time.After(next.Sub(s.opt.Now()))
		}
		select {
		case <-s.poke:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// dispatch begins a call for everything that is due and has its turn, and tells
// when more will be. Of one webhook one thing is told at a time, in the order of
// the ledger: so it hears first that it was registered. All that is due is
// looked through: what waits for a slow host holds up no other.
func (s *Service) dispatch(ctx context.Context) (next time.Time, err error) {
	now, after := s.opt.Now().UnixMilli(), ""
	for {
		var due []hookdb.WebhookNotification
		var later int64
		err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			q := hookdb.New(tx)
			if due, err = q.Due(ctx, hookdb.DueParams{NowMs: now, AfterID: after, Most: page}); err != nil {
				return err
			}
			later, err = q.NextDue(ctx, now)
			return err
		})
		if err != nil {
			return time.Time{}, err
		}
		if later > 0 {
			next = time.UnixMilli(later)
		}
		for _, n := range due {
			after = n.ID
			client, err := ln.PubKeyFromBytes(n.Client)
			if err != nil {
				return time.Time{}, fmt.Errorf("notification %s: %w", n.ID, err)
			}
			key := hookKey{client, string(n.AppName)}
			if !s.begin(key, n.Host) {
				continue
			}
			s.wg.Go(func() {
				s.end(key, n.Host, s.attempt(ctx, key, n))
			})
		}
		if len(due) < page || s.busy() {
			return next, nil // whoever has its turn now pokes at its end
		}
	}
}

// begin takes a webhook's turn: a host that is slow has its share of the calls,
// not all of them.
func (s *Service) begin(key hookKey, host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calling[key] || len(s.calling) >= s.cfg.Parallel || s.perHost[host] >= s.cfg.PerHost {
		return false
	}
	s.calling[key] = true
	s.perHost[host]++
	return true
}

func (s *Service) end(key hookKey, host string, recorded bool) {
	s.mu.Lock()
	delete(s.calling, key)
	if s.perHost[host]--; s.perHost[host] <= 0 {
		delete(s.perHost, host)
	}
	s.mu.Unlock()
	if recorded {
		s.wake()
		return
	}
	// It is due still.
	time.AfterFunc(retryAfter, s.wake)
}

func (s *Service) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calling) >= s.cfg.Parallel
}

// outcome is what an attempt came to.
type outcome struct {
	state, text, host string
	attempts          int64
	due               time.Time
	// form is what the webhook is to be told in from now on; "" leaves it.
	form lsps5.Form
}

// attempt tells one webhook one thing and writes down how it went. A process
// that dies in between tells it again.
func (s *Service) attempt(ctx context.Context, key hookKey, n hookdb.WebhookNotification) (recorded bool) {
	hook, found, err := s.hook(ctx, key)
	if err != nil {
		return false
	}
	o := outcome{state: n.State, attempts: n.Attempts, host: n.Host, due: s.opt.Now()}
	switch now := s.opt.Now(); {
	case !found:
		o.state, o.text = StateDropped, "the webhook was removed"
	case n.Method != lsps5.WebhookRegistered && s.isOnline(key.client):
		o.state, o.text = StateNeedless, "the client came"
	case now.UnixMilli() >= n.UntilMs:
		o.state, o.text = StateFailed, "it was too late"
	default:
		target, refused := lsps5.ParseTarget(hook.Url)
		if refused != nil {
			o.state, o.text = StateFailed, "the URL is not supported any more"
			break
		}
		o.host = target.Host
		o = s.call(ctx, key, n, hook, target, o)
		if ctx.Err() != nil {
			return false // cut off: it is told again
		}
	}
	return s.record(ctx, key, n, o)
}

// call makes one attempt.
func (s *Service) call(
	ctx context.Context, key hookKey, n hookdb.WebhookNotification, hook hookdb.Webhook, target lsps5.Target, o outcome,
) outcome {
	form := lsps5.Form(hook.Form)
	status, err := s.post(ctx, target, form, time.UnixMilli(n.MadeMs), n.Body)
	now := s.opt.Now()
	o.attempts++
	log := s.log.With(zap.Stringer("client", key.client), zap.String("host", target.Host), zap.String("method", n.Method), zap.Int64("attempt", o.attempts))
	switch {
	case err == nil && status == http.StatusOK:
		o.state, o.text = StateDelivered, "200"
		log.Info("a webhook was told")
		return o
	case err == nil:
		o.text = fmt.Sprintf("status %d", status)
		// It answered, and may not know the timestamp's form.
		if status >= 400 && status < 500 {
			o.form = form.Other()
		}
	default:
		o.text = err.Error()
	}
	pause := lsps5.Backoff(int(o.attempts))
	o.due = now.Add(pause + s.jitter(pause))
	if pause == 0 || o.due.UnixMilli() >= n.UntilMs {
		o.state = StateFailed
	}
	log.Info("a webhook could not be told", zap.String("outcome", o.text), zap.Bool("again", o.state == StatePending))
	return o
}

func (s *Service) post(ctx context.Context, target lsps5.Target, form lsps5.Form, made time.Time, body []byte) (int, error) {
	timestamp := form.Timestamp(made)
	signature, err := s.opt.Signer.SignMessage(ctx, lsps5.SigningText(timestamp, body))
	if err != nil {
		return 0, fmt.Errorf("sign a notification: %w", err)
	}
	header := http.Header{}
	header.Set(lsps5.HeaderTimestamp, timestamp)
	header.Set(lsps5.HeaderSignature, signature)
	return s.opt.Sender.Post(ctx, target, header, body)
}

// jitter spreads the attempts at a service that is down: up to a fifth.
func (s *Service) jitter(d time.Duration) time.Duration {
	var b [8]byte
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.ReadFull(s.opt.Random, b[:]); err != nil {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(d/5+1)) //nolint:gosec // not negative, and less than d
}

func (s *Service) hook(ctx context.Context, key hookKey) (hook hookdb.Webhook, found bool, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		hook, err = hookdb.New(tx).Hook(ctx, hookdb.HookParams{Client: key.client[:], AppName: []byte(key.name)})
		return err
	})
	if notFound(err) {
		return hook, false, nil
	}
	return hook, err == nil, err
}

// maxOutcome bounds what the ledger keeps of an error.
const maxOutcome = 200

func (s *Service) record(ctx context.Context, key hookKey, n hookdb.WebhookNotification, o outcome) bool {
	now := s.opt.Now()
	o.text = ln.Clip(o.text, maxOutcome)
	err := s.write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := hookdb.New(tx)
		if _, err := q.RecordAttempt(ctx, hookdb.RecordAttemptParams{
			ID: n.ID, Attempts: o.attempts, State: o.state, Outcome: o.text, DueMs: o.due.UnixMilli(), Host: o.host, UpdatedMs: now.UnixMilli(),
		}); err != nil {
			return err
		}
		if o.form == "" {
			return nil
		}
		return q.SetForm(ctx, hookdb.SetFormParams{Client: key.client[:], AppName: []byte(key.name), Form: string(o.form)})
	})
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("the outcome of a notification could not be stored: it is sent again", zap.String("id", n.ID), zap.Error(err))
		}
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.count(o, n.Attempts)
	return true
}
