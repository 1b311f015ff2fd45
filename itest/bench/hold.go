package main

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

const (
	// maxHoldRatio is the gate: from the wallet's first active channel until the last
	// payment settles, against the bare program.
	maxHoldRatio = 1.25
	heldTogether = 400
	// heldAtMost is what memory is measured with.
	heldAtMost  = 480
	aimNoticeMs = 250
	aimHoldMiB  = 150
	holdMsat    = 1_000_000
	// holdChannels are those from the payer; the wallet has bench.walletChannels.
	holdChannels = 4
	// noticeEvery is the shortest cooldown that sluiced takes, and some.
	noticeEvery = 10500 * time.Millisecond
	// giveUpAfter are the seconds after which the payer of a notice tries no more.
	giveUpAfter = 3
)

// holdArm is one gateway, and how it holds.
type holdArm struct {
	name     string
	gateway  *devnet.Node
	payer    []uint64
	receiver []wire.OutPoint
	came     arrivals
	count    func(context.Context) (int, error)
	begin    func()
	// claimed waits until what comes is held: a claim is a commit after lnd's word.
	claimed func(context.Context) error
	release func()
	seconds []float64
	// firstPaid are the seconds until the first payment of each round was paid, cpu what each
	// of the arm's programs used from the wallet's first active channel on.
	firstPaid []float64
	work      []*devnet.Proc
	cpu       [][]float64
}

func runHold(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 25*time.Minute)
	defer cancel()
	n, err := b.startNodes(ctx, devnet.GatewayArgs(), devnet.GatewayArgs())
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(n, err) }()
	arms, s, hook, err := b.holdArms(ctx, n)
	if err != nil {
		return nil, err
	}
	defer s.hangUp()
	defer hook.server.Close()
	for i := range b.rounds {
		for j := range arms {
			a := arms[(i+j)%2]
			if err := a.round(ctx, n, heldTogether, nil); err != nil {
				return nil, fmt.Errorf("round %d %s: %w", i+1, a.name, err)
			}
		}
		b.say("round %d of %d: %s; %s", i+1, b.rounds, arms[0].last(), arms[1].last())
	}
	var held memory
	if err := arms[0].round(ctx, n, heldAtMost, func() (err error) {
		held, err = settledMemory(ctx, s)
		b.say("%d HTLCs held, %d payments stored: %s", heldAtMost, b.stored, held)
		return err
	}); err != nil {
		return nil, fmt.Errorf("with %d HTLCs: %w", heldAtMost, err)
	}
	arms[0].seconds = arms[0].seconds[:b.rounds]
	notices, err := b.notices(ctx, n, arms[0], s, hook)
	if err != nil {
		return nil, err
	}
	return holdReport(b, arms, notices, held)
}

