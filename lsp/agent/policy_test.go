package agent_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

func TestPolicy(t *testing.T) {
	l := &agent.LSP{Name: "alice", NodeKey: nodeKey(1), ZeroConf: true}
	p := agent.DefaultPolicy()
	for name, change := range map[string]func(*ln.OpenProposal){
		"too large":      func(o *ln.OpenProposal) { o.CapacitySat = p.MaxChannelSat + 1 },
		"csv":            func(o *ln.OpenProposal) { o.CsvDelay = p.MaxToSelfDelayBlocks + 1 },
		"push":           func(o *ln.OpenProposal) { o.PushMsat = 1 },
		"announced":      func(o *ln.OpenProposal) { o.Announce = true },
		"reserve":        func(o *ln.OpenProposal) { o.ReserveSat = 4_001 },
		"few HTLCs":      func(o *ln.OpenProposal) { o.MaxHtlcs = 1 },
		"large min HTLC": func(o *ln.OpenProposal) { o.MinHtlcMsat = 10_000_000 },
		"no anchors":     func(o *ln.OpenProposal) { o.CommitmentType = "STATIC_REMOTE_KEY" },
		"lease":          func(o *ln.OpenProposal) { o.CommitmentType = "SCRIPT_ENFORCED_LEASE" },
	} {
		o := zeroConf(l.NodeKey)
		require.True(t, p.Decide(o, l, agent.Wish{}).Accept)
		change(&o)
		v := p.Decide(o, l, agent.Wish{})
		require.False(t, v.Accept, name)
		require.NotEmpty(t, v.Refusal, name)
	}
	// What the wallet brings itself may be pushed to it, and nothing else is let off.
	own := zeroConf(l.NodeKey)
	own.PushMsat = 1_000
	require.True(t, p.Decide(own, l, agent.Wish{Joint: true, Declined: true}).Accept)
	require.False(t, p.Decide(own, nil, agent.Wish{Joint: true}).Accept)
	own.CsvDelay = p.MaxToSelfDelayBlocks + 1
	require.False(t, p.Decide(own, l, agent.Wish{Joint: true}).Accept)
	own = zeroConf(l.NodeKey)
	own.Announce = true
	require.False(t, p.Decide(own, l, agent.Wish{Joint: true}).Accept)
	distrusted := *l
	distrusted.ZeroConf = false
	require.False(t, p.Decide(zeroConf(l.NodeKey), &distrusted, agent.Wish{}).Accept)
	p.AcceptOthers = false
	require.False(t, p.Decide(ln.OpenProposal{}, nil, agent.Wish{}).Accept)
}

// Whatever is proposed, zero-conf is granted to LSPs only, within the bounds,
// and every refusal has words.
func TestPolicyProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := agent.Policy{
			MaxChannelSat:        ln.Sat(rapid.Uint64Range(0, 1<<25).Draw(t, "max")),
			MaxToSelfDelayBlocks: rapid.Uint32Range(0, 4000).Draw(t, "csv max"), AcceptOthers: rapid.Bool().Draw(t, "others"),
		}
		o := ln.OpenProposal{
			Peer: nodeKey(1), CapacitySat: ln.Sat(rapid.Uint64Range(0, 1<<26).Draw(t, "capacity")),
			PushMsat: ln.Msat(rapid.SampledFrom([]uint64{0, 0, 1}).Draw(t, "push")), CsvDelay: rapid.Uint32Range(0, 5000).Draw(t, "csv"),
			ReserveSat: ln.Sat(rapid.Uint64Range(0, 1<<21).Draw(t, "reserve")), MaxHtlcs: rapid.Uint32Range(0, 483).Draw(t, "htlcs"),
			WantsZeroConf: rapid.Bool().Draw(t, "zero-conf"), Announce: rapid.Bool().Draw(t, "announce"),
			CommitmentType: rapid.SampledFrom([]ln.CommitmentType{"ANCHORS", "SIMPLE_TAPROOT", "LEGACY", ""}).Draw(t, "type"),
		}
		var l *agent.LSP
		if rapid.Bool().Draw(t, "lsp") {
			l = &agent.LSP{NodeKey: o.Peer, ZeroConf: rapid.Bool().Draw(t, "trusted")}
		}
		wish := agent.Wish{Declined: rapid.Bool().Draw(t, "declined"), Confirmations: rapid.Uint32Range(0, 9).Draw(t, "confs")}
		v := p.Decide(o, l, wish)
		if !v.Accept {
			require.NotEmpty(t, v.Refusal)
			require.Less(t, len(v.Refusal), 500, "lnd cuts what is longer")
			return
		}
		require.Equal(t, o.WantsZeroConf, v.ZeroConf, "zero-conf is neither forced on anybody nor silently dropped")
		if v.ZeroConf {
			require.NotNil(t, l)
			require.True(t, l.ZeroConf && !wish.Declined && o.PushMsat == 0 && !o.Announce)
			require.Zero(t, v.MinDepth)
		}
		if l != nil {
			require.LessOrEqual(t, o.CapacitySat, p.MaxChannelSat)
			require.LessOrEqual(t, o.CsvDelay, p.MaxToSelfDelayBlocks)
		}
	})
}

