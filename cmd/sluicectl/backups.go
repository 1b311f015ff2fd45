package main

import (
	"fmt"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
)

// BackupsCmd is what the operator sees and sets of the vault. What is stored is
// ciphertext: there is no command that shows it.
type BackupsCmd struct {
	Status BackupsStatusCmd `cmd:"" help:"What is stored in all, and the vault's limits and key."`
	List   BackupsListCmd   `cmd:"" help:"Who stores how much."`
	Show   BackupsShowCmd   `cmd:"" help:"One identity with its stores, usage and limits."`
	Quota  BackupsQuotaCmd  `cmd:"" help:"Give one identity limits of its own, or stop its writes."`
}

func vaultOf(s *session) backupsv1.VaultOperatorServiceClient {
	return backupsv1.NewVaultOperatorServiceClient(s.conn)
}

// size shows bytes as people read them; --json has the exact number.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	whole, rest, unit := n, int64(0), 0
	for whole >= 1024 && unit < len(units)-1 {
		whole, rest, unit = whole/1024, whole%1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d.%d %s", whole, rest*10/1024, units[unit])
}

// BackupsStatusCmd shows sums.
type BackupsStatusCmd struct{}

// Run implements the command.
func (BackupsStatusCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, vaultOf(s).GetTotals, &backupsv1.GetTotalsRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		t := cli.NewTable("", "")
		t.Row("Identities", fmt.Sprintf("%s of %s", count(got.GetIdentities()), count(got.GetMaxIdentities())))
		t.Row("Stored", fmt.Sprintf("%s in %s objects, and %s of past values; nobody new beyond %s",
			size(got.GetBytes()), count(got.GetObjects()), size(got.GetHistoryBytes()), size(got.GetMaxBytes())))
		t.Row("Receipt key", cli.Hex(got.GetServerKey()))
		t.Row("Epoch", cli.Hex(got.GetEpoch()))
		p := w.printer()
		p.Table(t)
		p.Printf("\n")
		p.Table(limits(got.GetQuota(), nil, nil))
		return p.Err
	})
}

func count(n int64) string { return cli.Group(uint64(max(0, n))) } //nolint:gosec // not negative

// limits compares the service's limits, those of one identity, and its usage.
func limits(service, own *backupsv1.Quota, usage *backupsv1.Usage) *cli.Table {
	titles := []string{"LIMIT OF EACH", ">VALUE"}
	if usage != nil {
		titles = []string{"LIMIT", ">OWN", ">USED"}
	}
	t := cli.NewTable(titles...)
	for _, l := range []struct {
		name         string
		service, own int64
		used         int64
		show         func(int64) string
	}{
		{"bytes", service.GetBytes(), own.GetBytes(), usage.GetBytes(), size},
		{"objects", service.GetObjects(), own.GetObjects(), usage.GetObjects(), count},
		{"bytes of one value", service.GetObjectBytes(), own.GetObjectBytes(), -1, size},
		{"items written today", service.GetDayWrites(), own.GetDayWrites(), usage.GetDayWrites(), count},
		{"bytes written today", service.GetDayBytes(), own.GetDayBytes(), usage.GetDayBytes(), size},
		{"bytes of past values", service.GetHistoryBytes(), own.GetHistoryBytes(), usage.GetHistoryBytes(), size},
	} {
		if usage == nil {
			t.Row(l.name, l.show(l.service))
			continue
		}
		limit, used := "-", "-"
		if l.own > 0 {
			limit = l.show(l.own)
		}
		if l.used >= 0 {
			used = l.show(l.used)
		}
		t.Row(l.name, limit, used)
	}
	return t
}

// BackupsListCmd lists identities.
type BackupsListCmd struct {
	After string `placeholder:"IDENTITY" help:"Go on after this one."`
	Limit int32  `default:"100" help:"At most so many (${default})."`
}

// Run implements the command.
func (c BackupsListCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, vaultOf(s).ListIdentities, &backupsv1.ListIdentitiesRequest{After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetIdentities()) == 0 {
			p.Printf("Nobody stores anything here.\n")
			return p.Err
		}
		t := cli.NewTable("IDENTITY", ">STORED", ">OBJECTS", ">HISTORY", ">ENTRIES", "LAST WRITE", "WRITES")
		for _, i := range got.GetIdentities() {
			t.Row(i.GetIdentity(), size(i.GetUsage().GetBytes()), count(i.GetUsage().GetObjects()), size(i.GetUsage().GetHistoryBytes()),
				cli.Group(i.GetSeq()), cli.Ago(i.GetWrittenMs(), w.now()), admitted(i.GetBlocked()))
		}
		p.Table(t)
		return p.Err
	})
}

