package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// blow is what happens to the gateway's lnd at one of its calls.
type blow int

const (
	loseAnswer blow = iota
	killBefore
	killAfter
	blows
)

func (b blow) String() string { return [...]string{"answer-lost", "killed-before", "killed-after"}[b] }

// strike does it at the n-th call, 0 never, and counts the calls.
func (n *net) strike(at int, b blow) (calls func() int) {
	var mu sync.Mutex
	count, armed, struck := 0, "", at == 0
	n.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
		if c.Node != n.gatewayNode.Name() || c.Phase != lndfake.BeforeCall && c.Phase != lndfake.AfterCall {
			return lndfake.Pass
		}
		mu.Lock()
		defer mu.Unlock()
		now := false
		if c.Phase == lndfake.BeforeCall {
			if count++; count == at {
				armed, now = c.Method, b == killBefore
			}
		} else {
			now = c.Method == armed && b != killBefore
		}
		if struck || !now {
			return lndfake.Pass
		}
		struck = true
		n.t.Logf("--- %s at %s", b, c.Method)
		if b == loseAnswer {
			return lndfake.Lose
		}
		n.gatewayNode.Kill()
		time.AfterFunc(300*time.Millisecond, func() { _ = n.gatewayNode.Start() })
		return lndfake.Pass
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// day has a wallet fund a channel, whatever happens, until it is over; at each state
// that it comes to, seen is called once.
func (n *net) day(seen func(state string)) View {
	n.t.Helper()
	o, packet := n.offer(400_000, 600_000)
	v, err := n.e.Offer(n.t.Context(), o)
	require.NoError(n.t, err)
	states := make(map[string]bool)
	for range 3_000 {
		time.Sleep(20 * time.Millisecond)
		v, err = n.e.Get(n.t.Context(), n.key, v.ID)
		require.NoError(n.t, err)
		if !states[v.State] {
			states[v.State] = true
			seen(v.State)
		}
		switch v.State {
		case "ready":
			// Its own node may be away in this moment.
			if raw, err := n.signature(v, packet); err == nil {
				if _, err := n.e.Sign(n.t.Context(), n.key, v.ID, raw); err != nil {
					n.t.Log(err)
				}
			}
		case "signed", "published", "confirmed":
			n.w.Mine(1)
		}
		if v.Over {
			return v
		}
	}
	require.Fail(n.t, "the day does not end", "it is %s (%s)", v.State, v.Reason)
	return v
}

func (n *net) signature(v View, packet []byte) ([]byte, error) {
	raw, err := funding.ForSigner(v.Tx.Psbt, packet)
	if err != nil {
		return nil, err
	}
	signed, _, err := n.wallet.SignPsbt(n.t.Context(), raw)
	return signed, err
}

// over checks that a day ended well for both: funded, to the sat, or given up with
// nothing left of it.
func (n *net) over(v View) {
	n.t.Helper()
	n.w.OnRPC(nil) // what is asked from here on is the test's
	n.eventually("its coins are free or spent", func() bool {
		list, err := n.gateway.ListLeases(n.t.Context())
		return err == nil && len(list) == 0
	})
	switch v.State {
	case "buried":
		n.paid(v)
	case "failed":
		n.eventually("its channel is forgotten", func() bool { n.w.Mine(1); return n.channels() == 0 })
		require.Equal(n.t, n.before, n.wealth(), "it cost nobody anything")
	default:
		require.Fail(n.t, "an end that is none", v.State)
	}
	require.NoError(n.t, n.w.Err())
}

// paid checks that each side paid what was agreed, and has its balance.
func (n *net) paid(v View) {
	n.t.Helper()
	j, after := v.Ours.Joint, n.wealth()
	require.EqualValues(n.t, n.before[0]-int64(j.Gateway.FeeSat)+int64(v.Plan.ServiceFeeSat), after[0], "the gateway")
	require.EqualValues(n.t, n.before[1]-int64(j.Wallet.FeeSat)-int64(v.Plan.ServiceFeeSat), after[1], "the wallet")
	require.EqualValues(n.t, v.Plan.WalletSat, n.w.Wealth(n.node).ChannelMsat/1000)
	require.Equal(n.t, 1, n.channels())
}

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any
	if s := os.Getenv("SLUICE_SEED"); s != "" && s != "fresh" {
		given, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		seed = given
	}
	t.Logf("SLUICE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// The gateway's lnd dies, or its answer is lost, at each call of a joint funding: a
// drawn sample of calls, all of them with SLUICE_RUNS.
func TestGatewaysNodeDiesAtEachCall(t *testing.T) {
	rng := seeded(t)
	n := newNet(t, storetest.SQLite(t))
	calls := n.strike(0, 0)
	v := n.day(func(string) {})
	require.Equal(t, "buried", v.State)
	n.over(v)
	total := calls()
	require.Greater(t, total, 15)
	for at := 1; at <= total; at++ {
		for b := range blows {
			if os.Getenv("SLUICE_RUNS") == "" && rng.IntN(3*total) >= 12 {
				continue
			}
			t.Run(fmt.Sprintf("%s-%d", b, at), func(t *testing.T) {
				n := newNet(t, storetest.SQLite(t))
				n.strike(at, b)
				n.over(n.day(func(string) {}))
			})
		}
	}
}

// The wallet's lnd dies at each step that it can see, and comes back.
func TestWalletsNodeDiesAtEachStep(t *testing.T) {
	for _, at := range []string{"checking", "choosing", "negotiating", "built", "ready", "countersigning", "signed", "published", "confirmed"} {
		t.Run(at, func(t *testing.T) {
			n := newNet(t, storetest.SQLite(t))
			v := n.day(func(state string) {
				if state == at {
					require.NoError(t, n.node.Restart())
				}
			})
			n.over(v)
		})
	}
}

// The wallet goes away for good: before it has signed the gateway's coins are free
// once its time is over, afterwards the gateway opens the channel alone.
func TestTheWalletDisappears(t *testing.T) {
	for name, signs := range map[string]bool{"before it signs": false, "after it signed": true} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t, storetest.SQLite(t))
			if !signs {
				n.cfg.SignFor = 2 * time.Second
				n.restart()
			}
			o, packet := n.offer(400_000, 600_000)
			v, err := n.e.Offer(t.Context(), o)
			require.NoError(t, err)
			v = n.wait(v.ID, "ready")
			var signed []byte
			if signs {
				signed = n.sign(v, packet)
			}
			n.node.Kill()
			if !signs {
				n.wait(v.ID, "failed")
				n.eventually("its coins are free", func() bool { return n.leases() == 0 })
				n.eventually("its channel is forgotten", func() bool { return n.channels() == 0 })
				require.Equal(t, n.before[0], n.wealth()[0], "it cost the gateway nothing")
				return
			}
			_, err = n.e.Sign(t.Context(), n.key, v.ID, signed)
			require.NoError(t, err)
			n.wait(v.ID, "published")
			n.w.Mine(3)
			v = n.wait(v.ID, "buried")
			require.NoError(t, n.node.Start())
			n.paid(v)
			require.NoError(t, n.w.Err())
		})
	}
}

