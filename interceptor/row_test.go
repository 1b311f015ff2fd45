package interceptor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func heldRow() Row {
	return NewRow(ln.InterceptedHtlc{
		Key: ln.CircuitKey{ChanID: 1, HtlcID: 2}, Hash: ln.Preimage{7}.Hash(), IncomingMsat: 5000,
		IncomingExpiry: 200, AutoFailHeight: 181,
	}, "jit", 6, 100, time.UnixMilli(1))
}

func TestDecisionsAreFinalAndIdempotent(t *testing.T) {
	actions := []Action{ActionResume, ActionFail, ActionRefuseUnknown, ActionSettle}
	for _, first := range actions {
		r, changed, err := heldRow().Decide(Decision{Action: first, Preimage: ln.Preimage{7}}, time.UnixMilli(2))
		require.NoError(t, err)
		require.True(t, changed)
		require.Equal(t, int64(2), r.Version)
		for _, second := range actions {
			again, changed, err := r.Decide(Decision{Action: second, Preimage: ln.Preimage{7}}, time.UnixMilli(3))
			require.Equal(t, r, again, "%s after %s", second, first)
			require.False(t, changed)
			if first == second {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrDecided)
			}
		}
		_, _, err = r.MarkPaying("")
		require.ErrorIs(t, err, ErrDecided)
		a, ok := r.Answer()
		require.True(t, ok)
		require.Equal(t, first == ActionFail, a.Action == AnswerFail)
	}
}

// What was withheld is part of the decision: a replay gets the same answer, and
// no other amount takes its place.
func TestWithheldFee(t *testing.T) {
	held := heldRow()
	held.OutgoingMsat = 4000
	for _, bad := range []Decision{
		{Action: ActionResume, ExtraFeeMsat: 4000},
		{Action: ActionResume, ExtraFeeMsat: 1<<64 - 1},
		{Action: ActionFail, ExtraFeeMsat: 1},
		{Action: ActionRefuseUnknown, ExtraFeeMsat: 1},
		{Action: ActionSettle, ExtraFeeMsat: 1, Preimage: ln.Preimage{7}},
	} {
		_, changed, err := held.Decide(bad, time.UnixMilli(2))
		require.ErrorIs(t, err, ErrInvalid)
		require.False(t, changed)
	}
	r, changed, err := held.Decide(Decision{Action: ActionResume, ExtraFeeMsat: 3999}, time.UnixMilli(2))
	require.NoError(t, err)
	require.True(t, changed)
	a, ok := r.Answer()
	require.True(t, ok)
	require.Equal(t, Answer{Key: r.Key, Action: AnswerResume, ExtraFeeMsat: 3999, OutgoingMsat: 1}, a)
	_, changed, err = r.Decide(Decision{Action: ActionResume, ExtraFeeMsat: 3999}, time.UnixMilli(3))
	require.NoError(t, err)
	require.False(t, changed)
	for _, other := range []ln.Msat{0, 3998} {
		_, _, err = r.Decide(Decision{Action: ActionResume, ExtraFeeMsat: other}, time.UnixMilli(3))
		require.ErrorIs(t, err, ErrDecided)
	}
	plain, _, err := held.Decide(Decision{Action: ActionResume}, time.UnixMilli(2))
	require.NoError(t, err)
	_, _, err = plain.Decide(Decision{Action: ActionResume, ExtraFeeMsat: 1}, time.UnixMilli(3))
	require.ErrorIs(t, err, ErrDecided)
	a, _ = plain.Answer()
	require.Equal(t, Answer{Key: r.Key, Action: AnswerResume}, a)
}

func TestPayingIsOnlySettledOrPutBack(t *testing.T) {
	r, _, err := heldRow().MarkPaying("about to pay")
	require.NoError(t, err)
	for _, action := range []Action{ActionResume, ActionFail, ActionRefuseUnknown} {
		_, _, err := r.Decide(Decision{Action: action}, time.Time{})
		require.ErrorIs(t, err, ErrPaying)
	}
	_, _, err = r.Decide(Decision{Action: ActionSettle, Preimage: ln.Preimage{8}}, time.Time{})
	require.ErrorIs(t, err, ErrPreimage)
	settled, _, err := r.Decide(Decision{Action: ActionSettle, Preimage: ln.Preimage{7}}, time.Time{})
	require.NoError(t, err)
	require.Equal(t, StateSettled, settled.State)
	back, _, err := r.MarkNotPaying("it failed")
	require.NoError(t, err)
	require.Equal(t, StateHeld, back.State)
	_, ok := r.Answer()
	require.False(t, ok)
}

