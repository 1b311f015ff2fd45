package onboard_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

func TestAGoodDay(t *testing.T) {
	s, in := day(t)
	r := onboard.Run(t.Context(), *in, s)
	require.Len(t, r.Results, 9)
	for i, x := range r.Results {
		require.Equal(t, onboard.Passed, x.Verdict, "%s: %s", x.Check, x.Said)
		require.Equal(t, onboard.Names()[i], x.Check)
		require.Equal(t, 21+i, x.Code)
		require.Empty(t, x.Next)
	}
	key, err := ln.PubKeyFromBytes(s.seed.family(ln.KeyLocator{Family: 6}).PubKey().SerializeCompressed())
	require.NoError(t, err)
	require.Equal(t, key, r.Node)
	_, failed := r.FirstFailed()
	require.False(t, failed)
	require.Equal(t, 30, onboard.CheckIdentity(in.Bundle, key, key).Code)
	require.Equal(t, onboard.Passed, onboard.CheckIdentity(in.Bundle, key, key).Verdict)
}

// TestEveryRow: each way in which a signer is unfit fails the check of its name, says
// what is wrong and what the tenant does, and leaves the other checks alone.
func TestEveryRow(t *testing.T) {
	other := func(t *testing.T) seed { return newSeed(t, 9, &chaincfg.RegressionNetParams) }
	without := func(list []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
	}
	drop := func(in *onboard.Input, gone func(bundle.Account) bool) {
		in.Bundle.Accounts = slices.DeleteFunc(in.Bundle.Accounts, gone)
	}
	const getInfo, combined = "/lnrpc.Lightning/GetInfo", "/signrpc.Signer/MuSig2GetCombinedNonce"
	for _, c := range []struct {
		name  string
		check onboard.Name
		spoil func(*testing.T, *fakeSigner, *onboard.Input)
		said  string
		// besides are other checks that the same thing fails.
		besides []onboard.Name
	}{
		{"nobody answers", onboard.Reachable, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.away = errors.New("connection refused") }, "nobody answers at signer.example:10019", nil},
		{"another certificate", onboard.Reachable, func(t *testing.T, s *fakeSigner, _ *onboard.Input) {
			s.cert, _ = newCertificate(t, now().Add(1000*time.Hour), host)
		}, "shows another certificate than the bundle", nil},
		{"a certificate for another name", onboard.Reachable, func(t *testing.T, s *fakeSigner, in *onboard.Input) {
			s.cert, in.Bundle.Certificate = newCertificate(t, now().Add(1000*time.Hour), "localhost")
		}, "the certificate is not for signer.example", nil},
		{"a certificate that ends soon", onboard.Reachable, func(t *testing.T, s *fakeSigner, in *onboard.Input) {
			s.cert, in.Bundle.Certificate = newCertificate(t, now().Add(29*24*time.Hour), host)
		}, "the certificate ends on 2026-03-30", nil},
		{"a wallet that is locked", onboard.Unlocked, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.state = "LOCKED" }, "wallet is locked", nil},
		{"no wallet", onboard.Unlocked, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.state = "NON_EXISTING" }, "has no wallet", nil},
		{"a signer that starts", onboard.Unlocked, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.state = "RPC_ACTIVE" }, "is starting: RPC_ACTIVE", nil},
		{"a macaroon that reads only", onboard.Permissions, func(_ *testing.T, s *fakeSigner, in *onboard.Input) {
			s.allowed, in.Ops = []string{getInfo}, []onboard.Op{{Entity: "info", Actions: []string{"read"}}}
		}, "takes the macaroon for nothing at all", []onboard.Name{onboard.Excess}},
		{"a macaroon that was revoked", onboard.Permissions, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.allowed = nil }, "it was revoked", nil},
		{"a macaroon that ends", onboard.Permissions, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) {
			in.Caveats = []string{"time-before 2027-01-01T00:00:00Z"}
		}, "under conditions only (time-before", nil},
		{"the documented macaroon", onboard.Permissions, func(_ *testing.T, s *fakeSigner, in *onboard.Input) {
			s.allowed = append(without(onboard.Rights(), combined), "/walletrpc.WalletKit/FinalizePsbt", "/lnrpc.Lightning/SendCoins")
			in.Ops = onboard.Documented()
		}, "does not allow " + combined, []onboard.Name{onboard.Excess}},
		{"the admin's macaroon", onboard.Excess, func(_ *testing.T, s *fakeSigner, in *onboard.Input) {
			s.allowed = append(onboard.Rights(), onboard.Forbidden()...)
			in.Ops = []onboard.Op{{Entity: "macaroon", Actions: []string{"generate", "read", "write"}}, {Entity: "onchain", Actions: []string{"read", "write"}}}
		}, "allows more than a node needs (macaroon:generate,read,write, onchain:read,write, " + getInfo, nil},
		{"one method too many", onboard.Excess, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) {
			in.Ops = []onboard.Op{{Entity: "uri", Actions: append(onboard.Rights(), "/lnrpc.Lightning/StopDaemon")}}
		}, "(/lnrpc.Lightning/StopDaemon)", nil},
		{"a macaroon that says less than it does", onboard.Excess, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.allowed = append(onboard.Rights(), getInfo) }, "(" + getInfo + ")", nil},
		{"no taproot account", onboard.Accounts, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) {
			drop(in, func(a bundle.Account) bool { return a.Path == "m/86'/0'/0'" })
		}, "accounts are missing (m/86'/0'/0')", nil},
		{"ten families", onboard.Accounts, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) {
			in.Bundle.Accounts = in.Bundle.Accounts[:13]
		}, "246 of 256 of m/1017'/1'", nil},
		{"a key of another depth", onboard.Accounts, func(t *testing.T, s *fakeSigner, in *onboard.Input) {
			public, err := s.seed.derive(84+hard, 0+hard).Neuter()
			require.NoError(t, err)
			in.Bundle.Accounts[1].Key = public.String()
		}, "has depth 2, not 3", nil},
		{"a private key", onboard.Accounts, func(_ *testing.T, s *fakeSigner, in *onboard.Input) {
			in.Bundle.Accounts[1].Key = s.seed.derive(84+hard, 0+hard, 0+hard).String()
		}, "is private", nil},
		{"another seed", onboard.Keys, func(t *testing.T, s *fakeSigner, _ *onboard.Input) { s.seed = other(t) }, "the accounts are not the signer's", []onboard.Name{onboard.Proof}},
		{"a spend that is not signed", onboard.Proof, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) {
			s.psbt = func(raw []byte) []byte {
				p, err := psbt.NewFromRawBytes(bytes.NewReader(raw), false)
				require.NoError(t, err)
				p.Inputs[1].TaprootKeySpendSig = nil
				var out bytes.Buffer
				require.NoError(t, p.Serialize(&out))
				return out.Bytes()
			}
		}, "the P2TR coin is not signed", nil},
		{"a spend of another transaction", onboard.Proof, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) {
			s.psbt = func(raw []byte) []byte {
				p, err := psbt.NewFromRawBytes(bytes.NewReader(raw), false)
				require.NoError(t, err)
				p.UnsignedTx.LockTime = 1
				var out bytes.Buffer
				require.NoError(t, p.Serialize(&out))
				return out.Bytes()
			}
		}, "is another transaction", nil},
		{"no MuSig2", onboard.Proof, func(_ *testing.T, s *fakeSigner, _ *onboard.Input) { s.musig = errors.New("unknown version") }, "opens no MuSig2 session", nil},
		{"another network", onboard.Network, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) { in.Network = "signet" }, "the bundle is for regtest, the gateway is on signet", nil},
		{"mainnet's wallet", onboard.Network, func(t *testing.T, s *fakeSigner, in *onboard.Input) {
			s.seed = newSeed(t, 7, &chaincfg.MainNetParams)
			in.Bundle.Accounts = s.seed.accounts()
		}, "is written as one of another network (xpub)", nil},
		{"no birthday", onboard.Birthday, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) { in.Bundle.Birthday = time.Time{} }, "from August 2017", nil},
		{"a birthday to come", onboard.Birthday, func(_ *testing.T, _ *fakeSigner, in *onboard.Input) { in.Bundle.Birthday = now().Add(48 * time.Hour) }, "is in the future", nil},
	} {
		t.Run(string(c.check)+"/"+c.name, func(t *testing.T) {
			s, in := day(t)
			c.spoil(t, s, in)
			r := onboard.Run(t.Context(), *in, s)
			require.Len(t, r.Results, 9)
			first, failed := r.FirstFailed()
			require.True(t, failed)
			require.Equal(t, c.check, first.Check, first.Said)
			require.Equal(t, c.check.ExitCode(), first.Code)
			require.Contains(t, first.Said, c.said)
			require.NotEmpty(t, first.Next, "what the tenant does")
			if strings.Contains(first.Next, "lncli") {
				// As it can be typed: the signer is not where lncli looks by itself.
				require.Contains(t, first.Next, "lncli --lnddir=DIR --rpcserver=127.0.0.1:10019 --network=regtest ")
			}
			for _, x := range r.Results {
				if x.Verdict == onboard.Failed && x.Check != c.check {
					require.Contains(t, c.besides, x.Check, x.Said)
				}
			}
		})
	}
}

