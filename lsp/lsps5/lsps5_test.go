package lsps5_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

func params(t require.TestingT, object string) lsps0.Params {
	p, refused := lsps0.ParseParams([]byte(object))
	require.Nil(t, refused)
	return p
}

// signed reports whether the key 1 signed the text, as LSPS0.ln_signature has it.
func signed(text []byte, signature string) bool {
	one, _ := btcec.PrivKeyFromBytes(append(make([]byte, 31), 1))
	signer, err := auth.RecoverSigner(string(text), signature)
	return err == nil && signer == ln.PubKey(one.PubKey().SerializeCompressed())
}

// The example of bLIP-55, in both forms of the timestamp.
func TestSignedText(t *testing.T) {
	at := time.Date(2023, 5, 4, 10, 52, 58, 395_000_000, time.UTC)
	body := lsps5.Body("lsps5.goodbye")
	require.Equal(t, `{"jsonrpc":"2.0","method":"lsps5.goodbye","params":{}}`, string(body))
	text := lsps5.SigningText(lsps5.FormSpec.Timestamp(at), body)
	want, err := hex.DecodeString("4c535053353a20444f204e4f54205349474e2054484953204d455353414745204d414e55414c4c593a204c53503a20417420" +
		"323032332d30352d30345431303a35323a35382e3339355a2049206e6f74696679207b226a736f6e727063223a22322e30222c226d6574686f64223a22" +
		"6c737073352e676f6f64627965222c22706172616d73223a7b7d7d")
	require.NoError(t, err)
	require.Equal(t, want, text)
	spec := "d98gq64fc1fokenqse6xq3dsrd1dkspx9cr46fm83ncxcqjbobxmh7r9hapsqmo651jrnfc6mxs7nqhw5844jn1136ueufofnxwu7wyd"
	ldk := "rneb4d5bbfxmbb7b6q6q3dqixkhjgfnstmmuusnpdqm89gmdj6zhes66cur361wnys116zisbaqf4whnaaw4dsjrpdesu6ekizbyf9ob"
	require.True(t, signed(text, spec))
	require.False(t, signed(text, ldk), "the other form's signature")
	require.True(t, signed(lsps5.SigningText(lsps5.FormLDK.Timestamp(at), body), ldk))
	require.Equal(t, "2023-05-04T10:52:58.395+00:00", lsps5.FormLDK.Timestamp(at))
	require.Equal(t, "2023-05-04T10:52:58+00:00", lsps5.FormLDK.Timestamp(at.Truncate(time.Second)), "as chrono writes it")
	require.Equal(t, "2023-05-04T10:52:58.000Z", lsps5.FormSpec.Timestamp(at.Truncate(time.Second)))
	require.Equal(t, lsps5.FormSpec, lsps5.FormLDK.Other())
	require.Equal(t, lsps5.FormLDK, lsps5.FormSpec.Other())
	require.Equal(t, `{"jsonrpc":"2.0","method":"lsps5.expiry_soon","params":{"timeout":850000}}`, string(lsps5.ExpiryBody(850_000)))
	for _, body := range [][]byte{lsps5.Body(lsps5.PaymentIncoming), lsps5.ExpiryBody(1<<32 - 1)} {
		var buf bytes.Buffer
		require.NoError(t, json.Compact(&buf, body))
		require.Equal(t, body, buf.Bytes(), "validators that write it again get the same")
	}
}

