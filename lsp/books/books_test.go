package books_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/books"
)

func txid(n byte) ln.TxID { return ln.TxID{n} }

func at(n byte, i uint32) ln.Outpoint { return ln.Outpoint{TxID: txid(n), Index: i} }

// rawTx is a closing transaction with these outputs, and its id.
func rawTx(t require.TestingT, values ...int64) ([]byte, ln.TxID) {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: 7}})
	for _, v := range values {
		tx.AddTxOut(wire.NewTxOut(v, []byte{0x51}))
	}
	var raw bytes.Buffer
	require.NoError(t, tx.Serialize(&raw))
	return raw.Bytes(), ln.TxID(tx.TxHash())
}

func sums(lines []books.Line) map[string]int64 {
	out := map[string]int64{}
	for _, l := range lines {
		out[l.Account] += l.Msat
	}
	return out
}

func zero(t require.TestingT, lines []books.Line) {
	var sum int64
	for _, l := range lines {
		sum += l.Msat
	}
	require.Zero(t, sum, "%v", lines)
}

// world is two channels of ours and one of a peer's, the first force-closed.
func world(t require.TestingT) (map[ln.Outpoint]*books.Channel, ln.TxID) {
	// An anchor of each side, to_local, to_remote, an HTLC; 5,340 sat of fee.
	raw, closeTx := rawTx(t, 330, 330, 60_000, 24_000, 10_000)
	return map[ln.Outpoint]*books.Channel{
		at(1, 0): {
			Outpoint: at(1, 0), Initiator: true, CapacitySat: 100_000, Phase: books.Closing, Commitment: true, Funded: true,
			CloseTx: closeTx, CloseRaw: raw,
		},
		at(1, 1): {Outpoint: at(1, 1), Initiator: true, CapacitySat: 50_000, PushSat: 1_000, Phase: books.Pending},
		at(2, 0): {Outpoint: at(2, 0), CapacitySat: 80_000, PushSat: 5_000, Phase: books.Open, Funded: true},
	}, closeTx
}

