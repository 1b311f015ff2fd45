package collab

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

const testHeight = 800_000

func testStart() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func script(n byte) []byte { return append([]byte{0x51, 32}, bytes.Repeat([]byte{n}, 32)...) }

func testCoin(n byte, sat ln.Sat) ln.Coin {
	return ln.Coin{Outpoint: ln.Outpoint{TxID: ln.TxID{n}}, AmountSat: sat, PkScript: script(n), Confirmations: 3}
}

func testPlan() Plan {
	return Plan{
		ID: "joint-1", Client: ln.PubKey{2, 1}, Nonce: [32]byte{9}, CapacitySat: 1_000_000, WalletSat: 400_000, ServiceFeeSat: 1_000,
		Inputs: []Input{{testCoin(1, 300_000), testHeight - 10}, {testCoin(2, 200_000), testHeight - 3}}, ChangeScript: script(21),
		MaxWalletFeeSat: 5_000, FeeRate: 500, Type: ln.CommitmentAnchors, MinInputConfs: 1, BuriedConfs: 3, BumpAfterBlocks: 2,
		NegotiateBy: testStart().Add(time.Minute), SignFor: time.Hour,
	}
}

func testOurs(t require.TestingT, p Plan) Ours {
	gateway := funding.Party{Inputs: []ln.Coin{testCoin(3, 700_000)}, OutlaySat: p.GatewayOutlaySat(), ChangeScript: script(22)}
	j, err := funding.Divide(p.CapacitySat, p.FeeRate, gateway, WalletParty(p))
	require.NoError(t, err)
	return Ours{Gateway: gateway, Joint: j}
}

func testTx(t require.TestingT, p Plan) funding.JointTx {
	o := testOurs(t, p)
	tx, err := funding.BuildJoint(o.Joint, o.Gateway, WalletParty(p), script(23))
	require.NoError(t, err)
	return tx
}

func moment(height uint32) lsp.Moment { return lsp.Moment{At: testStart(), Height: height} }

func testEvents(t require.TestingT) []Event {
	p := testPlan()
	m, tx, ours := moment(testHeight), testTx(t, p), testOurs(t, p)
	late := lsp.Moment{At: testStart().Add(2 * time.Hour), Height: testHeight}
	dear := ours
	dear.Joint.Wallet.FeeSat = p.MaxWalletFeeSat + 1
	spend := func(input ln.Outpoint, by ln.TxID, tip, height uint32) InputSpent {
		return InputSpent{moment(tip), Spend{Input: input, By: by, Height: height}}
	}
	theirs, own, other := p.Inputs[0].Outpoint, ours.Gateway.Inputs[0].Outpoint, ln.TxID{99}
	return []Event{
		Start{m},
		InputsChecked{m},
		InputsRefused{m, "no such coin"},
		CoinsLeased{m, ours},
		CoinsLeased{m, dear},
		CoinsRefused{m, true, "short"},
		CoinsRefused{m, false, "not enough"},
		FundingBuilt{m, tx},
		NegotiationEnded{m, true, "no"},
		NegotiationEnded{m, false, "gone"},
		FundingPending{m, tx.Funding},
		WalletSigned{m, []byte("half")},
		FundingSigned{m, tx.Funding.TxID, []byte("raw")},
		SigningFailed{m, "locked"},
		FundingPublished{m},
		PublishFailed{m, "min relay fee"},
		spend(theirs, tx.Funding.TxID, testHeight+1, testHeight+1),
		spend(own, tx.Funding.TxID, testHeight+1, testHeight+1),
		spend(theirs, tx.Funding.TxID, testHeight+3, testHeight+1),
		spend(theirs, other, testHeight+1, testHeight+1),
		spend(own, other, testHeight+3, testHeight+1),
		SpendReorged{Moment: m, Input: theirs},
		SpendReorged{Moment: m, Input: own},
		SpendReorged{Moment: m, Input: own, By: other, SpendHeight: testHeight + 3},
		NewBlock{moment(testHeight + 1), 1_000},
		NewBlock{moment(testHeight + 2), 1_000},
		NewBlock{moment(testHeight + 3), 0},
		Tick{m},
		Tick{late},
		Abort{m, false, ""},
		Abort{m, true, ""},
	}
}

func samples(t require.TestingT) fsmtest.Samples[State, Event] {
	all := testEvents(t)
	return fsmtest.Samples[State, Event]{
		Initial: []State{Checking{testPlan()}},
		Events: func(s State) []Event {
			var out []Event
			for _, v := range all {
				// A refusal that is no IllegalError is a test of its own.
				if _, _, err := Step(s, v); errors.Is(err, ErrTooLate) {
					continue
				}
				out = append(out, v)
			}
			return out
		},
	}
}

func TestDiagram(t *testing.T) { fsmtest.CheckDiagram(t, Machine(), "STATES.md", samples(t)) }

// walk gives events to a state, one after the other, and collects the effects of
// the last.
func walk(t require.TestingT, s State, events ...Event) (State, []Effect) {
	var effects []Effect
	for _, v := range events {
		var err error
		s, effects, err = Step(s, v)
		require.NoError(t, err, v.EventName())
	}
	return s, effects
}

