package app

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// olderCopy is a day on which an older copy of the database is put back.
type olderCopy struct {
	name string
	job  job
	// copied and back name the moments; offline keeps the wallet away until
	// the copy was made.
	copied, back string
	offline      bool
	paid         bool
	// ends is what sluiced itself believes at the end.
	ends string
	// told: lnd has something that the copy does not know.
	told bool
}

func olderCopies() []olderCopy {
	payer, receiver := jobs()[0], jobs()[1]
	return []olderCopy{
		// An HTLC that the copy does not know is only ever resumed, here to
		// nowhere: the payer may pay again.
		{"agreed, held", payer, "agreed", "held", true, false, "expired", false},
		// What was forwarded is claimed, whatever the database knows of it.
		{"agreed, handed on", payer, "agreed", "handed on", false, true, "expired", true},
		{"held, handed on", payer, "held", "handed on", true, true, "paid", true},
		{"held, over", payer, "held", "over", true, true, "paid", true},
		{"agreed, held", receiver, "agreed", "held", true, true, "settled", false},
		{"agreed, paid and not settled", receiver, "agreed", "settling", false, true, "settled", true},
		{"agreed, over", receiver, "agreed", "over", false, true, "settled", true},
		{"held, paid and not settled", receiver, "held", "settling", true, true, "settled", true},
		{"held, over", receiver, "held", "over", true, true, "settled", true},
	}
}

// TestOlderCopyPutBack puts an older copy of the database back, of one moment of
// a payment at a later one, and states how the payer ends. One channel at most
// is made, nobody loses anything, and the books equal lnd's.
func TestOlderCopyPutBack(t *testing.T) {
	s := drawnSeed(t)
	for _, c := range olderCopies() {
		name := strings.ReplaceAll(c.name, " ", "-") + "/" + c.job.name
		day := func(t *testing.T, silent bool) {
			t.Parallel()
			virtual(t, func(t *testing.T) { c.play(t, rigConfig{seed: s, latency: lndfake.Observed()}, silent) })
		}
		t.Run(name, func(t *testing.T) { day(t, false) })
		if c.told {
			t.Run(name+"/with the whole disk", func(t *testing.T) { day(t, true) })
		}
	}
}

// TestOlderCopyDoesNotKnowTheWrap: the copy is older than the agreement, and the wallet was
// paid out of a hold invoice that nobody knows. It is settled all the same.
func TestOlderCopyDoesNotKnowTheWrap(t *testing.T) {
	s := drawnSeed(t)
	for name, silent := range map[string]bool{"the database": false, "the whole disk": true} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) { theCopyDoesNotKnowTheWrap(t, s, silent) })
		})
	}
}

func theCopyDoesNotKnowTheWrap(t *testing.T, s uint64, silent bool) {
	r := newRig(t, rigConfig{seed: s, job: jobs()[1], latency: lndfake.Observed()})
	r.silent = silent
	r.openBooks()
	r.copyDatabase()
	a := r.agree()
	r.putBackAt(func(c lndfake.Call) bool {
		return c.Phase == lndfake.BeforeCall && c.Method == "/invoicesrpc.Invoices/SettleInvoice"
	})
	m := r.outcome(r.pay(a.bolt11))
	require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
	require.EqualValues(t, 1, r.puts.Load(), "the copy was put back")
	r.up()
	require.Contains(t, *r.told.Load(), "for a hold invoice of ours")
	r.settle()
	r.releaseLeases()
	r.checkMoney(a, m)
}

