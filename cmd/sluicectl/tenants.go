package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// TenantCmd is what the operator sees and sets of tenants.
type TenantCmd struct {
	List      TenantListCmd      `cmd:"" help:"Who is registered, and how each stands."`
	Show      TenantShowCmd      `cmd:"" help:"One tenant with its nodes, users, services and macaroons."`
	Key       TenantKeyCmd       `cmd:"" help:"Print the operator's key to which tenants encrypt their bundles; made at the first time."`
	Add       TenantAddCmd       `cmd:"" help:"Onboard a tenant with a signer: check it, then make and verify its watch-only node."`
	Supervise TenantSuperviseCmd `cmd:"" help:"Keep the hosted nodes of this machine running, watch their signers, and drain on request."`
	Replica   TenantReplicaCmd   `cmd:"" help:"Have a hosted node's database followed by its tenant, which can then do without this gateway."`
	Drain     TenantDrainCmd     `cmd:"" help:"Have a hosted node stop safely: no new HTLCs, then down."`
	Register  TenantRegisterCmd  `cmd:"" help:"Register a tenant. It gets no service until it has a node and is active."`
	Status    TenantStatusCmd    `cmd:"" help:"Activate, suspend or close a tenant; this takes effect at once."`
	Move      TenantMoveCmd      `cmd:"" help:"Put a tenant under another plan."`
	NodeLogin TenantNodeLoginCmd `cmd:"" help:"Let a tenant's nodes log in with their own keys, or not."`
	Service   TenantServiceCmd   `cmd:"" help:"Accept or decline a service in a tenant's name."`
	AddNode   TenantAddNodeCmd   `cmd:"" help:"Add a node that signed whose it is."`
	DropNode  TenantDropNodeCmd  `cmd:"" help:"Take a node from a tenant, with its claim and the macaroons that act for it."`
	User      TenantUserCmd      `cmd:"" help:"Add a user below a tenant, change its role, or remove it with its macaroons."`
	Issue     TenantIssueCmd     `cmd:"" help:"Make a macaroon for a tenant's user."`
	Revoke    TenantRevokeCmd    `cmd:"" help:"End a macaroon, at once."`
	Plans     TenantPlansCmd     `cmd:"" help:"The plans: services and quotas."`
	SetPlan   TenantSetPlanCmd   `cmd:"" help:"Make a plan, or change it for all that are under it."`
	Audit     TenantAuditCmd     `cmd:"" help:"What was changed about tenants, by whom, newest first."`
	Verify    TenantVerifyCmd    `cmd:"" help:"Check the chain of the log of changes; exit code 1 when it was tampered with."`
}

func tenantsOf(s *session) tenantv1.TenantOperatorServiceClient {
	return tenantv1.NewTenantOperatorServiceClient(s.conn)
}

// word is an enum as people write it.
func word(s fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), prefix))
}

func statusWord(s tenantv1.TenantStatus) string {
	text := word(s, "TENANT_STATUS_")
	if s == tenantv1.TenantStatus_TENANT_STATUS_SUSPENDED || s == tenantv1.TenantStatus_TENANT_STATUS_CLOSED {
		return strings.ToUpper(text)
	}
	return text
}

func roleOf(text string) tenantv1.UserRole {
	return tenantv1.UserRole(tenantv1.UserRole_value["USER_ROLE_"+strings.ToUpper(text)])
}

// TenantListCmd lists tenants.
type TenantListCmd struct {
	After string `placeholder:"NAME" help:"Go on after this one."`
	Limit int32  `default:"100" help:"At most so many (${default})."`
}

// Run implements the command.
func (c TenantListCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).ListTenants, &tenantv1.ListTenantsRequest{After: c.After, Limit: c.Limit})
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
		t := cli.NewTable("TENANT", "STANDING", "KEYS", "PLAN", ">NODES", ">USERS", ">MACAROONS", "CHANGED")
		for _, r := range got.GetTenants() {
			t.Row(r.GetTenant(), statusWord(r.GetStatus()), word(r.GetKind(), "TENANT_KIND_"), r.GetPlan(), count(int64(len(r.GetNodes()))),
				count(int64(len(r.GetUsers()))), count(int64(len(r.GetMacaroons()))), cli.Ago(r.GetChangedMs(), w.now()))
		}
		p.Table(t)
		return p.Err
	})
}

