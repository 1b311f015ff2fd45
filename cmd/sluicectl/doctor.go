package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/doctor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// DoctorCmd checks the gateway's lnd.
type DoctorCmd struct {
	LND      string `name:"lnd" env:"SLUICECTL_LND" placeholder:"HOST:PORT" default:"localhost:10009" help:"lnd's gRPC address (${default})."`
	Cert     string `name:"lnd-tls-cert" env:"SLUICECTL_LND_TLS_CERT" type:"path" placeholder:"FILE" default:"${lnd_dir}/tls.cert" help:"lnd's TLS certificate (~/.lnd/tls.cert)."`
	Macaroon string `name:"lnd-macaroon" env:"SLUICECTL_LND_MACAROON" type:"path" placeholder:"FILE" help:"The macaroon that sluiced uses at lnd, whose rights are checked (lnd.macaroon in the data directory)."`
	Readonly string `name:"lnd-readonly-macaroon" env:"SLUICECTL_LND_READONLY_MACAROON" type:"path" placeholder:"FILE" help:"lnd's readonly.macaroon, to read its settings with; only needed if sluiced's own macaroon is older and lacks GetDebugInfo."`

	Network    string `placeholder:"NAME" help:"The network that lnd must be on: mainnet, testnet, signet or regtest."`
	CltvDelta  uint32 `placeholder:"BLOCKS" help:"Sluice's CLTV delta in route hints. This and the following are what the running sluiced says; without one, its defaults (${cltv_delta})."`
	HoldDelta  uint32 `name:"hold-expiry-delta" placeholder:"BLOCKS" help:"lnd's invoices.holdexpirydelta as Sluice counts on it (${hold_delta})."`
	MaxChannel uint64 `name:"max-channel" placeholder:"SAT" help:"The largest channel that Sluice may open (${max_channel})."`
	Opens      int    `name:"concurrent-opens" placeholder:"N" help:"How many channels should be able to open at once with a coin of their own each (${opens})."`
	All        bool   `short:"a" help:"Show what is well too, not only what needs attention."`
}

func doctorVars() map[string]string {
	w := doctor.DefaultWant()
	return map[string]string{
		"cltv_delta": fmt.Sprint(w.CltvDelta), "hold_delta": fmt.Sprint(w.HoldExpiryDelta), "opens": fmt.Sprint(w.ConcurrentOpens),
		"max_channel": fmt.Sprint(uint64(w.MaxChannelSat)),
	}
}

// report is the doctor's JSON.
type report struct {
	Worst    doctor.Level     `json:"worst"`
	Findings []doctor.Finding `json:"findings"`
}

// Run implements the command.
func (c DoctorCmd) Run(w *world, g *Globals) error {
	ctx, cancel := context.WithTimeout(w.ctx, 4*g.Timeout)
	defer cancel()
	facts, err := c.gather(ctx, w, g)
	if err != nil {
		return err
	}
	r := report{Findings: doctor.Examine(facts, c.want(facts))}
	r.Worst = doctor.Worst(r.Findings)
	if g.JSON {
		err = cli.WriteJSON(w.stdout, r)
	} else {
		err = c.print(w.printer(), r)
	}
	if err == nil && r.Worst == doctor.Fail {
		return exitCode(1)
	}
	return err
}

// want is what sluiced says, and what was typed beside it.
func (c DoctorCmd) want(f doctor.Facts) doctor.Want {
	w := f.Want()
	w.Network = cmp.Or(c.Network, w.Network)
	w.CltvDelta, w.HoldExpiryDelta = cmp.Or(c.CltvDelta, w.CltvDelta), cmp.Or(c.HoldDelta, w.HoldExpiryDelta)
	w.MaxChannelSat, w.ConcurrentOpens = cmp.Or(ln.Sat(c.MaxChannel), w.MaxChannelSat), cmp.Or(c.Opens, w.ConcurrentOpens)
	return w
}

func (c DoctorCmd) gather(ctx context.Context, w *world, g *Globals) (doctor.Facts, error) {
	if c.Macaroon == "" {
		c.Macaroon = filepath.Join(g.DataDir, "lnd.macaroon")
	}
	target := cli.Target{
		Program: "lnd", Address: c.LND, AddressFlag: "--lnd", CertFlag: "--lnd-tls-cert", MacaroonFlag: "--lnd-macaroon",
		CertFile: c.Cert, MacaroonFile: c.Macaroon,
		MacaroonHint: `"sluiced macaroon" prints the command that bakes it`,
	}
	cfg := lnd.Config{Address: c.LND, TLSCertFile: c.Cert, MacaroonFile: c.Macaroon, CallTimeout: g.Timeout}
	main, err := lnd.Dial(cfg)
	if err != nil {
		return doctor.Facts{}, target.Explain(err)
	}
	defer func() { _ = main.Close() }()
	settings := main
	if c.Readonly != "" {
		cfg.MacaroonFile, target.MacaroonFile, target.MacaroonFlag = c.Readonly, c.Readonly, "--lnd-readonly-macaroon"
		target.MacaroonHint = "lnd keeps its own beside its chain data"
		if settings, err = lnd.Dial(cfg); err != nil {
			return doctor.Facts{}, target.Explain(err)
		}
		defer func() { _ = settings.Close() }()
	}
	macaroon, err := os.ReadFile(c.Macaroon)
	if err != nil {
		return doctor.Facts{}, target.Explain(err)
	}
	facts := doctor.Gather(ctx, doctor.Sources{
		Address: c.LND, Node: main, Peers: main, Wallet: main, Settings: settings, Macaroon: macaroon, MacaroonFile: c.Macaroon,
		Sluiced: func(ctx context.Context) (doctor.Sluiced, error) { return askSluiced(ctx, g) }, Now: w.now,
	})
	if facts.NoInfo != nil && !errors.Is(facts.NoInfo, ln.ErrPermission) {
		facts.NoInfo = target.Explain(facts.NoInfo)
	}
	return facts, nil
}

