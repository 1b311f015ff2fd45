package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

func waitingJit(f jit.WakeWallet) Waiting {
	return Waiting{PaymentID: f.OfferID, Client: f.Client, Hash: f.Hash, AmountMsat: f.AmountMsat, Until: f.Until}
}

func waitingWrap(f wrap.WakeWallet) Waiting {
	return Waiting{PaymentID: f.OfferID, Client: f.Client, Hash: f.Hash, AmountMsat: f.AmountMsat, Until: f.Until}
}

// errNobodyToAsk stands for a gateway without a waker.
var errNobodyToAsk = errors.New("no way to reach wallets that are offline is set up")

// maxHow bounds what is kept of what was done.
const maxHow = 300

// wake never fails its payment: the wallet may come by itself. What was done is kept
// for people; nothing rests on it.
func (e *Engine) wake(ctx context.Context, w Waiting) {
	err, how := errNobodyToAsk, errNobodyToAsk.Error()
	if e.opt.Waker != nil {
		how, err = e.opt.Waker.Wake(ctx, w)
	}
	log := e.log.With(zap.String("payment", w.PaymentID), zap.Stringer("client", w.Client), zap.Time("until", w.Until))
	if err != nil {
		log.Info("a payment waits for its wallet, which could not be told", zap.Error(err))
	} else {
		log.Info("a payment waits for its wallet, which was told")
	}
	at := e.opt.Now().UnixMilli()
	err = e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
		return lspdb.New(tx).CountWake(ctx, lspdb.CountWakeParams{PaymentID: w.PaymentID, SinceMs: at, How: ln.Clip(how, maxHow)})
	})
	if err != nil && ctx.Err() == nil {
		log.Warn("that its wallet was woken is not kept", zap.Error(err))
	}
}

// HeldPayment is one that waits for a wallet that is offline, for people.
type HeldPayment struct {
	Waiting
	// Wrapped: lnd holds it by a wrapped invoice; otherwise a channel is opened for it.
	Wrapped   bool
	Htlcs     int
	SatBlocks uint64
	State     string
	// Since is when the wallet was first missed, FailHeight when the chain ends the wait.
	Since      time.Time
	FailHeight uint32
	BlocksLeft int32
	// Wakes counts attempts to wake it, LastWake and How are of the last.
	Wakes    uint32
	LastWake time.Time
	How      string
}

// HeldFor lists what waits for wallets that are offline: of one wallet, or of all.
func (e *Engine) HeldFor(ctx context.Context, client *ln.PubKey) ([]HeldPayment, error) {
	one := func(m map[string]ln.PubKey) []string {
		if client != nil {
			return idsOf(m, *client)
		}
		return slices.Sorted(maps.Keys(m))
	}
	e.mu.Lock()
	jits, wraps := one(e.waitingJit), one(e.waitingWrap)
	e.mu.Unlock()
	var out []HeldPayment
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		add := func(h HeldPayment, updated time.Time) error {
			if e.world.online(h.Client) {
				return nil
			}
			h.Since = updated
			switch row, err := lspdb.New(tx).Wake(ctx, h.PaymentID); {
			case err == nil:
				h.Since, h.Wakes, h.LastWake, h.How = time.UnixMilli(row.SinceMs), uint32(row.Wakes), time.UnixMilli(row.LastMs), row.How //nolint:gosec // a count
			case !errors.Is(store.MapError(err), store.ErrNotFound):
				return fmt.Errorf("what was done to wake the wallet of %s: %w", h.PaymentID, err)
			}
			if tip := e.world.tip(); tip != 0 {
				h.BlocksLeft = int32(int64(h.FailHeight) - int64(tip)) //nolint:gosec // heights
			}
			out = append(out, h)
			return nil
		}
		err := eachTx(ctx, tx, e.jits, jits, func(inst fsm.Instance[jit.State]) error {
			f, waits := jit.Waits(inst.State)
			if !waits {
				return nil
			}
			return add(HeldPayment{
				Waiting: waitingJit(f), State: inst.State.StateName(), FailHeight: jit.BackAt(inst.State),
				Htlcs: len(jit.PartsOf(inst.State)), SatBlocks: jit.HoldOf(inst.State).SatBlocks,
			}, inst.Updated)
		})
		if err != nil {
			return err
		}
		return eachTx(ctx, tx, e.wraps, wraps, func(inst fsm.Instance[wrap.State]) error {
			f, waits := wrap.Waits(inst.State)
			if !waits {
				return nil
			}
			held := wrap.HeldOf(inst.State)
			return add(HeldPayment{
				Waiting: waitingWrap(f), Wrapped: true, State: inst.State.StateName(), FailHeight: wrap.BackAt(inst.State),
				Htlcs: len(held.Htlcs), SatBlocks: held.SatBlocks,
			}, inst.Updated)
		})
	})
	return out, err
}

// eachTx visits the instances that are there of those named.
func eachTx[S fsm.State, V fsm.Event, F fsm.Effect](ctx context.Context, tx *store.Tx, m *fsm.Engine[S, V, F], ids []string, visit func(fsm.Instance[S]) error) error {
	for _, id := range ids {
		inst, err := m.GetTx(ctx, tx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := visit(inst); err != nil {
			return err
		}
	}
	return nil
}

// Waiting lists what is held for a wallet and waits for it to come online:
// what it was told while nobody listened.
func (e *Engine) Waiting(ctx context.Context, client ln.PubKey) ([]Waiting, error) {
	if e.world.online(client) {
		return nil, nil
	}
	e.mu.Lock()
	jits, wraps := idsOf(e.waitingJit, client), idsOf(e.waitingWrap, client)
	e.mu.Unlock()
	var out []Waiting
	for _, id := range jits {
		inst, err := e.jits.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f, waits := jit.Waits(inst.State); waits {
			out = append(out, waitingJit(f))
		}
	}
	for _, id := range wraps {
		inst, err := e.wraps.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f, waits := wrap.Waits(inst.State); waits {
			out = append(out, waitingWrap(f))
		}
	}
	return out, nil
}

// idsOf are the payments of one wallet.
func idsOf(m map[string]ln.PubKey, client ln.PubKey) []string {
	var out []string
	for id, c := range m {
		if c == client {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
