package lsps0_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// The examples of bLIP-50.
func TestSpecExamples(t *testing.T) {
	r, err := lsps0.ParseRequest([]byte(`{
  "method": "lsps0.list_protocols",
  "jsonrpc": "2.0",
  "id": "example#3cad6a54d302edba4c9ade2f7ffac098",
  "params": {}
}`))
	require.NoError(t, err)
	require.Equal(t, lsps0.MethodListProtocols, r.Method)
	require.Nil(t, r.Params.Only())
	b, err := lsps0.EncodeResult(r.ID, lsps0.NewListProtocols(0, 1, 3))
	require.NoError(t, err)
	require.Equal(t, `{"jsonrpc":"2.0","id":"example#3cad6a54d302edba4c9ade2f7ffac098","result":{"protocols":[1,3]}}`, string(b))

	m, err := lsps0.ParseMessage([]byte(`{ "jsonrpc": "2.0", "id": "example#3cad6a54d302edba4c9ade2f7ffac098",
	  "result": { "protocols": [1, 3], "example-undefined-key-that-clients-should-ignore": true } }`))
	require.NoError(t, err)
	require.Equal(t, r.ID, m.ID)
	got, err := lsps0.ParseListProtocols(m.Result)
	require.NoError(t, err)
	require.Equal(t, []int{1, 3}, got.Protocols)

	r, err = lsps0.ParseRequest([]byte(`{"jsonrpc":"2.0","method":"example.method_name",
	  "params":{"future_feature1_param":"value1","future_feature2_param":"value2"},"id":"42"}`))
	require.NoError(t, err)
	b, err = lsps0.EncodeError(r.ID, r.Params.Only("future_feature2_param"), false)
	require.NoError(t, err)
	require.JSONEq(t, `{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"unrecognized":["future_feature1_param"]}},"id":"42"}`, string(b))

	b, err = lsps0.EncodeResult(r.ID, lsps0.NewListProtocols())
	require.NoError(t, err)
	require.JSONEq(t, `{"jsonrpc":"2.0","id":"42","result":{"protocols":[]}}`, string(b))
}

// Each payload is a bad message format for the LSP (-32700, id null).
func TestBadFormat(t *testing.T) {
	good := `{"jsonrpc":"2.0","id":"a","method":"m","params":{}}`
	for name, payload := range map[string]string{
		"empty":                 "",
		"half an object":        "{",
		"an array":              " [ ] ",
		"a batch":               "[" + good + "]",
		"a number":              "1",
		"a text":                `"` + "x" + `"`,
		"null":                  "null",
		"two objects":           "{ } { }",
		"an object and a half":  "{ } { ",
		"a request and more":    good + "x",
		"an empty object":       " { } ",
		"a 0 byte":              good + "\x00",
		"a 0 byte in a name":    "{\"json\x00rpc\":\"2.0\"}",
		"not UTF-8":             strings.Replace(good, "m", "\xff", 1),
		"a byte order mark":     "\xef\xbb\xbf" + good,
		"no jsonrpc":            `{"id":"a","method":"m","params":{}}`,
		"jsonrpc 1.0":           strings.Replace(good, "2.0", "1.0", 1),
		"jsonrpc a number":      strings.Replace(good, `"2.0"`, `2.0`, 1),
		"names in another case": strings.Replace(good, "method", "Method", 1),
		"no method":             `{"jsonrpc":"2.0","id":"a","params":{}}`,
		"method a number":       strings.Replace(good, `"m"`, `1`, 1),
		"a notification":        `{"jsonrpc":"2.0","method":"m","params":{}}`,
		"id null":               strings.Replace(good, `"a"`, `null`, 1),
		"id a fraction":         strings.Replace(good, `"a"`, `1.5`, 1),
		"id an exponent":        strings.Replace(good, `"a"`, `1e3`, 1),
		"id an object":          strings.Replace(good, `"a"`, `{}`, 1),
		"id too long":           strings.Replace(good, `"a"`, `"`+strings.Repeat("a", lsps0.MaxIDLen+1)+`"`, 1),
		"id a huge integer":     strings.Replace(good, `"a"`, strings.Repeat("9", 21), 1),
		"a response":            `{"jsonrpc":"2.0","id":"a","result":{}}`,
		"both at once":          `{"jsonrpc":"2.0","id":"a","method":"m","params":{},"result":{}}`,
		"two methods":           `{"jsonrpc":"2.0","id":"a","method":"m","method":"n","params":{}}`,
		"two params alike":      `{"jsonrpc":"2.0","id":"a","method":"m","params":{"a":1,"a":2}}`,
		"two alike by escapes":  `{"jsonrpc":"2.0","id":"a","method":"m","params":{"a":1,"\u0061":2}}`,
		"params null":           strings.Replace(good, `{}`, `null`, 1),
		"params a string":       strings.Replace(good, `{}`, `"x"`, 1),
		"too deep":              strings.Replace(good, `{}`, `{"a":`+strings.Repeat("[", lsps0.MaxDepth-1)+strings.Repeat("]", lsps0.MaxDepth-1)+`}`, 1),
		"too long":              good + strings.Repeat(" ", lsps0.MaxPayload),
		"a trailing comma":      strings.Replace(good, `{}}`, `{},}`, 1),
		"a comment":             good + "//",
	} {
		_, err := lsps0.ParseRequest([]byte(payload))
		require.ErrorIs(t, err, lsps0.ErrBadFormat, name)
		require.Less(t, len(err.Error()), 300, name)
	}
	for name, payload := range map[string]string{
		"whitespace around": " \t\r\n" + good + " \n",
		"just deep enough":  strings.Replace(good, `{}`, `{"a":`+strings.Repeat("[", lsps0.MaxDepth-2)+strings.Repeat("]", lsps0.MaxDepth-2)+`}`, 1),
		"brackets in texts": strings.Replace(good, `{}`, `{"a":"`+strings.Repeat(`[{\"`, 50)+`"}`, 1),
		"just short enough": good + strings.Repeat(" ", lsps0.MaxPayload-len(good)),
		"the longest id":    strings.Replace(good, `"a"`, `"`+strings.Repeat("a", lsps0.MaxIDLen)+`"`, 1),
		"without params":    `{"jsonrpc":"2.0","id":"a","method":"m"}`,
		"further names":     `{"jsonrpc":"2.0","id":"a","method":"m","params":{},"x":1}`,
		"an integer id":     strings.Replace(good, `"a"`, `-42`, 1),
	} {
		_, err := lsps0.ParseRequest([]byte(payload))
		require.NoError(t, err, name)
	}
	r, err := lsps0.ParseRequest([]byte(strings.Replace(good, `{}`, `[1]`, 1)))
	require.NoError(t, err)
	require.True(t, r.ByPosition)
}

