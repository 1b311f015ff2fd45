package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lws/tenant/guard/gate"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// TestGuardInit: the bundle leads to the guard, with a macaroon that is the guard's; the
// signer's stays. Again changes nothing; a new macaroon of the signer's ends the host's.
func TestGuardInit(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "guard")
	w := &world{ctx: t.Context(), now: fakeNow}
	c := SignerInitCmd{Tenant: "acme", Address: "signer.example:10029", Guard: at, GuardAt: "0.0.0.0:10029", Form: "systemd", User: thisRunner().name}
	c.RPC, c.Network = "127.0.0.1:10019", "regtest"
	quiet := func(string, ...any) {}
	first := sampleBundle(t, c.Address)
	signers := first
	require.NoError(t, c.guard(w, &first, quiet))
	require.NotEqual(t, signers.Certificate, first.Certificate)
	require.NotEqual(t, signers.Macaroon, first.Macaroon)
	kept, err := os.ReadFile(filepath.Join(at, guardSignerMacaroon))
	require.NoError(t, err)
	require.Equal(t, signers.Macaroon, kept)
	m, err := remotesigner.ReadMacaroon(first.Macaroon)
	require.NoError(t, err)
	require.Equal(t, onboard.Rights(), m.Ops[0].Actions)
	unit, err := os.ReadFile(filepath.Join(at, "signer-guard.service"))
	require.NoError(t, err)
	require.Contains(t, string(unit), "signer guard run --dir "+at)

	again := signers
	require.NoError(t, c.guard(w, &again, quiet))
	require.Equal(t, first, again)
	hosts, err := certificateHosts(filepath.Join(at, guardCert))
	require.NoError(t, err)
	require.Equal(t, []string{"signer.example"}, hosts)

	renewed := signers
	renewed.Macaroon = append(bytes.Clone(signers.Macaroon[:len(signers.Macaroon)-1]), 1)
	require.NoError(t, c.guard(w, &renewed, quiet))
	require.NotEqual(t, first.Macaroon, renewed.Macaroon)
	key, err := gate.ReadHostKey(at)
	require.NoError(t, err)
	require.NoError(t, remotesigner.VerifyHost(key, renewed.Macaroon))
	require.Error(t, remotesigner.VerifyHost(key, first.Macaroon))
}

// TestGuardCommands: run until it is told to end, pause, resume, show.
func TestGuardCommands(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "guard")
	_, errs, code := ctl(t, dir, "signer", "guard", "pause", "--dir", at)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "there is no guard in")
	// Of a slip in the directory nobody must believe that it signs again.
	_, errs, code = ctl(t, dir, "signer", "guard", "resume", "--dir", at)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "there is no guard in")
	c := SignerInitCmd{Tenant: "acme", Address: "127.0.0.1:10029", Guard: at, GuardAt: "127.0.0.1:0", Form: "plain"}
	c.RPC, c.Network = "127.0.0.1:1", "regtest"
	b := sampleBundle(t, c.Address)
	require.NoError(t, c.guard(&world{ctx: t.Context(), now: fakeNow}, &b, func(string, ...any) {}))

	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errOut bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(&world{ctx: ctx, stdout: &out, stderr: &errOut, now: time.Now, home: dir}, []string{"signer", "guard", "--dir", at, "--listen", address, "--signer", "127.0.0.1:1"})
	}()
	host, err := remotesigner.Dial(remotesigner.Config{Address: address, Certificate: b.Certificate, Macaroon: b.Macaroon, Timeout: 10 * time.Second})
	require.NoError(t, err)
	defer func() { _ = host.Close() }()
	for tries := 0; ; tries++ {
		_, err := host.SignPsbt(ctx, []byte("nonsense"))
		if status.Code(errors.Unwrap(err)) != codes.Unavailable {
			require.ErrorContains(t, err, "the guard refuses (form)")
			break
		}
		require.Less(t, tries, 2000, "it does not listen: %v %s", err, errOut.String())
		require.NoError(t, pace.Pause(ctx, 20*time.Millisecond))
	}

	stdout, _, code := ctl(t, dir, "signer", "guard", "pause", "--dir", at)
	require.Zero(t, code)
	require.Contains(t, stdout, "Paused")
	_, err = host.SignPsbt(ctx, []byte("nonsense"))
	require.ErrorContains(t, err, "the guard refuses (paused)")
	stdout, _, code = ctl(t, dir, "signer", "guard", "show", "--dir", at)
	require.Zero(t, code)
	require.Contains(t, stdout, "PAUSED: nothing is signed.")
	require.Contains(t, stdout, "refused form")
	for range 2 {
		_, _, code = ctl(t, dir, "signer", "guard", "resume", "--dir", at)
		require.Zero(t, code)
	}
	_, err = host.SignPsbt(ctx, []byte("nonsense"))
	require.ErrorContains(t, err, "the guard refuses (form)")
	// Without the host's key nobody is admitted.
	require.NoError(t, os.Remove(filepath.Join(at, gate.FileHostKey)))
	_, err = host.SignPsbt(ctx, []byte("nonsense"))
	require.ErrorContains(t, err, "permission denied")
	now, err := os.ReadFile(filepath.Join(at, guardCert))
	require.NoError(t, err)
	require.Equal(t, b.Certificate, now, "the certificate is the bundle's")
	cancel()
	require.Zero(t, <-ended, errOut.String())
	require.Contains(t, out.String(), "Guarding the signer of node ")
	stdout, _, code = ctl(t, dir, "signer", "guard", "show", "--dir", at, "--json")
	require.Zero(t, code)
	var report gate.Report
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	require.False(t, report.Paused)
	require.Equal(t, "acme", report.Policy.Tenant)
}