// holdArms opens the channels, and attaches sluiced to the first gateway and the bare
// program to the second.
func (b *bench) holdArms(ctx context.Context, n *nodes) ([]*holdArm, *sluice, *pushServer, error) {
	const eachSat = 2 * heldAtMost * holdMsat / 1000 / holdChannels * 12
	toWallet := int64(holdChannels * eachSat / b.walletChannels)
	if err := n.Fund(ctx, devnet.Funding{Node: n.payer, CoinSat: eachSat + 200_000, Coins: 2*holdChannels + 2},
		devnet.Funding{Node: n.first, CoinSat: toWallet + 200_000, Coins: b.walletChannels + 2},
		devnet.Funding{Node: n.second, CoinSat: toWallet + 200_000, Coins: b.walletChannels + 2}); err != nil {
		return nil, nil, nil, err
	}
	// Of its own: the payments that are stored have rows under keys of this channel's
	// HTLCs, so that none that is measured may come over it.
	if _, err := n.openAll(ctx, wish{n.payer, n.first, 500_000}); err != nil {
		return nil, nil, nil, err
	}
	hook, err := startPushServer(n.Dir())
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := startSluice(ctx, n.Net, n.first, n.receiver, map[string]string{
		"holds.htlcs_per_wallet": "482", "holds.htlcs_per_incoming_channel": "482", "interceptor.max_held_per_channel": "482", "acceptor.max_pending_per_peer": "100",
		"lsps.webhooks.cooldown": "10s", "lsps.webhooks.reset_every": "1s", "lsps.webhooks.ca_file": hook.caFile,
		"lsps.webhooks.allow_networks": "127.0.0.0/8",
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if err := b.storePayments(ctx, n, s); err != nil {
		return nil, nil, nil, err
	}
	bare, err := startHolder(ctx, n.second)
	if err != nil {
		return nil, nil, nil, err
	}
	var wishes []wish
	for range holdChannels {
		wishes = append(wishes, wish{n.payer, n.first, eachSat}, wish{n.payer, n.second, eachSat})
	}
	for range b.walletChannels {
		wishes = append(wishes, wish{n.first, n.receiver, toWallet}, wish{n.second, n.receiver, toWallet})
	}
	channels, err := n.openAll(ctx, wishes...)
	if err != nil {
		return nil, nil, nil, err
	}
	arms := []*holdArm{
		{name: "with Sluice", gateway: n.first, begin: func() {}, claimed: func(ctx context.Context) error { return s.claimed(ctx, b.walletChannels) }, count: func(ctx context.Context) (int, error) {
			list, err := lwsv1.NewHoldsOperatorServiceClient(s.atOperator).ListHolds(ctx, &lwsv1.ListHoldsRequest{})
			return len(list.GetWaiting()), err
		}},
		{name: "by the bare program", gateway: n.second, begin: bare.hold, claimed: func(context.Context) error { return nil }, release: bare.release, count: func(context.Context) (int, error) { return bare.count() }},
	}
	arms[0].work = []*devnet.Proc{n.first.Proc(), s.daemon.Proc}
	arms[1].work = []*devnet.Proc{n.second.Proc()}
	for i, a := range arms {
		for j := range holdChannels {
			a.payer = append(a.payer, channels[2*j+i].ChanID)
		}
		for j := range b.walletChannels {
			a.receiver = append(a.receiver, channels[2*(holdChannels+j)+i].Point)
		}
		if err := a.came.follow(ctx, a.gateway); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := b.registerHold(ctx, n, s, hook); err != nil {
		return nil, nil, nil, err
	}
	b.say("two gateways with %d channels from the payer and %d to the wallet each", holdChannels, b.walletChannels)
	return arms, s, hook, nil
}

// storePayments fills the first gateway's database.
func (b *bench) storePayments(ctx context.Context, n *nodes, s *sluice) error {
	finished, _, err := playOnePayment(ctx, b, &devnet.Standard{Net: n.Net, Gateway: n.first, Payer: n.payer, Wallet: n.receiver}, s)
	if err != nil {
		return err
	}
	// The channel that it opened would be a further one to the wallet, on one gateway only,
	// and so small that lnd, which takes any that it believes to have room, fails some of
	// what comes in one moment.
	if err := closeAll(ctx, n, n.first, n.receiver); err != nil {
		return err
	}
	if err := s.daemon.Stop(ctx); err != nil {
		return err
	}
	if err := multiply(ctx, filepath.Join(s.daemon.Dir, "sluice.db"), finished, b.stored-1); err != nil {
		return err
	}
	return s.daemon.Start(ctx)
}

// closeAll closes the channels between two nodes.
func closeAll(ctx context.Context, n *nodes, by, with *devnet.Node) error {
	key, err := with.PubKeyBytes()
	if err != nil {
		return err
	}
	list, err := by.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: key})
	if err != nil {
		return err
	}
	for _, c := range list.GetChannels() {
		point, err := devnet.ParsePoint(c.GetChannelPoint())
		if err != nil {
			return err
		}
		if err := closeOne(ctx, by, devnet.Channel{Point: point}); err != nil {
			return fmt.Errorf("close a channel: %w", err)
		}
	}
	return n.Mine(ctx, 6)
}

// closeOne returns once the closing transaction is on its way. It is forced: lnd cannot
// close a zero-conf channel otherwise before it has entered it into its graph anew.
func closeOne(ctx context.Context, by *devnet.Node, c devnet.Channel) error {
	stream, err := by.LN.CloseChannel(ctx, &lnrpc.CloseChannelRequest{ChannelPoint: c.RPCPoint(), Force: true})
	if err != nil {
		return err
	}
	for {
		update, err := stream.Recv()
		if err != nil {
			return err
		}
		if update.GetClosePending() != nil {
			return nil
		}
	}
}

// registerHold has the wallet ask for holds and for calls of its webhook.
func (b *bench) registerHold(ctx context.Context, n *nodes, s *sluice, hook *pushServer) error {
	if err := devnet.WaitFor(ctx, "the wallet's registration", func(ctx context.Context) (bool, error) {
		_, err := lwsv1.NewHoldsServiceClient(s.atWallet).SetHold(ctx, &lwsv1.SetHoldRequest{Hold: &lwsv1.Hold{
			HoldForSeconds: 7200, MaxHtlcs: 482, MaxSat: 5_000_000, FinalCltvDeltaBlocks: 80,
		}})
		return err == nil, err
	}); err != nil {
		return err
	}
	gateway, err := ln.ParsePubKey(n.first.PubKey)
	if err != nil {
		return err
	}
	client := peerrpctest.New(s.wallet, gateway)
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { client.Run(listening); close(done) }()
	defer func() { stop(); <-done }()
	return devnet.WaitFor(ctx, "the wallet's webhook", func(ctx context.Context) (bool, error) {
		_, err := client.Call(ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "bench", Webhook: hook.server.URL + "/push"})
		return err == nil, err
	})
}

