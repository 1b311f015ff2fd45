package order

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// again is what the database makes of a value.
func again[T any](t require.TestingT, v T) T {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	p := reflect.New(reflect.TypeOf(v))
	require.NoError(t, json.Unmarshal(raw, p.Interface()))
	second, err := json.Marshal(p.Elem().Interface())
	require.NoError(t, err)
	require.JSONEq(t, string(raw), string(second))
	return p.Elem().Interface().(T)
}

// at sets an event's moment.
func at(v Event, m lsp.Moment) Event {
	p := reflect.New(reflect.TypeOf(v)).Elem()
	p.Set(reflect.ValueOf(v))
	p.FieldByName("Moment").Set(reflect.ValueOf(m))
	return p.Interface().(Event)
}

// TestRandomDays plays an honest world: an open's news are told only of an open
// that was begun, the invoice settles only when it was asked to. Whatever the
// order of events, nothing is settled for a channel that may be given up, nothing
// goes back while there may be a channel, and no coin is returned twice.
func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{onlyLightning, onlyOnChain, paidTwice, paidTooMuch, unconfirmed, queued}).Draw(t, "scenario")
		o := scenario(name)
		o.MaxOpens = 3
		var s State = Created{o}
		var signed, published, abandoned, settling, cancelled bool
		live := ""
		returned := map[ln.Outpoint]string{}
		over := map[string]bool{}
		now, height := testStart, uint32(testHeight)
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "minutes")) * time.Minute)
			if rapid.IntRange(0, 3).Draw(t, "block") == 0 {
				height++
			}
			v := at(rapid.SampledFrom(testEvents(s)).Draw(t, "event"), lsp.Moment{At: now, Height: height})
			switch v := v.(type) {
			case OpeningSigned:
				if live == "" || abandoned && !signed {
					continue
				}
				signed = true
			case OpeningPublished:
				if live == "" || abandoned && !signed {
					continue
				}
				signed, published = true, true
			case OpeningConfirmed, OpeningReorged:
				if !published {
					continue
				}
			case OpeningFailed:
				if live == "" || signed && v.Temporary {
					continue
				}
				if signed && rapid.IntRange(0, 9).Draw(t, "double-spent") > 0 {
					continue
				}
				live, signed, published, abandoned = "", false, false, false
			case InvoiceSettled:
				if !settling || cancelled {
					continue
				}
			case InvoiceCanceled:
				if Of(s).Settled {
					continue
				}
				cancelled = true
			case SetAccepted:
				if cancelled {
					continue
				}
			case ChannelClosed:
				if !published {
					continue
				}
			case RefundVoid:
				if over[v.RefundID] {
					continue
				}
			case RefundEnded:
				if over[v.RefundID] {
					continue
				}
			}
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) || errors.Is(err, ErrTooLate) {
				continue
			}
			require.NoError(t, err)
			s = next
			switch v := v.(type) {
			case RefundEnded:
				over[v.RefundID] = true
			case RefundVoid:
				over[v.RefundID] = true
				for op, id := range returned {
					if id == v.RefundID && !slices.Contains(v.Spent, op) {
						delete(returned, op)
					}
				}
			}
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case OpenChannel:
					require.Empty(t, live, "an open beside another")
					live, abandoned = f.OpeningID, false
				case AbandonOpening:
					require.Equal(t, live, f.OpeningID)
					abandoned = true
				case SettleInvoice:
					require.True(t, signed, "settled for a channel that may never be")
					settling = true
				case CancelInvoice:
					require.False(t, Of(s).PaidBy == PaidByLightning && live != "" && !Final(s), "cancelled while there may be a channel")
				case DropRefund:
					require.False(t, over[f.RefundID])
				case Refund:
					for _, c := range f.Coins {
						require.Empty(t, returned[c.Outpoint], "a coin is returned twice")
						returned[c.Outpoint] = f.RefundID
					}
					if f.KeepSat == 0 && published {
						for _, c := range f.Coins {
							require.False(t, c.Used, "what paid for the channel goes back")
						}
					}
				}
			}
			w := Show(s)
			require.Equal(t, w.State == WireCompleted, w.Channel != nil)
			if w.State == WireCompleted {
				require.True(t, published)
			}
			if Final(s) {
				break
			}
		}
		switch s := s.(type) {
		case Failed:
			require.False(t, s.Settled)
			require.NotEmpty(t, s.Reason.Text)
			for _, c := range s.Coins {
				require.True(t, c.Gone || c.Height == 0 || c.Refund != "", "a payment was kept: %+v", c)
			}
		case Ended:
			require.True(t, s.Lightning == nil || s.Settled || s.InvoiceGone)
		}
		ended[s.StateName()]++
	})
	t.Log(ended)
}

