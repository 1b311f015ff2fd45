package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// TowersCmd is what the operator sees and sets of the watchtower.
type TowersCmd struct {
	Status   TowersStatusCmd   `cmd:"" help:"How the search of the chain stands, what is stored, and what was found."`
	List     TowersListCmd     `cmd:"" help:"Who registered, and what each stores."`
	Show     TowersShowCmd     `cmd:"" help:"One registration with its sessions."`
	Set      TowersSetCmd      `cmd:"" help:"Give a registration limits of its own, prolong it, or stop its uploads."`
	Sales    TowersSalesCmd    `cmd:"" help:"Credit that a registration bought, newest first."`
	Breaches TowersBreachesCmd `cmd:"" help:"Breaches that were found, newest first."`
	Breach   TowersBreachCmd   `cmd:"" help:"One breach with its story."`
}

func towerOf(s *session) towerv1.TowerOperatorServiceClient {
	return towerv1.NewTowerOperatorServiceClient(s.conn)
}

// TowersStatusCmd shows how the tower stands; exit code 1 when it does not search.
type TowersStatusCmd struct{}

// Run implements the command.
func (TowersStatusCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, towerOf(s).GetTowerStatus, &towerv1.GetTowerStatusRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		t := cli.NewTable("", "")
		t.Row("Search", searchText(got, w.now()))
		t.Row("Breaches open", fmt.Sprintf("%s, of which %s wait for their justice transaction to be in a block", count(got.GetOpenBreaches()), count(got.GetDueBreaches())))
		t.Row("Registrations", fmt.Sprintf("%s of %s", count(got.GetTenants()), count(got.GetMaxTenants())))
		t.Row("Stored", fmt.Sprintf("%s in %s updates of %s sessions; nobody new beyond %s", size(got.GetUsage().GetBytes()), count(got.GetUsage().GetUpdates()),
			count(got.GetUsage().GetSessions()), size(got.GetMaxBytes())))
		t.Row("Each may store", limitText(got.GetLimits()))
		if got.GetPriceMsat() > 0 || got.GetCreditMsat() != 0 || got.GetDrawnMsat() > 0 {
			t.Row("Price", fmt.Sprintf("%s for each update beyond %s; %s earned, %s paid and not used", cli.SignedMsatAsSat(got.GetPriceMsat()),
				count(got.GetLimits().GetFreeUpdates()), cli.SignedMsatAsSat(got.GetDrawnMsat()), cli.SignedMsatAsSat(got.GetCreditMsat())))
		}
		t.Row("Clients connected", count(got.GetConnections()))
		t.Row("Reached at", strings.Join(got.GetAddresses(), ", "))
		p := w.printer()
		p.Table(t)
		if len(got.GetBreaches()) > 0 {
			p.Printf("\n")
			t := cli.NewTable("BREACHES", ">NUMBER", ">FOR VICTIMS")
			for _, b := range got.GetBreaches() {
				t.Row(b.GetState(), count(b.GetBreaches()), cli.Sat(uint64(max(0, b.GetSweptSat())))) //nolint:gosec // not negative
			}
			p.Table(t)
		}
		return p.Err
	})
}

func limitText(l *towerv1.TowerLimits) string {
	return fmt.Sprintf("%s sessions, %s updates, %s", count(l.GetSessions()), count(l.GetUpdates()), size(l.GetBytes()))
}

func searchText(got *towerv1.GetTowerStatusResponse, now time.Time) string {
	switch {
	case !got.GetSearching():
		return "another sluiced searches"
	case got.GetProblem() != "":
		return fmt.Sprintf("STUCK after block %d: %s", got.GetTipHeight(), got.GetProblem())
	case got.GetTipHeight() < got.GetBestHeight():
		return fmt.Sprintf("block %d of %d: catching up", got.GetTipHeight(), got.GetBestHeight())
	}
	return fmt.Sprintf("block %d, the chain's last; asked %s", got.GetTipHeight(), cli.Ago(got.GetSyncedMs(), now))
}

func standing(s towerv1.Standing) string {
	text := strings.ToLower(strings.TrimPrefix(s.String(), "STANDING_"))
	if s == towerv1.Standing_STANDING_SUSPENDED || s == towerv1.Standing_STANDING_EXPIRED {
		return strings.ToUpper(text)
	}
	return text
}

// TowersListCmd lists registrations.
type TowersListCmd struct {
	After string `placeholder:"IDENTITY" help:"Go on after this one."`
	Limit int32  `default:"100" help:"At most so many (${default})."`
}

