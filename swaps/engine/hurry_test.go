package engine

import (
	"testing"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// Every funding transaction leaves change that can hurry it; a wallet that has the
// amount and the fee, and not that, is offered to nobody, and what it has lost since
// gives the payments back before anything is public.
func TestFundingsThatCannotBeHurried(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	least, err := r.cfg.leastChange(500_000)
	require.NoError(t, err)
	l := r.published(ln.Preimage{1})
	require.False(t, l.ChangeOutpoint.IsZero())
	require.GreaterOrEqual(t, l.ChangeSat, least)
	require.Equal(t, least, l.LeastChangeSat)

	// The room ends where the change would.
	r.node.change(func() { r.node.coins = 500_000 + r.cfg.ReserveSat + 10_000 })
	terms, err := r.OutTerms(r.ctx)
	require.NoError(t, err)
	require.Less(t, terms.MaxSat+least, ln.Sat(510_000))
	_, err = r.OfferOut(r.ctx, r.wish(ln.Preimage{2}))
	require.ErrorIs(t, err, errkind.Exhausted)
	r.node.change(func() { r.node.coins += least + 10_000 })
	plan := r.offer(ln.Preimage{2})
	require.Equal(t, plan.AmountSat+plan.MaxMinerSat+least, out.Promised(r.state(ln.Preimage{2})))

	// The coins went elsewhere meanwhile.
	r.node.change(func() { r.node.coins = 500_000 + least })
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	s := r.reaches(ln.Preimage{2}, "cancelled")
	require.Contains(t, out.ReasonOf(s).Text, "insufficient")

	// A wallet that leaves less than it was asked for is not believed.
	r.node.change(func() { r.node.coins, r.node.keepsLess = 2_000_000, true })
	plan = r.offer(ln.Preimage{3})
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	s = r.reaches(ln.Preimage{3}, "cancelled")
	require.Contains(t, out.ReasonOf(s).Text, "hurry")
	r.sees("no coins leased", func() bool {
		r.node.mu.Lock()
		defer r.node.mu.Unlock()
		return len(r.node.leases) == 1 && len(r.node.published) == 1
	})
	require.Equal(t, ln.InvoiceCanceled, r.invoice(plan.Terms.Hash).State)
	require.Equal(t, ln.InvoiceCanceled, r.invoice(plan.PrepayHash()).State)
}

// Several swaps are promised coins that are one coin: the second waits for the change of
// the first, with its payments held, and neither is given up. What swaps leased, and spent,
// takes no room of others.
func TestASwapThatWaitsForCoins(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	before, err := r.OutTerms(r.ctx)
	require.NoError(t, err)
	r.node.change(func() { r.node.locked = 1_000_000_000 })
	after, err := r.OutTerms(r.ctx)
	require.NoError(t, err)
	require.Equal(t, before, after)

	plan := r.offer(ln.Preimage{1})
	gone := r.offer(ln.Preimage{2})
	r.node.change(func() { r.node.unconfirmed, r.node.coins = r.node.coins, 0 })
	for _, p := range []out.Plan{plan, gone} {
		r.node.pay(p.Terms.Hash)
		r.node.pay(p.PrepayHash())
	}
	for _, n := range []byte{1, 2} {
		r.reaches(ln.Preimage{n}, "funding")
	}
	r.sees("coins to be wanted", func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return r.node.wanted > 0 })
	// A client that gives up meanwhile gets its payments back.
	l, _ := out.InvoicesOf(r.state(ln.Preimage{2}))
	require.NoError(t, r.CancelOut(r.ctx, gone.Terms.Hash, l.PaymentAddr[:], "enough"))
	r.reaches(ln.Preimage{2}, "cancelled")
	require.Equal(t, "funding", r.state(ln.Preimage{1}).StateName())
	r.node.change(func() { r.node.unconfirmed, r.node.coins = 0, r.node.unconfirmed })
	r.reaches(ln.Preimage{1}, "published")
	require.Equal(t, 1, r.node.funded)
}

