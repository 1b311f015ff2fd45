package funding

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func script(k kind, fill byte) []byte {
	switch k {
	case p2wpkh:
		return append([]byte{0, 20}, bytes.Repeat([]byte{fill}, 20)...)
	case p2wsh:
		return append([]byte{0, 32}, bytes.Repeat([]byte{fill}, 32)...)
	default:
		return append([]byte{0x51, 32}, bytes.Repeat([]byte{fill}, 32)...)
	}
}

func coin(n byte, amount ln.Sat, confs int64, k kind) ln.Coin {
	return ln.Coin{Outpoint: ln.Outpoint{TxID: ln.TxID{n, 31: n * 7}, Index: uint32(n)}, AmountSat: amount, Confirmations: confs, PkScript: script(k, n)}
}

// The weight counted is that of the transaction as signed with the largest
// signatures, measured by serialising it.
func TestWeightIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		change := script(rapid.SampledFrom([]kind{p2wpkh, p2tr}).Draw(t, "change"), 200)
		var coins []ln.Coin
		for i := range rapid.IntRange(1, 5).Draw(t, "coins") {
			coins = append(coins, coin(byte(i+1), 50_000, 1, rapid.SampledFrom([]kind{p2wpkh, p2tr}).Draw(t, "kind")))
		}
		all := ln.Sat(len(coins)) * 50_000
		sel, err := Select(coins, Request{FundingSat: all - 12_000, FeeRate: 1000, ChangeScript: change})
		require.NoError(t, err)
		fundingScript := script(p2wsh, 100)
		u, err := Build(sel, fundingScript, change)
		require.NoError(t, err)
		packet, err := psbt.NewFromRawBytes(bytes.NewReader(u.Psbt), false)
		require.NoError(t, err)
		tx := packet.UnsignedTx
		require.Equal(t, u.TxID, ln.TxID(tx.TxHash()))
		require.Equal(t, fundingScript, tx.TxOut[u.FundingIndex].PkScript)
		require.EqualValues(t, sel.FundingSat, tx.TxOut[u.FundingIndex].Value)
		require.Equal(t, change, tx.TxOut[u.ChangeIndex].PkScript)
		var in, out int64
		for i, input := range packet.Inputs {
			in += input.WitnessUtxo.Value
			if kindOf(input.WitnessUtxo.PkScript) == p2wpkh {
				tx.TxIn[i].Witness = wire.TxWitness{make([]byte, 72), make([]byte, 33)}
			} else {
				tx.TxIn[i].Witness = wire.TxWitness{make([]byte, 64)}
			}
		}
		for _, o := range tx.TxOut {
			out += o.Value
		}
		require.EqualValues(t, sel.FeeSat, in-out)
		require.EqualValues(t, sel.WeightWU, tx.SerializeSizeStripped()*3+tx.SerializeSize())
		again, err := Build(sel, fundingScript, change)
		require.NoError(t, err)
		require.Equal(t, u, again)
	})
}

// A coin that a reorg could take is spent where no deeper one does.
func TestBuriedCoinsFirst(t *testing.T) {
	change := script(p2tr, 200)
	fresh, deep, small := coin(1, 500_000, 5, p2tr), coin(2, 2_000_000, 6, p2tr), coin(3, 400_000, 100, p2tr)
	r := Request{FundingSat: 450_000, FeeRate: 500, ChangeScript: change, BuriedConfs: 6}
	for name, c := range map[string]struct {
		coins []ln.Coin
		want  ln.Coin
	}{
		"a dearer deep one": {[]ln.Coin{fresh, deep, small}, deep},
		"no other alone":    {[]ln.Coin{fresh, small}, fresh},
	} {
		sel, err := Select(c.coins, r)
		require.NoError(t, err, name)
		require.Len(t, sel.Inputs, 1, name)
		require.Equal(t, c.want.Outpoint, sel.Inputs[0].Outpoint, name)
	}
}

func TestSelectionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Request{
			FundingSat: ln.Sat(rapid.Uint64Range(1, 1_000_000).Draw(t, "funding")),
			FeeRate:    ln.FeeRateSatPerKW(rapid.Uint64Range(253, 20_000).Draw(t, "rate")),
			// Change of the gateway's own wallet.
			ChangeScript: script(p2tr, 200),
			MinChangeSat: ln.Sat(rapid.Uint64Range(0, 5000).Draw(t, "min change")),
			ReserveSat:   ln.Sat(rapid.Uint64Range(0, 100_000).Draw(t, "reserve")),
			MaxDepth:     rapid.IntRange(0, 3).Draw(t, "max depth"),
			Depth:        map[ln.Outpoint]int{},
		}
		var coins []ln.Coin
		var wallet ln.Sat
		for i := range rapid.IntRange(0, 8).Draw(t, "coins") {
			c := coin(byte(i+1), ln.Sat(rapid.Uint64Range(1, 600_000).Draw(t, "amount")), rapid.Int64Range(0, 2).Draw(t, "confs"),
				rapid.SampledFrom([]kind{p2wpkh, p2tr, p2wsh}).Draw(t, "kind"))
			coins = append(coins, c)
			if rapid.Bool().Draw(t, "ours") {
				r.Depth[c.Outpoint] = rapid.IntRange(1, 4).Draw(t, "depth")
			}
			if _, ours := r.Depth[c.Outpoint]; ours || c.Confirmations > 0 {
				wallet += c.AmountSat
			}
		}
		sel, err := Select(coins, r)
		var short *CoinsShortError
		if errors.As(err, &short) {
			require.Positive(t, short.MissingSat)
			require.Equal(t, errkind.Unavailable, errkind.Of(err))
			return
		}
		require.NoError(t, err)
		require.NoError(t, sel.check())
		used := map[ln.Outpoint]bool{}
		for _, c := range sel.Inputs {
			require.False(t, used[c.Outpoint])
			used[c.Outpoint] = true
			if c.Confirmations == 0 {
				depth, ours := r.Depth[c.Outpoint]
				require.True(t, ours && depth <= r.MaxDepth)
			}
		}
		fee, err := r.FeeRate.Fee(sel.WeightWU)
		require.NoError(t, err)
		require.GreaterOrEqual(t, sel.FeeSat, fee)
		require.Equal(t, fee, sel.FeeSat)
		require.GreaterOrEqual(t, sel.ChangeSat, max(r.MinChangeSat, 330))
		require.GreaterOrEqual(t, wallet-sel.FundingSat-sel.FeeSat, r.ReserveSat)

		// The order in which the wallet lists its coins does not matter.
		other, err := Select(rapid.Permutation(coins).Draw(t, "order"), r)
		require.NoError(t, err)
		require.Equal(t, sel, other)
	})
}

func TestSelectPrefersConfirmed(t *testing.T) {
	young := coin(1, 500_000, 0, p2tr)
	r := Request{FundingSat: 100_000, FeeRate: 253, ChangeScript: script(p2tr, 200), MaxDepth: 2, Depth: map[ln.Outpoint]int{young.Outpoint: 1}}
	sel, err := Select([]ln.Coin{young, coin(2, 60_000, 1, p2tr), coin(3, 60_000, 1, p2tr), coin(4, 300_000, 1, p2tr), coin(5, 200_000, 1, p2tr)}, r)
	require.NoError(t, err)
	require.Len(t, sel.Inputs, 1)
	require.Equal(t, ln.Sat(200_000), sel.Inputs[0].AmountSat, "the smallest confirmed coin that suffices")
	sel, err = Select([]ln.Coin{young, coin(2, 60_000, 1, p2tr)}, r)
	require.NoError(t, err)
	require.Equal(t, young.Outpoint, sel.Inputs[0].Outpoint)
	r.Depth[young.Outpoint] = 3
	_, err = Select([]ln.Coin{young, coin(2, 60_000, 1, p2tr)}, r)
	var short *CoinsShortError
	require.ErrorAs(t, err, &short)
	require.Greater(t, short.MissingSat, ln.Sat(40_000))
	require.Less(t, short.MissingSat, ln.Sat(41_000))
}

