package lnd

import (
	"context"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/verrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Info says who and how the node is.
func (c *Client) Info(ctx context.Context) (ln.NodeInfo, error) {
	resp, err := c.lightning.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	if err != nil {
		return ln.NodeInfo{}, mapError("ask lnd about itself", err)
	}
	key, err := ln.ParsePubKey(resp.IdentityPubkey)
	if err != nil {
		return ln.NodeInfo{}, err
	}
	out := ln.NodeInfo{
		PubKey: key, Alias: resp.Alias, Version: resp.Version, Commit: resp.CommitHash,
		BlockHeight: resp.BlockHeight, BlockHash: resp.BlockHash, BestHeaderAt: time.Unix(resp.BestHeaderTimestamp, 0),
		SyncedToChain: resp.SyncedToChain, SyncedToGraph: resp.SyncedToGraph, Peers: resp.NumPeers, URIs: resp.Uris,
		RequireInterceptor: resp.RequireHtlcInterceptor, StoreFinalResolutions: resp.StoreFinalHtlcResolutions,
		Features: make(map[uint32]string, len(resp.Features)),
	}
	for _, chain := range resp.Chains {
		out.Network = chain.Network
	}
	for bit, f := range resp.Features {
		out.Features[bit] = f.Name
	}
	return out, nil
}

// Version is the node's version as numbers, with its build tags.
type Version struct {
	Major, Minor, Patch uint32
	PreRelease          string
	Text                string
	BuildTags           []string
}

// AtLeast compares release numbers only: a beta of a release counts as it.
func (v Version) AtLeast(major, minor, patch uint32) bool {
	if v.Major != major {
		return v.Major > major
	}
	if v.Minor != minor {
		return v.Minor > minor
	}
	return v.Patch >= patch
}

// Version asks lnd for its version.
func (c *Client) Version(ctx context.Context) (Version, error) {
	resp, err := c.version.GetVersion(ctx, &verrpc.VersionRequest{})
	if err != nil {
		return Version{}, mapError("ask lnd for its version", err)
	}
	return Version{
		Major: resp.AppMajor, Minor: resp.AppMinor, Patch: resp.AppPatch,
		PreRelease: resp.AppPreRelease, Text: resp.Version, BuildTags: resp.BuildTags,
	}, nil
}

// SignMessage signs with the node's key, as `lncli signmessage` does.
func (c *Client) SignMessage(ctx context.Context, msg []byte) (string, error) {
	resp, err := c.lightning.SignMessage(ctx, &lnrpc.SignMessageRequest{Msg: msg})
	if err != nil {
		return "", mapError("sign a message with the node's key", err)
	}
	return resp.Signature, nil
}