// TenantShowCmd shows one tenant.
type TenantShowCmd struct {
	Tenant string `arg:"" help:"Its name."`
}

// Run implements the command.
func (c TenantShowCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).ShowTenant, &tenantv1.ShowTenantRequest{Tenant: c.Tenant})
		return showAnswer(w, g, got, err)
	})
}

// showAnswer shows the tenant of an answer, if there is one.
func showAnswer(w *world, g *Globals, got interface{ GetTenant() *tenantv1.Tenant }, err error) error {
	if err != nil {
		return err
	}
	return showTenant(w, g, got.GetTenant())
}

func showTenant(w *world, g *Globals, r *tenantv1.Tenant) error {
	if g.JSON {
		return cli.WriteJSON(w.stdout, r)
	}
	t := cli.NewTable("", "")
	t.Row("Tenant", r.GetTenant())
	t.Row("Standing", strings.TrimSpace(statusWord(r.GetStatus())+" "+cli.Clean(r.GetReason())))
	t.Row("Keys", word(r.GetKind(), "TENANT_KIND_"))
	t.Row("Plan", r.GetPlan())
	login := "refused: only macaroons of the tenant open something"
	if r.GetNodeLogin() {
		login = "allowed"
	}
	t.Row("Login by a node's key", login)
	var taken, declined []string
	for _, x := range r.GetServices() {
		if x.GetAccepted() {
			taken = append(taken, x.GetService())
		} else {
			declined = append(declined, x.GetService())
		}
	}
	t.Row("Services", strings.Join(taken, ", "))
	if len(declined) > 0 {
		t.Row("Declined", strings.Join(declined, ", "))
	}
	t.Row("Registered", cli.Time(r.GetCreatedMs()))
	for _, row := range hostingRows(r, w.now()) {
		t.Row(row[0], cli.Clean(row[1]))
	}
	p := w.printer()
	p.Table(t)
	table := func(head []string, rows [][]string) {
		if len(rows) == 0 {
			return
		}
		p.Printf("\n")
		t := cli.NewTable(head...)
		for _, r := range rows {
			t.Row(r...)
		}
		p.Table(t)
	}
	var rows [][]string
	for _, n := range r.GetNodes() {
		rows = append(rows, []string{cli.Hex(n.GetNodeKey()), cli.Time(n.GetAddedMs())})
	}
	table([]string{"NODE", "ADDED"}, rows)
	rows = nil
	for _, c := range r.GetClaims() {
		rows = append(rows, []string{cli.ShortHex(c.GetNodeKey()), cli.Clean(c.GetPlace()), cli.Time(c.GetSinceMs())})
	}
	table([]string{"KEY", "IS FOR THE NODE AT", "SINCE"}, rows)
	rows = nil
	for _, u := range r.GetUsers() {
		rows = append(rows, []string{u.GetName(), word(u.GetRole(), "USER_ROLE_"), cli.Time(u.GetAddedMs())})
	}
	table([]string{"USER", "ROLE", "ADDED"}, rows)
	rows = nil
	for _, m := range r.GetMacaroons() {
		node := "none"
		if len(m.GetNodeKey()) > 0 {
			node = cli.ShortHex(m.GetNodeKey())
		}
		rows = append(rows, []string{m.GetMacaroonId(), m.GetUser(), node, strings.Join(m.GetServices(), ","), cli.Time(m.GetExpiresMs())})
	}
	table([]string{"MACAROON", "USER", "ACTS FOR", "SERVICES", "UNTIL"}, rows)
	return p.Err
}

// TenantRegisterCmd registers a tenant.
type TenantRegisterCmd struct {
	Tenant string `arg:"" help:"Its name: lower-case letters, digits and hyphens. It is never given again."`
	Kind   string `required:"" enum:"hosted,own,self_hosted" help:"Where its node and keys are: hosted (watch-only here, signer there), own (the operator's), self_hosted."`
	Plan   string `default:"standard" help:"Its plan (${default})."`
}