// claimed waits until the wallet's channels are claimed.
func (s *sluice) claimed(ctx context.Context, channels int) error {
	return devnet.WaitFor(ctx, "the wallet's channels to be claimed", func(ctx context.Context) (bool, error) {
		status, err := interceptorv1.NewInterceptorClient(s.atOperator).GetStatus(ctx, &interceptorv1.GetStatusRequest{})
		for _, h := range status.GetHandlers() {
			if h.GetName() == "lws" && int(h.GetRoutes()) >= channels {
				return true, nil
			}
		}
		return false, err
	})
}

// keysend pays the receiver through one of the arm's channels.
func (a *holdArm) keysend(ctx context.Context, n *nodes, channel uint64, seconds int32) error {
	s, err := newSecret()
	if err != nil {
		return err
	}
	dest, err := hex.DecodeString(n.receiver.PubKey)
	if err != nil {
		return err
	}
	payment, err := n.payer.Send(ctx, &routerrpc.SendPaymentRequest{
		Dest: dest, AmtMsat: holdMsat, PaymentHash: s.hash[:], FinalCltvDelta: 80, MaxParts: 1, TimeoutSeconds: seconds,
		FeeLimitMsat: holdMsat / 10, OutgoingChanIds: []uint64{channel}, DestCustomRecords: map[uint64][]byte{keysendRecord: s.preimage.Bytes()},
	})
	if err != nil {
		return err
	}
	if payment.Status != lnrpc.Payment_SUCCEEDED {
		err := fmt.Errorf("a payment failed: %s", payment.FailureReason)
		for _, h := range payment.Htlcs {
			err = fmt.Errorf("%w; an attempt failed at node %d of its route: %s", err, h.GetFailure().GetFailureSourceIndex(), h.GetFailure().GetCode())
		}
		return err
	}
	return nil
}

// asleep stops the receiver and waits until the gateway has noticed.
func (a *holdArm) asleep(ctx context.Context, n *nodes) error {
	if err := n.receiver.Stop(ctx); err != nil {
		return err
	}
	for _, point := range a.receiver {
		if _, err := a.gateway.WaitChannelInactive(ctx, point); err != nil {
			return err
		}
	}
	return a.claimed(ctx)
}

