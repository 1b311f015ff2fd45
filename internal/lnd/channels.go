package lnd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

const listing = "list channels"

// ListChannels lists every open channel with its pending HTLCs. lnd reads all
// of them whatever the filter, so it is never called per HTLC, and those who list at the
// same time share a request that none of them is later than. HTLCs that lnd may yet
// fail because it was killed while it took them in are marked (ln.ChannelHtlc.Unproven).
// The HTLCs of a channel are not to be changed.
func (c *Client) ListChannels(ctx context.Context) ([]ln.Channel, error) {
	list, err := askShared(ctx, &c.listings, listing, c.cfg.CallTimeout, c.listChannels)
	return slices.Clone(list), err
}

func (c *Client) listChannels(ctx context.Context) ([]ln.Channel, error) {
	life := c.inherited.life()
	resp, err := c.lightning.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return nil, mapError(listing, err)
	}
	out := make([]ln.Channel, 0, len(resp.Channels))
	for _, rc := range resp.Channels {
		ch, err := channelFromRPC(rc)
		if err != nil {
			return nil, err
		}
		out = append(out, ch)
	}
	c.inherited.mark(life, time.Now(), out)
	return out, nil
}

// ChannelByOutpoint finds one open channel, or ln.ErrNotFound.
func (c *Client) ChannelByOutpoint(ctx context.Context, op ln.Outpoint) (ln.Channel, error) {
	all, err := c.ListChannels(ctx)
	if err != nil {
		return ln.Channel{}, err
	}
	for _, ch := range all {
		if ch.Outpoint == op {
			return ch, nil
		}
	}
	return ln.Channel{}, fmt.Errorf("channel %s: %w", op, ln.ErrNotFound)
}

// AddAlias maps alias to the channel whose ChanID is base, on this node only.
// It is idempotent: lnd refuses a second add and errors after persisting when
// the link is down, so the channel's alias list decides. An alias that belongs
// to another channel is ln.ErrExists.
func (c *Client) AddAlias(ctx context.Context, base, alias ln.SCID) error {
	_, addErr := c.router.XAddLocalChanAliases(ctx, &routerrpc.AddAliasesRequest{
		AliasMaps: []*lnrpc.AliasMap{{BaseScid: uint64(base), Aliases: []uint64{uint64(alias)}}},
	})
	if addErr == nil {
		return nil
	}
	mapped := mapError(fmt.Sprintf("map alias %s to channel %s", alias, base), addErr)
	if errors.Is(mapped, ln.ErrPermission) {
		return mapped
	}
	owner, err := c.AliasOwner(ctx, alias)
	switch {
	case err != nil:
		return errors.Join(mapped, err)
	case owner == base:
		return nil
	case owner != 0:
		return fmt.Errorf("alias %s belongs to channel %s: %w", alias, owner, ln.ErrExists)
	default:
		return mapped
	}
}

// RemoveAlias takes an alias from the channel whose ChanID is base. lnd removes
// it and then reports an error when the channel has no link, as one that was
// closed before lnd started: its list decides. The switch may forward the alias to a zero-conf
// channel until the next restart, unless it is added to another one.
func (c *Client) RemoveAlias(ctx context.Context, base, alias ln.SCID) error {
	_, removeErr := c.router.XDeleteLocalChanAliases(ctx, &routerrpc.DeleteAliasesRequest{
		AliasMaps: []*lnrpc.AliasMap{{BaseScid: uint64(base), Aliases: []uint64{uint64(alias)}}},
	})
	if removeErr == nil {
		return nil
	}
	mapped := mapError(fmt.Sprintf("remove alias %s from channel %s", alias, base), removeErr)
	if errors.Is(mapped, ln.ErrPermission) {
		return mapped
	}
	owner, err := c.AliasOwner(ctx, alias)
	switch {
	case err != nil:
		return errors.Join(mapped, err)
	case owner == base:
		return mapped
	default:
		return nil
	}
}

// AliasOwner is the base SCID that an alias maps to, or 0.
func (c *Client) AliasOwner(ctx context.Context, alias ln.SCID) (ln.SCID, error) {
	resp, err := c.lightning.ListAliases(ctx, &lnrpc.ListAliasesRequest{})
	if err != nil {
		return 0, mapError("list aliases", err)
	}
	for _, m := range resp.AliasMaps {
		if slices.Contains(m.Aliases, uint64(alias)) {
			return ln.SCID(m.BaseScid), nil
		}
	}
	return 0, nil
}

