package main

import (
	"fmt"
	"os"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// MyCmd is what a tenant sees and sets of itself, with a macaroon of its own.
type MyCmd struct {
	Show    MyShowCmd    `cmd:"" help:"Your registration, as the gateway has it."`
	Service MyServiceCmd `cmd:"" help:"Accept or decline a service."`
	Drain   MyDrainCmd   `cmd:"" help:"Have your hosted node stop safely: no new HTLCs, then down."`
	User    MyUserCmd    `cmd:"" help:"Add a user, change its role, or remove it with its macaroons."`
	Issue   MyIssueCmd   `cmd:"" help:"Make a macaroon for a user."`
	Rotate  MyRotateCmd  `cmd:"" help:"Replace the macaroon in use, in its file; the old one is refused from then on."`
	Revoke  MyRevokeCmd  `cmd:"" help:"End a macaroon, at once."`
	Audit   MyAuditCmd   `cmd:"" help:"What was changed about your tenant, by whom, newest first."`
}

func mineOf(s *session) tenantv1.TenantServiceClient { return tenantv1.NewTenantServiceClient(s.conn) }

// MyShowCmd shows the registration.
type MyShowCmd struct{}

// Run implements the command.
func (MyShowCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).GetOwnTenant, &tenantv1.GetOwnTenantRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		if err := showTenant(w, g, got.GetTenant()); err != nil {
			return err
		}
		p := w.printer()
		p.Printf("\nYou are %s (%s), with the macaroon %s.\n", got.GetUser(), word(got.GetRole(), "USER_ROLE_"), got.GetMacaroonId())
		return p.Err
	})
}

// MyServiceCmd accepts or declines a service.
type MyServiceCmd struct {
	Service string `arg:"" help:"The service's word, as the plan has it."`
	yesOrNo
}

// Run implements the command.
func (c MyServiceCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).SetOwnService, &tenantv1.SetOwnServiceRequest{Service: c.Service, Accepted: c.Accept})
		return showAnswer(w, g, got, err)
	})
}

// MyUserCmd sets a user.
type MyUserCmd struct {
	User   string `arg:"" help:"The user's name."`
	Role   string `enum:",admin,member,viewer" default:"" placeholder:"ROLE" help:"admin, member or viewer."`
	Remove bool   `help:"Remove it, with its macaroons."`
}

// Run implements the command.
func (c MyUserCmd) Run(w *world, g *Globals) error {
	if c.Remove == (c.Role != "") {
		return cli.Usagef("either --role or --remove")
	}
	return g.with(func(s *session) error {
		if c.Remove {
			got, err := call(w.ctx, s, mineOf(s).RemoveOwnUser, &tenantv1.RemoveOwnUserRequest{Name: c.User})
			return showAnswer(w, g, got, err)
		}
		got, err := call(w.ctx, s, mineOf(s).SetOwnUser, &tenantv1.SetOwnUserRequest{Name: c.User, Role: roleOf(c.Role)})
		return showAnswer(w, g, got, err)
	})
}

// MyIssueCmd makes a macaroon.
type MyIssueCmd struct {
	User     string          `arg:"" help:"Whose it is."`
	Out      string          `required:"" type:"path" placeholder:"FILE" help:"Where to write it. It is shown this once."`
	Node     string          `placeholder:"KEY" help:"The node that it acts for at services of nodes (66 hex digits); none without."`
	Services []string        `placeholder:"WORDS" help:"What it is good for: all of the plan without. The word tenant is the registration itself."`
	For      config.Duration `default:"365d" help:"How long it lasts (${default})."`
}

// Run implements the command.
func (c MyIssueCmd) Run(w *world, g *Globals) error {
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("%s is there already: name another file with --out", c.Out)
	}
	req := &tenantv1.IssueOwnMacaroonRequest{User: c.User, Services: c.Services}
	var err error
	if req.NodeKey, err = optionalKey(c.Node); err != nil {
		return err
	}
	if req.Days, err = wholeDays(c.For); err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).IssueOwnMacaroon, req)
		if err != nil {
			return err
		}
		return keepMacaroon(w, g, c.Out, got)
	})
}

// MyRotateCmd replaces the macaroon in use.
type MyRotateCmd struct {
	For config.Duration `default:"365d" help:"How long the new one lasts (${default})."`
}

// Run implements the command.
func (c MyRotateCmd) Run(w *world, g *Globals) error {
	_, file := g.files()
	// The old macaroon ends with the call: whoever could not write the new one down
	// would be locked out.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("the new macaroon could not be written in place of the old one, which is left as it is: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	days, err := wholeDays(c.For)
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).RotateOwnMacaroon, &tenantv1.RotateOwnMacaroonRequest{Days: days})
		if err != nil {
			return err
		}
		return keepMacaroon(w, g, file, got)
	})
}

// MyRevokeCmd ends a macaroon.
type MyRevokeCmd struct {
	ID string `arg:"" name:"macaroon" help:"The macaroon's id, as show lists it."`
}

// Run implements the command.
func (c MyRevokeCmd) Run(w *world, g *Globals) error {
	if c.ID == "" {
		return cli.Usagef("name the macaroon")
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).RevokeOwnMacaroon, &tenantv1.RevokeOwnMacaroonRequest{MacaroonId: c.ID})
		return showAnswer(w, g, got, err)
	})
}

// MyAuditCmd lists the tenant's part of the log.
type MyAuditCmd struct {
	Before int64 `placeholder:"NUMBER" help:"Entries before this one."`
	Limit  int32 `default:"50" help:"At most so many (${default})."`
}

// Run implements the command.
func (c MyAuditCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).ListOwnAudit, &tenantv1.ListOwnAuditRequest{BeforeSeq: c.Before, Limit: c.Limit})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		return printAudit(w, got.GetEntries())
	})
}