func TestBook(t *testing.T) {
	channels, closeTx := world(t)
	known := books.NewKnown(channels, nil, map[ln.Outpoint]bool{at(9, 0): true, at(10, 1): true, at(10, 2): true})
	for _, i := range []uint32{1, 2} {
		channels[at(10, i)] = &books.Channel{Outpoint: at(10, i), Initiator: true, CapacitySat: 70_000, Phase: books.Pending}
	}
	channels[at(9, 0)] = &books.Channel{Outpoint: at(9, 0), Initiator: true, CapacitySat: 70_000, Phase: books.Open}
	ours := func(op ln.Outpoint) ln.WalletInput { return ln.WalletInput{Outpoint: op, Ours: true} }
	for name, c := range map[string]struct {
		tx     ln.WalletTx
		want   map[string]int64
		staged []books.Stage
	}{
		"a batch of two opens, one with a push, and a payment": {
			tx: ln.WalletTx{
				TxID: txid(1), AmountSat: -163_000, FeeSat: 1_000, Inputs: []ln.WalletInput{ours(at(5, 0))},
				Outputs: []ln.WalletOutput{{ValueSat: 100_000}, {ValueSat: 50_000}, {ValueSat: 12_000}, {ValueSat: 900, Ours: true}},
			},
			want: map[string]int64{
				books.OnChain: -163_000_000, books.ChanAccount(at(1, 0)): 100_000_000, books.ChanAccount(at(1, 1)): 49_000_000,
				books.Pushed: 1_000_000, books.ChainFee: 1_000_000, books.Outside: 12_000_000,
			},
		},
		"an open that a machine has booked": {
			tx:   ln.WalletTx{TxID: txid(9), AmountSat: -70_500, FeeSat: 500, Inputs: []ln.WalletInput{ours(at(5, 1))}, Outputs: []ln.WalletOutput{{ValueSat: 70_000}}},
			want: map[string]int64{books.OnChain: -70_500_000, books.FundingAccount(at(9, 0)): 70_500_000},
		},
		"a batch of opens that machines have booked": {
			tx: ln.WalletTx{
				TxID: txid(10), AmountSat: -140_700, FeeSat: 700, Inputs: []ln.WalletInput{ours(at(5, 1))},
				Outputs: []ln.WalletOutput{{ValueSat: 900, Ours: true}, {ValueSat: 70_000}, {ValueSat: 70_000}},
			},
			want: map[string]int64{books.OnChain: -140_700_000, books.FundingAccount(at(10, 1)): 140_700_000},
		},
		"a payment to us": {
			tx:   ln.WalletTx{TxID: txid(3), AmountSat: 7_000, Inputs: []ln.WalletInput{{Outpoint: at(8, 0)}}, Outputs: []ln.WalletOutput{{ValueSat: 7_000, Ours: true}}},
			want: map[string]int64{books.OnChain: 7_000_000, books.Outside: -7_000_000},
		},
		"a CPFP child": {
			tx:   ln.WalletTx{TxID: txid(4), AmountSat: -800, FeeSat: 800, Inputs: []ln.WalletInput{ours(at(1, 3))}, Outputs: []ln.WalletOutput{{ValueSat: 100, Ours: true}}},
			want: map[string]int64{books.OnChain: -800_000, books.ChainFee: 800_000},
		},
		"a cooperative close of ours": {
			tx: ln.WalletTx{
				TxID: txid(6), AmountSat: 60_000, Inputs: []ln.WalletInput{{Outpoint: at(1, 0)}},
				Outputs: []ln.WalletOutput{{ValueSat: 60_000, Ours: true}, {ValueSat: 39_000}},
			},
			want: map[string]int64{books.OnChain: 60_000_000, books.ClosingAccount(at(1, 0)): -60_000_000},
		},
		"a cooperative close that the peer pays for": {
			tx: ln.WalletTx{
				TxID: txid(6), AmountSat: 5_000, Inputs: []ln.WalletInput{{Outpoint: at(2, 0)}},
				Outputs: []ln.WalletOutput{{ValueSat: 5_000, Ours: true}, {ValueSat: 74_000}},
			},
			want: map[string]int64{books.OnChain: 5_000_000, books.ClosingAccount(at(2, 0)): -5_000_000},
		},
		"a sweep of balance and anchor": {
			tx: ln.WalletTx{
				TxID: txid(7), AmountSat: 60_100, Inputs: []ln.WalletInput{{Outpoint: ln.Outpoint{TxID: closeTx, Index: 2}}, {Outpoint: ln.Outpoint{TxID: closeTx}}},
				Outputs: []ln.WalletOutput{{ValueSat: 60_100, Ours: true}},
			},
			want: map[string]int64{books.OnChain: 60_100_000, books.ClosingAccount(at(1, 0)): -60_330_000, books.SweepFee: 230_000},
		},
		"an anchor that hurries the commitment with a coin": {
			tx: ln.WalletTx{
				TxID: txid(7), AmountSat: -170, Inputs: []ln.WalletInput{{Outpoint: ln.Outpoint{TxID: closeTx}}, ours(at(5, 2))},
				Outputs: []ln.WalletOutput{{ValueSat: 9_830, Ours: true}},
			},
			want: map[string]int64{books.OnChain: -170_000, books.ClosingAccount(at(1, 0)): -330_000, books.SweepFee: 500_000},
		},
		"a second stage, paid by a coin": {
			tx: ln.WalletTx{
				TxID: txid(7), AmountSat: -250, Inputs: []ln.WalletInput{{Outpoint: ln.Outpoint{TxID: closeTx, Index: 4}}, ours(at(5, 3))},
				Outputs: []ln.WalletOutput{{ValueSat: 10_000}, {ValueSat: 4_750, Ours: true}},
			},
			want:   map[string]int64{books.OnChain: -250_000, books.SweepFee: 250_000},
			staged: []books.Stage{{Outpoint: at(7, 0), Channel: at(1, 0), ValueSat: 10_000}},
		},
	} {
		got := known.Book(c.tx)
		zero(t, got.Lines)
		require.Equal(t, c.want, sums(got.Lines), name)
		require.Equal(t, c.staged, got.Staged, name)
	}

	// The second stage's output is the channel's, and its sweep brings it home.
	after := books.NewKnown(channels, map[ln.TxID]*books.Tx{txid(7): {Staged: []books.Stage{{Outpoint: at(7, 0), Channel: at(1, 0), ValueSat: 10_000}}}}, nil)
	sweep := after.Book(ln.WalletTx{TxID: txid(10), AmountSat: 9_800, Inputs: []ln.WalletInput{{Outpoint: at(7, 0)}}, Outputs: []ln.WalletOutput{{ValueSat: 9_800, Ours: true}}})
	require.Equal(t, map[string]int64{books.OnChain: 9_800_000, books.ClosingAccount(at(1, 0)): -10_000_000, books.SweepFee: 200_000}, sums(sweep.Lines))

	// Without the commitment nobody can tell the fee: nothing is guessed.
	channels[at(1, 0)].CloseRaw = nil
	blind := books.NewKnown(channels, nil, nil).Book(ln.WalletTx{
		TxID: txid(7), AmountSat: 59_000, Inputs: []ln.WalletInput{{Outpoint: ln.Outpoint{TxID: closeTx, Index: 2}}}, Outputs: []ln.WalletOutput{{ValueSat: 59_000, Ours: true}},
	})
	require.Equal(t, map[string]int64{books.OnChain: 59_000_000, books.ClosingAccount(at(1, 0)): -59_000_000}, sums(blind.Lines))
}

