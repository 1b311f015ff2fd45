package agent

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// rateOf is what transactions of the mempool pay together, in sat per vbyte, given what
// the first one spends.
func rateOf(t *testing.T, parent *psbt.Packet, txs ...*wire.MsgTx) float64 {
	t.Helper()
	var fee, weight int64
	for _, in := range parent.Inputs {
		fee += in.WitnessUtxo.Value
	}
	for i, tx := range txs {
		if i > 0 {
			fee += txs[i-1].TxOut[tx.TxIn[0].PreviousOutPoint.Index].Value
		}
		for _, o := range tx.TxOut {
			fee -= o.Value
		}
		weight += blockchain.GetTransactionWeight(btcutil.NewTx(tx))
	}
	return float64(fee) * 4 / float64(weight)
}

// TestHurry: a child of the wallet's change has both reach the rate, costs what was shown
// and no more, and the channel's transaction is the same. It is asked for again when lnd
// forgot it, and nobody builds on the change meanwhile.
func TestHurry(t *testing.T) {
	n := newNet(t)
	r, parent := n.lags()
	packet, err := funding.ParsePsbt(r.Psbt)
	require.NoError(t, err)
	n.mu.Lock()
	n.rate = 500 // the gateway does not hurry it
	n.mu.Unlock()
	leased := n.leases()

	shown, plan, err := n.a.PlanHurry(t.Context(), r.Key(), Hurry{SatPerVByte: 20})
	require.NoError(t, err)
	require.Nil(t, shown.Hurry)
	require.Empty(t, n.node.Bumping(), "a plan asks for nothing")
	require.Equal(t, leased, n.leases())
	require.Equal(t, r.ChangeSat, plan.ChangeSat)
	require.Equal(t, r.Channel.TxID, plan.Change.TxID)
	require.InDelta(t, 20, plan.TogetherSatPerVByte, 1)
	require.InDelta(t, 2, plan.ParentSatPerVByte, 1)
	require.GreaterOrEqual(t, plan.MostSat, plan.FeeSat)

	agreed := Hurry{SatPerVByte: 20, MaxFeeSat: plan.MostSat}
	done, act, err := n.a.Hurry(t.Context(), r.Key(), agreed)
	require.NoError(t, err)
	require.Equal(t, plan, act, "what was shown is what is done")
	require.Equal(t, &agreed, done.Hurry)
	require.Equal(t, []wire.OutPoint{{Hash: parent.TxHash(), Index: plan.Change.Index}}, n.node.Bumping())
	require.ErrorIs(t, leases.ForChild(t.Context(), n.wallet, [32]byte{1}, plan.Change), ln.ErrLeased)

	// lnd forgets what it was asked for when it ends.
	require.NoError(t, n.node.Restart())
	require.Empty(t, n.node.Bumping())
	n.restart()
	require.Eventually(t, func() bool { n.a.wake(); return len(n.node.Bumping()) == 1 }, time.Minute, 10*time.Millisecond, "it is asked again")

	n.w.MineEmpty()
	require.Eventually(t, func() bool { return len(n.w.Mempool()) == 2 }, time.Minute, 10*time.Millisecond)
	pool := n.w.Mempool()
	if pool[0].TxHash() != parent.TxHash() {
		pool[0], pool[1] = pool[1], pool[0]
	}
	require.Equal(t, parent.TxHash(), pool[0].TxHash(), "another id would void the commitments")
	require.InDelta(t, 20, rateOf(t, packet, pool...), 2)
	paid := int64(plan.ChangeSat) - pool[1].TxOut[0].Value //nolint:gosec // small
	require.LessOrEqual(t, paid, int64(plan.MostSat))      //nolint:gosec // small

	// The same once more is there already; more replaces it.
	_, _, err = n.a.PlanHurry(t.Context(), r.Key(), Hurry{SatPerVByte: 5})
	require.ErrorContains(t, err, "for it already", "an earlier child pays more")
	_, more, err := n.a.PlanHurry(t.Context(), r.Key(), Hurry{SatPerVByte: 40, MaxFeeSat: 100_000})
	require.NoError(t, err)
	require.Greater(t, more.FeeSat, plan.FeeSat)

	n.w.Mine(3)
	n.phase(r.Key(), PhaseDone)
	require.Zero(t, n.leases())
	require.EqualValues(t, n.before-int64(r.ServiceFeeSat)-int64(r.ChainFeeSat)-paid, n.w.Wealth(n.node).TotalMsat()/1000)
	require.EqualValues(t, 400_000, n.w.Wealth(n.node).ChannelMsat/1000)
	require.NoError(t, n.w.Err())
	_, _, err = n.a.Hurry(t.Context(), r.Key(), agreed)
	require.ErrorContains(t, err, "it is confirmed")
}