// last says how the last round went.
func (a *holdArm) last() string {
	i := len(a.seconds) - 1
	text := fmt.Sprintf("%.2f s %s (the first payment after %.2f s; processor time:", a.seconds[i], a.name, a.firstPaid[i])
	for j, p := range a.work {
		text += fmt.Sprintf(" %s %.2f s", p.Name(), a.cpu[i][j])
	}
	return text + ")"
}

// used is the processor time of the arm's programs so far.
func (a *holdArm) used() []time.Duration {
	out := make([]time.Duration, len(a.work))
	for i, p := range a.work {
		// 0 where the system does not tell.
		out[i], _ = p.CPUTime()
	}
	return out
}

// round holds payments, brings the wallet back and waits for all of them. What is to be
// looked at while they are held is looked at by then.
func (a *holdArm) round(ctx context.Context, n *nodes, payments int, then func() error) error {
	if err := a.asleep(ctx, n); err != nil {
		return err
	}
	a.begin()
	group, groupCtx := errgroup.WithContext(ctx)
	ended := make(chan time.Time, payments)
	for i := range payments {
		group.Go(func() error {
			err := a.keysend(groupCtx, n, a.payer[i%len(a.payer)], 300)
			ended <- time.Now()
			return err
		})
	}
	if err := devnet.WaitFor(groupCtx, "the payments to be held", func(ctx context.Context) (bool, error) {
		held, err := a.count(ctx)
		if err == nil && held < payments {
			err = fmt.Errorf("%d are held", held)
		}
		return err == nil && held == payments, err
	}); err != nil {
		return errors.Join(err, group.Wait())
	}
	if then != nil {
		if err := then(); err != nil {
			return err
		}
	}
	began := make(chan []time.Duration, 1)
	a.came.arm(func() {
		if a.release != nil {
			a.release()
		}
		began <- a.used()
	})
	if err := n.receiver.Start(ctx); err != nil {
		return err
	}
	if err := group.Wait(); err != nil {
		return err
	}
	used, before := a.used(), <-began
	cpu := make([]float64, len(used))
	for i := range used {
		cpu[i] = (used[i] - before[i]).Seconds()
	}
	var all []time.Time
	for range payments {
		all = append(all, <-ended)
	}
	slices.SortFunc(all, time.Time.Compare)
	came := a.came.at()
	a.seconds = append(a.seconds, all[payments-1].Sub(came).Seconds())
	a.firstPaid = append(a.firstPaid, all[0].Sub(came).Seconds())
	a.cpu = append(a.cpu, cpu)
	for _, point := range a.receiver {
		if _, err := a.gateway.WaitChannelActive(ctx, point); err != nil {
			return err
		}
	}
	return errors.Join(n.payer.WaitNoHTLCs(ctx), n.receiver.WaitNoHTLCs(ctx))
}

// notices are the milliseconds from lnd's offer of an HTLC to the call of the wallet's
// webhook, one at a time, each after the cooldown.
func (b *bench) notices(ctx context.Context, n *nodes, a *holdArm, s *sluice, hook *pushServer) ([]float64, error) {
	b.say("%d notices, one every %s", b.notes, noticeEvery)
	if err := a.asleep(ctx, n); err != nil {
		return nil, err
	}
	wallet := lwsv1.NewHoldsServiceClient(s.atWallet)
	var out []float64
	for i := range b.notes {
		time.Sleep(noticeEvery)
		hook.drain()
		// The last one went back: the payer would find no way.
		if _, err := n.payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{}); err != nil {
			return nil, err
		}
		ended := make(chan error, 1)
		go func() { ended <- a.keysend(ctx, n, a.payer[i%len(a.payer)], giveUpAfter) }()
		var told time.Time
		select {
		case told = <-hook.told:
		case err := <-ended:
			return nil, fmt.Errorf("the payment of notice %d is not held: %w", i+1, err)
		case <-time.After(30 * time.Second):
			return nil, errors.New("the webhook is not called")
		}
		rows, err := interceptorv1.NewInterceptorClient(s.atOperator).ListRows(ctx, &interceptorv1.ListRowsRequest{Handler: "lws", OpenOnly: true, Limit: 1000})
		if err != nil {
			return nil, err
		}
		offered := int64(0)
		for _, r := range rows.GetRows() {
			offered = max(offered, r.GetOfferedMs())
		}
		out = append(out, ms(told.Sub(time.UnixMilli(offered))))
		// So that it is not told of again, and its payer does not try again.
		time.Sleep((giveUpAfter + 1) * time.Second)
		waiting, err := wallet.GetHold(ctx, &lwsv1.GetHoldRequest{})
		if err != nil {
			return nil, err
		}
		for _, w := range waiting.GetWaiting() {
			if _, err := wallet.ReturnPayment(ctx, &lwsv1.ReturnPaymentRequest{Id: w.GetId()}); err != nil {
				return nil, err
			}
		}
		if err := <-ended; err == nil {
			return nil, errors.New("a payment arrived at a wallet that is away")
		}
	}
	return out, n.receiver.Start(ctx)
}