// Run implements the command.
func (c TenantRegisterCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).RegisterTenant, &tenantv1.RegisterTenantRequest{
			Tenant: c.Tenant, Kind: tenantv1.TenantKind(tenantv1.TenantKind_value["TENANT_KIND_"+strings.ToUpper(c.Kind)]), Plan: c.Plan,
		})
		return showAnswer(w, g, got, err)
	})
}

// TenantStatusCmd changes how a tenant stands.
type TenantStatusCmd struct {
	Tenant string `arg:"" help:"Its name."`
	Status string `arg:"" enum:"active,suspended,closed" help:"active, suspended or closed (for good)."`
	Reason string `placeholder:"TEXT" help:"Why; the tenant reads it."`
}

// Run implements the command.
func (c TenantStatusCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).SetTenantStatus, &tenantv1.SetTenantStatusRequest{
			Tenant: c.Tenant, Status: tenantv1.TenantStatus(tenantv1.TenantStatus_value["TENANT_STATUS_"+strings.ToUpper(c.Status)]), Reason: c.Reason,
		})
		return showAnswer(w, g, got, err)
	})
}

// TenantMoveCmd changes a tenant's plan.
type TenantMoveCmd struct {
	Tenant string `arg:"" help:"Its name."`
	Plan   string `arg:"" help:"The plan."`
}

// Run implements the command.
func (c TenantMoveCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).SetTenantPlan, &tenantv1.SetTenantPlanRequest{Tenant: c.Tenant, Plan: c.Plan})
		return showAnswer(w, g, got, err)
	})
}

// yesOrNo is a choice that has to be made.
type yesOrNo struct {
	Accept  bool `xor:"choice" required:"" help:"Accept it."`
	Decline bool `xor:"choice" required:"" help:"Decline it."`
}

// TenantNodeLoginCmd changes what nodes' own keys open.
type TenantNodeLoginCmd struct {
	Tenant string `arg:"" help:"Its name."`
	Allow  bool   `xor:"choice" required:"" help:"Let them."`
	Refuse bool   `xor:"choice" required:"" help:"Refuse them: only macaroons of the tenant open something."`
}

// Run implements the command.
func (c TenantNodeLoginCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).SetNodeLogin, &tenantv1.SetNodeLoginRequest{Tenant: c.Tenant, Allowed: c.Allow})
		return showAnswer(w, g, got, err)
	})
}

// TenantServiceCmd accepts or declines a service.
type TenantServiceCmd struct {
	Tenant  string `arg:"" help:"Its name."`
	Service string `arg:"" help:"The service's word, as its plan has it."`
	yesOrNo
}

// Run implements the command.
func (c TenantServiceCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).SetTenantService, &tenantv1.SetTenantServiceRequest{Tenant: c.Tenant, Service: c.Service, Accepted: c.Accept})
		return showAnswer(w, g, got, err)
	})
}

// TenantAddNodeCmd adds a node.
type TenantAddNodeCmd struct {
	Tenant    string `arg:"" help:"Its name."`
	Key       string `arg:"" name:"node-key" help:"The node's key (66 hex digits)."`
	Signature string `placeholder:"TEXT" help:"What lncli signmessage gave on that node; without it the text to sign is printed."`
}

// Run implements the command.
func (c TenantAddNodeCmd) Run(w *world, g *Globals) error {
	key, err := keyArg("node-key", c.Key)
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).AddTenantNode, &tenantv1.AddTenantNodeRequest{Tenant: c.Tenant, NodeKey: key[:], Signature: c.Signature})
		return showAnswer(w, g, got, err)
	})
}

// TenantDropNodeCmd removes a node.
type TenantDropNodeCmd struct {
	Tenant string `arg:"" help:"Its name."`
	Key    string `arg:"" name:"node-key" help:"The node's key (66 hex digits)."`
}

