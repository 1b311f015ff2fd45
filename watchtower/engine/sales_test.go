package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// till is an lnd that makes invoices, as lnd does: what it settled or cancelled
// stays so, and a stream begins with the present state.
type till struct {
	mu       sync.Mutex
	changed  chan struct{}
	invoices map[ln.Hash]*ln.Invoice
	channels []ln.Channel
	away     error
	// lateCancel gives every held payment back the moment somebody settles it.
	lateCancel bool
}

const (
	safeChan  ln.SCID = 500 << 40
	youngChan ln.SCID = 16_000_000 << 40
)

func newTill() *till {
	return &till{
		changed: make(chan struct{}), invoices: map[ln.Hash]*ln.Invoice{},
		channels: []ln.Channel{{ChanID: safeChan}, {ChanID: youngChan, ZeroConf: true}},
	}
}

func (n *till) wake() { close(n.changed); n.changed = make(chan struct{}) }

func (n *till) setAway(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = err
	n.wake()
}

func (n *till) AddHoldInvoice(_ context.Context, r ln.HoldInvoiceRequest) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.away != nil {
		return "", n.away
	}
	if n.invoices[r.Hash] != nil {
		return "", ln.ErrExists
	}
	n.invoices[r.Hash] = &ln.Invoice{Hash: r.Hash, Memo: r.Memo, AmountMsat: r.AmountMsat, State: ln.InvoiceOpen, Bolt11: "lnbcrt" + r.Hash.String()}
	n.wake()
	return n.invoices[r.Hash].Bolt11, nil
}

func (n *till) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lookup(hash)
}

func (n *till) lookup(hash ln.Hash) (ln.Invoice, error) {
	if n.away != nil {
		return ln.Invoice{}, n.away
	}
	inv := n.invoices[hash]
	if inv == nil {
		return ln.Invoice{}, ln.ErrNotFound
	}
	out := *inv
	out.Htlcs = append([]ln.InvoiceHtlc{}, inv.Htlcs...)
	return out, nil
}

func (n *till) SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error {
	var last ln.InvoiceState
	for ctx.Err() == nil {
		n.mu.Lock()
		inv, err := n.lookup(hash)
		changed := n.changed
		n.mu.Unlock()
		if err != nil {
			return err
		}
		if inv.State != last {
			last = inv.State
			handle(inv)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (n *till) set(hash ln.Hash, state ln.InvoiceState) {
	n.invoices[hash].State = state
	for i := range n.invoices[hash].Htlcs {
		n.invoices[hash].Htlcs[i].State = state
	}
	n.wake()
}

func (n *till) SettleInvoice(_ context.Context, preimage ln.Preimage) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	hash := preimage.Hash()
	inv, err := n.lookup(hash)
	switch {
	case err != nil:
		return err
	case n.lateCancel && inv.State == ln.InvoiceAccepted:
		n.set(hash, ln.InvoiceCanceled)
		return ln.ErrInvoiceClosed
	case inv.State == ln.InvoiceAccepted:
		n.set(hash, ln.InvoiceSettled)
	case inv.State != ln.InvoiceSettled:
		return ln.ErrInvoiceClosed
	}
	return nil
}

func (n *till) CancelInvoice(_ context.Context, hash ln.Hash) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	inv, err := n.lookup(hash)
	switch {
	case err != nil:
		return err
	case inv.State == ln.InvoiceSettled:
		return ln.ErrInvoiceClosed
	}
	n.set(hash, ln.InvoiceCanceled)
	return nil
}

func (n *till) ListChannels(context.Context) ([]ln.Channel, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := slices.Clone(n.channels)
	for i := range out {
		for _, inv := range n.invoices {
			for _, h := range inv.HtlcsIn(ln.InvoiceAccepted) {
				out[i].Htlcs = append(out[i].Htlcs, ln.ChannelHtlc{Incoming: true, Index: h.Key.HtlcID})
			}
		}
	}
	return out, n.away
}

// pay has a payment of several parts arrive.
func (n *till) pay(t testing.TB, hash ln.Hash, over ln.SCID, parts ...ln.Msat) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	inv := n.invoices[hash]
	require.NotNil(t, inv)
	require.Equal(t, ln.InvoiceOpen, inv.State)
	for i, p := range parts {
		inv.Htlcs = append(inv.Htlcs, ln.InvoiceHtlc{Key: ln.CircuitKey{ChanID: over, HtlcID: uint64(i)}, AmtMsat: p, State: ln.InvoiceAccepted})
	}
	inv.State = ln.InvoiceAccepted
	n.wake()
}

