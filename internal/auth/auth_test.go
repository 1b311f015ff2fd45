package auth_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/auth/api/authv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_800_000_000, 0).UTC()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// node is a Lightning node's key that signs as lnd does.
type node struct{ key *btcec.PrivateKey }

func newNode(t testing.TB) node {
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	return node{key}
}

func (n node) pub(t testing.TB) ln.PubKey {
	k, err := ln.PubKeyFromBytes(n.key.PubKey().SerializeCompressed())
	require.NoError(t, err)
	return k
}

func (n node) sign(_ context.Context, message string) (string, error) {
	digest := chainhash.DoubleHashB([]byte("Lightning Signed Message:" + message))
	return auth.EncodeSignature(ecdsa.SignCompact(n.key, digest, true))
}

type fixture struct {
	clock   *clock
	keys    *auth.FileRootKeys
	bakery  *auth.Bakery
	gateway node
	server  auth.Server
	login   *auth.Login
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{clock: newClock(), gateway: newNode(t)}
	var err error
	f.keys, err = auth.NewFileRootKeys(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	f.bakery, err = auth.NewBakery(t.Context(), f.keys, rand.Reader, f.clock.now)
	require.NoError(t, err)
	f.server = auth.Server{NodeKey: f.gateway.pub(t), ID: "deployment-1"}
	f.login = f.newLogin(t)
	return f
}

func (f *fixture) newLogin(t testing.TB) *auth.Login {
	l, err := auth.NewLogin(auth.LoginConfig{
		Server: f.server, Bakery: f.bakery, Services: []string{"lsp", "swaps"},
		MacaroonLife: time.Hour, Rand: rand.Reader, Now: f.clock.now,
	})
	require.NoError(t, err)
	return l
}

func (f *fixture) challenge(t testing.TB, n node, services ...string) *authv1.ChallengeResponse {
	c, err := f.login.Challenge(t.Context(), &authv1.ChallengeRequest{NodeId: n.pub(t).String(), Services: services})
	require.NoError(t, err)
	return c
}

func (f *fixture) answer(t testing.TB, n node, c *authv1.ChallengeResponse) (*authv1.LoginResponse, error) {
	sig, err := n.sign(t.Context(), c.GetMessage())
	require.NoError(t, err)
	return f.login.Login(t.Context(), &authv1.LoginRequest{Message: c.GetMessage(), Seal: c.GetSeal(), Signature: sig})
}

func TestLoginGivesTheNodesIdentity(t *testing.T) {
	f, wallet := newFixture(t), newNode(t)
	got, err := f.answer(t, wallet, f.challenge(t, wallet, "lsp"))
	require.NoError(t, err)
	id, err := f.bakery.Verify(t.Context(), got.GetMacaroon(), "/x/Y")
	require.NoError(t, err)
	require.Equal(t, auth.Identity{
		Kind: auth.KindWallet, RootKey: auth.RootKeyWallets, NodeKey: wallet.pub(t), Services: []string{"lsp"}, Expires: f.clock.now().Add(time.Hour),
	}, id)
	require.True(t, id.Allows("lsp"))
	require.False(t, id.Allows("swaps"))

	f.clock.add(time.Hour)
	_, err = f.bakery.Verify(t.Context(), got.GetMacaroon(), "/x/Y")
	require.ErrorIs(t, err, errkind.Unauthenticated)
	require.ErrorContains(t, err, "expired")
}

func TestLoginRefuses(t *testing.T) {
	wallet, other := newNode(t), newNode(t)
	for name, play := range map[string]func(t *testing.T, f *fixture) error{
		"used twice": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet)
			_, err := f.answer(t, wallet, c)
			require.NoError(t, err)
			_, err = f.answer(t, wallet, c)
			return err
		},
		"used twice after other logins and some time": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet)
			_, err := f.answer(t, wallet, c)
			require.NoError(t, err)
			f.clock.add(119 * time.Second)
			_, err = f.answer(t, other, f.challenge(t, other))
			require.NoError(t, err)
			_, err = f.answer(t, wallet, c)
			return err
		},
		"too late": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet)
			f.clock.add(2 * time.Minute)
			_, err := f.answer(t, wallet, c)
			return err
		},
		"signed by another node": func(t *testing.T, f *fixture) error {
			_, err := f.answer(t, other, f.challenge(t, wallet))
			return err
		},
		"challenge of another server with the same node": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet)
			f.login = f.newLogin(t)
			_, err := f.answer(t, wallet, c)
			return err
		},
		"services added to the text": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet, "lsp")
			c.Message = strings.Replace(c.GetMessage(), "services: lsp", "services: lsp,swaps", 1)
			_, err := f.answer(t, wallet, c)
			return err
		},
		"seal cut short": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet)
			c.Seal = c.GetSeal()[:16]
			_, err := f.answer(t, wallet, c)
			return err
		},
		"no seal": func(t *testing.T, f *fixture) error {
			c := f.challenge(t, wallet)
			c.Seal = nil
			_, err := f.answer(t, wallet, c)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, play(t, newFixture(t)), errkind.Unauthenticated)
		})
	}
	f := newFixture(t)
	for _, req := range []*authv1.ChallengeRequest{
		{},
		{NodeId: "02ab"},
		{NodeId: strings.Repeat("zz", 33)},
		{NodeId: wallet.pub(t).String(), Services: []string{"admin"}},
		{NodeId: wallet.pub(t).String(), Services: []string{"lsp", "lsp"}},
		{NodeId: wallet.pub(t).String(), Services: make([]string, 100)},
	} {
		_, err := f.login.Challenge(t.Context(), req)
		require.ErrorIs(t, err, errkind.Invalid)
	}
}