// Prices are exact: each part rounded up, or refused where it does not fit.
func TestPrices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Prices{BaseSat: ln.Sat(rapid.Uint64Range(0, 1<<40).Draw(t, "base")), PPM: rapid.Uint32().Draw(t, "ppm"), LeasePPM: rapid.Uint32().Draw(t, "lease ppm")}
		w := Wish{LspBalanceSat: ln.Sat(rapid.Uint64().Draw(t, "balance")), ExpiryBlocks: rapid.Uint32().Draw(t, "blocks")}
		ceil := func(times, per *big.Int) *big.Int {
			n := new(big.Int).Mul(new(big.Int).SetUint64(uint64(w.LspBalanceSat)), times)
			return n.Add(n, new(big.Int).Sub(per, big.NewInt(1))).Div(n, per)
		}
		want := new(big.Int).SetUint64(uint64(p.BaseSat))
		want.Add(want, ceil(big.NewInt(int64(p.PPM)), big.NewInt(1_000_000)))
		lease := new(big.Int).Mul(big.NewInt(int64(p.LeasePPM)), big.NewInt(int64(w.ExpiryBlocks)))
		want.Add(want, ceil(lease, big.NewInt(1_000_000*MonthBlocks)))
		fee, err := p.Fee(w, 0)
		if want.Cmp(new(big.Int).SetUint64(uint64(ln.MaxMsat/1000))) > 0 {
			require.ErrorIs(t, err, ln.ErrOverflow)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.Uint64(), uint64(fee))
		covered, err := p.Fee(w, fee+7)
		require.NoError(t, err)
		require.Equal(t, fee+7, covered)
	})
}

func walk(t *testing.T, s State, events ...Event) (State, []Effect) {
	t.Helper()
	var effects []Effect
	for _, v := range events {
		next, f, err := Step(s, v)
		require.NoError(t, err, "%s in %s", v.EventName(), s.StateName())
		s, effects = next, f
	}
	return s, effects
}

