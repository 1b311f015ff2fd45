package api

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/engine"
)

// channelSwaps serves wallets that have no channel yet.
type channelSwaps struct {
	swapsv1.UnimplementedChannelSwapsServiceServer
	s *Service
}

// wallet is the engine and the node key that the caller proved.
func (s *Service) wallet(ctx context.Context) (*engine.Engine, ln.PubKey, error) {
	e, err := s.running()
	if err != nil {
		return nil, ln.PubKey{}, err
	}
	id, ok := auth.FromContext(ctx)
	if !ok || id.NodeKey.IsZero() {
		return nil, ln.PubKey{}, errkind.New(errkind.Unauthenticated, "log in with the node's key first")
	}
	return e, id.NodeKey, nil
}

func (c *channelSwaps) QuoteChannelSwap(ctx context.Context, r *swapsv1.QuoteChannelSwapRequest) (*swapsv1.QuoteChannelSwapResponse, error) {
	e, node, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	q, err := e.QuoteOpen(ctx, node, ln.Sat(r.GetAmountSat()))
	if err != nil {
		return nil, err
	}
	return &swapsv1.QuoteChannelSwapResponse{Quote: quoteToWire(q)}, nil
}

func quoteToWire(q engine.OpenQuote) *swapsv1.ChannelSwapQuote {
	return &swapsv1.ChannelSwapQuote{
		AmountSat: uint64(q.AmountSat), InvoiceSat: uint64(q.InvoiceSat), SwapFeeSat: uint64(q.SwapFeeSat), OpeningFeeMsat: uint64(q.OpeningFeeMsat),
		ChannelCapacitySat: uint64(q.CapacitySat), Confirmations: q.Confs, ChannelConfirmations: q.ChannelConfs,
		ExpiryDeltaBlocks: q.ExpiryDelta, DepositWithinBlocks: q.DepositBlocks,
	}
}

func (c *channelSwaps) CreateChannelSwap(ctx context.Context, r *swapsv1.CreateChannelSwapRequest) (*swapsv1.CreateChannelSwapResponse, error) {
	e, node, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	w := engine.OpenWish{Node: node, AmountSat: ln.Sat(r.GetAmountSat()), Invoice: r.GetInvoice(), Client: agent(r.GetUserAgent())}
	if w.Hash, err = fixed[ln.Hash]("payment_hash", r.GetPaymentHash()); err != nil {
		return nil, err
	}
	if w.Sender, err = ln.PubKeyFromBytes(r.GetRefundKey()); err != nil {
		return nil, errkind.Newf(errkind.Invalid, "refund_key: %v", err)
	}
	if w.SenderInternal, err = ln.PubKeyFromBytes(r.GetInternalKey()); err != nil {
		return nil, errkind.Newf(errkind.Invalid, "internal_key: %v", err)
	}
	offer, err := e.OfferOpen(ctx, w)
	if err != nil {
		return nil, err
	}
	return &swapsv1.CreateChannelSwapResponse{
		ClaimKey: offer.Receiver[:], InternalKey: offer.ReceiverInternal[:], ExpiryHeight: offer.ExpiryHeight,
		DepositByHeight: offer.DepositByHeight, Quote: quoteToWire(offer.Quote),
	}, nil
}

func (c *channelSwaps) GetChannelSwap(ctx context.Context, r *swapsv1.GetChannelSwapRequest) (*swapsv1.GetChannelSwapResponse, error) {
	e, node, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := fixed[ln.Hash]("payment_hash", r.GetPaymentHash())
	if err != nil {
		return nil, err
	}
	v, err := e.ShowOpen(ctx, node, hash)
	if err != nil {
		return nil, err
	}
	out := &swapsv1.ChannelSwap{
		PaymentHash: hash[:], State: v.State, Reason: v.Reason, Terminal: v.Terminal, Paid: v.PaidOut, AmountSat: uint64(v.AmountSat),
		ConfirmedHeight: v.ConfirmedHeight, Confirmations: v.Confs, DepositByHeight: v.DepositByHeight, ExpiryHeight: v.ExpiryHeight,
		CreatedMs: v.Created.UnixMilli(), UpdatedMs: v.Updated.UnixMilli(),
	}
	if !v.Outpoint.IsZero() {
		out.Outpoint = v.Outpoint.String()
	}
	return &swapsv1.GetChannelSwapResponse{Swap: out}, nil
}

func (c *channelSwaps) GiveKey(ctx context.Context, r *swapsv1.GiveKeyRequest) (*swapsv1.GiveKeyResponse, error) {
	e, node, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := fixed[ln.Hash]("payment_hash", r.GetPaymentHash())
	if err != nil {
		return nil, err
	}
	key, err := fixed[ln.Preimage]("internal_private_key", r.GetInternalPrivateKey())
	if err != nil {
		return nil, err
	}
	return &swapsv1.GiveKeyResponse{}, e.GiveKey(ctx, node, hash, key)
}
