package engine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// policyNode has one graph and counts how often a policy is set.
type policyNode struct {
	Channels
	graph map[ln.SCID]ln.ChannelPolicy
	sets  int
	// onSet runs before the answer.
	onSet func()
}

func (n *policyNode) OwnPolicy(_ context.Context, id ln.SCID, _ ln.PubKey) (ln.ChannelPolicy, error) {
	if p, ok := n.graph[id]; ok {
		return p, nil
	}
	return ln.ChannelPolicy{}, ln.ErrNotFound
}

func (n *policyNode) SetPolicy(_ context.Context, op ln.Outpoint, p ln.ChannelPolicy) error {
	n.sets++
	n.graph[ln.SCID(op.Index)] = p
	if n.onSet != nil {
		n.onSet()
	}
	return nil
}

// TestAPolicyThatIsKnownIsNotSetAgain: not by this process and not by the next; but where
// the graph says otherwise, and where the link went away beside the change, it is.
func TestAPolicyThatIsKnownIsNotSetAgain(t *testing.T) {
	cfg := database(t)
	node := &policyNode{graph: make(map[ln.SCID]ln.ChannelPolicy)}
	process := func() *Engine {
		return newEngine(t, cfg, &fakeNode{}, func(o *Options) { o.Node.Channels = node })
	}
	op := func(id ln.SCID) ln.Outpoint { return ln.Outpoint{TxID: ln.TxID{1}, Index: uint32(id)} } //nolint:gosec // a small number
	event := func(e *Engine, id ln.SCID, kind ln.ChannelEventKind) {
		e.world.channelEvent(ln.ChannelEvent{Outpoint: op(id), Kind: kind, Channel: &ln.Channel{ChanID: id}})
	}
	appear := func(e *Engine, ids ...ln.SCID) {
		for _, id := range ids {
			event(e, id, ln.ChannelOpened)
			event(e, id, ln.ChannelActive)
		}
	}
	want := ln.ChannelPolicy{TimeLockDelta: 80}
	ensure := func(e *Engine, id ln.SCID, sets int, why string) {
		t.Helper()
		node.sets = 0
		require.NoError(t, e.ensurePolicy(t.Context(), op(id), id, want))
		require.Equal(t, sets, node.sets, why)
	}
	noted := func(e *Engine) {
		t.Helper()
		e.wg.Wait()
	}

	e := process()
	appear(e, 1, 2, 3)
	node.graph[1], node.graph[2] = want, want
	ensure(e, 1, 1, "the graph has it, but what has the link?")
	ensure(e, 1, 0, "the link has it, too")
	node.onSet = func() {
		event(e, 2, ln.ChannelInactive)
		event(e, 2, ln.ChannelActive)
	}
	ensure(e, 2, 1, "the graph has it, but what has the link?")
	node.onSet = nil
	ensure(e, 2, 1, "another link took the place of the one that was told")
	node.graph[3] = want
	first, _ := e.world.link(op(3))
	require.NoError(t, e.awaitPolicy(t.Context(), op(3), first, want))
	noted(e)
	ensure(e, 2, 0, "the other one was told as well")

	next := process()
	appear(next, 1, 2, 3)
	for id := range ln.SCID(3) {
		ensure(next, id+1, 0, "an earlier process knew")
	}
	want.TimeLockDelta = 144
	ensure(next, 1, 1, "the configuration has changed")
	require.False(t, next.policies.knows(op(1)), "the link that was there may be another by now")
	noted(next)
	require.True(t, next.policies.knows(op(1)))
	event(next, 3, ln.ChannelClosed)
	require.NoError(t, next.forgetPolicies(t.Context()))

	last := process()
	require.True(t, last.policies.knows(op(1)))
	require.False(t, last.policies.knows(op(3)), "it was closed")
}
