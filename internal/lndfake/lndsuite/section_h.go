package lndsuite

import (
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
)

// payX pays once over X with no interceptor attached.
func (e *env) payX() *paying {
	e.Helper()
	return e.pay(e.invoice(10_000).PaymentRequest)
}

// race reconnects the wallet before the gateway's own policy is in its graph; later the policy is there, but the
// link was built with defaults.
func (e *env) race() *lnrpc.Channel {
	e.Helper()
	e.acceptor(true)
	for range 5 {
		c := e.open(e.jit(1_000_000))
		e.flap(Wallet, Gateway)
		if !e.hasPolicy(c) {
			e.ok(e.alias(c))
			return c
		}
		// The machine was too slow: the link may have been built with the policy.
		e.Mine(e.T, 1)
		e.closed(c)
	}
	e.Fatal("the wallet never reconnects before the policy is in the graph")
	return nil
}

func (e *env) updatePolicy(c *lnrpc.Channel) {
	e.Helper()
	e.until("the policy is updated", func() bool {
		r, err := e.ln(Gateway).UpdateChannelPolicy(e.ctx, &lnrpc.PolicyUpdateRequest{
			Scope: &lnrpc.PolicyUpdateRequest_ChanPoint{ChanPoint: pointOf(c)}, TimeLockDelta: 80, CreateMissingEdge: true,
		})
		return err == nil && len(r.FailedUpdates) == 0
	})
}

// hinted says whether a private invoice of the wallet's carries a hint.
func (e *env) hinted() bool {
	e.Helper()
	r, err := e.ln(Wallet).AddInvoice(e.ctx, &lnrpc.Invoice{Value: 10_000, Private: true})
	e.ok(err)
	d, err := e.ln(Wallet).DecodePayReq(e.ctx, &lnrpc.PayReqString{PayReq: r.PaymentRequest})
	e.ok(err)
	return len(d.RouteHints) > 0
}