// TestNotEverythingIsHurried: each refusal in its own sentence, and lnd is asked for
// nothing.
func TestNotEverythingIsHurried(t *testing.T) {
	n := newNet(t)
	ready, err := n.a.Open(t.Context(), request())
	require.NoError(t, err)
	refused := func(key string, h Hurry, kind errkind.Kind, said string) {
		t.Helper()
		_, _, planned := n.a.PlanHurry(t.Context(), key, h)
		_, _, err := n.a.Hurry(t.Context(), key, h)
		for _, err := range []error{planned, err} {
			require.ErrorContains(t, err, said)
			require.Equal(t, kind, errkind.Of(err))
		}
		require.Empty(t, n.node.Bumping())
		for _, r := range n.a.List() {
			require.Nil(t, r.Hurry, "nothing is noted that was refused")
		}
	}
	fast := Hurry{SatPerVByte: 20}
	refused(ready.Key(), fast, errkind.Conflict, "is ready: only what is signed")
	_, err = n.a.Abort(t.Context(), ready.Key())
	require.NoError(t, err)
	refused("0000", fast, errkind.NotFound, "there is no joint funding")

	r, tx := n.lags()
	refused(r.Key(), Hurry{}, errkind.Invalid, "name a rate")
	refused(r.Key(), Hurry{SatPerVByte: 1_001}, errkind.Invalid, "name a rate")
	refused(r.Key(), Hurry{SatPerVByte: 1}, errkind.Conflict, "sat per vbyte already")
	refused(r.Key(), Hurry{SatPerVByte: 900}, errkind.Invalid, "more than")
	refused(r.Key(), Hurry{SatPerVByte: 20, MaxFeeSat: 100}, errkind.Invalid, "allow it with --max-fee")
	// More than the change holds is made as far as it goes, if that was allowed.
	_, c, err := n.a.PlanHurry(t.Context(), r.Key(), Hurry{SatPerVByte: 1_000, MaxFeeSat: 10_000_000})
	require.NoError(t, err)
	require.True(t, c.Capped)
	require.LessOrEqual(t, c.MostSat+330, r.ChangeSat)

	// What no child helps.
	with := func(change func(*Record)) (key string, undo func()) {
		before := n.record(r.Key())
		after := before
		change(&after)
		require.NoError(t, n.a.save(after))
		return after.Key(), func() { require.NoError(t, n.a.save(before)) }
	}
	for said, change := range map[string]func(*Record){
		"is another wallet's":      func(r *Record) { r.Elsewhere = true },
		"nothing of it came back":  func(r *Record) { r.ChangeSat = 0 },
		"are being taken back":     func(r *Record) { r.Alarm = takingBack },
		"has no change of this":    func(r *Record) { r.ChangeScript = []byte{0x51, 0x20} },
		"has not published it yet": func(r *Record) { r.Channel.TxID[0] ^= 1 },
		"what its coins hold":      func(r *Record) { r.Psbt = withoutAmounts(t, r.Psbt) },
	} {
		key, undo := with(change)
		kind := errkind.Conflict
		if said == "what its coins hold" {
			kind = errkind.Internal
		}
		refused(key, fast, kind, said)
		undo()
	}

	// Something is being built on the change.
	other := [32]byte{7}
	require.NoError(t, n.wallet.LeaseCoin(t.Context(), other, c.Change, time.Hour))
	_, _, err = n.a.Hurry(t.Context(), r.Key(), fast)
	require.ErrorContains(t, err, "is being built on the change")
	require.Empty(t, n.node.Bumping())
	require.NoError(t, n.wallet.ReleaseCoin(t.Context(), other, c.Change))
	require.Nil(t, n.record(r.Key()).Hurry, "nothing is made later of what was refused")

	// lnd refuses, or its macaroon does.
	leased := n.leases()
	n.a.ports.Spender = noBump{n.a.ports.Spender}
	_, _, err = n.a.Hurry(t.Context(), r.Key(), fast)
	require.ErrorContains(t, err, "permission denied")
	require.Nil(t, n.record(r.Key()).Hurry)
	require.Equal(t, leased, n.leases(), "the change is free")

	// The change is spent by a payment of the wallet's own.
	n.spendChange(tx, c.Change)
	refused(r.Key(), fast, errkind.Conflict, "the change is spent by transaction")
	n.w.Mine(1)
	require.Eventually(t, func() bool {
		_, _, err := n.a.PlanHurry(t.Context(), r.Key(), fast)
		return errkind.Of(err) == errkind.Conflict && err != nil
	}, time.Minute, 10*time.Millisecond)
	refused(r.Key(), fast, errkind.Conflict, "it is in block")
	require.NoError(t, n.w.Err())
}

