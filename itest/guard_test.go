//go:build itest

package itest

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
	"github.com/sluice-lsp/sluice/lws/tenant/guard/gate"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// guardedSigner is a tenant's signer with a guard before it.
type guardedSigner struct {
	*hosted
	// dir is the guard's, at its address.
	dir, address string
	proc         *devnet.Proc
}

// signUpGuarded is the tenant's side with a guard.
func (h *hosting) signUpGuarded(ctx context.Context, name string) *guardedSigner {
	h.t.Helper()
	x := &guardedSigner{hosted: &hosted{name: name, bundle: filepath.Join(h.dir, name+".bundle")}, dir: filepath.Join(h.dir, name+"-guard")}
	dir := filepath.Join(h.Dir(), name+"-signer")
	rpc, err := h.Port()
	require.NoError(h.t, err)
	x.hosted.address = rpc
	guardAddress, err := h.Port()
	require.NoError(h.t, err)
	out := h.while(ctx, func(ctx context.Context) {
		h.awaitFile(ctx, filepath.Join(dir, "lnd.conf"))
		x.signer, err = h.Adopt(ctx, devnet.Adopted{Name: name + "-signer", Dir: dir, RPC: rpc, MakeWallet: true})
		require.NoError(h.t, err)
		require.NoError(h.t, h.Served(ctx, x.signer))
	}, "signer", "init", "--dir", dir, "--rpc", rpc, "--address", guardAddress, "--guard", x.dir, "--guard-listen", guardAddress, "--network", "regtest",
		"--tenant", name, "--operator", h.key, "--out", x.bundle, "--wait", "3m")
	h.t.Logf("%s:\n%s", name, out)
	bin, err := devnet.FindSluice()
	require.NoError(h.t, err)
	x.address = guardAddress
	x.proc = h.NewProc(devnet.Command{
		Name: name + "-guard", Path: filepath.Join(bin, "sluicectl"), Args: []string{"signer", "guard", "run", "--dir", x.dir, "--listen", guardAddress, "--signer", rpc},
		Ready: func(ctx context.Context) error {
			return devnet.WaitFor(ctx, name+"'s guard to listen", func(ctx context.Context) (bool, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", guardAddress)
				if err != nil {
					return false, nil //nolint:nilerr // not yet
				}
				return true, conn.Close()
			})
		},
	})
	require.NoError(h.t, x.proc.Start(ctx))
	return x
}

// policy changes the tenant's; it counts at once.
func (x *guardedSigner) policy(t *testing.T, change func(*guard.Policy)) {
	t.Helper()
	path := filepath.Join(x.dir, gate.FilePolicy)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	p, err := gate.ParsePolicy(raw)
	require.NoError(t, err)
	change(&p)
	raw, err = gate.RenderPolicy(p)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
}

// bearer is a macaroon as lnd takes it.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"macaroon": string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// dialSigner speaks the signer's RPC as whoever has these files does.
func dialSigner(t *testing.T, address, certPath, macaroonPath string) *grpc.ClientConn {
	t.Helper()
	cert, err := os.ReadFile(certPath)
	require.NoError(t, err)
	mac, err := os.ReadFile(macaroonPath)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(cert))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(bearer(hex.EncodeToString(mac))))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestGuard: a tenant whose signer has a guard before it. It is onboarded through it,
// and a node's whole life passes; then its host is hacked.
func TestGuard(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	x := h.signUpGuarded(ctx, "acme")
	h.onboard(ctx, x.hosted)

	// Nothing may leave to addresses: a channel's whole life needs none of it.
	h.paysAndIsPaid(ctx, x.hosted)
	h.closes(ctx, x.hosted, false)
	h.paysAndIsPaid(ctx, x.hosted)
	h.closes(ctx, x.hosted, true)
	h.opensItsFirst(ctx, x.hosted)
	report := h.guardSays(ctx, x)
	for what := range report.Counts {
		require.NotContains(t, what, "refused", "a node's life was refused something: %v", report)
	}
	for _, l := range report.Lines {
		if l.Kind == gate.Refused {
			require.True(t, tried(l.Method), "only what the onboarding tries, to see that it is refused: %+v", l)
		}
	}

	h.withdraws(ctx, x)
	h.hacked(ctx, x)
	h.paused(ctx, x)
	h.guardDies(ctx, x)
}

