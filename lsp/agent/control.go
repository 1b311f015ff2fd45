package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

// SocketFile is the control socket's name in the data directory.
const SocketFile = "wallet.sock"

// maxSocketPath is what the kernel takes for a unix socket's path.
const maxSocketPath = 107

// ListenControl opens the control socket: only the daemon's own user may
// connect, by the socket's mode and that of its directory. A socket that a
// crashed daemon left behind is replaced; one that answers is an error.
func ListenControl(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, errkind.Newf(errkind.Invalid, "the control socket's path has %d characters, the system takes %d: name a shorter one with --control", len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, errkind.Newf(errkind.Conflict, "another daemon answers on %s: stop it first, or use another data directory", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	return l, nil
}

// ServeControl serves the command line until the context ends. others register
// what else the daemon does.
func (a *Agent) ServeControl(ctx context.Context, l net.Listener, others ...func(grpc.ServiceRegistrar)) error {
	s := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			resp, err := handle(ctx, req)
			return resp, controlStatus(err)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			return controlStatus(handle(srv, s))
		}),
		grpc.MaxConcurrentStreams(64),
	)
	agentv1.RegisterWalletServer(s, &control{agent: a})
	for _, register := range others {
		register(s)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		s.Stop()
	})
	err := s.Serve(l)
	if !stop() {
		<-done
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopped on purpose
	}
	return err
}

// controlStatus gives the command line an error's kind and words. Its reader
// is the wallet's owner, who may see all of it.
func controlStatus(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, "cancelled")
	}
	kind := errkind.Of(err)
	s := status.New(rpcserver.Code(kind), errkind.Told(err))
	if with, detailErr := s.WithDetails(&errdetails.ErrorInfo{Reason: string(kind), Domain: "sluice"}); detailErr == nil {
		s = with
	}
	return s.Err()
}

type control struct {
	agentv1.UnimplementedWalletServer
	agent *Agent
}

func (c *control) GetStatus(ctx context.Context, _ *agentv1.GetStatusRequest) (*agentv1.GetStatusResponse, error) {
	s, err := c.agent.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := &agentv1.GetStatusResponse{
		NodeKey: s.Node.PubKey.String(), Alias: s.Node.Alias, LndVersion: release(s.Node.Version), Network: s.Node.Network,
		BlockHeight: s.Node.BlockHeight, Synced: s.Node.SyncedToChain, AcceptorAttached: s.Acceptor,
		InboundSat: uint64(s.InboundSat), OutboundSat: uint64(s.OutboundSat), Blockers: blockersToProto(s.Blockers), Alarms: s.Alarms,
	}
	for _, l := range s.LSPs {
		out.Lsps = append(out.Lsps, lspToProto(l))
	}
	for _, ch := range s.Channels {
		out.Channels = append(out.Channels, &agentv1.Channel{
			Outpoint: ch.Outpoint.String(), Peer: ch.Peer.String(), Lsp: ch.LSP, CapacitySat: uint64(ch.CapacitySat),
			InboundSat: uint64(ch.InboundSat), OutboundSat: uint64(ch.OutboundSat), Active: ch.Active,
			Unconfirmed: ch.Unconfirmed, PendingHtlcs: uint32(ch.Htlcs), State: ch.State, //nolint:gosec // at most 966
		})
	}
	for _, p := range s.Payments {
		out.Payments = append(out.Payments, paymentToProto(p))
	}
	return out, nil
}