// Two payments go back in one transaction, and a reorg lets the payer of one spend it
// otherwise: the refund is given up once that is as deep as a block is buried, the
// other payment goes back by itself, and so does the first if it ever returns.
func TestARefundLosesOneOfItsCoins(t *testing.T) {
	at := func(minutes int, height uint32, list ...SeenCoin) CoinsSeen {
		return CoinsSeen{Moment: lsp.Moment{At: testStart.Add(time.Duration(minutes) * time.Minute), Height: height}, Coins: list}
	}
	o := scenario(onlyOnChain)
	one, two := seen(1, 30_000, testHeight), seen(2, 20_000, testHeight)
	id := RefundID(o.ID, 1)
	start := func() State {
		s, _ := walk(t, Created{o}, Start{moment(testHeight)}, at(1, testHeight, one, two))
		s, effects := walk(t, s, Tick{lsp.Moment{At: o.OnChain.ExpiresAt, Height: testHeight}})
		require.IsType(t, Unwinding{}, s)
		require.Len(t, effects[0].(Refund).Coins, 2)
		s, _ = walk(t, s, RefundSent{moment(testHeight), id, ln.TxID{9}})
		return s
	}
	for name, left := range map[string][]SeenCoin{
		"listed as unconfirmed": {{Outpoint: one.Outpoint, AmountSat: one.AmountSat, At: testStart}, two}, "not listed": {two},
	} {
		s, effects := walk(t, start(), at(2, testHeight+1, left...))
		require.Empty(t, effects)
		s, effects = walk(t, s, at(3, testHeight+6, left...))
		require.Empty(t, effects, "a payment may be mined again: %s", name)
		again, effects := walk(t, s, at(4, testHeight+6, one, two), at(5, testHeight+20, one, two))
		require.Empty(t, effects)
		require.IsType(t, Unwinding{}, again)
		s, effects = walk(t, s, at(4, testHeight+7, left...))
		require.Equal(t, []Effect{DropRefund{OrderID: o.ID, RefundID: id, Coins: []ln.Outpoint{one.Outpoint}}}, effects, name)
		s, effects = walk(t, s, at(5, testHeight+8, left...))
		require.Empty(t, effects, "it is told once")
		require.Contains(t, Kept(Of(s)), two.Outpoint, "lnd has freed it with the transaction that is invalid")
		s, effects = walk(t, s, RefundVoid{moment(testHeight + 8), id, nil})
		second := effects[0].(Refund)
		require.Equal(t, RefundID(o.ID, 2), second.RefundID)
		require.Len(t, second.Coins, 1)
		require.Equal(t, two.Outpoint, second.Coins[0].Outpoint)
		back, effects := walk(t, s, at(6, testHeight+30, one, two))
		require.Equal(t, one.Outpoint, effects[0].(Refund).Coins[0].Outpoint, "it came back after all")
		require.False(t, Of(back).quiet(false))
		s, _ = walk(t, s, RefundEnded{moment(testHeight + 9), second.RefundID}, Tick{lsp.Moment{At: o.OnChain.WatchUntil, Height: testHeight + 9}})
		require.IsType(t, Failed{}, s, name)
	}
	// Of one that another transaction made impossible, what that spent is over.
	s, effects := walk(t, start(), RefundVoid{moment(testHeight), id, []ln.Outpoint{one.Outpoint}})
	require.Equal(t, []ln.Outpoint{one.Outpoint}, effects[0].(FreeCoins).Coins)
	require.Equal(t, two.Outpoint, effects[1].(Refund).Coins[0].Outpoint)
	require.NotContains(t, Kept(Of(s)), one.Outpoint)
	// Not even the end of the watch leaves it.
	s, _ = walk(t, start(), Tick{lsp.Moment{At: o.OnChain.WatchUntil, Height: testHeight}})
	require.IsType(t, Unwinding{}, s)
	_, chain := Wants(s)
	require.True(t, chain)
	s, _ = walk(t, s, at(9, testHeight+1, two, seen(3, 9_000, testHeight+1)))
	require.Len(t, Of(s).Coins, 2, "what comes now is the operator's to return")
}

// The same with what was paid too much for a channel: what is left of the payment
// pays for it, and what of that is beyond the total goes back.
func TestASurplusLosesOneOfItsCoins(t *testing.T) {
	m := moment(testHeight)
	for left, want := range map[ln.Sat]struct {
		back  bool
		lost  ln.Msat
		taken bool
	}{testTotal + 9_000: {true, 0, true}, testTotal: {false, 0, false}, testTotal - 9_000: {false, 9_000_000, false}} {
		o := scenario(onlyOnChain)
		o.BuriedConfs = 1
		big, small := seen(1, left, testHeight), seen(2, 30_000, testHeight)
		s, _ := walk(t, Created{o}, Start{m}, coins(testHeight, big, small), PeerStatus{m, true},
			OpeningPublished{m, OpeningID(o.ID, 1), testFunding}, OpeningConfirmed{m, OpeningID(o.ID, 1)})
		s, effects := walk(t, s, NewBlock{Moment: m})
		id := effects[0].(Refund).RefundID
		require.EqualValues(t, testTotal, effects[0].(Refund).KeepSat)
		s, _ = walk(t, s, RefundSent{m, id, ln.TxID{9}}, coins(testHeight+1, big))
		s, effects = walk(t, s, coins(testHeight+2, big))
		require.Equal(t, []ln.Outpoint{small.Outpoint}, effects[0].(DropRefund).Coins)
		s, effects = walk(t, s, RefundVoid{moment(testHeight + 2), id, nil})
		require.Equal(t, want.taken, Of(s).Taken)
		if want.back {
			f := effects[0].(Refund)
			require.EqualValues(t, testTotal, f.KeepSat)
			require.Equal(t, big.Outpoint, f.Coins[0].Outpoint)
		} else {
			require.Empty(t, effects)
		}
		lost, err := Of(s).LostMsat()
		require.NoError(t, err)
		require.Equal(t, want.lost, lost)
		// It comes back: all of it is beyond the total, or what was missing.
		_, effects = walk(t, s, coins(testHeight+9, big, small))
		f := effects[0].(Refund)
		if want.back {
			require.Zero(t, f.KeepSat)
			require.Equal(t, small.Outpoint, f.Coins[0].Outpoint)
		} else {
			require.EqualValues(t, testTotal, f.KeepSat)
			require.Len(t, f.Coins, 2)
		}
	}
}