// Run implements the command.
func (c TenantDropNodeCmd) Run(w *world, g *Globals) error {
	key, err := keyArg("node-key", c.Key)
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).RemoveTenantNode, &tenantv1.RemoveTenantNodeRequest{Tenant: c.Tenant, NodeKey: key[:]})
		return showAnswer(w, g, got, err)
	})
}

// TenantUserCmd sets a user.
type TenantUserCmd struct {
	Tenant string `arg:"" help:"Its name."`
	User   string `arg:"" help:"The user's name."`
	Role   string `enum:",admin,member,viewer" default:"" placeholder:"ROLE" help:"admin, member or viewer."`
	Remove bool   `help:"Remove it, with its macaroons."`
}

// Run implements the command.
func (c TenantUserCmd) Run(w *world, g *Globals) error {
	if c.Remove == (c.Role != "") {
		return cli.Usagef("either --role or --remove")
	}
	return g.with(func(s *session) error {
		if c.Remove {
			got, err := call(w.ctx, s, tenantsOf(s).RemoveTenantUser, &tenantv1.RemoveTenantUserRequest{Tenant: c.Tenant, Name: c.User})
			return showAnswer(w, g, got, err)
		}
		got, err := call(w.ctx, s, tenantsOf(s).SetTenantUser, &tenantv1.SetTenantUserRequest{Tenant: c.Tenant, Name: c.User, Role: roleOf(c.Role)})
		return showAnswer(w, g, got, err)
	})
}

// TenantIssueCmd makes a macaroon.
type TenantIssueCmd struct {
	Tenant   string          `arg:"" help:"Its name."`
	User     string          `arg:"" help:"Whose it is."`
	Out      string          `required:"" type:"path" placeholder:"FILE" help:"Where to write it. It is shown this once."`
	Node     string          `placeholder:"KEY" help:"The node that it acts for at services of nodes (66 hex digits); none without."`
	Services []string        `placeholder:"WORDS" help:"What it is good for: all of the plan without. The word tenant is the registration itself."`
	For      config.Duration `default:"365d" help:"How long it lasts (${default})."`
	Instead  string          `placeholder:"ID" help:"The macaroon that it replaces."`
}

// Run implements the command.
func (c TenantIssueCmd) Run(w *world, g *Globals) error {
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("%s is there already: name another file with --out", c.Out)
	}
	req := &tenantv1.IssueTenantMacaroonRequest{Tenant: c.Tenant, User: c.User, Services: c.Services, Instead: c.Instead}
	var err error
	if req.NodeKey, err = optionalKey(c.Node); err != nil {
		return err
	}
	if req.Days, err = wholeDays(c.For); err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).IssueTenantMacaroon, req)
		if err != nil {
			return err
		}
		return keepMacaroon(w, g, c.Out, got)
	})
}

func optionalKey(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	key, err := keyArg("--node", text)
	return key[:], err
}

func wholeDays(d config.Duration) (uint32, error) {
	days := d.Std() / (24 * time.Hour)
	if days < 1 || days > 100_000 {
		return 0, cli.Usagef("a macaroon lasts for whole days, one at least: name them like --for 90d")
	}
	return uint32(days), nil
}

// issued is what all calls that make a macaroon give.
type issued interface {
	GetMacaroon() string
	GetMacaroonId() string
	GetExpiresMs() int64
}

// keepMacaroon writes a new macaroon to its file, and never to the screen.
func keepMacaroon(w *world, g *Globals, file string, got issued) error {
	if err := auth.WriteMacaroonFile(file, got.GetMacaroon()); err != nil {
		return fmt.Errorf("the macaroon %s was made and could not be written, so that it is lost: revoke it, and have another made: %w", got.GetMacaroonId(), err)
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]any{"file": file, "macaroon_id": got.GetMacaroonId(), "expires_ms": got.GetExpiresMs()})
	}
	p := w.printer()
	p.Printf("Macaroon %s is in %s, good until %s.\n", got.GetMacaroonId(), file, cli.Time(got.GetExpiresMs()))
	return p.Err
}

