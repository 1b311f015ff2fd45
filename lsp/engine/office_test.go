package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// still is a node in which nothing happens: it lists channels and coins, and
// estimates fees. Engines on it are never run, so that no effect is carried
// out: what is tested is what their transactions admit.
type still struct {
	Channels
	Coins
	Chain
	Aliases

	mu       sync.Mutex
	channels []ln.Channel
	pending  []ln.PendingChannel
	coins    ln.Sat
	// cut is into how many coins they are cut; 0 is one.
	cut     int
	aliases map[ln.SCID]ln.SCID
	removed int
	// upAfter is after how many listings all channels are active; 0 changes nothing.
	upAfter int
	// onList hears of every listing, and which it is.
	onList func(times int)
	lists  int
}

func (s *still) ListChannels(context.Context) ([]ln.Channel, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lists++; s.onList != nil {
		s.onList(s.lists)
	}
	if s.upAfter > 0 {
		if s.upAfter--; s.upAfter == 0 {
			for i := range s.channels {
				s.channels[i].Active = true
			}
		}
	}
	return append([]ln.Channel(nil), s.channels...), nil
}

func (s *still) PendingChannels(context.Context) ([]ln.PendingChannel, error) { return s.pending, nil }

func (s *still) ListCoins(context.Context, int32) ([]ln.Coin, error) {
	n := max(s.cut, 1)
	coins := make([]ln.Coin, 0, n)
	for i := range n {
		coins = append(coins, ln.Coin{
			Outpoint: ln.Outpoint{TxID: ln.TxID{1}, Index: uint32(i)}, AmountSat: s.coins / ln.Sat(n), Confirmations: 1, //nolint:gosec // few
			PkScript: append([]byte{0x51, 32}, make([]byte, 32)...),
		})
	}
	return coins, nil
}

func (s *still) EstimateFee(context.Context, int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	return 500, 253, nil
}

func (s *still) AddAlias(_ context.Context, base, alias ln.SCID) error {
	if owner, taken := s.aliases[alias]; taken && owner != base {
		return fmt.Errorf("alias of %s: %w", owner, ln.ErrExists)
	}
	s.aliases[alias] = base
	return nil
}

func (s *still) AliasOwner(_ context.Context, alias ln.SCID) (ln.SCID, error) {
	return s.aliases[alias], nil
}

func (s *still) RemoveAlias(_ context.Context, base, alias ln.SCID) error {
	if s.aliases[alias] == base {
		delete(s.aliases, alias)
		s.removed++
	}
	return nil
}

type anyRoute struct{ claimed, released atomic.Int64 }

func (r *anyRoute) Claim(_ context.Context, s []ln.SCID, _ time.Time) error {
	r.claimed.Add(int64(len(s)))
	return nil
}

func (r *anyRoute) Release(_ context.Context, s []ln.SCID) error {
	r.released.Add(int64(len(s)))
	return nil
}

const testHeight = 800_000

type office struct {
	t      *testing.T
	e      *Engine
	node   *still
	routes *anyRoute
	hashes atomic.Uint64
}

func newOffice(t *testing.T, db *store.DB, change func(*Config)) *office {
	t.Helper()
	ctx := t.Context()
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, lspstore.Migrate} {
		require.NoError(t, migrate(ctx, db))
	}
	b := &office{t: t, node: &still{coins: 1_000_000_000, aliases: map[ln.SCID]ln.SCID{}}, routes: &anyRoute{}}
	cfg := Defaults()
	cfg.Network, cfg.Self = "regtest", key(1)
	cfg.Caps = lsp.Caps{NewcomersPercent: 100}
	change(&cfg)
	var err error
	b.e, err = New(Options{
		Node: Node{Channels: b.node, Coins: b.node, Chain: b.node, Aliases: b.node}, Routes: b.routes, DB: db, Config: cfg,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, b.e.checkLoads(context.WithoutCancel(t.Context())), "limits are asked of what the tables sum to")
		b.e.stop()
	})
	require.NoError(t, b.e.keys.refresh(ctx))
	require.NoError(t, b.e.fees.refresh(ctx))
	b.e.world.height = testHeight
	return b
}

func key(n uint64) ln.PubKey {
	var k ln.PubKey
	k[0] = 2
	binary.BigEndian.PutUint64(k[1:], n)
	return k
}

// negotiate asks for an agreement over an amount.
func (b *office) negotiate(client ln.PubKey, amount ln.Msat) (Agreement, ln.Hash, error) {
	hash := ln.Hash(sha256.Sum256(binary.BigEndian.AppendUint64(nil, b.hashes.Add(1))))
	menu, err := b.e.Menu(b.t.Context(), client)
	require.NoError(b.t, err)
	a, err := b.e.Negotiate(b.t.Context(), NegotiateRequest{
		Client: client, Hash: hash, AmountMsat: amount, Params: &menu.Items[0],
		Wish: Wish{ZeroConf: true, AllowAnother: true}, FinalCltvDelta: 80, InvoiceExpires: time.Now().Add(time.Hour),
	})
	return a, hash, err
}

func (b *office) agree(client ln.PubKey, amount ln.Msat) (Agreement, ln.Hash) {
	b.t.Helper()
	a, hash, err := b.negotiate(client, amount)
	require.NoError(b.t, err)
	return a, hash
}

// part offers an HTLC that pays an agreement in one part.
func (b *office) part(a Agreement, hash ln.Hash, n uint64) error {
	in := a.Quote.WalletMsat + a.Quote.FeeMsat + 1
	return tellJudged(b.e, b.e.jits, a.PaymentID, b.e.judgePart(a.PaymentID, HtlcEvent{Htlc: ln.InterceptedHtlc{
		Key: ln.CircuitKey{ChanID: 7, HtlcID: n}, Hash: hash, IncomingMsat: in, OutgoingMsat: a.Quote.WalletMsat,
		IncomingExpiry: testHeight + 163, OutgoingExpiry: testHeight + 83, OutgoingSCID: a.SCID, AutoFailHeight: testHeight + 144,
	}}, 0, false))
}

func (b *office) usage(client ln.PubKey) lsp.Usage {
	b.t.Helper()
	u, err := b.e.usage(b.t.Context(), client)
	require.NoError(b.t, err)
	return u
}

func (b *office) state(id string) jit.State {
	b.t.Helper()
	inst, err := b.e.jits.Get(b.t.Context(), id)
	require.NoError(b.t, err)
	return inst.State
}

func (b *office) open(a Agreement, client ln.PubKey) (string, lsp.Reason) {
	b.t.Helper()
	id := a.PaymentID + "-open-1"
	reason, err := b.e.beginOpening(b.t.Context(), machineJit, a.PaymentID, id, openingWish{
		client: client, amountMsat: a.Quote.WalletMsat, feeMsat: a.Quote.FeeMsat, zeroConf: true, maxLocalCSV: 144, openFor: time.Minute,
	})
	require.NoError(b.t, err)
	return id, reason
}

// sql changes rows that only lnd's doings would change otherwise.
func (b *office) sql(query string, args ...any) {
	b.t.Helper()
	require.NoError(b.t, b.e.db.Write(b.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	}))
}
