package guard_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// TestAHostGetsNoMoreThanAllowed against a model of the chain: coins with their true
// amounts, transactions of a host's making, signatures asked for in any order, on any
// day, with lies about amounts, and a guard that is started again from its log. What a
// transaction really takes counts once it has a true signature for each of its coins.
func TestAHostGetsNoMoreThanAllowed(t *testing.T) {
	w := newWallet(t, 7)
	k := w.keyring()
	rapid.Check(t, func(r *rapid.T) {
		d := deskWith(t, k)
		p := d.p
		type coin struct {
			purpose, index uint32
			sat            int64
		}
		coins := make([]coin, 6)
		for i := range coins {
			coins[i] = coin{rapid.SampledFrom([]uint32{49, 84, 86}).Draw(r, "purpose"), uint32(i), rapid.Int64Range(1_000, 2_000_000).Draw(r, "coin")}
		}
		type try struct {
			x      *draft
			coins  []int
			signed map[int]bool
			// taken is what the wallet loses by it.
			taken int64
			done  time.Time
		}
		var tries []*try
		for range rapid.IntRange(1, 6).Draw(r, "transactions") {
			var outs []out
			own := int64(0)
			for range rapid.IntRange(1, 3).Draw(r, "outputs") {
				sat := rapid.Int64Range(0, 1_200_000).Draw(r, "output")
				switch rapid.IntRange(0, 2).Draw(r, "to") {
				case 0:
					own += sat
					outs = append(outs, out{w.script(86, 1, uint32(len(outs))), sat})
				case 1:
					outs = append(outs, out{stranger(byte(len(tries))), sat})
				case 2:
					outs = append(outs, out{p2wsh([]byte{byte(len(tries)), 0x51}), sat})
				}
			}
			x := &try{x: w.draft(outs...), signed: map[int]bool{}}
			for i, c := range coins {
				if rapid.Bool().Draw(r, "with") {
					x.x.coin(uint32(i+1), c.purpose, 0, c.index, c.sat)
					x.coins = append(x.coins, i)
					x.taken += c.sat
				}
			}
			x.x.foreign(99, rapid.Int64Range(0, 5_000_000).Draw(r, "foreign"))
			x.taken = max(0, x.taken-own)
			tries = append(tries, x)
		}
		at := now()
		for range rapid.IntRange(1, 40).Draw(r, "requests") {
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(6*time.Hour)).Draw(r, "later")))
			if rapid.IntRange(0, 9).Draw(r, "restart") == 0 {
				entries := d.entries
				d = deskWith(t, k)
				d.entries = entries
				for _, e := range entries {
					require.NoError(t, d.b.Apply(e))
				}
			}
			x := rapid.SampledFrom(tries).Draw(r, "transaction")
			if len(x.coins) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(x.coins)-1).Draw(r, "input")
			packet := x.x.ask(i)
			lie := rapid.IntRange(0, 3).Draw(r, "lie") == 0
			if lie {
				claimed := wire.NewTxOut(rapid.Int64Range(0, 3_000_000).Draw(r, "claimed"), packet.Inputs[i].WitnessUtxo.PkScript)
				lie = claimed.Value != packet.Inputs[i].WitnessUtxo.Value
				packet.Inputs[i].WitnessUtxo = claimed
			}
			// About the inputs that nothing is asked for a host lies as it likes.
			for j := range packet.Inputs {
				if j != i {
					packet.Inputs[j].WitnessUtxo = wire.NewTxOut(rapid.Int64Range(0, 9_000_000).Draw(r, "other"), packet.Inputs[j].WitnessUtxo.PkScript)
				}
			}
			if d.sign(packet, at) == "" && !lie {
				if x.signed[i] = true; len(x.signed) == len(x.coins) && x.done.IsZero() {
					x.done = at
				}
			}
			today := d.b.Today(at)
			require.LessOrEqual(t, today.AddressSat, p.AddressSatPerDay)
			require.LessOrEqual(t, today.ChannelSat, p.ChannelSatPerDay)
			require.LessOrEqual(t, today.FeeSat, p.FeeSatPerDay)
		}
		// What left with each transaction is in the log, and within its limits.
		charged := map[string]guard.Sums{}
		for _, e := range d.entries {
			s := charged[e.TxID]
			charged[e.TxID] = guard.Sums{AddressSat: s.AddressSat + e.AddressSat, ChannelSat: s.ChannelSat + e.ChannelSat, FeeSat: s.FeeSat + e.FeeSat}
		}
		for _, x := range tries {
			s := charged[x.x.tx.TxHash().String()]
			require.LessOrEqual(t, s.AddressSat, p.AddressSatPerTx)
			require.LessOrEqual(t, s.ChannelSat, p.ChannelSatPerTx)
			require.LessOrEqual(t, s.FeeSat, p.FeeSatPerTx)
			if !x.done.IsZero() {
				require.GreaterOrEqual(t, s.AddressSat+s.ChannelSat+s.FeeSat, x.taken, "what a transaction takes was not counted")
			}
		}
	})
}

// FuzzReadPsbt: whatever comes is refused or understood, and what is passed on reads the
// same again.
func FuzzReadPsbt(f *testing.F) {
	w := newWallet(f, 7)
	k := w.keyring()
	for _, d := range []*draft{
		w.draft(out{stranger(1), 1_000}, out{w.script(86, 1, 0), 400_000}).coin(1, 84, 0, 0, 500_000).coin(2, 86, 0, 1, 5).coin(3, 49, 0, 1, 5),
		w.draft(out{w.script(86, 1, 0), 1}).from(1, input0{path: family(0, 3), out: wire.NewTxOut(330, p2wsh([]byte{0x51})), witness: []byte{0x51}, hash: 1, tweak: tweakOf(1)}),
	} {
		for i := range d.in {
			f.Add(raw(f, d.ask(i)))
		}
	}
	f.Add([]byte("psbt\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := k.ReadPsbt(data)
		if err != nil {
			ruleOf(t, err)
			return
		}
		again, err := k.ReadPsbt(s.Packet)
		require.NoError(t, err)
		require.Equal(t, s.Packet, again.Packet)
		require.Equal(t, s.TxID(), again.TxID())
		require.Equal(t, s.String(), again.String())
		_, err = psbt.NewFromRawBytes(bytes.NewReader(s.Packet), false)
		require.NoError(t, err)
		e, err := k.Judge(policy(), guard.NewBook(), s, now())
		if err == nil && e != nil {
			require.NoError(t, guard.NewBook().Apply(*e))
		}
	})
}

// FuzzMessage: no message and no key makes it panic, and no other key than the node's and
// a channel's signs any.
func FuzzMessage(f *testing.F) {
	w := newWallet(f, 7)
	k := w.keyring()
	own := announce(f, w)
	for _, m := range [][]byte{own.node, own.update, own.channel, own.foreign, []byte("Lightning Signed Message:x"), []byte("lnbcrt1u")} {
		f.Add(m, int32(6), int32(0), true, false)
		f.Add(m, int32(6), int32(0), false, true)
		f.Add(m, int32(0), int32(3), true, false)
	}
	f.Fuzz(func(t *testing.T, msg []byte, family, index int32, double, compact bool) {
		what, err := k.JudgeMessage(policy(), guard.Message{Key: ln.KeyLocator{Family: family, Index: index}, Text: msg, Double: double, Compact: compact})
		if err == nil {
			require.NotEmpty(t, what)
			require.True(t, family == 6 && index == 0 || family == 0 && index >= 0)
		}
	})
}