func TestSetWebhook(t *testing.T) {
	set := func(name, hook string) (lsps5.Hook, *lsps0.Error) {
		return lsps5.ReadSet(params(t, `{"app_name":"`+name+`","webhook":"`+hook+`"}`))
	}
	good := "https://www.example.org/push?l=1234567890abcdefghijklmnopqrstuv&c=best"
	h, refused := set("My LSPS-Compliant Lightning Client", good)
	require.Nil(t, refused)
	require.Equal(t, lsps5.Hook{
		AppName: "My LSPS-Compliant Lightning Client", Target: lsps5.Target{URL: good, Host: "www.example.org", Port: 443},
	}, h)

	// Lengths: inside, at and outside; escapes count as they are written.
	long := "https://a.example/" + strings.Repeat("x", lsps5.MaxURL)
	for name, c := range map[string]struct {
		name, hook string
		code       int
	}{
		"64 bytes":            {strings.Repeat("a", 64), good, 0},
		"65 bytes":            {strings.Repeat("a", 65), good, lsps5.CodeTooLong},
		"32 of two bytes":     {strings.Repeat("é", 32), good, 0},
		"33 of two bytes":     {strings.Repeat("é", 33), good, lsps5.CodeTooLong},
		"escapes that fit":    {strings.Repeat(`\n`, 32), good, 0},
		"escapes that do not": {strings.Repeat(`\n`, 33), good, lsps5.CodeTooLong},
		"a character written": {strings.Repeat(`\u0061`, 11), good, lsps5.CodeTooLong},
		"an empty name":       {"", good, 0},
		"a 0 byte in a name":  {`\u0000`, good, 0},
		"URL of 1024":         {"a", long[:lsps5.MaxURL], 0},
		"URL of 1025":         {"a", long[:lsps5.MaxURL+1], lsps5.CodeTooLong},
		"both, and not a URL": {strings.Repeat("a", 65), "x", lsps5.CodeTooLong},
		"not a URL":           {"a", "not a url", lsps5.CodeURLParse},
		"no scheme":           {"a", "www.example.org/push", lsps5.CodeURLParse},
		"an empty URL":        {"a", "", lsps5.CodeURLParse},
		"http":                {"a", "http://www.example.org/", lsps5.CodeUnsupportedProtocol},
		"another protocol":    {"a", "ftp://www.example.org/", lsps5.CodeUnsupportedProtocol},
		"a file":              {"a", "file:///etc/passwd", lsps5.CodeUnsupportedProtocol},
		"an IRI":              {"a", "https://www.exämple.org/", lsps5.CodeURLParse},
	} {
		_, refused := set(c.name, c.hook)
		if c.code == 0 {
			require.Nil(t, refused, name)
			continue
		}
		require.NotNil(t, refused, name)
		require.Equal(t, c.code, refused.Code, name)
		require.Nil(t, refused.Data, name)
	}
	for _, bad := range []string{`{}`, `{"app_name":"a"}`, `{"webhook":"https://a.example"}`, `{"app_name":1,"webhook":"https://a.example"}`, `{"app_name":"a","webhook":null}`} {
		_, refused := lsps5.ReadSet(params(t, bad))
		require.Equal(t, lsps0.CodeInvalidParams, refused.Code, bad)
	}
	_, refused = lsps5.ReadSet(params(t, `{"app_name":"a","webhook":"https://a.example","x":1}`))
	require.Equal(t, []string{"x"}, refused.Data["unrecognized"])
	require.Equal(t, []string{"x"}, lsps5.ReadList(params(t, `{"x":1}`)).Data["unrecognized"])
	require.Nil(t, lsps5.ReadList(params(t, `{}`)))
	name, refused := lsps5.ReadRemove(params(t, `{"app_name":"Another Wallet With The Same Signing Device"}`))
	require.Nil(t, refused)
	require.Equal(t, "Another Wallet With The Same Signing Device", name)

	for v, want := range map[any]string{
		lsps5.SetResult{NumWebhooks: 2, MaxWebhooks: 4}: `{"num_webhooks":2,"max_webhooks":4,"no_change":false}`,
		lsps5.RemoveResult{}:                            `{}`,
	} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	b, err := json.Marshal(lsps5.ListResult{MaxWebhooks: 42})
	require.NoError(t, err)
	require.Equal(t, `{"app_names":[],"max_webhooks":42}`, string(b))
	require.Equal(t, map[string]any{"max_webhooks": 7}, lsps5.TooManyWebhooks(7).Data)
	require.Equal(t, 1010, lsps5.AppNameNotFound().Code)
}

