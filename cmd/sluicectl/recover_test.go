package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/lws/tenant/recovery"
)

// homeNode is the tenant's own node.
type homeNode struct {
	channels []remotesigner.Channel
	closed   []string
	err      error
}

func (n *homeNode) Channels(context.Context) ([]remotesigner.Channel, error) { return n.channels, nil }
func (n *homeNode) ForceClose(_ context.Context, point string) (string, error) {
	if n.err != nil {
		return "", n.err
	}
	n.closed = append(n.closed, point)
	return "tx of " + point, nil
}

// TestCloseFresh: only what was proven, only where the peer is away, and only by the node
// that has what was checked.
func TestCloseFresh(t *testing.T) {
	node := &homeNode{channels: []remotesigner.Channel{
		{Point: "fresh", Updates: 7},
		{Point: "ahead", Updates: 8},
		{Point: "lives", Active: true, Updates: 7},
		{Point: "behind", Updates: 6},
		{Point: "unproven", Updates: 7},
		{Point: "stale", Updates: 7},
		{Point: "unknown", Updates: 7},
	}}
	v := verdicts{}
	for point, is := range map[string]recovery.Verdict{"fresh": recovery.Fresh, "ahead": recovery.Fresh, "lives": recovery.Fresh, "behind": recovery.Fresh, "unproven": recovery.Unproven, "stale": recovery.Stale} {
		v.Channels = append(v.Channels, verdict{Point: point, State: 7, Verdict: is})
	}
	at := fakeNow()
	now := func() time.Time { at = at.Add(time.Second); return at }
	done, err := closeFresh(t.Context(), node, v, fakeNow().Add(2*time.Second), now)
	require.NoError(t, err)
	require.Len(t, done, len(node.channels))
	require.Equal(t, []string{"fresh", "ahead"}, node.closed)
	require.False(t, at.Before(fakeNow().Add(2*time.Second)), "peers had their time to connect")
	said := map[string]string{}
	for _, d := range done {
		said[d.Point] = d.Said
	}
	require.Contains(t, said["lives"], "its peer answers")
	require.Contains(t, said["behind"], "this is not the replica that was checked")
	require.Contains(t, said["unproven"], "unproven")
	require.Contains(t, said["unknown"], "did not see it")
	node.err = errors.New("busy")
	_, err = closeFresh(t.Context(), node, v, at, now)
	require.ErrorIs(t, err, node.err)
}

// TestNothingWithoutACheck: no node is prepared and nothing is closed before the check,
// nor after one that failed.
func TestNothingWithoutACheck(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	dsn := filepath.Join(dir, "dsn")
	require.NoError(t, os.WriteFile(dsn, []byte("postgres://x@127.0.0.1:1/x"), 0o600))
	node := []string{"signer", "recover", "node", filepath.Join(dir, "acme.replica"), "--dir", home, "--dsn-file", dsn, "--backend", dsn, "--signer-dir", filepath.Join(dir, "signer")}
	_, errs, code := ctl(t, dir, node...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "was not checked")
	_, errs, code = ctl(t, dir, "signer", "recover", "close", "--dir", home)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "was not checked")
	found := func(is recovery.Verdict) {
		raw, err := json.Marshal(verdicts{Channels: []verdict{{Point: "a:0", Verdict: is}}})
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(home, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(home, recoveryFile), raw, 0o600))
	}
	found(recovery.Stale)
	_, errs, code = ctl(t, dir, append(node, "--accept-unproven")...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "1 channel(s) are stale")
	found(recovery.Unproven)
	_, errs, code = ctl(t, dir, node...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "not proven that the replica is fresh")
	// While the operator's macaroon is good there would be two nodes of one seed.
	found(recovery.Fresh)
	raw, err := json.Marshal(handover{Version: handoverVersion, Tenant: "acme", Network: "regtest", Name: "sluice_acme", Primary: "postgres://x", Password: "p"})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "acme.replica"), raw, 0o600))
	require.NoError(t, signerAt{Dir: filepath.Join(dir, "signer")}.keepIn(t, signerState{RootKey: 5}))
	_, errs, code = ctl(t, dir, node...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "First: sluicectl signer revoke")
	_, err = os.Stat(filepath.Join(home, "lnd.conf"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func (s signerAt) keepIn(t *testing.T, state signerState) error {
	t.Helper()
	require.NoError(t, os.MkdirAll(s.Dir, 0o700))
	return s.keep(state)
}
