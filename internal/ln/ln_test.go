package ln

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPPMCeilAgreesWithBigIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := Msat(rapid.Uint64().Draw(t, "amount_msat"))
		ppm := rapid.Uint64().Draw(t, "ppm")
		got, err := PPMCeil(amount, ppm)

		want := new(big.Int).Mul(new(big.Int).SetUint64(uint64(amount)), new(big.Int).SetUint64(ppm))
		fitsProduct := new(big.Int).Add(want, big.NewInt(999_999)).IsUint64()
		want.Add(want, big.NewInt(999_999)).Div(want, big.NewInt(1_000_000))
		if !fitsProduct || want.Cmp(new(big.Int).SetUint64(uint64(MaxMsat))) > 0 {
			require.ErrorIs(t, err, ErrOverflow)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.Uint64(), uint64(got))
	})
}

func TestFeeRateAgreesWithBigIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := FeeRateSatPerKW(rapid.Uint64().Draw(t, "sat_per_kw"))
		weight := rapid.Uint64().Draw(t, "weight_wu")
		got, err := rate.Fee(weight)
		product := new(big.Int).Mul(new(big.Int).SetUint64(uint64(rate)), new(big.Int).SetUint64(weight))
		product.Add(product, big.NewInt(999))
		fits := product.IsUint64()
		product.Div(product, big.NewInt(1000))
		if !fits || product.Cmp(new(big.Int).SetUint64(uint64(MaxMsat/1000))) > 0 {
			require.ErrorIs(t, err, ErrOverflow)
			return
		}
		require.NoError(t, err)
		require.Equal(t, product.Uint64(), uint64(got))
	})
}

func TestAmountsRefuseToWrap(t *testing.T) {
	_, err := MaxMsat.Add(1)
	require.ErrorIs(t, err, ErrOverflow)
	_, err = Msat(1).Sub(2)
	require.ErrorIs(t, err, ErrOverflow)
	_, err = Sat(^uint64(0)).Msat()
	require.ErrorIs(t, err, ErrOverflow)
	_, err = Sat(^uint64(0)).Add(1)
	require.ErrorIs(t, err, ErrOverflow)
	require.Equal(t, Sat(2), Msat(1001).ToSatCeil())
	require.Equal(t, Sat(1), Msat(1999).ToSatFloor())
}

func TestPreimageNeverPrints(t *testing.T) {
	p := Preimage{1, 2, 3}
	secret := fmt.Sprintf("%x", p.Bytes())
	asJSON, err := json.Marshal(struct{ P Preimage }{p})
	require.NoError(t, err)
	for _, text := range []string{
		p.String(), fmt.Sprint(p), fmt.Sprintf("%v %+v %#v %s", p, p, p, p), string(asJSON),
		fmt.Sprintf("%+v", struct{ P Preimage }{p}),
	} {
		require.NotContains(t, text, secret)
		require.NotContains(t, text, "1, 2, 3")
		require.True(t, strings.Contains(text, p.Hash().Short()), text)
	}
}

func TestTextFormsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scid := SCID(rapid.Uint64().Draw(t, "scid"))
		back, err := ParseSCID(scid.String())
		require.NoError(t, err)
		require.Equal(t, scid, back)
		fromBytes, err := SCIDFromBytes(scid.Bytes())
		require.NoError(t, err)
		require.Equal(t, scid, fromBytes)

		key := CircuitKey{ChanID: scid, HtlcID: rapid.Uint64().Draw(t, "index")}
		text, err := key.MarshalText()
		require.NoError(t, err)
		var keyBack CircuitKey
		require.NoError(t, keyBack.UnmarshalText(text))
		require.Equal(t, key, keyBack)

		var op Outpoint
		copy(op.TxID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "txid"))
		op.Index = rapid.Uint32().Draw(t, "output")
		opBack, err := ParseOutpoint(op.String())
		require.NoError(t, err)
		require.Equal(t, op, opBack)
	})
}

func FuzzParsers(f *testing.F) {
	f.Add("16000000x1x2")
	f.Add("16000000x1x2:7")
	f.Add(strings.Repeat("ab", 32) + ":1")
	f.Add("02" + strings.Repeat("11", 32))
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseSCID(s); err == nil {
			again, err := ParseSCID(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		var key CircuitKey
		_ = key.UnmarshalText([]byte(s))
		if v, err := ParseOutpoint(s); err == nil {
			again, err := ParseOutpoint(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := ParsePubKey(s); err == nil {
			require.Equal(t, strings.ToLower(s), v.String())
		}
		_, _ = ParseHash(s)
	})
}

func TestConfirmations(t *testing.T) {
	for _, c := range []struct{ height, tip, want uint32 }{
		{0, 0, 0},
		{0, 900_000, 0},
		{900_000, 900_000, 1},
		{900_000, 900_005, 6},
		{900_000, 899_999, 1},
		{1, 1<<32 - 1, 1<<32 - 1},
	} {
		require.Equal(t, c.want, Confirmations(c.height, c.tip), "%+v", c)
	}
}
