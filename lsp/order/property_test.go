package order

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
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
		name := rapid.SampledFrom([]string{onlyLightning, onlyOnChain, paidTwice, paidTooMuch, unconfirmed}).Draw(t, "scenario")
		o := scenario(name)
		o.MaxOpens = 3
		var s State = Created{o}
		var signed, published, abandoned, settling, cancelled bool
		live := ""
		returned := map[ln.Outpoint]string{}
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
			}
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) || errors.Is(err, ErrTooLate) {
				continue
			}
			require.NoError(t, err)
			s = next
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
