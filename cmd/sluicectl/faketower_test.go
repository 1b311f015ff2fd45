package main

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

const fakeBreach = "33333333333333333333333333333333"

// fakeTower has one registration and one breach.
type fakeTower struct {
	towerv1.UnimplementedTowerOperatorServiceServer

	mu        sync.Mutex
	own       *towerv1.TowerLimits
	suspended bool
	reason    string
	expires   int64
}

func (f *fakeTower) GetTowerStatus(context.Context, *towerv1.GetTowerStatusRequest) (*towerv1.GetTowerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := &towerv1.GetTowerStatusResponse{
		Searching: true, TipHeight: 850_123, BestHeight: 850_123, SyncedMs: ms(4 * time.Second), OpenBreaches: 1, DueBreaches: 1,
		Breaches: []*towerv1.BreachCount{{State: "published", Breaches: 1, SweptSat: 993_025}}, Tenants: 1,
		Usage: &towerv1.TowerUsage{Sessions: 3, Updates: 2_345, Bytes: 900_000}, Limits: &towerv1.TowerLimits{Sessions: 1000, Updates: 1_000_000, Bytes: 512 << 20, FreeUpdates: 2_000},
		PriceMsat: 100, CreditMsat: 65_500, DrawnMsat: 34_500,
		MaxTenants: 1000, MaxBytes: 100 << 30, Connections: 2, Addresses: []string{"tower.example:9911"},
	}
	if f.suspended {
		got.BestHeight, got.Problem = 850_125, "ask for the best block: unavailable"
	}
	return got, nil
}

func (f *fakeTower) tenant() *towerv1.Tenant {
	t := &towerv1.Tenant{
		Identity: fakeIdentity, TowerKey: fakeGateKey, Standing: towerv1.Standing_STANDING_ACTIVE, OwnLimits: f.own, Reason: f.reason,
		Usage: &towerv1.TowerUsage{Sessions: 3, Updates: 2_345, Bytes: 900_000}, CreatedMs: ms(50 * 24 * time.Hour), ExpiresMs: f.expires,
		CreditMsat: 65_500, DrawnMsat: 34_500,
	}
	if f.expires == 0 {
		t.ExpiresMs = ms(-315 * 24 * time.Hour)
	}
	if f.suspended {
		t.Standing = towerv1.Standing_STANDING_SUSPENDED
	}
	return t
}

func (f *fakeTower) ListTenants(_ context.Context, r *towerv1.ListTenantsRequest) (*towerv1.ListTenantsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetAfter() != "" {
		return &towerv1.ListTenantsResponse{}, nil
	}
	return &towerv1.ListTenantsResponse{Tenants: []*towerv1.Tenant{f.tenant()}}, nil
}

func (f *fakeTower) ShowTenant(_ context.Context, r *towerv1.ShowTenantRequest) (*towerv1.ShowTenantResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetIdentity() != fakeIdentity {
		return nil, errkind.New(errkind.NotFound, "This identity is not registered at the tower.")
	}
	return &towerv1.ShowTenantResponse{Tenant: f.tenant(), Sessions: []*towerv1.TowerSession{{
		Number: 1, SessionId: bytes.Repeat([]byte{2, 0xab}, 17)[:33], BlobType: "anchor", MaxUpdates: 1024, LastApplied: 1_000, SweepFeeSatPerKw: 2_500,
		Usage: &towerv1.TowerUsage{Sessions: 1, Updates: 1_000, Bytes: 330_000}, UpdatedMs: ms(90 * time.Second),
	}}}, nil
}

func (f *fakeTower) SetTenant(_ context.Context, r *towerv1.SetTenantRequest) (*towerv1.SetTenantResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own, f.suspended, f.reason, f.expires = r.GetOwnLimits(), r.GetSuspended(), r.GetReason(), r.GetExpiresMs()
	return &towerv1.SetTenantResponse{Tenant: f.tenant()}, nil
}

func breachOfFake() *towerv1.Breach {
	return &towerv1.Breach{
		Id: fakeBreach, Identity: fakeIdentity, Seq: 17, State: "published", CommitmentTxid: fakeTxID, CommitmentHeight: 850_120, JusticeTxid: fakeHash,
		SweptSat: 993_025, FeeSat: 6_315, FoundMs: ms(31 * time.Minute), ChangedMs: ms(30 * time.Minute), Problem: "min relay fee\x1b[31m not met",
	}
}

func (f *fakeTower) ListAllBreaches(context.Context, *towerv1.ListAllBreachesRequest) (*towerv1.ListAllBreachesResponse, error) {
	return &towerv1.ListAllBreachesResponse{Breaches: []*towerv1.Breach{breachOfFake()}}, nil
}

func (f *fakeTower) ShowAnyBreach(_ context.Context, r *towerv1.ShowAnyBreachRequest) (*towerv1.ShowAnyBreachResponse, error) {
	if r.GetId() != fakeBreach {
		return nil, errkind.New(errkind.NotFound, "There is no such breach: list them.")
	}
	return &towerv1.ShowAnyBreachResponse{Breach: breachOfFake(), Story: []*towerv1.StoryLine{
		{AtMs: ms(31 * time.Minute), Text: "The revoked commitment is in block 850120."}, {AtMs: ms(30 * time.Minute), Text: "The justice transaction was handed to the network."},
	}}, nil
}

func (f *fakeTower) ListTenantPurchases(_ context.Context, r *towerv1.ListTenantPurchasesRequest) (*towerv1.ListTenantPurchasesResponse, error) {
	if r.GetIdentity() != fakeIdentity {
		return &towerv1.ListTenantPurchasesResponse{}, nil
	}
	return &towerv1.ListTenantPurchasesResponse{Purchases: []*towerv1.Purchase{
		{PaymentHash: bytes.Repeat([]byte{0xcd}, 32), State: "settled", AmountMsat: 100_000, PaidMsat: 100_000, CreatedMs: ms(2 * time.Hour), ChangedMs: ms(time.Hour)},
		{PaymentHash: bytes.Repeat([]byte{0xef}, 32), State: "over", AmountMsat: 5_000, Reason: "the invoice was not paid in time", CreatedMs: ms(4 * time.Hour), ChangedMs: ms(3 * time.Hour)},
	}}, nil
}