// A refused signature must not use the challenge up: or whoever saw it could
// keep the node from logging in.
func TestOthersCannotSpendAChallenge(t *testing.T) {
	f, wallet, other := newFixture(t), newNode(t), newNode(t)
	c := f.challenge(t, wallet)
	_, err := f.answer(t, other, c)
	require.Error(t, err)
	_, err = f.answer(t, wallet, c)
	require.NoError(t, err)
}

func TestConcurrentReplayHasOneWinner(t *testing.T) {
	f, wallet := newFixture(t), newNode(t)
	c := f.challenge(t, wallet)
	sig, err := wallet.sign(t.Context(), c.GetMessage())
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won int
	for range 16 {
		wg.Go(func() {
			_, err := f.login.Login(t.Context(), &authv1.LoginRequest{Message: c.GetMessage(), Seal: c.GetSeal(), Signature: sig})
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				won++
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, won)
}

func TestHolderCanNarrowNeverWiden(t *testing.T) {
	f, wallet := newFixture(t), newNode(t)
	got, err := f.answer(t, wallet, f.challenge(t, wallet, "lsp", "swaps"))
	require.NoError(t, err)
	with := func(caveats ...string) string {
		raw, err := hex.DecodeString(got.GetMacaroon())
		require.NoError(t, err)
		var m macaroon.Macaroon
		require.NoError(t, m.UnmarshalBinary(raw))
		for _, c := range caveats {
			require.NoError(t, m.AddFirstPartyCaveat([]byte(c)))
		}
		raw, err = m.MarshalBinary()
		require.NoError(t, err)
		return hex.EncodeToString(raw)
	}
	verify := func(mac string) (auth.Identity, error) {
		return f.bakery.Verify(t.Context(), mac, "/sluice.lsp.v1.Channels/List")
	}

	id, err := verify(with("services lsp,backup"))
	require.NoError(t, err)
	require.Equal(t, []string{"lsp"}, id.Services)
	id, err = verify(with("services "))
	require.NoError(t, err)
	require.False(t, id.Allows("lsp"), "no services must not turn into all services")
	id, err = verify(with("expires 9000000000"))
	require.NoError(t, err)
	require.Equal(t, f.clock.now().Add(time.Hour), id.Expires)
	_, err = verify(with("expires 1"))
	require.ErrorIs(t, err, errkind.Unauthenticated)
	_, err = verify(with("methods /sluice.lsp.v1.Channels/List"))
	require.NoError(t, err)
	_, err = verify(with("methods /other", "methods /sluice.lsp.v1.Channels/List"))
	require.ErrorIs(t, err, errkind.Denied)
	for _, bad := range []string{
		"kind operator", "node " + newNode(t).pub(t).String(), "node x", "expires soon", "weather sunny", "", "services A b",
	} {
		_, err = verify(with(bad))
		require.ErrorIs(t, err, errkind.Unauthenticated, bad)
	}
}

func TestVerifyRefusesForgeries(t *testing.T) {
	f, elsewhere := newFixture(t), newFixture(t)
	foreign, err := elsewhere.bakery.Mint(t.Context(), auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(t, err)
	mine, err := f.bakery.Mint(t.Context(), auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(t, err)
	_, err = f.bakery.Verify(t.Context(), mine, "/x/Y")
	require.NoError(t, err)
	raw, err := hex.DecodeString(mine)
	require.NoError(t, err)
	for i := range raw {
		flipped := append([]byte(nil), raw...)
		flipped[i] ^= 1
		if id, err := f.bakery.Verify(t.Context(), hex.EncodeToString(flipped), "/x/Y"); err == nil {
			// The location is a hint outside of the MAC.
			require.Equal(t, auth.KindOperator, id.Kind)
			require.Contains(t, string(raw[:12]), "sluice")
			require.Less(t, i, 12, "byte %d is not covered", i)
		}
	}
	for _, bad := range []string{"", "zz", foreign, strings.Repeat("00", 5000), mine[:len(mine)-2], mine + "00"} {
		_, err := f.bakery.Verify(t.Context(), bad, "/x/Y")
		require.ErrorIs(t, err, errkind.Unauthenticated, bad)
	}
	_, err = f.bakery.Mint(t.Context(), auth.RootKeyWallets, auth.Identity{Kind: auth.KindWallet})
	require.Error(t, err, "a wallet's macaroon without a node")
}

func TestRevoke(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.bakery.AddRootKey(t.Context(), 7))
	mac, err := f.bakery.Mint(t.Context(), 7, auth.Identity{Kind: auth.KindOperator})
	require.NoError(t, err)
	_, err = f.bakery.Verify(t.Context(), mac, "")
	require.NoError(t, err)
	require.NoError(t, f.bakery.Revoke(t.Context(), 7))
	_, err = f.bakery.Verify(t.Context(), mac, "")
	require.ErrorIs(t, err, errkind.Unauthenticated)
	require.NoError(t, f.bakery.AddRootKey(t.Context(), 7))
	_, err = f.bakery.Verify(t.Context(), mac, "")
	require.ErrorIs(t, err, errkind.Unauthenticated, "a new key under the old id must not revive it")
}

func TestStoreFailureIsNotARefusal(t *testing.T) {
	f := newFixture(t)
	mac, err := f.bakery.Mint(t.Context(), auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(t, err)
	b, err := auth.NewBakery(t.Context(), brokenKeys{}, rand.Reader, f.clock.now)
	require.NoError(t, err)
	_, err = b.Verify(t.Context(), mac, "")
	require.ErrorIs(t, err, errkind.Unavailable)
	require.NotContains(t, errkind.Sentence(err), "disk on fire")
}

type brokenKeys struct{}

func (brokenKeys) RootKey(context.Context, uint64) ([]byte, error) {
	return nil, errors.New("disk on fire")
}

func (brokenKeys) PutRootKey(_ context.Context, _ uint64, k []byte) ([]byte, error) {
	return k, nil
}
func (brokenKeys) DeleteRootKey(context.Context, uint64) error { return nil }

func TestOperatorFile(t *testing.T) {
	f := newFixture(t)
	path := filepath.Join(t.TempDir(), "data", "operator.macaroon")
	wrote, err := f.bakery.OperatorFile(t.Context(), path)
	require.NoError(t, err)
	require.True(t, wrote)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	first, err := auth.ReadMacaroonFile(path)
	require.NoError(t, err)

	again, err := auth.NewBakery(t.Context(), f.keys, rand.Reader, f.clock.now)
	require.NoError(t, err)
	wrote, err = again.OperatorFile(t.Context(), path)
	require.NoError(t, err)
	require.False(t, wrote, "a working file stays across restarts")

	require.NoError(t, again.Revoke(t.Context(), auth.RootKeyOperator))
	rotated, err := auth.NewBakery(t.Context(), f.keys, rand.Reader, f.clock.now)
	require.NoError(t, err)
	wrote, err = rotated.OperatorFile(t.Context(), path)
	require.NoError(t, err)
	require.True(t, wrote, "a revoked file is replaced")
	second, err := auth.ReadMacaroonFile(path)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	_, err = rotated.Verify(t.Context(), first, "")
	require.ErrorIs(t, err, errkind.Unauthenticated)
}

// A vector made with the libraries that lnd's SignMessage uses (btcec's compact
// signature, tv42's zbase32) for the private key of 32 bytes 0x01.
func TestRecoverSignerVector(t *testing.T) {
	const (
		key = "031b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f"
		sig = "rbiujgb71upjifa4jn1874ep1eqhrpz84yxgqcafe5rdneoehypaaukg5o6asm79bw6gsxf141s6nx39re9bkhhw68z86bke1e3scd9i"
	)
	got, err := auth.RecoverSigner("sluice test vector", sig)
	require.NoError(t, err)
	require.Equal(t, key, got.String())
	secret, _ := btcec.PrivKeyFromBytes(bytes.Repeat([]byte{1}, 32))
	own, err := node{secret}.sign(t.Context(), "sluice test vector")
	require.NoError(t, err)
	require.Equal(t, sig, own)
}

func TestRecoverSigner(t *testing.T) {
	n := newNode(t)
	sig, err := n.sign(t.Context(), "hello")
	require.NoError(t, err)
	require.Len(t, sig, 104)
	got, err := auth.RecoverSigner("hello", sig)
	require.NoError(t, err)
	require.Equal(t, n.pub(t), got)
	got, err = auth.RecoverSigner("hellO", sig)
	if err == nil {
		require.NotEqual(t, n.pub(t), got)
	}
	for _, bad := range []string{"", sig[1:], sig + "y", strings.Replace(sig, sig[50:51], "l", 1), strings.Repeat("y", 104)} {
		_, err := auth.RecoverSigner("hello", bad)
		require.ErrorIs(t, err, errkind.Invalid)
	}
}

func FuzzRecoverSigner(f *testing.F) {
	sig, err := newNode(f).sign(f.Context(), "hello")
	require.NoError(f, err)
	f.Add("hello", sig)
	f.Add("", strings.Repeat("y", 104))
	f.Fuzz(func(t *testing.T, message, signature string) {
		if _, err := auth.RecoverSigner(message, signature); err != nil {
			require.ErrorIs(t, err, errkind.Invalid)
		}
	})
}

func FuzzVerifyMacaroon(f *testing.F) {
	fix := newFixture(f)
	good, err := fix.bakery.Mint(f.Context(), auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(f, err)
	f.Add(good)
	f.Add("0201")
	f.Add("")
	f.Fuzz(func(t *testing.T, mac string) {
		if _, err := fix.bakery.Verify(t.Context(), mac, "/x/Y"); err != nil {
			require.Contains(t, []errkind.Kind{errkind.Unauthenticated, errkind.Denied}, errkind.Of(err))
		}
	})
}

// countedKeys counts what is read.
type countedKeys struct {
	auth.RootKeys
	reads atomic.Int64
}

func (k *countedKeys) RootKey(ctx context.Context, id uint64) ([]byte, error) {
	k.reads.Add(1)
	return k.RootKeys.RootKey(ctx, id)
}

// TestMadeUpRootKeysAreNotLookedUpForFree: each would cost a read of the
// database. Who has a macaroon of a key in use is not hindered by that.
func TestMadeUpRootKeysAreNotLookedUpForFree(t *testing.T) {
	f, stranger := newFixture(t), newFixture(t)
	keys := &countedKeys{RootKeys: f.keys}
	bakery, err := auth.NewBakery(t.Context(), keys, rand.Reader, f.clock.now)
	require.NoError(t, err)
	limits := auth.DefaultLimits()
	limits.Address = auth.Rate{PerSecond: 1, Burst: 5}
	const method = "/lsp/Op"
	guard, err := auth.NewGuard(bakery, auth.Permissions{method: {Service: "lsp", For: auth.Operators}}, limits, f.clock.now, nil)
	require.NoError(t, err)
	admit := func(mac string) error {
		_, _, err := guard.Admit(metadata.NewIncomingContext(t.Context(), metadata.Pairs(auth.MetadataMacaroon, mac)), method)
		return err
	}
	good, err := bakery.Mint(t.Context(), auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(t, err)
	before := keys.reads.Load()
	for i := range uint64(50) {
		id := 1_000 + i
		require.NoError(t, stranger.bakery.AddRootKey(t.Context(), id))
		mac, err := stranger.bakery.Mint(t.Context(), id, auth.Identity{Kind: auth.KindOperator})
		require.NoError(t, err)
		require.Error(t, admit(mac))
	}
	require.LessOrEqual(t, keys.reads.Load()-before, int64(5))
	f.clock.add(500 * time.Millisecond)
	require.NoError(t, admit(good))
}

// TestNobodyWhereItIsLetIn: a method may let in who shows no macaroon, without an
// identity and limited by address. What is shown is verified as ever.
func TestNobodyWhereItIsLetIn(t *testing.T) {
	f := newFixture(t)
	limits := auth.DefaultLimits()
	limits.Address = auth.Rate{PerSecond: 1, Burst: 3}
	const open, closed = "/lsp/Open", "/lsp/Closed"
	guard, err := auth.NewGuard(f.bakery, auth.Permissions{
		open: {Service: "lsp", For: auth.Wallets, Nobody: true}, closed: {Service: "lsp", For: auth.Wallets},
	}, limits, f.clock.now, nil)
	require.NoError(t, err)
	ctx, _, err := guard.Admit(t.Context(), open)
	require.NoError(t, err)
	_, known := auth.FromContext(ctx)
	require.False(t, known)
	require.NotEmpty(t, auth.CallerOf(ctx))
	_, _, err = guard.Admit(t.Context(), closed)
	require.Equal(t, errkind.Unauthenticated, errkind.Of(err))
	bad := metadata.NewIncomingContext(t.Context(), metadata.Pairs(auth.MetadataMacaroon, "00"))
	_, _, err = guard.Admit(bad, open)
	require.Equal(t, errkind.Unauthenticated, errkind.Of(err))
	_, _, err = guard.Admit(t.Context(), open)
	require.Equal(t, errkind.Exhausted, errkind.Of(err), "three calls of this address")

	wallet := auth.Identity{Kind: auth.KindWallet, NodeKey: ln.PubKey{2, 1}, Services: []string{"lsp"}, Expires: f.clock.now().Add(time.Hour)}
	mac, err := f.bakery.Mint(t.Context(), auth.RootKeyWallets, wallet)
	require.NoError(t, err)
	ctx, _, err = guard.Admit(metadata.NewIncomingContext(t.Context(), metadata.Pairs(auth.MetadataMacaroon, mac)), open)
	require.NoError(t, err)
	node, err := auth.NodeOf(ctx)
	require.NoError(t, err)
	require.Equal(t, wallet.NodeKey, node)
	_, err = auth.Merge(auth.Permissions{open: {For: auth.Public, Nobody: true}})
	require.Error(t, err)
}
