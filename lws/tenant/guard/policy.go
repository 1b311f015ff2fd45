package guard

import (
	"fmt"
	"math"
	"strings"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
)

// Policy is what a tenant allows its host. Amounts are of the wallet's coins.
type Policy struct {
	Tenant  string `toml:"tenant"`
	Network string `toml:"network"`
	// AddressSatPerTx and AddressSatPerDay may leave to addresses that are not known.
	AddressSatPerTx  int64 `toml:"address_sat_per_tx"`
	AddressSatPerDay int64 `toml:"address_sat_per_day"`
	// ChannelSatPerTx and ChannelSatPerDay may go into what can be a channel's funding.
	ChannelSatPerTx  int64 `toml:"channel_sat_per_tx"`
	ChannelSatPerDay int64 `toml:"channel_sat_per_day"`
	// FeeSatPerTx and FeeSatPerDay may go to miners.
	FeeSatPerTx  int64 `toml:"fee_sat_per_tx"`
	FeeSatPerDay int64 `toml:"fee_sat_per_day"`
	// KnownAddresses are the tenant's own elsewhere: what goes there is not counted.
	KnownAddresses []string `toml:"known_addresses"`
	// SignTexts allows lncli signmessage with any text: the host can then log in as the
	// node wherever such a text is a login.
	SignTexts bool `toml:"sign_texts"`
	// Watchtower allows the session keys of lnd's watchtower client.
	Watchtower bool `toml:"watchtower"`
	// Lookahead is how many unused addresses in a row the wallet may have.
	Lookahead uint32 `toml:"lookahead"`
}

// DefaultPolicy lets a node have channels and pay fees, and nothing leave to addresses.
func DefaultPolicy(tenant, network string) Policy {
	return Policy{
		Tenant: tenant, Network: network,
		ChannelSatPerTx: 16_777_215, ChannelSatPerDay: 50_000_000,
		FeeSatPerTx: 100_000, FeeSatPerDay: 500_000, Watchtower: true, Lookahead: DefaultLookahead,
	}
}

// maxLookahead bounds the memory that known addresses take.
const maxLookahead = 100_000

// Params are the chain's of a network that policies name.
func Params(network string) (*chaincfg.Params, error) {
	switch network {
	case "mainnet":
		return &chaincfg.MainNetParams, nil
	case "testnet":
		return &chaincfg.TestNet3Params, nil
	case "signet":
		return &chaincfg.SigNetParams, nil
	case "regtest":
		return &chaincfg.RegressionNetParams, nil
	}
	return nil, fmt.Errorf("there is no network %q", network)
}

// Check says what is wrong with a policy.
func (p Policy) Check() error {
	if p.Tenant == "" || strings.ContainsAny(p.Tenant, " \n") {
		return fmt.Errorf("tenant: the policy names none")
	}
	for _, x := range []struct {
		name  string
		value int64
	}{
		{"address_sat_per_tx", p.AddressSatPerTx},
		{"address_sat_per_day", p.AddressSatPerDay},
		{"channel_sat_per_tx", p.ChannelSatPerTx},
		{"channel_sat_per_day", p.ChannelSatPerDay},
		{"fee_sat_per_tx", p.FeeSatPerTx},
		{"fee_sat_per_day", p.FeeSatPerDay},
	} {
		if x.value < 0 || x.value > btcutil.MaxSatoshi {
			return fmt.Errorf("%s: %d is no amount: 0 to %d", x.name, x.value, int64(btcutil.MaxSatoshi))
		}
	}
	if p.Lookahead == 0 || p.Lookahead > maxLookahead {
		return fmt.Errorf("lookahead: %d is none: 1 to %d", p.Lookahead, maxLookahead)
	}
	_, err := p.known()
	return err
}

// known are the scripts of the addresses that the tenant named.
func (p Policy) known() (map[string]bool, error) {
	params, err := Params(p.Network)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	out := make(map[string]bool, len(p.KnownAddresses))
	for _, text := range p.KnownAddresses {
		address, err := btcutil.DecodeAddress(text, params)
		if err != nil || !address.IsForNet(params) {
			return nil, fmt.Errorf("known_addresses: %q is no address on %s", text, p.Network)
		}
		script, err := txscript.PayToAddrScript(address)
		if err != nil {
			return nil, fmt.Errorf("known_addresses: %q: %w", text, err)
		}
		out[string(script)] = true
	}
	return out, nil
}

// add sums amounts that a host chose: too much is refused rather than wrapped around.
func add(a, b int64) (int64, error) {
	if a < 0 || b < 0 || a > math.MaxInt64-b {
		return 0, refuse(RuleForm, "amounts that do not add up")
	}
	return a + b, nil
}
