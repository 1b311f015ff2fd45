//go:build itest

package itest

import (
	"context"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestRestartBetweenRevokeAndSign kills an lnd when it has revoked its old commitment and
// has not signed its peer's next one, which it then forgets (lsp/links, Standing). The
// payment does not go on, or an HTLC that has ended stays in the channel, until sluiced
// makes both sides sign. It hits or misses by a millisecond, so each case is tried until
// nothing was signed.
func TestRestartBetweenRevokeAndSign(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	config := patient()
	config.Settings["lsp.reconnect_after"] = "8s"
	sc := newScene(ctx, t, devnet.StandardConfig{}, config)
	w := sc.first(ctx)
	amount := growing(50_000_000, 5_000_000)

	for _, c := range []struct {
		name string
		// claims: it is killed when the wallet claims, else when the payer pays.
		claims bool
		// stays: sluiced runs all the time, else it is killed as well, and started once it
		// is certain that the channel stands still.
		stays bool
		ends  func(sc *scene, w *person) signing
	}{
		{"the gateway, of what the payer adds", false, false, func(sc *scene, _ *person) signing {
			return signing{victim: sc.Gateway, other: sc.Payer, link: sc.PayerLink}
		}},
		{"the wallet, of what the gateway adds", false, false, func(sc *scene, w *person) signing {
			return signing{victim: w.node, other: sc.Gateway, link: w.link, fromDialler: true}
		}},
		{"the gateway, of what the wallet claims", true, false, func(sc *scene, w *person) signing {
			return signing{victim: sc.Gateway, other: w.node, link: w.link}
		}},
		{"the gateway, of what the wallet claims, and sluiced runs", true, true, func(sc *scene, w *person) signing {
			return signing{victim: sc.Gateway, other: w.node, link: w.link}
		}},
		{"the payer, of what the gateway claims", true, false, func(sc *scene, _ *person) signing {
			return signing{victim: sc.Payer, other: sc.Gateway, link: sc.PayerLink, fromDialler: true}
		}},
	} {
		for _, way := range ways() {
			t.Run(c.name+"; "+way.name, func(t *testing.T) {
				sc := sc.on(ctx, t)
				w := w.in(sc)
				for try := 1; ; try++ {
					require.LessOrEqual(t, try, 15, "it always signed before it died")
					before := w.purse(ctx)
					d := w.agree(ctx, way, amount(), dealWish{held: true})
					end := c.ends(sc, w)
					act := func() { d.pay(ctx) }
					if c.claims {
						d.pay(ctx)
						d.waitSent(ctx)
						act = func() { d.claim(ctx) }
					}
					end.killed(sc, act)
					stands := c.stays
					if !c.stays {
						require.NoError(t, sc.s.Kill())
						stands = end.back(ctx, sc)
						require.NoError(t, sc.s.Start(ctx))
					} else {
						end.back(ctx, sc)
					}
					if !c.claims {
						w.waitInvoice(ctx, d.hash(), lnrpc.Invoice_ACCEPTED)
						d.claim(ctx)
					}
					d.endsPaid(ctx, afterOutage)
					before.moved(ctx, d)
					if stands {
						t.Logf("stood still at try %d", try)
						return
					}
				}
			})
		}
	}
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
}

// signing is one end of a channel that is to die between its revoke_and_ack and its
// commitment_signed; fromDialler: it is the one that dials over the link.
type signing struct {
	victim, other *devnet.Node
	link          *devnet.Link
	fromDialler   bool
}

// stillFor is long for two lnds of one machine to sign.
const stillFor = 2 * time.Second

// killed kills the victim at its first revocation after act.
func (s signing) killed(sc *scene, act func()) {
	sc.t.Helper()
	dead := s.victim.Proc().Exited()
	var last atomic.Int64
	s.link.OnRead(func(fromDialler bool, size int) {
		if fromDialler == s.fromDialler && isRevocation(int(last.Swap(int64(size))), size) {
			_ = s.victim.Proc().Signal(syscall.SIGKILL)
		}
	})
	defer s.link.OnRead(nil)
	act()
	select {
	case <-dead:
	case <-time.After(20 * time.Second):
		sc.t.Log("its revocation was read together with what it signed")
		require.NoError(sc.t, s.victim.Kill())
	}
}

// back starts the victim again and tells whether the channel stands still.
func (s signing) back(ctx context.Context, sc *scene) (stands bool) {
	sc.t.Helper()
	require.NoError(sc.t, s.victim.Start(ctx))
	require.NoError(sc.t, sc.WaitConnected(ctx, s.dialler(), s.listener()))
	sc.waitActive(ctx, s.peer(sc))

	still, cancel := context.WithTimeout(ctx, stillFor)
	defer cancel()
	return devnet.WaitFor(still, "both to sign", func(ctx context.Context) (bool, error) {
		for _, n := range []*devnet.Node{s.victim, s.other} {
			if half, err := halfSigned(ctx, n); half || err != nil {
				return false, err
			}
		}
		return true, nil
	}) != nil
}

func (s signing) dialler() *devnet.Node {
	if s.fromDialler {
		return s.victim
	}
	return s.other
}

func (s signing) listener() *devnet.Node {
	if s.fromDialler {
		return s.other
	}
	return s.victim
}

// peer is the end that is not the gateway.
func (s signing) peer(sc *scene) *devnet.Node {
	if s.victim == sc.Gateway {
		return s.other
	}
	return s.victim
}

// isRevocation tells a revoke_and_ack (BOLT 2: type, channel, secret, point) by its size,
// with the nonce of a taproot channel or without, from what was read last and now.
func isRevocation(last, now int) bool {
	const header, mac = 18, 16
	for _, payload := range []int{2 + 32 + 32 + 33, 2 + 32 + 32 + 33 + 2 + 66} {
		if body := payload + mac; now == header+body || last == header && now == body {
			return true
		}
	}
	return false
}

// halfSigned tells whether a node is committed to an HTLC of a peer's that is not.
func halfSigned(ctx context.Context, n *devnet.Node) (bool, error) {
	list, err := n.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	return slices.ContainsFunc(list.GetChannels(), func(c *lnrpc.Channel) bool {
		return slices.ContainsFunc(c.PendingHtlcs, func(h *lnrpc.HTLC) bool { return h.Incoming && !h.LockedIn })
	}), err
}