func askSluiced(ctx context.Context, g *Globals) (doctor.Sluiced, error) {
	var out doctor.Sluiced
	err := g.with(func(s *session) error {
		got, err := call(ctx, s, s.op.GetStatus, &lspv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		out = doctor.Sluiced{
			Accepting: got.GetAccepting(), StoppedReason: got.GetStoppedReason(), BlockHeight: got.GetBlockHeight(),
			FeeRateSatPerKW: ln.FeeRateSatPerKW(got.GetFeeRateEstimateSatPerKw()), FeeCeilingSatPerKW: ln.FeeRateSatPerKW(got.GetFeeRateCeilingSatPerKw()),
			FeeRateAge: time.Duration(got.GetFeeRateAgeMs()) * time.Millisecond, FeeRateStale: got.GetFeeRateStale(), NoOffers: got.GetMenuRefusal(), RestoredReason: got.GetRestoredReason(),
		}
		out.Swaps = served(ctx, s, swapsOf(s).GetStatus, &swapsv1.GetStatusRequest{})
		out.Joint = served(ctx, s, fundingsOf(s).FindFundings, &collabv1.FindFundingsRequest{Limit: 1})
		out.GatewayNodeKey, err = ln.PubKeyFromBytes(got.GetGatewayNodeKey())
		out.Settings = settingsOf(got)
		return err
	})
	return out, err
}

// served says whether sluiced has a service, whatever it answers: what is off is not
// registered.
func served[Req, Resp any](ctx context.Context, s *session, method func(context.Context, *Req, ...grpc.CallOption) (*Resp, error), req *Req) bool {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := method(ctx, req)
	return status.Code(err) != codes.Unimplemented
}

// settingsOf is how sluiced says that it is set; nil if it is too old to say.
func settingsOf(got *lspv1.GetStatusResponse) *doctor.Want {
	s := got.GetSettings()
	if s == nil {
		return nil
	}
	w := doctor.DefaultWant()
	w.Network, w.CltvDelta, w.HoldExpiryDelta, w.MaxChannelSat = s.GetNetwork(), s.GetCltvDelta(), s.GetHoldExpiryDelta(), ln.Sat(s.GetMaxChannelSat())
	w.ReservePerChannelSat, w.MinReserveSat, w.MaxReserveSat = ln.Sat(s.GetReservePerChannelSat()), ln.Sat(s.GetMinReserveSat()), ln.Sat(s.GetMaxReserveSat())
	w.KeepSat, w.MinCoinSat = ln.Sat(s.GetKeepSat()), ln.Sat(s.GetMinChannelSat())+doctor.FundingFeeSat
	if pool := got.GetCoinPool(); pool.GetWanted() > 0 {
		w.Cut, w.ConcurrentOpens, w.MinCoinSat = true, int(pool.GetWanted()), ln.Sat(pool.GetCoinSat())
	}
	return &w
}

// foundWidth is where sentences are broken in the table.
const foundWidth = 84

func (c DoctorCmd) print(p *cli.Printer, r report) error {
	counts := map[doctor.Level]int{}
	for _, f := range r.Findings {
		counts[f.Level]++
		if f.Level == doctor.OK && !c.All {
			continue
		}
		p.Printf("%-4s  %s\n      %s\n", strings.ToUpper(string(f.Level)), f.Title, cli.Wrap(cli.Stop(cli.Clean(f.Found)), foundWidth, 6))
		if f.Fix != "" {
			p.Printf("      %s\n", cli.Wrap("Fix: "+cli.Clean(f.Fix), foundWidth, 6))
		}
		for _, line := range f.Lines {
			p.Printf("          %s\n", cli.Clean(line))
		}
		p.Printf("\n")
	}
	p.Printf("%d ok, %d to know, %d to look at, %d to fix.", counts[doctor.OK], counts[doctor.Note], counts[doctor.Warn], counts[doctor.Fail])
	if !c.All && counts[doctor.OK] > 0 {
		p.Printf(" (--all shows what is well.)")
	}
	p.Printf("\n")
	return p.Err
}
