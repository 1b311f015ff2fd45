package webhooks

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/webhooks/store/hookdb"
)

// Notification is a row of the ledger. It has no URL: that may be a secret of
// the client's.
type Notification struct {
	ID             string
	Client         ln.PubKey
	AppName        string
	Host, Method   string
	State, Outcome string
	Attempts       int
	// Made is the time that it is signed with, Due when it is tried next.
	Made, Due, Updated time.Time
}

// lastID sorts behind every id.
const lastID = "~"

// Notifications lists the ledger, newest first: that of one client unless the
// key is zero, and only what is older than an id unless that is empty.
func (s *Service) Notifications(ctx context.Context, client ln.PubKey, beforeID string, limit int) ([]Notification, error) {
	p := hookdb.FindNotificationsParams{BeforeID: beforeID, Client: client[:], Most: int32(min(max(limit, 1), 500))} //nolint:gosec // bounded here
	if beforeID == "" {
		p.BeforeID = lastID
	}
	if !client.IsZero() {
		p.OneClient = 1
	}
	var rows []hookdb.WebhookNotification
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		rows, err = hookdb.New(tx).FindNotifications(ctx, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list notifications: %w", err)
	}
	out := make([]Notification, 0, len(rows))
	for _, r := range rows {
		key, err := ln.PubKeyFromBytes(r.Client)
		if err != nil {
			return nil, fmt.Errorf("notification %s: %w", r.ID, err)
		}
		out = append(out, Notification{
			ID: r.ID, Client: key, AppName: string(r.AppName), Host: r.Host, Method: r.Method, State: r.State, Outcome: r.Outcome,
			Attempts: int(r.Attempts), Made: time.UnixMilli(r.MadeMs), Due: time.UnixMilli(r.DueMs), Updated: time.UnixMilli(r.UpdatedMs),
		})
	}
	return out, nil
}

// mostCalls is how far back LastCalls looks: far more than the webhooks that one
// client may have.
const mostCalls = 100

// LastCalls are the latest notifications of incoming payments, one for each webhook of
// a client: those that changed since a moment, or are still to be sent.
func (s *Service) LastCalls(ctx context.Context, client ln.PubKey, since time.Time) ([]Notification, error) {
	list, err := s.Notifications(ctx, client, "", mostCalls)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []Notification
	for _, n := range list {
		if n.Method != lsps5.PaymentIncoming || seen[n.AppName] {
			continue
		}
		seen[n.AppName] = true
		if n.State == StatePending || !n.Updated.Before(since) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Notification) int { return cmp.Compare(a.AppName, b.AppName) })
	return out, nil
}

// Text says what became of a notification, for people.
func (n Notification) Text(now time.Time) string {
	at := n.Host
	if n.AppName != "" {
		at = strings.ToValidUTF8(n.AppName, "?") + " at " + at
	}
	clock := func(t time.Time) string { return t.UTC().Format(time.TimeOnly) }
	switch {
	case n.State == StateDelivered:
		return fmt.Sprintf("%s: told at %s", at, clock(n.Updated))
	case n.State == StateFailed:
		return fmt.Sprintf("%s: given up after %d calls: %s", at, n.Attempts, n.Outcome)
	case n.State == StateNeedless, n.State == StateDropped:
		return fmt.Sprintf("%s: not called: %s", at, n.Outcome)
	case n.Attempts > 0:
		return fmt.Sprintf("%s: call %d failed: %s; again at %s", at, n.Attempts, n.Outcome, clock(n.Due))
	case n.Due.After(now):
		// It was called a short while ago: the cooldown.
		return fmt.Sprintf("%s: called at %s, once its cooldown is over", at, clock(n.Due))
	}
	return at + ": being called"
}
