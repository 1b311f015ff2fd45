package lsps0_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// FuzzParseRequest: whatever a peer sends is refused as a bad format or is a
// request that can be answered, and its answer is one that a client reads.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":"a","method":"lsps0.list_protocols","params":{}}`,
		`{"jsonrpc":"2.0","id":"\u2028\ud834\udd1e","method":"lsps2.get_info","params":{"token":null}}`,
		`{"jsonrpc":"2.0","id":7,"method":"m","params":[]}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}`,
		"{\"a\":\"\xff\"}", `[]`, ` { } { `, `{"jsonrpc":"2.0","method":"m","params":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := lsps0.ParseRequest(payload)
		if err != nil {
			require.ErrorIs(t, err, lsps0.ErrBadFormat)
			return
		}
		require.False(t, lsps0.IsComplaint(payload), "a complaint passed for a request")
		require.False(t, r.ID.IsNull())
		refused := r.Params.Only()
		if refused == nil {
			refused = lsps0.MethodNotFound()
		}
		answer, err := lsps0.EncodeError(r.ID, refused, false)
		if err != nil {
			require.ErrorIs(t, err, lsps0.ErrTooLarge)
			return
		}
		require.True(t, json.Valid(answer))
		m, err := lsps0.ParseMessage(answer)
		require.NoError(t, err)
		require.Equal(t, r.ID, m.ID)
		require.Equal(t, refused.Code, m.Error.Code)
		_, err = lsps0.ParseRequest(answer)
		require.ErrorIs(t, err, lsps0.ErrBadFormat, "an answer passed for a request")
	})
}

// FuzzParseMessage: whatever an LSP sends is refused or read, and never both a
// response and a request.
func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":"a","result":{"protocols":[1,2,5]}}`,
		`{"jsonrpc":"2.0","id":"a","error":{"code":-32602,"message":"Invalid params","data":{"unrecognized":[]}}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error","data":null}}`,
		`{"jsonrpc":"2.0","method":"lsps5.x","params":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := lsps0.ParseMessage(payload)
		if err != nil {
			require.ErrorIs(t, err, lsps0.ErrBadFormat)
			return
		}
		if m.Kind == lsps0.KindResponse {
			require.True(t, (m.Error == nil) != (m.Result == nil))
			_, err := lsps0.ParseRequest(payload)
			require.ErrorIs(t, err, lsps0.ErrBadFormat)
			if m.Error != nil {
				for _, r := range m.Error.Message {
					require.GreaterOrEqual(t, r, ' ')
				}
			} else if p, err := lsps0.ParseListProtocols(m.Result); err == nil {
				require.NotNil(t, p.Protocols)
			}
		}
	})
}

// FuzzTypes: an amount has one text, and a datetime that is read is written as
// the spec has it and read again as the same millisecond.
func FuzzTypes(f *testing.F) {
	for _, s := range []string{
		`"0"`, `"18446744073709551615"`, `"18446744073709551616"`, `"01"`, `1`,
		`"2023-05-20T08:30:45.000Z"`, `"2023-05-20T08:30:45+00:00"`, `"0000-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.999999999Z"`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var m lsps0.Msat
		if m.UnmarshalJSON([]byte(text)) == nil {
			b, err := m.MarshalJSON()
			require.NoError(t, err)
			require.Equal(t, text, string(b))
		}
		var d, again lsps0.Datetime
		if d.UnmarshalJSON([]byte(text)) == nil {
			b, err := d.MarshalJSON()
			require.NoError(t, err)
			require.Len(t, b, len(`"2023-05-20T08:30:45.000Z"`))
			require.NoError(t, again.UnmarshalJSON(b))
			require.Equal(t, d.String(), again.String())
		}
	})
}
