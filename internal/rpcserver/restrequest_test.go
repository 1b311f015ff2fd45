package rpcserver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
)

// TestWhatIsWrongWithARequest: the sentence names the field and the place, never what
// stood there. That every route answers so is TestGarbageOverREST's, in internal/app.
func TestWhatIsWrongWithARequest(t *testing.T) {
	limits := auth.DefaultLimits()
	limits.Address = auth.Rate{PerSecond: 1e6, Burst: 1e6}
	w := start(t, limits, newProbe())
	const secret = "5ec7e7"
	for _, c := range []struct {
		path, body string
		code       int
		says       string
	}{
		{"", `{"node_id":5}`, http.StatusBadRequest, `The body's value for "node_id" (line 1, column 12) is no text`},
		{"", "{\n \"no_such\": \"" + secret + "\"}", http.StatusBadRequest, `This call has no field "no_such" (line 2, column 2 of the body)`},
		{"", `{"node_id":"a","node_id":"` + secret + `"}`, http.StatusBadRequest, `The field "node_id" stands in the body twice`},
		{"", `{"nodeId":{}}`, http.StatusBadRequest, `The body's value for "node_id" (line 1, column 11) is no text`},
		{"", `{"node_id":` + secret, http.StatusBadRequest, "is not one JSON object of this call's form, from line 1, column 12 on"},
		{"", `{"node_id":"a"`, http.StatusBadRequest, "is not one whole JSON object"},
		{"", `{} ` + secret, http.StatusBadRequest, "is not one JSON object of this call's form, from line 1, column 4 on"},
		{"", `"` + secret + `"`, http.StatusBadRequest, "is not one JSON object"},
		{"", `{"` + strings.Repeat("a", 100) + `":1}`, http.StatusBadRequest, "is not one JSON object"},
		{"", strings.Repeat(" ", 64<<10) + "{}", http.StatusRequestEntityTooLarge, "larger than this server takes, which is 65536 bytes"},
		{"?no_such=" + secret, `{}`, http.StatusBadRequest, `This call has no parameter "no_such"`},
		{"?node_id.inner=" + secret, `{}`, http.StatusBadRequest, `This call has no parameter "node_id.inner"`},
		{"?%zz" + secret, `{}`, http.StatusBadRequest, "name=value"},
	} {
		code, got, _ := w.post("/v1/auth/challenge"+c.path, c.body, nil)
		require.Equal(t, c.code, code, "%.60s%.60s: %v", c.path, c.body, got)
		require.Equal(t, "invalid", got["kind"], "%.60s", c.body)
		require.Contains(t, got["message"], c.says)
		require.NotContains(t, got["message"], secret)
	}
}
