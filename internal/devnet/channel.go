package devnet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
)

// ChannelParams describes a channel to open. The zero value of everything but
// the capacity is a public anchors channel with the node's default policy.
type ChannelParams struct {
	CapacitySat    int64
	PushSat        int64
	Private        bool
	ZeroConf       bool // the peer needs an acceptor that agrees
	ScidAlias      bool
	CommitmentType lnrpc.CommitmentType
	SatPerVByte    uint64
	BaseFeeMsat    *uint64 // the opener's policy
	FeeRatePPM     *uint64
}

// Channel is an open channel.
type Channel struct {
	Point wire.OutPoint
	// ChanID as lnd's ListChannels has it: the SCID, or the alias of a
	// zero-conf channel.
	ChanID uint64
}

// RPCPoint is the channel's outpoint as lnd's calls want it.
func (c Channel) RPCPoint() *lnrpc.ChannelPoint {
	return &lnrpc.ChannelPoint{
		FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: c.Point.Hash[:]},
		OutputIndex: c.Point.Index,
	}
}

// OpenChannel opens a channel, mines the six blocks after which it is announced
// (none for ZeroConf), and waits until both ends can use it and know both
// policies, so that a payment may follow at once. from and to must be connected.
func (n *Net) OpenChannel(ctx context.Context, from, to *Node, params ChannelParams) (Channel, error) {
	channel, err := n.openChannel(ctx, from, to, params)
	if err != nil {
		return channel, fmt.Errorf("open a channel from %s to %s: %w", from.Name, to.Name, err)
	}
	return channel, nil
}

func (n *Net) openChannel(ctx context.Context, from, to *Node, params ChannelParams) (Channel, error) {
	point, err := from.StartOpen(ctx, to, params)
	if err != nil {
		return Channel{}, err
	}
	channel := Channel{Point: point}
	if !params.ZeroConf {
		if err := n.miner.WaitTxInMempool(ctx, point.Hash); err != nil {
			return channel, err
		}
		if err := n.Mine(ctx, chanConfs); err != nil {
			return channel, err
		}
	}
	if channel.ChanID, err = from.WaitChannelActive(ctx, point); err != nil {
		return channel, err
	}
	toID, err := to.WaitChannelActive(ctx, point)
	if err != nil {
		return channel, err
	}
	if err := errors.Join(from.WaitPolicies(ctx, channel.ChanID), to.WaitPolicies(ctx, toID)); err != nil {
		return channel, err
	}
	if params.ZeroConf {
		return channel, nil
	}
	// Only now the confirmations that announce the channel: when they come with
	// the first ones, lnd adds the edge twice at once, and sometimes loses the
	// peer's policy for good ("unable to add channel: edge not found").
	if err := n.Mine(ctx, announceConfs-chanConfs); err != nil {
		return channel, err
	}
	// At the announcement lnd enters the channel anew, and its router finds "local
	// balance: 0" in between.
	if !params.Private {
		if err := errors.Join(from.waitAnnounced(ctx, channel.ChanID), to.waitAnnounced(ctx, toID)); err != nil {
			return channel, err
		}
	}
	return channel, from.WaitRoute(ctx, to)
}

const (
	chanConfs     = 3 // lnd's --bitcoin.defaultchanconfs, for every size of channel
	announceConfs = 6
)

// StartOpen opens a channel and returns once it is pending (its funding
// transaction published).
func (n *Node) StartOpen(ctx context.Context, to *Node, params ChannelParams) (wire.OutPoint, error) {
	pubkey, err := to.PubKeyBytes()
	if err != nil {
		return wire.OutPoint{}, err
	}
	req := &lnrpc.OpenChannelRequest{
		NodePubkey: pubkey, LocalFundingAmount: params.CapacitySat, PushSat: params.PushSat,
		Private: params.Private, ZeroConf: params.ZeroConf, ScidAlias: params.ScidAlias,
		CommitmentType: params.CommitmentType, SatPerVbyte: params.SatPerVByte,
	}
	if params.ZeroConf {
		req.MinConfs, req.SpendUnconfirmed = 0, true
		if req.CommitmentType == lnrpc.CommitmentType_UNKNOWN_COMMITMENT_TYPE {
			req.CommitmentType = lnrpc.CommitmentType_ANCHORS
		}
	}
	if params.BaseFeeMsat != nil {
		req.UseBaseFee, req.BaseFee = true, *params.BaseFeeMsat
	}
	if params.FeeRatePPM != nil {
		req.UseFeeRate, req.FeeRate = true, *params.FeeRatePPM
	}
	stream, err := n.LN.OpenChannel(ctx, req)
	if err != nil {
		return wire.OutPoint{}, err
	}
	for {
		update, err := stream.Recv()
		if err != nil {
			return wire.OutPoint{}, err
		}
		if pending := update.GetChanPending(); pending != nil {
			hash, err := chainhash.NewHash(pending.Txid)
			if err != nil {
				return wire.OutPoint{}, err
			}
			return wire.OutPoint{Hash: *hash, Index: pending.OutputIndex}, nil
		}
	}
}