func TestIDsComeBackAsTheyWere(t *testing.T) {
	for in, out := range map[string]string{
		`"a"`:                   `"a"`,
		`"\u0041\/<&>"`:         `"A/<&>"`, // bLIP-50: no needless escapes
		`"\u2028\u2029\\u2028"`: "\"\u2028\u2029\\\\u2028\"",
		`"\"\\\n"`:              `"\"\\\n"`,
		`7`:                     `7`,
		`-0`:                    `-0`,
		`"𝄞"`:                   `"𝄞"`,
	} {
		r, err := lsps0.ParseRequest([]byte(`{"jsonrpc":"2.0","method":"m","id":` + in + `}`))
		require.NoError(t, err, in)
		b, err := lsps0.EncodeResult(r.ID, struct{}{})
		require.NoError(t, err)
		require.Equal(t, `{"jsonrpc":"2.0","id":`+out+`,"result":{}}`, string(b))
	}
	b, err := lsps0.EncodeError(lsps0.ID{}, lsps0.ParseError(), false)
	require.NoError(t, err)
	require.Equal(t, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`, string(b))
}

func TestErrors(t *testing.T) {
	for want, e := range map[string]*lsps0.Error{
		`{"code":-32601,"message":"Method not found"}`:                                                                      lsps0.MethodNotFound(),
		`{"code":-32603,"message":"Internal error"}`:                                                                        lsps0.Internal(),
		`{"code":1,"message":"Client rejected","data":{"message":"later <5>"}}`:                                             lsps0.ClientRejected("later <5>"),
		`{"code":-32602,"message":"Invalid params","data":{"message":"too small","property":"a.b_msat","unrecognized":[]}}`: lsps0.InvalidParam("a.b_msat", "too small"),
		`{"code":-32602,"message":"Invalid params","data":{"unrecognized":["a","b"]}}`:                                      lsps0.Unrecognized([]string{"b", "a"}),
	} {
		b, err := lsps0.EncodeError(lsps0.StringID("x"), e, false)
		require.NoError(t, err)
		require.Equal(t, `{"jsonrpc":"2.0","id":"x","error":`+want+`}`, string(b))
		b, err = lsps0.EncodeError(lsps0.StringID("x"), e, true)
		require.NoError(t, err)
		require.NotContains(t, string(b), "data", "LDK reads data as a string")
		require.Contains(t, e.Error(), e.Message)
	}
}

func TestAnswersFitIntoOneMessage(t *testing.T) {
	frame := len(`{"jsonrpc":"2.0","id":"x","result":{"a":""}}`)
	for _, extra := range []int{0, 1} {
		_, err := lsps0.EncodeResult(lsps0.StringID("x"), map[string]string{"a": strings.Repeat("a", lsps0.MaxPayload-frame+extra)})
		if extra == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, lsps0.ErrTooLarge)
		}
	}
}

func TestComplaintsAreRecognised(t *testing.T) {
	require.True(t, lsps0.IsComplaint([]byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error","data":null}}`)))
	for _, other := range []string{
		`{"jsonrpc":"2.0","id":"a","error":{"code":-32700,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":null,"result":{}}`,
		`{"jsonrpc":"2.0","id":"a","method":"m","params":{}}`,
		`nonsense`,
	} {
		require.False(t, lsps0.IsComplaint([]byte(other)), other)
	}
}