func TestBuildRefusesNonsense(t *testing.T) {
	sel := Selection{Inputs: []ln.Coin{coin(1, 10_000, 1, p2tr)}, FundingSat: 5000, ChangeSat: 4000, FeeSat: 1000}
	_, err := Build(sel, script(p2wsh, 1), script(p2tr, 2))
	require.NoError(t, err)
	bad := sel
	bad.FeeSat++
	_, err = Build(bad, script(p2wsh, 1), script(p2tr, 2))
	require.ErrorContains(t, err, "the inputs bring")
	_, err = Build(sel, script(p2wpkh, 1), script(p2tr, 2))
	require.Error(t, err)
	_, err = Build(sel, script(p2tr, 2), script(p2tr, 2))
	require.Error(t, err)
	bad = sel
	bad.Inputs = []ln.Coin{coin(1, 5000, 1, p2tr), coin(1, 5000, 1, p2tr)}
	_, err = Build(bad, script(p2wsh, 1), script(p2tr, 2))
	require.ErrorContains(t, err, "twice")
}

// One transaction funds several channels: each has its output, of its amount, and
// the fee is that of the weight, which is less than what they would pay alone.
func TestSharedFunding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var channels []Payee
		var sum ln.Sat
		for i := range rapid.IntRange(1, 12).Draw(t, "channels") {
			c := Payee{
				AmountSat: ln.Sat(rapid.SampledFrom([]uint64{20_000, 100_000, 250_000}).Draw(t, "amount")),
				Script:    script(rapid.SampledFrom([]kind{p2wsh, p2tr}).Draw(t, "type"), byte(i+1)),
			}
			channels = append(channels, c)
			sum += c.AmountSat
		}
		change := script(p2tr, 200)
		sel, err := Select([]ln.Coin{coin(1, 2_000_000, 1, p2tr), coin(2, 3_000_000, 1, p2wpkh)}, Request{
			FundingSat: sum, Channels: len(channels), FeeRate: 1_000, ChangeScript: change, MinChangeSat: 5_000,
		})
		require.NoError(t, err)
		u, err := BuildShared(sel, channels, change)
		require.NoError(t, err)
		p, err := psbt.NewFromRawBytes(bytes.NewReader(u.Psbt), false)
		require.NoError(t, err)
		tx := p.UnsignedTx
		require.EqualValues(t, u.TxID, tx.TxHash())
		require.Len(t, tx.TxOut, len(channels)+1)
		for i, c := range channels {
			op := u.Fundings[i]
			require.Equal(t, u.TxID, op.TxID)
			require.Equal(t, c.Script, tx.TxOut[op.Index].PkScript)
			require.EqualValues(t, c.AmountSat, tx.TxOut[op.Index].Value)
		}
		require.EqualValues(t, sel.ChangeSat, tx.TxOut[u.Change.Index].Value)
		for i := range tx.TxIn {
			tx.TxIn[i].Witness = wire.TxWitness{make([]byte, 64)}
			if kindOf(p.Inputs[i].WitnessUtxo.PkScript) == p2wpkh {
				tx.TxIn[i].Witness = wire.TxWitness{make([]byte, 72), make([]byte, 33)}
			}
		}
		require.EqualValues(t, sel.WeightWU, tx.SerializeSizeStripped()*3+tx.SerializeSize())
		if len(channels) > 1 {
			require.Less(t, sel.WeightWU, uint64(len(channels))*OpeningWU(1))
			twice := append(slices.Clone(channels), channels[0])
			_, err = BuildShared(sel, twice, change)
			require.ErrorContains(t, err, "two channels have the funding script")
		}
		channels[0].AmountSat++
		_, err = BuildShared(sel, channels, change)
		require.ErrorContains(t, err, "were selected")
	})
}

