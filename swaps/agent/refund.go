package agent

import (
	"fmt"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Refund signs the spend of a deposit that needs the wallet alone, from the record
// and nothing else. The network takes it once its tip is at the expiry.
func (r Record) Refund(deposit ln.Outpoint, value ln.Sat, to []byte, rate ln.FeeRateSatPerKW) (raw []byte, fee ln.Sat, err error) {
	contract, err := htlc.New(r.Terms)
	if err != nil {
		return nil, 0, errkind.Wrap(errkind.Invalid, err, "this swap was never agreed on: there is no address that anybody could have paid to")
	}
	key, err := htlc.ParseKey(r.RefundKey, r.Terms.Sender)
	if err != nil {
		return nil, 0, err
	}
	return contract.Refund(key, deposit, value, to, rate)
}

// Params are the parameters of a network, by lnd's name.
func Params(network string) (*chaincfg.Params, error) {
	params, err := lnd.ChainParams(network)
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, fmt.Sprintf("the network %q is not known", ln.Clip(network, 40)))
	}
	return params, nil
}

// ScriptOf reads an address of the record's network.
func (r Record) ScriptOf(address string) ([]byte, error) {
	params, err := Params(r.Network)
	if err != nil {
		return nil, err
	}
	decoded, err := btcutil.DecodeAddress(address, params)
	if err != nil || !decoded.IsForNet(params) {
		return nil, errkind.Newf(errkind.Invalid, "%q is no address of %s", ln.Clip(address, 120), r.Network)
	}
	return txscript.PayToAddrScript(decoded)
}
