package api_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
	"github.com/sluice-lsp/sluice/watchtower/credit"
	"github.com/sluice-lsp/sluice/watchtower/engine"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// registrar takes the handlers that the service registers.
type registrar struct {
	wallets  towerv1.TowerServiceServer
	operator towerv1.TowerOperatorServiceServer
}

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	switch x := impl.(type) {
	case towerv1.TowerServiceServer:
		r.wallets = x
	case towerv1.TowerOperatorServiceServer:
		r.operator = x
	}
}

type noChain struct{}

var errNoChain = errors.New("no chain")

func (noChain) Best(context.Context) (int32, error) { return 0, errNoChain }
func (noChain) BlockHash(context.Context, int32) (chainhash.Hash, error) {
	return chainhash.Hash{}, errNoChain
}
func (noChain) Block(context.Context, chainhash.Hash) (*wire.MsgBlock, error) { return nil, errNoChain }
func (noChain) Publish(context.Context, []byte) error                         { return errNoChain }
func (noChain) Watch(ctx context.Context, _ func()) error                     { <-ctx.Done(); return ctx.Err() }

func served(t *testing.T) (*registrar, *engine.Engine, *store.DB) {
	t.Helper()
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, tower.Migrate(t.Context(), db))
	cfg := engine.Defaults()
	cfg.Addresses = []string{"tower.example:9911", "[2001:db8::1]:9911"}
	e, err := engine.New(engine.Options{
		DB: db, Secret: bytes.Repeat([]byte{1}, 32), Chain: noChain{}, Config: cfg, Now: time.Now, Log: zap.NewNop(),
		Acquire: func(ctx context.Context) (engine.Lease, error) { <-ctx.Done(); return nil, ctx.Err() },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	s, r := api.New(), &registrar{}
	s.RegisterGRPC(r)
	_, err = r.operator.GetTowerStatus(t.Context(), &towerv1.GetTowerStatusRequest{})
	require.Equal(t, errkind.Unavailable, errkind.Of(err), "before it is ready")
	s.Ready(e, ln.PubKey{3, 9})
	return r, e, db
}

// buys records an offer of credit.
func buys(t *testing.T, db *store.DB, tenant watchtower.Tenant) {
	t.Helper()
	plan := credit.Plan{Tenant: tenant.ID, Identity: tenant.Identity, Preimage: credit.NewSecret(ln.Preimage{1}), AmountMsat: 1000, At: time.Now(), Expires: time.Now()}
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tower.RecordPurchase(ctx, tx, credit.Planned{Plan: plan}, credit.Offered{Plan: plan, Bolt11: "lnbc1"}, 1, time.Now())
	}))
}

func as(ctx context.Context, node byte) context.Context {
	return auth.WithIdentity(ctx, auth.Identity{Kind: auth.KindWallet, NodeKey: ln.PubKey{2, node}, Services: []string{api.Name}})
}

// TestEveryMethodHasAnAudience: what is not in the table is refused.
func TestEveryMethodHasAnAudience(t *testing.T) {
	table := api.New().Permissions()
	for _, desc := range []grpc.ServiceDesc{towerv1.TowerService_ServiceDesc, towerv1.TowerOperatorService_ServiceDesc} {
		for _, m := range desc.Methods {
			p := table["/"+desc.ServiceName+"/"+m.MethodName]
			require.Equal(t, api.Name, p.Service)
			require.NotEqual(t, auth.Public, p.For)
		}
	}
	require.Equal(t, auth.Wallets, table[towerv1.TowerService_Register_FullMethodName].For)
	require.Equal(t, auth.Operators, table[towerv1.TowerOperatorService_SetTenant_FullMethodName].For)
}