// play plays the day; silent is one on which the generation file comes back with the copy.
func (c olderCopy) play(t *testing.T, cfg rigConfig, silent bool) {
	t.Helper()
	cfg.job = c.job
	r := newRig(t, cfg)
	r.silent = silent
	r.openBooks()
	a := r.agree()
	if c.copied == "agreed" {
		r.copyDatabase()
	}
	if c.offline {
		r.w.Disconnect(r.gateway, r.wallet)
	}
	r.up()
	switch c.back {
	case "handed on":
		r.putBackAt(func(c lndfake.Call) bool {
			m, ok := c.Message.(*routerrpc.ForwardHtlcInterceptResponse)
			return ok && m.Action == routerrpc.ResolveHoldForwardAction_RESUME
		})
	case "settling":
		r.putBackAt(func(c lndfake.Call) bool {
			return c.Phase == lndfake.BeforeCall && c.Method == "/invoicesrpc.Invoices/SettleInvoice"
		})
	}
	paying := r.pay(a.bolt11)
	if c.offline {
		r.awaitEvent(a.id, "part_arrived", "set_accepted")
		r.pause(time.Second)
		if c.copied == "held" {
			r.copyDatabase()
		}
		if c.back == "held" {
			r.putBack()
			r.pause(time.Second)
		}
		r.w.Connect(r.gateway, r.wallet)
	}
	m := r.outcome(paying)
	require.Equal(t, c.paid, m.Status == lnrpc.Payment_SUCCEEDED, "%s\n%s", m.FailureReason, r.stories())
	if c.back == "over" {
		r.await(a.id)
		r.putBack()
	}
	require.Eventually(t, func() bool { return r.puts.Load() == 1 }, time.Minute, time.Second, "the copy was not put back")
	r.up()
	require.Equal(t, c.told, r.told.Load() != nil, "what lnd tells: %v", r.told.Load())
	if c.told {
		r.saysWhy(*r.told.Load())
	}
	r.await(a.id)
	r.settle()
	p, err := r.service.Load().channels.GetPayment(r.asWallet(), &lspv1.GetPaymentRequest{PaymentId: a.id})
	require.NoError(t, err)
	if c.paid && p.Payment.State == "paid" {
		c.ends = "paid" // it learnt in time what the copy could not know
	}
	require.Equal(t, c.ends, p.Payment.State, r.stories())
	r.releaseLeases()
	if c.ends == "expired" {
		require.Contains(t, p.Payment.Reason, "the database was restored from an older copy")
	}
	if c.paid && c.ends == "expired" {
		// Nothing tells sluiced of a payment that it forgot wholly; the
		// money is right, and the books take it for other business.
		r.checkMoney(a, m)
		return
	}
	r.check(a, m)
}

// saysWhy: the operator reads how the copy was recognised.
func (r *rig) saysWhy(why string) {
	r.t.Helper()
	require.Contains(r.t, why, "lnd has")
	status, err := r.service.Load().operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
	require.NoError(r.t, err)
	require.Equal(r.t, why, status.RestoredReason)
}

// releaseLeases frees what opens leased that the copy does not know; left alone,
// they end by themselves within a day.
func (r *rig) releaseLeases() {
	r.t.Helper()
	kit := walletrpc.NewWalletKitClient(r.conns[r.gateway])
	leases, err := kit.ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(r.t, err)
	for _, l := range leases.LockedUtxos {
		_, err := kit.ReleaseOutput(r.ctx, &walletrpc.ReleaseOutputRequest{Id: l.Id, Outpoint: l.Outpoint})
		require.NoError(r.t, err)
	}
}

// checkMoney is the part of check that lnd alone can answer, and the balance.
func (r *rig) checkMoney(a agreement, m *lnrpc.Payment) {
	t := r.t
	t.Helper()
	require.NoError(t, r.w.Err())
	require.Equal(t, m.ValueMsat+m.FeeMsat, r.before[r.payer]-r.w.Wealth(r.payer).TotalMsat())
	require.Equal(t, a.walletMsat, r.w.Wealth(r.wallet).TotalMsat()-r.before[r.wallet])
	require.LessOrEqual(t, r.channels(), r.channelsBefore+1)
	books, err := r.service.Load().operator.Reconcile(r.ctx, &lspv1.ReconcileRequest{})
	require.NoError(t, err)
	require.True(t, books.Balanced, "the books: %s\n%s", books, r.stories())
	holdsNothing(t, books)
}