// TestEveryTransactionBalances: whatever lnd lists, the entry sums to zero and
// moves the wallet by exactly lnd's amount.
func TestEveryTransactionBalances(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		channels, closeTx := world(rt)
		known := books.NewKnown(channels, nil, nil)
		tx := ln.WalletTx{TxID: txid(byte(rapid.IntRange(1, 12).Draw(rt, "txid"))), AmountSat: rapid.Int64Range(-1e9, 1e9).Draw(rt, "amount")}
		tx.FeeSat = ln.Sat(rapid.Uint64Range(0, 1e6).Draw(rt, "fee"))
		for range rapid.IntRange(1, 4).Draw(rt, "inputs") {
			ops := []ln.Outpoint{at(1, 0), at(2, 0), at(5, 0), {TxID: closeTx, Index: 2}, {TxID: closeTx, Index: 9}}
			tx.Inputs = append(tx.Inputs, ln.WalletInput{Outpoint: rapid.SampledFrom(ops).Draw(rt, "input"), Ours: rapid.Bool().Draw(rt, "ours")})
		}
		for range rapid.IntRange(1, 4).Draw(rt, "outputs") {
			tx.Outputs = append(tx.Outputs, ln.WalletOutput{ValueSat: rapid.Int64Range(0, 1e9).Draw(rt, "value"), Ours: rapid.Bool().Draw(rt, "ours")})
		}
		got := known.Book(tx)
		zero(rt, got.Lines)
		require.Equal(rt, tx.AmountSat*1000, sums(got.Lines)[books.OnChain])
		both := append(append([]books.Line(nil), got.Lines...), books.Reversed(got.Lines)...)
		require.Empty(rt, books.Tidy(both), "a reversal leaves nothing")
	})
}