// pushServer is the service that a wallet's app has told to call it.
type pushServer struct {
	server *httptest.Server
	caFile string
	told   chan time.Time
}

func startPushServer(dir string) (*pushServer, error) {
	p := &pushServer{told: make(chan time.Time, 10_000), caFile: filepath.Join(dir, "push.pem")}
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { p.told <- time.Now() }))
	return p, os.WriteFile(p.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw}), 0o600)
}

func (p *pushServer) drain() {
	for len(p.told) > 0 {
		<-p.told
	}
}

func holdReport(b *bench, arms []*holdArm, notices []float64, held memory) (result, error) {
	with, bare := arms[0], arms[1]
	fmt.Fprintf(b.out, "\n%d payments held that came over %d channels, for a wallet with %d; %d rounds per arm; from the wallet's first active channel until the last settles\n\n", heldTogether, holdChannels, b.walletChannels, b.rounds)
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tp50 s\tbest s\tworst s\t")
	for _, a := range arms {
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t\n", a.name, median(a.seconds), quantile(a.seconds, 0), quantile(a.seconds, 1))
	}
	if err := table.Flush(); err != nil {
		return nil, err
	}
	ratios := make([]float64, b.rounds)
	for i := range ratios {
		ratios[i] = with.seconds[i] / bare.seconds[i]
	}
	low, high := bootstrap(b.seed, len(ratios), func(draw []int) float64 { return median(pick(ratios, draw)) })
	fmt.Fprintf(b.out, "\nratio %.3f (median of the rounds), 95 %% interval %.3f to %.3f (seed %d); the gate is %.2f\n", median(ratios), low, high, b.seed, maxHoldRatio)
	fmt.Fprintf(b.out, "notice at the webhook after lnd's offer: p50 %.0f ms, p99 %.0f ms of %d (aim: %d ms); %s with %d HTLCs held and %d payments stored (aim: %d MiB)\n\n",
		median(notices), quantile(notices, 0.99), len(notices), aimNoticeMs, held, heldAtMost, b.stored, aimHoldMiB)
	var r result
	r.add("ratio", "%.3f", median(ratios))
	r.add("notice_p99_ms", "%.0f", quantile(notices, 0.99))
	r.add("mib", "%.1f", held.residentMiB)
	r.add("ratio_low", "%.3f", low)
	r.add("ratio_high", "%.3f", high)
	r.add("seconds", "%.2f", median(with.seconds))
	r.add("bare_seconds", "%.2f", median(bare.seconds))
	r.add("notice_p50_ms", "%.0f", median(notices))
	r.add("anon_mib", "%.1f", held.anonMiB)
	if median(ratios) > maxHoldRatio {
		return r, fmt.Errorf("%w: the ratio is %.3f, at most %.2f is wanted", errMissed, median(ratios), maxHoldRatio)
	}
	return r, nil
}
