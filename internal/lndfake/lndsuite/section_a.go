package lndsuite

import (
	"crypto/rand"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
)

const tempFail = lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE

// sectionA: intercept, open a zero-conf channel, add the alias, resume.
func sectionA() map[string]func(*env) {
	required := Options{RequireInterceptor: true}
	// variant runs the recipe with one thing changed.
	variant := func(change func(*lnrpc.OpenChannelRequest)) func(*env) {
		return func(e *env) {
			e.start(required)
			e.acceptor(true)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			q := s.next()
			r := e.jit(1_000_000)
			change(r)
			e.ok(e.alias(e.open(r)))
			s.resume(q)
			p.succeeds()
			e.quiet(Gateway, Wallet)
			require.EqualValues(e, nSat, e.local(Wallet))
		}
	}
	same := func(*lnrpc.OpenChannelRequest) {}
	capacity := func(sat int64, works bool) func(*env) {
		return func(e *env) {
			e.start(Options{RequireInterceptor: true, FeeRateSatPerKW: 500})
			e.acceptor(true)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			q := s.next()
			e.ok(e.alias(e.open(e.jit(sat))))
			s.resume(q)
			if works {
				p.succeeds()
			} else {
				require.Equal(e, lnrpc.Payment_FAILED, p.waitOrFail(s).Status)
			}
		}
	}
	return map[string]func(*env){
		"A/single_part":       variant(same),
		"A/scid_alias_false":  variant(func(r *lnrpc.OpenChannelRequest) { r.ScidAlias = false }),
		"A/public_no_alias":   variant(func(r *lnrpc.OpenChannelRequest) { r.Private, r.ScidAlias = false, false }),
		"A/simple_taproot":    variant(func(r *lnrpc.OpenChannelRequest) { r.CommitmentType = lnrpc.CommitmentType_SIMPLE_TAPROOT }),
		"A/default_policy":    refused(80, lnrpc.Failure_FEE_INSUFFICIENT, func(r *lnrpc.OpenChannelRequest) { r.UseBaseFee, r.UseFeeRate = false, false }),
		"A/hint_delta_40":     refused(40, lnrpc.Failure_INCORRECT_CLTV_EXPIRY, same),
		"A/capacity_too_low":  capacity(nSat+3_000, false),
		"A/capacity_just_so":  capacity(nSat+4_000, true),
		"A/two_part_mpp":      twoParts,
		"A/fee_in_route_hint": feeInHint,
		"A/fee_in_route_hint_mpp": func(e *env) {
			e.start(required)
			e.acceptor(true)
			s := e.sidecar()
			p := e.payIn(e.invoiceWith(nSat, e.hint(80, 20_000)).PaymentRequest, 60_000)
			a, b := s.next(), s.next()
			for _, q := range []offer{a, b} {
				require.EqualValues(e, q.OutgoingAmountMsat/50, q.IncomingAmountMsat-q.OutgoingAmountMsat)
			}
			require.EqualValues(e, 102_000_000, a.IncomingAmountMsat+b.IncomingAmountMsat)
			e.ok(e.alias(e.open(e.jit(1_000_000))))
			s.resume(a)
			s.resume(b)
			require.EqualValues(e, 2_000_000, p.succeeds().FeeMsat)
		},
		"A/no_acceptor_rejects": func(e *env) {
			e.start(required)
			e.openFails(e.jit(1_000_000), "channel rejected")
		},
		"A/acceptor_without_zero_conf": func(e *env) {
			e.start(required)
			e.acceptor(false)
			e.openFails(e.jit(1_000_000), "funding failed due to internal error")
		},
		"A/public_with_scid_alias": func(e *env) {
			e.start(required)
			e.acceptor(true)
			r := e.jit(1_000_000)
			r.Private = false
			e.openFails(r, "option-scid-alias chantype for public channel")
		},
		"A/resume_without_alias": func(e *env) {
			e.start(required)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			s.resume(s.next())
			m := p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
			require.Len(e, m.Htlcs, 1, "the payer stops at once")
			s.none()
		},
		// What a probe is answered decides whether the payment after it finds the route (law 6).
		"A/unknown_next_peer_closes_the_route": func(e *env) {
			e.start(required)
			s := e.sidecar()
			q, probe := e.probe(s)
			s.resume(q)
			probe.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
			again := e.pay(e.invoice(nSat).PaymentRequest).waitOrFail(s)
			require.Equal(e, lnrpc.PaymentFailureReason_FAILURE_REASON_NO_ROUTE, again.FailureReason)
			require.Empty(e, again.Htlcs)
		},
		"A/temporary_failure_leaves_the_route": func(e *env) {
			e.start(required)
			e.acceptor(true)
			s := e.sidecar()
			q, probe := e.probe(s)
			s.fail(q)
			require.Equal(e, lnrpc.Payment_FAILED, probe.waitOrFail(s).Status)
			p := e.pay(e.invoice(nSat).PaymentRequest)
			q = s.next() // in parts: the payer remembers an amount that did not pass
			e.ok(e.alias(e.open(e.jit(1_000_000))))
			s.resume(q)
			require.Equal(e, lnrpc.Payment_SUCCEEDED, p.answered(s, s.resume).Status)
		},
		"A/fail_makes_payer_split": func(e *env) {
			e.start(required)
			s := e.sidecar()
			e.pay(e.invoice(nSat).PaymentRequest)
			s.fail(s.next())
			a, b := s.next(), s.next()
			require.EqualValues(e, nMsat/2, a.OutgoingAmountMsat)
			require.EqualValues(e, nMsat/2, b.OutgoingAmountMsat)
			s.resume(a)
			s.resume(b)
		},
		"A/node_failure_poisons_the_payer": func(e *env) {
			e.start(required)
			e.acceptor(true)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			q := s.next()
			r := e.jit(1_000_000)
			r.UseBaseFee, r.UseFeeRate = false, false
			c := e.open(r)
			e.ok(e.alias(c))
			s.resume(q)
			m := p.waitOrFail(s)
			require.Equal(e, lnrpc.Payment_FAILED, m.Status, "%v", m)
			if m.Htlcs[0].Failure.Code == lnrpc.Failure_FEE_INSUFFICIENT {
				e.Log("lnd had its policy of the new channel at hand, and told the payer: nothing is poisoned this time")
				return
			}
			require.Equal(e, lnrpc.Failure_TEMPORARY_NODE_FAILURE, m.Htlcs[0].Failure.Code, "%v", m)
			again := e.pay(e.invoice(nSat).PaymentRequest).wait()
			require.Equal(e, lnrpc.PaymentFailureReason_FAILURE_REASON_NO_ROUTE, again.FailureReason)
			e.resetMissionControl()
			e.pay(e.invoice(nSat).PaymentRequest)
			s.resume(s.next())
		},
		"A/chan_id_stays_the_alias": func(e *env) {
			e.start(required)
			c := e.channel()
			require.True(e, c.ZeroConf)
			e.Mine(e.T, 7)
			e.until("confirmed", func() bool {
				now := e.channelsWith(Gateway, Wallet)[0]
				return now.ZeroConfConfirmedScid != 0 && now.ChanId == c.ChanId
			})
		},
		"A/publish_after_the_preimage": publishLate,
		"A/abandon_unpublished":        abandon,
	}
}