// Run implements the command.
func (c TowersListCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, towerOf(s).ListTenants, &towerv1.ListTenantsRequest{After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetTenants()) == 0 {
			p.Printf("Nobody is registered.\n")
			return p.Err
		}
		t := cli.NewTable("IDENTITY", "STANDING", ">SESSIONS", ">UPDATES", ">STORED", ">CREDIT", "UNTIL")
		for _, r := range got.GetTenants() {
			t.Row(r.GetIdentity(), standing(r.GetStanding()), count(r.GetUsage().GetSessions()), count(r.GetUsage().GetUpdates()),
				size(r.GetUsage().GetBytes()), cli.SignedMsatAsSat(r.GetCreditMsat()), cli.Time(r.GetExpiresMs()))
		}
		p.Table(t)
		return p.Err
	})
}

// TowersShowCmd shows one registration.
type TowersShowCmd struct {
	Identity string `arg:"" help:"As the list shows it, e.g. node:02…"`
}

// Run implements the command.
func (c TowersShowCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, towerOf(s).ShowTenant, &towerv1.ShowTenantRequest{Identity: c.Identity})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		return printTenant(w, got.GetTenant(), got.GetSessions())
	})
}

func printTenant(w *world, r *towerv1.Tenant, sessions []*towerv1.TowerSession) error {
	t := cli.NewTable("", "")
	t.Row("Identity", r.GetIdentity())
	t.Row("Standing", standing(r.GetStanding())+" "+r.GetReason())
	t.Row("Registered", cli.Time(r.GetCreatedMs()))
	t.Row("Until", cli.Time(r.GetExpiresMs()))
	t.Row("Stores", fmt.Sprintf("%s in %s updates of %s sessions", size(r.GetUsage().GetBytes()), count(r.GetUsage().GetUpdates()), count(r.GetUsage().GetSessions())))
	own := func(n int64, show func(int64) string) string {
		if n == 0 {
			return "the tower's"
		}
		return show(n)
	}
	l := r.GetOwnLimits()
	t.Row("Limits", fmt.Sprintf("sessions %s, updates %s, bytes %s, free updates %s", own(l.GetSessions(), count), own(l.GetUpdates(), count),
		own(l.GetBytes(), size), own(l.GetFreeUpdates(), count)))
	if r.GetCreditMsat() != 0 || r.GetDrawnMsat() != 0 {
		t.Row("Credit", fmt.Sprintf("%s; its updates have cost %s so far", cli.SignedMsatAsSat(r.GetCreditMsat()), cli.SignedMsatAsSat(r.GetDrawnMsat())))
	}
	p := w.printer()
	p.Table(t)
	if len(sessions) > 0 {
		p.Printf("\n")
		t = cli.NewTable("SESSION", "CHANNELS", ">APPLIED", ">OF", ">HELD", ">STORED", ">SAT/KW", "LAST UPDATE")
		for _, s := range sessions {
			t.Row(cli.ShortHex(s.GetSessionId()), s.GetBlobType(), cli.Group(uint64(s.GetLastApplied())), cli.Group(uint64(s.GetMaxUpdates())),
				count(s.GetUsage().GetUpdates()), size(s.GetUsage().GetBytes()), cli.Group(s.GetSweepFeeSatPerKw()), cli.Ago(s.GetUpdatedMs(), w.now()))
		}
		p.Table(t)
	}
	return p.Err
}

// TowersSetCmd sets a registration.
type TowersSetCmd struct {
	Identity string           `arg:"" help:"As the list shows it, e.g. node:02…"`
	Sessions *int64           `placeholder:"N" help:"Sessions that it may have; 0 is the tower's limit again, here and below."`
	Updates  *int64           `placeholder:"N" help:"Updates that are held for it."`
	Bytes    *config.ByteSize `placeholder:"SIZE" help:"What they may take, e.g. 1GiB."`
	Free     *int64           `name:"free-updates" placeholder:"N" help:"Updates that are held for it without a price, where there is one."`
	For      *config.Duration `placeholder:"TIME" help:"Let the registration end so long from now, e.g. 365d."`
	Suspend  string           `placeholder:"REASON" help:"Stop its uploads, and say why. What is stored is watched."`
	Admit    bool             `help:"Admit its uploads again."`
}