// TenantRevokeCmd ends a macaroon.
type TenantRevokeCmd struct {
	Tenant string `arg:"" help:"Its name."`
	ID     string `arg:"" name:"macaroon" help:"The macaroon's id, as show lists it."`
}

// Run implements the command.
func (c TenantRevokeCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).RevokeTenantMacaroon, &tenantv1.RevokeTenantMacaroonRequest{Tenant: c.Tenant, MacaroonId: c.ID})
		return showAnswer(w, g, got, err)
	})
}

// TenantPlansCmd lists plans.
type TenantPlansCmd struct{}

// Run implements the command.
func (TenantPlansCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).ListPlans, &tenantv1.ListPlansRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		t := cli.NewTable("PLAN", ">NODES", ">USERS", ">MACAROONS", "SERVICES")
		for _, p := range got.GetPlans() {
			t.Row(p.GetName(), count(int64(p.GetNodes())), count(int64(p.GetUsers())), count(int64(p.GetMacaroons())), strings.Join(p.GetServices(), ","))
		}
		p := w.printer()
		p.Table(t)
		return p.Err
	})
}

// TenantSetPlanCmd sets a plan.
type TenantSetPlanCmd struct {
	Plan      string   `arg:"" help:"Its name."`
	Services  []string `required:"" placeholder:"WORDS" help:"What it offers: lsp, backups, watchtower, lws, swaps."`
	Nodes     uint32   `default:"1" help:"Nodes that each tenant may have (${default})."`
	Users     uint32   `default:"20" help:"Users (${default})."`
	Macaroons uint32   `default:"50" help:"Macaroons (${default})."`
}

// Run implements the command.
func (c TenantSetPlanCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, tenantsOf(s).SetPlan, &tenantv1.SetPlanRequest{Plan: &tenantv1.Plan{
			Name: c.Plan, Services: c.Services, Nodes: c.Nodes, Users: c.Users, Macaroons: c.Macaroons,
		}}); err != nil {
			return err
		}
		return TenantPlansCmd{}.Run(w, g)
	})
}

// TenantAuditCmd lists the log.
type TenantAuditCmd struct {
	Tenant string `placeholder:"NAME" help:"About this tenant only."`
	Before int64  `placeholder:"NUMBER" help:"Entries before this one."`
	Limit  int32  `default:"50" help:"At most so many (${default})."`
}

// Run implements the command.
func (c TenantAuditCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).ListAudit, &tenantv1.ListAuditRequest{Tenant: c.Tenant, BeforeSeq: c.Before, Limit: c.Limit})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		return printAudit(w, got.GetEntries())
	})
}

func printAudit(w *world, entries []*tenantv1.AuditEntry) error {
	t := cli.NewTable(">ENTRY", "WHEN", "WHO", "TENANT", "WHAT", "")
	for _, e := range entries {
		t.Row(count(e.GetSeq()), cli.Time(e.GetAtMs()), cli.Clean(e.GetActor()), cli.Clean(e.GetTenant()), cli.Clean(e.GetAction()), cli.Clean(e.GetDetail()))
	}
	p := w.printer()
	p.Table(t)
	return p.Err
}

// TenantVerifyCmd checks the log.
type TenantVerifyCmd struct{}

// Run implements the command.
func (TenantVerifyCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).VerifyAudit, &tenantv1.VerifyAuditRequest{})
		if err != nil {
			return err
		}
		p := w.printer()
		switch {
		case g.JSON:
			if err := cli.WriteJSON(w.stdout, got); err != nil {
				return err
			}
		case len(got.GetProblems()) == 0:
			p.Printf("The log is whole: %s entries, %s noted ends fit. Its end is %s.\n", count(got.GetEntries()), count(got.GetAnchors()), hex.EncodeToString(got.GetHead()))
		default:
			for _, problem := range got.GetProblems() {
				p.Printf("%s\n", cli.Clean(problem))
			}
		}
		if p.Err == nil && len(got.GetProblems()) > 0 {
			return exitCode(1)
		}
		return p.Err
	})
}
