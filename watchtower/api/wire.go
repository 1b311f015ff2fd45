package api

import (
	"context"
	"encoding/hex"

	"github.com/lightningnetwork/lnd/watchtower/blob"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

func standingToWire(s watchtower.Standing) towerv1.Standing {
	switch s {
	case watchtower.Active:
		return towerv1.Standing_STANDING_ACTIVE
	case watchtower.Expiring:
		return towerv1.Standing_STANDING_EXPIRING
	case watchtower.Expired:
		return towerv1.Standing_STANDING_EXPIRED
	case watchtower.Suspended:
		return towerv1.Standing_STANDING_SUSPENDED
	}
	return towerv1.Standing_STANDING_UNSPECIFIED
}

func usageToWire(u watchtower.Usage) *towerv1.TowerUsage {
	return &towerv1.TowerUsage{Sessions: u.Sessions, Updates: u.Updates, Bytes: u.Bytes}
}

func limitsToWire(l watchtower.Limits) *towerv1.TowerLimits {
	return &towerv1.TowerLimits{Sessions: l.Sessions, Updates: l.Updates, Bytes: l.Bytes, FreeUpdates: l.Free}
}

func (r *running) towerToWire(t watchtower.Tenant) *towerv1.Tower {
	terms := r.engine.Config().Terms
	return &towerv1.Tower{
		Uris: r.engine.URIs(t), Standing: standingToWire(t.Standing(terms, r.engine.Now())), Reason: t.Reason,
		Limits: limitsToWire(terms.Limits.With(t.Own)), Usage: usageToWire(t.Usage), ExpiresMs: t.Expires.UnixMilli(),
		WatchedUntilMs: t.Expires.Add(terms.Grace).UnixMilli(), MinSweepFeeSatPerKw: uint64(terms.MinSweepFee), MaxUpdates: uint32(terms.MaxUpdates),
		WatchesThroughNode: r.through.String(), PriceMsat: int64(terms.PriceMsat), CreditMsat: t.CreditMsat, UpdatesLeft: t.UpdatesLeft(terms), //nolint:gosec // bounded
	}
}

func (r *running) tenantToWire(t watchtower.Tenant) *towerv1.Tenant {
	return &towerv1.Tenant{
		Identity: t.Identity, TowerKey: t.TowerKey.String(), Standing: standingToWire(t.Standing(r.engine.Config().Terms, r.engine.Now())), Reason: t.Reason,
		OwnLimits: limitsToWire(t.Own), Usage: usageToWire(t.Usage), CreatedMs: t.Created.UnixMilli(), ExpiresMs: t.Expires.UnixMilli(),
		CreditMsat: t.CreditMsat, DrawnMsat: t.DrawnMsat,
	}
}

func purchaseToWire(p tower.Purchase) *towerv1.Purchase {
	//nolint:gosec // amounts below all bitcoin
	return &towerv1.Purchase{
		PaymentHash: p.ID[:], State: p.State, AmountMsat: int64(p.AmountMsat), PaidMsat: int64(p.PaidMsat), Bolt11: p.Bolt11, Reason: p.Reason,
		CreatedMs: p.Created.UnixMilli(), ExpiresMs: p.Expires.UnixMilli(), ChangedMs: p.Changed.UnixMilli(),
	}
}

func (r *running) purchases(ctx context.Context, tenant int64, limit int32) (out []*towerv1.Purchase, err error) {
	list, err := r.engine.Purchases(ctx, tenant, orDefault(limit))
	for _, p := range list {
		out = append(out, purchaseToWire(p))
	}
	return out, err
}

func sessionsToWire(list []tower.Session) (out []*towerv1.TowerSession) {
	for _, s := range list {
		// A type that this version of lnd does not know was never stored.
		kind, err := blob.Type(s.BlobType).Identifier()
		if err != nil {
			kind = "unknown"
		}
		out = append(out, &towerv1.TowerSession{
			Number: s.Num, SessionId: s.ID[:], BlobType: kind, MaxUpdates: uint32(s.MaxUpdates), LastApplied: uint32(s.LastApplied),
			SweepFeeSatPerKw: uint64(s.SweepFeeRate), Usage: usageToWire(s.Usage), CreatedMs: s.Created.UnixMilli(), UpdatedMs: s.Updated.UnixMilli(),
		})
	}
	return out
}

// breaches lists a tenant's breaches, or with tenant 0 all, with whose they are.
func (r *running) breaches(ctx context.Context, tenant, beforeMs int64, beforeID string, limit int32) ([]*towerv1.Breach, error) {
	cursor := tower.Cursor{FoundMs: beforeMs}
	if beforeID != "" {
		id, err := parseBreachID(beforeID)
		if err != nil {
			return nil, err
		}
		cursor.ID = id[:]
	}
	list, err := r.engine.Breaches(ctx, tenant, cursor, orDefault(limit))
	if err != nil {
		return nil, err
	}
	var out []*towerv1.Breach
	for _, b := range list {
		wire, err := r.breachToWire(ctx, b, tenant == 0)
		if err != nil {
			return nil, err
		}
		out = append(out, wire)
	}
	return out, nil
}

func (r *running) breach(ctx context.Context, tenant int64, id string) (*towerv1.Breach, []*towerv1.StoryLine, error) {
	parsed, err := parseBreachID(id)
	if err != nil {
		return nil, nil, err
	}
	b, lines, err := r.engine.Breach(ctx, tenant, parsed)
	if err != nil {
		return nil, nil, err
	}
	var story []*towerv1.StoryLine
	for _, l := range lines {
		story = append(story, &towerv1.StoryLine{AtMs: l.At.UnixMilli(), Text: l.Text})
	}
	wire, err := r.breachToWire(ctx, b, tenant == 0)
	return wire, story, err
}

func parseBreachID(text string) (id watchtower.BreachID, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, errkind.New(errkind.Invalid, "A breach's id has 32 hex digits: list the breaches.")
	}
	return watchtower.BreachID(raw), nil
}

