package jit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp"
)

// A wallet may have asked to be waited for: parts still have CollectFor to find together,
// the complete set waits longer, wakes the wallet again, and goes back before the wallet
// would refuse it.
func TestCompleteSetWaitsForItsWallet(t *testing.T) {
	var s State = Offered{Offer{Terms: patient(testTerms(true), time.Hour)}}
	var effects []Effect
	step := func(v Event) {
		t.Helper()
		var err error
		s, effects, err = Step(again(t, s), again(t, v))
		require.NoError(t, err, v.EventName())
	}
	m := moment()
	step(PartArrived{Moment: m, Htlc: testPart(1, 60_000_000)})
	due, _, _ := deadline(s)
	require.Equal(t, testStart.Add(90*time.Second), due, "the siblings have no longer than ever")
	later := lsp.Moment{At: testStart.Add(time.Minute), Height: testHeight}
	step(PartArrived{Moment: later, Htlc: testPart(2, 40_000_000)})
	step(WalletStatus{Moment: later})
	require.IsType(t, WakeWallet{}, effects[0])
	require.Equal(t, testStart.Add(time.Hour), effects[0].(WakeWallet).Until)
	due, _, _ = deadline(s)
	require.Equal(t, testStart.Add(time.Hour), due)
	step(NewBlock{lsp.Moment{At: later.At, Height: testHeight + 1}})
	require.IsType(t, AskWallet{}, effects[0], "and so it is woken again")
	require.EqualValues(t, testHeight+4, BackAt(s), "people are told the very block")
	step(NewBlock{lsp.Moment{At: later.At, Height: testHeight + 3}})
	held := s
	step(NewBlock{lsp.Moment{At: later.At, Height: testHeight + 4}})
	require.Equal(t, "offered", s.StateName(), "the onion leaves three blocks")
	s = held
	step(Tick{lsp.Moment{At: testStart.Add(time.Hour), Height: testHeight}})
	require.IsType(t, RefuseParts{}, effects[0])
	s = held
	step(WalletOnline{later})
	step(WalletStatus{Moment: later, Online: true, Room: 42})
	require.Equal(t, "mapping", s.StateName())
}