// SetPolicy sets our forwarding policy of one channel, creating the edge when
// the graph does not have it yet.
func (c *Client) SetPolicy(ctx context.Context, op ln.Outpoint, p ln.ChannelPolicy) error {
	req := &lnrpc.PolicyUpdateRequest{
		Scope:       &lnrpc.PolicyUpdateRequest_ChanPoint{ChanPoint: channelPoint(op)},
		BaseFeeMsat: int64(p.BaseFeeMsat), FeeRatePpm: uint32(p.FeePPM), TimeLockDelta: p.TimeLockDelta,
		CreateMissingEdge: true,
	}
	fail := func(err error) error { return mapError(fmt.Sprintf("set the policy of channel %s", op), err) }
	resp, err := c.lightning.UpdateChannelPolicy(ctx, req)
	if err != nil {
		return fail(err)
	}
	// An edge that lnd makes anew has no largest HTLC and is refused for that,
	// unless it is named: no more than the peer takes in flight.
	if len(resp.FailedUpdates) > 0 && req.MaxHtlcMsat == 0 {
		if req.MaxHtlcMsat, err = c.maxInFlight(ctx, op); err != nil {
			return fail(err)
		}
		if resp, err = c.lightning.UpdateChannelPolicy(ctx, req); err != nil {
			return fail(err)
		}
	}
	for _, f := range resp.FailedUpdates {
		return fmt.Errorf("set the policy of channel %s: lnd: %s", op, f.UpdateError)
	}
	return nil
}

func (c *Client) maxInFlight(ctx context.Context, op ln.Outpoint) (uint64, error) {
	list, err := c.lightning.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return 0, err
	}
	for _, ch := range list.Channels {
		if ch.ChannelPoint == op.String() {
			return ch.GetLocalConstraints().GetMaxPendingAmtMsat(), nil
		}
	}
	return 0, nil
}

// OwnPolicy is our forwarding policy of a channel as lnd's graph has it, or
// ln.ErrNotFound while the graph does not.
func (c *Client) OwnPolicy(ctx context.Context, chanID ln.SCID, self ln.PubKey) (ln.ChannelPolicy, error) {
	edge, err := c.lightning.GetChanInfo(ctx, &lnrpc.ChanInfoRequest{ChanId: uint64(chanID)})
	if err != nil {
		return ln.ChannelPolicy{}, mapError(fmt.Sprintf("policy of channel %s", chanID), err)
	}
	policy := edge.Node1Policy
	if edge.Node2Pub == self.String() {
		policy = edge.Node2Policy
	}
	if policy == nil {
		return ln.ChannelPolicy{}, fmt.Errorf("policy of channel %s: %w", chanID, ln.ErrNotFound)
	}
	return ln.ChannelPolicy{
		BaseFeeMsat: msat(policy.FeeBaseMsat), FeePPM: uint64(policy.FeeRateMilliMsat),
		TimeLockDelta: policy.TimeLockDelta, MinHtlcMsat: msat(policy.MinHtlc),
		MaxHtlcMsat: ln.Msat(policy.MaxHtlcMsat), Disabled: policy.Disabled,
	}, nil
}

// closeWithin is how long the peer may take to agree on a cooperative close: lnd waits
// for ever.
const closeWithin = 20 * time.Second

// CloseChannel closes, with the peer or by force, and returns once the closing
// transaction is out. With NoWait lnd answers before it has begun, whatever comes of it,
// and begins with HTLCs under way: a close that is asked for again while one waits for
// them sends a second shutdown. Without it a channel with HTLCs is refused.
func (c *Client) CloseChannel(ctx context.Context, op ln.Outpoint, force bool, rate ln.FeeRateSatPerKW) error {
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	req := &lnrpc.CloseChannelRequest{ChannelPoint: channelPoint(op), Force: force}
	if rate > 0 && !force {
		req.SatPerVbyte = max(1, uint64(rate)*4/1000)
	}
	stream, err := c.lightning.CloseChannel(ctx, req)
	if err != nil {
		return mapError(fmt.Sprintf("close channel %s", op), err)
	}
	_, err = stream.Recv()
	return mapError(fmt.Sprintf("close channel %s", op), err)
}

// AbandonChannel makes lnd forget a channel whose funding transaction can
// never confirm. Whoever calls it has made sure of that: forgetting a channel
// that does confirm loses its money.
func (c *Client) AbandonChannel(ctx context.Context, op ln.Outpoint) error {
	_, err := c.lightning.AbandonChannel(ctx, &lnrpc.AbandonChannelRequest{
		ChannelPoint: channelPoint(op), IKnowWhatIAmDoing: true,
	})
	mapped := mapError(fmt.Sprintf("abandon channel %s", op), err)
	if errors.Is(mapped, ln.ErrNotFound) {
		return nil
	}
	return mapped
}
