package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// TestHostingRows: what an operator must not overlook is in capitals.
func TestHostingRows(t *testing.T) {
	now := fakeNow()
	text := func(r *tenantv1.Tenant) string {
		var out []string
		for _, row := range hostingRows(r, now) {
			out = append(out, strings.TrimSpace(row[0])+": "+row[1])
		}
		return strings.Join(out, "\n")
	}
	require.Empty(t, text(&tenantv1.Tenant{Kind: tenantv1.TenantKind_TENANT_KIND_OWN}))
	require.Contains(t, text(&tenantv1.Tenant{Kind: tenantv1.TenantKind_TENANT_KIND_HOSTED}), "not supervised")
	well := &tenantv1.Hosting{
		AtMs: now.UnixMilli(), State: tenantv1.HostingState_HOSTING_STATE_RUNNING, SignerUp: true, AvailabilityPermille: 999, TimeoutMs: 5000, CertificateEndsMs: now.AddDate(1, 0, 0).UnixMilli(),
		Latencies: []*tenantv1.SigningLatency{{Call: "SignMessage", P50Us: 900, P99Us: 12_000, Samples: 9}},
	}
	require.Equal(t, "Node: running\nStarted again: 0 time(s) in 24 hours\nSigner: answers; 99.9 % of 24 hours\nSignMessage: p50 900µs, p99 12ms of 5s\ncertificate: until "+now.AddDate(1, 0, 0).UTC().Format(time.DateOnly),
		text(&tenantv1.Tenant{Hosting: well}))
	ill := &tenantv1.Hosting{
		AtMs: now.Add(-time.Hour).UnixMilli(), State: tenantv1.HostingState_HOSTING_STATE_DRAINING, Htlcs: 2, Said: "why", TimeoutMs: 5000, CertificateEndsMs: now.AddDate(0, 0, 29).UnixMilli(),
		Latencies: []*tenantv1.SigningLatency{{Call: "SignMessage", P99Us: 1_000_001}},
	}
	got := text(&tenantv1.Tenant{Drain: true, Hosting: ill})
	for _, want := range []string{"Wish: drained", "NOT HEARD OF for 1h0m0s; was draining, 2 HTLC(s) left", "Said: why", "AWAY", "TOO SLOW", "SOON"} {
		require.Contains(t, got, want)
	}
}

// TestNodeProcess: a node of its own session that is started once, is up before it
// answers, and is not started beside whoever has its port.
func TestNodeProcess(t *testing.T) {
	dir := t.TempDir()
	lnd := filepath.Join(dir, "lnd")
	ended := filepath.Join(dir, "end")
	require.NoError(t, os.WriteFile(lnd, []byte("#!/bin/sh\necho \"$1\" >> "+dir+"/starts\nwhile [ ! -e "+ended+" ]; do sleep 0.05; done\n"), 0o700)) //nolint:gosec // a program
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &nodeProcess{n: hostedNode{Tenant: "acme", Dir: dir, RPC: l.Addr().String(), Lnd: lnd}}
	up, serving := p.Look(t.Context())
	require.True(t, up, "somebody has its port")
	require.False(t, serving)
	require.NoError(t, l.Close())
	up, _ = p.Look(t.Context())
	require.False(t, up)
	require.NoError(t, p.Start(t.Context()))
	require.NoError(t, p.Start(t.Context()))
	up, serving = p.Look(t.Context())
	require.True(t, up)
	require.False(t, serving)
	require.NoError(t, os.WriteFile(ended, nil, 0o600))
	<-p.child
	starts, err := os.ReadFile(filepath.Join(dir, "starts"))
	require.NoError(t, err)
	require.Equal(t, "--lnddir="+dir+"\n", string(starts))
	up, _ = p.Look(t.Context())
	require.False(t, up)
	p.n.Lnd = filepath.Join(dir, "none")
	require.Error(t, p.Start(t.Context()))
}