// What the wallet sends as its signature is something else: another output, another
// amount, another sequence and so another id, a spoilt signature, one for a part of the
// transaction that was then changed, nothing, or noise. It is refused and changes
// nothing; the right one is taken afterwards.
func TestTheWalletSignsSomethingElse(t *testing.T) {
	n := newNet(t, storetest.SQLite(t))
	o, packet := n.offer(400_000, 600_000)
	v, err := n.e.Offer(t.Context(), o)
	require.NoError(t, err)
	v = n.wait(v.ID, "ready")
	good := n.sign(v, packet)
	edited := func(raw []byte, edit func(p *psbt.Packet)) []byte {
		p, err := funding.ParsePsbt(raw)
		require.NoError(t, err)
		edit(p)
		var out bytes.Buffer
		require.NoError(t, p.Serialize(&out))
		return out.Bytes()
	}
	own := func(p *psbt.Packet) int {
		for i, in := range p.UnsignedTx.TxIn {
			if in.PreviousOutPoint.Hash == [32]byte(o.Inputs[0].Outpoint.TxID) && in.PreviousOutPoint.Index == o.Inputs[0].Outpoint.Index {
				return i
			}
		}
		require.Fail(t, "its coin is not in the transaction")
		return 0
	}
	spoil := func(p *psbt.Packet) {
		in := &p.Inputs[own(p)]
		switch {
		case len(in.FinalScriptWitness) > 0:
			in.FinalScriptWitness[len(in.FinalScriptWitness)/2] ^= 1
		case len(in.TaprootKeySpendSig) > 0:
			in.TaprootKeySpendSig[20] ^= 1
		default:
			in.PartialSigs[0].Signature[20] ^= 1
		}
	}
	resigned := func(edit func(p *psbt.Packet)) []byte {
		raw, err := funding.ForSigner(edited(v.Tx.Psbt, edit), packet)
		require.NoError(t, err)
		signed, _, err := n.wallet.SignPsbt(t.Context(), raw)
		require.NoError(t, err)
		return signed
	}
	moreChange := func(p *psbt.Packet) {
		for _, out := range p.UnsignedTx.TxOut {
			if bytes.Equal(out.PkScript, o.ChangeScript) {
				out.Value += 1_000
			}
		}
	}
	for name, raw := range map[string][]byte{
		"more change":        resigned(moreChange),
		"another sequence":   resigned(func(p *psbt.Packet) { p.UnsignedTx.TxIn[0].Sequence-- }),
		"another lock time":  resigned(func(p *psbt.Packet) { p.UnsignedTx.LockTime = 1 }),
		"another channel":    resigned(func(p *psbt.Packet) { p.UnsignedTx.TxOut[v.Tx.Funding.Index].PkScript[5] ^= 1 }),
		"a spoilt signature": edited(good, spoil),
		"no signature":       v.Tx.Psbt,
		"another, its own":   packet,
		"half of one":        good[:len(good)/2],
		"noise":              bytes.Repeat([]byte{7}, 300),
		"nothing":            nil,
		"the signature of one": edited(good, func(p *psbt.Packet) {
			in := &p.Inputs[own(p)]
			in.PartialSigs, in.TaprootKeySpendSig, in.FinalScriptWitness = nil, nil, nil
		}),
	} {
		_, err := n.e.Sign(t.Context(), n.key, v.ID, raw)
		require.Equal(t, errkind.Invalid, errkind.Of(err), "%s: %v", name, err)
		now, err := n.e.Get(t.Context(), n.key, v.ID)
		require.NoError(t, err)
		require.Equal(t, "ready", now.State, name)
	}
	require.Empty(t, n.w.Mempool())
	_, err = n.e.Sign(t.Context(), n.key, v.ID, good)
	require.NoError(t, err)
	n.wait(v.ID, "published")
	n.w.Mine(3)
	n.over(n.wait(v.ID, "buried"))
}

