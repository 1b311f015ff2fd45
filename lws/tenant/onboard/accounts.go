package onboard

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/btcsuite/btcd/btcutil/hdkeychain"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
)

// lnd's accounts: the wallet's own by purpose, and a key family for each account of its
// internal purpose.
const (
	purposeNested  = 49
	purposeWitness = 84
	purposeTaproot = 86
	purposeLnd     = 1017
	// families is how many lnd exports and a node may ask for.
	families = 256
	// depth is that of an account: m/purpose'/coin'/account'.
	depth = 3
)

// identityKey is the node's, backupKey the one of its backups.
func identityKey() ln.KeyLocator { return ln.KeyLocator{Family: 6, Index: 0} }
func backupKey() ln.KeyLocator   { return ln.KeyLocator{Family: 7, Index: 0} }

// CoinType is the second step of lnd's own keys on a network.
func CoinType(network string) uint32 {
	if network == "mainnet" {
		return 0
	}
	return 1
}

func splitHost(address string) (host, port string, err error) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return "", "", fmt.Errorf("the address %q has no port", address)
	}
	host, port = address[:i], address[i+1:]
	if bare := strings.Trim(host, "[]"); bare != host {
		if _, err := netip.ParseAddr(bare); err != nil {
			return "", "", fmt.Errorf("the address %q: %w", address, err)
		}
		host = bare
	}
	return host, port, nil
}

// accounts: everything is there, at the right depth, and nothing of it is private.
func accounts(b bundle.Bundle) (string, error) {
	have := map[[3]uint32]bool{}
	coins := map[uint32]int{}
	for _, a := range b.Accounts {
		purpose, coin, n, err := a.Numbers()
		if err != nil {
			return "", err
		}
		key, err := hdkeychain.NewKeyFromString(a.Key)
		switch {
		case err != nil:
			return "", fail(again, "the key of account %s cannot be read", a.Path)
		case key.IsPrivate():
			return "", fail(again, "the key of account %s is private", a.Path)
		case key.Depth() != depth:
			return "", fail(again, "the key of account %s has depth %d, not %d: it is of another place in the wallet", a.Path, key.Depth(), depth)
		}
		have[[3]uint32{purpose, coin, n}] = true
		if purpose == purposeLnd {
			coins[coin]++
		}
	}
	if len(coins) > 1 {
		return "", fail(again, "lnd's own accounts are of %d networks", len(coins))
	}
	coin := uint32(0)
	for c := range coins {
		coin = c
	}
	var missing []string
	for _, purpose := range []uint32{purposeNested, purposeWitness, purposeTaproot} {
		if !have[[3]uint32{purpose, 0, 0}] {
			missing = append(missing, fmt.Sprintf("m/%d'/0'/0'", purpose))
		}
	}
	lost := 0
	for n := range uint32(families) {
		if !have[[3]uint32{purposeLnd, coin, n}] {
			lost++
		}
	}
	if lost > 0 {
		missing = append(missing, fmt.Sprintf("%d of %d of m/1017'/%d'", lost, families, coin))
	}
	if len(missing) > 0 {
		return "", fail(again, "accounts are missing (%s): lnd would take the rest and stop later", strings.Join(missing, ", "))
	}
	return fmt.Sprintf("%d accounts, none private", len(b.Accounts)), nil
}

// childKey is the public key that an account's extended key gives.
func childKey(b bundle.Bundle, at ln.KeyLocator) (ln.PubKey, error) {
	for _, a := range b.Accounts {
		purpose, _, n, err := a.Numbers()
		if err != nil {
			return ln.PubKey{}, err
		}
		if purpose == purposeLnd && int64(n) == int64(at.Family) {
			return derive(a.Key, 0, uint32(at.Index)) //nolint:gosec // indices of ours are small
		}
	}
	return ln.PubKey{}, fmt.Errorf("there is no account of family %d", at.Family)
}