// What a URL's reader could be led astray by.
func TestTargets(t *testing.T) {
	for text, want := range map[string]lsps5.Target{
		"https://example.org":                {Host: "example.org", Port: 443},
		"HTTPS://EXAMPLE.org:8443/a?b=c#d":   {Host: "example.org", Port: 8443},
		"https://a_b.example./":              {Host: "a_b.example.", Port: 443},
		"https://127.0.0.1/":                 {Host: "127.0.0.1", Port: 443},
		"https://[2606:4700::1111]:444/x":    {Host: "2606:4700::1111", Port: 444},
		"https://[::ffff:10.0.0.1]/":         {Host: "::ffff:10.0.0.1", Port: 443},
		"https://example.org/~a/b;c?u=1%20a": {Host: "example.org", Port: 443},
	} {
		got, refused := lsps5.ParseTarget(text)
		require.Nil(t, refused, text)
		want.URL = text
		require.Equal(t, want, got)
	}
	for _, text := range []string{
		"https://", "https:///x", "https:x", "https:/x", "https://user@example.org/", "https://user:secret@example.org/", "https://@example.org/",
		"https://example.org:0/", "https://example.org:65536/", "https://example.org:/", "https://example.org:x/", `https://example.org\@10.0.0.1/`,
		"https://exa mple.org/", "https://example.org/\t", "https://example.org/\n", "https://example.org/\x7f", "https://[::1%25lo]/", "https://[127.0.0.1]/",
		"https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://0177.0.0.1/", "https://-a.example/", "https://a..example/", "https://.example/",
		"https://" + strings.Repeat("a", 64) + ".example/", "https://" + strings.Repeat("a.", 127) + "example/", "https://exa%6dple.org/", "https://a,b.example/", "//example.org/",
	} {
		_, refused := lsps5.ParseTarget(text)
		require.NotNil(t, refused, text)
		require.Equal(t, lsps5.CodeURLParse, refused.Code, text)
	}
	for port, web := range map[uint16]bool{443: true, 1024: true, 65535: true, 25: false, 22: false, 80: false, 1023: false} {
		require.Equal(t, web, lsps5.Target{Port: port}.IsWebPort(), port)
	}
}

func TestPublicAddresses(t *testing.T) {
	for text, public := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "2606:4700:4700::1111": true, "::ffff:8.8.8.8": true, "223.255.255.254": true,
		"127.0.0.1": false, "127.255.0.1": false, "10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"169.254.169.254": false, "0.0.0.0": false, "0.1.2.3": false, "100.64.0.1": false, "192.0.0.8": false, "192.0.2.1": false,
		"198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd12::1": false, "ff02::1": false, "2001:db8::1": false,
		"2002:7f00:1::": false, "64:ff9b::7f00:1": false, "2001::1": false, "::ffff:10.0.0.1": false, "::ffff:127.0.0.1": false, "::10.0.0.1": false, "3fff::1": false,
	} {
		require.Equal(t, public, lsps5.IsPublic(netip.MustParseAddr(text)), text)
	}
	require.False(t, lsps5.IsPublic(netip.Addr{}))
}

func TestCooldown(t *testing.T) {
	c := lsps5.Cooldown{Every: 2 * time.Minute, ResetEvery: 20 * time.Second}
	t0 := time.UnixMilli(1_700_000_000_000)
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	first := c.Next(t0, lsps5.Sent{}, time.Time{})
	require.Equal(t, lsps5.Sent{At: t0}, first, "the first goes out at once")
	require.Equal(t, at(2*time.Minute), c.Next(at(time.Second), first, time.Time{}).At, "within the cooldown: at its end")
	require.Equal(t, at(2*time.Minute), c.Next(at(2*time.Minute), first, time.Time{}).At)
	require.Equal(t, at(time.Hour), c.Next(at(time.Hour), first, time.Time{}).At)
	require.Equal(t, at(2*time.Minute), c.Next(at(time.Second), first, at(-time.Second)).At, "it was away before")
	// It came and went: at once, but not again and again.
	lifted := c.Next(at(2*time.Second), first, at(time.Second))
	require.Equal(t, lsps5.Sent{At: at(2 * time.Second), Lifted: at(2 * time.Second)}, lifted)
	again := c.Next(at(4*time.Second), lifted, at(3*time.Second))
	require.Equal(t, lsps5.Sent{At: at(22 * time.Second), Lifted: at(22 * time.Second)}, again)
}

