package devnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"
)

// CoreRPC makes btcd look like Bitcoin Core to programs that follow a chain over
// Core's RPC without TLS, such as LDK Node. btcd's headers say nothing of the
// chain's work, its mempool has no single entries and no least fee, and it has
// no estimatesmartfee. All else passes through as it is.
type CoreRPC struct {
	miner    *Miner
	fees     *FeeServer
	listener net.Listener
	server   *http.Server
}

// StartCoreRPC serves until the network is closed.
func (n *Net) StartCoreRPC() (*CoreRPC, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &CoreRPC{miner: n.miner, fees: n.fees, listener: listener}
	b.server = &http.Server{Handler: http.HandlerFunc(b.answer), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = b.server.Serve(listener) }()
	n.OnClose(b.server.Close)
	return b, nil
}

// Addr is the host and port that it listens on.
func (b *CoreRPC) Addr() (host, port string) {
	host, port, _ = net.SplitHostPort(b.listener.Addr().String())
	return host, port
}

// coreNotFound is Core's code for a transaction that it does not know.
const coreNotFound = -5

func (b *CoreRPC) answer(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Method string          `json:"method"`
		Params []any           `json:"params"`
		ID     json.RawMessage `json:"id"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8<<20)).Decode(&ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	result, err := b.call(r.Context(), ask.Method, ask.Params)
	reply := map[string]any{"id": ask.ID, "result": result, "error": nil}
	if err != nil {
		refused, ok := errors.AsType[*RPCError](err)
		if !ok {
			refused = &RPCError{Code: -1, Message: err.Error()}
		}
		reply["result"], reply["error"] = nil, refused
	}
	body, err := json.Marshal(reply)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func (b *CoreRPC) call(ctx context.Context, method string, params []any) (any, error) {
	switch method {
	case "estimatesmartfee":
		return map[string]any{"feerate": b.feePerKvB(), "blocks": 2}, nil
	case "getblockheader":
		return b.header(ctx, params)
	case "getmempoolinfo":
		var info map[string]any
		if err := b.miner.Call(ctx, &info, method); err != nil {
			return nil, err
		}
		info["mempoolminfee"] = coreMinFee
		return info, nil
	case "getmempoolentry":
		return b.mempoolEntry(ctx, params)
	}
	var raw json.RawMessage
	err := b.miner.Call(ctx, &raw, method, params...)
	return raw, err
}

// Core's fees are in bitcoin per 1,000 virtual bytes.
const coreMinFee = 0.00001

func (b *CoreRPC) feePerKvB() float64 {
	return float64(b.fees.rate.Load()) * coreMinFee
}

// header adds the work of the chain up to a block. On regtest every block has
// the same difficulty, so it is a multiple of the height.
func (b *CoreRPC) header(ctx context.Context, params []any) (any, error) {
	var header map[string]any
	if err := b.miner.Call(ctx, &header, "getblockheader", params...); err != nil {
		return nil, err
	}
	height, ok := header["height"].(float64)
	if !ok {
		return nil, fmt.Errorf("btcd's header has no height: %v", header)
	}
	// A regtest target is met by every other hash: two hashes a block.
	work := new(big.Int).Mul(big.NewInt(2), big.NewInt(int64(height)+1))
	header["chainwork"] = fmt.Sprintf("%064x", work)
	return header, nil
}

func (b *CoreRPC) mempoolEntry(ctx context.Context, params []any) (any, error) {
	var pool map[string]map[string]any
	if err := b.miner.Call(ctx, &pool, "getrawmempool", true); err != nil {
		return nil, err
	}
	if len(params) == 1 {
		if txid, ok := params[0].(string); ok && pool[txid] != nil {
			return pool[txid], nil
		}
	}
	return nil, &RPCError{Method: "getmempoolentry", Code: coreNotFound, Message: "Transaction not in mempool"}
}