func ready(t require.TestingT) State {
	p, m := testPlan(), moment(testHeight)
	tx := testTx(t, p)
	s, _ := walk(t, Checking{p}, Start{m}, InputsChecked{m}, CoinsLeased{m, testOurs(t, p)}, FundingBuilt{m, tx}, FundingPending{m, tx.Funding})
	return s
}

func published(t require.TestingT) State {
	m, tx := moment(testHeight), testTx(t, testPlan())
	s, _ := walk(t, ready(t), WalletSigned{m, []byte("half")}, FundingSigned{m, tx.Funding.TxID, []byte("raw")}, FundingPublished{m})
	return s
}

// Until the complete transaction is stored each side may end it; afterwards
// nobody does.
func TestAbortOnlyBeforeOurSignature(t *testing.T) {
	m, tx := moment(testHeight), testTx(t, testPlan())
	end, effects := walk(t, ready(t), Abort{Moment: m})
	require.IsType(t, Failed{}, end)
	require.Equal(t, tx.Funding, ChannelOf(end))
	require.Len(t, effects, 2, "the channel is forgotten and the coins released")

	counter, _ := walk(t, ready(t), WalletSigned{m, []byte("half")})
	_, _, err := Step(counter, Abort{Moment: m})
	require.ErrorIs(t, err, ErrTooLate, "the wallet's signature has left, so that it would have to wait in any case")
	end, _ = walk(t, counter, Abort{Moment: m, ByOperator: true})
	require.IsType(t, Failed{}, end)
	for _, s := range []State{published(t)} {
		for _, by := range []bool{true, false} {
			_, _, err := Step(s, Abort{Moment: m, ByOperator: by})
			require.ErrorIs(t, err, ErrTooLate)
		}
	}
	_, _, err = Step(end, Abort{Moment: m})
	require.ErrorIs(t, err, fsm.ErrIllegal)
}

// A double-spend of the wallet's is only believed once it is buried, and a reorg
// brings the channel back.
func TestConflicts(t *testing.T) {
	p := testPlan()
	tx, own := testTx(t, p), testOurs(t, p)
	theirs := p.Inputs[1].Outpoint
	s, _ := walk(t, published(t), InputSpent{moment(testHeight + 1), Spend{theirs, ln.TxID{9}, testHeight + 1}})
	require.IsType(t, Published{}, s)
	require.Equal(t, lsp.ReasonConflict, ReasonOf(s).Code)
	s, effects := walk(t, s, NewBlock{moment(testHeight + 2), 9_000})
	require.IsType(t, Published{}, s)
	require.Empty(t, effects, "nothing is sent or bumped that the chain contradicts")
	back, _ := walk(t, s, SpendReorged{Moment: moment(testHeight + 2), Input: theirs})
	require.True(t, ReasonOf(back).IsZero())
	back, effects = walk(t, back, NewBlock{moment(testHeight + 2), 9_000})
	require.Len(t, effects, 2, "it is sent again, and bumped")
	bump := effects[1].(BumpFee)
	require.Equal(t, tx.GatewayChange, bump.Change)
	require.Equal(t, own.Joint.WeightWU, bump.ParentWU)
	back, _ = walk(t, back, InputSpent{moment(testHeight + 3), Spend{theirs, tx.Funding.TxID, testHeight + 3}})
	require.IsType(t, Confirmed{}, back)

	s, effects = walk(t, s, NewBlock{moment(testHeight + 3), 0})
	require.IsType(t, Conflicted{}, s)
	require.Equal(t, tx.Funding, effects[0].(AbandonChannel).Channel)
	require.Equal(t, ForgetTx{ID: PlanOf(s).ID, TxID: tx.Funding.TxID}, effects[1])
	require.True(t, Final(s))
	require.False(t, Funded(s))
	require.True(t, AtRisk(s), "its channel may still be there in lnd")
}

// A reorg of the confirmed transaction sends it again.
func TestReorg(t *testing.T) {
	p := testPlan()
	tx := testTx(t, p)
	op := p.Inputs[0].Outpoint
	s, _ := walk(t, published(t), InputSpent{moment(testHeight + 1), Spend{op, tx.Funding.TxID, testHeight + 1}})
	require.IsType(t, Confirmed{}, s)
	require.EqualValues(t, testHeight+1, ConfirmedHeight(s))
	again, follows := WatchOf(s)
	require.True(t, follows)
	require.Len(t, again.Inputs, 3)
	s, effects := walk(t, s, SpendReorged{Moment: moment(testHeight + 1), Input: op})
	require.IsType(t, Published{}, s)
	require.Equal(t, []byte("raw"), effects[0].(Publish).Raw)
	s, _ = walk(t, s, InputSpent{moment(testHeight + 2), Spend{op, tx.Funding.TxID, testHeight + 2}}, NewBlock{moment(testHeight + 4), 0})
	require.IsType(t, Buried{}, s)
	require.False(t, AtRisk(s))
}

