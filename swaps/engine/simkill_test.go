package engine

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestKilledAroundEachCommit plays one life of each kind again and again on the whole
// engine; each time sluiced is killed at another commit, just before it or just after it,
// and started again. At the end each sat is where it belongs. A plain run takes every
// fifteenth commit, from a random one on; with SLUICE_RUNS it takes all.
func TestKilledAroundEachCommit(t *testing.T) {
	db, faults := simDB(t)
	stride := int64(15)
	if os.Getenv("SLUICE_RUNS") != "" {
		stride = 1
	}
	for _, life := range []struct {
		name, end string
		simSwap
	}{
		{"out, swept with both keys", "out succeeded key", simSwap{pays: true, prepays: true, byKey: true}},
		{"out, swept by script", "out succeeded success", simSwap{pays: true, prepays: true}},
		{"out, nobody comes", "out refunded timeout", simSwap{pays: true, prepays: true, noShow: true}},
		{"out, unpaid", "out cancelled", simSwap{pays: true, cancels: true}},
		{"in", "in claimed", simSwap{in: true, takes: true, givesKey: true}},
		{"in, without the key", "in claimed", simSwap{in: true, takes: true, refunds: true}},
		{"in, refused", "in failed", simSwap{in: true, refunds: true}},
		{"in, over a channel", "open claimed", simSwap{in: true, open: true, takes: true, givesKey: true}},
	} {
		t.Run(life.name, func(t *testing.T) {
			for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
				kills := 0
				for at := 1 + rand.Int64N(stride); ; at += stride {
					s := newSim(t, db, faults, 1)
					s.node.flaky, s.node.steady = 0, true
					sw := s.plan(1)
					life.preimage, life.amount, life.key, life.internal = sw.preimage, 500_000, sw.key, sw.internal
					one := life.simSwap
					s.swaps = []*simSwap{&one}
					killed, err := s.killedAt(at, point)
					require.NoError(t, err, "killed at commit %d (%d): %v", at, point, s.log)
					if !killed {
						require.Equal(t, life.end, strings.TrimSpace(one.end), "undisturbed: %v", s.log)
						break
					}
					kills++
				}
				require.Less(t, kills, 200)
			}
		})
	}
}

// killedAt plays the sim's swaps in good order, with a kill at one commit, if it comes so
// far; and brings them to their ends.
func (s *sim) killedAt(at int64, point storetest.Point) (killed bool, err error) {
	if err := s.start(); err != nil {
		return false, err
	}
	defer func() { s.stop() }()
	crash := s.faults.CrashAt(at, point)
	for round := range 16 {
		for _, sw := range s.swaps {
			s.client(sw)
		}
		s.catchesUp()
		if err := s.moves(); err != nil {
			return false, err
		}
		blocks := 1
		if sw := s.swaps[0]; round == 9 && sw.contract != nil && (sw.noShow || sw.in && !sw.takes) {
			blocks = int(sw.contract.ExpiryHeight - min(sw.contract.ExpiryHeight, s.node.chain.height()))
		}
		s.mine(max(blocks, 1), true)
		s.catchesUp()
		if err := s.moves(); err != nil {
			return false, err
		}
	}
	select {
	case <-crash:
		killed = true
	default:
	}
	return killed, s.rest()
}
