package acceptor_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor/acceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestPolicy(t *testing.T) {
	friend, stranger, banned := ln.PubKey{2, 1}, ln.PubKey{2, 2}, ln.PubKey{2, 3}
	policy := acceptor.Policy{
		MinSat: 100_000, MaxSat: 1_000_000, MaxPendingPerPeer: 2,
		ZeroConfFrom: map[ln.PubKey]bool{friend: true}, Deny: map[ln.PubKey]bool{banned: true},
	}
	base := ln.OpenProposal{Peer: stranger, CapacitySat: 100_000, CsvDelay: 144}
	for _, tc := range []struct {
		name    string
		change  func(*ln.OpenProposal)
		refusal string
	}{
		{"smallest", func(*ln.OpenProposal) {}, ""},
		{"largest", func(p *ln.OpenProposal) { p.CapacitySat = 1_000_000 }, ""},
		{"too small", func(p *ln.OpenProposal) { p.CapacitySat-- }, "too small"},
		{"too large", func(p *ln.OpenProposal) { p.CapacitySat = 1_000_001 }, "too large"},
		{"zero-conf from a stranger", func(p *ln.OpenProposal) { p.WantsZeroConf = true }, "zero-conf"},
		{"zero-conf from a friend", func(p *ln.OpenProposal) { p.Peer, p.WantsZeroConf = friend, true }, ""},
		{"banned", func(p *ln.OpenProposal) { p.Peer = banned }, "no channels from your node"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := base
			tc.change(&p)
			v := acceptor.New(policy, time.Now).Decide(p)
			if tc.refusal == "" {
				require.Empty(t, v.Refusal)
				require.True(t, v.Accept)
				require.Equal(t, p.WantsZeroConf, v.ZeroConf)
				return
			}
			require.False(t, v.Accept)
			require.False(t, v.ZeroConf)
			require.Contains(t, v.Refusal, tc.refusal)
		})
	}
}

func TestPendingPerPeer(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	peer := ln.PubKey{2, 9}
	a := acceptor.New(acceptor.Policy{MaxSat: 10, MaxPendingPerPeer: 2}, func() time.Time { return now })
	propose := func(id byte) bool {
		return a.Decide(ln.OpenProposal{Peer: peer, PendingID: ln.PendingChanID{id}, CapacitySat: 5}).Accept
	}
	require.True(t, propose(1))
	require.True(t, propose(2))
	require.False(t, propose(3))
	now = now.Add(time.Minute)
	a.SetOpening([]ln.PendingChannel{
		{Kind: ln.PendingOpen, Peer: peer},
		{Kind: ln.PendingOpen, Peer: peer, Initiator: true},
		{Kind: ln.PendingForceClose, Peer: peer},
	}, now)
	require.True(t, propose(4), "one of its own is opening, ours and closing ones do not count")
	require.False(t, propose(5))
	now = now.Add(10 * time.Minute)
	a.SetOpening(nil, now.Add(-time.Hour))
	require.True(t, propose(6), "proposals that led to nothing lapse")
}

// A channel that lnd lists already and that was proposed a moment ago is one.
func TestNoChannelCountsTwice(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	peer := ln.PubKey{2, 9}
	a := acceptor.New(acceptor.Policy{MaxSat: 10, MaxPendingPerPeer: 3}, func() time.Time { return now })
	propose := func(id byte, capacity ln.Sat) bool {
		return a.Decide(ln.OpenProposal{Peer: peer, PendingID: ln.PendingChanID{id}, CapacitySat: capacity}).Accept
	}
	require.True(t, propose(1, 5))
	require.True(t, propose(2, 5))
	now = now.Add(time.Second)
	a.SetOpening([]ln.PendingChannel{{Kind: ln.PendingOpen, Peer: peer, CapacitySat: 5}}, now.Add(-5*time.Second))
	require.True(t, propose(3, 7), "one is listed, one is not")
	require.False(t, propose(4, 7))
	a.SetOpening([]ln.PendingChannel{
		{Kind: ln.PendingOpen, Peer: peer, CapacitySat: 5}, {Kind: ln.PendingOpen, Peer: peer, CapacitySat: 6},
	}, now.Add(-5*time.Second))
	require.False(t, propose(5, 7), "another capacity is another channel")
}

// What programs of others say may be longer than what lnd takes.
func TestRefusalFitsLnd(t *testing.T) {
	node := &listing{proposals: make(chan ln.OpenProposal), verdicts: make(chan ln.AcceptVerdict)}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		acceptor.New(acceptor.Policy{MaxSat: 10, MaxPendingPerPeer: 1}, time.Now).Run(ctx, acceptor.Config{
			Node: node, Consult: func(context.Context, ln.OpenProposal, ln.AcceptVerdict) ln.AcceptVerdict {
				return ln.AcceptVerdict{Refusal: "x" + strings.Repeat("ü", 600)}
			},
		})
	})
	for range 2 {
		// What is refused does not count as one that is opening.
		node.proposals <- ln.OpenProposal{CapacitySat: 5}
		require.Equal(t, "x"+strings.Repeat("ü", 249), (<-node.verdicts).Refusal)
	}
	cancel()
	running.Wait()
}

// listing is an lnd that lists what is opening, and offers one channel when asked to.
type listing struct {
	mu        sync.Mutex
	opening   []ln.PendingChannel
	asked     int
	proposals chan ln.OpenProposal
	verdicts  chan ln.AcceptVerdict
}

func (l *listing) RunAcceptor(ctx context.Context, decide func(ln.OpenProposal) ln.AcceptVerdict) error {
	for {
		select {
		case p := <-l.proposals:
			l.verdicts <- decide(p)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *listing) PendingChannels(context.Context) ([]ln.PendingChannel, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.opening, nil
}

// A channel that has opened since the last look keeps its peer from no other one; and
// a peer at its limit cannot have lnd asked all the time.
func TestLooksAgainBeforeItRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := ln.PubKey{2, 9}
		node := &listing{
			opening: []ln.PendingChannel{{Kind: ln.PendingOpen, Peer: peer}}, proposals: make(chan ln.OpenProposal), verdicts: make(chan ln.AcceptVerdict),
		}
		a := acceptor.New(acceptor.Policy{MaxSat: 10, MaxPendingPerPeer: 1}, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Run(ctx, acceptor.Config{Node: node})
		}()
		synctest.Wait()
		propose := func(sat ln.Sat) ln.AcceptVerdict {
			node.proposals <- ln.OpenProposal{Peer: peer, PendingID: ln.PendingChanID{1}, CapacitySat: sat}
			return <-node.verdicts
		}
		for range 20 {
			require.Contains(t, propose(5).Refusal, "are still opening")
		}
		require.Contains(t, propose(11).Refusal, "too large")
		require.Equal(t, 2, node.asked, "at the start, and once more")
		time.Sleep(2 * time.Second)
		node.opening = nil
		require.True(t, propose(5).Accept)
		require.Equal(t, 3, node.asked)
		cancel()
		<-done
	})
}