// expire cancels what nobody has paid.
func (n *till) expire() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for hash, inv := range n.invoices {
		if inv.State == ln.InvoiceOpen {
			n.set(hash, ln.InvoiceCanceled)
		}
	}
}

func (n *till) state(hash ln.Hash) ln.InvoiceState {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.invoices[hash].State
}

// unlost is a lease that nobody else wants.
type unlost struct{}

func (unlost) Check(context.Context, *store.Tx) error { return nil }
func (unlost) Lost() <-chan struct{}                  { return nil }
func (unlost) Release(context.Context) error          { return nil }

const testPrice ln.Msat = 200

func migrateSales(t testing.TB, db *store.DB) {
	t.Helper()
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, tower.Migrate} {
		require.NoError(t, migrate(context.Background(), db))
	}
}

// priced runs a tower whose updates have a price beyond the first three, until
// the function that it gives is called or the test ends.
func priced(t testing.TB, db *store.DB, n *till) (*Engine, func()) {
	t.Helper()
	chain := towertest.NewChain(10)
	o := Options{
		DB: db, Secret: make([]byte, 32), Chain: chain, Invoices: n, Channels: n, Random: rand.Reader, Config: testConfig(), Now: db.Now, Log: zap.NewNop(),
		Acquire: func(context.Context) (Lease, error) { return unlost{}, nil },
	}
	o.Config.Terms.PriceMsat, o.Config.Terms.Limits.Free, o.Config.Terms.Limits.Updates = testPrice, 3, 50
	e, err := New(o)
	require.NoError(t, err)
	require.NoError(t, e.Begin(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	var once sync.Once
	stop := func() { once.Do(func() { cancel(); require.NoError(t, <-done) }) }
	t.Cleanup(stop)
	return e, stop
}

func buy(t testing.TB, e *Engine, tenant watchtower.Tenant, updates int64) tower.Purchase {
	t.Helper()
	var p tower.Purchase
	require.Eventually(t, func() bool {
		var err error
		p, err = e.BuyCredit(t.Context(), tenant, updates)
		require.True(t, err == nil || errkind.Of(err) == errkind.Unavailable, "%v", err)
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	return p
}

func purchaseIs(t testing.TB, e *Engine, p tower.Purchase, state string) tower.Purchase {
	t.Helper()
	var got tower.Purchase
	require.Eventually(t, func() bool {
		var err error
		got, err = e.store.Purchase(t.Context(), p.Tenant, p.ID)
		return err == nil && got.State == state
	}, time.Minute, 5*time.Millisecond, "want %s", state)
	return got
}

func credited(t testing.TB, e *Engine, tenant watchtower.Tenant) watchtower.Tenant {
	t.Helper()
	got, err := e.Tenant(t.Context(), tenant.Identity)
	require.NoError(t, err)
	return got
}

// booksAreExact: what a tenant has of credit is what the books owe it once what it
// used is booked, what it used is the income, and what the node settled explains
// all of it.
func booksAreExact(t testing.TB, e *Engine, n *till) {
	t.Helper()
	e.book(t.Context())
	tenants, err := e.Tenants(t.Context(), "", 100)
	require.NoError(t, err)
	require.NoError(t, e.o.DB.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		balances, err := ledger.Balances(ctx, tx)
		require.NoError(t, err)
		var drawn, credit, settled int64
		for _, tenant := range tenants {
			require.Equal(t, -tenant.CreditMsat, balances[tower.CreditAccount(tenant.Identity)], tenant.Identity)
			drawn, credit = drawn+tenant.DrawnMsat, credit+tenant.CreditMsat
		}
		require.Equal(t, -drawn, balances[tower.UpdatesIncome])
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, inv := range n.invoices {
			settled += int64(paid(*inv, ln.InvoiceSettled))
		}
		require.Equal(t, settled, balances[tower.OwnInvoices])
		require.Equal(t, settled, credit+drawn)
		sum, err := ledger.TrialBalance(ctx, tx)
		require.Zero(t, sum)
		return err
	}))
}

// TestUpdatesDrawOnCredit: updates beyond the free ones wait until credit is paid,
// each takes its price once, what is sent again or replaced takes nothing, and
// what was acknowledged stays when the credit is used up.
func TestUpdatesDrawOnCredit(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db, n := open(), newTill()
		migrateSales(t, db)
		e, _ := priced(t, db, n)
		tenant, other := register(t, e, 1), register(t, e, 2)
		d, s := e.DB(tenant.ID), session(1, blob.TypeAltruistAnchorCommit, 40)
		require.NoError(t, d.InsertSessionInfo(s))
		upload := func(seq uint16) error {
			_, err := d.InsertStateUpdate(update(t, s, seq, seq-1, int(seq)))
			return err
		}
		for seq := uint16(1); seq <= 3; seq++ {
			require.NoError(t, upload(seq), "free")
		}
		require.Equal(t, errkind.Exhausted, errkind.Of(upload(4)))
		require.NoError(t, upload(3), "what is held may come again")
		require.Zero(t, credited(t, e, tenant).UpdatesLeft(e.Config().Terms))

		p := buy(t, e, tenant, 10)
		require.Equal(t, 10*testPrice, p.AmountMsat)
		require.Equal(t, errkind.Exhausted, errkind.Of(upload(4)), "not yet paid")
		n.pay(t, p.ID, safeChan, 1500, 500)
		purchaseIs(t, e, p, "settled")
		require.Equal(t, ln.InvoiceSettled, n.state(p.ID))
		require.EqualValues(t, 10, credited(t, e, tenant).UpdatesLeft(e.Config().Terms))
		for seq := uint16(4); seq <= 13; seq++ {
			require.NoError(t, upload(seq), "paid")
		}
		require.NoError(t, upload(13), "again")
		require.Equal(t, errkind.Exhausted, errkind.Of(upload(14)))
		now := credited(t, e, tenant)
		require.Zero(t, now.CreditMsat)
		require.EqualValues(t, 10*testPrice, now.DrawnMsat)
		for seq := uint16(1); seq <= 13; seq++ {
			held, err := e.Updates(t.Context(), tenant.ID, s.ID, seq)
			require.NoError(t, err)
			require.Len(t, held, 1, "what was acknowledged stays")
		}
		// Nobody else pays, and nobody else's credit is used.
		require.Zero(t, credited(t, e, other).DrawnMsat)
		// What is deleted makes room among the free ones.
		require.NoError(t, d.DeleteSession(s.ID))
		require.NoError(t, d.InsertSessionInfo(s))
		require.NoError(t, upload(1))
		require.EqualValues(t, 10*testPrice, credited(t, e, tenant).DrawnMsat)
		// A number of its own that is free.
		_, err := e.SetTenant(t.Context(), tenant.Identity, tower.Settings{Own: watchtower.Limits{Free: 5}, Expires: tenant.Expires})
		require.NoError(t, err)
		for seq := uint16(2); seq <= 5; seq++ {
			require.NoError(t, upload(seq))
		}
		require.Equal(t, errkind.Exhausted, errkind.Of(upload(6)))
		booksAreExact(t, e, n)
		usageIsExact(t, e)
	})
}

