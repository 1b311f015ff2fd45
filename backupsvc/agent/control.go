package agent

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/backupsvc/agent/backupagentv1"
)

// RegisterControl serves the agent to the command line.
func (a *Agent) RegisterControl(r grpc.ServiceRegistrar) {
	backupagentv1.RegisterWalletBackupsServer(r, &control{a: a})
}

type control struct {
	backupagentv1.UnimplementedWalletBackupsServer
	a *Agent
}

func (c *control) GetBackups(context.Context, *backupagentv1.GetBackupsRequest) (*backupagentv1.GetBackupsResponse, error) {
	return &backupagentv1.GetBackupsResponse{Backups: StatusToWire(c.a.Status())}, nil
}

func (c *control) BackUpNow(ctx context.Context, r *backupagentv1.BackUpNowRequest) (*backupagentv1.BackUpNowResponse, error) {
	wait := time.Minute
	if n := r.GetWaitSeconds(); n > 0 {
		wait = time.Duration(n) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := c.a.BackUpNow(ctx, r.GetAbandon()); err != nil {
		return nil, err
	}
	return &backupagentv1.BackUpNowResponse{Backups: StatusToWire(c.a.Status())}, nil
}

func (c *control) Drill(ctx context.Context, _ *backupagentv1.DrillRequest) (*backupagentv1.DrillResponse, error) {
	// What failed is in the answer.
	_ = c.a.Drill(ctx)
	return &backupagentv1.DrillResponse{Backups: StatusToWire(c.a.Status())}, nil
}

func (c *control) Forgive(_ context.Context, r *backupagentv1.ForgiveRequest) (*backupagentv1.ForgiveResponse, error) {
	if err := c.a.Forgive(r.GetName()); err != nil {
		return nil, err
	}
	return &backupagentv1.ForgiveResponse{Backups: StatusToWire(c.a.Status())}, nil
}

// StatusToWire gives a status as a message.
func StatusToWire(s Status) *backupagentv1.Backups {
	out := &backupagentv1.Backups{
		Require: int32(s.Require), Good: int32(s.Good), BackedUp: s.BackedUp, Number: s.Number, MadeMs: s.MadeMs, Channels: int32(s.Channels), //nolint:gosec // small counts
		HeldBack: s.HeldBack, Alarms: s.Alarms, Device: s.Device,
	}
	for _, t := range s.Things {
		out.Names = append(out.Names, t.Name)
		out.Things = append(out.Things, &backupagentv1.Thing{
			Name: t.Name, Number: t.Number, MadeMs: t.MadeMs, Bytes: int64(t.Bytes), Good: int32(t.Good), BackedUp: t.Good >= s.Require, //nolint:gosec // small counts
		})
	}
	for _, p := range s.Providers {
		out.Providers = append(out.Providers, &backupagentv1.Provider{
			Name: p.Name, Kind: p.Kind, Address: p.Address, Number: p.Stand.Number, AcknowledgedMs: p.Stand.AtMs, ConfirmedMs: p.Stand.ConfirmedMs,
			Bytes: p.Stand.Bytes, Good: p.Good, Receipts: p.Receipts, Bound: p.Bound, DrilledMs: p.DrilledMs, DrillProblem: p.DrillProblem,
			Problem: p.Problem, Alarm: p.Alarm,
		})
	}
	return out
}
