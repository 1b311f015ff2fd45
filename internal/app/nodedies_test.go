package app

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// blow is what happens to the gateway's lnd at one point of one call.
type blow int

const (
	killBefore blow = iota
	killAfter
	loseAnswer
	blows
)

func (b blow) String() string { return [...]string{"kill-before", "kill-after", "lose-answer"}[b] }

// nodeEnd names blows after which the payer may also be refunded, by when, and why.
type nodeEnd struct {
	name   string
	at     func(c job, b blow, s struck) bool
	within func(r *rig) time.Duration
	why    string
}

// nodeEnds are all of them: with any other blow the payer is paid.
func nodeEnds() []nodeEnd {
	return []nodeEnd{
		{
			name: "lnd dies before the channel of a wrapped invoice's payment is pending",
			at: func(c job, b blow, s struck) bool {
				return c.receiverPays && c.opens && b != loseAnswer && s.paying && !s.pending
			},
			within: func(*rig) time.Duration { return afterNode },
			why: "lnd is back before its peers are. A wallet that is not there when its channel is negotiated is gone for all that can be " +
				"known, and a wrapped invoice is good for one try. A payer who pays a hint tries again.",
		},
		{
			name:   "lnd dies while it pays a wrapped invoice's wallet",
			at:     func(c job, b blow, s struck) bool { return c.receiverPays && b != loseAnswer && s.sending },
			within: (*rig).lost,
			why: "between its record of a payment and the commitment with the HTLC lnd loses it, and calls it in flight for ever " +
				"(TestLndLosesThePaymentToTheWallet). Nothing may go back before it would have expired.",
		},
		{
			name: "lnd dies within a second of a channel's first activity, and a part has no fee to spare",
			at: func(c job, b blow, s struck) bool {
				return c.lsps2 && c.parts > 1 && c.opens && b != loseAnswer && s.paying && s.pending
			},
			within: func(*rig) time.Duration { return walletMPP + afterNode },
			why: "lnd builds the link with its default fees then (TestPolicyRace), and a part that was handed on before is handed on again at once, " +
				"whatever the link asks: it comes back, and its sibling when the wallet's node gives up. With the fees of lnd.conf at zero, as advised, it goes through.",
		},
	}
}

// TestNodeDiesAtEveryCall kills the gateway's lnd before and after each call
// that a payment makes, and each message of its streams, or loses the answer.
// The payer is paid, within afterNode, or ends as nodeEnds has it: no deadline of the
// payment may be what ends it. A part of the calls is drawn each time; SLUICE_RUNS
// plays them all.
func TestNodeDiesAtEveryCall(t *testing.T) {
	base := drawnSeed(t)
	for i, j := range jobs() {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			c := rigConfig{seed: base, job: j, latency: lndfake.Observed()}
			calls := 0
			virtual(t, func(t *testing.T) { calls = nodeRun(t, c, 0, 0) })
			rng := rand.New(rand.NewPCG(base, uint64(i)))
			for n := 1; n <= calls; n++ {
				for b := range blows {
					if runs(0) == 0 && rng.IntN(3*calls) >= 12 {
						continue
					}
					t.Run(fmt.Sprintf("%s-%d", b, n), func(t *testing.T) {
						virtual(t, func(t *testing.T) { nodeRun(t, c, n, b) })
					})
				}
			}
		})
	}
}

// struck is the call that a blow came at.
type struck struct {
	method string
	// paying: the payer had begun. pending: lnd had taken the channel's funding.
	// sending: lnd was paying the wallet.
	paying, pending, sending bool
}

// nodeRun plays one payment with a blow at the n-th call, 0 none, and counts
// the calls.
func nodeRun(t *testing.T, c rigConfig, n int, b blow) int {
	t.Helper()
	r := newRig(t, c)
	r.openBooks()
	var mu sync.Mutex
	calls := 0
	var now struck
	var at *struck
	r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
		if c.Node != r.gateway.Name() {
			return lndfake.Pass
		}
		mu.Lock()
		defer mu.Unlock()
		// Requests and stream messages are counted; an answer belongs to its
		// request, and is the next thing that comes of that method.
		after := c.Phase == lndfake.AfterCall
		if after && c.Err == nil && c.Method == "/lnrpc.Lightning/FundingStateStep" {
			now.pending = true
		}
		if c.Method == "/routerrpc.Router/SendToRouteV2" {
			defer func() { now.sending = !after }()
		}
		if !after {
			calls++
		}
		if n == 0 || at != nil || calls != n || after != (b != killBefore) && (c.Phase == lndfake.BeforeCall || after) {
			return lndfake.Pass
		}
		hit := now
		hit.method = c.Method
		at = &hit
		r.log.Info("--- " + b.String() + " " + c.Method)
		if b == loseAnswer {
			return lndfake.Lose
		}
		r.gatewayDies()
		return lndfake.Pass
	})
	a := r.agree()
	r.up()
	mu.Lock()
	early := at != nil
	mu.Unlock()
	if early {
		// A payer whose gateway is away has no route: that is its bad luck.
		r.pause(2 * time.Second)
		r.up()
	}
	mu.Lock()
	now.paying = true
	mu.Unlock()
	began := time.Now()
	m := r.outcome(r.pay(a.bolt11))
	took := time.Since(began)
	mu.Lock()
	total := calls
	ends := slices.DeleteFunc(nodeEnds(), func(e nodeEnd) bool { return at == nil || !e.at(c.job, b, *at) })
	mu.Unlock()
	within := afterNode
	if m.Status != lnrpc.Payment_SUCCEEDED {
		require.NotEmpty(t, ends, "%v at %+v: %s %s after %s\n%s", b, at, m.Status, m.FailureReason, took, r.stories())
		within = ends[len(ends)-1].within(r)
	}
	require.LessOrEqual(t, took, within+r.confirming(), "the payer waited too long: %v at %+v", b, at)
	r.await(a.id)
	r.settle()
	r.check(a, m)
	return total
}
