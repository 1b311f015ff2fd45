package engine

import (
	"context"
	"errors"
	"strings"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// The machines that own opens, as they stand in rows and owner names.
const (
	machineJit   = "jit"
	machineWrap  = "wrap"
	machineOrder = "order"
	// machineSwap is of another service: it waits for its open (foreign.go).
	machineSwap = "swap"
)

// owner names a payment as the owner of an open.
func owner(machine, id string) string { return machine + "/" + id }

func splitOwner(o string) (machine, id string, ok bool) {
	machine, id, ok = strings.Cut(o, "/")
	return machine, id, ok && (machine == machineJit || machine == machineWrap || machine == machineOrder || machine == machineSwap)
}

func (e *Engine) sendJit(ctx context.Context, id string, ev jit.Event) error {
	_, err := e.jits.Send(ctx, id, ev)
	return err
}

func (e *Engine) sendWrap(ctx context.Context, id string, ev wrap.Event) error {
	_, err := e.wraps.Send(ctx, id, ev)
	return err
}

// passOn takes an event that a machine refused as delivered: it came too late
// and will never be admitted.
func (e *Engine) passOn(err error) error {
	if errors.Is(err, fsm.ErrIllegal) || errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func jitOpeningUsable(m lsp.Moment, f opening.NotifyOwner) jit.Event {
	return jit.OpeningUsable{Moment: m, OpeningID: f.OpeningID, ChanID: f.ChanID, Withheld: f.Withheld}
}

func jitOpeningFailed(m lsp.Moment, f opening.NotifyOwner, r lsp.Reason) jit.Event {
	return jit.OpeningFailed{Moment: m, OpeningID: f.OpeningID, Reason: r, Temporary: f.Temporary}
}

func wrapOpeningUsable(m lsp.Moment, f opening.NotifyOwner) wrap.Event {
	return wrap.OpeningUsable{Moment: m, OpeningID: f.OpeningID, ChanID: f.ChanID, Withheld: f.Withheld}
}

func wrapOpeningFailed(m lsp.Moment, f opening.NotifyOwner, r lsp.Reason) wrap.Event {
	return wrap.OpeningFailed{Moment: m, OpeningID: f.OpeningID, Reason: r, Temporary: f.Temporary}
}
