//go:build itest

package itest

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // to take an update out of the tower's database

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// weeksBehind is two weeks of blocks.
const weeksBehind = 2_100

// TestWatchtowerBadDays: the tower is killed again and again while updates come; loses
// one, and the wallet notices; its backend goes away; a commitment leaves the chain and
// is mined again; the tower is killed between finding a breach and publishing; it is
// away for two weeks of blocks. The victim is made whole each time, to the sat.
func TestWatchtowerBadDays(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	g := startGuarded(ctx, t)
	require.NoError(t, g.Connect(ctx, g.victim, g.cheater))
	victims := g.login(g.victim)
	registered, err := victims.Register(ctx, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	out, err := g.lncli(ctx, g.victim, "wtclient", "add", registered.GetTower().GetUris()[0])
	require.NoError(t, err, out)
	var channels []devnet.Channel
	for range 3 {
		// Not announced: at its announcement lnd enters a channel anew, and finds no
		// balance in it for a moment.
		ch, err := g.OpenChannel(ctx, g.victim, g.cheater, devnet.ChannelParams{CapacitySat: 1_000_000, PushSat: 600_000, CommitmentType: lnrpc.CommitmentType_ANCHORS, Private: true})
		require.NoError(t, err)
		channels = append(channels, ch)
		g.pay(ctx, g.cheater, g.victim, ch, 10_000)
	}
	g.uploaded(ctx, g.victim, 0, 3)

	old, _ := g.keepOldStates(ctx, channels...)
	for _, ch := range channels {
		g.pay(ctx, g.cheater, g.victim, ch, 300_000)
	}

	require.True(t, t.Run("kill -9 during updates", func(t *testing.T) { g.at(t).killedDuringUpdates(ctx, channels[0], victims) }))
	require.True(t, t.Run("an update is lost", func(t *testing.T) { g.at(t).losesAnUpdate(ctx) }))

	require.NoError(t, g.victim.Stop(ctx))
	require.NoError(t, g.cheater.Stop(ctx))
	copyFile(t, old, database(g.cheater))

	var commits []chainhash.Hash
	require.True(t, t.Run("the backend goes away", func(t *testing.T) { g.at(t).backendGoesAway(ctx) }))
	require.True(t, t.Run("the commitment is reorganised out and back", func(t *testing.T) {
		commits = append(commits, g.at(t).outAndBack(ctx, channels[0]))
	}))
	require.True(t, t.Run("kill -9 between finding and publishing", func(t *testing.T) {
		commits = append(commits, g.at(t).killedBeforePublishing(ctx, channels[1]))
	}))
	require.True(t, t.Run("two weeks of blocks behind", func(t *testing.T) {
		commits = append(commits, g.at(t).weeksBehind(ctx, channels[2]))
	}))

	require.NoError(t, g.Mine(ctx, 5))
	final := g.breachesOffline(ctx, 3, "swept")
	require.NoError(t, devnet.WaitFor(ctx, "the breaches to be buried", func(ctx context.Context) (bool, error) {
		got, err := g.op.GetTowerStatus(ctx, &towerv1.GetTowerStatusRequest{})
		return err == nil && got.GetOpenBreaches() == 0, err
	}))
	for _, txid := range commits {
		g.exact(ctx, "anchors", txid, final[txid.String()])
	}
	require.NoError(t, g.victim.Start(ctx))
	for _, txid := range commits {
		b := final[txid.String()]
		require.NoError(t, devnet.WaitFor(ctx, "the victim's wallet to have its money", func(ctx context.Context) (bool, error) {
			got, err := g.victim.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
			if err != nil {
				return false, err
			}
			i := slices.IndexFunc(got.Transactions, func(tx *lnrpc.Transaction) bool { return tx.TxHash == b.GetJusticeTxid() })
			return i >= 0 && got.Transactions[i].Amount == b.GetSweptSat() && got.Transactions[i].NumConfirmations > 0, nil
		}))
		story, err := victims.ShowBreach(ctx, &towerv1.ShowBreachRequest{Id: b.GetId()})
		require.NoError(t, err)
		for _, line := range story.GetStory() {
			t.Logf("%s %s", time.UnixMilli(line.GetAtMs()).Format("15:04:05.000"), line.GetText())
		}
	}
}

// at is the same network for a subtest.
func (g *guarded) at(t *testing.T) *guarded {
	t.Helper()
	out := *g
	out.t = t
	return &out
}

// killedDuringUpdates pays without a pause, both ways, while the tower is killed three
// times. The victim's client goes on where it was each time: afterwards the tower holds
// each of its updates, and nothing waits.
func (g *guarded) killedDuringUpdates(ctx context.Context, over devnet.Channel, victims towerv1.TowerServiceClient) {
	t := g.t
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			from, to := g.victim, g.cheater
			if n%2 == 1 {
				from, to = to, from
			}
			if err := tryPay(ctx, from, to, over, 1_000); err != nil {
				ended <- err
				return
			}
		}
	}()
	before, _ := g.backups(ctx, g.victim)
	for life := range 3 {
		// It takes updates; what was sent and not answered when it dies is lost on the way.
		var acknowledged, given uint32
		require.NoError(t, devnet.WaitFor(ctx, "updates to be acknowledged", func(ctx context.Context) (bool, error) {
			acknowledged, given = g.backups(ctx, g.victim)
			return acknowledged >= before+5, nil
		}))
		require.NoError(t, g.s.Kill())
		t.Logf("life %d: killed with %d of %d updates acknowledged", life+1, acknowledged, given)
		require.NoError(t, g.s.Start(ctx))
		before = acknowledged
	}
	close(stop)
	require.NoError(t, <-ended)
	g.uploaded(ctx, g.victim, 0, before)
	g.statementAgrees(ctx, victims)
}