func TestClientReadsResponses(t *testing.T) {
	m, err := lsps0.ParseMessage([]byte(`{"jsonrpc":"2.0","id":"a","error":{"code":200,"message":"no\u0000\n<b>\u202e","data":{"x":1}}}`))
	require.NoError(t, err)
	require.Equal(t, 200, m.Error.Code)
	require.Equal(t, "no   b  ", m.Error.Message)
	require.JSONEq(t, `{"x":1}`, string(m.Error.Data))
	m, err = lsps0.ParseMessage([]byte(`{"jsonrpc":"2.0","method":"lsps9.it_happened","params":{"a":"b"}}`))
	require.NoError(t, err)
	require.Equal(t, lsps0.KindNotification, m.Kind)
	require.True(t, m.Params.Has("a"))
	for _, bad := range []string{
		`{"jsonrpc":"2.0","id":"a"}`,
		`{"jsonrpc":"2.0","id":"a","result":{},"error":{"code":1,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":"a","result":[]}`,
		`{"jsonrpc":"2.0","id":"a","result":null}`,
		`{"jsonrpc":"2.0","id":"a","error":{"code":"1","message":"x"}}`,
		`{"jsonrpc":"2.0","id":"a","error":{"code":1.5,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":"a","error":{"code":1}}`,
		`{"jsonrpc":"2.0","method":"m","params":[]}`,
		`{"jsonrpc":"2.0","method":"m"}`,
		`{"jsonrpc":"2.0"}`,
	} {
		_, err := lsps0.ParseMessage([]byte(bad))
		require.ErrorIs(t, err, lsps0.ErrBadFormat, bad)
	}
}

func TestClientWritesRequests(t *testing.T) {
	b, err := lsps0.EncodeRequest(lsps0.StringID("a"), "lsps0.list_protocols", nil)
	require.NoError(t, err)
	require.Equal(t, `{"jsonrpc":"2.0","id":"a","method":"lsps0.list_protocols","params":{}}`, string(b))
	b, err = lsps0.EncodeNotification("lsps9.it_happened", nil)
	require.NoError(t, err)
	require.Equal(t, `{"jsonrpc":"2.0","method":"lsps9.it_happened","params":{}}`, string(b))
}

func TestAmounts(t *testing.T) {
	for text, want := range map[string]uint64{`"0"`: 0, `"1"`: 1, `"546000"`: 546000, `"18446744073709551615"`: math.MaxUint64} {
		var m lsps0.Msat
		require.NoError(t, json.Unmarshal([]byte(text), &m), text)
		require.Equal(t, want, uint64(m))
		var s lsps0.Sat
		require.NoError(t, json.Unmarshal([]byte(text), &s), text)
		require.Equal(t, want, uint64(s))
		b, err := json.Marshal(m)
		require.NoError(t, err)
		require.Equal(t, text, string(b))
	}
	for _, bad := range []string{
		`0`, `1`, `""`, `"-1"`, `"+1"`, `"01"`, `" 1"`, `"1 "`, `"1.0"`, `"1e3"`, `"0x1"`, `"1_000"`, `"18446744073709551616"`,
		`"99999999999999999999999"`, `"\u0031"`, `null`, `{}`, `"١"`,
	} {
		require.Error(t, new(lsps0.Msat).UnmarshalJSON([]byte(bad)), bad)
		require.Error(t, new(lsps0.Sat).UnmarshalJSON([]byte(bad)), bad)
	}
}