func (c *control) WatchOffline(_ *agentv1.WatchOfflineRequest, stream grpc.ServerStreamingServer[agentv1.WatchOfflineResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var sendErr error
	err := c.agent.WatchOffline(ctx, func(b []Blocker) {
		if sendErr = stream.Send(&agentv1.WatchOfflineResponse{Blockers: blockersToProto(b)}); sendErr != nil {
			cancel()
		}
	})
	return errors.Join(sendErr, err)
}

func (c *control) ListLsps(ctx context.Context, _ *agentv1.ListLspsRequest) (*agentv1.ListLspsResponse, error) {
	all, err := c.agent.LSPStatus(ctx)
	if err != nil {
		return nil, err
	}
	out := &agentv1.ListLspsResponse{}
	for _, l := range all {
		out.Lsps = append(out.Lsps, lspToProto(l))
	}
	return out, nil
}

func (c *control) AddLsp(ctx context.Context, r *agentv1.AddLspRequest) (*agentv1.AddLspResponse, error) {
	p := r.GetLsp()
	key, err := ln.ParsePubKey(p.GetNodeKey())
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, err.Error())
	}
	l := LSP{
		Name: p.GetName(), NodeKey: key, Address: p.GetAddress(), GRPC: p.GetGrpc(),
		Certificate: p.GetCertificate(), ZeroConf: p.GetZeroConf(),
	}
	if err := c.agent.AddLSP(ctx, l, false, r.GetUnchecked()); err != nil {
		return nil, err
	}
	all, err := c.agent.LSPStatus(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.Name == l.Name {
			return &agentv1.AddLspResponse{Lsp: lspToProto(s)}, nil
		}
	}
	return &agentv1.AddLspResponse{Lsp: lspToProto(LSPStatus{LSP: l})}, nil
}

