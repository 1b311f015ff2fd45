// Package channelstate reads the channels of an lnd out of its PostgreSQL database, with
// no lnd running.
//
// It promises that nothing is written and that nothing but the channels' present state is
// read; what lnd's own code (v0.21.2) cannot read is an error. To start an lnd on a
// database of doubtful age is dangerous in itself: it may publish a state by itself, when
// an HTLC has run out for example.
package channelstate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/lightningnetwork/lnd/channeldb"
	"github.com/lightningnetwork/lnd/kvdb"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Channel is one channel's state.
type Channel struct {
	Point string
	Peer  ln.PubKey
	// Opener and Other are the payment basepoints of both sides.
	Opener, Other ln.PubKey
	// Local is the number of the own commitment, LocalTx its transaction.
	Local   uint64
	LocalTx string
	// Remote is the number of the peer's last commitment that was signed, RemoteTx its
	// transaction.
	Remote   uint64
	RemoteTx string
	LocalSat int64
	HTLCs    int
	// Closing: lnd was closing it, or knows that it is behind.
	Closing bool
}

// buckets are what the channels' states need of lnd's database.
func buckets() [][]byte {
	return [][]byte{[]byte("open-chan-bucket"), []byte("outpoint-bucket"), []byte("nib")}
}

// history are the old states of a channel, by far most of it.
func history() [][]byte { return [][]byte{[]byte("revocation-log"), []byte("revocation-log-key")} }

// node is one row: a bucket if value is nil.
type node struct {
	key, value []byte
	below      []int64
}

// Read reads all channels.
func Read(ctx context.Context, db *sql.DB) (_ []Channel, err error) {
	rows, top, err := tree(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("read lnd's tables: %w", err)
	}
	if len(top) == 0 {
		return nil, errors.New("there are no channels of an lnd in this database")
	}
	// lnd's own code reads them, from a copy in the form of its files.
	dir, err := os.MkdirTemp("", "sluice-channels-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	backend, err := kvdb.GetBoltBackend(&kvdb.BoltBackendConfig{DBPath: dir, DBFileName: "channels.db", NoFreelistSync: true, DBTimeout: kvdb.DefaultDBTimeout})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(dir), err)
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	if err := kvdb.Update(backend, func(tx kvdb.RwTx) error {
		for _, id := range top {
			b, err := tx.CreateTopLevelBucket(rows[id].key)
			if err != nil {
				return err
			}
			if err := fill(b, rows, rows[id]); err != nil {
				return err
			}
		}
		return nil
	}, func() {}); err != nil {
		return nil, fmt.Errorf("copy the channels: %w", err)
	}
	store, err := channeldb.CreateWithBackend(backend, channeldb.OptionNoMigration(true))
	if err != nil {
		return nil, err
	}
	channels, err := store.ChannelStateDB().FetchAllChannels()
	if errors.Is(err, channeldb.ErrNoActiveChannels) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the channels cannot be read: %w; is the database of lnd v0.21?", err)
	}
	out := make([]Channel, 0, len(channels))
	for _, c := range channels {
		one, err := read(c)
		if err != nil {
			return nil, fmt.Errorf("the channel %s: %w", c.FundingOutpoint, err)
		}
		out = append(out, one)
	}
	return out, nil
}

// tree reads the buckets as rows by their ids, and which are the uppermost.
func tree(ctx context.Context, db *sql.DB) (map[int64]*node, []int64, error) {
	rows, err := db.QueryContext(ctx, `
WITH RECURSIVE t AS (
  SELECT id, parent_id, key, value FROM channeldb_kv WHERE parent_id IS NULL AND key = ANY($1)
  UNION ALL
  SELECT c.id, c.parent_id, c.key, c.value FROM channeldb_kv c JOIN t ON c.parent_id = t.id
  WHERE t.value IS NULL AND NOT (c.value IS NULL AND c.key = ANY($2))
) SELECT id, parent_id, key, value FROM t`, buckets(), history())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rows.Close() }()
	all := map[int64]*node{}
	var top []int64
	parents := map[int64]int64{}
	for rows.Next() {
		var id int64
		var parent sql.NullInt64
		n := &node{}
		if err := rows.Scan(&id, &parent, &n.key, &n.value); err != nil {
			return nil, nil, err
		}
		all[id] = n
		if parent.Valid {
			parents[id] = parent.Int64
		} else {
			top = append(top, id)
		}
	}
	for id, parent := range parents {
		above := all[parent]
		if above == nil {
			return nil, nil, fmt.Errorf("the row %d has no bucket", id)
		}
		above.below = append(above.below, id)
	}
	return all, top, rows.Err()
}

func fill(b kvdb.RwBucket, rows map[int64]*node, n *node) error {
	for _, id := range n.below {
		row := rows[id]
		if row.value != nil {
			if err := b.Put(row.key, row.value); err != nil {
				return err
			}
			continue
		}
		inner, err := b.CreateBucket(row.key)
		if err != nil {
			return err
		}
		if err := fill(inner, rows, row); err != nil {
			return err
		}
	}
	return nil
}

func read(c *channeldb.OpenChannel) (Channel, error) {
	out := Channel{
		Point: c.FundingOutpoint.String(), Closing: c.ChanStatus() != channeldb.ChanStatusDefault,
		Local: c.LocalCommitment.CommitHeight, LocalSat: int64(c.LocalCommitment.LocalBalance.ToSatoshis()), HTLCs: len(c.LocalCommitment.Htlcs),
	}
	tip := c.RemoteCommitment
	switch diff, err := c.RemoteCommitChainTip(); {
	case err == nil:
		tip = diff.Commitment
	case !errors.Is(err, channeldb.ErrNoPendingCommit):
		return out, err
	}
	if tip.CommitTx == nil || c.LocalCommitment.CommitTx == nil {
		return out, errors.New("it was restored from a backup and has no state")
	}
	out.Remote, out.RemoteTx, out.LocalTx = tip.CommitHeight, tip.CommitTx.TxHash().String(), c.LocalCommitment.CommitTx.TxHash().String()
	local, remote := c.LocalChanCfg.PaymentBasePoint.PubKey, c.RemoteChanCfg.PaymentBasePoint.PubKey
	opener, other := local, remote
	if !c.IsInitiator {
		opener, other = remote, local
	}
	for _, k := range []struct {
		from *btcec.PublicKey
		to   *ln.PubKey
	}{{opener, &out.Opener}, {other, &out.Other}, {c.IdentityPub, &out.Peer}} {
		key, err := ln.PubKeyFromBytes(k.from.SerializeCompressed())
		if err != nil {
			return out, err
		}
		*k.to = key
	}
	return out, nil
}