// The first of the ranked fits and no other one that fits is cheaper.
func TestRankProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var menus []agent.Menu
		for i := range rapid.IntRange(0, 4).Draw(t, "lsps") {
			m := agent.Menu{
				LSP: agent.LSP{Name: string(rune('a' + i))}, Accepting: rapid.Bool().Draw(t, "accepting"), CltvDelta: 80,
			}
			for range rapid.IntRange(0, 3).Draw(t, "offers") {
				m.Offers = append(m.Offers, lsp.OpeningFeeParams{
					MinFeeMsat: ln.Msat(rapid.Uint64Range(0, 5_000_000).Draw(t, "min")), ProportionalPPM: rapid.Uint32Range(0, 900_000).Draw(t, "ppm"),
					ValidUntil:         startTime().Add(time.Duration(rapid.IntRange(-60, 60).Draw(t, "valid")) * time.Second),
					MinPaymentSizeMsat: 1_000, MaxPaymentSizeMsat: ln.Msat(rapid.Uint64Range(1_000, 1<<40).Draw(t, "max")),
				})
			}
			menus = append(menus, m)
		}
		size := ln.Msat(rapid.Uint64Range(0, 1<<40).Draw(t, "amount"))
		mode := rapid.SampledFrom([]agent.Mode{agent.PayerPays, agent.ReceiverPays}).Draw(t, "mode")
		ranked := agent.Rank(menus, agent.DefaultPolicy(), mode, size, startTime())
		fitting := true
		for i, c := range ranked {
			if c.Unfit != nil {
				fitting = false
				continue
			}
			require.True(t, fitting, "those that fit come first")
			require.True(t, c.Menu.Accepting)
			require.True(t, c.Params.ValidUntil.After(startTime()))
			require.LessOrEqual(t, size, c.Params.MaxPaymentSizeMsat)
			require.LessOrEqual(t, ranked[0].Quote.FeeMsat, c.Quote.FeeMsat)
			require.GreaterOrEqual(t, c.Quote.PayerMsat, c.Quote.WalletMsat+c.Quote.FeeMsat, i)
		}
	})
}

