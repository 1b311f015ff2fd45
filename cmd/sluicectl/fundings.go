package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
)

func fundingsOf(s *session) collabv1.JointFundingOperatorServiceClient {
	return collabv1.NewJointFundingOperatorServiceClient(s.conn)
}

// FundingsCmd lists channels that wallets fund together with the gateway.
type FundingsCmd struct {
	Page
	Client string `placeholder:"KEY" help:"Only those of the wallet with this node key (66 hex digits)."`
}

// Run implements the command.
func (c FundingsCmd) Run(w *world, g *Globals) error {
	req := &collabv1.FindFundingsRequest{Limit: c.Limit, BeforeId: c.Before, OpenOnly: c.Open}
	if c.Client != "" {
		key, err := keyArg("--client", c.Client)
		if err != nil {
			return err
		}
		req.ClientNodeKey = key[:]
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, fundingsOf(s).FindFundings, req)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetFundings()) == 0 {
			p.Printf("No joint fundings match.\n")
			return p.Err
		}
		t := cli.NewTable("FUNDING", "CLIENT", ">CAPACITY", ">OURS", ">THEIRS", ">FEE", "STATE", "UPDATED", "WHY")
		for _, x := range got.GetFundings() {
			t.Row(x.GetFundingId(), cli.ShortHex(x.GetClientNodeKey()), cli.Sat(x.GetCapacitySat()), cli.Sat(x.GetInboundSat()), cli.Sat(x.GetWalletSat()),
				cli.Sat(x.GetServiceFeeSat()), cli.Words(x.GetState())+over(x.GetTerminal()), cli.Ago(x.GetUpdatedMs(), w.now()), cli.Clean(x.GetReason()))
		}
		p.Table(t)
		c.more(p, len(got.GetFundings()), got.GetFundings()[len(got.GetFundings())-1].GetFundingId())
		return p.Err
	})
}

// FundingCmd shows one joint funding, or ends it.
type FundingCmd struct {
	ID  string `arg:"" name:"id" help:"The funding's id."`
	End bool   `help:"End it, if no signature of the gateway's has left yet: its coins are free again."`
}

// Run implements the command.
func (c FundingCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		if c.End {
			if _, err := call(w.ctx, s, fundingsOf(s).EndFunding, &collabv1.EndFundingRequest{FundingId: c.ID}); err != nil {
				return err
			}
		}
		got, err := call(w.ctx, s, fundingsOf(s).ShowFunding, &collabv1.ShowFundingRequest{FundingId: c.ID})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		p.Table(fundingFacts(got.GetFunding(), w.now()))
		if len(got.GetStory()) > 0 {
			p.Printf("\n")
			t := cli.NewTable("TIME (UTC)", "EVENT", "STATE", "ASKED FOR")
			for _, x := range got.GetStory() {
				change := cli.Words(x.GetTo())
				if x.GetFrom() != x.GetTo() {
					change = cli.Words(x.GetFrom()) + " -> " + change
				}
				t.Row(cli.Time(x.GetAtMs()), cli.Words(x.GetEvent()), change, cli.Clean(strings.Join(x.GetEffects(), ", ")))
			}
			p.Table(t)
		}
		return p.Err
	})
}

// SpendCmd shows or sets what a wallet may spend before its channel is buried.
type SpendCmd struct {
	Key string  `arg:"" name:"node-key" help:"The wallet's node key (66 hex digits)."`
	Sat *uint64 `arg:"" name:"sat" optional:"" help:"Set it: what the gateway loses at most if this wallet takes its own coins back after spending. 0 is nothing, as for everybody at first. It holds for fundings from now on, and forgives what was lost before."`
}

// Run implements the command.
func (c SpendCmd) Run(w *world, g *Globals) error {
	key, err := keyArg("node-key", c.Key)
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		var limit *collabv1.SpendLimit
		if c.Sat != nil {
			got, err := call(w.ctx, s, fundingsOf(s).SetSpendLimit, &collabv1.SetSpendLimitRequest{ClientNodeKey: key[:], LimitSat: *c.Sat})
			if err != nil {
				return err
			}
			limit = got.GetLimit()
		} else {
			got, err := call(w.ctx, s, fundingsOf(s).GetSpendLimit, &collabv1.GetSpendLimitRequest{ClientNodeKey: key[:]})
			if err != nil {
				return err
			}
			limit = got.GetLimit()
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, limit)
		}
		p := w.printer()
		t := cli.NewTable("", "")
		t.Row("Client", cli.Hex(limit.GetClientNodeKey()))
		t.Row("May spend before its channels are buried", cli.Sat(limit.GetLimitSat()))
		t.Row("Of that in use, or lost since it was set", cli.Sat(limit.GetUsedSat()))
		p.Table(t)
		return p.Err
	})
}

func fundingFacts(x *collabv1.Funding, now time.Time) *cli.Table {
	t := cli.NewTable("", "")
	t.Row("Funding", x.GetFundingId())
	t.Row("Client", cli.Hex(x.GetClientNodeKey()))
	t.Row("State", cli.Words(x.GetState())+over(x.GetTerminal()))
	if x.GetReason() != "" {
		t.Row("Why", cli.Clean(x.GetReason()))
	}
	t.Row("Capacity", fmt.Sprintf("%s: %s ours, %s the wallet's", cli.Sat(x.GetCapacitySat()), cli.Sat(x.GetInboundSat()), cli.Sat(x.GetWalletSat())))
	t.Row("Fee", cli.Sat(x.GetServiceFeeSat()))
	if x.GetWalletChainFeeSat()+x.GetGatewayChainFeeSat() > 0 {
		t.Row("Chain fee", fmt.Sprintf("%s ours, %s the wallet's, at %s sat/kw", cli.Sat(x.GetGatewayChainFeeSat()), cli.Sat(x.GetWalletChainFeeSat()), cli.Group(x.GetFeeRateSatPerKw())))
		t.Row("Wallet's change", cli.Sat(x.GetWalletChangeSat()))
	}
	kind := "anchors"
	if x.GetTaproot() {
		kind = "simple taproot"
	}
	if x.GetZeroConf() {
		kind += ", used before it confirms"
	}
	t.Row("Channel", strings.TrimSpace(kind+" "+x.GetChannel()))
	if x.GetSpendSat() > 0 {
		t.Row("May be spent before it is buried", cli.Sat(x.GetSpendSat()))
	}
	switch {
	case x.GetConfirmedHeight() > 0:
		t.Row("Confirmed", "block "+cli.Group(uint64(x.GetConfirmedHeight())))
	case !x.GetTerminal() && x.GetSignByMs() > 0:
		t.Row("To be signed by", cli.Time(x.GetSignByMs())+" UTC")
	}
	t.Row("Asked for", cli.Time(x.GetCreatedMs())+" UTC, "+cli.Ago(x.GetCreatedMs(), now))
	t.Row("Updated", cli.Time(x.GetUpdatedMs())+" UTC, "+cli.Ago(x.GetUpdatedMs(), now))
	return t
}