func TestLosers(t *testing.T) {
	tx := func(id byte, confs int32, fee ln.Sat, at int64, spends ...ln.Outpoint) ln.WalletTx {
		w := ln.WalletTx{TxID: txid(id), Confirmations: confs, FeeSat: fee, At: time.Unix(at, 0), Spends: spends}
		for _, op := range spends {
			w.Inputs = append(w.Inputs, ln.WalletInput{Outpoint: op, Ours: true})
		}
		w.Outputs = []ln.WalletOutput{{ValueSat: int64(id) * 1000, Ours: true}}
		return w
	}
	for name, c := range map[string]struct {
		txs    []ln.WalletTx
		losers []byte
		high   int64
		blind  bool
	}{
		"no conflict":            {txs: []ln.WalletTx{tx(1, 0, 5, 1, at(9, 0)), tx(2, 0, 5, 1, at(1, 0))}},
		"the higher fee stands":  {txs: []ln.WalletTx{tx(1, 0, 5, 1, at(9, 0)), tx(2, 0, 6, 2, at(9, 0))}, losers: []byte{1}, high: 1000},
		"the confirmed one does": {txs: []ln.WalletTx{tx(1, 3, 5, 1, at(9, 0)), tx(2, 0, 6, 2, at(9, 0))}, losers: []byte{2}, high: 2000},
		"equal fees: the later":  {txs: []ln.WalletTx{tx(1, 0, 5, 1, at(9, 0)), tx(2, 0, 5, 2, at(9, 0))}, losers: []byte{1}, high: 1000},
		"descendants fall with it": {
			txs: []ln.WalletTx{tx(3, 0, 99, 3, at(1, 0)), tx(1, 0, 5, 1, at(9, 0)), tx(2, 0, 6, 2, at(9, 0))}, losers: []byte{1, 3}, high: 3000,
		},
		"a coin that it alone spent is free again": {
			txs:    []ln.WalletTx{tx(8, 1, 5, 1, at(7, 0)), tx(1, 0, 5, 1, at(9, 0), at(8, 0)), tx(2, 0, 6, 2, at(9, 0))},
			losers: []byte{1}, high: 1000 - 8000,
		},
		"of unknown value": {txs: []ln.WalletTx{tx(1, 0, 5, 1, at(9, 0), at(8, 0)), tx(2, 0, 6, 2, at(9, 0))}, losers: []byte{1}, high: 1000, blind: true},
	} {
		want := map[ln.TxID]bool{}
		for _, id := range c.losers {
			want[txid(id)] = true
		}
		losers := books.Losers(c.txs)
		require.Equal(t, want, losers, name)
		high, known := books.MiscountedSat(c.txs, losers)
		require.Equal(t, c.high, high, name)
		require.Equal(t, !c.blind, known, name)
	}
}

// TestRestAsksForEvidence: what is left of a closed channel is booked only as
// far as lnd's records explain it.
func TestRestAsksForEvidence(t *testing.T) {
	raw, closeTx := rawTx(t, 330, 330, 60_000, 24_000, 10_000)
	const fee = 100_000 - 94_660
	force := books.Channel{CapacitySat: 100_000, Initiator: true, Kind: ln.CloseLocalForce, Phase: books.Closed, CloseTx: closeTx, CloseRaw: raw}
	with := func(f func(*books.Channel)) books.Channel { c := force; f(&c); return c }
	for name, c := range map[string]struct {
		ch      books.Channel
		left    int64
		account string
	}{
		"fee and both anchors":         {force, (fee + 660) * 1000, books.CloseFee},
		"and not a satoshi more":       {force, (fee + 662) * 1000, ""},
		"an anchor that a peer paid":   {force, -330_000, books.CloseFee},
		"no gain beyond it":            {force, -332_000, ""},
		"an output nobody claimed":     {with(func(c *books.Channel) { c.Resolutions = []ln.Resolved{{AmountSat: 900, Lost: true}} }), (fee + 1560) * 1000, books.CloseFee},
		"booked before counts":         {with(func(c *books.Channel) { c.RestMsat = fee * 1000 }), 662_000, ""},
		"no closing transaction":       {with(func(c *books.Channel) { c.CloseRaw = nil }), 1, ""},
		"another closing transaction":  {with(func(c *books.Channel) { c.CloseTx = txid(1) }), 1, ""},
		"abandoned":                    {with(func(c *books.Channel) { c.Kind = ln.CloseAbandoned }), 100_000_000, books.Abandoned},
		"a breach that we punished":    {with(func(c *books.Channel) { c.Kind = ln.CloseBreach }), -50_000_000, books.Justice},
		"a breach that cost us more":   {with(func(c *books.Channel) { c.Kind = ln.CloseBreach }), 50_000_000, ""},
		"a cooperative close's dust":   {with(func(c *books.Channel) { c.Kind, c.CloseRaw = ln.CloseCooperative, nil }), 999, books.CloseFee},
		"not a cooperative close's":    {with(func(c *books.Channel) { c.Kind, c.CloseRaw = ln.CloseCooperative, nil }), 2_000_000, ""},
		"a cooperative close's fee":    {with(func(c *books.Channel) { c.Kind, c.SettledSat = ln.CloseCooperative, 60_000 }), fee * 1000, books.CloseFee},
		"which the peer paid":          {with(func(c *books.Channel) { c.Kind, c.SettledSat = ln.CloseCooperative, 60_000 }), 0, books.CloseFee},
		"or not half of it":            {with(func(c *books.Channel) { c.Kind, c.SettledSat = ln.CloseCooperative, 60_000 }), fee * 500, ""},
		"too small for an output":      {with(func(c *books.Channel) { c.Kind = ln.CloseCooperative }), fee * 500, books.CloseFee},
		"closing before we looked":     {with(func(c *books.Channel) { c.ClosingAtStart = true }), 20_000_000, books.CloseFee},
		"a kind that lnd may add once": {with(func(c *books.Channel) { c.Kind = "TELEPORTED" }), (fee + 662) * 1000, ""},
	} {
		account, err := c.ch.Rest(c.left)
		if c.account == "" {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.account, account, name)
	}
}

