// Package pulse notices an lnd that has stopped processing blocks.
//
// Such an lnd (seen with 0.21.2: sweep.UtxoSweeper blocks for ever, and the
// dispatcher of blocks with it) forwards, opens and closes on, and its block
// notifications go on. But it claims no HTLC on chain any more, and the deadlines
// there pass. What gives it away is GetInfo, which asks the dispatcher for its
// height and is not answered while every other call is. Another kind (a reorg that meets
// the start of a wait for confirmations) answers GetInfo, and calls itself behind its
// chain for good, though it once was not.
//
// It promises to tell such an lnd from one that is down, starting or slow for a
// moment, and does nothing else about it: only a restart of lnd helps.
package pulse

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// Node answers both calls, or errors of lnd's.
type Node interface {
	// Info needs lnd's dispatcher of blocks; Version needs nothing.
	Info(ctx context.Context) (ln.NodeInfo, error)
	Version(ctx context.Context) (lnd.Version, error)
}

const (
	// AnswerWithin is how long GetInfo may take. lnd gives each of its parts a minute
	// for a block.
	AnswerWithin = 30 * time.Second
	versionIn    = 5 * time.Second
	every        = 30 * time.Second
	// stalledFor is how long it must have been silent. One block that a part of lnd is
	// slow with takes two minutes at most.
	stalledFor = 3 * time.Minute
	// behindFor is how long an lnd that was synced may call itself behind: it takes in the
	// blocks of an outage of its chain backend in less.
	behindFor = 20 * time.Minute
)

// Silent asks once: GetInfo was not answered in time, and another call was. In that
// case, and where lnd answers nothing, err is GetInfo's.
func Silent(ctx context.Context, node Node, within time.Duration) (info ln.NodeInfo, silent bool, err error) {
	asked, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	info, err = node.Info(asked)
	if err == nil || asked.Err() == nil || ctx.Err() != nil {
		return info, false, err
	}
	asked, cancel = context.WithTimeout(ctx, versionIn)
	defer cancel()
	_, verr := node.Version(asked)
	return info, verr == nil, err
}

// Watch asks again and again.
type Watch struct {
	node   Node
	now    func() time.Time
	log    *zap.Logger
	within time.Duration

	mu sync.Mutex
	// since is when the first question of a row was asked to which there was no answer;
	// behind, the first to which the answer was that an lnd that was synced is not.
	since, behind time.Time
	synced        bool
}

// NewWatch makes one.
func NewWatch(node Node, now func() time.Time, log *zap.Logger) *Watch {
	return &Watch{node: node, now: now, log: log, within: AnswerWithin}
}

// Run asks until ctx ends.
func (w *Watch) Run(ctx context.Context) { pace.Each(ctx, every, w.look) }

func (w *Watch) look(ctx context.Context) {
	asked := w.now()
	before := w.Stalled()
	info, silent, err := Silent(ctx, w.node, w.within)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	switch {
	case !silent:
		w.since = time.Time{}
	case w.since.IsZero():
		w.since = asked
	}
	switch {
	case silent:
	case err != nil:
		// It is down: what it does once it is started is another matter.
		w.behind, w.synced = time.Time{}, false
	case info.SyncedToChain:
		w.behind, w.synced = time.Time{}, true
	case w.synced && w.behind.IsZero():
		w.behind = asked
	}
	w.mu.Unlock()
	switch after := w.Stalled(); {
	case after && !before:
		w.log.Error("lnd has stopped processing blocks: it claims nothing on chain any more. Restart lnd; see \"lnd has stopped processing blocks\" in the runbook")
	case before && !after:
		w.log.Info("lnd processes blocks again")
	}
}

// Stalled: lnd has been silent, or behind, for longer than any block takes it.
func (w *Watch) Stalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	return !w.since.IsZero() && now.Sub(w.since) >= stalledFor || !w.behind.IsZero() && now.Sub(w.behind) >= behindFor
}

// NewGauge is 1 while lnd is stalled.
func NewGauge(stalled func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "sluice", Subsystem: "lnd", Name: "blocks_stalled",
		Help: "1 while lnd answers calls and processes no blocks: it must be restarted.",
	}, func() float64 {
		if stalled() {
			return 1
		}
		return 0
	})
}