func TestOnChainIsOnlySettled(t *testing.T) {
	r := heldRow()
	r.OnChain = true
	_, _, err := r.Decide(Decision{Action: ActionFail}, time.Time{})
	require.ErrorIs(t, err, ErrOnChain)
	_, _, err = r.MarkPaying("")
	require.ErrorIs(t, err, ErrOnChain)
	_, _, err = r.Decide(Decision{Action: ActionSettle, Preimage: ln.Preimage{7}}, time.Time{})
	require.NoError(t, err)
	resumed, _, err := heldRow().Decide(Decision{Action: ActionResume}, time.Time{})
	require.NoError(t, err)
	resumed.OnChain = true
	_, ok := resumed.Answer()
	require.False(t, ok, "lnd takes no RESUME for it")
}

// Whatever happens in whatever order: a terminal state stays, an outcome that
// is known stays, and every change raises the version by one.
func TestRowNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := heldRow()
		at := time.UnixMilli(9)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			old := r
			var changed bool
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				action := rapid.SampledFrom([]Action{ActionResume, ActionFail, ActionRefuseUnknown, ActionSettle}).Draw(t, "action")
				r, changed, _ = r.Decide(Decision{Action: action, Preimage: ln.Preimage{7}}, at)
			case 1:
				r, changed, _ = r.MarkPaying("")
			case 2:
				r, changed, _ = r.MarkNotPaying("")
			case 3:
				r, changed = r.Vanish(rapid.SampledFrom([]Outcome{OutcomeUnknown, OutcomeSettled, OutcomeFailed}).Draw(t, "outcome"), at)
			case 4:
				r, changed = r.Moved(at)
			}
			if !changed {
				require.Equal(t, old, r)
				continue
			}
			require.Equal(t, old.Version+1, r.Version)
			if old.State.Decided() {
				require.Equal(t, old.State, r.State)
			}
			if old.Outcome != OutcomeUnknown {
				require.Equal(t, old.Outcome, r.Outcome)
			}
			if old.State == StatePaying {
				require.Contains(t, []State{StatePaying, StateHeld, StateSettled, StateLapsed}, r.State)
			}
		}
	})
}

func TestChainFindsTheHighestClaim(t *testing.T) {
	c := NewChain()
	now := time.UnixMilli(1000)
	require.ErrorIs(t, c.Claim("a", Route{SCID: 1}), ErrUnknownHandler)
	c.Put(HandlerConfig{Name: "a", OnAbsent: AbsentHold})
	c.Put(HandlerConfig{Name: "b", Priority: 5, OnAbsent: AbsentFail})
	require.NoError(t, c.Claim("a", Route{SCID: 1}))
	require.NoError(t, c.Claim("b", Route{SCID: 1, Until: now.Add(time.Second)}))
	require.NoError(t, c.Claim("b", Route{SCID: 1, Until: now.Add(time.Second)}), "idempotent")
	require.Equal(t, 1, c.Routes("b"))
	match := func(at time.Time) string {
		h, _ := c.Match(1, at)
		return h.Name
	}
	require.Equal(t, "b", match(now))
	require.Equal(t, "a", match(now.Add(time.Second)), "a lapsed claim wants nothing")
	require.Equal(t, map[string][]ln.SCID{"b": {1}}, c.Expired(now.Add(time.Second)))
	c.Put(HandlerConfig{Name: "a", Priority: 9, OnAbsent: AbsentHold})
	require.Equal(t, "a", match(now))
	c.Release("a", 1)
	c.Release("a", 1)
	require.Equal(t, "b", match(now))
	c.Release("b", 1)
	require.Empty(t, match(now))
	require.Error(t, HandlerConfig{Name: "Big", OnAbsent: AbsentHold}.Validate())
	require.Error(t, HandlerConfig{Name: "a"}.Validate())
}