// lnd has failed the HTLC of a payment that waited for coins, and goes on calling its
// invoice accepted: nothing is funded for it.
func TestNothingIsFundedForWhatIsGone(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	plan := r.offer(ln.Preimage{1})
	r.node.change(func() { r.node.unconfirmed, r.node.coins = r.node.coins, 0 })
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	r.sees("coins to be wanted", func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return r.node.wanted > 0 })
	require.Equal(t, "funding", r.state(ln.Preimage{1}).StateName())
	r.node.change(func() { r.node.failed = true })
	r.node.change(func() { r.node.unconfirmed, r.node.coins = 0, r.node.unconfirmed })
	r.reaches(ln.Preimage{1}, "cancelled")
	require.Zero(t, r.node.funded)
}

// lnd was started since it held the payments, and may yet fail them: nothing is funded
// before it is clear, and the client has its swap or its money.
func TestNothingIsFundedForWhatMayBeGone(t *testing.T) {
	for name, failed := range map[string]bool{"published": false, "cancelled": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, storetest.SQLite(t))
			plan := r.offer(ln.Preimage{1})
			r.node.change(func() { r.node.unproven = true })
			r.node.pay(plan.Terms.Hash)
			r.node.pay(plan.PrepayHash())
			r.sees("doubt more than once", func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return r.node.listings > 4 })
			require.Zero(t, r.node.funded)
			require.NotEqual(t, "cancelled", r.state(ln.Preimage{1}).StateName(), "nothing is given back for a doubt that passes")
			r.node.change(func() { r.node.unproven, r.node.failed = false, failed })
			r.reaches(ln.Preimage{1}, name)
			r.node.mu.Lock()
			defer r.node.mu.Unlock()
			require.Equal(t, !failed, r.node.funded == 1)
		})
	}
}

// Fees jump to the ceiling while an output waits: lnd is asked for a child of its change
// that lifts both to what the chain asks, out of what the least change has.
func TestAFundingAtAFeeSpike(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	w := r.wish(p)
	least, err := r.cfg.leastChange(w.AmountSat)
	require.NoError(t, err)
	// Not a sat more than it needs to be offered.
	r.node.change(func() { r.node.coins = 0 })
	r.node.change(func() {
		miner, err := r.maxMiner(r.node.rate)
		require.NoError(t, err)
		whole, err := r.cfg.leastChange(r.cfg.MaxSat)
		require.NoError(t, err)
		r.node.coins = w.AmountSat + miner + whole + r.cfg.ReserveSat
	})
	w.PublishBy = time.Time{}
	_, err = r.OfferOut(r.ctx, w)
	require.NoError(t, err)
	plan := out.PlanOf(r.state(p))
	// The reserve is spent by somebody.
	r.node.change(func() { r.node.coins -= r.cfg.ReserveSat })
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	r.reaches(p, "published")
	r.node.change(func() { r.node.rate = r.cfg.Ceiling })
	require.NoError(t, r.refreshRates(r.ctx))
	r.node.mine(4, false)
	var b bump
	r.sees("a bump", func() bool {
		r.node.mu.Lock()
		defer r.node.mu.Unlock()
		if len(r.node.bumps) == 0 {
			return false
		}
		b = r.node.bumps[0]
		return true
	})
	l, ok := out.LiveOf(r.state(p))
	require.True(t, ok)
	require.Equal(t, l.ChangeOutpoint, b.op)
	require.LessOrEqual(t, b.budget+dustSat, l.ChangeSat)
	require.GreaterOrEqual(t, l.ChangeSat, least)
	child := ln.Sat(b.satPerVByte) * ln.Sat((out.ChildWU+3)/4)
	both, err := r.cfg.Ceiling.Fee(l.WeightWU + out.ChildWU)
	require.NoError(t, err)
	require.GreaterOrEqual(t, child+l.MinerSat, both, "the block takes both at what the chain asks")
	require.LessOrEqual(t, child, b.budget)
}

