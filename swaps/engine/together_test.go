package engine

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// payAll answers payments of these preimages.
func (r *rig) payAll(preimages ...ln.Preimage) {
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			for _, p := range preimages {
				if p.Hash() == h {
					return ln.Payment{Hash: h, State: ln.PaymentSucceeded, Preimage: p, FeeMsat: 7_000}, nil
				}
			}
			return ln.Payment{}, errors.New("unknown")
		}
	})
}

func (r *rig) sees(what string, f func() bool) {
	r.t.Helper()
	require.Eventually(r.t, f, 30*time.Second, 2*time.Millisecond, what)
}

// inEnds makes blocks until a swap in is over: who missed one is told by the next.
func (r *rig) inEnds(p ln.Preimage, name string) {
	r.t.Helper()
	for range 200 {
		if s := r.inState(p); in.Final(s) {
			require.Equal(r.t, name, s.StateName())
			return
		}
		time.Sleep(20 * time.Millisecond)
		r.node.mine(1, false)
	}
	require.Fail(r.t, "the swap is not over", "%#v", r.inState(p))
}

// unconfirmed are the transactions that wait for a block, replacements only.
func (r *rig) unconfirmed() (txs []*wire.MsgTx) {
	r.node.mu.Lock()
	defer r.node.mu.Unlock()
	for i, tx := range r.node.published {
		if r.node.confirmed[ln.TxID(tx.TxHash())] == 0 && !r.node.conflicts(i) {
			txs = append(txs, tx)
		}
	}
	return txs
}

// Claims that wait for each other share one transaction, whose fee they share; and
// the books know of each sat.
func TestClaimsTogether(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		r := newRig(t, cfg)
		const amount = 500_000
		var preimages []ln.Preimage
		var paid int64
		for i := range 3 {
			p := ln.Preimage{byte(i + 1)}
			w := r.wishIn(p, amount)
			_, err := r.OfferIn(r.ctx, w)
			require.NoError(t, err)
			paid += int64(r.node.foreign[w.SwapInvoice].AmountMsat)
			preimages = append(preimages, p)
		}
		r.payAll(preimages...)
		for _, p := range preimages {
			r.lock(p, amount)
			r.inReaches(p, located)
		}
		// Each is paid at its second block, and waits for its sixth.
		key, _ := secretKey(22)
		r.node.mine(1, false)
		for _, p := range preimages {
			r.inReaches(p, named("paid"))
			require.NoError(t, r.PushKey(r.ctx, p.Hash(), key))
		}
		r.node.mine(4, false)
		require.Empty(t, r.unconfirmed(), "they have company")
		r.node.mine(2, false)
		for _, p := range preimages {
			r.inReaches(p, named("claiming"))
		}
		r.sees("the claim", func() bool { return len(r.unconfirmed()) == 1 })
		claim := r.unconfirmed()[0]
		require.Len(t, claim.TxIn, 3)
		var share ln.Sat
		for i, p := range preimages {
			require.Len(t, claim.TxIn[i].Witness, 1, "key spends")
			c := r.inState(p).(in.Claiming)
			require.Equal(t, 3, c.Shared)
			share += c.ClaimFeeSat
		}
		fee := int64(3*amount) - claim.TxOut[0].Value
		require.EqualValues(t, fee, share)
		require.LessOrEqual(t, uint64(claim.SerializeSizeStripped()*3+claim.SerializeSize()), htlc.TogetherWU(htlc.SpendKey, htlc.SpendKey, htlc.SpendKey))

		// It lags: one of them signs for all, whoever is told first.
		r.node.mine(3, false)
		r.sees("the replacement", func() bool {
			txs := r.unconfirmed()
			return len(txs) == 1 && len(txs[0].TxIn) == 3 && txs[0].TxOut[0].Value < claim.TxOut[0].Value
		})
		r.node.mine(1, true)
		r.node.mine(5, false)
		for _, p := range preimages {
			r.inEnds(p, "claimed")
		}
		r.node.mu.Lock()
		var brought int64
		for _, tx := range r.node.published {
			if r.node.confirmed[ln.TxID(tx.TxHash())] > 0 {
				brought += tx.TxOut[0].Value
			}
		}
		r.node.mu.Unlock()
		require.EqualValues(t, brought*1000, r.balance(outside), "what the wallet got")
		require.EqualValues(t, 3*amount-brought, r.balance(chainFee)/1000)
		require.EqualValues(t, paid-3*amount*1000, r.balance(swapFee))
	})
}

