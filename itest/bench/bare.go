package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// bare is the least program that opens a channel for a payment: no policy, no
// database, no polling, no sleeps. It knows which SCID means which channel and
// acts on lnd's events. It would lose money at the first restart: it is the
// yardstick, not an alternative.
type bare struct {
	node *devnet.Node

	mu       sync.Mutex
	wanted   map[uint64]*bareOpen       // by the hint's SCID
	links    map[wire.OutPoint]bareLink // what channel events told
	waiters  map[wire.OutPoint]chan bareLink
	failures chan error
}

// bareOpen is one payment that opens its channel, and when each step was done.
type bareOpen struct {
	peer     []byte
	capacity int64

	intercepted, pending, active, aliased, resumed time.Time
	done                                           chan struct{}
}

type bareLink struct {
	chanID uint64
	active time.Time
}

// startBare attaches to the gateway's interceptor and its channel events.
func startBare(ctx context.Context, gateway *devnet.Node) (*bare, error) {
	b := &bare{
		node: gateway, wanted: make(map[uint64]*bareOpen), links: make(map[wire.OutPoint]bareLink),
		waiters: make(map[wire.OutPoint]chan bareLink), failures: make(chan error, 100),
	}
	events, err := gateway.LN.SubscribeChannelEvents(ctx, &lnrpc.ChannelEventSubscription{})
	if err != nil {
		return nil, fmt.Errorf("channel events: %w", err)
	}
	stream, err := gateway.Router.HtlcInterceptor(ctx)
	if err != nil {
		return nil, fmt.Errorf("interceptor: %w", err)
	}
	go b.follow(events)
	go b.serve(ctx, stream)
	return b, nil
}

// expect makes the SCID mean a channel to the peer.
func (b *bare) expect(scid uint64, peer string, capacity int64) (*bareOpen, error) {
	key, err := hex.DecodeString(peer)
	if err != nil {
		return nil, err
	}
	o := &bareOpen{peer: key, capacity: capacity, done: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted[scid] = o
	return o, nil
}

func (b *bare) fail(err error) {
	select {
	case b.failures <- err:
	default:
	}
}

// follow notes lnd's name for each channel and when it became active.
func (b *bare) follow(events lnrpc.Lightning_SubscribeChannelEventsClient) {
	for {
		e, err := events.Recv()
		if err != nil {
			return
		}
		b.mu.Lock()
		if open := e.GetOpenChannel(); open != nil {
			if op, err := devnet.ParsePoint(open.ChannelPoint); err == nil {
				l := b.links[op]
				l.chanID = open.ChanId
				b.links[op] = l
				b.tell(op)
			}
		}
		if point := e.GetActiveChannel(); point != nil {
			if hash, err := chainhash.NewHash(point.GetFundingTxidBytes()); err == nil {
				op := wire.OutPoint{Hash: *hash, Index: point.OutputIndex}
				l := b.links[op]
				l.active = time.Now()
				b.links[op] = l
				b.tell(op)
			}
		}
		b.mu.Unlock()
	}
}

// tell hands a link that is complete to who waits for it. The caller holds mu.
func (b *bare) tell(op wire.OutPoint) {
	l := b.links[op]
	if w := b.waiters[op]; w != nil && l.chanID != 0 && !l.active.IsZero() {
		w <- l
		delete(b.waiters, op)
	}
}

func (b *bare) await(ctx context.Context, op wire.OutPoint) (bareLink, error) {
	w := make(chan bareLink, 1)
	b.mu.Lock()
	b.waiters[op] = w
	b.tell(op)
	b.mu.Unlock()
	select {
	case l := <-w:
		return l, nil
	case <-ctx.Done():
		return bareLink{}, ctx.Err()
	}
}

func (b *bare) serve(ctx context.Context, stream routerrpc.Router_HtlcInterceptorClient) {
	var send sync.Mutex
	resume := func(key *routerrpc.CircuitKey) error {
		send.Lock()
		defer send.Unlock()
		return stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
			IncomingCircuitKey: key, Action: routerrpc.ResolveHoldForwardAction_RESUME,
		})
	}
	for {
		htlc, err := stream.Recv()
		if err != nil {
			if ctx.Err() == nil {
				b.fail(fmt.Errorf("the bare program's interceptor stream: %w", err))
			}
			return
		}
		now := time.Now()
		b.mu.Lock()
		o := b.wanted[htlc.OutgoingRequestedChanId]
		b.mu.Unlock()
		if o == nil || !o.intercepted.IsZero() {
			if err := resume(htlc.IncomingCircuitKey); err != nil {
				b.fail(err)
			}
			continue
		}
		o.intercepted = now
		go func() {
			defer close(o.done)
			if err := b.open(ctx, o, htlc.OutgoingRequestedChanId); err != nil {
				b.fail(fmt.Errorf("the bare program: %w", err))
				return
			}
			if err := resume(htlc.IncomingCircuitKey); err != nil {
				b.fail(err)
			}
			o.resumed = time.Now()
		}()
	}
}

// open is the recipe: open, wait for ACTIVE, add the alias.
func (b *bare) open(ctx context.Context, o *bareOpen, scid uint64) error {
	stream, err := b.node.LN.OpenChannel(ctx, &lnrpc.OpenChannelRequest{
		NodePubkey: o.peer, LocalFundingAmount: o.capacity, Private: true, ZeroConf: true, ScidAlias: true,
		CommitmentType: lnrpc.CommitmentType_ANCHORS, UseBaseFee: true, UseFeeRate: true, SpendUnconfirmed: true,
	})
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	update, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	pending := update.GetChanPending()
	if pending == nil {
		return fmt.Errorf("open a channel: lnd said %T first", update.Update)
	}
	o.pending = time.Now()
	hash, err := chainhash.NewHash(pending.Txid)
	if err != nil {
		return err
	}
	link, err := b.await(ctx, wire.OutPoint{Hash: *hash, Index: pending.OutputIndex})
	if err != nil {
		return fmt.Errorf("wait for the channel: %w", err)
	}
	o.active = link.active
	_, err = b.node.Router.XAddLocalChanAliases(ctx, &routerrpc.AddAliasesRequest{
		AliasMaps: []*lnrpc.AliasMap{{BaseScid: link.chanID, Aliases: []uint64{scid}}},
	})
	if err != nil {
		return fmt.Errorf("add the alias: %w", err)
	}
	o.aliased = time.Now()
	return nil
}
