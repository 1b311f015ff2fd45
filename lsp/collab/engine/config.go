package engine

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Config is the gateway's business of joint fundings.
type Config struct {
	// Network is "mainnet", "testnet", "signet" or "regtest".
	Network string
	Self    ln.PubKey

	// MinWalletSat and MinInboundSat are the least that each side brings,
	// MaxCapacitySat the largest channel.
	MinWalletSat, MinInboundSat, MaxCapacitySat ln.Sat
	// BaseSat and PPM (of its part) are what the gateway asks for.
	BaseSat ln.Sat
	PPM     uint64
	// MaxInputs of a wallet, with MinInputConfs each.
	MaxInputs     int
	MinInputConfs uint32
	// ZeroConf offers channels that are used before they confirm.
	ZeroConf bool

	// MaxLive joint fundings that are not over, MaxEach of one wallet that are
	// not confirmed; MaxUnconfirmedSat of the gateway's in unconfirmed ones.
	MaxLive, MaxEach  int
	MaxUnconfirmedSat ln.Sat

	// NegotiateFor is how long the nodes have, SignFor how long the wallet.
	NegotiateFor, SignFor time.Duration
	BuriedConfs           uint32
	BumpAfterBlocks       uint32
	MaxLocalCSV           uint16
	Ceiling               ln.FeeRateSatPerKW
}

// Defaults are for a small gateway on mainnet.
func Defaults() Config {
	return Config{
		MinWalletSat: 20_000, MinInboundSat: 50_000, MaxCapacitySat: 10_000_000, BaseSat: 500, PPM: 4_000,
		MaxInputs: 20, MinInputConfs: 1, MaxLive: 200, MaxEach: 1, MaxUnconfirmedSat: 50_000_000,
		NegotiateFor: time.Minute, SignFor: 30 * time.Minute, BuriedConfs: 6, BumpAfterBlocks: 3, MaxLocalCSV: 2016, Ceiling: 50_000,
	}
}

// Validate names the first setting that cannot be.
func (c Config) Validate() error {
	for _, p := range []struct {
		name string
		ok   bool
	}{
		{"network", c.Network != ""},
		{"min_wallet_sat (at least 10,000: a channel reserve and dust)", c.MinWalletSat >= 10_000},
		{"min_inbound_sat (at least 20,000, and more than the fee of it: the gateway pays the commitment fee)", c.MinInboundSat >= 20_000 && c.Fee(c.MinInboundSat) < c.MinInboundSat/2},
		{"max_capacity_sat (at least both minima)", c.MaxCapacitySat >= c.MinWalletSat+c.MinInboundSat && c.MaxCapacitySat <= 1_000_000_000},
		{"fee_ppm (less than half)", c.PPM < 500_000},
		{"max_inputs (1 to 100)", c.MaxInputs > 0 && c.MaxInputs <= 100},
		{"min_input_confirmations (at least 1)", c.MinInputConfs > 0},
		{"max_live", c.MaxLive > 0},
		{"max_each", c.MaxEach > 0},
		{"negotiate_for", c.NegotiateFor > 0},
		{"sign_for (less than a day: leases of coins are renewed with blocks)", c.SignFor > 0 && c.SignFor < leaseFor},
		{"buried_confirmations", c.BuriedConfs > 0},
	} {
		if !p.ok {
			return fmt.Errorf("joint fundings: %s is missing or out of range", p.name)
		}
	}
	return nil
}

// Fee is what the gateway asks for its part of a channel.
func (c Config) Fee(inbound ln.Sat) ln.Sat {
	return c.BaseSat + ln.Sat((uint64(inbound)*c.PPM+999_999)/1_000_000)
}