// Another service of the gateway built on the change: the child is of what that left, and
// pays for it too. While it builds, and holds the coin, nothing is asked that would
// conflict.
func TestAFundingThatOthersBuiltOn(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	plan := r.offer(p)
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	r.reaches(p, "published")
	l, _ := out.LiveOf(r.state(p))
	other := [32]byte{9}
	r.node.change(func() { r.node.leases = append(r.node.leases, ln.Lease{ID: other, Outpoint: l.ChangeOutpoint}) })
	bump := out.BumpHtlc{LeaseID: plan.LeaseID(), Tx: l.Tx, PackageRate: 20_000, MostSat: l.MostBumpSat()}
	require.NoError(t, r.bumpHtlc(r.ctx, plan.ID(), bump))
	require.Empty(t, r.node.bumps)

	open := wire.NewMsgTx(2)
	open.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(l.ChangeOutpoint.TxID), Index: l.ChangeOutpoint.Index}, nil, nil))
	open.AddTxOut(wire.NewTxOut(1_000_000, make([]byte, 34)))
	open.AddTxOut(wire.NewTxOut(500_000, append([]byte{txscript.OP_1, 32}, make([]byte, 32)...)))
	tip := ln.Outpoint{TxID: ln.TxID(open.TxHash()), Index: 1}
	built := ln.WalletTx{
		TxID: tip.TxID, FeeSat: 700, RawTx: rawOf(open), Spends: []ln.Outpoint{l.ChangeOutpoint},
		Outputs: []ln.WalletOutput{{ValueSat: 1_000_000}, {ValueSat: 500_000, Ours: true}},
	}
	// What an earlier bump made pays the wallet alone, and is replaced.
	earlier := ln.WalletTx{TxID: ln.TxID{8}, FeeSat: 900, RawTx: rawOf(open), Spends: []ln.Outpoint{tip}, Outputs: []ln.WalletOutput{{ValueSat: 499_000, Ours: true}}}
	r.node.change(func() { r.node.wallet = []ln.WalletTx{built, earlier} })
	require.NoError(t, r.bumpHtlc(r.ctx, plan.ID(), bump))
	require.Len(t, r.node.bumps, 1)
	b := r.node.bumps[0]
	require.Equal(t, tip, b.op)
	weight := l.WeightWU + uint64(blockchain.GetTransactionWeight(btcutil.NewTx(open))) + out.ChildWU
	want, err := ln.FeeRateSatPerKW(20_000).Fee(weight)
	require.NoError(t, err)
	require.GreaterOrEqual(t, l.MinerSat+700+ln.Sat(b.satPerVByte)*ln.Sat((out.ChildWU+3)/4), want)
	require.LessOrEqual(t, b.budget, l.MostBumpSat())
	bump.MostSat = b.budget / 2
	require.NoError(t, r.bumpHtlc(r.ctx, plan.ID(), bump))
	require.LessOrEqual(t, r.node.bumps[1].budget, bump.MostSat)

	// It left no change.
	built.Outputs[1].Ours = false
	r.node.change(func() { r.node.wallet = []ln.WalletTx{built} })
	require.NoError(t, r.bumpHtlc(r.ctx, plan.ID(), bump))
	require.Len(t, r.node.bumps, 2)
}

// Whatever is configured and swapped: the least change pays for a child that lifts a
// transaction of the expected weight to the ceiling, or for the most that may be paid.
func TestLeastChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Defaults()
		cfg.Ceiling = ln.FeeRateSatPerKW(rapid.Uint64Range(253, 500_000).Draw(t, "ceiling"))
		amount := ln.Sat(rapid.Uint64Range(1_000, 1_000_000_000).Draw(t, "amount"))
		least, err := cfg.leastChange(amount)
		require.NoError(t, err)
		both, err := cfg.Ceiling.Fee(cfg.Price.FundingWU + out.ChildWU)
		require.NoError(t, err)
		l := out.Live{Plan: out.Plan{AmountSat: amount}}
		require.GreaterOrEqual(t, least, dustSat+min(both, l.MostBumpSat()))
	})
}
