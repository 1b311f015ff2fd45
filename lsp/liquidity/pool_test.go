package liquidity

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

func script(n byte) []byte { return append([]byte{0x51, 32}, bytes.Repeat([]byte{n}, 32)...) }

func coin(n byte, sat ln.Sat, confs int64) ln.Coin {
	return ln.Coin{Outpoint: ln.Outpoint{TxID: ln.TxID{n}}, AmountSat: sat, PkScript: script(n), Confirmations: confs}
}

func policy() Policy {
	return Policy{Coins: 20, CoinSat: 500_000, Low: 3, CheapRate: 1_000, JoinFrom: 4}
}

// Whatever the wallet holds: what is planned adds up to the sat, spends confirmed
// coins, never leaves fewer coins of the size, and after enough blocks there is
// nothing left to do.
func TestPlansConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policy()
		p.Coins = rapid.IntRange(0, 80).Draw(t, "target")
		var coins []ln.Coin
		for i := range rapid.IntRange(0, 30).Draw(t, "coins") {
			coins = append(coins, coin(byte(i+1), ln.Sat(rapid.Uint64Range(200, 20_000_000).Draw(t, "sat")), rapid.Int64Range(0, 2).Draw(t, "confs")))
		}
		rate := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 3_000).Draw(t, "rate"))
		for round := byte(0); ; round++ {
			require.Less(t, round, byte(60), "it never comes to rest")
			before := p.Take(coins)
			plan, ok, err := p.Decide(coins, rate, script(200))
			require.NoError(t, err)
			if !ok {
				break
			}
			var in, out ln.Sat
			used := map[ln.Outpoint]bool{}
			for _, c := range plan.Inputs {
				require.Positive(t, c.Confirmations)
				in += c.AmountSat
				used[c.Outpoint] = true
			}
			payees := make([]funding.Payee, 0, len(plan.Outputs))
			for _, o := range plan.Outputs {
				out += o
				payees = append(payees, funding.Payee{AmountSat: o, Script: script(200)})
			}
			require.Equal(t, in, out+plan.FeeSat)
			require.Less(t, plan.FeeSat, in/2+20_000)
			_, id, err := funding.BuildPayment(plan.Inputs, payees, plan.FeeSat)
			require.NoError(t, err)
			var next []ln.Coin
			for _, c := range coins {
				if !used[c.Outpoint] {
					c.Confirmations++
					next = append(next, c)
				}
			}
			for i, o := range plan.Outputs {
				next = append(next, ln.Coin{Outpoint: ln.Outpoint{TxID: id, Index: uint32(i)}, AmountSat: o, PkScript: script(200), Confirmations: 1})
			}
			coins = next
			after := p.Take(coins)
			require.GreaterOrEqual(t, after.Ready+after.Coming, min(before.Ready+before.Coming, p.Coins))
			if len(plan.Outputs) > 1 {
				require.LessOrEqual(t, after.Ready+after.Coming, p.Coins, "no more than wanted")
			}
		}
	})
}

func TestDecide(t *testing.T) {
	p := policy()
	large := []ln.Coin{coin(1, 50_000_000, 6)}
	plan, ok, err := p.Decide(large, 900, script(9))
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, plan.Outputs, 20)
	for _, o := range plan.Outputs {
		require.InDelta(t, 50_000_000/20, uint64(o), 1_000, "alike: each is good for several opens")
	}
	rich, ok, err := p.Decide([]ln.Coin{coin(1, 900_000_000, 6)}, 900, script(9))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, 8*p.CoinSat, rich.Outputs[0], "but not for more than eight")
	require.Greater(t, rich.Outputs[19], ln.Sat(800_000_000))
	_, ok, _ = p.Decide([]ln.Coin{coin(1, 50_000_000, 6), coin(2, 600_000, 1), coin(3, 600_000, 1)}, 5_000, script(9))
	require.False(t, ok, "it waits for cheap blocks while there are coins")
	_, ok, _ = p.Decide(large, 5_000, script(9))
	require.True(t, ok, "not when they run out")
	_, ok, _ = p.Decide([]ln.Coin{coin(1, 50_000_000, 0)}, 900, script(9))
	require.False(t, ok, "what is not confirmed is left")
	var many []ln.Coin
	for i := range byte(19) {
		many = append(many, coin(i+1, 600_000, 0))
	}
	plan, ok, _ = p.Decide(append(many, coin(99, 50_000_000, 6)), 900, script(9))
	require.False(t, ok, "what is coming counts: %+v", plan)
	small := []ln.Coin{coin(1, 100_000, 1), coin(2, 100_000, 1), coin(3, 100_000, 1), coin(4, 100_000, 1), coin(5, 300, 1)}
	plan, ok, _ = p.Decide(small, 900, script(9))
	require.True(t, ok)
	require.Len(t, plan.Inputs, 4, "a coin that costs more than it holds is left")
	_, ok, _ = p.Decide(small, 1_100, script(9))
	require.False(t, ok)
	_, ok, _ = Policy{}.Decide(large, 253, script(9))
	require.False(t, ok, "off by default")
}

