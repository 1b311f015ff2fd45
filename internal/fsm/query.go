package fsm

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

// Instance is a stored instance.
type Instance[S State] struct {
	ID       string
	State    S
	Version  int64
	Terminal bool

	// Due is when the state times out; zero if it doesn't.
	Due     time.Time
	Created time.Time
	Updated time.Time
}

func (e *Engine[S, V, F]) instanceOf(row fsmdb.FsmInstance) (Instance[S], error) {
	s, err := e.codec.states.decode(row.State, row.Data)
	if err != nil {
		return Instance[S]{}, fmt.Errorf("%s %s: %w", e.m.Name, row.ID, err)
	}
	return instanceWith(row, s), nil
}

func instanceWith[S State](row fsmdb.FsmInstance, s S) Instance[S] {
	inst := Instance[S]{
		ID: row.ID, State: s, Version: row.Version, Terminal: row.Terminal,
		Created: time.UnixMilli(row.CreatedMs), Updated: time.UnixMilli(row.UpdatedMs),
	}
	if row.DueMs != 0 {
		inst.Due = time.UnixMilli(row.DueMs)
	}
	return inst
}

// Present is the state of an instance that this process last stored or read, without
// asking the database; ok is false for one that it does not have at hand.
func (e *Engine[S, V, F]) Present(id string) (s S, ok bool) {
	s, _, ok = e.known(id)
	return s, ok
}

// Get reads an instance; store.ErrNotFound if there is none.
func (e *Engine[S, V, F]) Get(ctx context.Context, id string) (inst Instance[S], err error) {
	err = e.opt.DB.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		inst, err = e.GetTx(ctx, tx, id)
		return err
	})
	return inst, err
}

// GetTx is Get in the caller's transaction.
func (e *Engine[S, V, F]) GetTx(ctx context.Context, tx *store.Tx, id string) (Instance[S], error) {
	row, err := fsmdb.New(tx).GetInstance(ctx, fsmdb.GetInstanceParams{Machine: e.m.Name, ID: id})
	if err != nil {
		return Instance[S]{}, fmt.Errorf("%s %s: %w", e.m.Name, id, store.MapError(err))
	}
	return e.instanceOf(row)
}

// Filter selects instances for List.
type Filter struct {
	// State selects by state name; otherwise Live selects those that are not
	// terminal; otherwise all.
	State string
	Live  bool

	// After is the last id of the page before; Limit bounds the page (0: 1000).
	After string
	Limit int32

	// Shared takes states that this process has at hand as they are, once the database
	// has said that they are the present ones: that saves most of what a long list
	// costs. Whoever asks for it changes nothing in them.
	Shared bool
}

// List reads a page of instances, ordered by id.
func (e *Engine[S, V, F]) List(ctx context.Context, f Filter) ([]Instance[S], error) {
	var instances []Instance[S]
	err := e.opt.DB.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		instances, err = e.ListTx(ctx, tx, f)
		return err
	})
	return instances, err
}

// ListTx is List in the caller's transaction.
func (e *Engine[S, V, F]) ListTx(ctx context.Context, tx *store.Tx, f Filter) ([]Instance[S], error) {
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	var (
		rows []fsmdb.FsmInstance
		err  error
		q    = fsmdb.New(tx)
	)
	switch {
	case f.State != "":
		rows, err = q.ListByState(ctx, fsmdb.ListByStateParams{Machine: e.m.Name, State: f.State, ID: f.After, Limit: f.Limit})
	case f.Live:
		rows, err = q.ListLive(ctx, fsmdb.ListLiveParams{Machine: e.m.Name, ID: f.After, Limit: f.Limit})
	default:
		rows, err = q.ListPage(ctx, fsmdb.ListPageParams{Machine: e.m.Name, ID: f.After, Limit: f.Limit})
	}
	if err != nil {
		return nil, fmt.Errorf("%s: list: %w", e.m.Name, err)
	}
	instances := make([]Instance[S], 0, len(rows))
	for _, row := range rows {
		if f.Shared {
			// A version is one transition's, and only what is durable is known.
			if s, version, ok := e.known(row.ID); ok && version == row.Version {
				instances = append(instances, instanceWith(row, s))
				continue
			}
		}
		inst, err := e.instanceOf(row)
		if err != nil {
			return nil, err
		}
		instances = append(instances, inst)
	}
	return instances, nil
}

// Counts tells how many instances are in each state that has any.
func (e *Engine[S, V, F]) Counts(ctx context.Context) (map[string]int64, error) {
	counts := make(map[string]int64)
	err := e.opt.DB.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := fsmdb.New(tx).CountStates(ctx, e.m.Name)
		if err != nil {
			return fmt.Errorf("%s: count: %w", e.m.Name, err)
		}
		clear(counts)
		for _, row := range rows {
			counts[row.State] = row.Instances
		}
		return nil
	})
	return counts, err
}

// Pending lists the ids that have effects which are not done.
func (e *Engine[S, V, F]) Pending(ctx context.Context) (ids []string, err error) {
	err = e.opt.DB.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		ids, err = fsmdb.New(tx).ListUndoneIDs(ctx, e.m.Name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: pending effects: %w", e.m.Name, err)
	}
	return ids, nil
}

// Record is one transition in an instance's story.
type Record struct {
	Seq      int64
	At       time.Time
	Event    string
	Data     json.RawMessage
	From, To string
	Effects  []EffectRecord
}

// EffectTexts are the effects for people: their names, and of those that are pending
// why the last attempt failed.
func (r Record) EffectTexts() (texts []string) {
	for _, f := range r.Effects {
		text := f.Effect
		if f.Done.IsZero() {
			text += " (pending)"
			if f.Note != "" {
				text += ": " + f.Note
			}
		}
		texts = append(texts, text)
	}
	return texts
}

// EffectRecord is what became of one effect.
type EffectRecord struct {
	Key    string
	Effect string
	Data   json.RawMessage

	// Done is zero while the effect is pending.
	Done time.Time

	// Failures counts failed attempts; Note has the last one's reason, or what
	// was dropped of the result.
	Failures int64
	Note     string
}

// History tells an instance's whole story; store.ErrNotFound if there is none.
func (e *Engine[S, V, F]) History(ctx context.Context, id string) ([]Record, error) {
	var records []Record
	err := e.opt.DB.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := fsmdb.New(tx)
		events, err := q.ListEvents(ctx, fsmdb.ListEventsParams{Machine: e.m.Name, ID: id})
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return store.ErrNotFound
		}
		effects, err := q.ListEffects(ctx, fsmdb.ListEffectsParams{Machine: e.m.Name, ID: id})
		if err != nil {
			return err
		}
		records = make([]Record, 0, len(events))
		for _, row := range events {
			record := Record{
				Seq: row.Seq, At: time.UnixMilli(row.AtMs), Event: row.Event, Data: json.RawMessage(row.Data),
				From: row.FromState, To: row.ToState,
			}
			for ; len(effects) > 0 && effects[0].Seq == row.Seq; effects = effects[1:] {
				record.Effects = append(record.Effects, e.effectRecord(effects[0]))
			}
			records = append(records, record)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: history: %w", e.m.Name, id, err)
	}
	return records, nil
}

func (e *Engine[S, V, F]) effectRecord(row fsmdb.FsmOutbox) EffectRecord {
	record := EffectRecord{
		Key: e.key(row.ID, row.Seq, row.Pos), Effect: row.Effect, Data: json.RawMessage(row.Data),
		Failures: row.Attempts, Note: row.Note,
	}
	if row.DoneMs != 0 {
		record.Done = time.UnixMilli(row.DoneMs)
	}
	return record
}
