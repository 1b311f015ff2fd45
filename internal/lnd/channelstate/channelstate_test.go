package channelstate_test

import (
	"context"
	"database/sql"
	"net"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"github.com/lightningnetwork/lnd/channeldb"
	"github.com/lightningnetwork/lnd/keychain"
	"github.com/lightningnetwork/lnd/kvdb"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/shachain"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lnd/channelstate"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

func secret(n byte) *btcec.PrivateKey {
	key, _ := btcec.PrivKeyFromBytes([]byte{31: n})
	return key
}

func config(n byte) channeldb.ChannelConfig {
	at := func(i byte) keychain.KeyDescriptor { return keychain.KeyDescriptor{PubKey: secret(n + i).PubKey()} }
	return channeldb.ChannelConfig{MultiSigKey: at(0), RevocationBasePoint: at(1), PaymentBasePoint: at(2), DelayBasePoint: at(3), HtlcBasePoint: at(4)}
}

func commitment(height uint64, sat int64) channeldb.ChannelCommitment {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{9}}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(sat, []byte{byte(height)}))
	return channeldb.ChannelCommitment{CommitHeight: height, LocalBalance: lnwire.NewMSatFromSatoshis(btcutil.Amount(sat)), CommitTx: tx, CommitSig: make([]byte, 64)}
}

// lndTables is what lnd makes on PostgreSQL, with the content of one of its files.
func lndTables(t *testing.T, db *sql.DB, backend kvdb.Backend) {
	t.Helper()
	exec := func(query string, args ...any) (id int64) {
		require.NoError(t, db.QueryRowContext(t.Context(), query, args...).Scan(&id))
		return id
	}
	_, err := db.ExecContext(t.Context(), `CREATE TABLE channeldb_kv (key BYTEA NOT NULL, value BYTEA, parent_id BIGINT, id BIGSERIAL PRIMARY KEY, sequence BIGINT)`)
	require.NoError(t, err)
	if backend == nil {
		return
	}
	var put func(parent any, key []byte, b kvdb.RBucket)
	put = func(parent any, key []byte, b kvdb.RBucket) {
		id := exec("INSERT INTO channeldb_kv (parent_id, key) VALUES ($1, $2) RETURNING id", parent, key)
		require.NoError(t, b.ForEach(func(k, v []byte) error {
			if v == nil {
				put(id, k, b.NestedReadBucket(k))
			} else {
				exec("INSERT INTO channeldb_kv (parent_id, key, value) VALUES ($1, $2, $3) RETURNING id", id, k, v)
			}
			return nil
		}))
	}
	require.NoError(t, kvdb.View(backend, func(tx kvdb.RTx) error {
		return tx.ForEachBucket(func(key []byte) error {
			put(nil, key, tx.ReadBucket(key))
			return nil
		})
	}, func() {}))
}

func database(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", storetest.StartPostgres(t, false).Database(t).DSN)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// TestRead: what lnd wrote is read from its tables, the commitment that is on its way to
// the peer included.
func TestRead(t *testing.T) {
	backend, err := kvdb.GetBoltBackend(&kvdb.BoltBackendConfig{DBPath: t.TempDir(), DBFileName: "channel.db", NoFreelistSync: true, DBTimeout: kvdb.DefaultDBTimeout})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	store, err := channeldb.CreateWithBackend(backend)
	require.NoError(t, err)
	producer := shachain.NewRevocationProducer(chainhash.Hash{5})
	c := &channeldb.OpenChannel{
		ChanType: channeldb.SingleFunderTweaklessBit | channeldb.AnchorOutputsBit, FundingOutpoint: wire.OutPoint{Hash: chainhash.Hash{9}, Index: 1}, IdentityPub: secret(90).PubKey(),
		Capacity: 1000, LocalChanCfg: config(10), RemoteChanCfg: config(20), LocalCommitment: commitment(6, 700), RemoteCommitment: commitment(7, 701),
		RemoteCurrentRevocation: secret(91).PubKey(), RevocationProducer: producer, RevocationStore: shachain.NewRevocationStore(), Db: store.ChannelStateDB(),
	}
	require.NoError(t, c.SyncPending(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9735}, 100))
	db := database(t)
	lndTables(t, db, backend)
	got, err := channelstate.Read(t.Context(), db)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, c.FundingOutpoint.String(), got[0].Point)
	require.Equal(t, c.IdentityPub.SerializeCompressed(), got[0].Peer[:])
	require.Equal(t, config(20).PaymentBasePoint.PubKey.SerializeCompressed(), got[0].Opener[:], "the peer opened it")
	require.Equal(t, config(10).PaymentBasePoint.PubKey.SerializeCompressed(), got[0].Other[:])
	require.Equal(t, uint64(6), got[0].Local)
	require.Equal(t, uint64(7), got[0].Remote)
	require.Equal(t, c.RemoteCommitment.CommitTx.TxHash().String(), got[0].RemoteTx)
	require.Equal(t, c.LocalCommitment.CommitTx.TxHash().String(), got[0].LocalTx)
	require.Equal(t, int64(700), got[0].LocalSat)
	require.False(t, got[0].Closing)

	// Signed and on its way.
	c.Packager = channeldb.NewChannelPackager(c.ShortChannelID)
	next := commitment(8, 702)
	require.NoError(t, c.AppendRemoteCommitChain(&channeldb.CommitDiff{Commitment: next, CommitSig: &lnwire.CommitSig{}}))
	_, err = db.ExecContext(t.Context(), "DROP TABLE channeldb_kv")
	require.NoError(t, err)
	lndTables(t, db, backend)
	got, err = channelstate.Read(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, uint64(8), got[0].Remote)
	require.Equal(t, next.CommitTx.TxHash().String(), got[0].RemoteTx)

	// What cannot be read is said, and nothing is left out.
	_, err = db.ExecContext(t.Context(), "UPDATE channeldb_kv SET value = '\\x00' WHERE key = 'chan-info-key'")
	require.NoError(t, err)
	_, err = channelstate.Read(t.Context(), db)
	require.ErrorContains(t, err, "cannot be read")
}

// TestNoLnd: a database of something else, and one of an lnd without channels.
func TestNoLnd(t *testing.T) {
	db := database(t)
	_, err := channelstate.Read(t.Context(), db)
	require.ErrorContains(t, err, "read lnd's tables")
	lndTables(t, db, nil)
	_, err = channelstate.Read(t.Context(), db)
	require.ErrorContains(t, err, "no channels of an lnd")
	for _, name := range []string{"open-chan-bucket", "outpoint-bucket", "nib"} {
		_, err = db.ExecContext(t.Context(), "INSERT INTO channeldb_kv (key) VALUES ($1)", []byte(name))
		require.NoError(t, err)
	}
	got, err := channelstate.Read(t.Context(), db)
	require.NoError(t, err)
	require.Empty(t, got)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = channelstate.Read(ctx, db)
	require.ErrorIs(t, err, context.Canceled)
}
