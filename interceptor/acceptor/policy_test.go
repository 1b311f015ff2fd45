package acceptor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor/acceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestPolicy(t *testing.T) {
	friend, stranger, banned := ln.PubKey{2, 1}, ln.PubKey{2, 2}, ln.PubKey{2, 3}
	policy := acceptor.Policy{
		MinSat: 100_000, MaxSat: 1_000_000, MaxPendingPerPeer: 2, MinDepth: 3, MaxCsvDelay: 2016,
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
		{"long delay", func(p *ln.OpenProposal) { p.CsvDelay = 2017 }, "to_self_delay"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := base
			tc.change(&p)
			v := acceptor.New(policy, time.Now).Decide(p)
			if tc.refusal == "" {
				require.Empty(t, v.Refusal)
				require.True(t, v.Accept)
				require.Equal(t, p.WantsZeroConf, v.ZeroConf)
				require.Equal(t, !p.WantsZeroConf, v.MinDepth == 3)
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

func TestRefusalFitsLnd(t *testing.T) {
	a := acceptor.New(acceptor.Policy{Closed: true, ClosedText: "x" + strings.Repeat("ü", 600)}, time.Now)
	require.Equal(t, "x"+strings.Repeat("ü", 249), a.Decide(ln.OpenProposal{}).Refusal)
}
