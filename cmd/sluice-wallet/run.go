package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/obs"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/peerclient"
	swapagent "github.com/sluice-lsp/sluice/swaps/agent"
)

// settings are the daemon's; LSPs are in a file of their own, which `lsps`
// changes.
type settings struct {
	LND struct {
		Address  string `toml:"address" help:"lnd's gRPC listener, HOST:PORT" required:"true"`
		TLS      string `toml:"tls" help:"lnd's TLS certificate file"`
		Macaroon string `toml:"macaroon" help:"macaroon file; sluice-wallet macaroon prints how to bake it"`
	} `toml:"lnd" help:"the wallet's own lnd"`
	Channels struct {
		MaxChannelSat        config.Sat `toml:"max_channel_sat" help:"largest channel to accept from an LSP" min:"20000"`
		MaxToSelfDelayBlocks uint32     `toml:"max_to_self_delay_blocks" help:"longest to_self_delay to accept from an LSP: for how long your money waits after you close a channel by force" min:"1" max:"4032"`
		AcceptOthers         bool       `toml:"accept_others" help:"accept ordinary, confirmed channels from anybody, as lnd does by itself; zero-conf is for the LSPs only, always"`
	} `toml:"channels" help:"what channels to accept"`
	Trust struct {
		MaxSat      config.Sat `toml:"max_sat" help:"payments of up to so much in all may be claimed over channels that their LSP publishes only afterwards: LSPs ask for that when they are under attack.\nWhat is claimed is lost if the LSP does not keep its signed promise. 0 trusts none with anything; more needs 'sluice-wallet macaroon --trust'"`
		AlarmBlocks uint32     `toml:"alarm_blocks" help:"an alarm is raised when such a channel is not confirmed so many blocks after its payment was claimed" min:"1" max:"2016"`
	} `toml:"trust" help:"how far LSPs are trusted with channels that they fund afterwards"`
	Holds  holdSettings  `toml:"holds" help:"what gateways hold while this wallet is offline"`
	Towers towerSettings `toml:"towers" help:"how watchtowers are checked"`
	Log    obs.LogConfig `toml:"log" help:"what is logged"`
}

// macaroonFile is the macaroon's usual name, in the data directory.
const macaroonFile = "sluice-wallet.macaroon"

func defaultSettings(home, dataDir string) settings {
	var s settings
	s.LND.Address = "127.0.0.1:10009"
	s.LND.TLS = filepath.Join(home, ".lnd", "tls.cert")
	s.LND.Macaroon = filepath.Join(dataDir, macaroonFile)
	p := agent.DefaultPolicy()
	s.Channels.MaxChannelSat = config.Sat(p.MaxChannelSat)
	s.Channels.MaxToSelfDelayBlocks = p.MaxToSelfDelayBlocks
	s.Channels.AcceptOthers = p.AcceptOthers
	s.Trust.AlarmBlocks = agent.DefaultAlarmBlocks
	s.Holds = defaultHoldSettings()
	s.Towers = defaultTowerSettings()
	s.Log = obs.DefaultLogConfig()
	return s
}

// nodeFlags say where lnd is and how to call it.
type nodeFlags struct {
	config.Flags
	LND struct {
		Address  string `placeholder:"HOST:PORT" help:"lnd's gRPC listener (setting lnd.address)."`
		TLS      string `name:"tls" type:"path" placeholder:"FILE" help:"lnd's TLS certificate (setting lnd.tls)."`
		Macaroon string `type:"path" placeholder:"FILE" help:"Macaroon for lnd (setting lnd.macaroon)."`
	} `embed:"" prefix:"lnd."`
}

type runCmd struct {
	nodeFlags
	Lsp []string `sep:"none" placeholder:"LSP" help:"Add or update an LSP at start, as NAME,NODEKEY@HOST:PORT[,grpc=HOST:PORT][,cert=FILE][,zero-conf=no]. May be given several times."`
}

// envPrefix is ours: sluiced's settings have SLUICE_ alone, and both may run on
// one machine.
const envPrefix = "SLUICE_WALLET_"

// ourEnv gives package config the variables that are ours, by its own prefix.
func ourEnv(env []string) []string {
	var out []string
	for _, pair := range env {
		rest, ok := strings.CutPrefix(pair, envPrefix)
		if name, _, _ := strings.Cut(rest, "="); ok && name != "DATA_DIR" {
			out = append(out, config.EnvPrefix+rest)
		}
	}
	return out
}

func (c *nodeFlags) load(w *world, dataDir string) (settings, error) {
	s := defaultSettings(w.home, dataDir)
	source := config.Source{Path: c.Config, Env: ourEnv(w.env), Flags: map[string]string{}}
	if source.Path == "" {
		usual := filepath.Join(dataDir, "sluice-wallet.toml")
		if _, err := os.Stat(usual); err == nil {
			source.Path = usual
		}
	}
	for k, v := range c.Set {
		source.Flags[k] = v
	}
	for k, v := range map[string]string{"lnd.address": c.LND.Address, "lnd.tls": c.LND.TLS, "lnd.macaroon": c.LND.Macaroon} {
		if v != "" {
			source.Flags[k] = v
		}
	}
	err := config.Load(source, &s)
	return s, err
}

