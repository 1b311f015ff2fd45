package app

import (
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/matrixtest"
)

// TestGarbageOverREST walks every route with requests that are wrong in one way each:
// no JSON, other types, numbers beyond all types, nesting, bodies too large, bytes that
// are no base64, fields and parameters that are none, paths and queries that are no
// text. Each has an error of the caller's with its status, short and clear, and neither
// an answer nor the log repeats a secret. The services have nothing behind them: what
// they do with what is nearly right is in TestGarbageAtEveryCall, and in itest's
// TestGarbage, which takes the same walk.
func TestGarbageOverREST(t *testing.T) {
	x := startIsolated(t)
	who := make(map[string]string)
	for _, c := range x.callers() {
		who[c.Name] = c.Macaroon
	}
	s := drawnSeed(t)
	rng := rand.New(rand.NewPCG(s, 0xbad))
	g := &matrixtest.RESTGarbage{
		Root: filepath.Join("..", ".."), Base: x.rest, Client: x.client, MaxBytes: rpcserver.DefaultMaxMessageBytes,
		Macaroon: func(_ string, a matrixtest.Audience) string {
			switch {
			case a.Public || a.Wallets:
				return who["a wallet"]
			case a.Tenants:
				return who["a tenant's admin"]
			}
			return who["the operator"]
		},
		Also: []int{http.StatusServiceUnavailable, http.StatusNotImplemented},
		Made: &matrixtest.Garbage{Rand: rng, NodeKey: make([]byte, 33), Texts: []string{"acme", "acme-admin", "standard"}},
	}
	wrong, err := g.Walk(t.Context(), x.conn)
	require.NoError(t, err)
	for _, w := range wrong {
		t.Error(w)
	}
	t.Logf("answers: %v", g.Answers)
	require.Greater(t, g.Answers[http.StatusBadRequest], 2000)
	require.Greater(t, g.Answers[http.StatusRequestEntityTooLarge], 40)
	require.Greater(t, g.Answers[http.StatusUnauthorized], 60)
	require.Zero(t, g.Answers[http.StatusInternalServerError])
	require.False(t, matrixtest.Tells(x.log.String()), "the log repeats a secret")
}