// TestSkipped: what cannot be asked is not failed.
func TestSkipped(t *testing.T) {
	s, in := day(t)
	s.state = "LOCKED"
	r := onboard.Run(t.Context(), *in, s)
	var verdicts []onboard.Verdict
	for _, x := range r.Results {
		verdicts = append(verdicts, x.Verdict)
	}
	p, f, k := onboard.Passed, onboard.Failed, onboard.Skipped
	require.Equal(t, []onboard.Verdict{p, f, k, k, p, k, k, p, p}, verdicts)
	require.Empty(t, s.tried, "nothing was asked of a locked wallet")
}

func TestAnyBirthday(t *testing.T) {
	s, in := day(t)
	in.Bundle.Birthday, in.AnyBirthday = time.Time{}, true
	_, failed := onboard.Run(t.Context(), *in, s).FirstFailed()
	require.False(t, failed)
}

func TestIdentity(t *testing.T) {
	_, in := day(t)
	want, err := onboard.NodeKey(in.Bundle)
	require.NoError(t, err)
	another := ln.PubKey{2, 1}
	for _, c := range []struct {
		shown, signer ln.PubKey
		said          string
	}{
		{another, another, "not the bundle's"},
		{want, another, "its signer has another seed"},
	} {
		r := onboard.CheckIdentity(in.Bundle, c.shown, c.signer)
		require.Equal(t, onboard.Failed, r.Verdict)
		require.Contains(t, r.Said, c.said)
		require.NotEmpty(t, r.Next)
	}
}

// TestNothingForbiddenIsNeeded: the two lists cannot both be right otherwise.
func TestNothingForbiddenIsNeeded(t *testing.T) {
	for _, m := range onboard.Forbidden() {
		require.NotContains(t, onboard.Rights(), m)
	}
	require.Len(t, onboard.Rights(), 11)
}

// TestProbeSpend: always the same transaction, so that it counts at a guard once.
func TestProbeSpend(t *testing.T) {
	_, in := day(t)
	one, err := onboard.ProbeSpend(in.Bundle)
	require.NoError(t, err)
	again, err := onboard.ProbeSpend(in.Bundle)
	require.NoError(t, err)
	require.Equal(t, one, again)
	p, err := psbt.NewFromRawBytes(bytes.NewReader(one), false)
	require.NoError(t, err)
	require.Len(t, p.Inputs, 2)
	in.Bundle.Tenant = "bolt"
	other, err := onboard.ProbeSpend(in.Bundle)
	require.NoError(t, err)
	require.NotEqual(t, one, other)
}
