package ln_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestSecretShowsItselfToTheDatabaseOnly(t *testing.T) {
	p := ln.Preimage{1, 2, 3}
	type state struct {
		Preimage ln.Secret `json:"preimage"`
	}
	in := state{ln.NewSecret(p)}
	for _, verb := range []string{"%s", "%v", "%+v", "%#v"} {
		require.NotContains(t, fmt.Sprintf(verb, in), "010203", verb)
		require.NotContains(t, fmt.Sprintf(verb, in.Preimage), "010203", verb)
	}
	raw, err := json.Marshal(in)
	require.NoError(t, err)
	require.Contains(t, string(raw), "010203")
	var out state
	require.NoError(t, json.Unmarshal(raw, &out))
	require.Equal(t, p, out.Preimage.Preimage())

	require.True(t, ln.Secret{}.IsZero())
	for _, bad := range []string{`""`, `"01"`, `null`, `12`, `"` + string(raw[13:75]) + `zz"`} {
		err := json.Unmarshal([]byte(bad), &out.Preimage)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "0102")
	}
}
