package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// fakeSigner signs what nobody verifies.
type fakeSigner struct{}

func (fakeSigner) SignMessage(_ context.Context, msg []byte) (string, error) {
	return "signed: " + string(msg), nil
}

// vaultDaemon runs the vault of a sluiced without lnd, until stop.
func vaultDaemon(t *testing.T, dir string, restored bool) (d *Daemon, stop func()) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DataDir = dir
	cfg.Backups.VSS.Listen = "localhost:0"
	d = &Daemon{
		cfg: cfg, roles: Roles{Backups: true}, log: zap.NewNop(), now: time.Now, registry: prometheus.NewRegistry(),
		backups: backupsapi.New(), restored: Roles{Backups: restored},
	}
	require.NoError(t, d.openStore(t.Context()))
	require.NoError(t, d.newBackups(t.Context(), fakeSigner{}))
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	cert, err := selfcert.Open(selfcert.Config{CertPath: d.path(fileCert), KeyPath: d.path(fileKey), Now: time.Now, Rand: rand.Reader})
	require.NoError(t, err)
	require.NoError(t, d.runBackups(ctx, group, cert.TLS()))
	return d, func() {
		cancel()
		require.NoError(t, group.Wait())
		require.NoError(t, d.db.Close())
	}
}

// TestVaultOverRestarts: a restart is the same server with the same log; a
// database that went back is another epoch, and says so.
func TestVaultOverRestarts(t *testing.T) {
	dir := t.TempDir()
	d, stop := vaultDaemon(t, dir, false)
	key, epoch := d.vault.Key(), d.vault.Epoch()
	first, err := d.vault.Put(t.Context(), "node:02", vault.Write{Puts: []vault.Item{{Key: "k", Value: []byte("v")}}})
	require.NoError(t, err)
	stop()
	info, err := os.Stat(filepath.Join(dir, fileReceiptKey))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	d, stop = vaultDaemon(t, dir, false)
	require.Equal(t, key, d.vault.Key())
	require.Equal(t, epoch, d.vault.Epoch())
	head, err := d.vault.Head(t.Context(), "node:02", make([]byte, vault.NonceSize))
	require.NoError(t, err)
	verdict, err := vault.Compare(first.Head.Head, head.Head, nil)
	require.NoError(t, err)
	require.Equal(t, vault.Same, verdict)
	stop()

	d, stop = vaultDaemon(t, dir, true)
	require.Equal(t, key, d.vault.Key())
	head, err = d.vault.Head(t.Context(), "node:02", make([]byte, vault.NonceSize))
	require.NoError(t, err)
	verdict, err = vault.Compare(first.Head.Head, head.Head, nil)
	require.NoError(t, err)
	require.Equal(t, vault.Restored, verdict)
	stop()

	require.NoError(t, os.WriteFile(filepath.Join(dir, fileReceiptKey), []byte("not hex\n"), 0o600))
	_, err = (&Daemon{cfg: d.cfg, db: d.db}).receiptKey(t.Context())
	require.Error(t, err, "a damaged key is not replaced in silence")
}

// TestVSSPort: the configured port speaks VSS over TLS.
func TestVSSPort(t *testing.T) {
	dir := t.TempDir()
	d, stop := vaultDaemon(t, dir, false)
	defer stop()
	cert, err := selfcert.Open(selfcert.Config{CertPath: d.path(fileCert), KeyPath: d.path(fileKey), Now: time.Now, Rand: rand.Reader})
	require.NoError(t, err)
	web, err := d.listenVSS(t.Context(), cert.TLS())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- web.Run(ctx) }()
	tlsConfig, err := selfcert.ClientTLS(d.path(fileCert))
	require.NoError(t, err)
	tlsConfig.ServerName = "localhost"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+web.Addr().String()+"/vss/getObject", bytes.NewReader(nil))
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	cancel()
	require.NoError(t, <-done)
}

func TestBackupsSettings(t *testing.T) {
	require.NoError(t, config.Validate(DefaultConfig()))
	for name, change := range map[string]func(*BackupsConfig){
		"an object larger than the quota": func(c *BackupsConfig) { c.QuotaBytes = 1 << 20 },
		"nobody admitted":                 func(c *BackupsConfig) { c.VSS.Listen, c.VSS.Signatures = "x:1", false },
		"bodies smaller than a body":      func(c *BackupsConfig) { c.VSS.Listen, c.VSS.MaxBodies = "x:1", 1<<20 },
		"no rate":                         func(c *BackupsConfig) { c.Rate.Burst = 0 },
	} {
		c := DefaultConfig()
		change(&c.Backups)
		err := config.Validate(c)
		require.Error(t, err, name)
		require.True(t, strings.Contains(err.Error(), "backups"), err)
	}
	roles, err := ParseRoles([]string{"backups"})
	require.NoError(t, err)
	require.Equal(t, Roles{Backups: true}, roles)
	key, err := tokenKey("")
	require.NoError(t, err)
	require.Nil(t, key)
	_, err = tokenKey(filepath.Join(t.TempDir(), "none"))
	require.Error(t, err)
}