// TestPurchasesThatAreNotPaid: what is cancelled, comes over a channel that may be
// double-spent, or is refused by the node, credits nothing.
func TestPurchasesThatAreNotPaid(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db, n := open(), newTill()
		migrateSales(t, db)
		e, _ := priced(t, db, n)
		tenant := register(t, e, 1)
		unsafe := buy(t, e, tenant, 10)
		n.pay(t, unsafe.ID, youngChan, 2000)
		got := purchaseIs(t, e, unsafe, "over")
		require.Contains(t, got.Reason, "not confirmed")
		require.Equal(t, ln.InvoiceCanceled, n.state(unsafe.ID), "the payer has its money back")

		late := buy(t, e, tenant, 10)
		require.NoError(t, n.CancelInvoice(t.Context(), late.ID))
		require.Contains(t, purchaseIs(t, e, late, "over").Reason, "in time")

		n.setAway(ln.ErrPermission)
		_, err := e.BuyCredit(t.Context(), tenant, 10)
		require.Equal(t, errkind.Unavailable, errkind.Of(err))
		require.ErrorContains(t, err, "came to nothing")
		n.setAway(nil)
		require.Zero(t, credited(t, e, tenant).CreditMsat)
		booksAreExact(t, e, n)

		// What came to nothing is shown for a while, and then forgotten with its story.
		list, err := e.Purchases(t.Context(), tenant.ID, 100)
		require.NoError(t, err)
		require.Len(t, list, 3)
		require.Eventually(t, func() bool {
			n, err := e.store.ForgetPurchases(t.Context(), time.Now().Add(time.Hour), e.sales.Load().machine.ForgetTx)
			return err == nil && n == 3
		}, time.Minute, 10*time.Millisecond)
		list, err = e.Purchases(t.Context(), tenant.ID, 100)
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// TestAPaymentThatWentBack: lnd gave the payment back between the record of the
// credit and the settlement. The credit is taken back, also what was used of it;
// what was acknowledged stays.
func TestAPaymentThatWentBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db, n := open(), newTill()
		migrateSales(t, db)
		e, _ := priced(t, db, n)
		tenant := register(t, e, 1)
		p := buy(t, e, tenant, 10)
		n.mu.Lock()
		n.lateCancel = true
		n.mu.Unlock()
		n.pay(t, p.ID, safeChan, 2000)
		purchaseIs(t, e, p, "taken_back")
		require.Zero(t, credited(t, e, tenant).CreditMsat)
		booksAreExact(t, e, n)
	})
}