// losesAnUpdate takes one row out of the tower's database and puts it back: the wallet's
// check is an alarm with both numbers as long as it is missing.
func (g *guarded) losesAnUpdate(ctx context.Context) {
	t := g.t
	wallet := g.wallet(ctx)
	out, err := wallet("add", "guard", g.watcher.PubKey, "--grpc", g.s.GRPC, "--cert", g.s.TLSCert)
	require.NoError(t, err, out)
	out, err = wallet("list")
	require.NoError(t, err, out)

	var hint, blob []byte
	var session, seq int64
	edit := func(change func(db *sql.DB)) {
		require.NoError(t, g.s.Stop(ctx))
		db, err := sql.Open("sqlite", "file:"+filepath.Join(g.s.Dir, "sluice.db")+"?_pragma=busy_timeout(10000)")
		require.NoError(t, err)
		change(db)
		require.NoError(t, db.Close())
		require.NoError(t, g.s.Start(ctx))
	}
	edit(func(db *sql.DB) {
		require.NoError(t, db.QueryRowContext(ctx, "SELECT u.hint, u.session, u.seq, u.blob FROM tower_updates u JOIN tower_sessions s ON s.num = u.session WHERE s.last_applied > 1 AND u.seq = 1").Scan(&hint, &session, &seq, &blob))
		_, err := db.ExecContext(ctx, "DELETE FROM tower_updates WHERE hint = $1 AND session = $2", hint, session)
		require.NoError(t, err)
	})
	out, err = wallet("list")
	require.Error(t, err, "it ends with a code: %s", out)
	require.Regexp(t, `of session [0-9a-f.…]+ it holds \d+ updates, and had acknowledged \d+: 1 are lost`, out)
	t.Logf("sluice-wallet towers list:\n%s", out)
	edit(func(db *sql.DB) {
		_, err := db.ExecContext(ctx, "INSERT INTO tower_updates (hint, session, seq, blob) VALUES ($1, $2, $3, $4)", hint, session, seq, blob)
		require.NoError(t, err)
	})
	out, err = wallet("list")
	require.NoError(t, err, out)
}

