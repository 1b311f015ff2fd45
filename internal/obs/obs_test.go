package obs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/obs"
)

func TestSecretNeverPrints(t *testing.T) {
	secret := obs.Secret("very-secret-token-0123456789abcdef")
	asJSON, err := json.Marshal(map[string]any{"s": secret})
	require.NoError(t, err)
	for _, text := range []string{
		fmt.Sprint(secret), fmt.Sprintf("%v %+v %#v %s %q %x %X %d", secret, secret, secret, secret, secret, secret, secret, secret),
		fmt.Sprintf("%v", struct{ S obs.Secret }{secret}), string(asJSON), fmt.Errorf("x %w", fmt.Errorf("%s", secret)).Error(),
	} {
		require.NotContains(t, text, "very-secret")
		require.NotContains(t, text, "766572792d736563726574", "hex")
		require.NotContains(t, text, "118 101 114", "decimal bytes")
		require.Contains(t, text, secret.Hint())
	}
	require.Equal(t, "very-secret-token-0123456789abcdef", string(secret.Reveal()))
	require.NotEqual(t, secret.Hint(), obs.Secret("another").Hint())
}

func TestLogFileIsPrivateAndHintsSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "sluiced.log")
	log, closeLog, err := obs.NewLogger(obs.LogConfig{Level: "info", Format: "json", File: path})
	require.NoError(t, err)
	log.Debug("not at this level")
	log.Info("login", obs.SecretField("macaroon", []byte("abc")), zap.Any("again", obs.Secret("abc")))
	require.NoError(t, closeLog())

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	require.Len(t, lines, 1)
	var entry map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &entry))
	require.Equal(t, obs.Secret("abc").Hint(), entry["macaroon"])
	require.Equal(t, obs.Secret("abc").Hint(), entry["again"])
}

func TestBadLogConfigSaysWhatToUse(t *testing.T) {
	_, _, err := obs.NewLogger(obs.LogConfig{Level: "loud", Format: "json"})
	require.ErrorContains(t, err, "use debug, info, warn or error")
	_, _, err = obs.NewLogger(obs.LogConfig{Level: "info", Format: "xml"})
	require.ErrorContains(t, err, "use console or json")
}

func TestRegistriesAreIndependent(t *testing.T) {
	for range 2 {
		reg, err := obs.NewRegistry()
		require.NoError(t, err)
		families, err := reg.Gather()
		require.NoError(t, err)
		var names []string
		for _, f := range families {
			names = append(names, f.GetName())
		}
		require.Contains(t, names, "sluice_build_info")
		require.Contains(t, names, "process_resident_memory_bytes")
	}
}

func TestTracingIsOffWithoutEndpoint(t *testing.T) {
	tracer, stop, err := obs.NewTracer(t.Context(), "sluiced", obs.TraceConfig{})
	require.NoError(t, err)
	_, span := tracer.Tracer("x").Start(context.Background(), "y")
	require.False(t, span.IsRecording())
	require.NoError(t, stop(t.Context()))
}