// TestHostedNotes: what tenant add notes is what the supervisor reads; it refuses less.
func TestHostedNotes(t *testing.T) {
	dir := t.TempDir()
	c := TenantAddCmd{Tenant: "acme", Dir: "/var/lib/lnd-acme", NodeRPC: "127.0.0.1:10109", Network: "regtest", Form: "systemd", Lnd: "/usr/local/bin/lnd"}
	key := ln.PubKey{2, 7}
	require.NoError(t, c.note(&Globals{DataDir: dir}, sampleBundle(t, "signer.example:10029"), &held{node: key, place: tenant.Place{ID: "01", Words: "alpha:/var/lib/lnd-acme"}}))
	file := filepath.Join(dir, hostedDir, "acme.json")
	n, err := readHosted(file)
	require.NoError(t, err)
	require.NotEmpty(t, n.Probe)
	n.Probe = nil
	require.Equal(t, hostedNode{Tenant: "acme", Dir: "/var/lib/lnd-acme", RPC: "127.0.0.1:10109", Network: "regtest", Signer: "signer.example:10029", Node: key.String(), Unit: "lnd-acme", Lnd: "/usr/local/bin/lnd", PlaceID: "01", Place: "alpha:/var/lib/lnd-acme"}, n)
	n.Signer = ""
	raw, err := json.Marshal(n)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	_, err = readHosted(file)
	require.Error(t, err)
}

// TestSuperviseEnds when it is told to, with a node whose files are not there.
func TestSuperviseEnds(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, TenantAddCmd{Tenant: "acme", Dir: filepath.Join(dir, "none"), NodeRPC: "127.0.0.1:1"}.note(&Globals{DataDir: dir}, sampleBundle(t, "127.0.0.1:2"), &held{node: ln.PubKey{2}}))
	ctx, cancel := context.WithCancel(t.Context())
	var errs bytes.Buffer
	s := &supervised{dir: filepath.Join(dir, hostedDir), log: logTo(&errs)}
	s.scan(ctx)
	require.Contains(t, errs.String(), "cannot be supervised yet")
	require.Empty(t, s.watches())
	cancel()
	s.tasks.Wait()
}

// seedSigner answers every call, with whatever seed it has.
type seedSigner struct {
	secret *btcec.PrivateKey
	err    error
}

func (s seedSigner) SharedKey(context.Context, ln.KeyLocator, ln.PubKey) error { return s.err }
func (s seedSigner) SignMessage(_ context.Context, _ ln.KeyLocator, msg []byte) ([]byte, error) {
	digest := sha256.Sum256(msg)
	return ecdsa.Sign(s.secret, digest[:]).Serialize(), nil
}
func (s seedSigner) SignPsbt(context.Context, []byte) ([]byte, error)       { return nil, s.err }
func (s seedSigner) Certificate(context.Context) (*x509.Certificate, error) { return nil, s.err }

// TestASignerWithAnotherSeed answers every call, and the node would not notice: the watch
// does, and calls it away.
func TestASignerWithAnotherSeed(t *testing.T) {
	right, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	wrong, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	node, err := ln.PubKeyFromBytes(right.PubKey().SerializeCompressed())
	require.NoError(t, err)
	took, err := signerProbe{tenant: "acme", node: node, client: seedSigner{secret: right}}.Probe(t.Context())
	require.NoError(t, err)
	require.Len(t, took, 2)
	took, err = signerProbe{tenant: "acme", node: node, spend: []byte{1}, client: seedSigner{secret: right}}.Probe(t.Context())
	require.NoError(t, err)
	require.Contains(t, took, "SignPsbt")
	_, err = signerProbe{tenant: "acme", node: node, client: seedSigner{secret: wrong}}.Probe(t.Context())
	require.ErrorIs(t, err, errOtherSeed)
	_, err = signerProbe{tenant: "acme", client: seedSigner{secret: wrong}}.Probe(t.Context())
	require.NoError(t, err, "a note of before names no node")
	_, err = signerProbe{tenant: "acme", node: node, client: seedSigner{secret: right, err: context.DeadlineExceeded}}.Probe(t.Context())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
