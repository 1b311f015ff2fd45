package towertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
)

// Chain is a chain with a mempool, as a lookout sees it through lnd.
type Chain struct {
	mu      sync.Mutex
	best    []*wire.MsgBlock // by height
	known   map[chainhash.Hash]*wire.MsgBlock
	nonce   uint32
	wakes   map[int]func()
	next    int
	away    error
	refuse  func(*wire.MsgTx) error
	pool    map[chainhash.Hash]*wire.MsgTx
	handed  []chainhash.Hash
	fetched int
	changed chan struct{}
}

// NewChain has a genesis and so many blocks.
func NewChain(blocks int) *Chain {
	c := &Chain{known: map[chainhash.Hash]*wire.MsgBlock{}, wakes: map[int]func(){}, pool: map[chainhash.Hash]*wire.MsgTx{}, changed: make(chan struct{})}
	for range blocks + 1 {
		c.Mine()
	}
	return c
}

// Mine appends a block with transactions.
func (c *Chain) Mine(txs ...*wire.MsgTx) *wire.MsgBlock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mine(txs)
}

func (c *Chain) mine(txs []*wire.MsgTx) *wire.MsgBlock {
	c.nonce++
	block := &wire.MsgBlock{Header: wire.BlockHeader{Nonce: c.nonce}, Transactions: txs}
	if n := len(c.best); n > 0 {
		block.Header.PrevBlock = c.best[n-1].BlockHash()
	}
	c.best, c.known[block.BlockHash()] = append(c.best, block), block
	for _, tx := range txs {
		delete(c.pool, tx.TxHash())
	}
	for _, wake := range c.wakes {
		wake()
	}
	c.signal()
	return block
}

func (c *Chain) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Reorganise replaces the last blocks by others, at once: blocks[i] are the
// transactions of each.
func (c *Chain) Reorganise(drop int, blocks ...[]*wire.MsgTx) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.best = c.best[:len(c.best)-drop]
	for _, txs := range blocks {
		c.mine(txs)
	}
}

// Height is the best block's.
func (c *Chain) Height() int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int32(len(c.best) - 1) //nolint:gosec // small
}

// Away makes every call fail, or with nil none.
func (c *Chain) Away(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = err
	for id, wake := range c.wakes {
		if err != nil {
			delete(c.wakes, id)
		}
		wake()
	}
	c.signal()
}

// Refuse judges what is published; nil takes all.
func (c *Chain) Refuse(f func(*wire.MsgTx) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = f
}

// InPool says whether a transaction waits for a block.
func (c *Chain) InPool(txid chainhash.Hash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pool[txid] != nil
}

// Evict drops a transaction from the pool.
func (c *Chain) Evict(txid chainhash.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pool, txid)
}

// Handed counts how often a transaction was published.
func (c *Chain) Handed(txid chainhash.Hash) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.handed {
		if h == txid {
			n++
		}
	}
	return n
}

// PoolSize is how many transactions wait.
func (c *Chain) PoolSize() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pool)
}

// WaitPool waits until the pool has as many transactions.
func (c *Chain) WaitPool(ctx context.Context, n int) error {
	for {
		c.mu.Lock()
		have, changed := len(c.pool), c.changed
		c.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d transactions in the pool: %w", have, n, ctx.Err())
		}
	}
}

// Best implements the lookout's chain.
func (c *Chain) Best(context.Context) (int32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int32(len(c.best) - 1), c.away //nolint:gosec // small
}

// BlockHash implements the lookout's chain.
func (c *Chain) BlockHash(_ context.Context, height int32) (chainhash.Hash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return chainhash.Hash{}, c.away
	}
	if height < 0 || int(height) >= len(c.best) {
		return chainhash.Hash{}, errors.New("block height out of range")
	}
	return c.best[height].BlockHash(), nil
}

// Block implements the lookout's chain.
func (c *Chain) Block(_ context.Context, hash chainhash.Hash) (*wire.MsgBlock, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return nil, c.away
	}
	c.fetched++
	if b := c.known[hash]; b != nil {
		return b, nil
	}
	return nil, errors.New("no such block")
}

// Publish implements the lookout's chain.
func (c *Chain) Publish(_ context.Context, raw []byte) error {
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return c.away
	}
	c.handed = append(c.handed, tx.TxHash())
	if c.refuse != nil {
		if err := c.refuse(&tx); err != nil {
			return err
		}
	}
	c.pool[tx.TxHash()] = &tx
	c.signal()
	return nil
}

// Watch implements the lookout's chain.
func (c *Chain) Watch(ctx context.Context, wake func()) error {
	c.mu.Lock()
	if c.away != nil {
		defer c.mu.Unlock()
		return c.away
	}
	id := c.next
	c.next++
	c.wakes[id] = wake
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.wakes, id)
		c.mu.Unlock()
	}()
	for {
		c.mu.Lock()
		gone, changed := c.away, c.changed
		c.mu.Unlock()
		if gone != nil {
			return gone
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
