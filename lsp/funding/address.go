package funding

import (
	"fmt"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
)

// ScriptOf is the output script of an address, which must belong to the
// network ("mainnet", "testnet", "signet" or "regtest").
func ScriptOf(address, network string) ([]byte, error) {
	var params *chaincfg.Params
	switch network {
	case "mainnet":
		params = &chaincfg.MainNetParams
	case "testnet":
		params = &chaincfg.TestNet3Params
	case "signet":
		params = &chaincfg.SigNetParams
	case "regtest":
		params = &chaincfg.RegressionNetParams
	default:
		return nil, fmt.Errorf("network %q: want mainnet, testnet, signet or regtest", network)
	}
	decoded, err := btcutil.DecodeAddress(address, params)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	if !decoded.IsForNet(params) {
		return nil, fmt.Errorf("address %q does not belong to %s", address, network)
	}
	script, err := txscript.PayToAddrScript(decoded)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	return script, nil
}