// The end of a lease is told once a day from the warning on, also while the channel
// waits to be closed, and says whether it will be.
func TestLeaseIsWarnedOfEveryDay(t *testing.T) {
	m := moment(testHeight)
	first := OpeningID(onlyLightning, 1)
	s, _ := walk(t, Created{scenario(onlyLightning)}, Start{m}, InvoiceAdded{m, "lnbcrt1"},
		SetAccepted{Moment: m, Htlcs: testHtlcs()}, IncomingChecked{m, true, ""}, PeerStatus{m, true},
		OpeningPublished{m, first, testFunding}, InvoiceSettled{m}, OpeningConfirmed{m, first})
	end := Of(s).Channel.EndHeight
	var told []uint32
	for height := uint32(testHeight); height < end+300; height++ {
		at := testStart.Add(time.Duration(height-testHeight) * 10 * time.Minute)
		var effects []Effect
		s, effects = walk(t, s, NewBlock{Moment: lsp.Moment{At: at, Height: height}, WarnBlocks: 200, CloseAtEnd: true})
		for _, f := range effects {
			if w, ok := f.(WarnLease); ok {
				require.True(t, w.Closes)
				told = append(told, end-height)
			}
		}
	}
	require.IsType(t, Closing{}, s)
	over := func(blocks uint32) uint32 { return -blocks }
	require.Equal(t, []uint32{200, 56, over(88), over(232)}, told)
}

// How long an order that is not paid is waited for.
func TestPayBy(t *testing.T) {
	m := moment(testHeight)
	s, _ := walk(t, Created{scenario(onlyOnChain)}, Start{m})
	due := func(s State) time.Time { by, _, _ := deadline(s); return by }
	c := Of(s).OnChain
	late := seen(2, 1, 0)
	late.At = c.ExpiresAt
	for name, want := range map[string]struct {
		coins []SeenCoin
		by    time.Time
	}{
		"nothing":                        {nil, c.ExpiresAt},
		"a satoshi, unconfirmed":         {[]SeenCoin{seen(1, 1, 0)}, c.ExpiresAt},
		"all but one, confirmed":         {[]SeenCoin{seen(1, testTotal-1, testHeight)}, c.ExpiresAt},
		"the last one late":              {[]SeenCoin{seen(1, testTotal-1, testHeight), late}, c.ExpiresAt},
		"all of it, unconfirmed":         {[]SeenCoin{seen(1, testTotal, 0)}, c.ConfirmBy},
		"all of it, in part unconfirmed": {[]SeenCoin{seen(1, testTotal-1, testHeight), seen(2, 1, 0)}, c.ConfirmBy},
	} {
		next, _ := walk(t, s, coins(testHeight, want.coins...))
		require.IsType(t, Awaiting{}, next, name)
		require.Equal(t, want.by, due(next), name)
	}
}

