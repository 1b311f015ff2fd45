package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	agelib "filippo.io/age"
	"github.com/stretchr/testify/require"
)

// TestSignerInAContainer: what listens on loopback inside of a container is reached by
// nobody, the guard included. So it is the publishing that keeps others out.
func TestSignerInAContainer(t *testing.T) {
	key, err := agelib.GenerateX25519Identity()
	require.NoError(t, err)
	for name, row := range map[string]struct {
		flags []string
		port  string
	}{
		"bare":    {nil, "0.0.0.0:10019:10019"},
		"port":    {[]string{"--listen", "192.0.2.7:11019", "--rpc", "192.0.2.7:11019"}, "192.0.2.7:11019:10019"},
		"guarded": {[]string{"--guard", "GUARD"}, "127.0.0.1:10019:10019"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			at := filepath.Join(dir, "signer")
			for i := range row.flags {
				row.flags[i] = strings.ReplaceAll(row.flags[i], "GUARD", filepath.Join(dir, "guard"))
			}
			out, _, code := ctl(t, dir, append([]string{
				"signer", "init", "--dir", at, "--tenant", "acme", "--operator", key.Recipient().String(), "--address", "signer.example:10029",
				"--network", "regtest", "--out", filepath.Join(dir, "acme.bundle"), "--wait", "1ms", "--form", "container",
			}, row.flags...)...)
			require.Equal(t, 1, code, "nobody starts it here")
			conf, err := os.ReadFile(filepath.Join(at, "lnd.conf"))
			require.NoError(t, err)
			require.Contains(t, strings.Split(string(conf), "\n"), "rpclisten=0.0.0.0:10019")
			require.Contains(t, out, " -p "+row.port+" ")
			// The directory has the wallet: it is no context of a build.
			require.Contains(t, out, "podman build -t lnd-signer - < "+filepath.Join(at, "Containerfile")+" ")
		})
	}
	c := SignerInitCmd{Form: "container"}
	c.Dir, c.RPC, c.Network = "/s", "127.0.0.1:10019", "regtest"
	require.Equal(t, "podman exec -it lnd-signer lncli --lnddir=/signer --rpcserver=127.0.0.1:10019 --network=regtest ", c.lncli())
	c.Form = "plain"
	require.Equal(t, "lncli --lnddir=/s --rpcserver=127.0.0.1:10019 --network=regtest ", c.lncli())
}
