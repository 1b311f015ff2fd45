package gate_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
	"github.com/sluice-lsp/sluice/lws/tenant/guard/gate"
)

const hard = hdkeychain.HardenedKeyStart

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func master(t testing.TB) *hdkeychain.ExtendedKey {
	t.Helper()
	m, err := hdkeychain.NewMaster(bytes.Repeat([]byte{7}, 32), &chaincfg.RegressionNetParams)
	require.NoError(t, err)
	return m
}

func derive(t testing.TB, path ...uint32) *hdkeychain.ExtendedKey {
	t.Helper()
	key := master(t)
	for _, i := range path {
		var err error
		key, err = key.Derive(i)
		require.NoError(t, err)
	}
	return key
}

func accounts(t testing.TB) (out []guard.Account) {
	t.Helper()
	add := func(purpose, coin, n uint32) {
		key, err := derive(t, purpose+hard, coin+hard, n+hard).Neuter()
		require.NoError(t, err)
		out = append(out, guard.Account{Path: fmt.Sprintf("m/%d'/%d'/%d'", purpose, coin, n), Key: key.String()})
	}
	for _, purpose := range []uint32{49, 84, 86} {
		add(purpose, 0, 0)
	}
	for n := range uint32(10) {
		add(1017, 1, n)
	}
	return out
}

func policy() guard.Policy {
	p := guard.DefaultPolicy("acme", "regtest")
	p.Lookahead, p.AddressSatPerTx, p.AddressSatPerDay = 10, 100_000, 150_000
	return p
}

// payment is a request for the signature over a coin that goes to an address.
func payment(t testing.TB, n byte, sat int64) []byte {
	t.Helper()
	key, err := derive(t, 84+hard, hard, hard, 0, uint32(n)).ECPubKey()
	require.NoError(t, err)
	script := append([]byte{txscript.OP_0, txscript.OP_DATA_20}, btcutil.Hash160(key.SerializeCompressed())...)
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: [32]byte{n}}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(sat, append([]byte{txscript.OP_0, txscript.OP_DATA_20}, bytes.Repeat([]byte{n}, 20)...)))
	packet, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(t, err)
	in := &packet.Inputs[0]
	in.WitnessUtxo, in.SighashType = wire.NewTxOut(sat, script), txscript.SigHashAll
	in.Bip32Derivation = []*psbt.Bip32Derivation{{PubKey: key.SerializeCompressed(), Bip32Path: []uint32{84 + hard, hard, hard, 0, uint32(n)}}}
	var b bytes.Buffer
	require.NoError(t, packet.Serialize(&b))
	return b.Bytes()
}

type clock struct{ at time.Time }

func open(t testing.TB, dir string, c *clock) *gate.Gate {
	t.Helper()
	g, err := gate.Open(dir, func() time.Time { return c.at })
	require.NoError(t, err)
	return g
}

func prepared(t testing.TB) (string, *clock) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, gate.Prepare(dir, policy(), accounts(t), bytes.Repeat([]byte{1}, 32)))
	return dir, &clock{now()}
}

func rule(t testing.TB, err error) guard.Rule {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := errors.AsType[guard.Refusal](err)
	require.True(t, ok, "%v", err)
	return r.Rule
}

func sign(t testing.TB, g *gate.Gate, n byte, sat int64) guard.Rule {
	t.Helper()
	pass, err := g.Psbt(payment(t, n, sat))
	require.Equal(t, err == nil, pass != nil, "nothing to pass on with a refusal")
	return rule(t, err)
}

// TestCountsOutlastEverything: what was counted is there after a crash at any byte of
// the log.
func TestCountsOutlastEverything(t *testing.T) {
	dir, c := prepared(t)
	g := open(t, dir, c)
	require.Empty(t, sign(t, g, 1, 100_000))
	require.NoError(t, g.Close())
	path := filepath.Join(dir, gate.FileLog)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)

	g = open(t, dir, c)
	require.Equal(t, guard.RuleAddressDay, sign(t, g, 2, 50_001))
	require.Empty(t, sign(t, g, 3, 50_000))
	_, err = gate.Open(dir, now)
	require.ErrorContains(t, err, "another guard runs")
	require.NoError(t, g.Close())

	full, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(full, whole))
	for cut := len(whole); cut <= len(full); cut += max(1, min(11, len(full)-cut)) {
		require.NoError(t, os.WriteFile(path, full[:cut], 0o600))
		g = open(t, dir, c)
		report, err := gate.Read(dir, c.at, 10)
		require.NoError(t, err)
		// What was signed for first stays counted whatever was cut off behind it.
		require.Contains(t, []int64{100_000, 150_000}, report.Day.AddressSat)
		if report.Day.AddressSat == 150_000 {
			require.Equal(t, guard.RuleAddressDay, sign(t, g, 4, 1))
		} else {
			require.Empty(t, sign(t, g, 3, 50_000))
			require.Equal(t, guard.RuleAddressDay, sign(t, g, 4, 1))
		}
		require.NoError(t, g.Close())
	}
	// A hole is not started from.
	damaged := bytes.Clone(full)
	damaged[bytes.IndexByte(damaged, '\n')+2] = '\n'
	require.NoError(t, os.WriteFile(path, damaged, 0o600))
	_, err = gate.Open(dir, now)
	require.ErrorContains(t, err, "damaged")
}

