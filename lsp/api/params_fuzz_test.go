package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// FuzzParamsFromWire: whatever a client sends as opening_fee_params is either
// refused or read without loss, and only what was promised passes the promise.
func FuzzParamsFromWire(f *testing.F) {
	client := ln.PubKey{2, 7}
	keys, err := lsp.NewPromiser(lsp.PromiseKey{Version: 1, Secret: [32]byte{9}})
	if err != nil {
		f.Fatal(err)
	}
	now := time.UnixMilli(1_790_000_000_000)
	good := keys.Promise(client, lsp.OpeningFeeParams{
		MinFeeMsat: 2_000_000, ProportionalPPM: 10_000, ValidUntil: now.Add(time.Hour).UTC(), MinLifetimeBlocks: 4320,
		MaxClientToSelfDelay: 2016, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 10_000_000_000,
	})
	promised := ParamsToWire(good)
	for _, p := range []*lspv1.OpeningFeeParams{
		promised, {}, {ProportionalPpm: 1 << 32}, {ValidUntilMs: -1 << 63}, {ValidUntilMs: 1<<63 - 1, MinFeeMsat: 1<<64 - 1},
	} {
		raw, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, uint64(100_000_000))
	}
	f.Fuzz(func(t *testing.T, raw []byte, amount uint64) {
		var wire lspv1.OpeningFeeParams
		if proto.Unmarshal(raw, &wire) != nil {
			return
		}
		params, err := ParamsFromWire(&wire)
		if err != nil {
			return
		}
		wire.ProtoReflect().SetUnknown(nil)
		require.True(t, proto.Equal(&wire, ParamsToWire(params)), "%v came back as %v", &wire, ParamsToWire(params))
		if keys.Verify(client, params) == nil {
			require.True(t, proto.Equal(&wire, promised), "a promise for what was never promised: %v", &wire)
		}
		_ = params.Valid(now)
		if q, err := params.QuotePayerPays(ln.Msat(amount)); err == nil {
			// The hint's rate is rounded up.
			require.GreaterOrEqual(t, q.PayerMsat, q.WalletMsat+q.FeeMsat)
		}
		if q, err := params.QuoteReceiverPays(ln.Msat(amount)); err == nil {
			require.Equal(t, q.PayerMsat, q.WalletMsat+q.FeeMsat)
		}
	})
}