// waitOrFail fails whatever a retrying payer sends next, so that its payment ends.
func (p *paying) waitOrFail(s *sidecar) *lnrpc.Payment {
	p.e.Helper()
	return p.answered(s, s.fail)
}

// answered answers all that comes until the payment is over.
func (p *paying) answered(s *sidecar, answer func(offer)) *lnrpc.Payment {
	p.e.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		select {
		case q := <-s.offers:
			answer(q)
		default:
		}
		if m := p.now(); m.Status == lnrpc.Payment_SUCCEEDED || m.Status == lnrpc.Payment_FAILED {
			return m
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.e.Fatal("the payment never ends")
	return nil
}

// probe sends one part with a hash that nobody knows the preimage of, over the wallet's hint.
func (e *env) probe(s *sidecar) (offer, *paying) {
	e.Helper()
	hash, addr := make([]byte, 32), make([]byte, 32)
	_, err := rand.Read(hash)
	e.ok(err)
	_, err = rand.Read(addr)
	e.ok(err)
	_, err = e.router(Payer).SendPaymentV2(e.ctx, &routerrpc.SendPaymentRequest{
		Dest: e.pubBytes(Wallet), PaymentHash: hash, PaymentAddr: addr, AmtMsat: nMsat, FinalCltvDelta: 80, RouteHints: e.hint(80, 0),
		MaxParts: 1, TimeoutSeconds: 3600, FeeLimitMsat: 10_000_000,
		DestFeatures: []lnrpc.FeatureBit{lnrpc.FeatureBit_TLV_ONION_REQ, lnrpc.FeatureBit_PAYMENT_ADDR_REQ, lnrpc.FeatureBit_MPP_OPT},
	})
	e.ok(err)
	return s.next(), &paying{e: e, hash: hash}
}

// refused runs the recipe with one thing that lnd does not forward by. Its failure tells the
// payer what would do, with which the payer tries again, if lnd has its own policy of the new
// channel at hand by then (code); and is a temporary one of the node otherwise.
func refused(delta uint32, code lnrpc.Failure_FailureCode, change func(*lnrpc.OpenChannelRequest)) func(*env) {
	return func(e *env) {
		e.start(Options{RequireInterceptor: true})
		e.acceptor(true)
		s := e.sidecar()
		p := e.pay(e.invoiceWith(nSat, e.hint(delta, 0)).PaymentRequest)
		q := s.next()
		r := e.jit(1_000_000)
		change(r)
		e.ok(e.alias(e.open(r)))
		s.resume(q)
		m := p.waitOrFail(s)
		require.Equal(e, lnrpc.Payment_FAILED, m.Status, "%v", m)
		require.Contains(e, []lnrpc.Failure_FailureCode{code, lnrpc.Failure_TEMPORARY_NODE_FAILURE}, m.Htlcs[0].Failure.Code, "%v", m)
	}
}

func twoParts(e *env) {
	e.start(Options{RequireInterceptor: true})
	e.acceptor(true)
	s := e.sidecar()
	p := e.payIn(e.invoice(nSat).PaymentRequest, 60_000)
	a, b := s.next(), s.next()
	require.EqualValues(e, nMsat, a.OutgoingAmountMsat+b.OutgoingAmountMsat)
	require.Equal(e, a.PaymentHash, b.PaymentHash)
	e.ok(e.alias(e.open(e.jit(1_000_000))))
	s.resume(a)
	s.resume(b)
	p.succeeds()
	e.quiet(Gateway, Wallet)
	require.EqualValues(e, nSat, e.local(Wallet))
}

func feeInHint(e *env) {
	e.start(Options{RequireInterceptor: true})
	e.acceptor(true)
	s := e.sidecar()
	p := e.pay(e.invoiceWith(nSat, e.hint(80, 20_000)).PaymentRequest)
	q := s.next()
	require.EqualValues(e, 102_000_000, q.IncomingAmountMsat)
	require.EqualValues(e, 100_000_000, q.OutgoingAmountMsat)
	e.ok(e.alias(e.open(e.jit(1_000_000))))
	s.resume(q)
	require.EqualValues(e, 2_000_000, p.succeeds().FeeMsat)
}

// unpublished opens a zero-conf channel whose funding transaction nobody has signed, and returns its PSBT.
func (e *env) unpublished() (*lnrpc.Channel, *walletrpc.FundPsbtResponse) {
	e.Helper()
	id := make([]byte, 32)
	_, err := rand.Read(id)
	e.ok(err)
	r := e.jit(1_000_000)
	r.FundingShim = &lnrpc.FundingShim{Shim: &lnrpc.FundingShim_PsbtShim{PsbtShim: &lnrpc.PsbtShim{
		PendingChanId: id, NoPublish: true,
	}}}
	s, err := e.ln(Gateway).OpenChannel(e.ctx, r)
	e.ok(err)
	u, err := s.Recv()
	e.ok(err)
	fund := u.GetPsbtFund()
	require.NotNil(e, fund, "%v", u)
	psbt, err := e.walletKit(Gateway).FundPsbt(e.ctx, &walletrpc.FundPsbtRequest{
		Template: &walletrpc.FundPsbtRequest_Raw{Raw: &walletrpc.TxTemplate{
			Outputs: map[string]uint64{fund.FundingAddress: uint64(fund.FundingAmount)},
		}},
		Fees: &walletrpc.FundPsbtRequest_SatPerVbyte{SatPerVbyte: 5}, MinConfs: 1,
	})
	e.ok(err)
	_, err = e.ln(Gateway).FundingStateStep(e.ctx, &lnrpc.FundingTransitionMsg{Trigger: &lnrpc.FundingTransitionMsg_PsbtVerify{
		PsbtVerify: &lnrpc.FundingPsbtVerify{FundedPsbt: psbt.FundedPsbt, PendingChanId: id, SkipFinalize: true},
	}})
	e.ok(err)
	u, err = s.Recv()
	e.ok(err)
	require.NotNil(e, u.GetChanPending(), "%v", u)
	e.until("the channel is active", func() bool {
		c := e.channelsWith(Gateway, Wallet)
		return len(c) == 1 && c[0].Active
	})
	return e.channelsWith(Gateway, Wallet)[0], psbt
}

func publishLate(e *env) {
	e.start(Options{RequireInterceptor: true})
	e.acceptor(true)
	s := e.sidecar()
	p := e.pay(e.invoice(nSat).PaymentRequest)
	q := s.next()
	c, psbt := e.unpublished()
	txs, err := e.ln(Gateway).GetTransactions(e.ctx, &lnrpc.GetTransactionsRequest{})
	e.ok(err)
	for _, tx := range txs.Transactions {
		require.NotContains(e, c.ChannelPoint, tx.TxHash, "the funding transaction is not out yet")
	}
	e.ok(e.alias(c))
	s.resume(q)
	p.succeeds()
	fin, err := e.walletKit(Gateway).FinalizePsbt(e.ctx, &walletrpc.FinalizePsbtRequest{FundedPsbt: psbt.FundedPsbt})
	e.ok(err)
	_, err = e.walletKit(Gateway).PublishTransaction(e.ctx, &walletrpc.Transaction{TxHex: fin.RawFinalTx})
	e.ok(err)
	e.Mine(e.T, 6)
	e.until("confirmed", func() bool { return e.channelsWith(Gateway, Wallet)[0].ZeroConfConfirmedScid != 0 })
	e.quiet(Gateway, Wallet)
	require.EqualValues(e, nSat, e.local(Wallet))
}

func abandon(e *env) {
	e.start(Options{RequireInterceptor: true})
	e.acceptor(true)
	c, psbt := e.unpublished()
	_, err := e.ln(Gateway).AbandonChannel(e.ctx, &lnrpc.AbandonChannelRequest{
		ChannelPoint: pointOf(c), IKnowWhatIAmDoing: true,
	})
	e.ok(err)
	for _, l := range psbt.LockedUtxos {
		_, err := e.walletKit(Gateway).ReleaseOutput(e.ctx, &walletrpc.ReleaseOutputRequest{Id: l.Id, Outpoint: l.Outpoint})
		e.ok(err)
	}
	e.until("gone at the gateway", func() bool { return len(e.channelsWith(Gateway, Wallet)) == 0 })
	require.Len(e, e.channelsWith(Wallet, Gateway), 1, "the wallet still lists it")
	_, err = e.ln(Wallet).AbandonChannel(e.ctx, &lnrpc.AbandonChannelRequest{
		ChannelPoint: pointOf(c), IKnowWhatIAmDoing: true,
	})
	e.ok(err)
	require.Empty(e, e.channelsWith(Wallet, Gateway))
}
