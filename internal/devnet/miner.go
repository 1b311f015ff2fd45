package devnet

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
)

const (
	// startBlocks activates segwit and taproot (about 432 blocks on btcd's
	// regtest) and leaves 350 matured coinbases to spend.
	startBlocks      = 450
	coinbaseMaturity = 100

	// minerFeeSatPerVByte is above any rate at which a test's mempool stalls.
	minerFeeSatPerVByte = 20
)

// Miner is the network's only chain backend and its only miner: a block exists
// when a test asks for it, never otherwise.
type Miner struct {
	proc *Proc
	rpc  *btcdClient

	key    *btcec.PrivateKey // owns every coinbase
	script []byte            // pays to key

	mu      sync.Mutex // one spender at a time, so that no coin is picked twice
	scanned int64      // coinbases up to this height are in coins
	coins   []minerCoin
}

type minerCoin struct {
	point  wire.OutPoint
	value  int64
	height int64 // 0 for change, which matures at once
}

func startMiner(ctx context.Context, binary, dir, logFile string, ports *ports) (*Miner, error) {
	key, err := btcec.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	addr, err := btcutil.NewAddressWitnessPubKeyHash(
		btcutil.Hash160(key.PubKey().SerializeCompressed()), &chaincfg.RegressionNetParams)
	if err != nil {
		return nil, err
	}
	script, err := txscript.PayToAddrScript(addr)
	if err != nil {
		return nil, err
	}
	host, err := ports.takeAddr()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	rpc := BtcdRPC{Host: host, User: "sluice", Pass: "regtest", Cert: filepath.Join(dir, "rpc.cert")}
	keyFile := filepath.Join(dir, "rpc.key")
	if err := writeCert(rpc.Cert, keyFile, "devnet btcd"); err != nil {
		return nil, err
	}
	// Without a file of its own btcd reads, or writes, the user's.
	conf := filepath.Join(dir, "btcd.conf")
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		return nil, err
	}
	client, err := newBtcdClient(rpc)
	if err != nil {
		return nil, err
	}

	m := &Miner{rpc: client, key: key, script: script}
	m.proc = NewProc(Command{
		Name: "btcd", Path: binary, LogFile: logFile, Dir: dir,
		Args: []string{
			"--regtest", "--configfile=" + conf,
			"--datadir=" + filepath.Join(dir, "data"), "--logdir=" + filepath.Join(dir, "logs"),
			"--rpclisten=" + rpc.Host, "--rpcuser=" + rpc.User, "--rpcpass=" + rpc.Pass,
			"--rpccert=" + rpc.Cert, "--rpckey=" + keyFile, "--rpcmaxclients=200", "--rpcmaxwebsockets=200",
			"--miningaddr=" + addr.EncodeAddress(),
			"--txindex", "--rejectnonstd", "--nolisten", "--debuglevel=info",
		},
		Ready: func(ctx context.Context) error {
			return WaitFor(ctx, "btcd's RPC server", func(ctx context.Context) (bool, error) {
				_, err := m.Height(ctx)
				return err == nil, err
			})
		},
	})
	if err := m.proc.Start(ctx); err != nil {
		return nil, err
	}
	if _, err := m.Mine(ctx, startBlocks); err != nil {
		return m, errors.Join(fmt.Errorf("mine the first blocks: %w", err), m.proc.Kill())
	}
	return m, nil
}

// Proc is btcd's process, for tests that stop or freeze the chain backend.
func (m *Miner) Proc() *Proc { return m.proc }

// RPC says how to reach btcd.
func (m *Miner) RPC() BtcdRPC { return m.rpc.rpc }

// Call runs any btcd JSON-RPC method; out may be nil.
func (m *Miner) Call(ctx context.Context, out any, method string, params ...any) error {
	return m.rpc.call(ctx, out, method, params...)
}

// Mine makes blocks that hold what is in the mempool. It returns when btcd has
// them; [Net.Mine] also waits for the nodes.
func (m *Miner) Mine(ctx context.Context, blocks int) ([]chainhash.Hash, error) {
	if blocks < 1 {
		return nil, errors.New("the number of blocks must be at least 1")
	}
	var hashes []chainhash.Hash
	return hashes, m.rpc.call(ctx, (*hashList)(&hashes), "generate", blocks)
}

// MineUntil mines one block at a time until cond holds, at most limit blocks.
// It returns how many it mined.
func (m *Miner) MineUntil(ctx context.Context, what string, limit int,
	cond func(context.Context) (bool, error),
) (int, error) {
	for mined := 0; ; mined++ {
		ok, err := cond(ctx)
		if err != nil || ok {
			return mined, err
		}
		if mined == limit {
			return mined, fmt.Errorf("%s: not after %d blocks", what, limit)
		}
		if _, err := m.Mine(ctx, 1); err != nil {
			return mined, err
		}
	}
}

// Height is the number of the best block.
func (m *Miner) Height(ctx context.Context) (int64, error) {
	var height int64
	return height, m.rpc.call(ctx, &height, "getblockcount")
}

// BlockHash returns the hash of the block at height on the best chain.
func (m *Miner) BlockHash(ctx context.Context, height int64) (chainhash.Hash, error) {
	var text string
	if err := m.rpc.call(ctx, &text, "getblockhash", height); err != nil {
		return chainhash.Hash{}, err
	}
	hash, err := chainhash.NewHashFromStr(text)
	if err != nil {
		return chainhash.Hash{}, err
	}
	return *hash, nil
}

