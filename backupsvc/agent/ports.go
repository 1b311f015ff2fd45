package agent

import (
	"context"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Backups is lnd's side of channel backups.
type Backups interface {
	// SubscribeBackups gives the whole backup at every change; not the state at
	// its beginning.
	SubscribeBackups(ctx context.Context, handle func(ln.ChannelBackup)) error
	ExportBackup(ctx context.Context) (ln.ChannelBackup, error)
	// VerifyBackup opens a backup and gives the channels in it.
	VerifyBackup(ctx context.Context, multi []byte) ([]ln.Outpoint, error)
}

// Channels is what lnd knows of its channels, past ones too.
type Channels interface {
	Info(ctx context.Context) (ln.NodeInfo, error)
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
	ClosedChannels(ctx context.Context) ([]ln.ClosedChannel, error)
	ConnectedPeers(ctx context.Context) ([]ln.PubKey, error)
}

// Restorer makes lnd take channels from a backup. Beginning again is safe.
type Restorer interface {
	RestoreBackup(ctx context.Context, multi []byte) (int, error)
}

// Open reaches a configured provider as a node.
type Open func(p ProviderConfig, self ln.NodeInfo) (provider.Place, error)

// Read gives the present content of something that is backed up.
type Read func(ctx context.Context) ([]byte, error)

// Ports are what the agent works with.
type Ports struct {
	Backups  Backups
	Channels Channels
	Open     Open
	// Extras are the wallet's other things, by name; nil content is none.
	Extras map[string]Read
	// ReadFile reads a file that the owner wants backed up.
	ReadFile func(path string) ([]byte, error)
	// WriteFile replaces a file by a whole one.
	WriteFile func(path string, content []byte) error
	// Alarm calls the owner's alarm command (RunAlarm).
	Alarm  func(ctx context.Context, command []string, state, message string) error
	Random io.Reader
	Now    func() time.Time
	Log    *zap.Logger
}
