//go:build itest

package devnet

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
)

// One network serves all cases: they are ordered, and each leaves it usable.
func TestRealNetwork(t *testing.T) {
	s := StartStandard(t, StandardConfig{Net: Config{Log: zaptest.NewLogger(t)}})
	for _, c := range []struct {
		name string
		run  func(context.Context, *testing.T, *Standard)
	}{
		{"PaymentIsExact", casePayment},
		{"Fees", caseFees},
		{"LinkCutAndRestored", caseLinkCut},
		{"KillAndFreeze", caseKillAndFreeze},
		{"RestartWithOtherFlags", caseRestartFlags},
		{"SeededNode", caseSeeded},
		{"Reorg", caseReorg},
		{"Postgres", casePostgres},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			c.run(ctx, t, s)
		})
	}
}

func pay(ctx context.Context, t *testing.T, from, to *Node, msat int64) {
	t.Helper()
	invoice, err := to.Invoice(ctx, msat)
	require.NoError(t, err)
	payment, err := from.Pay(ctx, invoice.PaymentRequest)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	require.NoError(t, errors.Join(from.WaitNoHTLCs(ctx), to.WaitNoHTLCs(ctx)))
}

func casePayment(ctx context.Context, t *testing.T, s *Standard) {
	before, err := s.Gateway.Balances(ctx)
	require.NoError(t, err)
	pay(ctx, t, s.Payer, s.Gateway, 1_000_001)
	after, err := s.Gateway.Balances(ctx)
	require.NoError(t, err)
	require.Equal(t, before.LocalMsat+1_000_001, after.LocalMsat, "the last millisatoshi counts")
}

func caseFees(ctx context.Context, t *testing.T, s *Standard) {
	defer s.Fees().SetSatPerVByte(DefaultFeeRateSatPerVByte)
	s.Fees().SetSatPerVByte(40)
	estimate, err := s.Gateway.Wallet.EstimateFee(ctx, &walletrpc.EstimateFeeRequest{ConfTarget: 6})
	require.NoError(t, err)
	require.EqualValues(t, 10_000, estimate.SatPerKw, "40 sat/vB")
}

func caseLinkCut(ctx context.Context, t *testing.T, s *Standard) {
	s.PayerLink.Cut()
	require.NoError(t, s.WaitDisconnected(ctx, s.Payer, s.Gateway))
	_, err := s.Payer.WaitChannelInactive(ctx, s.PayerChannel.Point)
	require.NoError(t, err)
	s.PayerLink.Restore()
	require.NoError(t, s.WaitConnected(ctx, s.Payer, s.Gateway), "the payer redials by itself")
	_, err = s.Payer.WaitChannelActive(ctx, s.PayerChannel.Point)
	require.NoError(t, err)
	pay(ctx, t, s.Payer, s.Gateway, 5_000)

	require.NoError(t, s.Disconnect(ctx, s.Payer, s.Gateway))
	require.NoError(t, s.WaitDisconnected(ctx, s.Payer, s.Gateway))
	require.NoError(t, s.ConnectVia(ctx, s.Payer, s.Gateway, s.PayerLink))
	_, err = s.Payer.WaitChannelActive(ctx, s.PayerChannel.Point)
	require.NoError(t, err)
}

func caseKillAndFreeze(ctx context.Context, t *testing.T, s *Standard) {
	require.NoError(t, s.Gateway.Kill())
	require.False(t, s.Gateway.Proc().Running())
	require.NoError(t, s.Gateway.Start(ctx))
	_, err := s.Payer.WaitChannelActive(ctx, s.PayerChannel.Point)
	require.NoError(t, err)

	require.NoError(t, s.Gateway.Freeze())
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = s.Gateway.LN.GetInfo(short, &lnrpc.GetInfoRequest{})
	require.Error(t, err, "a frozen node answers nothing")
	require.NoError(t, s.Mine(ctx, 1), "mining does not wait for a frozen node")
	require.NoError(t, s.Gateway.Thaw())
	require.NoError(t, s.WaitSynced(ctx))
	pay(ctx, t, s.Payer, s.Gateway, 6_000)
}

