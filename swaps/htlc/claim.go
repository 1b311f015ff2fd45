package htlc

import (
	"io"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Claimed is a signed transaction that takes contracts' outputs.
type Claimed struct {
	Raw    []byte
	TxID   ln.TxID
	FeeSat ln.Sat
}

// Claim spends by the success leaf, which needs the receiver alone.
func (c *Contract) Claim(key Key, preimage ln.Preimage, spends ln.Outpoint, amount ln.Sat, to []byte, rate ln.FeeRateSatPerKW) (Claimed, error) {
	return take(Taking{Contract: c, Outpoint: spends, AmountSat: amount, Way: SpendSuccess, Ours: key, Preimage: preimage}, to, rate, nil)
}

// ClaimByKey spends by the key path, with both private keys: the smallest and
// most private spend.
func (c *Contract) ClaimByKey(sender, receiver Key, spends ln.Outpoint, amount ln.Sat, to []byte, rate ln.FeeRateSatPerKW, random io.Reader) (Claimed, error) {
	return take(Taking{Contract: c, Outpoint: spends, AmountSat: amount, Way: SpendKey, Ours: receiver, Theirs: sender}, to, rate, random)
}

// take is Take for one output, at a rate.
func take(t Taking, to []byte, rate ln.FeeRateSatPerKW, random io.Reader) (Claimed, error) {
	fee, err := rate.Fee(TogetherWU(t.Way))
	if err != nil {
		return Claimed{}, err
	}
	return Take([]Taking{t}, to, fee, random)
}

// ParseKey reads a private key that the other side gave away, and checks whose
// it is.
func ParseKey(raw [32]byte, of ln.PubKey) (Key, error) {
	key, err := KeyFromShared(raw)
	if err != nil || key.PubKey() != of {
		return Key{}, errkind.New(errkind.Invalid, "this is not the private key of the swap's internal key")
	}
	return key, nil
}