// The network undoes the block of the funding, with the transaction coming back in
// another one; and for good, with the wallet's double-spend in its place.
func TestReorgOfTheFunding(t *testing.T) {
	for name, stolen := range map[string]bool{"it confirms again": false, "a double-spend takes its place": true} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t, storetest.SQLite(t))
			v, packet := n.published()
			n.w.Mine(1)
			n.wait(v.ID, "confirmed")
			n.w.Reorg(1, false)
			n.wait(v.ID, "published")
			if !stolen {
				n.w.Mine(3)
				n.over(n.wait(v.ID, "buried"))
				return
			}
			n.doubleSpend(packet)
			n.w.Mine(3)
			n.wait(v.ID, "conflicted")
			n.nothingCame(2_000)
		})
	}
}

// A miner's coin cannot be spent for 100 blocks: a transaction with a younger one would
// be signed, taken by nobody, and never given up.
func TestAMinersYoungCoinIsRefused(t *testing.T) {
	n := newNet(t, storetest.SQLite(t))
	o, _ := n.offer(400_000, 600_000)
	coins := o.Inputs
	reward := wire.NewMsgTx(2)
	reward.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&chainhash.Hash{}, wire.MaxPrevOutIndex), []byte{1, 1}, nil))
	reward.AddTxOut(wire.NewTxOut(500_000, coins[0].PkScript))
	var raw bytes.Buffer
	require.NoError(t, reward.Serialize(&raw))
	id := ln.TxID(reward.TxHash())
	n.mu.Lock()
	n.mined = map[ln.TxID][]byte{id: raw.Bytes()}
	n.mu.Unlock()
	o.Inputs = []collab.Input{{Coin: ln.Coin{Outpoint: ln.Outpoint{TxID: id}, AmountSat: 500_000, PkScript: coins[0].PkScript}, Height: n.w.Height()}}
	v, err := n.e.Offer(t.Context(), o)
	require.NoError(t, err)
	v = n.wait(v.ID, "failed", "ready")
	require.Equal(t, "failed", v.State)
	require.Contains(t, v.Reason, "miner")
	n.w.Mine(99)
	n.eventually("the gateway knows the tip", func() bool { return n.e.moment().Height == n.w.Height() })
	o.Nonce[3]++
	v, err = n.e.Offer(t.Context(), o)
	require.NoError(t, err)
	n.wait(v.ID, "ready")
}

