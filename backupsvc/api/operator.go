package api

import (
	"context"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
)

type operator struct {
	backupsv1.UnimplementedVaultOperatorServiceServer
	s *Service
}

func (o *operator) GetTotals(context.Context, *backupsv1.GetTotalsRequest) (*backupsv1.GetTotalsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	t, cfg, key, epoch := e.Totals(), e.Config(), e.Key(), e.Epoch()
	return &backupsv1.GetTotalsResponse{
		Identities: t.Identities, Objects: t.Objects, Bytes: t.Bytes, HistoryBytes: t.HistoryBytes, Quota: quotaToWire(cfg.Quota),
		MaxIdentities: cfg.MaxIdentities, MaxBytes: cfg.MaxBytes, ServerKey: key[:], Epoch: epoch[:],
	}, nil
}

func (o *operator) ListIdentities(ctx context.Context, r *backupsv1.ListIdentitiesRequest) (*backupsv1.ListIdentitiesResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	list, err := e.Identities(ctx, r.GetAfter(), orDefault(r.GetLimit()))
	if err != nil {
		return nil, err
	}
	out := &backupsv1.ListIdentitiesResponse{}
	for _, t := range list {
		out.Identities = append(out.Identities, identityToWire(t))
	}
	return out, nil
}

func identityToWire(t backups.Tenancy) *backupsv1.Identity {
	return &backupsv1.Identity{
		Identity: string(t.Identity), Usage: usageToWire(t.Usage), OwnQuota: quotaToWire(t.Own), Blocked: t.Blocked, Seq: t.Seq,
		CreatedMs: t.Created.UnixMilli(), WrittenMs: t.Written.UnixMilli(),
	}
}

func (o *operator) ShowIdentity(ctx context.Context, r *backupsv1.ShowIdentityRequest) (*backupsv1.ShowIdentityResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	id, err := vault.ParseIdentity(r.GetIdentity())
	if err != nil {
		return nil, err
	}
	t, stores, err := e.Tenancy(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &backupsv1.ShowIdentityResponse{Identity: identityToWire(t)}
	for _, s := range stores {
		out.Stores = append(out.Stores, &backupsv1.StoreUsage{StoreId: s.Store, Objects: s.Objects, Bytes: s.Bytes})
	}
	return out, nil
}

func (o *operator) SetQuota(ctx context.Context, r *backupsv1.SetQuotaRequest) (*backupsv1.SetQuotaResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	id, err := vault.ParseIdentity(r.GetIdentity())
	if err != nil {
		return nil, err
	}
	if err := e.SetLimits(ctx, id, quotaFromWire(r.GetOwnQuota()), r.GetBlocked()); err != nil {
		return nil, err
	}
	t, _, err := e.Tenancy(ctx, id)
	if err != nil {
		return nil, err
	}
	return &backupsv1.SetQuotaResponse{Identity: identityToWire(t)}, nil
}
