package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	wallet "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
)

// Wallet chooses, keeps and signs coins. Coins leased under one id are nobody
// else's.
type Wallet interface {
	FundPsbt(ctx context.Context, r ln.FundOutput) (ln.FundedPsbt, error)
	LeaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint, d time.Duration) error
	ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error
	ListLeases(ctx context.Context) ([]ln.Lease, error)
	// SignPsbt signs the inputs whose key paths stand in the PSBT, and no others.
	SignPsbt(ctx context.Context, psbt []byte) (signed []byte, inputs int, err error)
}

// Chain is what the wallet knows of blocks and transactions.
type Chain interface {
	Info(ctx context.Context) (ln.NodeInfo, error)
	NewChangeAddress(ctx context.Context) (string, error)
	// Transactions are the wallet's own from a height on.
	Transactions(ctx context.Context, fromHeight int32) ([]ln.WalletTx, error)
	// WatchSpend tells the present state first, if there is one; nil says that
	// nothing can undo what it told last.
	WatchSpend(ctx context.Context, op ln.Outpoint, script []byte, since uint32, handle func(ln.SpendEvent)) error
}

// Channels is what the wallet's node shows of channels.
type Channels interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
	// FundingScript is the output script of a channel, from the node's own backup
	// of it; ln.ErrNotFound when the node has no such channel.
	FundingScript(ctx context.Context, op ln.Outpoint, capacity ln.Sat) ([]byte, error)
	// AbandonChannel takes a channel that is gone as success.
	AbandonChannel(ctx context.Context, op ln.Outpoint) error
}

// Spender takes the wallet's coins back by spending them.
type Spender interface {
	FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error)
	Publish(ctx context.Context, rawTx []byte, label string) error
}

// Connect reaches an LSP's service as the node self.
type Connect func(l wallet.LSP, self ln.PubKey) (collabv1.JointFundingServiceClient, func() error, error)

// Ports are what the agent works with.
type Ports struct {
	Wallet   Wallet
	Chain    Chain
	Channels Channels
	Spender  Spender
	// LSPs are those that the user trusts.
	LSPs    func() []wallet.LSP
	Connect Connect
	Random  io.Reader
	Now     func() time.Time
	Log     *zap.Logger
}

// Dial reaches LSPs over gRPC with TLS, and logs in by the node's key.
func Dial(sign auth.Sign, now func() time.Time) Connect {
	return func(l wallet.LSP, self ln.PubKey) (collabv1.JointFundingServiceClient, func() error, error) {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if l.Certificate != "" {
			var err error
			if config, err = selfcert.ClientTLS(l.Certificate); err != nil {
				return nil, nil, errkind.Wrap(errkind.Invalid, err, "LSP "+l.Name+": its certificate cannot be used")
			}
		}
		conn, _, err := auth.Dial(l.GRPC, credentials.NewTLS(config), auth.ClientConfig{
			Server: auth.Server{NodeKey: l.NodeKey}, Node: self, Services: []string{"lsp"}, Sign: sign, Now: now,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("LSP %s: %w", l.Name, err)
		}
		return collabv1.NewJointFundingServiceClient(conn), conn.Close, nil
	}
}