// nothingCame checks that a channel that can never exist is gone, and that nobody lost
// but the wallet the fee of its own transaction.
func (n *net) nothingCame(fee int64) {
	n.t.Helper()
	n.eventually("the channel is forgotten", func() bool { return n.channels() == 0 })
	n.eventually("its coins are free", func() bool { return n.leases() == 0 })
	after := n.wealth()
	require.Equal(n.t, n.before[0], after[0], "it cost the gateway nothing")
	require.Less(n.t, after[1], n.before[1])
	require.Less(n.t, n.before[1]-after[1], fee, "and the wallet a transaction")
}

// Who offers coins of somebody else gets no further than a signature that it cannot
// make, and who offers the gateway's own not that far.
func TestCoinsOfOthers(t *testing.T) {
	n := newNet(t, storetest.SQLite(t))
	n.cfg.SignFor = 5 * time.Second
	n.restart()
	third, err := n.w.AddNode("third", lndfake.NodeConfig{})
	require.NoError(t, err)
	stranger, err := lnd.Dial(lnd.Config{Address: "passthrough:///third", Network: "regtest", DialOptions: third.DialOptions()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = stranger.Close() })
	for range 2 {
		_, err := third.Fund(300_000)
		require.NoError(t, err)
	}
	n.w.Mine(3)
	for _, c := range []struct {
		owner *lnd.Client
		sat   ln.Sat
		says  string
	}{{stranger, 400_000, "did not sign in time"}, {n.gateway, 1_200_000, "is the gateway's"}} {
		// The gateway takes its largest coins first: with all of them named it takes one
		// of them.
		o, packet := n.offer(400_000, 600_000)
		o.Nonce[1], o.WalletSat = byte(c.sat/1000), c.sat
		coins, err := c.owner.ListCoins(t.Context(), 1)
		require.NoError(t, err)
		o.Inputs = nil
		for _, coin := range coins {
			o.Inputs = append(o.Inputs, collab.Input{Coin: coin, Height: n.w.Height() - uint32(coin.Confirmations) + 1}) //nolint:gosec // few
		}
		v, err := n.e.Offer(t.Context(), o)
		require.NoError(t, err, c.says)
		v = n.wait(v.ID, "ready", "failed")
		if v.State == "ready" {
			require.Equal(t, stranger, c.owner, c.says)
			raw, err := n.signature(v, packet)
			require.NoError(t, err)
			_, err = n.e.Sign(t.Context(), n.key, v.ID, raw)
			require.ErrorContains(t, err, "is not signed", c.says)
			v = n.wait(v.ID, "failed")
		}
		require.Contains(t, v.Reason, c.says)
		n.eventually("the gateway's coins are free", func() bool { return n.leases() == 0 })
		n.eventually("the channel is forgotten", func() bool { return n.channels() == 0 })
		leases, err := n.wallet.ListLeases(t.Context())
		require.NoError(t, err)
		for _, l := range leases {
			require.NoError(t, n.wallet.ReleaseCoin(t.Context(), l.ID, l.Outpoint))
		}
	}
	require.Empty(t, n.w.Mempool())
	require.Equal(t, n.before, n.wealth(), "it cost nobody anything")
	require.EqualValues(t, 600_000, n.w.Wealth(third).TotalMsat()/1000)
	require.NoError(t, n.w.Err())
}
