package devnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"golang.org/x/sync/errgroup"
)

// Funding is a wish for confirmed coins.
type Funding struct {
	Node    *Node
	CoinSat int64 // value of each coin
	Coins   int
}

// Fund gives nodes separate confirmed coins, all in one transaction and one
// block, and waits until every wallet can spend them.
func (n *Net) Fund(ctx context.Context, wishes ...Funding) error {
	outputs := make([][]Output, len(wishes))
	before := make([]int64, len(wishes))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, wish := range wishes {
		group.Go(func() error {
			balance, err := wish.Node.LN.WalletBalance(groupCtx, &lnrpc.WalletBalanceRequest{})
			if err != nil {
				return fmt.Errorf("fund %s: %w", wish.Node.Name, err)
			}
			before[i] = balance.ConfirmedBalance
			for range wish.Coins {
				addr, err := wish.Node.LN.NewAddress(groupCtx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
				if err != nil {
					return fmt.Errorf("fund %s: %w", wish.Node.Name, err)
				}
				outputs[i] = append(outputs[i], Output{addr.Address, wish.CoinSat})
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all []Output
	for _, out := range outputs {
		all = append(all, out...)
	}
	txid, err := n.miner.Send(ctx, all...)
	if err != nil {
		return err
	}
	if err := n.miner.WaitTxInMempool(ctx, txid); err != nil {
		return err
	}
	if err := n.Mine(ctx, 1); err != nil {
		return err
	}
	for i, wish := range wishes {
		want := before[i] + wish.CoinSat*int64(wish.Coins)
		what := fmt.Sprintf("%s to hold %d sat confirmed", wish.Node.Name, want)
		err := WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
			balance, err := wish.Node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
			return err == nil && balance.ConfirmedBalance >= want, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Balances is what a node owns. Channel amounts are exact to the millisatoshi
// (lnd gives them so for the sum of all channels only); wallet amounts are
// whole satoshis.
type Balances struct {
	WalletConfirmedSat   int64
	WalletUnconfirmedSat int64
	WalletLockedSat      int64 // leased outputs
	AnchorReserveSat     int64

	LocalMsat         uint64 // open channels, ours
	RemoteMsat        uint64
	UnsettledInMsat   uint64 // HTLCs offered to us, not resolved
	UnsettledOutMsat  uint64
	PendingLocalMsat  uint64 // channels not open yet
	PendingRemoteMsat uint64
}

// Balances asks the node what it owns.
func (n *Node) Balances(ctx context.Context) (Balances, error) {
	wallet, err := n.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	if err != nil {
		return Balances{}, fmt.Errorf("%s: %w", n.Name, err)
	}
	channels, err := n.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	if err != nil {
		return Balances{}, fmt.Errorf("%s: %w", n.Name, err)
	}
	return Balances{
		WalletConfirmedSat:   wallet.ConfirmedBalance,
		WalletUnconfirmedSat: wallet.UnconfirmedBalance,
		WalletLockedSat:      wallet.LockedBalance,
		AnchorReserveSat:     wallet.ReservedBalanceAnchorChan,
		LocalMsat:            channels.LocalBalance.GetMsat(),
		RemoteMsat:           channels.RemoteBalance.GetMsat(),
		UnsettledInMsat:      channels.UnsettledRemoteBalance.GetMsat(),
		UnsettledOutMsat:     channels.UnsettledLocalBalance.GetMsat(),
		PendingLocalMsat:     channels.PendingOpenLocalBalance.GetMsat(),
		PendingRemoteMsat:    channels.PendingOpenRemoteBalance.GetMsat(),
	}, nil
}

// htlcsGone is above every wait for peers that come back, and far below what a test lasts.
const htlcsGone = 2 * time.Minute

// WaitNoHTLCs waits until the node has no unresolved HTLC on any channel, two
// minutes at most. Its error says which channels hold what.
func (n *Node) WaitNoHTLCs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, htlcsGone)
	defer cancel()
	return WaitFor(ctx, n.Name+" to have no HTLC in flight", func(ctx context.Context) (bool, error) {
		channels, err := n.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false, err
		}
		var held []error
		for _, c := range channels.Channels {
			for _, h := range c.PendingHtlcs {
				direction := "outgoing"
				if h.Incoming {
					direction = "incoming"
				}
				held = append(held, fmt.Errorf("channel %d with %.8s (%s, active: %t) holds %s HTLC %d of %d sat, hash %x, expiry %d, locked in: %t",
					c.ChanId, c.RemotePubkey, c.ChannelPoint, c.Active, direction, h.HtlcIndex, h.Amount, h.HashLock, h.ExpirationHeight, h.LockedIn))
			}
		}
		return len(held) == 0, errors.Join(held...)
	})
}