func (c *control) RemoveLsp(ctx context.Context, r *agentv1.RemoveLspRequest) (*agentv1.RemoveLspResponse, error) {
	n, err := c.agent.RemoveLSP(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return &agentv1.RemoveLspResponse{Channels: uint32(n)}, nil //nolint:gosec // a count of channels
}

func (c *control) ListOffers(ctx context.Context, r *agentv1.ListOffersRequest) (*agentv1.ListOffersResponse, error) {
	ranked, away := c.agent.Offers(ctx, ln.Msat(r.GetAmountMsat()))
	out := &agentv1.ListOffersResponse{}
	for _, o := range ranked {
		p := &agentv1.Offer{
			Lsp: o.Menu.LSP.Name, FeeMsat: uint64(o.Quote.FeeMsat), MinFeeMsat: uint64(o.Params.MinFeeMsat),
			ProportionalPpm: o.Params.ProportionalPPM, MinPaymentSizeMsat: uint64(o.Params.MinPaymentSizeMsat),
			MaxPaymentSizeMsat: uint64(o.Params.MaxPaymentSizeMsat), MinLifetimeBlocks: o.Params.MinLifetimeBlocks,
			ValidUntilMs: o.Params.ValidUntil.UnixMilli(), Kind: KindOnDemand,
		}
		if o.Menu.Withheld {
			p.Kind = KindLSPS2
		}
		if o.Unfit != nil {
			p.Unfit = errkind.Told(o.Unfit)
		}
		out.Offers = append(out.Offers, p)
	}
	if r.GetOrders() {
		c.orderOffers(ctx, ln.Msat(r.GetAmountMsat()), out)
	}
	for _, u := range away {
		out.Unreachable = append(out.Unreachable, lspToProto(LSPStatus{LSP: u.LSP, Problem: u.Err}))
	}
	return out, nil
}

func (c *control) Receive(ctx context.Context, r *agentv1.ReceiveRequest) (*agentv1.ReceiveResponse, error) {
	mode := ReceiverPays
	if r.GetFeePayer() == agentv1.FeePayer_FEE_PAYER_PAYER {
		mode = PayerPays
	}
	g, err := c.agent.Receive(ctx, ReceiveRequest{
		AmountMsat: ln.Msat(r.GetAmountMsat()), Mode: mode, NoZeroConf: r.GetNoZeroConf(), HoldFor: time.Duration(r.GetHoldForSeconds()) * time.Second, Confirmations: r.GetConfirmations(),
		NoFurtherChannel: r.GetNoFurtherChannel(), Description: r.GetDescription(),
		Expiry: time.Duration(r.GetExpirySeconds()) * time.Second, LSP: r.GetLsp(), MaxFeeMsat: ln.Msat(r.GetMaxFeeMsat()),
	})
	if err != nil {
		return nil, err
	}
	return &agentv1.ReceiveResponse{
		Lsp: g.LSP, PaymentId: g.PaymentID, Bolt11: g.Bolt11, PaymentHash: g.Hash.String(), FeePayer: feePayer(g.Mode),
		PayerPaysMsat: uint64(g.PayerMsat), WalletGetsMsat: uint64(g.WalletMsat), FeeMsat: uint64(g.FeeMsat),
		OpensChannel: g.OpensChannel, ChannelCapacitySat: uint64(g.CapacitySat), Confirmations: g.Confirmations, MaxWaitBlocks: g.MaxWaitBlocks,
		ExpiresMs: g.ExpiresAt.UnixMilli(),
	}, nil
}

func (c *control) WatchReceive(r *agentv1.WatchReceiveRequest, stream grpc.ServerStreamingServer[agentv1.WatchReceiveResponse]) error {
	hash, err := ln.ParseHash(r.GetPaymentHash())
	if err != nil {
		return errkind.Wrap(errkind.Invalid, err, err.Error())
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var sendErr error
	send := func(p Payment) {
		if sendErr = stream.Send(&agentv1.WatchReceiveResponse{Payment: paymentToProto(p)}); sendErr != nil {
			cancel()
		}
	}
	last, err := c.agent.Watch(ctx, hash, func(p Payment) {
		if !p.Terminal {
			send(p)
		}
	})
	if sendErr != nil || err != nil {
		return errors.Join(sendErr, err)
	}
	send(last)
	return sendErr
}

func (c *control) ListPayments(ctx context.Context, r *agentv1.ListPaymentsRequest) (*agentv1.ListPaymentsResponse, error) {
	all, failed := c.agent.Payments(ctx, r.GetLimit(), r.GetOpenOnly())
	out := &agentv1.ListPaymentsResponse{}
	for _, p := range all {
		out.Payments = append(out.Payments, paymentToProto(p))
	}
	for _, err := range failed {
		out.Unreachable = append(out.Unreachable, &agentv1.Lsp{Problem: errkind.Told(err)})
	}
	return out, nil
}

func (c *control) Pay(ctx context.Context, r *agentv1.PayRequest) (*agentv1.PayResponse, error) {
	p, err := c.agent.Pay(ctx, r.GetBolt11(), ln.Msat(r.GetAmountMsat()), ln.Msat(r.GetMaxFeeMsat()))
	if err != nil {
		return nil, err
	}
	c.agent.log.Info("paid", zap.Stringer("payment_hash", p.Hash))
	return &agentv1.PayResponse{
		AmountMsat: uint64(p.ValueMsat), FeeMsat: uint64(p.FeeMsat), PaymentHash: p.Hash.String(),
		// The payment is over: its preimage is the payer's receipt now.
		Preimage: hex.EncodeToString(p.Preimage.Bytes()),
	}, nil
}

// release is lnd's version without the commit that it appends.
func release(version string) string {
	number, _, _ := strings.Cut(version, " ")
	return number
}

func feePayer(m Mode) agentv1.FeePayer {
	if m == PayerPays {
		return agentv1.FeePayer_FEE_PAYER_PAYER
	}
	return agentv1.FeePayer_FEE_PAYER_RECEIVER
}

func lspToProto(s LSPStatus) *agentv1.Lsp {
	p := &agentv1.Lsp{
		Name: s.Name, NodeKey: s.NodeKey.String(), Address: s.Address, Grpc: s.GRPC, Certificate: s.Certificate,
		ZeroConf: s.ZeroConf, Connected: s.Connected, LoggedIn: s.LoggedIn, Accepting: s.Accepting,
	}
	for _, n := range s.Serves {
		if n > 0 && n < 1<<16 {
			p.Lsps = append(p.Lsps, uint32(n))
		}
	}
	if s.Problem != nil {
		p.Problem = errkind.Told(s.Problem)
	}
	return p
}

func paymentToProto(p Payment) *agentv1.Payment {
	return &agentv1.Payment{
		Lsp: p.LSP, PaymentId: p.PaymentID, PaymentHash: p.Hash.String(), FeePayer: feePayer(p.Mode),
		AmountMsat: uint64(p.AmountMsat), FeeMsat: uint64(p.FeeMsat), ReceivedMsat: uint64(p.ReceivedMsat),
		State: p.State, Reason: p.Reason, Terminal: p.Terminal, Paid: p.Paid,
		CreatedMs: p.CreatedAt.UnixMilli(), ExpiresMs: p.ExpiresAt.UnixMilli(),
	}
}

func blockersToProto(all []Blocker) []*agentv1.Blocker {
	var out []*agentv1.Blocker
	for _, b := range all {
		out = append(out, &agentv1.Blocker{Kind: b.Kind, Reason: b.Reason})
	}
	return out
}