func TestWhatIsNotNeededIsJoined(t *testing.T) {
	p := policy()
	coins := []ln.Coin{coin(200, 90_000_000, 1)}
	for i := range byte(2*20 - 1) {
		coins = append(coins, coin(i+1, 500_000+ln.Sat(i), 1))
	}
	_, ok, err := p.Decide(coins, 900, script(9))
	require.NoError(t, err)
	require.False(t, ok, "twice what is wanted is left alone")
	coins = append(coins, coin(100, 510_000, 1))
	_, ok, _ = p.Decide(coins, 1_100, script(9))
	require.False(t, ok, "until blocks are cheap")
	plan, ok, err := p.Decide(coins, 900, script(9))
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, plan.Inputs, 21, "as many as are wanted stay")
	require.Len(t, plan.Outputs, 1)
	for _, c := range plan.Inputs {
		require.LessOrEqual(t, c.AmountSat, ln.Sat(500_020), "the smallest go")
	}
}

func TestFollow(t *testing.T) {
	p := policy()
	p.MaxCoins, p.MaxCoinSat = 60, 4_000_000
	start := time.Unix(1_800_000_000, 0)
	day := func(sat ln.Sat, minutes ...int) (opens []Open) {
		for _, m := range minutes {
			opens = append(opens, Open{At: start.Add(time.Duration(m) * time.Minute), Sat: sat})
		}
		return opens
	}
	require.Equal(t, p, p.Follow(nil, 1_000))
	require.Equal(t, p, p.Follow(day(100_000, 0, 100, 200), 1_000), "never below what the operator set")

	burst := make([]int, 0, 30)
	for i := range 30 {
		burst = append(burst, 600+i)
	}
	got := p.Follow(append(day(100_000, 1, 2, 3), day(100_000, burst...)...), 1_000)
	require.Equal(t, 45, got.Coins, "30 came within a refill, and half as many again")
	require.Equal(t, p.CoinSat, got.CoinSat)
	got = p.Follow(append(day(100_000, burst...), day(100_000, burst...)...), 1_000)
	require.Equal(t, 60, got.Coins, "up to what the operator allows")

	require.Equal(t, ln.Sat(500_000), p.Follow(day(499_000, 1, 2), 1_000).CoinSat, "it just fits")
	require.Equal(t, ln.Sat(1_000_000), p.Follow(day(499_001, 1, 2), 1_000).CoinSat)
	require.Equal(t, ln.Sat(4_000_000), p.Follow(day(50_000_000, 1, 2), 1_000).CoinSat, "up to what the operator allows")
	few := append(day(3_000_000, 1), day(100_000, 2, 3, 4, 5, 6, 7, 8, 9, 10)...)
	require.Equal(t, ln.Sat(500_000), p.Follow(few, 1_000).CoinSat, "one of ten does not decide")
	require.Equal(t, ln.Sat(4_000_000), p.Follow(append(few, day(3_000_000, 11)...), 1_000).CoinSat)

	fixed := policy()
	require.False(t, fixed.Follows())
	require.Equal(t, fixed, fixed.Follow(day(50_000_000, burst...), 1_000))
}

func TestRefills(t *testing.T) {
	p := policy()
	for _, c := range []struct {
		s      Stock
		rate   ln.FeeRateSatPerKW
		unsure bool
		want   Refill
	}{
		{Stock{Ready: 20}, 9_000, true, RefillFull},
		{Stock{Ready: 19, Coming: 1}, 9_000, true, RefillBlock},
		{Stock{Ready: 10, Coming: 1}, 900, true, RefillFees},
		{Stock{Ready: 10, Coming: 1}, 1_000, false, RefillDue},
		{Stock{Ready: 10, Coming: 1}, 1_001, false, RefillCheap},
		{Stock{Ready: 2, Coming: 1}, 9_000, false, RefillDue},
	} {
		require.Equal(t, c.want, p.Refills(c.s, c.rate, c.unsure), "%+v", c)
	}
}

func TestForecast(t *testing.T) {
	r := funding.Request{FundingSat: 450_000, FeeRate: 500, ChangeScript: script(200), MinChangeSat: 5_000}
	var coins []ln.Coin
	for i := range byte(30) {
		coins = append(coins, coin(i+1, 500_000, 1))
	}
	n, err := Forecast(coins, r)
	require.NoError(t, err)
	require.Equal(t, 30, n, "one coin each")
	n, err = Forecast([]ln.Coin{coin(1, 50_000_000, 1)}, r)
	require.NoError(t, err)
	require.Equal(t, 1, n, "one large coin is one open per block")
	r.ReserveSat = 5_000_000
	n, err = Forecast(coins, r)
	require.NoError(t, err)
	require.Less(t, n, 30)
	r.FeeRate = 1
	_, err = Forecast(coins, r)
	require.Error(t, err)
}
