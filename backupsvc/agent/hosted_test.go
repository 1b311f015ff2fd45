package agent_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestABackupOfAPassphrase is a hosted node's: its owner keeps the key off the host,
// made of a passphrase. It backs up, and comes back on a second machine from the
// passphrase and the node's key alone. The host, which can have the signer make the
// secret of the seed, finds and opens nothing with it.
func TestABackupOfAPassphrase(t *testing.T) {
	of := func(words string) seal.Secret {
		s, err := seal.OfPassphrase("regtest", nodeKey(), []byte(words))
		require.NoError(t, err)
		return s
	}
	owner, again, other := of("correct horse battery staple"), of("correct horse battery staple"), of("correct horse battery stable")
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		r.secret = owner
		r.lnd.open = []ln.Outpoint{outpoint(1), outpoint(2)}
		r.keep("invoices.json")
		a, stop := r.start()
		settle(time.Minute)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
		require.NoError(t, a.Drill(t.Context()))
		stop()

		// What the disk had goes with it, the key too.
		m := r.newMachine()
		m.secret = again
		ag, s := survey(t, m)
		require.Empty(t, s.Choice.Against)
		got, err := ag.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
		require.Len(t, got.Channels, 2)
		require.Len(t, m.lnd.pending, 2)
		content, told, err := ag.Extras(t.Context(), s, false)
		require.NoError(t, err)
		require.Empty(t, told)
		require.Equal(t, "invoices.json 1", string(content["invoices.json"]))
		a, stop = m.start()
		settle(10 * time.Minute)
		require.True(t, a.Status().BackedUp, "it goes on: %+v", a.Status())
		stop()

		for name, secret := range map[string]seal.Secret{"the seed": testSecret(t), "another passphrase": other} {
			host := r.newMachine()
			host.secret = secret
			_, s := survey(t, host)
			for _, f := range s.Findings {
				require.Nil(t, f.Snapshot, name)
			}
			for _, p := range r.places {
				for id, sealed := range p.values {
					for _, thing := range []string{"channels", "witness", "invoices.json"} {
						mine, err := secret.ID(thing)
						require.NoError(t, err)
						require.NotEqual(t, id, mine, "the names tell nothing either")
						_, _, err = secret.Open(thing, sealed)
						require.Error(t, err, name)
					}
				}
			}
		}
	})
}
