package remotesigner

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// Account is one account of an lnd's wallet, by its public key.
type Account struct {
	Path string
	Key  string
}

// Accounts lists the wallet's accounts, as lncli wallet accounts list does, and the
// fingerprint of its master key.
func (c *Client) Accounts(ctx context.Context) ([]Account, [4]byte, error) {
	var fingerprint [4]byte
	got, err := c.wallet.ListAccounts(ctx, &walletrpc.ListAccountsRequest{})
	if err != nil {
		return nil, fingerprint, fmt.Errorf("list the wallet's accounts: %w", err)
	}
	var out []Account
	for _, a := range got.Accounts {
		if a.ExtendedPublicKey == "" {
			continue // where single keys are imported
		}
		out = append(out, Account{Path: a.DerivationPath, Key: a.ExtendedPublicKey})
		if len(a.MasterKeyFingerprint) == len(fingerprint) {
			copy(fingerprint[:], a.MasterKeyFingerprint)
		}
	}
	return out, fingerprint, nil
}

// Bake makes a macaroon for exactly these methods, under a root key of its own.
func (c *Client) Bake(ctx context.Context, methods []string, rootKey uint64) ([]byte, error) {
	req := &lnrpc.BakeMacaroonRequest{RootKeyId: rootKey}
	for _, m := range methods {
		req.Permissions = append(req.Permissions, &lnrpc.MacaroonPermission{Entity: "uri", Action: m})
	}
	got, err := c.node.BakeMacaroon(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("bake the macaroon: %w", err)
	}
	return hex.DecodeString(got.Macaroon)
}

// RootKeys lists the ids of root keys.
func (c *Client) RootKeys(ctx context.Context) ([]uint64, error) {
	got, err := c.node.ListMacaroonIDs(ctx, &lnrpc.ListMacaroonIDsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list macaroon root keys: %w", err)
	}
	return got.RootKeyIds, nil
}

// DeleteRootKey ends every macaroon that was baked under a root key.
func (c *Client) DeleteRootKey(ctx context.Context, id uint64) error {
	got, err := c.node.DeleteMacaroonID(ctx, &lnrpc.DeleteMacaroonIDRequest{RootKeyId: id})
	if err != nil {
		return fmt.Errorf("delete the macaroon root key %d: %w", id, err)
	}
	if !got.Deleted {
		return fmt.Errorf("lnd did not delete the macaroon root key %d", id)
	}
	return nil
}

// MethodsOf are the methods that permissions of the form entity:action allow at this
// lnd.
func (c *Client) MethodsOf(ctx context.Context, ops []Op) ([]string, error) {
	got, err := c.node.ListPermissions(ctx, &lnrpc.ListPermissionsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list lnd's permissions: %w", err)
	}
	have := map[string]bool{}
	for _, op := range ops {
		for _, a := range op.Actions {
			have[op.Entity+":"+a] = true
		}
	}
	var out []string
	for method, list := range got.MethodPermissions {
		all := len(list.Permissions) > 0
		for _, p := range list.Permissions {
			all = all && have[p.Entity+":"+p.Action]
		}
		if all {
			out = append(out, method)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Network is the chain that this lnd is on.
func (c *Client) Network(ctx context.Context) (string, error) {
	got, err := c.node.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	if err != nil {
		return "", fmt.Errorf("ask lnd about itself: %w", err)
	}
	for _, chain := range got.Chains {
		return chain.Network, nil
	}
	return "", errors.New("lnd names no network")
}

// States of a wallet that waits for somebody, in lnd's words.
const (
	NoWallet = "NON_EXISTING"
	Locked   = "LOCKED"
	Active   = "SERVER_ACTIVE"
)

// poll is how often a state is asked for while it is waited for.
const poll = 200 * time.Millisecond

// Await waits until lnd is in one of the states, through everything that keeps it from
// answering, and gives the state.
func (c *Client) Await(ctx context.Context, states ...string) (string, error) {
	last := errors.New("it was not asked yet")
	for {
		state, err := c.State(ctx)
		if err == nil && slices.Contains(states, state) {
			return state, nil
		}
		if err == nil {
			err = fmt.Errorf("it is in state %s", state)
		}
		if ctx.Err() == nil {
			last = err
		}
		if pace.Pause(ctx, poll) != nil {
			return "", fmt.Errorf("lnd at %s did not come to %s: %w", c.cfg.Address, strings.Join(states, " or "), last)
		}
	}
}

// WatchOnly is what a watch-only wallet is made of.
type WatchOnly struct {
	Password    []byte
	Birthday    time.Time
	Fingerprint [4]byte
	Accounts    []WatchAccount
	// Window is how many unused addresses in a row end the search for coins.
	Window int32
}

// WatchAccount is one of its accounts.
type WatchAccount struct {
	Purpose, Coin, Account uint32
	Key                    string
}

// InitWatchOnly makes the wallet, and gives the node's admin macaroon. It cannot be undone
// but by removing lnd's directory.
func (c *Client) InitWatchOnly(ctx context.Context, w WatchOnly) (macaroon []byte, err error) {
	req := &lnrpc.InitWalletRequest{WalletPassword: w.Password, RecoveryWindow: w.Window, WatchOnly: &lnrpc.WatchOnly{}}
	if !w.Birthday.IsZero() {
		req.WatchOnly.MasterKeyBirthdayTimestamp = uint64(w.Birthday.Unix()) //nolint:gosec // after 1970
	}
	if w.Fingerprint != ([4]byte{}) {
		req.WatchOnly.MasterKeyFingerprint = w.Fingerprint[:]
	}
	for _, a := range w.Accounts {
		req.WatchOnly.Accounts = append(req.WatchOnly.Accounts, &lnrpc.WatchOnlyAccount{Purpose: a.Purpose, CoinType: a.Coin, Account: a.Account, Xpub: a.Key})
	}
	got, err := c.unlock.InitWallet(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("make the watch-only wallet: %w", err)
	}
	return got.AdminMacaroon, nil
}

// IsWatchOnly says whether the node's wallet has no private keys.
func (c *Client) IsWatchOnly(ctx context.Context) (bool, error) {
	got, err := c.wallet.ListAccounts(ctx, &walletrpc.ListAccountsRequest{})
	if err != nil {
		return false, fmt.Errorf("list the node's accounts: %w", err)
	}
	for _, a := range got.Accounts {
		if !a.WatchOnly {
			return false, nil
		}
	}
	return len(got.Accounts) > 0, nil
}

// Identity is the node's key, as it shows it.
func (c *Client) Identity(ctx context.Context) (ln.PubKey, error) {
	got, err := c.node.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	if err != nil {
		return ln.PubKey{}, fmt.Errorf("ask the node about itself: %w", err)
	}
	return ln.ParsePubKey(got.IdentityPubkey)
}

// SignText signs with the node's key, as lncli signmessage does.
func (c *Client) SignText(ctx context.Context, text string) (string, error) {
	got, err := c.node.SignMessage(ctx, &lnrpc.SignMessageRequest{Msg: []byte(text)})
	if err != nil {
		return "", fmt.Errorf("have the node sign: %w", err)
	}
	return got.Signature, nil
}

// Connect connects the node to a peer; one that is connected is no error.
func (c *Client) Connect(ctx context.Context, key ln.PubKey, address string) error {
	_, err := c.node.ConnectPeer(ctx, &lnrpc.ConnectPeerRequest{Addr: &lnrpc.LightningAddress{Pubkey: key.String(), Host: address}, Perm: true})
	if err != nil && !strings.Contains(err.Error(), "already connected") {
		return fmt.Errorf("connect to %s: %w", key.Short(), err)
	}
	return nil
}
