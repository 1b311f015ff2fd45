package lnd

import (
	"bytes"
	"context"
	"fmt"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
)

// BestHeight is the height of the best block that lnd's backend has.
func (c *Client) BestHeight(ctx context.Context) (int32, error) {
	resp, err := c.lightning.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	if err != nil {
		return 0, mapError("ask for the best block", err)
	}
	return int32(resp.BlockHeight), nil //nolint:gosec // lnd's own is an int32
}

// BlockHash is the hash of the block at a height of the best chain.
func (c *Client) BlockHash(ctx context.Context, height int32) ([32]byte, error) {
	what := fmt.Sprintf("ask for the hash of block %d", height)
	resp, err := c.blocks.GetBlockHash(ctx, &chainrpc.GetBlockHashRequest{BlockHeight: int64(height)})
	if err != nil {
		return [32]byte{}, mapError(what, err)
	}
	if len(resp.BlockHash) != 32 {
		return [32]byte{}, fmt.Errorf("%s: lnd's hash has %d bytes", what, len(resp.BlockHash))
	}
	return [32]byte(resp.BlockHash), nil
}

// Block reads a block.
func (c *Client) Block(ctx context.Context, hash [32]byte) (*wire.MsgBlock, error) {
	resp, err := c.blocks.GetBlock(ctx, &chainrpc.GetBlockRequest{BlockHash: hash[:]})
	if err != nil {
		return nil, mapError("read a block", err)
	}
	var block wire.MsgBlock
	if err := block.Deserialize(bytes.NewReader(resp.RawBlock)); err != nil {
		return nil, fmt.Errorf("read a block: lnd's block: %w", err)
	}
	return &block, nil
}
