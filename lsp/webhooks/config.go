package webhooks

import (
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// Config is how webhooks are bounded.
type Config struct {
	// PerClient is how many webhooks one client may have, All all together.
	PerClient, All int
	// SetsPerHour is how many times one client may have a webhook registered or
	// changed in an hour: each is a call to a URL of its choice.
	SetsPerHour int
	Cooldown    lsps5.Cooldown
	// Retain is how long webhooks are kept without a channel.
	Retain time.Duration
	// KeepLedger is how long the outcome of a notification is kept.
	KeepLedger time.Duration
	// Parallel is how many webhooks are called at once, PerHost how many of one
	// host: a slow one holds up its own clients only.
	Parallel, PerHost int
}

// DefaultConfig is for a gateway with some thousands of wallets.
func DefaultConfig() Config {
	return Config{
		PerClient: 10, All: 100_000, SetsPerHour: 30,
		Cooldown: lsps5.Cooldown{Every: 2 * time.Minute, ResetEvery: 20 * time.Second},
		Retain:   14 * 24 * time.Hour, KeepLedger: 30 * 24 * time.Hour, Parallel: 32, PerHost: 8,
	}
}

// LeastRetain is what bLIP-55 asks for.
const LeastRetain = 7 * 24 * time.Hour

// Validate refuses what the spec does not allow or nothing would be sent under.
func (c Config) Validate() error {
	switch {
	case c.PerClient < 1 || c.All < c.PerClient || c.SetsPerHour < 1 || c.Parallel < 1 || c.PerHost < 1:
		return errors.New("webhooks: each limit must be above zero, and what all may have at least what one may")
	case c.Cooldown.Every < time.Second || c.Cooldown.ResetEvery < time.Second || c.Cooldown.ResetEvery > c.Cooldown.Every:
		return errors.New("webhooks: a cooldown lasts a second at least, and reconnections lift it at most as often as it ends by itself")
	case c.Retain < LeastRetain:
		return errors.New("webhooks: bLIP-55 has them kept for 7 days at least")
	case c.KeepLedger < time.Hour:
		return errors.New("webhooks: the ledger is kept for an hour at least: limits are counted from it")
	}
	return nil
}
