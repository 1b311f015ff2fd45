package doctor

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/pulse"
)

// Node tells about lnd. Every call only reads.
type Node interface {
	Info(ctx context.Context) (ln.NodeInfo, error)
	Version(ctx context.Context) (lnd.Version, error)
	CheckPermission(ctx context.Context, macaroon []byte, method string) (lnd.Permission, error)
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
}

// Peers tells who is connected.
type Peers interface {
	ConnectedPeers(ctx context.Context) ([]ln.PubKey, error)
}

// Wallet tells about lnd's coins. Every call only reads.
type Wallet interface {
	ListCoins(ctx context.Context, minConfs int32) ([]ln.Coin, error)
	WalletBalance(ctx context.Context) (ln.Balances, error)
}

// SettingsReader reads lnd's settings; it may use a macaroon of its own.
type SettingsReader interface {
	Settings(ctx context.Context) (lnd.Settings, error)
}

// Sources is whom to ask.
type Sources struct {
	Address  string
	Node     Node
	Peers    Peers
	Wallet   Wallet
	Settings SettingsReader
	// Macaroon is sluiced's, whose rights are checked.
	Macaroon     []byte
	MacaroonFile string
	// Sluiced asks the daemon; its error says why it could not.
	Sluiced func(context.Context) (Sluiced, error)
	Now     func() time.Time
}

// answerWithin is how long lnd may take to say who it is.
const answerWithin = 15 * time.Second

// Gather asks for every fact. It stops early only when lnd does not answer.
func Gather(ctx context.Context, s Sources) Facts {
	f := Facts{Address: s.Address, MacaroonFile: s.MacaroonFile}
	f.Info, f.Silent, f.NoInfo = pulse.Silent(ctx, s.Node, answerWithin)
	f.Now = s.Now()
	if f.NoInfo != nil {
		return f
	}
	f.Version, f.NoVers = s.Node.Version(ctx)
	f.Channels, f.NoChannels = s.Node.ListChannels(ctx)
	f.Connected, f.NoConnected = s.Peers.ConnectedPeers(ctx)
	f.Pending, f.NoPending = s.Node.PendingChannels(ctx)
	f.Coins, f.NoCoins = s.Wallet.ListCoins(ctx, 1)
	f.Balance, f.NoBalance = s.Wallet.WalletBalance(ctx)
	f.Settings, f.NoSettings = s.Settings.Settings(ctx)
	f.NoRights = f.checkRights(ctx, s)
	f.Sluiced, f.NoSluiced = s.Sluiced(ctx)
	return f
}

func (f *Facts) checkRights(ctx context.Context, s Sources) error {
	if len(s.Macaroon) == 0 {
		return errors.New("no macaroon was given")
	}
	var err error
	if f.Missing, f.Absent, err = askRights(ctx, s, lnd.GatewayRightsTable()); errors.Is(err, ln.ErrPermission) {
		f.Missing = []string{"/lnrpc.Lightning/CheckMacaroonPermissions"}
		return nil
	}
	for _, x := range lnd.GatewayExtras() {
		if err != nil {
			return err
		}
		e := Extra{For: x.For, Setting: x.Setting}
		e.Missing, e.Absent, err = askRights(ctx, s, x.Rights)
		f.Extras = append(f.Extras, e)
	}
	return err
}

func askRights(ctx context.Context, s Sources, rights []lnd.Right) (missing, absent []string, err error) {
	for _, r := range rights {
		answer, err := s.Node.CheckPermission(ctx, s.Macaroon, r.Method)
		switch {
		case err != nil:
			return nil, nil, err
		case answer == lnd.Refused:
			missing = append(missing, r.Method)
		case answer == lnd.Absent:
			absent = append(absent, r.Method)
		}
	}
	return missing, absent, nil
}
