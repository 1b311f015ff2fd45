package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Whatever a wallet says, only its own signed funding in no block is replaced, by a
// transaction that spends one of its coins and pays more.
func TestReplacementsAreJudged(t *testing.T) {
	n := newNet(t, storetest.SQLite(t))
	o, packet := n.offer(400_000, 600_000)
	v, err := n.e.Offer(t.Context(), o)
	require.NoError(t, err)
	v = n.wait(v.ID, "ready")
	next := o
	next.Nonce, next.Replaces, next.MaxChainFeeSat = [32]byte{2}, v.ID, 50_000
	refused := func(name string, kind errkind.Kind, edit func(*Offer)) {
		t.Helper()
		q := next
		edit(&q)
		_, err := n.e.Offer(t.Context(), q)
		require.Equal(t, kind, errkind.Of(err), "%s: %v", name, err)
	}
	rate := func(r ln.FeeRateSatPerKW) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.rate = r
	}
	rate(2_000)
	refused("not signed", errkind.Conflict, func(*Offer) {})
	_, err = n.e.Sign(t.Context(), n.key, v.ID, n.sign(v, packet))
	require.NoError(t, err)
	n.wait(v.ID, "published")
	refused("unknown", errkind.NotFound, func(q *Offer) { q.Replaces = "none" })
	refused("another wallet's", errkind.NotFound, func(q *Offer) { q.Client[4]++ })
	refused("other coins", errkind.Conflict, func(q *Offer) {
		q.Inputs = append(q.Inputs[:0:0], q.Inputs...)
		for i := range q.Inputs {
			q.Inputs[i].Outpoint.Index += 40
		}
	})
	rate(600)
	refused("little more", errkind.Conflict, func(*Offer) {})
	rate(2_000)
	second, err := n.e.Offer(t.Context(), next)
	require.NoError(t, err)
	refused("twice", errkind.Conflict, func(q *Offer) { q.Nonce[0]++ })
	second = n.wait(second.ID, "ready")
	require.Greater(t, second.Ours.Joint.FeeSat, v.Ours.Joint.FeeSat)
	_, err = n.e.Sign(t.Context(), n.key, second.ID, n.sign(second, packet))
	require.NoError(t, err)
	n.wait(second.ID, "published")
	// The replacement can be replaced in its turn, and so on; there is an end.
	rate(9_000)
	third := next
	third.Nonce, third.Replaces = [32]byte{3}, second.ID
	w, err := n.e.Offer(t.Context(), third)
	require.NoError(t, err)
	_, err = n.e.Abort(t.Context(), n.key, w.ID)
	require.NoError(t, err)
	n.w.Mine(3)
	n.wait(second.ID, "buried")
	n.wait(v.ID, "conflicted")
	n.eventually("its coins are free", func() bool { return n.leases() == 0 })
	n.eventually("one channel is left", func() bool { return n.channels() == 1 })
	refused("buried", errkind.Conflict, func(q *Offer) { q.Nonce[0] = 9 })
	require.NoError(t, n.w.Err())
}