// What a client is shown at each step.
func TestWireStates(t *testing.T) {
	m := moment(testHeight)
	first := OpeningID(onlyLightning, 1)
	var s State = Created{scenario(onlyLightning)}
	shown := func(o OrderState, p PaymentState) {
		t.Helper()
		v := Show(s)
		require.Equal(t, o, v.State, s.StateName())
		require.Equal(t, p, v.Lightning, s.StateName())
		require.Empty(t, v.OnChain)
	}
	s, _ = walk(t, s, Start{m}, InvoiceAdded{m, "lnbcrt1"})
	shown(WireCreated, ExpectPayment)
	s, _ = walk(t, s, SetAccepted{Moment: m, Htlcs: testHtlcs()})
	shown(WireCreated, Hold)
	s, _ = walk(t, s, IncomingChecked{m, true, ""}, PeerStatus{m, true}, OpeningSigned{m, first, testFunding})
	shown(WireCreated, Hold)
	s, _ = walk(t, s, OpeningPublished{m, first, testFunding})
	shown(WireCompleted, Hold)
	s, _ = walk(t, s, InvoiceSettled{m})
	shown(WireCompleted, PaymentPaid)
	require.Equal(t, testStart.Add(1000*10*time.Minute), Show(s).Channel.ExpiresAt)

	s, _ = walk(t, Created{scenario(onlyLightning)}, Start{m}, InvoiceAdded{m, "lnbcrt1"}, InvoiceCanceled{m})
	shown(WireFailed, Refunded)
}

// A node that left while its channel was being opened may be back before the open's
// end is known: its coming was told while nobody waited for it, so it is looked for.
// Every other temporary end waits for the next block.
func TestTheNodeMayBeBackAlready(t *testing.T) {
	m := moment(testHeight)
	opening, _ := walk(t, Created{scenario(onlyLightning)}, Start{m}, InvoiceAdded{m, "lnbcrt1"},
		SetAccepted{Moment: m, Htlcs: testHtlcs()}, IncomingChecked{m, true, ""}, PeerStatus{m, true})
	first := OpeningID(onlyLightning, 1)
	paid, effects := walk(t, opening, OpeningFailed{Moment: m, OpeningID: first, Temporary: true, Reason: lsp.Because(lsp.ReasonWalletGone, "")})
	require.IsType(t, Paid{}, paid)
	require.IsType(t, AskPeer{}, effects[0])
	again, effects := walk(t, paid, PeerStatus{m, true})
	require.IsType(t, Opening{}, again)
	require.Equal(t, OpeningID(onlyLightning, 2), effects[0].(OpenChannel).OpeningID)

	paid, effects = walk(t, opening, OpeningFailed{Moment: m, OpeningID: first, Temporary: true, Reason: lsp.Because(lsp.ReasonCoinsShort, "")})
	require.IsType(t, Paid{}, paid)
	require.Empty(t, effects)
}

// A payment whose time is up is given back while there is no funding that could
// confirm, and taken once there is: who gave it back then would have given the
// channel, too.
func TestTimeIsUpWhileFunding(t *testing.T) {
	m := moment(testHeight)
	first := OpeningID(onlyLightning, 1)
	opening, _ := walk(t, Created{scenario(onlyLightning)}, Start{m}, InvoiceAdded{m, "lnbcrt1"},
		SetAccepted{Moment: m, Htlcs: testHtlcs()}, IncomingChecked{m, true, ""}, PeerStatus{m, true})
	height := uint32(testHeight)
	for !Of(opening).late(height) {
		height++
	}
	soon, end := moment(height-1), moment(height)

	unsigned, effects := walk(t, opening, NewBlock{Moment: soon})
	require.Equal(t, opening.StateName(), unsigned.StateName())
	require.Empty(t, effects)
	unsigned, effects = walk(t, opening, NewBlock{Moment: end})
	for _, f := range effects {
		_, settles := f.(SettleInvoice)
		require.False(t, settles, "nothing is signed: there is nothing to be paid for")
	}
	over, effects := walk(t, unsigned, OpeningFailed{Moment: end, OpeningID: first, Reason: lsp.Because(lsp.ReasonOpenSlow, "")})
	require.IsType(t, Unwinding{}, over)
	require.IsType(t, CancelInvoice{}, effects[0])

	signed, _ := walk(t, opening, OpeningSigned{m, first, testFunding})
	still, effects := walk(t, signed, NewBlock{Moment: soon})
	require.IsType(t, Funding{}, still)
	require.Empty(t, effects)
	taken, effects := walk(t, signed, NewBlock{Moment: end})
	require.IsType(t, Settling{}, taken)
	var settles, alarms int
	for _, f := range effects {
		switch f.(type) {
		case SettleInvoice:
			settles++
		case Alarm:
			alarms++
		}
	}
	require.Equal(t, []int{1, 1}, []int{settles, alarms})
	require.Equal(t, Hold, Show(taken).Lightning)
	// The network takes it after all: the client has what it paid for.
	late, _ := walk(t, taken, OpeningPublished{end, first, testFunding}, InvoiceSettled{end})
	require.IsType(t, Active{}, late)
	require.NotNil(t, Show(late).Channel)
}