// TestHurryTheReplacement: the one whose place is taken is not hurried.
func TestHurryTheReplacement(t *testing.T) {
	n := newNet(t)
	old, _ := n.lags()
	next, err := n.a.Replace(t.Context(), old.Key(), 0)
	require.NoError(t, err)
	_, err = n.a.Sign(t.Context(), next.Key(), nil)
	require.NoError(t, err)
	_, _, err = n.a.PlanHurry(t.Context(), old.Key(), Hurry{SatPerVByte: 40})
	require.ErrorContains(t, err, next.Key()+" takes its place")
	require.Eventually(t, func() bool {
		_, c, err := n.a.PlanHurry(t.Context(), next.Key(), Hurry{SatPerVByte: 40, MaxFeeSat: 50_000})
		return err == nil && c.Change.TxID == next.Channel.TxID
	}, time.Minute, 10*time.Millisecond)
}

func (n *net5) record(key string) Record {
	n.t.Helper()
	for _, r := range n.a.List() {
		if r.Key() == key {
			return r
		}
	}
	n.t.Fatalf("there is no record %s", key)
	return Record{}
}

// withoutAmounts is a PSBT that does not say what its coins hold.
func withoutAmounts(t *testing.T, raw []byte) []byte {
	t.Helper()
	p, err := funding.ParsePsbt(raw)
	require.NoError(t, err)
	for i := range p.Inputs {
		p.Inputs[i].WitnessUtxo = nil
	}
	return serialized(t, p)
}

func serialized(t *testing.T, p *psbt.Packet) []byte {
	t.Helper()
	var raw bytes.Buffer
	require.NoError(t, p.Serialize(&raw))
	return raw.Bytes()
}

// spendChange has the wallet pay somebody else with the change.
func (n *net5) spendChange(parent *wire.MsgTx, change ln.Outpoint) {
	n.t.Helper()
	out := parent.TxOut[change.Index]
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: parent.TxHash(), Index: change.Index}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(out.Value-1_000, append([]byte{0x51, 32}, make([]byte, 32)...)))
	p, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(n.t, err)
	p.Inputs[0].WitnessUtxo = out
	signed, err := n.wallet.FinalizePsbt(n.t.Context(), serialized(n.t, p))
	require.NoError(n.t, err)
	require.NoError(n.t, n.wallet.Publish(n.t.Context(), signed, ""))
}

// noBump is a node whose macaroon is of before.
type noBump struct{ Spender }

func (noBump) BumpFee(context.Context, ln.Outpoint, uint64, ln.Sat) error {
	return errors.New("permission denied")
}
