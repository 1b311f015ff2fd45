package main

import (
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
	tenants "github.com/sluice-lsp/sluice/lws/tenant/store"
)

// fakeTenants is no fake: the registry is small enough to be the real one.
func fakeTenants(t testing.TB, dir string, bakery *auth.Bakery) (*api.Service, *engine.Engine) {
	t.Helper()
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, tenants.Migrate(t.Context(), db))
	gateway, err := ln.ParsePubKey(fakeGateKey)
	require.NoError(t, err)
	e, err := engine.New(t.Context(), engine.Options{
		DB: db, Bakery: bakery, Services: []string{"lsp", "backups", "watchtower"}, Gateway: gateway, Anchors: filepath.Join(dir, "tenants.audit"),
		Now: time.Now, Random: rand.Reader, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	s := api.New()
	s.Ready(e)
	return s, e
}

// fakeStatement is a node that says whose it is.
func fakeStatement(t testing.TB, id string) (node, signature string) {
	t.Helper()
	secret, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	key, err := ln.PubKeyFromBytes(secret.PubKey().SerializeCompressed())
	require.NoError(t, err)
	gateway, err := ln.ParsePubKey(fakeGateKey)
	require.NoError(t, err)
	signature, err = auth.EncodeSignature(ecdsa.SignCompact(secret, chainhash.DoubleHashB([]byte("Lightning Signed Message:"+tenant.Statement(gateway, id, key))), true))
	require.NoError(t, err)
	return hex.EncodeToString(key[:]), signature
}