func TestDatetimes(t *testing.T) {
	at := time.Date(2023, 5, 20, 8, 30, 45, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2023-05-20T08:30:45.000Z":            at,
		"2023-05-20T08:30:45Z":                at, // LDK
		"2023-05-20T08:30:45+00:00":           at, // LDK
		"2023-05-20T08:30:45.511Z":            at.Add(511 * time.Millisecond),
		"2023-05-20T08:30:45.511000000Z":      at.Add(511 * time.Millisecond),
		"2023-05-20T08:30:45.000000001+00:00": at.Add(1),
	} {
		var d lsps0.Datetime
		require.NoError(t, json.Unmarshal([]byte(`"`+text+`"`), &d), text)
		require.True(t, want.Equal(time.Time(d)), text)
	}
	for _, bad := range []string{
		"", "2023-05-20", "2023-05-20 08:30:45Z", "2023-05-20T08:30:45", "2023-05-20T08:30:45.Z", "2023-05-20T08:30:45,511Z",
		"2023-05-20T08:30:45+01:00", "2023-05-20T08:30:45.0000000000Z", "2023-13-20T08:30:45Z", "2023-02-30T08:30:45Z",
		"2023-05-20T24:00:00Z", "23-05-20T08:30:45Z", "+12023-05-20T08:30:45Z", "2023-05-20T08:30:45ZZ", "2023-5-20T08:30:45Z", "2023-05-20T8:30:45Z",
	} {
		require.Error(t, new(lsps0.Datetime).UnmarshalJSON([]byte(`"`+bad+`"`)), bad)
	}
	require.Equal(t, "2023-05-20T08:30:45.000Z", lsps0.Datetime(at.In(time.FixedZone("", 3600))).String())
	_, err := json.Marshal(lsps0.Datetime(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Error(t, err)
}

func TestParams(t *testing.T) {
	p, refused := lsps0.ParseParams([]byte(`{"s":"abc","n":null,"u":4294967295,"big":4294967296,"m":"5","t":"2023-05-20T08:30:45Z","o":{"x":"1","y":1}}`))
	require.Nil(t, refused)
	s, refused := p.String("s", 3)
	require.Nil(t, refused)
	require.Equal(t, "abc", s)
	_, refused = p.String("s", 2)
	requireProperty(t, "s", refused)
	_, refused = p.String("u", 2)
	requireProperty(t, "u", refused)
	require.False(t, p.Has("n"), "LDK's token: null is no token")
	_, refused = p.String("n", 3)
	requireProperty(t, "n", refused)
	u, refused := p.Uint32("u")
	require.Nil(t, refused)
	require.Equal(t, uint32(math.MaxUint32), u)
	_, refused = p.Uint32("big")
	requireProperty(t, "big", refused)
	_, refused = p.Uint16("u")
	requireProperty(t, "u", refused)
	m, refused := p.Msat("m")
	require.Nil(t, refused)
	require.Equal(t, ln.Msat(5), m)
	_, refused = p.Msat("u")
	requireProperty(t, "u", refused)
	_, refused = p.Datetime("t")
	require.Nil(t, refused)
	_, refused = p.Datetime("s")
	requireProperty(t, "s", refused)
	o, refused := p.Object("o")
	require.Nil(t, refused)
	_, refused = o.Msat("y")
	requireProperty(t, "o.y", refused)
	require.Equal(t, []string{"o.y"}, o.Only("x").Data["unrecognized"])
	_, refused = p.Object("s")
	requireProperty(t, "s", refused)
	for _, bad := range []string{"1.0", "1e0", "-1", `"1"`, "true", "[]"} {
		p, refused := lsps0.ParseParams([]byte(`{"u":` + bad + `}`))
		require.Nil(t, refused)
		_, refused = p.Uint32("u")
		requireProperty(t, "u", refused)
	}
	_, refused = lsps0.ParseParams([]byte(`[]`))
	require.Equal(t, lsps0.CodeInvalidParams, refused.Code)
}

func requireProperty(t *testing.T, want string, e *lsps0.Error) {
	t.Helper()
	require.NotNil(t, e)
	require.Equal(t, lsps0.CodeInvalidParams, e.Code)
	require.Equal(t, want, e.Data["property"])
	require.Equal(t, []string{}, e.Data["unrecognized"])
}