// Refunds that are due at the same time share a transaction. A client that takes its
// own output after all breaks it, and the next block brings one without it.
func TestRefundsTogether(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	var all []out.Live
	preimages := []ln.Preimage{{1}, {2}, {3}}
	for _, p := range preimages {
		w := r.wish(p)
		w.ExpiryHeight = 620
		_, err := r.OfferOut(r.ctx, w)
		require.NoError(t, err)
		plan := out.PlanOf(r.state(p))
		r.node.pay(plan.Terms.Hash)
		r.node.pay(plan.PrepayHash())
		r.reaches(p, "published")
	}
	r.sees("the outputs", func() bool { return len(r.unconfirmed()) == 3 })
	r.node.mine(1, true)
	for _, p := range preimages {
		s, err := r.await(r.ctx, p.Hash().String(), func(s out.State) bool { l, ok := out.LiveOf(s); return ok && l.ConfirmedHeight > 0 })
		require.NoError(t, err)
		l, _ := out.LiveOf(s)
		all = append(all, l)
	}
	r.node.mine(619-501, false)
	require.Empty(t, r.unconfirmed())
	r.node.mine(1, false)
	for _, p := range preimages {
		r.reaches(p, "refunding")
	}
	r.sees("the refund", func() bool { return len(r.unconfirmed()) == 1 })
	refund := r.unconfirmed()[0]
	require.Len(t, refund.TxIn, 3)
	require.EqualValues(t, 620, refund.LockTime)
	var share ln.Sat
	for _, p := range preimages {
		l, _ := out.LiveOf(r.state(p))
		require.Equal(t, 3, l.Refund.Shared)
		share += l.Refund.FeeSat
	}
	require.EqualValues(t, 3*500_000-refund.TxOut[0].Value, share)

	// The second client takes its output: its payment counts once that is buried, the
	// others are refunded without it.
	contract, err := htlc.New(all[1].Terms)
	require.NoError(t, err)
	client, err := htlc.KeyFromShared([32]byte{31: 7})
	require.NoError(t, err)
	taken, err := contract.Claim(client, preimages[1], all[1].Outpoint, 500_000, []byte{0x51}, 5_000)
	require.NoError(t, err)
	require.NoError(t, r.node.Publish(r.ctx, taken.Raw, ""))
	r.node.mine(1, true)
	s, err := r.await(r.ctx, preimages[1].Hash().String(), func(s out.State) bool { l, _ := out.LiveOf(s); return l.Spent == htlc.SpendSuccess })
	require.NoError(t, err)
	require.Equal(t, "refunding", s.StateName())
	r.node.mine(2, false)
	r.sees("a refund of two", func() bool { txs := r.unconfirmed(); return len(txs) == 1 && len(txs[0].TxIn) == 2 })
	second := r.unconfirmed()[0]
	r.node.mine(1, true)
	for _, i := range []int{0, 2} {
		_, err := r.await(r.ctx, preimages[i].Hash().String(), func(s out.State) bool { l, _ := out.LiveOf(s); return l.Spent == htlc.SpendTimeout })
		require.NoError(t, err)
	}
	r.node.mine(5, false)
	r.reaches(preimages[0], "refunded")
	r.reaches(preimages[1], "succeeded")
	r.reaches(preimages[2], "refunded")
	require.EqualValues(t, (2*500_000-second.TxOut[0].Value)*1000, r.balance(chainFee))
	require.Equal(t, ln.InvoiceSettled, r.invoice(preimages[1].Hash()).State)
	r.sees("the payments went back", func() bool {
		return r.invoice(preimages[0].Hash()).State == ln.InvoiceCanceled && r.invoice(preimages[2].Hash()).State == ln.InvoiceCanceled
	})
}

func (r *rig) invoice(hash ln.Hash) ln.Invoice {
	r.t.Helper()
	inv, err := r.node.LookupInvoice(r.ctx, hash)
	require.NoError(r.t, err)
	return inv
}

// A swap that goes on while a transaction for it is signed: nobody is told of that.
func TestNothingIsStoredForWhoWentOn(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	l := r.published(p)
	live, err := r.allLive(r.ctx)
	require.NoError(t, err)
	m := refundMember(l, 1_000, 0)
	j, err := r.takeTogether(r.ctx, m, nil, r.cfg.RefundBatch, 0, func(string) (htlc.Taking, error) { return r.refundTaking(r.ctx, l) })
	require.NoError(t, err)
	require.NoError(t, r.PushPreimage(r.ctx, p))
	err = storeTogether(r.ctx, r.Engine, r.outs, byID(live), j, func(share ln.Sat) out.Event {
		return out.RefundSigned{Moment: r.moment(), Refund: out.Refund{Raw: j.tx.Raw, TxID: j.tx.TxID, FeeSat: share}}
	})
	require.ErrorIs(t, err, errMoved)
	now, _ := out.LiveOf(r.state(p))
	require.Nil(t, now.Refund)
}

// Another program spends the coin of a funding transaction.
func TestACoinThatIsSpentElsewhere(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	plan := r.offer(p)
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	s := r.reaches(p, "published")
	tx, _ := out.TxOf(s)
	require.Len(t, tx.InputScripts, len(tx.Inputs))
	thief := wire.NewMsgTx(2)
	thief.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(tx.Inputs[0].TxID), Index: tx.Inputs[0].Index}, nil, nil))
	thief.AddTxOut(wire.NewTxOut(1_000, []byte{0x51}))
	var raw bytes.Buffer
	require.NoError(t, thief.Serialize(&raw))
	r.sees("the funding transaction", func() bool { return len(r.unconfirmed()) == 1 })
	require.NoError(t, r.node.Publish(r.ctx, raw.Bytes(), ""))
	r.node.mine(1, true)
	_, err := r.await(r.ctx, plan.ID(), func(s out.State) bool { l, _ := out.LiveOf(s); return l.TakenHeight > 0 })
	require.NoError(t, err)
	require.Error(t, r.PushPreimage(r.ctx, p))
	r.node.mine(4, false)
	require.Equal(t, ln.InvoiceAccepted, r.invoice(p.Hash()).State, "not before it is buried")
	r.node.mine(1, false)
	r.reaches(p, "refunded")
	r.sees("the payment went back", func() bool { return r.invoice(p.Hash()).State == ln.InvoiceCanceled })
	require.EqualValues(t, -plan.PrepaySat*1000, r.balance(noShow))
	require.Zero(t, r.balance(chainFee))
}
