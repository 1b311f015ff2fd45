package agent

import (
	"context"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/internal/ln"
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
	// WatchConf tells the block that holds a transaction with this output, looked for
	// from a height on.
	WatchConf(ctx context.Context, id ln.TxID, script []byte, since uint32, handle func(ln.ConfEvent)) error
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

// Spender takes the wallet's coins back by spending them, and hurries with its change.
type Spender interface {
	FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error)
	Publish(ctx context.Context, rawTx []byte, label string) error
	// BumpFee makes a child of an output with the next block, and never pays more than
	// the budget. It replaces an earlier child.
	BumpFee(ctx context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error
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
	dial := gateways.Dial("lsp", collabv1.NewJointFundingServiceClient, sign, now)
	return func(l wallet.LSP, self ln.PubKey) (collabv1.JointFundingServiceClient, func() error, error) {
		return dial(gateways.Gateway{Name: "LSP " + l.Name, NodeKey: l.NodeKey, GRPC: l.GRPC, Certificate: l.Certificate}, self)
	}
}
