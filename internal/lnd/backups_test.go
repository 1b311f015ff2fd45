package lnd

import (
	"testing"

	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
)

// TestWatchOnly: one account that was imported as a public key makes no watch-only
// wallet, and a wallet that tells nothing is not taken for one.
func TestWatchOnly(t *testing.T) {
	has, watches := &walletrpc.Account{Name: "default"}, &walletrpc.Account{Name: "cold", WatchOnly: true}
	require.True(t, watchOnly([]*walletrpc.Account{watches, watches}))
	require.False(t, watchOnly([]*walletrpc.Account{watches, has}))
	require.False(t, watchOnly([]*walletrpc.Account{has}))
	require.False(t, watchOnly(nil))
}