// Block returns a block by hash.
func (m *Miner) Block(ctx context.Context, hash chainhash.Hash) (*wire.MsgBlock, error) {
	var text string
	if err := m.rpc.call(ctx, &text, "getblock", hash.String(), 0); err != nil {
		return nil, err
	}
	block := new(wire.MsgBlock)
	return block, block.Deserialize(hex.NewDecoder(strings.NewReader(text)))
}

// Mempool lists the ids of unconfirmed transactions.
func (m *Miner) Mempool(ctx context.Context) ([]chainhash.Hash, error) {
	var txids []chainhash.Hash
	return txids, m.rpc.call(ctx, (*hashList)(&txids), "getrawmempool")
}

// WaitMempool waits until at least n transactions are unconfirmed.
func (m *Miner) WaitMempool(ctx context.Context, n int) ([]chainhash.Hash, error) {
	var txids []chainhash.Hash
	return txids, WaitFor(ctx, fmt.Sprintf("%d transactions in the mempool", n),
		func(ctx context.Context) (_ bool, err error) {
			txids, err = m.Mempool(ctx)
			return len(txids) >= n, err
		})
}

// WaitTxInMempool waits until a transaction is unconfirmed in the mempool.
func (m *Miner) WaitTxInMempool(ctx context.Context, txid chainhash.Hash) error {
	return WaitFor(ctx, fmt.Sprintf("transaction %s in the mempool", txid),
		func(ctx context.Context) (bool, error) {
			txids, err := m.Mempool(ctx)
			return slices.Contains(txids, txid), err
		})
}

// WaitSpendInMempool waits until some transaction in the mempool spends op.
func (m *Miner) WaitSpendInMempool(ctx context.Context, op wire.OutPoint) error {
	return WaitFor(ctx, fmt.Sprintf("a spend of %s in the mempool", op), func(ctx context.Context) (bool, error) {
		txids, err := m.Mempool(ctx)
		if err != nil {
			return false, err
		}
		for _, txid := range txids {
			tx, _, err := m.Tx(ctx, txid)
			if err != nil {
				return false, err
			}
			for _, in := range tx.TxIn {
				if in.PreviousOutPoint == op {
					return true, nil
				}
			}
		}
		return false, nil
	})
}

// Tx returns a transaction and its confirmations (0 while in the mempool).
func (m *Miner) Tx(ctx context.Context, txid chainhash.Hash) (*wire.MsgTx, int64, error) {
	var reply struct {
		Hex           string `json:"hex"`
		Confirmations int64  `json:"confirmations"`
	}
	if err := m.rpc.call(ctx, &reply, "getrawtransaction", txid.String(), 1); err != nil {
		return nil, 0, err
	}
	tx := new(wire.MsgTx)
	return tx, reply.Confirmations, tx.Deserialize(hex.NewDecoder(strings.NewReader(reply.Hex)))
}

// Publish puts a transaction into the mempool.
func (m *Miner) Publish(ctx context.Context, tx *wire.MsgTx) error {
	var buf bytes.Buffer
	if err := tx.Serialize(&buf); err != nil {
		return err
	}
	return m.rpc.call(ctx, nil, "sendrawtransaction", hex.EncodeToString(buf.Bytes()), true)
}

// Reorg replaces the last depth blocks by newBlocks others and returns the
// height after it. The transactions of the old blocks return to the mempool
// and into the first new block, unless the new chain conflicts with them.
// newBlocks must exceed depth, or nodes would see the chain shrink, which the
// real one never does.
func (m *Miner) Reorg(ctx context.Context, depth, newBlocks int) (int64, error) {
	return m.reorg(ctx, depth, newBlocks, func() error {
		_, err := m.Mine(ctx, newBlocks)
		return err
	})
}

func (m *Miner) reorg(ctx context.Context, depth, newBlocks int, mine func() error) (int64, error) {
	if depth < 1 || newBlocks <= depth {
		return 0, fmt.Errorf("reorganise %d blocks by %d: the new chain must be the longer one", depth, newBlocks)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	height, err := m.Height(ctx)
	if err != nil {
		return 0, err
	}
	fork := height - int64(depth)
	first, err := m.BlockHash(ctx, fork+1)
	if err != nil {
		return 0, err
	}
	if err := m.rpc.call(ctx, nil, "invalidateblock", first.String()); err != nil {
		return 0, err
	}
	// Coinbases of the old branch are gone; those of the new one are unknown.
	m.scanned = min(m.scanned, fork)
	m.coins = slices.DeleteFunc(m.coins, func(c minerCoin) bool { return c.height > fork })
	if err := mine(); err != nil {
		return 0, err
	}
	return m.Height(ctx)
}

// hashList decodes a JSON list of hashes in their usual, reversed notation.
type hashList []chainhash.Hash

func (h *hashList) UnmarshalJSON(data []byte) error {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return err
	}
	*h = make(hashList, len(texts))
	for i, text := range texts {
		if err := chainhash.Decode(&(*h)[i], text); err != nil {
			return err
		}
	}
	return nil
}
