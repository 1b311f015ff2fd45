// Package psbts reads PSBTs (BIP 174) that somebody else made.
//
// It promises an error where btcd's reader panics: a fuzzer found a derivation path
// that it reads past its end (testdata of FuzzParse). Callers bound the size first.
package psbts

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcutil/psbt"
)

// ErrMalformed says that the bytes are no PSBT that can be read.
var ErrMalformed = errors.New("malformed PSBT")

// Parse reads a binary PSBT of version 0.
func Parse(raw []byte) (p *psbt.Packet, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("%w: %v", ErrMalformed, r)
		}
	}()
	if p, err = psbt.NewFromRawBytes(bytes.NewReader(raw), false); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return p, nil
}