// backendGoesAway cuts the tower's lnd off from btcd for a while, in which blocks come:
// the tower says so, and searches on by itself once the backend is back.
func (g *guarded) backendGoesAway(ctx context.Context) {
	t := g.t
	status := func(what string, cond func(*towerv1.GetTowerStatusResponse) bool) {
		require.NoError(t, devnet.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
			got, err := g.op.GetTowerStatus(ctx, &towerv1.GetTowerStatusRequest{})
			return err == nil && cond(got), err
		}))
	}
	height, err := g.Miner().Height(ctx)
	require.NoError(t, err)
	status("the tower to be up to date", func(s *towerv1.GetTowerStatusResponse) bool {
		return int64(s.GetTipHeight()) == height && s.GetProblem() == ""
	})
	g.backend.Cut()
	_, err = g.Miner().Mine(ctx, 3)
	require.NoError(t, err)
	// lnd announces nothing, so that the tower learns it when it next asks by itself; lnd's
	// call lasts as long as it tries to reach its backend.
	status("the tower to say that it cannot search", func(s *towerv1.GetTowerStatusResponse) bool { return s.GetProblem() != "" })
	g.backend.Restore()
	back := time.Now()
	status("the tower to have searched what came", func(s *towerv1.GetTowerStatusResponse) bool {
		return int64(s.GetTipHeight()) == height+3 && s.GetProblem() == ""
	})
	t.Logf("up to date %s after the backend was back", time.Since(back).Round(time.Millisecond))
	// lnd itself learns of the blocks that it missed when the next one comes.
	require.NoError(t, g.Mine(ctx, 1))
}

// one waits until the breach by a commitment fits, and gives it.
func (g *guarded) one(ctx context.Context, what string, commit chainhash.Hash, fits func(*towerv1.Breach) bool) (out *towerv1.Breach) {
	g.t.Helper()
	err := devnet.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		got, err := g.op.ListAllBreaches(ctx, &towerv1.ListAllBreachesRequest{})
		if err != nil {
			return false, err
		}
		for _, b := range got.GetBreaches() {
			if b.GetCommitmentTxid() == commit.String() {
				out = b
				return fits(b), nil
			}
		}
		return false, nil
	})
	require.NoError(g.t, err, "%v", out)
	return out
}

// punished waits for the justice transaction in the mempool, mines it, and waits until
// the tower has seen it.
func (g *guarded) punished(ctx context.Context, since time.Time, commit chainhash.Hash) {
	t := g.t
	t.Helper()
	b := g.one(ctx, "the breach to be published", commit, func(b *towerv1.Breach) bool { return b.GetState() == "published" && b.GetProblem() == "" })
	justice, err := chainhash.NewHashFromStr(b.GetJusticeTxid())
	require.NoError(t, err)
	require.NoError(t, g.Miner().WaitTxInMempool(ctx, *justice))
	took := time.Since(since)
	t.Logf("justice in the mempool after %s", took.Round(time.Millisecond))
	require.Less(t, took, promptly)
	require.NoError(t, g.Mine(ctx, 1))
	b = g.one(ctx, "the breach to be swept", commit, func(b *towerv1.Breach) bool { return b.GetState() == "swept" })
	require.Equal(t, justice.String(), b.GetSpendTxid())
}

// outAndBack mines the commitment, lets it leave the chain before it is punished in a
// block, and mines it again. The cheater is away meanwhile, so that nobody else hands
// it out.
func (g *guarded) outAndBack(ctx context.Context, channel devnet.Channel) chainhash.Hash {
	t := g.t
	require.NoError(t, g.cheater.Start(ctx))
	txid := g.cheat(ctx, channel)
	require.NoError(t, g.cheater.Stop(ctx))
	commit, _, err := g.Miner().Tx(ctx, txid)
	require.NoError(t, err)
	require.NoError(t, g.Mine(ctx, 1))
	first := g.one(ctx, "the breach to be published", txid, func(b *towerv1.Breach) bool { return b.GetState() == "published" })

	height, err := g.Miner().ReorgWithout(ctx, 1, 3)
	require.NoError(t, err)
	g.one(ctx, "the tower to miss the commitment", txid, func(b *towerv1.Breach) bool { return b.GetCommitmentHeight() == 0 })
	for at := height - 2; at <= height; at++ {
		hash, err := g.Miner().BlockHash(ctx, at)
		require.NoError(t, err)
		block, err := g.Miner().Block(ctx, hash)
		require.NoError(t, err)
		require.Len(t, block.Transactions, 1, "block %d has its coinbase alone", at)
	}
	again := time.Now()
	// The justice transaction may not be in the same block as the commitment, and btcd's own
	// miner would put it there.
	require.NoError(t, g.Miner().MineOnly(ctx, commit))
	require.NoError(t, g.WaitSynced(ctx))
	back := g.one(ctx, "the tower to see it again", txid, func(b *towerv1.Breach) bool { return int64(b.GetCommitmentHeight()) == height+1 })
	require.Equal(t, first.GetId(), back.GetId(), "it is one breach")
	g.punished(ctx, again, txid)
	return txid
}

