package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/cpfp"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/batch"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/refund"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// settingBusiness is the setting's name.
const settingBusiness = "business"

// business is the operator's switch.
type business struct {
	Stopped bool      `json:"stopped"`
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

// load rebuilds what the engine keeps in memory.
func (e *Engine) load(ctx context.Context) error {
	if err := e.keys.refresh(ctx); err != nil {
		return err
	}
	if err := e.loadBusiness(ctx); err != nil {
		return err
	}
	if err := e.loadMenus(ctx); err != nil {
		return err
	}
	if err := e.loadLimits(ctx); err != nil {
		return err
	}
	if err := e.loadTrust(ctx); err != nil {
		return err
	}
	if err := e.loadLoads(ctx); err != nil {
		return err
	}
	if err := e.loadOver(ctx); err != nil {
		return err
	}
	if err := e.loadPolicies(ctx); err != nil {
		return err
	}
	if err := each(ctx, e.jits, func(i fsm.Instance[jit.State]) {
		e.jitMoved(i.ID, i.State)
	}); err != nil {
		return err
	}
	if err := each(ctx, e.wraps, func(i fsm.Instance[wrap.State]) {
		e.wrapMoved(i.ID, i.State)
		e.wasPaid(i.State)
	}); err != nil {
		return err
	}
	if err := each(ctx, e.orders, func(i fsm.Instance[order.State]) { e.orderMoved(i.ID, i.State) }); err != nil {
		return err
	}
	if err := each(ctx, e.refunds, func(i fsm.Instance[refund.State]) { e.refundMoved(i.ID, i.State) }); err != nil {
		return err
	}
	if err := each(ctx, e.batches, func(i fsm.Instance[batch.State]) { e.batchMoved(i.ID, i.State) }); err != nil {
		return err
	}
	if err := e.loadUnfunded(ctx); err != nil {
		return err
	}
	return each(ctx, e.openings, func(i fsm.Instance[opening.State]) { e.openingMoved(i.ID, i.State) })
}

// doubtOffers notes that offers of an older copy of the database may have been paid
// since it was made.
func (e *Engine) doubtOffers(ctx context.Context) error {
	return each(ctx, e.jits, func(i fsm.Instance[jit.State]) {
		if _, waits := i.State.(jit.Offered); waits {
			tell(e, e.jits, i.ID, jit.Event(jit.DatabaseRestored{Moment: e.moment()}))
		}
	})
}

// each visits every live instance of a machine.
func each[S fsm.State, V fsm.Event, F fsm.Effect](ctx context.Context, m *fsm.Engine[S, V, F], visit func(fsm.Instance[S])) error {
	after := ""
	for {
		page, err := m.List(ctx, fsm.Filter{Live: true, After: after})
		if err != nil {
			return err
		}
		for _, inst := range page {
			visit(inst)
			after = inst.ID
		}
		if len(page) == 0 {
			return nil
		}
	}
}

func (e *Engine) loadBusiness(ctx context.Context) error {
	var b business
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		value, err := lspdb.New(tx).GetSetting(ctx, settingBusiness)
		if errors.Is(store.MapError(err), store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(value, &b)
	})
	if err != nil {
		return fmt.Errorf("read the business switch: %w", err)
	}
	e.mu.Lock()
	e.business = b
	e.mu.Unlock()
	return nil
}

// SetBusiness stops or starts new business; what is under way goes on.
func (e *Engine) SetBusiness(ctx context.Context, accepting bool, reason string) error {
	b := business{Stopped: !accepting, Reason: reason, Since: e.opt.Now().UTC()}
	value, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode the business switch: %w", err)
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{
			Name: settingBusiness, Value: value, UpdatedMs: b.Since.UnixMilli(),
		})
	})
	if err != nil {
		return fmt.Errorf("store the business switch: %w", err)
	}
	e.mu.Lock()
	e.business = b
	e.mu.Unlock()
	e.log.Info("the operator set new business", zap.Bool("accepting", accepting), zap.String("reason", reason))
	return nil
}

func (e *Engine) accepting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.business.Stopped
}

// depths is, for each unconfirmed coin that comes from a transaction of our
// own, how long its chain of unconfirmed ancestors is. A transaction of our
// own spends only coins of the wallet: nobody else can take it back.
func (e *Engine) depths(ctx context.Context, coins []ln.Coin) (map[ln.Outpoint]int, error) {
	young := false
	for _, c := range coins {
		young = young || c.Confirmations <= 0
	}
	if !young {
		return nil, nil
	}
	txs, err := e.node.Chain.Transactions(ctx, int32(e.world.tip())) //nolint:gosec // a height
	if err != nil {
		return nil, err
	}
	own := cpfp.Unconfirmed(txs)
	out := make(map[ln.Outpoint]int)
	for _, c := range coins {
		if _, ours := own[c.Outpoint.TxID]; ours && c.Confirmations <= 0 {
			out[c.Outpoint] = cpfp.Depth(own, c.Outpoint.TxID)
		}
	}
	return out, nil
}
