package webhooks

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
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