func derive(text string, path ...uint32) (ln.PubKey, error) {
	key, err := hdkeychain.NewKeyFromString(text)
	if err != nil {
		return ln.PubKey{}, err
	}
	for _, step := range path {
		if key, err = key.Derive(step); err != nil {
			return ln.PubKey{}, err
		}
	}
	public, err := key.ECPubKey()
	if err != nil {
		return ln.PubKey{}, err
	}
	return ln.PubKeyFromBytes(public.SerializeCompressed())
}

// keys: the signer has the keys whose public halves the bundle has. lnd does not ask:
// with another seed it starts, and shows the bundle's key as its own.
func keys(ctx context.Context, in Input, s Signer) (string, error) {
	for _, at := range []ln.KeyLocator{identityKey(), backupKey()} {
		want, err := childKey(in.Bundle, at)
		if err != nil {
			return "", err
		}
		got, err := s.PublicKey(ctx, at)
		if err != nil {
			return "", err
		}
		if got != want {
			return "", fail(again, "the accounts are not the signer's: by them the key %d/%d is %s, the signer has %s", at.Family, at.Index, want, got)
		}
	}
	return "the accounts are the signer's", nil
}

// network: the accounts are of the network that the bundle and the gateway are on.
func network(in Input) (string, error) {
	if in.Bundle.Network != in.Network {
		return "", fail("make the wallet on "+in.Network+", then "+again, "the bundle is for %s, the gateway is on %s", in.Bundle.Network, in.Network)
	}
	for _, a := range in.Bundle.Accounts {
		purpose, coin, _, err := a.Numbers()
		if err != nil {
			return "", err
		}
		if want := CoinType(in.Network); purpose == purposeLnd && coin != want {
			return "", fail("make the wallet on "+in.Network+", then "+again, "the account %s is of another network: on %s it has coin type %d", a.Path, in.Network, want)
		}
		if main := strings.HasPrefix(a.Key, "xpub") || strings.HasPrefix(a.Key, "ypub") || strings.HasPrefix(a.Key, "zpub"); main != (in.Network == "mainnet") {
			return "", fail("make the wallet on "+in.Network+", then "+again, "the key of account %s is written as one of another network (%.4s)", a.Path, a.Key)
		}
	}
	if in.Network == "mainnet" {
		return "mainnet", nil
	}
	return in.Network + " (keys of testnet, signet and regtest look alike: the two sides name it)", nil
}

// birthday: a node whose wallet has none searches every block since August 2017.
func birthday(in Input) (string, error) {
	b := in.Bundle.Birthday
	switch {
	case b.IsZero() && in.AnyBirthday:
		return "unknown: the node will search the chain from August 2017, for hours", nil
	case b.IsZero():
		return "", fail(again+" with --birthday, or have the operator take it as it is (--any-birthday)", "the wallet's birthday is unknown: the node would search the chain from August 2017, for hours")
	case b.After(in.Now.Add(24 * time.Hour)):
		return "", fail("set the signer's clock, then "+again, "the wallet's birthday %s is in the future: coins of it would not be found", b.UTC().Format(time.DateOnly))
	}
	return b.UTC().Format(time.DateOnly), nil
}

// CheckIdentity is the last check, of the node that was made: its key is the bundle's,
// and what it signs is signed with it. signer is the key that a message of the node's
// recovers to.
func CheckIdentity(b bundle.Bundle, shown, signer ln.PubKey) Result {
	want, err := childKey(b, identityKey())
	switch {
	case err != nil:
	case shown != want:
		err = fail("stop the node and remove its directory, and look whose it was", "the node is %s, not the bundle's %s: another wallet was there", shown, want)
	case signer != want:
		err = fail("see that the signer still has the seed of the bundle; then run the command again", "the node shows the key %s and signs with %s: its signer has another seed", want, signer)
	}
	return result(Identity, "the node is "+want.String()+" and signs with that key", err)
}

// NodeKey is the key that the watch-only node will have.
func NodeKey(b bundle.Bundle) (ln.PubKey, error) { return childKey(b, identityKey()) }