// FindChannel returns the open channel with this funding outpoint, or nil.
func (n *Node) FindChannel(ctx context.Context, point wire.OutPoint) (*lnrpc.Channel, error) {
	list, err := n.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Name, err)
	}
	for _, c := range list.Channels {
		if c.ChannelPoint == point.String() {
			return c, nil
		}
	}
	return nil, nil
}

// WaitChannelActive waits until the node lists the channel as active, and
// returns lnd's chan_id for it.
func (n *Node) WaitChannelActive(ctx context.Context, point wire.OutPoint) (uint64, error) {
	return n.waitChannel(ctx, point, true)
}

// WaitChannelInactive waits until the channel is listed but not usable.
func (n *Node) WaitChannelInactive(ctx context.Context, point wire.OutPoint) (uint64, error) {
	return n.waitChannel(ctx, point, false)
}

func (n *Node) waitChannel(ctx context.Context, point wire.OutPoint, active bool) (uint64, error) {
	var chanID uint64
	what := fmt.Sprintf("%s to have channel %s with active=%t", n.Name, point, active)
	return chanID, WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		c, err := n.FindChannel(ctx, point)
		if err != nil || c == nil {
			return false, err
		}
		chanID = c.ChanId
		return c.Active == active, nil
	})
}

// WaitPolicies waits until the node's graph has both directions of a channel:
// before that its router finds no path over it.
func (n *Node) WaitPolicies(ctx context.Context, chanID uint64) error {
	what := fmt.Sprintf("%s to know both policies of channel %s", n.Name, formatSCID(chanID))
	return WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		edge, err := n.LN.GetChanInfo(ctx, &lnrpc.ChanInfoRequest{ChanId: chanID})
		if err != nil {
			return false, err
		}
		return edge.Node1Policy != nil && edge.Node2Policy != nil, nil
	})
}

// waitAnnounced waits until the node's graph has the channel with its proof.
func (n *Node) waitAnnounced(ctx context.Context, chanID uint64) error {
	what := fmt.Sprintf("%s to have channel %s announced", n.Name, formatSCID(chanID))
	return WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		// Edges without a proof are left out.
		graph, err := n.LN.DescribeGraph(ctx, &lnrpc.ChannelGraphRequest{})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(graph.Edges, func(e *lnrpc.ChannelEdge) bool {
			return e.ChannelId == chanID && e.Node1Policy != nil && e.Node2Policy != nil
		}), nil
	})
}

// WaitRoute waits until the node finds a way to another.
func (n *Node) WaitRoute(ctx context.Context, to *Node) error {
	return WaitFor(ctx, fmt.Sprintf("%s to find a way to %s", n.Name, to.Name), func(ctx context.Context) (bool, error) {
		_, err := n.LN.QueryRoutes(ctx, &lnrpc.QueryRoutesRequest{PubKey: to.PubKey, Amt: 1_000})
		return err == nil, nil
	})
}

// ParsePoint reads lnd's "txid:index".
func ParsePoint(text string) (wire.OutPoint, error) {
	txid, index, ok := strings.Cut(text, ":")
	if !ok {
		return wire.OutPoint{}, fmt.Errorf("channel point %q: want txid:index", text)
	}
	hash, err := chainhash.NewHashFromStr(txid)
	if err != nil {
		return wire.OutPoint{}, fmt.Errorf("channel point %q: %w", text, err)
	}
	i, err := strconv.ParseUint(index, 10, 32)
	if err != nil {
		return wire.OutPoint{}, fmt.Errorf("channel point %q: %w", text, err)
	}
	return wire.OutPoint{Hash: *hash, Index: uint32(i)}, nil
}

func formatSCID(id uint64) string {
	return fmt.Sprintf("%dx%dx%d", id>>40, id>>16&0xffffff, id&0xffff)
}
