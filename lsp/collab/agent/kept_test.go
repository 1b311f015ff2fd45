package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// lostDisk is a wallet whose disk is gone: its lnd was made anew from the seed, so that it
// leases nothing, and its records are those of a backup.
func (n *net5) lostDisk(backup []byte) {
	n.t.Helper()
	dial := n.a.ports.Connect
	n.stop()
	list, err := n.wallet.ListLeases(n.t.Context())
	require.NoError(n.t, err)
	for _, l := range list {
		require.NoError(n.t, n.wallet.ReleaseCoin(n.t.Context(), l.ID, l.Outpoint))
	}
	n.dir = n.t.TempDir()
	_, err = Restore(n.dir, backup)
	require.NoError(n.t, err)
	n.start(dial)
}

// TestRestoredFromItsSeed: a wallet that lost its disk sees a signed joint funding through
// by its backup: the coins are kept again, nothing is handed over any more, and the chain
// decides, whichever way it goes. Nobody's sats are lost.
func TestRestoredFromItsSeed(t *testing.T) {
	t.Run("the LSP publishes", func(t *testing.T) {
		n := newNet(t)
		r, err := n.a.Open(t.Context(), request())
		require.NoError(t, err)
		unsigned, err := Backup(n.dir)
		require.NoError(t, err)
		require.Equal(t, "[]", string(unsigned), "what is not signed may be by now, and is not kept")
		_, err = n.a.Sign(t.Context(), r.Key(), nil)
		require.NoError(t, err)
		backup, err := Backup(n.dir)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond)
		handed := n.counts("SignFunding")
		n.lostDisk(backup)
		restored := n.record(r.Key())
		require.True(t, restored.Restored)
		require.Equal(t, PhaseSigned, restored.Phase)
		n.a.wake()
		require.Eventually(t, func() bool { return n.record(r.Key()).State != "" }, time.Minute, 10*time.Millisecond)
		n.w.Mine(3)
		done := n.phase(r.Key(), PhaseDone)
		require.Empty(t, done.Alarm)
		require.Zero(t, handed.Load())
		require.EqualValues(t, n.before-int64(r.ServiceFeeSat)-int64(r.ChainFeeSat), n.w.Wealth(n.node).TotalMsat()/1000)
		require.NoError(t, n.w.Err())
		after, err := Backup(n.dir)
		require.NoError(t, err)
		require.Equal(t, "[]", string(after))
	})

	t.Run("the LSP never publishes", func(t *testing.T) {
		n := newNet(t)
		r, err := n.a.Open(t.Context(), request())
		require.NoError(t, err)
		// It is signed, and the LSP is away before it takes it.
		n.mu.Lock()
		n.fail = func(method string, done bool) error {
			if strings.HasSuffix(method, "SignFunding") && !done {
				return status.Error(codes.Unavailable, "away")
			}
			return nil
		}
		n.mu.Unlock()
		_, err = n.a.Sign(t.Context(), r.Key(), nil)
		require.Error(t, err)
		backup, err := Backup(n.dir)
		require.NoError(t, err)
		n.lostDisk(backup)
		n.a.wake()
		require.Eventually(t, func() bool { return n.leases() == len(r.Inputs) }, time.Minute, 10*time.Millisecond, "its coins are nobody else's")
		_, err = n.a.Abort(t.Context(), r.Key())
		require.Equal(t, errkind.Conflict, errkind.Of(err), "the LSP may have the signature")
		_, err = n.a.Reclaim(t.Context(), r.Key())
		require.NoError(t, err)
		n.w.Mine(3)
		n.phase(r.Key(), PhaseVoid)
		require.Zero(t, n.leases())
		require.Less(t, n.before-n.w.Wealth(n.node).TotalMsat()/1000, int64(2_000), "it cost one transaction's fee")
	})
}

// counts counts calls of a method from now on.
func (n *net5) counts(method string) *atomic.Int64 {
	calls := &atomic.Int64{}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = func(called string, done bool) error {
		if strings.HasSuffix(called, method) && !done {
			calls.Add(1)
		}
		return nil
	}
	return calls
}

// TestRestoreKeepsWhatIsThere: an older copy replaces nothing, and what is no signed
// funding is no record.
func TestRestoreKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	none, err := Backup(dir)
	require.NoError(t, err)
	require.Nil(t, none)
	_, err = os.Stat(filepath.Join(dir, Dir))
	require.ErrorIs(t, err, os.ErrNotExist, "nothing is made by looking")

	n := newNet(t)
	r, _ := n.lags()
	backup, err := Backup(n.dir)
	require.NoError(t, err)
	n.w.Mine(3)
	n.phase(r.Key(), PhaseDone)
	n.stop()
	keys, err := Restore(n.dir, backup)
	require.NoError(t, err)
	require.Empty(t, keys)
	n.start(n.a.ports.Connect)
	require.Equal(t, PhaseDone, n.record(r.Key()).Phase)

	keys, err = Restore(dir, backup)
	require.NoError(t, err)
	require.Equal(t, []string{r.Key()}, keys)
	keys, err = Restore(dir, backup)
	require.NoError(t, err)
	require.Empty(t, keys)

	for name, bad := range map[string]func(*Record){
		"not signed": func(r *Record) { r.Phase = PhaseReady },
		"no channel": func(r *Record) { r.Channel = ln.Outpoint{} },
		"no coins":   func(r *Record) { r.Inputs = nil },
	} {
		var list []Record
		require.NoError(t, json.Unmarshal(backup, &list))
		bad(&list[0])
		raw, err := json.Marshal(list)
		require.NoError(t, err)
		_, err = Restore(t.TempDir(), raw)
		require.Equal(t, errkind.Invalid, errkind.Of(err), name)
	}
	_, err = Restore(t.TempDir(), []byte("{"))
	require.Equal(t, errkind.Invalid, errkind.Of(err))
}

// anew is a wallet that was made anew from its seed: it derives the same addresses again.
type anew struct {
	Chain
	addresses []string
	derived   int
}

func (a *anew) NewChangeAddress(context.Context) (string, error) {
	a.derived++
	return a.addresses[(a.derived-1)%len(a.addresses)], nil
}

// TestARestoredWalletDerivesItsChange: it would not see what comes to an address that it
// has not derived again. It does so once, and not without end.
func TestARestoredWalletDerivesItsChange(t *testing.T) {
	n := newNet(t)
	var addresses []string
	for range 3 {
		address, err := n.wallet.NewChangeAddress(t.Context())
		require.NoError(t, err)
		addresses = append(addresses, address)
	}
	r, _ := n.lags()
	script, err := funding.ScriptOf(addresses[1], "regtest")
	require.NoError(t, err)
	r.Restored, r.ChangeScript = true, script
	n.stop()
	chain := &anew{Chain: n.wallet, addresses: addresses}
	n.a.ports.Chain = chain
	known, err := n.a.knowChange(t.Context(), r)
	require.NoError(t, err)
	require.True(t, known.ChangeKnown)
	require.Equal(t, 2, chain.derived)
	_, err = n.a.knowChange(t.Context(), known)
	require.NoError(t, err)
	require.Equal(t, 2, chain.derived, "once")
	r.ChangeScript = []byte{1}
	known, err = n.a.knowChange(t.Context(), r)
	require.NoError(t, err)
	require.True(t, known.ChangeKnown)
	require.Equal(t, 2+knowFor, chain.derived)
	r.Restored = false
	_, err = n.a.knowChange(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, 2+knowFor, chain.derived)
}