func caseRestartFlags(ctx context.Context, t *testing.T, s *Standard) {
	require.NoError(t, s.Wallet.Restart(ctx, "--alias=renamed"))
	info, err := s.Wallet.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	require.NoError(t, err)
	require.Equal(t, "renamed", info.Alias)
	require.Equal(t, s.Wallet.PubKey, info.IdentityPubkey)
	require.NoError(t, s.ConnectVia(ctx, s.Wallet, s.Gateway, s.WalletLink))
}

func caseSeeded(ctx context.Context, t *testing.T, s *Standard) {
	node, err := s.NewNode(ctx, "seeded", NodeConfig{Seeded: true})
	require.NoError(t, err)
	require.Len(t, node.Seed(), 24)
	require.NoError(t, s.Fund(ctx, Funding{node, 700_000, 3}))
	unspent, err := node.Wallet.ListUnspent(ctx, &walletrpc.ListUnspentRequest{MinConfs: 1, MaxConfs: 1000})
	require.NoError(t, err)
	require.Len(t, unspent.Utxos, 3, "separate coins")

	require.NoError(t, node.Kill())
	require.NoError(t, node.Start(ctx), "it unlocks its wallet by itself")
	require.NoError(t, s.Connect(ctx, node, s.Gateway))
	channel, err := s.OpenChannel(ctx, node, s.Gateway, ChannelParams{CapacitySat: 500_000, Private: true})
	require.NoError(t, err)
	pay(ctx, t, node, s.Gateway, 7_000)
	require.NotZero(t, channel.ChanID)
}

func caseReorg(ctx context.Context, t *testing.T, s *Standard) {
	addr, err := s.Wallet.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	txid, err := s.Miner().Send(ctx, Output{addr.Address, 123_456})
	require.NoError(t, err)
	require.NoError(t, s.Mine(ctx, 2))
	_, before, err := s.Miner().Tx(ctx, txid)
	require.NoError(t, err)
	require.EqualValues(t, 2, before)
	height, err := s.Miner().Height(ctx)
	require.NoError(t, err)
	old, err := s.Miner().BlockHash(ctx, height)
	require.NoError(t, err)

	tip, err := s.Miner().Reorg(ctx, 2, 4)
	require.NoError(t, err)
	require.Equal(t, height+2, tip)
	now, err := s.Miner().BlockHash(ctx, height)
	require.NoError(t, err)
	require.NotEqual(t, old, now)
	require.NoError(t, s.WaitSynced(ctx))
	_, after, err := s.Miner().Tx(ctx, txid)
	require.NoError(t, err)
	require.EqualValues(t, 4, after, "the transaction is in the first block of the new branch")

	// The miner's own coins survive the change of branch.
	require.NoError(t, s.Fund(ctx, Funding{s.Wallet, 50_000, 1}))
}

func casePostgres(ctx context.Context, t *testing.T, s *Standard) {
	pg, err := s.StartPostgres(ctx)
	if errors.Is(err, ErrNoPostgres) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dsn, err := pg.CreateDatabase(ctx, "books")
	require.NoError(t, err)
	exec := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, sql)
		return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	require.NoError(t, exec(ctx, "CREATE TABLE paid (hash BYTEA PRIMARY KEY); INSERT INTO paid VALUES ('\\x01')"))

	require.NoError(t, pg.Kill())
	require.Error(t, exec(ctx, "SELECT 1"))
	require.NoError(t, pg.Start(ctx))
	require.ErrorContains(t, exec(ctx, "INSERT INTO paid VALUES ('\\x01')"), "duplicate key", "what was committed is there")

	require.NoError(t, pg.Freeze())
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	require.Error(t, exec(short, "SELECT 1"))
	require.NoError(t, pg.Thaw())
	require.NoError(t, exec(ctx, "SELECT 1"))
	require.NoError(t, pg.Stop(ctx))
}
