package lookout_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/watchtower"
)

// TestReorganisations: the justice transaction leaves the chain with its block, the
// commitment as well, and both come back; each time it is handed out anew.
func TestReorganisations(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.start()
		p.chain.Mine(b.Commit)
		p.of(b, watchtower.Published)
		p.chain.Mine(b.Justice)
		p.of(b, watchtower.Swept)

		// Only the block with the justice transaction goes.
		before := p.chain.Handed(b.Justice.TxHash())
		p.chain.Reorganise(1, nil, nil)
		p.of(b, watchtower.Published)
		require.Greater(t, p.chain.Handed(b.Justice.TxHash()), before)
		p.chain.Mine(b.Justice)
		p.of(b, watchtower.Swept)

		// All of it goes, and the chain is shorter for a while; lnd takes no
		// transaction whose parent it does not know.
		p.chain.Refuse(func(*wire.MsgTx) error { return errors.New("missing inputs") })
		p.chain.Reorganise(4, nil)
		got := p.of(b, watchtower.Found)
		p.until("the commitment to be missed", func() bool { return p.list()[0].SeenAt.Height == 0 })
		require.Equal(t, got.ID, p.list()[0].ID)
		p.chain.Mine()
		p.until("the refusal to be known", func() bool { return strings.Contains(p.list()[0].Problem, "missing inputs") })
		p.chain.Refuse(nil)
		p.chain.Mine(b.Commit)
		p.of(b, watchtower.Published)
		p.chain.Mine(b.Justice)
		p.of(b, watchtower.Swept)
		require.Len(t, p.list(), 1, "it is one breach throughout")

		// One that never comes back is let go in the end.
		gone := p.breach(2)
		p.chain.Mine(gone.Commit)
		p.of(gone, watchtower.Published)
		p.chain.Reorganise(1, nil, nil)
		p.synced()
		for range 20 {
			p.chain.Mine()
		}
		p.of(gone, watchtower.Vanished)
	})
}

// TestACommitmentThatVanishedIsBack: who cheats once more, long after a reorganisation
// took the commitment away and the case was closed, is punished as before; also
// when nobody looked at that moment, and when it vanishes again.
func TestACommitmentThatVanishedIsBack(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.start()
		vanish := func() {
			t.Helper()
			p.chain.Reorganise(1, nil, nil)
			p.until("the commitment to be missed", func() bool { return p.list()[0].SeenAt.Height == 0 })
			for range 20 {
				p.chain.Mine()
			}
			p.of(b, watchtower.Vanished)
			p.until("the case to be closed", func() bool { return p.l.View().Open == 0 })
			p.chain.Evict(b.Justice.TxHash())
		}
		p.chain.Mine(b.Commit)
		first := p.of(b, watchtower.Published)
		vanish()
		before := p.chain.Handed(b.Justice.TxHash())
		p.chain.Mine()
		p.synced()
		require.Equal(t, before, p.chain.Handed(b.Justice.TxHash()), "what is closed is not handed out")

		p.chain.Mine(b.Commit)
		again := p.of(b, watchtower.Published)
		require.Equal(t, first.ID, again.ID)
		require.Equal(t, p.chain.Height(), again.SeenAt.Height)
		p.until("the case to be open", func() bool { return p.l.View().Open == 1 })
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
		vanish()

		// The tower is away when it comes, and its punishment is in the same block.
		require.NoError(t, p.stop())
		p.chain.Mine(b.Commit, b.Justice)
		p.start()
		p.of(b, watchtower.Swept)
		for range 5 {
			p.chain.Mine()
		}
		p.until("the case to be closed", func() bool { return p.list()[0].Final })
		require.Len(t, p.list(), 1, "it is one breach throughout")
		_, story, err := p.store.Breach(p.ctx, p.tenant.ID, first.ID)
		require.NoError(t, err)
		reopened := 0
		for _, l := range story {
			if strings.Contains(l.Text, "the case is open again") {
				reopened++
			}
		}
		require.Equal(t, 2, reopened)
	})
}

// TestReorganisationBelowTheBurial: a case that was closed is open again when the
// chain goes back further than its burial, whatever of it is still in the chain.
func TestReorganisationBelowTheBurial(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.start()
		bury := func() {
			t.Helper()
			p.of(b, watchtower.Published)
			p.chain.Mine(b.Justice)
			for range 5 {
				p.chain.Mine()
			}
			// Its view follows what is stored.
			p.until("the case to be closed", func() bool { return p.list()[0].Final && p.l.View().Open == 0 })
		}
		p.chain.Mine(b.Commit)
		bury()
		// The commitment stays, its punishment goes.
		p.chain.Reorganise(6, make([][]*wire.MsgTx, 7)...)
		p.of(b, watchtower.Published)
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
		bury()
		// Both go, and the commitment is back in another block, after a restart.
		require.NoError(t, p.stop())
		blocks := make([][]*wire.MsgTx, 15)
		blocks[3] = []*wire.MsgTx{b.Commit}
		p.chain.Reorganise(14, blocks...)
		p.start()
		bury()
		require.Len(t, p.list(), 1)
	})
}

// TestDeepReorganisation goes below every block that is remembered.
func TestDeepReorganisation(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.start()
		p.synced()
		blocks := make([][]*wire.MsgTx, 9)
		blocks[1] = []*wire.MsgTx{b.Commit} // below the first block that was ever searched
		p.chain.Reorganise(8, blocks...)
		p.synced()
		lowest, ok, err := p.store.Lowest(p.ctx)
		require.NoError(t, err)
		require.True(t, ok)
		require.EqualValues(t, 9, lowest.Height)
	})
}

// TestABackendBehindMovesNothing: an lnd that is far behind, as while it catches
// up, does not make the tower go back.
func TestABackendBehindMovesNothing(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		p.chain.Mine()
		p.start()
		p.synced()
		tip, _, err := p.store.Tip(p.ctx)
		require.NoError(t, err)
		p.chain.Reorganise(8)
		p.chain.Away(errors.New("waking the lookout"))
		p.chain.Away(nil)
		p.until("the problem to be known", func() bool { return strings.Contains(p.l.View().Problem, "in sync") })
		now, _, err := p.store.Tip(p.ctx)
		require.NoError(t, err)
		require.Equal(t, tip, now)
	})
}
