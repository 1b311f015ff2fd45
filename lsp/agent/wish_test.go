package agent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// A wallet that waits for a payment whose preimage is worth money takes channels of that
// LSP once they have confirmed, unless its user asks for a zero-conf one.
func TestConfirmedFirst(t *testing.T) {
	lsp := ln.PubKey{2, 1}
	p, l := DefaultPolicy(), &LSP{NodeKey: lsp, ZeroConf: true}
	young := ln.OpenProposal{Peer: lsp, CapacitySat: 500_000, WantsZeroConf: true, CommitmentType: ln.CommitmentAnchors, MaxHtlcs: 483}
	old := young
	old.WantsZeroConf = false
	require.True(t, p.Decide(young, l, Wish{}).Accept)
	waits := Wish{}.confirmed(3)
	require.False(t, p.Decide(young, l, waits).Accept)
	v := p.Decide(old, l, waits)
	require.True(t, v.Accept)
	require.EqualValues(t, 3, v.MinDepth)
	require.EqualValues(t, 6, Wish{Confirmations: 6}.confirmed(0).Confirmations)
	require.EqualValues(t, 1, Wish{}.confirmed(0).Confirmations)
	require.True(t, p.Decide(young, l, Wish{Trusting: true}.confirmed(3)).Accept)
}