// Run implements the command.
func (c TowersSetCmd) Run(w *world, g *Globals) error {
	if c.Suspend != "" && c.Admit {
		return cli.Usagef("either --suspend or --admit")
	}
	return g.with(func(s *session) error {
		// What is not named stays as it is.
		now, err := call(w.ctx, s, towerOf(s).ShowTenant, &towerv1.ShowTenantRequest{Identity: c.Identity})
		if err != nil {
			return err
		}
		r := now.GetTenant()
		req := &towerv1.SetTenantRequest{
			Identity: c.Identity, OwnLimits: r.GetOwnLimits(), Suspended: r.GetStanding() == towerv1.Standing_STANDING_SUSPENDED, Reason: r.GetReason(), ExpiresMs: r.GetExpiresMs(),
		}
		if req.OwnLimits == nil {
			req.OwnLimits = &towerv1.TowerLimits{}
		}
		if c.Sessions != nil {
			req.OwnLimits.Sessions = *c.Sessions
		}
		if c.Updates != nil {
			req.OwnLimits.Updates = *c.Updates
		}
		if c.Bytes != nil {
			req.OwnLimits.Bytes = int64(*c.Bytes)
		}
		if c.Free != nil {
			req.OwnLimits.FreeUpdates = *c.Free
		}
		if c.For != nil {
			req.ExpiresMs = w.now().Add(c.For.Std()).UnixMilli()
		}
		if c.Suspend != "" {
			req.Suspended, req.Reason = true, c.Suspend
		}
		if c.Admit {
			req.Suspended, req.Reason = false, ""
		}
		got, err := call(w.ctx, s, towerOf(s).SetTenant, req)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		return printTenant(w, got.GetTenant(), nil)
	})
}

// TowersSalesCmd lists purchases of credit.
type TowersSalesCmd struct {
	Identity string `arg:"" help:"As the list shows it, e.g. node:02…"`
	Limit    int32  `default:"50" help:"At most so many (${default})."`
}

// Run implements the command.
func (c TowersSalesCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, towerOf(s).ListTenantPurchases, &towerv1.ListTenantPurchasesRequest{Identity: c.Identity, Limit: c.Limit})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetPurchases()) == 0 {
			p.Printf("It bought no credit.\n")
			return p.Err
		}
		t := cli.NewTable("PURCHASE", "STATE", ">ASKED", ">CREDITED", "CREATED", "CHANGED", "")
		for _, b := range got.GetPurchases() {
			t.Row(cli.ShortHex(b.GetPaymentHash()), b.GetState(), cli.SignedMsatAsSat(b.GetAmountMsat()), cli.SignedMsatAsSat(b.GetPaidMsat()),
				cli.Time(b.GetCreatedMs()), cli.Ago(b.GetChangedMs(), w.now()), cli.Clean(b.GetReason()))
		}
		p.Table(t)
		return p.Err
	})
}

// TowersBreachesCmd lists breaches.
type TowersBreachesCmd struct {
	Limit int32 `default:"50" help:"At most so many (${default})."`
}

// Run implements the command.
func (c TowersBreachesCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, towerOf(s).ListAllBreaches, &towerv1.ListAllBreachesRequest{Limit: c.Limit})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetBreaches()) == 0 {
			p.Printf("No breach was found so far.\n")
			return p.Err
		}
		t := cli.NewTable("BREACH", "VICTIM", "STATE", ">FOR THE VICTIM", ">FEE", "FOUND", "")
		for _, b := range got.GetBreaches() {
			t.Row(b.GetId(), fmt.Sprintf("%.13s", b.GetIdentity()), b.GetState(), cli.Sat(uint64(max(0, b.GetSweptSat()))), //nolint:gosec // not negative
				cli.Sat(uint64(max(0, b.GetFeeSat()))), cli.Ago(b.GetFoundMs(), w.now()), cli.Clean(b.GetProblem())) //nolint:gosec // not negative
		}
		p.Table(t)
		return p.Err
	})
}

// TowersBreachCmd shows one breach.
type TowersBreachCmd struct {
	ID string `arg:"" name:"breach" help:"As the list shows it."`
}

// Run implements the command.
func (c TowersBreachCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, towerOf(s).ShowAnyBreach, &towerv1.ShowAnyBreachRequest{Id: c.ID})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		b := got.GetBreach()
		t := cli.NewTable("", "")
		t.Row("Victim", b.GetIdentity())
		t.Row("State", b.GetState())
		t.Row("Commitment", fmt.Sprintf("%s, block %d", b.GetCommitmentTxid(), b.GetCommitmentHeight()))
		t.Row("Justice", fmt.Sprintf("%s: %s for the victim, %s fee", b.GetJusticeTxid(), cli.Sat(uint64(max(0, b.GetSweptSat()))), cli.Sat(uint64(max(0, b.GetFeeSat()))))) //nolint:gosec // not negative
		if b.GetSpendTxid() != "" {
			t.Row("Taken by", fmt.Sprintf("%s, block %d", b.GetSpendTxid(), b.GetSpendHeight()))
		}
		p := w.printer()
		p.Table(t)
		p.Printf("\n")
		t = cli.NewTable("WHEN", "WHAT")
		for _, l := range got.GetStory() {
			t.Row(cli.Time(l.GetAtMs()), cli.Clean(l.GetText()))
		}
		p.Table(t)
		return p.Err
	})
}