// Several channels hang on one transaction: coins that no reorg is expected to undo are
// taken for it, if it takes two of them, before one that may go.
func TestSharedFundingPrefersBuried(t *testing.T) {
	r := Request{FundingSat: 300_000, Channels: 2, FeeRate: 253, ChangeScript: script(p2tr, 200), BuriedConfs: 6}
	coins := []ln.Coin{coin(1, 500_000, 1, p2tr), coin(2, 200_000, 6, p2tr), coin(3, 200_000, 9, p2tr)}
	sel, err := Select(coins, r)
	require.NoError(t, err)
	require.Len(t, sel.Inputs, 2)
	r.FundingSat = 450_000
	sel, err = Select(coins, r)
	require.NoError(t, err)
	require.Len(t, sel.Inputs, 1)
	r.FundingSat, r.Channels = 300_000, 1
	sel, err = Select(coins, r)
	require.NoError(t, err)
	require.Len(t, sel.Inputs, 1, "one channel's takes as few as it can")
}

func TestRatePolicy(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := RatePolicy{Floor: 300, Ceiling: 10_000, MaxAge: time.Minute}
	require.Equal(t, Rate{Rate: 500, Asked: 500, Age: time.Minute}, p.Decide(Estimate{500, now.Add(-time.Minute)}, now))
	require.Equal(t, Rate{Rate: 300, Asked: 253}, p.Decide(Estimate{253, now}, now))
	require.Equal(t, Rate{Rate: 10_000, Asked: 10_000}, p.Decide(Estimate{10_000, now}, now))
	require.Equal(t, Rate{Rate: 10_000, Asked: 10_001, High: true}, p.Decide(Estimate{10_001, now}, now))
	require.Equal(t, Rate{Rate: 500, Asked: 500, Age: time.Minute + 1, Stale: true}, p.Decide(Estimate{500, now.Add(-time.Minute - 1)}, now))
	require.Equal(t, Rate{Rate: 300, Stale: true}, p.Decide(Estimate{}, now))
	// A clock that was set back makes an estimate no older.
	require.Equal(t, Rate{Rate: 500, Asked: 500}, p.Decide(Estimate{500, now.Add(time.Hour)}, now))

	for alarm, e := range map[string]Estimate{
		"":          {500, now},
		"no fee":    {},
		"old":       {500, now.Add(-time.Hour)},
		"more than": {20_000, now},
	} {
		got := p.Decide(e, now).Alarm()
		require.Contains(t, got, alarm)
		require.Equal(t, alarm == "", got == "", got)
	}
}

// The weight that prices are made from is that of the transactions themselves.
func TestExpectedWeights(t *testing.T) {
	for n := 1; n <= 3; n++ {
		var coins []ln.Coin
		for i := range n {
			coins = append(coins, coin(byte(i+1), 50_000, 1, p2wpkh))
		}
		sel, err := Select(coins, Request{FundingSat: ln.Sat(n)*50_000 - 10_000, FeeRate: 1000, ChangeScript: script(p2tr, 200)})
		require.NoError(t, err)
		require.Len(t, sel.Inputs, n)
		require.Equal(t, sel.WeightWU, OpeningWU(n))
	}
	require.Equal(t, OpeningWU(1), OpeningWU(0))

	tx := wire.NewMsgTx(2)
	in := wire.NewTxIn(&wire.OutPoint{}, nil, wire.TxWitness{nil, make([]byte, 72), make([]byte, 72), make([]byte, 71)})
	tx.AddTxIn(in)
	for range 2 {
		tx.AddTxOut(wire.NewTxOut(1, script(p2tr, 1)))
	}
	require.EqualValues(t, tx.SerializeSizeStripped()*3+tx.SerializeSize(), ClosingWU)
}