// tried: the onboarding calls the method to see that the host may not.
func tried(method string) bool {
	return slices.ContainsFunc(onboard.Forbidden(), func(m string) bool { return strings.HasSuffix(m, "/"+method) })
}

// opensItsFirst: a node with coins and no channel gets those that its operator's policy
// wants, once.
func (h *hosting) opensItsFirst(ctx context.Context, x *hosted) {
	h.t.Helper()
	require.NoError(h.t, h.Fund(ctx, devnet.Funding{Node: x.node, CoinSat: 1_000_000, Coins: 1}))
	for range 2 {
		out, code := h.ctl(ctx, append(x.addFlags, "--first-channels", "1", "--first-channel-sat", "900000")...)
		require.Zero(h.t, code, out)
		require.NotContains(h.t, out, "needs")
	}
	require.NoError(h.t, h.Mine(ctx, 6))
	require.NoError(h.t, devnet.WaitFor(ctx, "the first channel", func(ctx context.Context) (bool, error) {
		list, err := x.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{ActiveOnly: true})
		if err != nil {
			return false, err
		}
		require.LessOrEqual(h.t, len(list.Channels), 1)
		return len(list.Channels) == 1 && list.Channels[0].Capacity == 900_000, nil
	}))
	// Twice, so that the gateway has more to pay with than what it must keep.
	h.pay(ctx, x.node, h.Payer)
	h.pay(ctx, x.node, h.Payer)
	h.pay(ctx, h.Payer, x.node)
	out, code := h.ctl(ctx, append(x.addFlags, "--first-channels", "3", "--first-channel-sat", "900000000")...)
	require.Zero(h.t, code, out)
	require.Contains(h.t, out, "There are 1 of 3 first channels")
}

// guardSays reads the guard's own report.
func (h *hosting) guardSays(ctx context.Context, x *guardedSigner) (report gate.Report) {
	h.t.Helper()
	out, code := h.ctl(ctx, "signer", "guard", "show", "--dir", x.dir, "--last", "10000", "--json")
	require.Zero(h.t, code, out)
	require.NoError(h.t, json.Unmarshal([]byte(out), &report))
	return report
}

// closes ends the tenant's channels, and sees everything come home.
func (h *hosting) closes(ctx context.Context, x *hosted, force bool) {
	h.t.Helper()
	require.NoError(h.t, x.node.WaitNoHTLCs(ctx))
	list, err := x.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(h.t, err)
	for _, c := range list.Channels {
		point, err := devnet.ParsePoint(c.ChannelPoint)
		require.NoError(h.t, err)
		closeChannel(ctx, h.t, h.Net, x.node, devnet.Channel{Point: point}, force)
	}
	require.NoError(h.t, devnet.WaitFor(ctx, "the closed channels to come home", func(ctx context.Context) (bool, error) {
		if err := h.Mine(ctx, 1); err != nil {
			return false, err
		}
		pending, err := x.node.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		if err != nil {
			return false, err
		}
		return len(pending.PendingForceClosingChannels)+len(pending.WaitingCloseChannels) == 0, nil
	}))
}

// send has the node spend on chain.
func (h *hosting) send(ctx context.Context, x *guardedSigner, sat int64) error {
	h.t.Helper()
	to, err := h.Payer.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(h.t, err)
	_, err = x.node.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{Addr: to.Address, Amount: sat, SatPerVbyte: 2, SpendUnconfirmed: true, MinConfs: 0})
	return err
}

// refusedFor requires that the guard refused something by a rule.
func refusedFor(t *testing.T, err error, rule guard.Rule) {
	t.Helper()
	require.ErrorContains(t, err, "the guard refuses ("+string(rule)+")")
}

// withdraws: limits for a transaction and a day, which a running node meets and outlives.
func (h *hosting) withdraws(ctx context.Context, x *guardedSigner) {
	h.t.Helper()
	require.NoError(h.t, h.Fund(ctx, devnet.Funding{Node: x.node, CoinSat: 500_000, Coins: 3}))
	refusedFor(h.t, h.send(ctx, x, 40_000), guard.RuleAddressTx)
	x.policy(h.t, func(p *guard.Policy) { p.AddressSatPerTx, p.AddressSatPerDay = 100_000, 150_000 })
	require.NoError(h.t, h.send(ctx, x, 90_000))
	refusedFor(h.t, h.send(ctx, x, 700_000), guard.RuleAddressTx)
	refusedFor(h.t, h.send(ctx, x, 90_000), guard.RuleAddressDay)
	h.pay(ctx, x.node, h.Payer)
}