func (r *running) breachToWire(ctx context.Context, b watchtower.Breach, whose bool) (*towerv1.Breach, error) {
	out := &towerv1.Breach{
		Id: hex.EncodeToString(b.ID[:]), SessionId: b.Session[:], Seq: uint32(b.Seq), State: string(b.State), Final: b.Final,
		CommitmentTxid: b.CommitTx.String(), CommitmentHeight: b.SeenAt.Height, SweptSat: b.SweptSat, FeeSat: b.FeeSat,
		SpendHeight: b.Spend.At.Height, Problem: b.Problem, FoundMs: b.FoundAt.UnixMilli(), ChangedMs: b.ChangedAt.UnixMilli(),
	}
	if len(b.Justice) > 0 {
		out.JusticeTxid = b.JusticeTx.String()
	}
	if b.Spend.At.Height > 0 {
		out.SpendTxid = b.Spend.TxID.String()
	}
	if whose {
		t, err := r.engine.TenantByID(ctx, b.Tenant)
		if err != nil {
			return nil, err
		}
		out.Identity = t.Identity
	}
	return out, nil
}

// StatementToWire is what a caller gets.
func StatementToWire(s watchtower.Statement) *towerv1.GetStatementResponse {
	out := &towerv1.GetStatementResponse{ServerKey: s.ServerKey[:], Identity: s.Identity, Nonce: s.Nonce, AtMs: s.AtMs, Signature: s.Signature[:]}
	for _, held := range s.Sessions {
		out.Sessions = append(out.Sessions, &towerv1.StatedSession{
			SessionId: held.ID[:], BlobType: uint32(held.BlobType), LastApplied: uint32(held.LastApplied), Updates: held.Updates,
		})
	}
	return out
}

// StatementFromWire reads it back into exactly what was signed.
func StatementFromWire(w *towerv1.GetStatementResponse) (out watchtower.Statement, err error) {
	wrong := errkind.New(errkind.Invalid, "The tower's statement is garbled.")
	if len(w.GetServerKey()) != len(out.ServerKey) || len(w.GetSignature()) != len(out.Signature) {
		return out, wrong
	}
	out.Identity, out.Nonce, out.AtMs = w.GetIdentity(), w.GetNonce(), w.GetAtMs()
	copy(out.ServerKey[:], w.GetServerKey())
	copy(out.Signature[:], w.GetSignature())
	for _, held := range w.GetSessions() {
		s := watchtower.StatedSession{Updates: held.GetUpdates()}
		if len(held.GetSessionId()) != len(s.ID) || held.GetBlobType() > 0xffff || held.GetLastApplied() > 0xffff {
			return out, wrong
		}
		copy(s.ID[:], held.GetSessionId())
		s.BlobType, s.LastApplied = uint16(held.GetBlobType()), uint16(held.GetLastApplied()) //nolint:gosec // checked
		out.Sessions = append(out.Sessions, s)
	}
	return out, nil
}