func TestPurchasesHaveLimits(t *testing.T) {
	db, n := storetest.Open(t, storetest.SQLite(t)), newTill()
	migrateSales(t, db)
	e, _ := priced(t, db, n)
	tenant := register(t, e, 1)
	buy(t, e, tenant, 5)
	for _, updates := range []int64{0, -1, 51, 1 << 62, 4} {
		_, err := e.BuyCredit(t.Context(), tenant, updates)
		require.Equal(t, errkind.Invalid, errkind.Of(err), "%d", updates)
	}
	suspended := tenant
	suspended.Suspended = true
	_, err := e.BuyCredit(t.Context(), suspended, 10)
	require.Equal(t, errkind.Denied, errkind.Of(err))
	for range openPurchases - 1 {
		buy(t, e, tenant, 10)
	}
	_, err = e.BuyCredit(t.Context(), tenant, 10)
	require.Equal(t, errkind.Exhausted, errkind.Of(err))
	// Without a price nothing is sold.
	e.o.Config.Terms.PriceMsat = 0
	_, err = e.BuyCredit(t.Context(), tenant, 10)
	require.Equal(t, errkind.Invalid, errkind.Of(err))
}

// TestCrashDuringAPurchase ends the process before and after every commit of a
// purchase and of the updates that use it, with lnd losing touch now and then.
// Whoever pays has the credit, exactly once; who does not pay has none; and the
// books agree.
func TestCrashDuringAPurchase(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		db, n := storetest.Open(t, cfg), newTill()
		migrateSales(t, db)
		e, stop := priced(t, db, n)
		tenant := register(t, e, 1)
		var bought, used int64
		crashes := 0
		for round := range 24 {
			require.Eventually(t, func() bool { return e.sales.Load() != nil }, time.Minute, time.Millisecond)
			point := storetest.Point(round % 2)
			crashed := faults.CrashAt(int64(1+round/2), point)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			// Who dies answers nobody.
			asking, died := context.WithCancel(ctx)
			go func() {
				select {
				case <-crashed:
				case <-asking.Done():
				}
				died()
			}()
			p, err := e.BuyCredit(asking, tenant, 10)
			died()
			if err == nil {
				n.pay(t, p.ID, safeChan, ln.Msat(10)*testPrice)
			}
			// Some of it is used while it is settled.
			d, s := e.DB(tenant.ID), session(1000+round, blob.TypeAltruistAnchorCommit, 40)
			_ = d.InsertSessionInfo(s)
			_, _ = d.InsertStateUpdate(update(t, s, 1, 0, 10_000+round))
			if err == nil {
				// It is settled or the process dies; there is no third way.
				for done := false; !done; {
					select {
					case <-crashed:
						done = true
					case <-ctx.Done():
						t.Fatal("neither settled nor crashed")
					case <-time.After(2 * time.Millisecond):
						done = n.state(p.ID) == ln.InvoiceSettled
					}
				}
			}
			cancel()
			stop()
			if faults.Crashed() {
				crashes++
			}
			faults.Restart()
			if round%3 == 0 {
				n.setAway(ln.ErrUnavailable)
				time.AfterFunc(20*time.Millisecond, func() { n.setAway(nil) })
			}
			e, stop = priced(t, db, n)
			if err == nil {
				purchaseIs(t, e, p, "settled")
				bought += int64(10 * testPrice)
			}
			// An invoice that nobody was told expires.
			n.expire()
			require.Eventually(t, func() bool {
				list, err := e.Purchases(t.Context(), tenant.ID, 1000)
				n.expire()
				return err == nil && !slices.ContainsFunc(list, func(p tower.Purchase) bool { return p.State == "planned" || p.State == "offered" })
			}, time.Minute, 5*time.Millisecond)
		}
		require.Positive(t, bought)
		require.Greater(t, crashes, 12)
		// What was left open by a crash before anybody was told it ends unpaid.
		list, err := e.Purchases(t.Context(), tenant.ID, 1000)
		require.NoError(t, err)
		for _, p := range list {
			if p.State != "settled" {
				require.Zero(t, p.PaidMsat, "%+v", p)
			}
		}
		now := credited(t, e, tenant)
		used = now.DrawnMsat
		require.Equal(t, bought, now.CreditMsat+used, "bought %d, used %d", bought, used)
		require.Equal(t, max(0, now.Usage.Updates-3)*int64(testPrice), used, "every update beyond the free ones has its price, once")
		booksAreExact(t, e, n)
		usageIsExact(t, e)
	})
}