// hacked: whoever has the host has its files, and speaks to the guard itself.
func (h *hosting) hacked(ctx context.Context, x *guardedSigner) {
	t := h.t
	_, err := x.node.LN.SignMessage(ctx, &lnrpc.SignMessageRequest{Msg: []byte("log me in as this node")})
	refusedFor(t, err, guard.RuleText)
	conn := dialSigner(t, x.address, filepath.Join(x.node.Dir, "signer.cert"), filepath.Join(x.node.Dir, "signer.macaroon"))
	thief := signrpc.NewSignerClient(conn)
	node := &signrpc.KeyLocator{KeyFamily: 6}
	stranger, err := btcec.NewPrivateKey()
	require.NoError(t, err)

	// A transaction's digest, as a message: lnd's signer would hash and sign it.
	_, err = thief.SignMessage(ctx, &signrpc.SignMessageReq{Msg: make([]byte, 182), KeyLoc: &signrpc.KeyLocator{KeyFamily: 0, KeyIndex: 1}, DoubleHash: true})
	refusedFor(t, err, guard.RuleMessage)
	_, err = thief.DeriveSharedKey(ctx, &signrpc.SharedKeyRequest{
		EphemeralPubkey: stranger.PubKey().SerializeCompressed(), KeyDesc: &signrpc.KeyDescriptor{KeyLoc: &signrpc.KeyLocator{KeyFamily: 7}},
	})
	refusedFor(t, err, guard.RuleSharedKey)
	_, err = thief.SignOutputRaw(ctx, &signrpc.SignReq{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	for _, method := range []string{"/lnrpc.Lightning/BakeMacaroon", "/lnrpc.Lightning/SendCoins", "/walletrpc.WalletKit/FinalizePsbt", "/walletrpc.WalletKit/ListAccounts"} {
		err := conn.Invoke(ctx, method, &lnrpc.GetInfoRequest{}, &lnrpc.StopResponse{})
		require.Equal(t, codes.Unimplemented, status.Code(err), method)
	}

	// The node's private key, by a nonce of the thief's own. Behind the guard: refused.
	// With the signer's narrow macaroon itself, as a host without a guard has it: taken.
	own, err := hex.DecodeString(x.node.PubKey)
	require.NoError(t, err)
	_, err = stealKey(ctx, thief, node, own)
	refusedFor(t, err, guard.RuleMuSig2)
	bare := signrpc.NewSignerClient(dialSigner(t, x.hosted.address, filepath.Join(x.dir, "signer.cert"), filepath.Join(x.dir, "signer.macaroon")))
	stolen, err := stealKey(ctx, bare, node, own)
	require.NoError(t, err, "docs/tenant.md says that a host without a guard can take the keys")
	require.Equal(t, own, stolen.PubKey().SerializeCompressed())
}

// stealKey takes a private key by a MuSig2 session: a partial signature is
// nonce + challenge * coefficient * key, and the caller of lnd's signer may choose the
// nonce.
func stealKey(ctx context.Context, signer signrpc.SignerClient, loc *signrpc.KeyLocator, own []byte) (*btcec.PrivateKey, error) {
	public, err := btcec.ParsePubKey(own)
	if err != nil {
		return nil, err
	}
	// As the second in the sorted list the victim's key has the coefficient 1.
	var other *btcec.PrivateKey
	for other == nil || string(other.PubKey().SerializeCompressed()) >= string(own) {
		if other, err = btcec.NewPrivateKey(); err != nil {
			return nil, err
		}
	}
	mine, err := musig2.GenNonces(musig2.WithPublicKey(public))
	if err != nil {
		return nil, err
	}
	theirs, err := musig2.GenNonces(musig2.WithPublicKey(other.PubKey()))
	if err != nil {
		return nil, err
	}
	session, err := signer.MuSig2CreateSession(ctx, &signrpc.MuSig2SessionRequest{
		KeyLoc: loc, AllSignerPubkeys: [][]byte{own, other.PubKey().SerializeCompressed()}, OtherSignerPublicNonces: [][]byte{theirs.PubNonce[:]},
		Version: signrpc.MuSig2Version_MUSIG2_VERSION_V100RC2, PregeneratedLocalNonce: mine.SecNonce[:],
	})
	if err != nil {
		return nil, err
	}
	msg := sha256.Sum256([]byte("anything"))
	part, err := signer.MuSig2Sign(ctx, &signrpc.MuSig2SignRequest{SessionId: session.SessionId, MessageDigest: msg[:], Cleanup: true})
	if err != nil {
		return nil, err
	}
	sum, err := musig2.AggregateNonces([][musig2.PubNonceSize]byte{mine.PubNonce, theirs.PubNonce})
	if err != nil {
		return nil, err
	}
	keys, _, _, err := musig2.AggregateKeys([]*btcec.PublicKey{public, other.PubKey()}, true)
	if err != nil {
		return nil, err
	}
	all := schnorr.SerializePubKey(keys.FinalKey)
	scalar := func(raw []byte) (out btcec.ModNScalar) {
		out.SetByteSlice(raw)
		return out
	}
	blind := chainhash.TaggedHash(musig2.NonceBlindTag, sum[:], all, msg[:])
	b := scalar(blind[:])
	var r1, r2, r btcec.JacobianPoint
	for i, p := range []*btcec.JacobianPoint{&r1, &r2} {
		key, err := btcec.ParsePubKey(sum[33*i : 33*(i+1)])
		if err != nil {
			return nil, err
		}
		key.AsJacobian(p)
	}
	btcec.ScalarMultNonConst(&b, &r2, &r2)
	btcec.AddNonConst(&r1, &r2, &r)
	r.ToAffine()
	challenge := chainhash.TaggedHash(chainhash.TagBIP0340Challenge, schnorr.SerializePubKey(btcec.NewPublicKey(&r.X, &r.Y)), all, msg[:])
	e := scalar(challenge[:])
	s := scalar(part.LocalPartialSignature)
	k1, k2 := scalar(mine.SecNonce[:32]), scalar(mine.SecNonce[32:64])
	k2.Mul(&b).Add(&k1)
	if r.Y.IsOdd() {
		k2.Negate()
	}
	s.Add(k2.Negate())
	e.InverseNonConst()
	s.Mul(&e)
	for range 2 {
		raw := s.Bytes()
		if key, pub := btcec.PrivKeyFromBytes(raw[:]); pub.IsEqual(public) {
			return key, nil
		}
		s.Negate() // where the sum of the keys is an odd point
	}
	return nil, errors.New("the key did not come out")
}

// paused: at once, the node alive, and nothing lost when it goes on.
func (h *hosting) paused(ctx context.Context, x *guardedSigner) {
	t := h.t
	out, code := h.ctl(ctx, "signer", "guard", "pause", "--dir", x.dir)
	require.Zero(t, code, out)
	refusedFor(t, h.send(ctx, x, 10_000), guard.RulePaused)
	_, err := x.node.Invoice(ctx, 1_000)
	refusedFor(t, err, guard.RulePaused)
	_, err = x.node.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	require.NoError(t, err, "the node outlives a pause")
	require.True(t, h.guardSays(ctx, x).Paused)
	out, code = h.ctl(ctx, "signer", "guard", "resume", "--dir", x.dir)
	require.Zero(t, code, out)
	h.pay(ctx, h.Payer, x.node)
	require.NoError(t, h.send(ctx, x, 10_000))
}

// guardDies: killed, it counts on from its log. The node is down meanwhile: one that
// asked would end, as without its signer.
func (h *hosting) guardDies(ctx context.Context, x *guardedSigner) {
	t := h.t
	before := h.guardSays(ctx, x).Day
	require.NoError(t, x.node.Stop(ctx))
	require.NoError(t, x.proc.Kill())
	require.NoError(t, x.proc.Start(ctx))
	require.NoError(t, x.node.Start(ctx))
	require.NoError(t, h.Served(ctx, x.node))
	require.NoError(t, devnet.WaitFor(ctx, "the guard to count on", func(ctx context.Context) (bool, error) {
		err := h.send(ctx, x, 60_000)
		return err != nil && strings.Contains(err.Error(), string(guard.RuleAddressDay)), nil
	}))
	require.Equal(t, before, h.guardSays(ctx, x).Day)
	h.pay(ctx, x.node, h.Payer)
}