func admitted(blocked bool) string {
	if blocked {
		return "STOPPED"
	}
	return "admitted"
}

// BackupsShowCmd shows one identity.
type BackupsShowCmd struct {
	Identity string `arg:"" help:"As the list shows it, e.g. node:02…"`
}

// Run implements the command.
func (c BackupsShowCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, vaultOf(s).ShowIdentity, &backupsv1.ShowIdentityRequest{Identity: c.Identity})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		return printIdentity(w, got.GetIdentity(), got.GetStores())
	})
}

func printIdentity(w *world, i *backupsv1.Identity, stores []*backupsv1.StoreUsage) error {
	t := cli.NewTable("", "")
	t.Row("Identity", i.GetIdentity())
	t.Row("Writes", fmt.Sprintf("%s, %s so far; the last %s", admitted(i.GetBlocked()), cli.Group(i.GetSeq()), cli.Ago(i.GetWrittenMs(), w.now())))
	t.Row("Since", cli.Time(i.GetCreatedMs()))
	p := w.printer()
	p.Table(t)
	p.Printf("\n")
	p.Table(limits(nil, i.GetOwnQuota(), i.GetUsage()))
	if len(stores) > 0 {
		p.Printf("\n")
		t = cli.NewTable("STORE", ">OBJECTS", ">STORED")
		for _, s := range stores {
			t.Row(fmt.Sprintf("%q", s.GetStoreId()), count(s.GetObjects()), size(s.GetBytes()))
		}
		p.Table(t)
	}
	return p.Err
}

// BackupsQuotaCmd sets limits of one identity.
type BackupsQuotaCmd struct {
	Identity     string           `arg:"" help:"As the list shows it, e.g. node:02…"`
	Bytes        *config.ByteSize `placeholder:"SIZE" help:"What it may store, e.g. 1GiB; 0B is the service's limit again, here and below."`
	Objects      *int64           `placeholder:"N" help:"Objects that it may store."`
	ObjectBytes  *config.ByteSize `placeholder:"SIZE" help:"Its largest value."`
	DayWrites    *int64           `placeholder:"N" help:"Items that it may write in a day."`
	DayBytes     *config.ByteSize `placeholder:"SIZE" help:"What it may write in a day."`
	HistoryBytes *config.ByteSize `placeholder:"SIZE" help:"Past values that are kept for it."`
	Block        bool             `help:"Stop its writes; what is stored stays readable."`
	Admit        bool             `help:"Admit its writes again."`
}

// Run implements the command.
func (c BackupsQuotaCmd) Run(w *world, g *Globals) error {
	if c.Block && c.Admit {
		return cli.Usagef("either --block or --admit")
	}
	return g.with(func(s *session) error {
		// What is not named stays as it is.
		now, err := call(w.ctx, s, vaultOf(s).ShowIdentity, &backupsv1.ShowIdentityRequest{Identity: c.Identity})
		if err != nil {
			return err
		}
		own := now.GetIdentity().GetOwnQuota()
		for _, l := range []struct {
			into *int64
			from *config.ByteSize
		}{
			{&own.Bytes, c.Bytes}, {&own.ObjectBytes, c.ObjectBytes}, {&own.DayBytes, c.DayBytes}, {&own.HistoryBytes, c.HistoryBytes},
		} {
			if l.from != nil {
				*l.into = int64(*l.from)
			}
		}
		if c.Objects != nil {
			own.Objects = *c.Objects
		}
		if c.DayWrites != nil {
			own.DayWrites = *c.DayWrites
		}
		got, err := call(w.ctx, s, vaultOf(s).SetQuota, &backupsv1.SetQuotaRequest{
			Identity: c.Identity, OwnQuota: own, Blocked: (now.GetIdentity().GetBlocked() || c.Block) && !c.Admit,
		})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		return printIdentity(w, got.GetIdentity(), nil)
	})
}
