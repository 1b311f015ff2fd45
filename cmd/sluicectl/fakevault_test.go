package main

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

const fakeIdentity = "node:" + fakeClient

// fakeVault has one identity.
type fakeVault struct {
	backupsv1.UnimplementedVaultOperatorServiceServer

	mu      sync.Mutex
	own     backupsv1.Quota
	blocked bool
}

func (f *fakeVault) identity() *backupsv1.Identity {
	own := &backupsv1.Quota{
		Bytes: f.own.GetBytes(), Objects: f.own.GetObjects(), ObjectBytes: f.own.GetObjectBytes(),
		DayWrites: f.own.GetDayWrites(), DayBytes: f.own.GetDayBytes(), HistoryBytes: f.own.GetHistoryBytes(),
	}
	return &backupsv1.Identity{
		Identity: fakeIdentity, OwnQuota: own, Blocked: f.blocked, Seq: 1234, CreatedMs: ms(50 * 24 * time.Hour), WrittenMs: ms(90 * time.Second),
		Usage: &backupsv1.Usage{Bytes: 1_600_000, Objects: 12, DayWrites: 40, DayBytes: 41_000, HistoryBytes: 900},
	}
}

func (f *fakeVault) GetTotals(context.Context, *backupsv1.GetTotalsRequest) (*backupsv1.GetTotalsResponse, error) {
	return &backupsv1.GetTotalsResponse{
		Identities: 1, Objects: 12, Bytes: 1_600_000, HistoryBytes: 900, MaxIdentities: 10_000, MaxBytes: 10 << 30,
		Quota:     &backupsv1.Quota{Bytes: 256 << 20, Objects: 10_000, ObjectBytes: 16 << 20, DayWrites: 100_000, DayBytes: 4 << 30, HistoryBytes: 512 << 20},
		ServerKey: bytes.Repeat([]byte{0xaa}, 32), Epoch: bytes.Repeat([]byte{0xee}, 16),
	}, nil
}

func (f *fakeVault) ListIdentities(_ context.Context, r *backupsv1.ListIdentitiesRequest) (*backupsv1.ListIdentitiesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetAfter() != "" {
		return &backupsv1.ListIdentitiesResponse{}, nil
	}
	return &backupsv1.ListIdentitiesResponse{Identities: []*backupsv1.Identity{f.identity()}}, nil
}

func (f *fakeVault) ShowIdentity(_ context.Context, r *backupsv1.ShowIdentityRequest) (*backupsv1.ShowIdentityResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetIdentity() != fakeIdentity {
		return nil, errkind.New(errkind.NotFound, "This identity has stored nothing: list the identities.")
	}
	return &backupsv1.ShowIdentityResponse{Identity: f.identity(), Stores: []*backupsv1.StoreUsage{{StoreId: "scb\n", Objects: 12, Bytes: 1_600_000}}}, nil
}

func (f *fakeVault) SetQuota(_ context.Context, r *backupsv1.SetQuotaRequest) (*backupsv1.SetQuotaResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := r.GetOwnQuota()
	f.own.Bytes, f.own.Objects, f.own.ObjectBytes = q.GetBytes(), q.GetObjects(), q.GetObjectBytes()
	f.own.DayWrites, f.own.DayBytes, f.own.HistoryBytes = q.GetDayWrites(), q.GetDayBytes(), q.GetHistoryBytes()
	f.blocked = r.GetBlocked()
	return &backupsv1.SetQuotaResponse{Identity: f.identity()}, nil
}