// TestEachSeesItsOwn: registration, sessions, updates, statements and breaches of one
// node are nobody else's.
func TestEachSeesItsOwn(t *testing.T) {
	r, e, db := served(t)
	s := tower.New(db)
	alice, bob := as(t.Context(), 1), as(t.Context(), 2)
	_, err := r.wallets.Register(t.Context(), &towerv1.RegisterRequest{})
	require.Equal(t, errkind.Unauthenticated, errkind.Of(err))
	_, err = r.wallets.GetTower(alice, &towerv1.GetTowerRequest{})
	require.Equal(t, errkind.NotFound, errkind.Of(err))
	mine, err := r.wallets.Register(alice, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	require.Len(t, mine.GetTower().GetUris(), 2)
	require.Equal(t, towerv1.Standing_STANDING_ACTIVE, mine.GetTower().GetStanding())
	require.Equal(t, ln.PubKey{3, 9}.String(), mine.GetTower().GetWatchesThroughNode())
	theirs, err := r.wallets.Register(bob, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	require.NotEqual(t, mine.GetTower().GetUris()[0], theirs.GetTower().GetUris()[0])

	tenant, err := e.Tenant(t.Context(), engine.Identity(ln.PubKey{2, 1}))
	require.NoError(t, err)
	b, err := towertest.NewBreach(towertest.Policy(), 1)
	require.NoError(t, err)
	id := wtdb.SessionID{2, 77}
	require.NoError(t, e.DB(tenant.ID).InsertSessionInfo(&wtdb.SessionInfo{ID: id, Policy: towertest.Policy()}))
	_, err = e.DB(tenant.ID).InsertStateUpdate(&wtdb.SessionStateUpdate{ID: id, SeqNum: 1, Hint: b.Hint, EncryptedBlob: b.Blob})
	require.NoError(t, err)
	breach := watchtower.BreachID{5}
	require.NoError(t, s.SetTip(t.Context(), watchtower.Point{Height: 1}))
	require.NoError(t, s.Commit(t.Context(), tower.Searched{At: watchtower.Point{Height: 2}, New: []tower.Told{{
		Breach: watchtower.Breach{ID: breach, Tenant: tenant.ID, Session: id, Seq: 1, CommitTx: b.Commit.TxHash(), State: watchtower.Found, FoundAt: time.Now(), ChangedAt: time.Now()}, Text: "found",
	}}}))

	sessions, err := r.wallets.ListSessions(alice, &towerv1.ListSessionsRequest{})
	require.NoError(t, err)
	require.Len(t, sessions.GetSessions(), 1)
	require.Equal(t, "anchor", sessions.GetSessions()[0].GetBlobType())
	held, err := r.wallets.GetUpdates(alice, &towerv1.GetUpdatesRequest{SessionId: id[:], Seq: 1})
	require.NoError(t, err)
	require.Equal(t, b.Blob, held.GetUpdates()[0].GetBlob())
	nonce := bytes.Repeat([]byte{4}, watchtower.NonceSize)
	raw, err := r.wallets.GetStatement(alice, &towerv1.GetStatementRequest{Nonce: nonce})
	require.NoError(t, err)
	statement, err := api.StatementFromWire(raw)
	require.NoError(t, err)
	require.NoError(t, statement.Verify())
	require.Equal(t, []watchtower.StatedSession{{ID: id, BlobType: 6, LastApplied: 1, Updates: 1}}, statement.Sessions)
	raw.Sessions[0].LastApplied = 2
	statement, err = api.StatementFromWire(raw)
	require.NoError(t, err)
	require.Error(t, statement.Verify(), "what was altered on the way")
	list, err := r.wallets.ListBreaches(alice, &towerv1.ListBreachesRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetBreaches(), 1)
	require.Empty(t, list.GetBreaches()[0].GetIdentity())
	shown, err := r.wallets.ShowBreach(alice, &towerv1.ShowBreachRequest{Id: list.GetBreaches()[0].GetId()})
	require.NoError(t, err)
	require.Equal(t, "found", shown.GetStory()[0].GetText())

	// Bob, with all that Alice knows.
	none, err := r.wallets.ListSessions(bob, &towerv1.ListSessionsRequest{})
	require.NoError(t, err)
	require.Empty(t, none.GetSessions())
	_, err = r.wallets.GetUpdates(bob, &towerv1.GetUpdatesRequest{SessionId: id[:], Seq: 1})
	require.Equal(t, errkind.NotFound, errkind.Of(err))
	nothing, err := r.wallets.ListBreaches(bob, &towerv1.ListBreachesRequest{})
	require.NoError(t, err)
	require.Empty(t, nothing.GetBreaches())
	_, err = r.wallets.ShowBreach(bob, &towerv1.ShowBreachRequest{Id: list.GetBreaches()[0].GetId()})
	require.Equal(t, errkind.NotFound, errkind.Of(err))

	// Where nothing has a price nothing is sold, and nobody sees another's purchases.
	_, err = r.wallets.BuyCredit(alice, &towerv1.BuyCreditRequest{Updates: 10})
	require.Equal(t, errkind.Invalid, errkind.Of(err))
	_, err = r.wallets.BuyCredit(as(t.Context(), 3), &towerv1.BuyCreditRequest{Updates: 10})
	require.Equal(t, errkind.NotFound, errkind.Of(err), "who is not registered")
	buys(t, db, tenant)
	bought, err := r.wallets.ListPurchases(alice, &towerv1.ListPurchasesRequest{})
	require.NoError(t, err)
	require.Len(t, bought.GetPurchases(), 1)
	require.Equal(t, "lnbc1", bought.GetPurchases()[0].GetBolt11())
	bought, err = r.wallets.ListPurchases(bob, &towerv1.ListPurchasesRequest{})
	require.NoError(t, err)
	require.Empty(t, bought.GetPurchases())
	sold, err := r.operator.ListTenantPurchases(t.Context(), &towerv1.ListTenantPurchasesRequest{Identity: tenant.Identity})
	require.NoError(t, err)
	require.Len(t, sold.GetPurchases(), 1)
	_, err = r.operator.ListTenantPurchases(t.Context(), &towerv1.ListTenantPurchasesRequest{Identity: "node:02"})
	require.Equal(t, errkind.NotFound, errkind.Of(err))

	// The operator.
	all, err := r.operator.ListAllBreaches(t.Context(), &towerv1.ListAllBreachesRequest{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, tenant.Identity, all.GetBreaches()[0].GetIdentity())
	rest, err := r.operator.ListAllBreaches(t.Context(), &towerv1.ListAllBreachesRequest{BeforeFoundMs: all.GetBreaches()[0].GetFoundMs(), BeforeId: all.GetBreaches()[0].GetId()})
	require.NoError(t, err)
	require.Empty(t, rest.GetBreaches())
	tenants, err := r.operator.ListTenants(t.Context(), &towerv1.ListTenantsRequest{})
	require.NoError(t, err)
	require.Len(t, tenants.GetTenants(), 2)
	set, err := r.operator.SetTenant(t.Context(), &towerv1.SetTenantRequest{Identity: tenant.Identity, Suspended: true, Reason: "why", ExpiresMs: tenants.GetTenants()[0].GetExpiresMs()})
	require.NoError(t, err)
	require.Equal(t, towerv1.Standing_STANDING_SUSPENDED, set.GetTenant().GetStanding())
	told, err := r.wallets.GetTower(alice, &towerv1.GetTowerRequest{})
	require.NoError(t, err)
	require.Equal(t, "why", told.GetTower().GetReason())
}

func TestGarbageIsRefused(t *testing.T) {
	r, _, _ := served(t)
	alice := as(t.Context(), 1)
	_, err := r.wallets.Register(alice, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	for name, call := range map[string]func() error{
		"a short nonce": func() error {
			_, err := r.wallets.GetStatement(alice, &towerv1.GetStatementRequest{Nonce: []byte{1}})
			return err
		},
		"a short session": func() error {
			_, err := r.wallets.GetUpdates(alice, &towerv1.GetUpdatesRequest{SessionId: []byte{1}})
			return err
		},
		"a number too large": func() error {
			_, err := r.wallets.GetUpdates(alice, &towerv1.GetUpdatesRequest{SessionId: make([]byte, 33), Seq: 65_536})
			return err
		},
		"a breach that is no hex": func() error { _, err := r.wallets.ShowBreach(alice, &towerv1.ShowBreachRequest{Id: "xyz"}); return err },
		"a cursor that is none": func() error {
			_, err := r.wallets.ListBreaches(alice, &towerv1.ListBreachesRequest{BeforeId: "1"})
			return err
		},
		"suspension without a reason": func() error {
			_, err := r.operator.SetTenant(t.Context(), &towerv1.SetTenantRequest{Identity: engine.Identity(ln.PubKey{2, 1}), Suspended: true})
			return err
		},
		"negative limits": func() error {
			_, err := r.operator.SetTenant(t.Context(), &towerv1.SetTenantRequest{Identity: engine.Identity(ln.PubKey{2, 1}), OwnLimits: &towerv1.TowerLimits{Bytes: -1}})
			return err
		},
	} {
		require.Equal(t, errkind.Invalid, errkind.Of(call()), name)
	}
	_, err = api.StatementFromWire(&towerv1.GetStatementResponse{})
	require.Error(t, err)
}
