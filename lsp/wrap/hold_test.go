package wrap

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp"
)

// A wallet may have asked to be waited for: the accepted set waits, wakes it again, and is
// paid on only while law 4's margin is there, computed anew.
func TestAcceptedSetWaitsForItsWallet(t *testing.T) {
	terms := patient(testTerms(true), 20*time.Hour)
	terms.HoldFinalCltv = HoldCltvFor(80, 3, 60, 18, 6+120)
	htlcs := testHtlcs()[:1]
	htlcs[0].AmtMsat, htlcs[0].Expiry = terms.PayerMsat, testHeight+terms.HoldFinalCltv
	var s State = InvoiceMade{Offer{Terms: terms}}
	var effects []Effect
	step := func(v Event) {
		t.Helper()
		var err error
		s, effects, err = Step(s, v)
		require.NoError(t, err, v.EventName())
	}
	at := func(blocks uint32) lsp.Moment {
		return lsp.Moment{At: testStart.Add(time.Duration(blocks) * 10 * time.Minute), Height: testHeight + blocks}
	}
	step(SetAccepted{Moment: at(0), Htlcs: htlcs})
	due, _, _ := deadline(s)
	require.Equal(t, testStart.Add(20*time.Hour), due)
	step(NewBlock{at(1)})
	require.Empty(t, effects, "not before its incoming channels are known to be safe")
	step(IncomingChecked{at(1), true, ""})
	for n := uint32(2); n <= 119; n++ {
		step(NewBlock{at(n)})
		require.IsType(t, AskWallet{}, effects[0])
		step(WalletStatus{Moment: at(n)})
		require.IsType(t, WakeWallet{}, effects[0])
	}
	held := s
	step(WalletStatus{Moment: at(119), Online: true, Room: 42})
	pay := effects[0].(Pay)
	require.LessOrEqual(t, pay.Payment.ExpiryHeight+60+18, htlcs[0].Expiry, "law 4")
	s = held
	require.EqualValues(t, testHeight+127, BackAt(s), "people are told the very block")
	step(NewBlock{at(126)})
	require.IsType(t, AskWallet{}, effects[0])
	step(NewBlock{at(127)})
	require.IsType(t, CancelInvoice{}, effects[0], "the margin is gone: it goes back")
}
