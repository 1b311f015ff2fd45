package api

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/webhooks"
)

// Ledger is what webhooks were told.
type Ledger interface {
	// Notifications are of one client unless the key is zero, newest first.
	Notifications(ctx context.Context, client ln.PubKey, beforeID string, limit int) ([]webhooks.Notification, error)
}

// lspsOperator serves an operator's tools for LSPS.
type lspsOperator struct {
	lspsv1.UnimplementedLspsOperatorServiceServer
	s *Service
}

func (o *lspsOperator) ListMenus(_ context.Context, _ *lspsv1.ListMenusRequest) (*lspsv1.ListMenusResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	out := &lspsv1.ListMenusResponse{}
	for _, m := range e.Menus() {
		out.Menus = append(out.Menus, &lspsv1.Menu{
			Token: m.Token, Configured: m.Configured, Changed: m.Set, Withdrawn: m.Withdrawn, SetMs: unixMilli(m.SetAt), UntilMs: unixMilli(m.Until),
			Items: itemsToWire(m.Items), Offered: itemsToWire(m.Offered), Refusal: m.Refusal,
		})
	}
	return out, nil
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func itemsToWire(items []lsp.OpeningFeeParams) []*lspsv1.MenuItem {
	out := make([]*lspsv1.MenuItem, 0, len(items))
	for _, i := range items {
		out = append(out, &lspsv1.MenuItem{
			MinFeeMsat: uint64(i.MinFeeMsat), ProportionalPpm: i.ProportionalPPM, MinLifetimeBlocks: i.MinLifetimeBlocks,
			MaxClientToSelfDelayBlocks: i.MaxClientToSelfDelay, MinPaymentSizeMsat: uint64(i.MinPaymentSizeMsat), MaxPaymentSizeMsat: uint64(i.MaxPaymentSizeMsat),
		})
	}
	return out
}

// maxItems bounds a menu; clients read no more of one.
const maxItems = 100

func (o *lspsOperator) SetMenu(ctx context.Context, r *lspsv1.SetMenuRequest) (*lspsv1.SetMenuResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	if len(r.Items) > maxItems {
		return nil, errkind.Newf(errkind.Invalid, "a menu has at most %d items", maxItems)
	}
	var items []lsp.OpeningFeeParams
	for _, i := range r.Items {
		if i == nil {
			return nil, errkind.New(errkind.Invalid, "a menu item is empty")
		}
		items = append(items, lsp.OpeningFeeParams{
			MinFeeMsat: ln.Msat(i.MinFeeMsat), ProportionalPPM: i.ProportionalPpm, MinLifetimeBlocks: i.MinLifetimeBlocks,
			MaxClientToSelfDelay: i.MaxClientToSelfDelayBlocks, MinPaymentSizeMsat: ln.Msat(i.MinPaymentSizeMsat), MaxPaymentSizeMsat: ln.Msat(i.MaxPaymentSizeMsat),
		})
	}
	var until time.Time
	if r.UntilMs != 0 {
		until = time.UnixMilli(r.UntilMs)
	}
	return &lspsv1.SetMenuResponse{}, e.SetMenu(ctx, r.Token, items, until)
}

func (o *lspsOperator) WithdrawToken(ctx context.Context, r *lspsv1.WithdrawTokenRequest) (*lspsv1.WithdrawTokenResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	return &lspsv1.WithdrawTokenResponse{}, e.WithdrawToken(ctx, r.Token)
}

func (o *lspsOperator) ResetMenu(ctx context.Context, r *lspsv1.ResetMenuRequest) (*lspsv1.ResetMenuResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	return &lspsv1.ResetMenuResponse{}, e.ResetMenu(ctx, r.Token)
}

func (o *lspsOperator) ListLimits(context.Context, *lspsv1.ListLimitsRequest) (*lspsv1.ListLimitsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	out := &lspsv1.ListLimitsResponse{}
	for _, l := range e.Limits() {
		out.Limits = append(out.Limits, &lspsv1.Limit{Name: l.Name, Value: l.Value, Configured: l.Configured, Changed: l.Set})
	}
	return out, nil
}

func (o *lspsOperator) SetLimits(ctx context.Context, r *lspsv1.SetLimitsRequest) (*lspsv1.SetLimitsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	return &lspsv1.SetLimitsResponse{}, e.SetLimits(ctx, r.Values)
}

func (o *lspsOperator) ResetLimits(ctx context.Context, r *lspsv1.ResetLimitsRequest) (*lspsv1.ResetLimitsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	return &lspsv1.ResetLimitsResponse{}, e.ResetLimits(ctx, r.Names)
}

// defaultNotifications is how many are shown when nobody says.
const defaultNotifications = 100

func (o *lspsOperator) ListNotifications(ctx context.Context, r *lspsv1.ListNotificationsRequest) (*lspsv1.ListNotificationsResponse, error) {
	ledger := o.s.ledger.Load()
	if ledger == nil {
		return nil, errkind.New(errkind.Unavailable, "webhooks are turned off, or the gateway is starting: see lsps.webhooks.enabled")
	}
	var client ln.PubKey
	if len(r.ClientNodeKey) > 0 {
		var err error
		if client, err = clientKey(r.ClientNodeKey); err != nil {
			return nil, err
		}
	}
	limit := int(r.Limit)
	if limit == 0 {
		limit = defaultNotifications
	}
	list, err := (*ledger).Notifications(ctx, client, r.BeforeId, limit)
	if err != nil {
		return nil, err
	}
	out := &lspsv1.ListNotificationsResponse{}
	for _, n := range list {
		wire := &lspsv1.Notification{
			NotificationId: n.ID, ClientNodeKey: n.Client[:], AppName: lsps0.Printable(n.AppName), Host: n.Host, Method: n.Method, State: n.State,
			Outcome: lsps0.Printable(n.Outcome), Attempts: uint32(n.Attempts), MadeMs: n.Made.UnixMilli(), UpdatedMs: n.Updated.UnixMilli(), //nolint:gosec // a handful
		}
		if n.State == webhooks.StatePending {
			wire.DueMs = n.Due.UnixMilli()
		}
		out.Notifications = append(out.Notifications, wire)
	}
	return out, nil
}