// copyDatabase makes a copy as an operator's dump does, while sluiced runs.
func (r *rig) copyDatabase() {
	r.t.Helper()
	if r.store.Engine == store.Postgres {
		dump, err := storetest.DumpPostgres(r.store)
		require.NoError(r.t, err)
		into := storetest.Postgres(r.t)
		r.restore = func() error {
			r.store.DSN = into.DSN
			return storetest.RestorePostgres(into, dump)
		}
		return
	}
	r.restore = func() error {
		// Under another name: the old process's last connection may close, and
		// write, after that process has ended.
		raw, err := os.ReadFile(r.copyPath())
		r.store.Path += "-restored"
		if err != nil {
			return err
		}
		return os.WriteFile(r.store.Path, raw, 0o600)
	}
	db, err := sql.Open("sqlite", r.store.Path)
	require.NoError(r.t, err)
	_, err = db.ExecContext(context.Background(), "VACUUM INTO ?", r.copyPath())
	require.NoError(r.t, err)
	require.NoError(r.t, db.Close())
}

func (r *rig) copyPath() string { return filepath.Join(r.dir, "copy") }

// putBack kills sluiced and puts the copy in the place of its database, before
// it is started again.
func (r *rig) putBack() {
	r.mu.Lock()
	r.beforeStart = func() {
		if err := r.restore(); err != nil {
			r.t.Errorf("put the copy back: %v", err)
		}
		r.restored.Store(true)
		r.puts.Add(1)
	}
	r.mu.Unlock()
	r.killProcess()
}

// putBackAt does so at the first call that matches: it is lost, unless it is a
// message of a stream.
func (r *rig) putBackAt(match func(lndfake.Call) bool) {
	var once sync.Once
	r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
		verdict := lndfake.Pass
		if c.Node == r.gateway.Name() && match(c) {
			once.Do(func() {
				r.putBack()
				if c.Phase == lndfake.BeforeCall {
					verdict = lndfake.Lose
				}
			})
		}
		return verdict
	})
}

// awaitEvent waits until the payment's story has one of these.
func (r *rig) awaitEvent(id string, names ...string) {
	r.t.Helper()
	d := day{r: r, a: agreement{id: id}}
	d.until(names...)
	require.True(r.t, d.saw(names...), "none of %v\n%s", names, r.stories())
}

// TestNothingIsDecidedBeforeLndWasAsked: lnd is there, but does not say what it knows.
// Neither the interceptor nor the services begin, and what is held stays so.
func TestNothingIsDecidedBeforeLndWasAsked(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: drawnSeed(t), job: jobs()[0], latency: lndfake.Observed()})
		r.openBooks()
		a := r.agree()
		r.w.Disconnect(r.gateway, r.wallet)
		r.up()
		paying := r.pay(a.bolt11)
		r.awaitEvent(a.id, "part_arrived")
		var silent, answers atomic.Bool
		silent.Store(true)
		r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
			if c.Node != r.gateway.Name() || !silent.Load() {
				return lndfake.Pass
			}
			if _, answer := c.Message.(*routerrpc.ForwardHtlcInterceptResponse); answer {
				answers.Store(true)
			}
			if c.Phase == lndfake.BeforeCall && c.Method == "/lnrpc.Lightning/ListInvoices" {
				return lndfake.Lose
			}
			return lndfake.Pass
		})
		r.killProcess()
		r.pause(30 * time.Second)
		require.Nil(t, r.service.Load(), "it serves")
		require.False(t, answers.Load(), "it answered lnd")
		silent.Store(false)
		r.up()
		require.Nil(t, r.told.Load())
		r.w.Connect(r.gateway, r.wallet)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paying).Status, r.stories())
		r.await(a.id)
		r.settle()
	})
}
