package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Open is one channel open as people see it.
type Open struct {
	ID, PaymentID string
	Client        ln.PubKey
	State, Reason string
	Terminal      bool
	CapacitySat   ln.Sat
	ChainFeeSat   ln.Sat
	Outpoint      string
	ZeroConf      bool
	// Unpaid: it counts against its client's cap. Paid, Closed and Forgiven say
	// why it no longer does.
	Unpaid, Paid, Closed, Forgiven bool
	Created                        time.Time
	Updated                        time.Time
}

// OpenFilter selects channel opens.
type OpenFilter struct {
	// PaymentID leaves out all others, whatever else is asked.
	PaymentID            string
	Client               ln.PubKey
	OpenOnly, UnpaidOnly bool
	BeforeID             string
	Limit                int
}

// Opens lists channel opens, newest first.
func (e *Engine) Opens(ctx context.Context, f OpenFilter) ([]Open, error) {
	if f.BeforeID == "" {
		f.BeforeID = maxID
	}
	var rows []lspdb.LspOpening
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		if f.PaymentID != "" {
			rows, err = lspdb.New(tx).OpeningsOfPayment(ctx, f.PaymentID)
			return err
		}
		rows, err = lspdb.New(tx).FindOpenings(ctx, lspdb.FindOpeningsParams{
			BeforeID: f.BeforeID, OpenOnly: flag(f.OpenOnly), UnpaidOnly: flag(f.UnpaidOnly),
			OneClient: flag(!f.Client.IsZero()), Client: f.Client[:], Most: int32(limit(f.Limit)), //nolint:gosec // bounded by limit
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return e.opensFrom(rows)
}

func (e *Engine) opensFrom(rows []lspdb.LspOpening) ([]Open, error) {
	since := e.unpaidSince(e.opt.Now()).UnixMilli()
	out := make([]Open, 0, len(rows))
	for _, r := range rows {
		client, err := ln.PubKeyFromBytes(r.Client)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", r.ID, err)
		}
		out = append(out, Open{
			ID: r.ID, PaymentID: r.PaymentID, Client: client, State: r.State, Reason: r.Reason, Terminal: r.Terminal,
			CapacitySat: ln.Sat(r.CapacitySat), ChainFeeSat: ln.Sat(r.ChainFeeSat), Outpoint: r.Outpoint, ZeroConf: r.ZeroConf, //nolint:gosec // never negative
			Unpaid: r.Unpaid && r.CreatedMs >= since, Paid: r.Paid, Closed: r.Closed, Forgiven: r.Forgiven,
			Created: time.UnixMilli(r.CreatedMs), Updated: time.UnixMilli(r.UpdatedMs),
		})
	}
	return out, nil
}