// TestPauseAndPolicyCountAtOnce, without a restart.
func TestPauseAndPolicyCountAtOnce(t *testing.T) {
	dir, c := prepared(t)
	g := open(t, dir, c)
	require.NoError(t, g.SharedKey(guard.SharedKey{Key: ln.KeyLocator{Family: 6}, With: nodeBytes(g)}))
	paused := filepath.Join(dir, gate.FilePaused)
	require.NoError(t, os.WriteFile(paused, nil, 0o600))
	for _, err := range []error{
		g.SharedKey(guard.SharedKey{Key: ln.KeyLocator{Family: 6}, With: nodeBytes(g)}),
		g.Message(guard.Message{}), g.MuSig2(guard.MuSig2Session{}), g.Key(ln.KeyLocator{Family: 6}),
	} {
		require.Equal(t, guard.RulePaused, rule(t, err))
	}
	require.Equal(t, guard.RulePaused, sign(t, g, 1, 1))
	require.NoError(t, os.Remove(paused))
	require.Empty(t, sign(t, g, 1, 1))

	set := func(change func(*guard.Policy)) {
		p := policy()
		change(&p)
		text, err := gate.RenderPolicy(p)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, gate.FilePolicy), text, 0o600))
	}
	set(func(p *guard.Policy) { p.AddressSatPerTx = 5 })
	require.Equal(t, guard.RuleAddressTx, sign(t, g, 2, 6))
	set(func(p *guard.Policy) { p.AddressSatPerTx = 6 })
	require.Empty(t, sign(t, g, 2, 6))
	for _, text := range []string{"nonsense", "tenant = 'acme'\nnetwork = 'regtest'\naddresses_sat_per_tx = 5\n", "tenant = 'acme'\nnetwork = 'regtest'\naddress_sat_per_tx = -1\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, gate.FilePolicy), []byte(text), 0o600))
		require.Equal(t, guard.RulePaused, sign(t, g, 3, 1), text)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, gate.FilePolicy)))
	require.Equal(t, guard.RulePaused, sign(t, g, 3, 1))
	set(func(*guard.Policy) {})
	require.Empty(t, sign(t, g, 3, 1))
	// The host's key as well.
	_, err := g.HostKey()
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, gate.FileHostKey)))
	_, err = g.HostKey()
	require.Error(t, err)
	require.NoError(t, g.Close())
	log, err := os.ReadFile(filepath.Join(dir, gate.FileLog))
	require.NoError(t, err)
	for _, kind := range []gate.Kind{gate.Started, gate.Paused, gate.Resumed, gate.Counted, gate.Refused, gate.Summary} {
		require.Contains(t, string(log), `"kind":"`+string(kind)+`"`)
	}
}

func nodeBytes(g *gate.Gate) []byte {
	key := g.Node()
	return key[:]
}

// TestAHostThatAsksForMuch fills no disk, and is told in numbers.
func TestAHostThatAsksForMuch(t *testing.T) {
	dir, c := prepared(t)
	g := open(t, dir, c)
	for range 1000 {
		require.Equal(t, guard.RuleForm, func() guard.Rule { _, err := g.Psbt([]byte("x")); return rule(t, err) }())
	}
	require.Equal(t, guard.RuleUnknown, rule(t, g.Refuse("SendCoins", guard.RuleUnknown, "x")))
	require.NoError(t, g.Summarise())
	require.NoError(t, g.Close())
	log, err := os.ReadFile(filepath.Join(dir, gate.FileLog))
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(log), `"kind":"refused"`), 20)
	report, err := gate.Read(dir, c.at, 5)
	require.NoError(t, err)
	require.Equal(t, int64(1000), report.Counts["refused form"])
	require.Len(t, report.Lines, 5)
	old, err := gate.Read(dir, c.at.Add(25*time.Hour), 5)
	require.NoError(t, err)
	require.Empty(t, old.Counts)
}

// TestPolicyFile: what is written is read, and Prepare leaves a tenant's own policy.
func TestPolicyFile(t *testing.T) {
	dir, _ := prepared(t)
	path := filepath.Join(dir, gate.FilePolicy)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	p, err := gate.ParsePolicy(text)
	require.NoError(t, err)
	p.KnownAddresses = nil
	require.Equal(t, policy(), p)
	require.NoError(t, os.WriteFile(path, append(text, '\n'), 0o600))
	require.NoError(t, gate.Prepare(dir, guard.DefaultPolicy("bolt", "regtest"), accounts(t), nil))
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, append(text, '\n'), again)
	for _, bad := range []func(*guard.Policy){
		func(p *guard.Policy) { p.Tenant = "" },
		func(p *guard.Policy) { p.Network = "moon" },
		func(p *guard.Policy) { p.FeeSatPerDay = btcutil.MaxSatoshi + 1 },
		func(p *guard.Policy) { p.KnownAddresses = []string{"bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"} },
		func(p *guard.Policy) { p.Lookahead = 0 },
	} {
		p := policy()
		bad(&p)
		_, err := gate.RenderPolicy(p)
		require.Error(t, err)
	}
}