// sectionH: restarts and X.
func sectionH() map[string]func(*env) {
	return map[string]func(*env){
		"H/alias_over_confirmations": func(e *env) {
			e.start(Options{})
			e.channel()
			e.payX().succeeds()
			e.Mine(e.T, 1)
			e.payX().succeeds()
			e.Mine(e.T, 6)
			e.payX().succeeds()
		},
		"H/close_with_htlcs": func(e *env) {
			e.start(Options{})
			c := e.channel()
			req, preimage := e.holdInvoice(nSat)
			d, err := e.ln(Gateway).DecodePayReq(e.ctx, &lnrpc.PayReqString{PayReq: req})
			e.ok(err)
			go func() { _, _ = e.sendOn(e.ctx, c, hashOf(preimage), d.PaymentAddr, nMsat) }()
			e.accepted(Wallet, hashOf(preimage))
			e.peerPolicy(c)
			first := func(noWait bool) (*lnrpc.CloseStatusUpdate, error) {
				stream, err := e.ln(Gateway).CloseChannel(e.ctx, &lnrpc.CloseChannelRequest{ChannelPoint: pointOf(c), SatPerVbyte: 2, NoWait: noWait})
				e.ok(err)
				return stream.Recv()
			}
			listed := func() bool {
				return slices.ContainsFunc(e.channels(Gateway), func(x *lnrpc.Channel) bool { return x.ChannelPoint == c.ChannelPoint })
			}
			_, err = first(false)
			require.ErrorContains(e, err, "active htlcs")
			update, err := first(true)
			e.ok(err)
			require.NotNil(e, update.GetCloseInstant())
			time.Sleep(settled)
			require.True(e, listed(), "it is asked for, and not closed")
			e.settleAtWallet(preimage)
			e.until("the channel is closed", func() bool { return !listed() })
			e.Mine(e.T, 6)
		},
		"H/alias_after_gateway_restart": func(e *env) {
			e.start(Options{})
			e.channel()
			e.restart(Gateway, Payer, Wallet)
			e.payX().succeeds()
			e.Mine(e.T, 7)
			e.restart(Gateway, Payer, Wallet)
			e.payX().succeeds()
		},
		"H/alias_after_wallet_restart": func(e *env) {
			e.start(Options{})
			e.channel()
			e.restart(Wallet, Gateway)
			e.payX().succeeds()
		},
		"H/alias_again_already_exists": func(e *env) {
			e.start(Options{})
			c := e.channel()
			require.ErrorContains(e, e.alias(c), "already exists")
			e.restart(Gateway, Payer, Wallet)
			require.ErrorContains(e, e.alias(c), "already exists")
			r, err := e.ln(Gateway).ListAliases(e.ctx, &lnrpc.ListAliasesRequest{})
			e.ok(err)
			found := false
			for _, m := range r.AliasMaps {
				for _, a := range m.Aliases {
					found = found || m.BaseScid == c.ChanId && a == e.x
				}
			}
			require.True(e, found, "%v", r)
		},
		"H/alias_of_another_channel_of_the_peer": func(e *env) {
			e.start(Options{})
			e.acceptor(true)
			small := e.open(e.jit(25_000))
			e.ok(e.alias(small))
			e.policy(small)
			e.policy(e.open(e.jit(1_000_000)))
			// More than the channel that X leads to can carry.
			e.pay(e.invoice(100_000).PaymentRequest).succeeds()
		},
		"H/alias_of_a_closed_channel_moves": func(e *env) {
			e.start(Options{})
			old := e.channel()
			c := e.open(e.jit(1_000_000))
			e.policy(c)
			e.payX().succeeds()
			e.Mine(e.T, 1)
			e.closed(old)
			require.Equal(e, old.ChanId, e.owner(), "a closed channel keeps its aliases")
			require.ErrorContains(e, e.alias(c), "already exists")
			// lnd was seen to keep the closed channel's link in its switch, where it
			// led to the peer still; after a restart there is none.
			e.restart(Gateway, Payer, Wallet)
			require.Equal(e, old.ChanId, e.owner())
			e.payX().fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
			e.resetMissionControl()
			require.ErrorContains(e, e.unalias(old), "channel link not found")
			require.Zero(e, e.owner(), "it is gone all the same")
			require.Error(e, e.unalias(old))
			e.ok(e.alias(c))
			e.payX().succeeds()
			e.restart(Gateway, Payer, Wallet)
			e.payX().succeeds()
		},
		"H/alias_moves_from_an_open_channel": func(e *env) {
			e.start(Options{})
			old := e.channel()
			c := e.open(e.jit(1_000_000))
			e.policy(c)
			e.ok(e.unalias(old))
			e.payX().succeeds() // until the restart
			e.restart(Gateway, Payer, Wallet)
			e.payX().fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
			e.resetMissionControl()
			e.ok(e.alias(c))
			e.payX().succeeds()
		},
		"H/policy_race": func(e *env) {
			e.start(Options{})
			c := e.race()
			e.policy(c)
			e.payX().fails(lnrpc.Failure_FEE_INSUFFICIENT)
			e.flap(Wallet, Gateway)
			e.resetMissionControl()
			e.payX().succeeds()
		},
		"H/policy_race_by_a_restart": func(e *env) {
			e.start(Options{})
			e.acceptor(true)
			c := e.open(e.jit(1_000_000))
			e.ok(e.alias(c))
			e.restart(Gateway, Payer, Wallet)
			e.policy(c)
			e.payX().fails(lnrpc.Failure_FEE_INSUFFICIENT)
		},
		"H/policy_race_updated": func(e *env) {
			e.start(Options{})
			c := e.race()
			e.updatePolicy(c)
			e.payX().succeeds()
		},
		"H/policy_race_waited_for": func(e *env) {
			e.start(Options{})
			e.channel()
			e.flap(Wallet, Gateway)
			e.payX().succeeds()
		},
		"H/policy_race_default_fees_zero": func(e *env) {
			e.start(Options{ZeroFees: true})
			e.race()
			e.payX().succeeds()
		},
		"H/no_hint_before_the_update": func(e *env) {
			e.start(Options{})
			e.acceptor(true)
			e.open(e.jit(1_000_000))
			require.False(e, e.hinted())
			e.until("the hint is there", e.hinted)
		},
		"H/hint_after_a_flap": func(e *env) {
			e.start(Options{})
			e.acceptor(true)
			e.open(e.jit(1_000_000))
			e.active(Wallet, Gateway)
			e.flap(Wallet, Gateway)
			e.until("the hint is there", e.hinted)
		},
		// Away when the update is sent, about a second after the open.
		"H/hint_after_a_drop": func(e *env) {
			e.start(Options{})
			e.acceptor(true)
			e.open(e.jit(1_000_000))
			// A link that was never up on both sides is another day: then no update comes.
			e.active(Wallet, Gateway)
			e.Disconnect(e.T, Wallet, Gateway)
			time.Sleep(3 * time.Second)
			require.False(e, e.hinted())
			e.Connect(e.T, Wallet, Gateway)
			e.until("the hint is there", e.hinted)
		},
	}
}