// Run is the daemon.
func (c *runCmd) Run(w *world, g *Globals) error {
	ctx := w.ctx
	s, err := c.load(w, g.DataDir)
	if err != nil {
		return err
	}
	log, flush, err := obs.NewLogger(s.Log)
	if err != nil {
		return err
	}
	defer func() { _ = flush() }()
	// The network is what lnd says it is; the agent checks the LSPs against it.
	client, err := lnd.Dial(lnd.Config{
		Address: s.LND.Address, TLSCertFile: s.LND.TLS, MacaroonFile: s.LND.Macaroon, Log: log,
	})
	if err != nil {
		return fmt.Errorf("%w\n`sluice-wallet macaroon` prints how to bake the macaroon", err)
	}
	defer func() { _ = client.Close() }()
	var a *agent.Agent
	fund, err := newFunding(g.DataDir, client, func() []agent.LSP { return a.Gateways() }, log)
	if err != nil {
		return err
	}
	var swaps *swapagent.Agent
	asking := peerclient.New(client, log)
	a, err = agent.New(agent.Config{
		DataDir: g.DataDir,
		Trust:   agent.TrustConfig{MaxSat: s.Trust.MaxSat.Amount(), AlarmBlocks: s.Trust.AlarmBlocks},
		Policy: agent.Policy{
			MaxChannelSat:        s.Channels.MaxChannelSat.Amount(),
			MaxToSelfDelayBlocks: s.Channels.MaxToSelfDelayBlocks, AcceptOthers: s.Channels.AcceptOthers,
		},
	}, agent.Ports{
		Node: client, Channels: client, Peers: client, Invoices: client, Holder: client, Payer: payer{client},
		LSPS: asking, Decode: lnd.DecodeBolt11, Expects: fund.Expects, Log: log,
		Awaits: func(lsp ln.PubKey) (uint32, bool) { return swaps.Awaits(lsp) },
	})
	if err != nil {
		return err
	}
	for _, text := range c.Lsp {
		l, err := agent.ParseLSP(text)
		if err != nil {
			return err
		}
		if l.Certificate, err = absolute(l.Certificate); err != nil {
			return err
		}
		if err := a.AddLSP(ctx, l, true, true); err != nil {
			return err
		}
	}
	backups, err := newBackups(g.DataDir, client, log)
	if err != nil {
		return err
	}
	holds, err := newHolds(g.DataDir, s.Holds, client, a.Gateways, log)
	if err != nil {
		return err
	}
	swaps, err = newSwaps(g.DataDir, client, a.Gateways, log)
	if err != nil {
		return err
	}
	towers, err := newChecker(g.DataDir, s.Towers, client, log)
	if err != nil {
		return err
	}
	listener, err := agent.ListenControl(ctx, g.socket())
	if err != nil {
		return err
	}
	log.Info("waiting for lnd", zap.String("address", s.LND.Address))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error {
		asking.Serve(ctx, client)
		return nil
	})
	others := []func(grpc.ServiceRegistrar){fund.RegisterControl, holds.RegisterControl, swaps.RegisterControl}
	group.Go(func() error { return fund.Run(ctx) })
	group.Go(func() error { return holds.Run(ctx) })
	group.Go(func() error { return swaps.Run(ctx) })
	group.Go(func() error {
		towers.Run(ctx)
		return nil
	})
	if backups != nil {
		others = append(others, backups.RegisterControl)
		group.Go(func() error { return backups.Run(ctx) })
	}
	group.Go(func() error { return a.ServeControl(ctx, listener, others...) })
	group.Go(func() error {
		select {
		case <-a.Ready():
			log.Info("ready", zap.String("control", g.socket()), zap.Int("lsps", len(a.LSPs())))
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// payer fits lnd's way of paying to the agent's port.
type payer struct{ client *lnd.Client }

const (
	payTimeoutSeconds = 60
	payMaxParts       = 16
)

func (p payer) PayInvoice(ctx context.Context, bolt11 string, amount, feeLimit ln.Msat) (ln.Payment, error) {
	return p.client.Pay(ctx, lnd.PayRequest{
		Bolt11: bolt11, AmountMsat: amount, FeeLimitMsat: feeLimit, TimeoutSeconds: payTimeoutSeconds, MaxParts: payMaxParts,
	})
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

type configCmd struct{}

// Run prints the sample.
func (configCmd) Run(w *world, g *Globals) error {
	return config.Sample(w.stdout, "sluice-wallet: put this file into the data directory as sluice-wallet.toml.", defaultSettings(w.home, g.DataDir))
}