// After a reorg one coin's news may come before another's: what is gone by then, and not
// told yet, ends nothing. Whoever tells of a block looks it up first.
func TestNewsOfSpendsEndNothing(t *testing.T) {
	p := testPlan()
	tx, own := testTx(t, p), testOurs(t, p).Gateway.Inputs[0].Outpoint
	theirs, gone := p.Inputs[1].Outpoint, Spend{p.Inputs[1].Outpoint, ln.TxID{9}, testHeight + 1}
	s, _ := walk(t, published(t), InputSpent{moment(testHeight + 1), gone})
	require.Empty(t, Doubtful(s, testHeight+2))
	require.Equal(t, []Spend{gone}, Doubtful(s, testHeight+3))
	s, _ = walk(t, s, InputSpent{moment(testHeight + 5), Spend{own, tx.Funding.TxID, testHeight + 4}}, FundingPublished{moment(testHeight + 5)})
	require.IsType(t, Confirmed{}, s)
	_, _, err := Step(s, SpendReorged{Moment: moment(testHeight + 5), Input: theirs, By: ln.TxID{8}, SpendHeight: testHeight + 1})
	require.ErrorIs(t, err, fsm.ErrIllegal, "another spend was told meanwhile")
	s, _ = walk(t, s, SpendReorged{Moment: moment(testHeight + 5), Input: theirs, By: gone.By, SpendHeight: gone.Height}, NewBlock{moment(testHeight + 6), 0})
	require.IsType(t, Buried{}, s)
	require.Empty(t, Doubtful(s, testHeight+9))
}

// What contradicts what is stored is an error and no "too late".
func TestContradictions(t *testing.T) {
	p, m := testPlan(), moment(testHeight)
	tx := testTx(t, p)
	built, _ := walk(t, Checking{p}, Start{m}, InputsChecked{m}, CoinsLeased{m, testOurs(t, p)}, FundingBuilt{m, tx})
	other := tx.Funding
	other.Index++
	_, _, err := Step(built, FundingPending{m, other})
	require.Error(t, err)
	require.NotErrorIs(t, err, fsm.ErrIllegal)
	counter, _ := walk(t, ready(t), WalletSigned{m, []byte("half")})
	_, _, err = Step(counter, FundingSigned{m, ln.TxID{1}, []byte("raw")})
	require.NotErrorIs(t, err, fsm.ErrIllegal)
	require.Error(t, err)
	bad := testOurs(t, p)
	bad.Gateway.OutlaySat++
	_, _, err = Step(Choosing{p}, CoinsLeased{m, bad})
	require.Error(t, err)
}

// The ids are the wallet's and nobody else's.
func TestIds(t *testing.T) {
	p, q := testPlan(), testPlan()
	q.Client[1]++
	require.NotEqual(t, p.PendingID(), q.PendingID())
	require.NotEqual(t, p.LeaseID(), q.LeaseID())
	require.True(t, IsLeaseID(p.LeaseID()))
	require.False(t, IsLeaseID(p.PendingID()))
	require.True(t, ln.Channel{Initiator: true, ZeroConf: true}.FundingIsSafe(testHeight))
	joint := ln.Channel{Initiator: true, ZeroConf: true, Memo: p.Memo()}
	require.False(t, joint.FundingIsSafe(testHeight))
	joint.ConfirmedSCID = ln.NewSCID(testHeight, 1, 0)
	for _, joint.ZeroConf = range []bool{true, false} {
		// Whatever depth its peer asked lnd to wait for.
		require.False(t, joint.FundingIsSafe(testHeight+ln.JointConfs-2))
		require.True(t, joint.FundingIsSafe(testHeight+ln.JointConfs-1))
		require.False(t, joint.FundingIsSafe(0), "without a tip nothing is known")
	}
}

// Whatever happens in whatever order: every state can be kept and read back, our
// signature is never made without the wallet's, nothing is published that was not
// stored, and coins of what is over are released.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := testEvents(t)
		var s State = Checking{testPlan()}
		half := false
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			v := events[rapid.IntRange(0, len(events)-1).Draw(t, "event")]
			next, effects, err := Step(s, v)
			if err != nil {
				continue
			}
			raw, err := json.Marshal(next)
			require.NoError(t, err)
			back := reflect.New(reflect.TypeOf(next))
			require.NoError(t, json.Unmarshal(raw, back.Interface()))
			require.Equal(t, next, back.Elem().Interface())
			if _, ok := v.(WalletSigned); ok {
				half = true
			}
			released := false
			for _, f := range effects {
				switch f := f.(type) {
				case Sign:
					require.True(t, half)
				case Publish:
					tx, stored := SignedOf(next)
					require.True(t, stored)
					require.Equal(t, tx.Raw, f.Raw)
				case BumpFee:
					require.True(t, Funded(next))
				case AbandonChannel:
					_, signed := SignedOf(next)
					_, conflicted := next.(Conflicted)
					require.Equal(t, signed, conflicted)
				case ReleaseCoins:
					released = true
				}
			}
			_, never := s.(Checking)
			require.Equal(t, Final(next) && !never, released)
			s = next
			if Final(s) {
				break
			}
		}
	})
}