// TestAnOlderDatabaseHonoursWhatWasPaid: a copy of the database from before a
// payment finds the invoice settled, which only a record of the credit can have
// done.
func TestAnOlderDatabaseHonoursWhatWasPaid(t *testing.T) {
	db, n := storetest.Open(t, storetest.SQLite(t)), newTill()
	migrateSales(t, db)
	e, stop := priced(t, db, n)
	tenant := register(t, e, 1)
	p := buy(t, e, tenant, 10)
	stop()
	n.pay(t, p.ID, safeChan, 2000)
	n.mu.Lock()
	n.set(p.ID, ln.InvoiceSettled)
	n.mu.Unlock()
	e, _ = priced(t, db, n)
	purchaseIs(t, e, p, "settled")
	require.EqualValues(t, 2000, credited(t, e, tenant).CreditMsat)
	booksAreExact(t, e, n)
}

// TestConcurrentDraws: sessions of one tenant that upload beside each other never
// use more than there is.
func TestConcurrentDraws(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db, n := open(), newTill()
		migrateSales(t, db)
		e, _ := priced(t, db, n)
		tenant := register(t, e, 1)
		p := buy(t, e, tenant, 10)
		n.pay(t, p.ID, safeChan, 2000)
		purchaseIs(t, e, p, "settled")
		var mu sync.Mutex
		taken, refused, whole := 0, 0, 0
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				d, s := e.DB(tenant.ID), session(i, blob.TypeAltruistAnchorCommit, 40)
				if !assertNoError(t, d.InsertSessionInfo(s)) {
					return
				}
				for seq := uint16(1); seq <= 5; seq++ {
					_, err := d.InsertStateUpdate(update(t, s, seq, seq-1, i*100+int(seq)))
					mu.Lock()
					switch {
					case err == nil:
						if taken++; seq == 5 {
							whole++
						}
					case errkind.Of(err) == errkind.Exhausted:
						refused++
					default:
						t.Error(fmt.Errorf("session %d: %w", i, err))
					}
					mu.Unlock()
					if err != nil && !errors.Is(err, context.Canceled) {
						return
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, 13, taken, "three are free, ten are paid")
		require.Equal(t, 6, refused+whole, "who was not refused had no more")
		require.Zero(t, credited(t, e, tenant).CreditMsat)
		booksAreExact(t, e, n)
		usageIsExact(t, e)
	})
}