// However a client comes and goes, its webhooks are called once per Every, and
// once more per ResetEvery at most.
func TestCooldownBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := lsps5.Cooldown{Every: 2 * time.Minute, ResetEvery: 20 * time.Second}
		now, left := time.UnixMilli(1_700_000_000_000), time.Time{}
		var last lsps5.Sent
		var sent []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 30_000).Draw(t, "ms")) * time.Millisecond)
			if rapid.Bool().Draw(t, "comes and goes") {
				left = now
				continue
			}
			if last.At.After(now) {
				continue // one waits already
			}
			next := c.Next(now, last, left)
			require.False(t, next.At.Before(now))
			require.False(t, next.At.After(now.Add(c.Every)))
			if next.At != last.At {
				sent = append(sent, next.At)
			}
			last = next
		}
		for i := 1; i < len(sent); i++ {
			require.GreaterOrEqual(t, sent[i].Sub(sent[i-1]), time.Duration(0))
			if i > 2 {
				// Two lifts lie ResetEvery apart, and between two others is Every.
				require.GreaterOrEqual(t, sent[i].Sub(sent[i-2]), c.ResetEvery)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	var total time.Duration
	for n := 1; ; n++ {
		d := lsps5.Backoff(n)
		if d == 0 {
			require.Equal(t, 8, n)
			break
		}
		require.LessOrEqual(t, d, 2*time.Minute)
		total += d
	}
	require.Less(t, total, 10*time.Minute)
	require.Zero(t, lsps5.Backoff(0))
}

// FuzzSetWebhook: whatever a client sends is refused with a code of the spec, or
// is a hook whose target reads the same again.
func FuzzSetWebhook(f *testing.F) {
	for _, s := range []string{
		`{"app_name":"My LSPS-Compliant Lightning Client","webhook":"https://www.example.org/push?l=1&c=best"}`,
		`{"app_name":"\u0000\n","webhook":"https://[::ffff:10.0.0.1]:8443/"}`,
		`{"app_name":"a","webhook":"https://user:pw@example.org\\@x/"}`, `{"app_name":"a","webhook":"HTTPS://A.example.:65535/#x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		p, refused := lsps0.ParseParams(object)
		if refused != nil {
			return
		}
		h, refused := lsps5.ReadSet(p)
		if refused != nil {
			require.Contains(t, []int{lsps0.CodeInvalidParams, lsps5.CodeTooLong, lsps5.CodeURLParse, lsps5.CodeUnsupportedProtocol}, refused.Code)
			return
		}
		require.LessOrEqual(t, len(h.AppName), 3*lsps5.MaxAppName, "bytes that are no character were replaced")
		require.LessOrEqual(t, len(h.Target.URL), lsps5.MaxURL)
		require.NotZero(t, h.Target.Port)
		again, refused := lsps5.ParseTarget(h.Target.URL)
		require.Nil(t, refused)
		require.Equal(t, h.Target, again)
		if a, is := h.Target.Address(); is && a.Is4In6() {
			require.Equal(t, lsps5.IsPublic(a.Unmap()), lsps5.IsPublic(a))
		}
	})
}

// FuzzTarget: a target's host is what net/http would connect to.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"https://example.org", "https://a@b:1/", `https://a\b/`, "https://[::1]", "https://1.2.3.4:443/?#", "https://2130706433/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, refused := lsps5.ParseTarget(text)
		if refused != nil {
			return
		}
		for i := range len(target.Host) {
			c := target.Host[i]
			require.True(t, c == '.' || c == '-' || c == '_' || c == ':' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z', "%q", target.Host)
		}
		require.True(t, strings.HasPrefix(strings.ToLower(text), "https://"), text)
	})
}