func TestOwed(t *testing.T) {
	p := ln.PendingChannel{
		Kind: ln.PendingForceClose, Commitment: true, CapacitySat: 100_000, LocalSat: 60_000, RemoteSat: 24_000, LimboSat: 70_330, LimboHtlcSat: 10_000,
	}
	ch := books.Channel{CapacitySat: 100_000, Initiator: true}
	for name, c := range map[string]struct {
		left, claimed int64
		ok            bool
	}{
		"all as expected":                    {76_000_000, 0, true},
		"the HTLC is not ours":               {60_000_000, 0, true},
		"less than that":                     {59_900_000, 0, false},
		"more than the capacity leaves":      {86_400_000, 0, false},
		"what is swept is neither's":         {16_000_000, 60_000_000, true},
		"a sweep of the whole is still fine": {0, 70_330_000, true},
	} {
		_, ok := ch.Owed(p, c.left, c.claimed, false)
		require.Equal(t, c.ok, ok, name)
	}
	// A cooperative close: one side pays its whole fee of 400 sat.
	coop := ln.PendingChannel{Kind: ln.PendingWaitingClose, CapacitySat: 100_000, LocalSat: 60_000, RemoteSat: 39_000, LimboSat: 60_000}
	ch.CloseRaw, ch.CloseTx = rawTx(t, 60_000, 39_600)
	for left, want := range map[int64]bool{0: true, 999: true, 400_000: true, 401_001: true, 200_000: false, 500_000: false, -3000: false} {
		_, ok := ch.Owed(coop, left, 0, true)
		require.Equal(t, want, ok, "%d", left)
	}
	_, ok := ch.Owed(coop, 61_000_000, 0, false)
	require.True(t, ok, "not published yet")
}

func TestAccountsParse(t *testing.T) {
	op, id, peer := at(3, 4), ln.NewSCID(7, 8, 9), ln.PubKey{2, 5}
	require.Equal(t, books.Named{Chan: op}, books.Parse(books.ChanAccount(op)))
	require.Equal(t, books.Named{Closing: op}, books.Parse(books.ClosingAccount(op)))
	require.Equal(t, books.Named{Funding: op}, books.Parse(books.FundingAccount(op)))
	require.Equal(t, books.Named{SCID: id}, books.Parse(books.InAccount(id)))
	require.Equal(t, books.Named{SCID: id}, books.Parse(books.OutAccount(id)))
	require.Equal(t, books.Named{Peer: peer}, books.Parse(books.PeerAccount(peer)))
	for _, a := range []string{books.OnChain, books.ChainFee, books.ClearingWrap, "", "channels/chan/nonsense", fmt.Sprint("channels/in/", 5)} {
		require.Equal(t, books.Named{}, books.Parse(a), a)
	}
}
