package credit

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func testPlan() Plan {
	return Plan{Tenant: 1, Identity: "node:02", Preimage: NewSecret(ln.Preimage{7, 8, 9}), AmountMsat: 5000, Expires: time.Unix(100, 0)}
}

func testEvents(State) []Event {
	return []Event{
		Start{},
		InvoiceMade{Bolt11: "lnbc1"},
		InvoiceRefused{Text: "no"},
		PaymentHeld{PaidMsat: 5000},
		PaymentHeld{PaidMsat: 6000},

		PaymentHeld{PaidMsat: 5000, Unsafe: "not confirmed"},
		PaymentSettled{PaidMsat: 5000},
		PaymentSettled{PaidMsat: 6000},

		PaymentReleased{},
	}
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{Initial: []State{Planned{testPlan()}}, Events: testEvents})
}

// TestTheInvoiceIsSettledOnlyOnceTheCreditIsRecorded walks every order of events
// from the start: who is asked to settle has recorded exactly what was held, and
// at every end the credit that stays is what the node kept.
func TestTheInvoiceIsSettledOnlyOnceTheCreditIsRecorded(t *testing.T) {
	ends := map[string]int{}
	var walk func(s State, depth int)
	walk = func(s State, depth int) {
		if Final(s) || depth == 0 {
			ends[s.StateName()]++
			return
		}
		for _, v := range testEvents(s) {
			next, effects, err := Step(s, v)
			if err != nil {
				continue
			}
			for _, f := range effects {
				if settle, ok := f.(SettleInvoice); ok {
					require.IsType(t, Credited{}, next)
					require.Equal(t, settle.PaidMsat, RecordedMsat(next))
					require.GreaterOrEqual(t, settle.PaidMsat, PlanOf(next).AmountMsat)
				}
			}
			switch v := v.(type) {
			case PaymentSettled:
				require.Equal(t, v.PaidMsat, RecordedMsat(next), "the payment is ours: so is the debt")
			case PaymentReleased:
				require.Zero(t, RecordedMsat(next), "the payment went back")
			}
			walk(next, depth-1)
		}
	}
	walk(Planned{testPlan()}, 6)
	for _, s := range []State{Settled{}, TakenBack{}, Over{}} {
		require.Positive(t, ends[s.StateName()], s.StateName())
	}
}

func TestTooLittleIsNoPayment(t *testing.T) {
	_, _, err := Step(Offered{Plan: testPlan()}, PaymentHeld{PaidMsat: 4999})
	require.ErrorContains(t, err, "of 5")
	require.NotErrorIs(t, err, fsm.ErrIllegal)
}

// TestSecretsDoNotPrint: a stored state has the preimage, a printed one only its
// hash.
func TestSecretsDoNotPrint(t *testing.T) {
	p := testPlan()
	raw, err := json.Marshal(p)
	require.NoError(t, err)
	require.Contains(t, string(raw), "070809")
	var back Plan
	require.NoError(t, json.Unmarshal(raw, &back))
	require.Equal(t, p.Preimage, back.Preimage)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(verb, p), "070809", verb)
	}
	require.Error(t, json.Unmarshal([]byte(`{"preimage":"zz"}`), &back))
	require.Error(t, json.Unmarshal([]byte(`{"preimage":"`+string(make([]byte, 64))+`"}`), &back))
}