// No answer of an LSP makes the payer pay more than the offer's fee and the
// rounding of a ppm, or the wallet get less than the amount.
func TestNegotiatedProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := lsp.OpeningFeeParams{
			MinFeeMsat: ln.Msat(rapid.Uint64Range(0, 5_000_000).Draw(t, "min")), ProportionalPPM: rapid.Uint32Range(0, 100_000).Draw(t, "ppm"),
			MinPaymentSizeMsat: 1, MaxPaymentSizeMsat: ln.MaxMsat,
		}
		size := ln.Msat(rapid.Uint64Range(10_000_000, 1<<40).Draw(t, "amount"))
		q, err := p.QuotePayerPays(size)
		if err != nil {
			t.Skip(err)
		}
		c := agent.Candidate{Menu: agent.Menu{LSP: agent.LSP{Name: "a", NodeKey: nodeKey(1)}}, Params: p, Quote: q}
		near := func(n uint64, label string) uint64 {
			return n + rapid.Uint64Range(0, 2).Draw(t, label) - min(n, 1)
		}
		r := &lspv1.NegotiateResponse{
			PaymentId: "x", JitScid: "16100000x1x1", FeeMsat: near(uint64(q.FeeMsat), "fee"), HintFeePpm: uint32(near(uint64(q.HintPPM), "hint")),
			HintCltvDeltaBlocks: rapid.Uint32Range(0, 2000).Draw(t, "cltv"), OpensChannel: rapid.Bool().Draw(t, "opens"),
			ExpiresMs: startTime().UnixMilli() + 1000,
		}
		n, err := agent.CheckNegotiated(c, agent.DefaultPolicy(), 0, r, startTime())
		if err != nil {
			require.ErrorIs(t, err, errkind.Invalid)
			return
		}
		require.LessOrEqual(t, n.FeeMsat, q.FeeMsat)
		require.LessOrEqual(t, n.PayerMsat, q.PayerMsat)
		require.GreaterOrEqual(t, n.PayerMsat, size+n.FeeMsat)
		if !n.OpensChannel {
			require.Equal(t, size, n.PayerMsat)
		}
	})
}

func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lsps.toml")
	b, err := agent.OpenBook(path)
	require.NoError(t, err)
	alice := agent.LSP{Name: "alice", NodeKey: nodeKey(1), Address: "h:9735", GRPC: "h:10009", Certificate: "/c", ZeroConf: true}
	require.NoError(t, b.Put(alice, false))
	require.ErrorIs(t, b.Put(alice, false), errkind.Conflict)
	other := alice
	other.Name = "other"
	require.ErrorIs(t, b.Put(other, false), errkind.Conflict, "one node, one LSP")
	alice.GRPC = "h:10010"
	require.NoError(t, b.Put(alice, true))
	read, err := agent.OpenBook(path)
	require.NoError(t, err)
	require.Equal(t, []agent.LSP{alice}, read.List())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = b.Remove("bob")
	require.ErrorIs(t, err, errkind.NotFound)
	require.ErrorContains(t, err, "alice")
	_, err = b.Remove("alice")
	require.NoError(t, err)
	require.Empty(t, b.List())
}

func FuzzParseLSP(f *testing.F) {
	f.Add("alice," + nodeKey(1).String() + "@127.0.0.1:9735,grpc=127.0.0.1:10009,cert=/tls.cert,zero-conf=no")
	f.Add("a,b@c:1,grpc=")
	f.Add(",@,")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := agent.ParseLSP(text)
		if err == nil {
			require.NoError(t, l.Validate())
		}
	})
}

func FuzzBookFile(f *testing.F) {
	f.Add([]byte("[[lsp]]\nname = \"a\"\nnode_key = \"" + nodeKey(1).String() + "\"\naddress = \"h:1\"\ngrpc = \"h:2\"\nzero_conf = true\n"))
	f.Add([]byte("[[lsp]]\nname = 3"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "lsps.toml")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		b, err := agent.OpenBook(path)
		if err != nil {
			return
		}
		for _, l := range b.List() {
			require.NoError(t, l.Validate())
		}
	})
}

func FuzzNegotiated(f *testing.F) {
	p := lsp.OpeningFeeParams{MinFeeMsat: 2_000_000, MinPaymentSizeMsat: 1, MaxPaymentSizeMsat: ln.MaxMsat}
	q, err := p.QuotePayerPays(amount)
	if err != nil {
		f.Fatal(err)
	}
	good, err := proto.Marshal(&lspv1.NegotiateResponse{PaymentId: "x", JitScid: "16100000x1x1", FeeMsat: 2_000_000, HintFeePpm: 20_000, HintCltvDeltaBlocks: 80, OpensChannel: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r lspv1.NegotiateResponse
		if proto.Unmarshal(raw, &r) != nil {
			return
		}
		n, err := agent.CheckNegotiated(agent.Candidate{Params: p, Quote: q}, agent.DefaultPolicy(), 0, &r, startTime())
		if err == nil {
			require.LessOrEqual(t, n.PayerMsat, q.PayerMsat)
		}
	})
}
