package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// absentFor is how long lnd must not know a channel before an open that was
// cut off counts as never made: between psbt_verify and the peer's signature
// the channel is in none of lnd's lists, and cancelling the shim no longer
// stops it. A peer slower than this is met by abandonLate.
const absentFor = 5 * time.Second

// lastingPresence asks until the answer is not "absent", or has been that long
// enough.
func (e *Engine) lastingPresence(ctx context.Context, op ln.Outpoint) (opening.NodeAnswered, error) {
	began := time.Now()
	for {
		answer, err := e.presence(ctx, op)
		if err != nil || answer.Presence != opening.PresenceAbsent || time.Since(began) >= absentFor {
			return answer, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return answer, ctx.Err()
		}
	}
}
