package onboard_test

import (
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

func TestSignerConf(t *testing.T) {
	c := onboard.SignerConf{Network: "regtest", Dir: "/d", Listen: "0.0.0.0:10019", Address: "signer.example:10019"}
	text, err := c.LndConf()
	require.NoError(t, err)
	for _, line := range []string{"nolisten=true", "nobootstrap=true", "rpclisten=0.0.0.0:10019", "tlsextradomain=signer.example", "bitcoin.regtest=true", "bitcoin.node=nochainbackend"} {
		require.Contains(t, strings.Split(text, "\n"), line)
	}
	for address, line := range map[string]string{"192.0.2.1:10019": "tlsextraip=192.0.2.1", "[2001:db8::1]:10019": "tlsextraip=2001:db8::1"} {
		c.Address = address
		text, err = c.LndConf()
		require.NoError(t, err)
		require.Contains(t, strings.Split(text, "\n"), line)
	}
	for _, bad := range []string{"signer.example", "a\nnolisten=false:1"} {
		c.Address = bad
		_, err = c.LndConf()
		require.ErrorIs(t, err, errkind.Invalid, bad)
	}
}

func TestNodeConf(t *testing.T) {
	c := onboard.NodeConf{Tenant: "acme", Network: "mainnet", Dir: "/n", RPC: "127.0.0.1:10009", Peers: "0.0.0.0:9735", Signer: "signer.example:10019", Backend: "# shared\nbitcoin.node=bitcoind\nbitcoind.rpchost=127.0.0.1\n"}
	text, err := c.LndConf()
	require.NoError(t, err)
	for _, line := range []string{
		"remotesigner.enable=true", "remotesigner.rpchost=signer.example:10019", "remotesigner.tlscertpath=/n/signer.cert", "remotesigner.macaroonpath=/n/signer.macaroon",
		"bitcoin.mainnet=true", "bitcoin.node=bitcoind", "db.backend=sqlite", "wallet-unlock-password-file=/n/wallet.password",
	} {
		require.Contains(t, strings.Split(text, "\n"), line)
	}
	c.DSN = "postgres://acme@db/acme"
	text, err = c.LndConf()
	require.NoError(t, err)
	require.Contains(t, text, "db.backend=postgres\ndb.postgres.dsn=postgres://acme@db/acme\n")
	// A backend's file is for the backend.
	for _, bad := range []string{"remotesigner.enable=false", "[Application Options]", "noseedbackup=true", "bitcoin.mainnet=false"} {
		c.Backend = bad
		_, err = c.LndConf()
		require.ErrorIs(t, err, errkind.Invalid, bad)
	}
	c.Backend, c.Tenant = "", "acme\nnoseedbackup=true"
	_, err = c.LndConf()
	require.ErrorIs(t, err, errkind.Invalid)
}

func TestUnit(t *testing.T) {
	text, err := onboard.Unit("lnd of acme", "acme", "/usr/local/bin/lnd", "/var/lib/acme")
	require.NoError(t, err)
	require.Contains(t, text, "ExecStart=/usr/local/bin/lnd --lnddir=/var/lib/acme\n")
	require.Contains(t, text, "Restart=always\n")
	_, err = onboard.Unit("a\nExecStartPre=x", "", "", "")
	require.ErrorIs(t, err, errkind.Invalid)
}

// TestManifests: what Kubernetes reads has the node's files, one pod, and nothing that a
// name could add.
func TestManifests(t *testing.T) {
	files := map[string][]byte{onboard.FileConf: []byte("alias=acme\n"), onboard.FileMacaroon: {0, 1, 2}, onboard.FilePassword: []byte("p: [x")}
	text, err := onboard.Manifests{Tenant: "acme", Namespace: "tenants", Files: files}.Render()
	require.NoError(t, err)
	dec := yaml.NewDecoder(strings.NewReader(text))
	kinds := map[string]map[string]any{}
	for {
		var one map[string]any
		if err := dec.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err, text)
		}
		kinds[one["kind"].(string)] = one
		meta := one["metadata"].(map[string]any)
		require.Equal(t, "lnd-acme", meta["name"])
		require.Equal(t, "tenants", meta["namespace"])
	}
	require.Len(t, kinds, 4)
	data := kinds["Secret"]["data"].(map[string]any)
	require.Len(t, data, len(files))
	for name, content := range files {
		raw, err := base64.StdEncoding.DecodeString(data[name].(string))
		require.NoError(t, err)
		require.Equal(t, content, raw)
	}
	spec := kinds["StatefulSet"]["spec"].(map[string]any)
	require.Equal(t, 1, spec["replicas"])
	pod := spec["template"].(map[string]any)["spec"].(map[string]any)
	container := pod["containers"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"lnd", "--lnddir=/lnd", "--configfile=/secrets/lnd.conf"}, container["command"])
	require.Equal(t, true, pod["securityContext"].(map[string]any)["runAsNonRoot"])
	for _, left := range []string{"NAME", "TENANT", "SECRETS", "DATA", "PORT"} {
		require.NotContains(t, text, left)
	}
	for _, bad := range []onboard.Manifests{{Tenant: "a\nb", Namespace: "x"}, {Tenant: "acme", Namespace: "x: y"}, {Tenant: "acme"}} {
		_, err := bad.Render()
		require.ErrorIs(t, err, errkind.Invalid)
	}

	conf, err := onboard.NodeConf{Tenant: "acme", Network: "mainnet", Dir: onboard.KubernetesDir, Secrets: onboard.KubernetesSecrets, RPC: onboard.KubernetesRPC, Peers: onboard.KubernetesPeers, Signer: "s:1"}.LndConf()
	require.NoError(t, err)
	for _, line := range []string{"tlscertpath=/secrets/tls.cert", "tlskeypath=/secrets/tls.key", "remotesigner.tlscertpath=/secrets/signer.cert", "wallet-unlock-password-file=/secrets/wallet.password", "rpclisten=0.0.0.0:10009"} {
		require.Contains(t, strings.Split(conf, "\n"), line)
	}
}

// TestConfTellsNoSecret: what is wrong with a file is said without its content, which is
// passwords.
func TestConfTellsNoSecret(t *testing.T) {
	c := onboard.NodeConf{Tenant: "acme", Network: "mainnet", Dir: "/n", RPC: "127.0.0.1:10009", Peers: "0.0.0.0:9735", Signer: "signer.example:10019"}
	c.DSN = "postgres://acme:s3cret@db/acme\npostgres://other@db/other"
	_, err := c.LndConf()
	require.ErrorIs(t, err, errkind.Invalid)
	require.NotContains(t, err.Error(), "s3cret")
	require.ErrorContains(t, err, "the database's connection string")
	c.DSN, c.Backend = "", "bitcoin.node=bitcoind\nrpcpassword=s3cret\n"
	_, err = c.LndConf()
	require.ErrorIs(t, err, errkind.Invalid)
	require.NotContains(t, err.Error(), "s3cret")
	require.ErrorContains(t, err, `line 2 ("rpcpassword")`)
}