// cheatUnseen kills the tower and has the commitment mined, and the cheater asleep again.
func (g *guarded) cheatUnseen(ctx context.Context, channel devnet.Channel) chainhash.Hash {
	t := g.t
	t.Helper()
	require.NoError(t, g.s.Kill())
	require.NoError(t, g.cheater.Start(ctx))
	txid := g.cheat(ctx, channel)
	require.NoError(t, g.cheater.Stop(ctx))
	require.NoError(t, g.Mine(ctx, 1))
	return txid
}

// killedBeforePublishing has the tower's lnd refuse to publish, by a macaroon without
// that right, when the breach is found; kills the tower; and gives the right back.
func (g *guarded) killedBeforePublishing(ctx context.Context, channel devnet.Channel) chainhash.Hash {
	t := g.t
	txid := g.cheatUnseen(ctx, channel)
	macaroon := filepath.Join(g.s.Dir, "lnd.macaroon")
	without := slices.DeleteFunc(lnd.TowerRights(), func(right string) bool { return strings.Contains(right, "Publish") })
	require.Less(t, len(without), len(lnd.TowerRights()))
	require.NoError(t, g.watcher.Bake(ctx, macaroon, without))
	require.NoError(t, g.s.Start(ctx))
	found := g.one(ctx, "the breach to be found and refused", txid, func(b *towerv1.Breach) bool { return b.GetState() == "found" && b.GetProblem() != "" })
	require.Contains(t, found.GetProblem(), "permission")
	require.NoError(t, g.s.Kill())
	require.NoError(t, g.watcher.Bake(ctx, macaroon, lnd.TowerRights()))
	pool, err := g.Miner().Mempool(ctx)
	require.NoError(t, err)
	require.Empty(t, pool, "nothing was published before it died")
	began := time.Now()
	require.NoError(t, g.s.Start(ctx))
	g.punished(ctx, began, txid)
	return txid
}

// weeksBehind mines the commitment while the tower is away, and two weeks of blocks on
// top of it. The cheater sleeps as well, or it would have taken its output by then.
func (g *guarded) weeksBehind(ctx context.Context, channel devnet.Channel) chainhash.Hash {
	t := g.t
	txid := g.cheatUnseen(ctx, channel)
	at, err := g.Miner().Height(ctx)
	require.NoError(t, err)
	for range weeksBehind / 100 {
		require.NoError(t, g.Mine(ctx, 100))
	}
	began := time.Now()
	require.NoError(t, g.s.Start(ctx))
	b := g.one(ctx, "the breach to be found", txid, func(b *towerv1.Breach) bool { return true })
	require.EqualValues(t, at, b.GetCommitmentHeight())
	require.NoError(t, devnet.WaitFor(ctx, "the tower to have searched every block", func(ctx context.Context) (bool, error) {
		got, err := g.op.GetTowerStatus(ctx, &towerv1.GetTowerStatusRequest{})
		return err == nil && int64(got.GetTipHeight()) == at+weeksBehind && got.GetProblem() == "", err
	}))
	took := time.Since(began)
	t.Logf("%d blocks in %s", weeksBehind+1, took.Round(time.Millisecond))
	require.Less(t, took, 3*time.Minute)
	g.punished(ctx, time.Now(), txid)
	return txid
}