// An order that can wait: until its funding would be late, or its held payment would
// have to go back. What ends for the sake of others costs it nothing, and one that
// failed by itself waits for nobody any more.
func TestQueued(t *testing.T) {
	m := moment(testHeight)
	o := scenario(queued)
	o.MaxOpens = 2
	paid, _ := walk(t, Created{o}, Start{m}, InvoiceAdded{m, "lnbcrt1"}, SetAccepted{Moment: m, Htlcs: testHtlcs()}, IncomingChecked{m, true, ""})
	s, effects := walk(t, paid, PeerStatus{moment(testHeight + 3), true})
	require.Empty(t, effects)
	require.EqualValues(t, testHeight+12, s.(Queued).UntilHeight, "counted from the payment")
	until, waits := WaitsUntil(s)
	require.True(t, waits)
	require.EqualValues(t, testHeight+12, until)
	require.True(t, Undecided(s))
	require.Equal(t, Hold, Show(s).Lightning)
	_, _, bounded := deadline(s)
	require.False(t, bounded)
	long := paid.(Paid)
	long.WaitBlocks = 1_000
	held, _ := walk(t, long, PeerStatus{m, true})
	require.EqualValues(t, testHold-12-18-lastCall, held.(Queued).UntilHeight, "the held payment does not wait as long")

	later := lsp.Moment{At: testStart.Add(5 * time.Hour), Height: testHeight + 12}
	for try := range uint32(maxSpared) {
		s, effects = walk(t, s, Join{later, "batch-1"})
		require.Equal(t, later.At.Add(o.WaitFor), s.(Opening).Deadline)
		f := effects[0].(OpenChannel)
		require.Equal(t, "batch-1", f.Batch)
		require.Equal(t, OpeningID(o.ID, try+1), f.OpeningID)
		s, effects = walk(t, s, OpeningFailed{later, f.OpeningID, lsp.Because(lsp.ReasonOpenFailed, "others"), true, true})
		require.IsType(t, AskPeer{}, effects[0], "at once")
		s, _ = walk(t, s, PeerStatus{later, true})
	}
	require.IsType(t, Opening{}, s, "it has waited for others often enough")
	require.Empty(t, Of(s).Batch)

	first, _ := walk(t, paid, PeerStatus{m, true}, Join{m, "batch-1"}, OpeningFailed{m, OpeningID(o.ID, 1), lsp.Because(lsp.ReasonWalletGone, "away"), true, false})
	alone, effects := walk(t, first, PeerStatus{m, true})
	require.IsType(t, Opening{}, alone)
	require.Empty(t, effects[0].(OpenChannel).Batch)
	over, _ := walk(t, alone, OpeningFailed{m, OpeningID(o.ID, 2), lsp.Because(lsp.ReasonWalletGone, "away"), true, false})
	require.IsType(t, Unwinding{}, over, "two tries are two tries")

	nobody, effects := walk(t, paid, PeerStatus{m, true}, OpenAlone{later})
	require.IsType(t, AskPeer{}, effects[0])
	alone, effects = walk(t, nobody, PeerStatus{later, true})
	require.IsType(t, Opening{}, alone)
	require.Empty(t, effects[0].(OpenChannel).Batch)
}
