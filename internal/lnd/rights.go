package lnd

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// party says whose macaroon needs a right.
type party uint16

const (
	gateway party = 1 << iota
	wallet
	both = gateway | wallet
	// closing is what a gateway's macaroon has only if its operator wants it: lnd
	// cannot tell a cooperative close from a forced one.
	closing party = 1 << 2
	// swaps marks what sluiced calls only while it offers swaps.
	swaps party = 1 << 3
	// tower is a sluiced that runs nothing but the watchtower.
	tower party = 1 << 4
	// guarded is what a wallet's macaroon has only if it uses towers.
	guarded party = 1 << 5
	// collab marks what sluiced calls only while it offers joint fundings, and
	// funder what a wallet's macaroon has only if it brings coins to them.
	collab party = 1 << 6
	funder party = 1 << 7
	// resigning is what a wallet's macaroon has only if it re-signs invoices: lnd signs
	// any text with any of its keys for who may call that, a channel's included.
	resigning party = 1 << 8
	// swapper is what a wallet's macaroon has only if it swaps in to have a channel
	// opened. None of it spends the wallet's coins.
	swapper party = 1 << 9
	// selling marks what a sluiced that runs nothing but the watchtower calls besides
	// while its updates have a price.
	selling party = 1 << 10
	// truster is what a wallet's macaroon has only if it claims payments over channels
	// that their LSP funds afterwards.
	truster party = 1 << 11
	// nobody marks what only tests, the devnet and people with admin.macaroon
	// call: no macaroon of ours carries it, so a stolen one cannot do it either.
	nobody party = 0
)

// Right is one method that a macaroon must allow, and what it is for.
type Right struct {
	// Method is the full name, as /lnrpc.Lightning/GetInfo.
	Method string
	Why    string
	who    party
}

// URI is the right as `lncli bakemacaroon` takes it.
func (r Right) URI() string { return "uri:" + r.Method }

// rights is the one table of what this adapter and interceptor/stream call of
// lnd. A test reads their sources and holds it complete. lnd's State service
// needs no macaroon and cannot be baked into one, so it is not here.
func rights() []Right {
	const (
		lightning = "/lnrpc.Lightning/"
		router    = "/routerrpc.Router/"
		invoices  = "/invoicesrpc.Invoices/"
		walletKit = "/walletrpc.WalletKit/"
		signer    = "/signrpc.Signer/"
		wtclient  = "/wtclientrpc.WatchtowerClient/"
	)
	return []Right{
		{lightning + "GetInfo", "who the node is and whether it is in sync", both | tower},
		{"/verrpc.Versioner/GetVersion", "whether this lnd is new enough", gateway | tower},
		{lightning + "CheckMacaroonPermissions", "to check this macaroon itself", gateway | tower},
		{lightning + "SignMessage", "to sign with the node's key: a wallet's login; of a gateway what webhooks are told, refund promises and the key of its backup receipts", both},
		{"/chainrpc.ChainNotifier/RegisterBlockEpochNtfn", "new blocks, for deadlines and for the watchtower", gateway | tower},

		{lightning + "ListChannels", "channels with their pending HTLCs; over which ones credit was paid", both | selling},
		{lightning + "PendingChannels", "channels that are opening or closing", both},
		{lightning + "ClosedChannels", "channels that are gone", both},
		{"/chainrpc.ChainKit/GetBlockHash", "to find a closing transaction, for the books; for the watchtower", gateway | tower},
		{"/chainrpc.ChainKit/GetBlock", "to read it: what a close cost; for the watchtower", gateway | tower},
		{lightning + "SubscribeChannelEvents", "the moment a channel is active", gateway},
		{lightning + "GetChanInfo", "the policy of a channel", gateway},
		{lightning + "ChannelAcceptor", "who may open channels to the node", both},
		{lightning + "ListPeers", "who is connected", both},
		{lightning + "SubscribePeerEvents", "who comes and goes", both},
		{lightning + "ConnectPeer", "to reach the other side", both},
		{lightning + "DisconnectPeer", "to bring back a channel whose link lnd gave up", gateway},
		{lightning + "SubscribeCustomMessages", "what LSPS clients ask over the peer connection; what LSPs answer a wallet", both},
		{lightning + "SendCustomMessage", "to answer them; to ask LSPs", both},
		{lightning + "OpenChannel", "to open channels on demand", gateway},
		{lightning + "FundingStateStep", "to fund them with leased coins", gateway},
		{lightning + "AbandonChannel", "to forget one whose funding can never confirm", gateway | funder | truster},
		{lightning + "UpdateChannelPolicy", "to set the fees of a channel on demand", gateway},
		{lightning + "CloseChannel", "to close channels whose lease is over, or that nobody uses; only for gateways that want that", closing},

		{router + "HtlcInterceptor", "to hold HTLCs while a channel opens", gateway},
		{router + "XAddLocalChanAliases", "to map the invoice's SCID to the new channel", gateway},
		{router + "XDeleteLocalChanAliases", "to move it from a channel that was closed", gateway},
		{lightning + "ListAliases", "whether an SCID is mapped already", gateway},
		{router + "SubscribeHtlcEvents", "how forwards ended", gateway},
		{lightning + "LookupHtlcResolution", "how a held HTLC ended", gateway},
		{lightning + "ForwardingHistory", "to reconcile the books", gateway},

		{router + "SendToRouteV2", "to pay a wallet over its channel", gateway},
		{router + "TrackPaymentV2", "whether such a payment succeeded", gateway},
		{lightning + "ListPayments", "to reconcile the books", gateway},
		{lightning + "ListInvoices", "settled invoices, for the books; of a wallet the open ones, whose preimages are backed up", both},
		{router + "SendPaymentV2", "to pay swaps in, and to probe for them", swaps},
		{invoices + "AddHoldInvoice", "to hold a payment until the wallet is paid, or credit at the watchtower is recorded; of a wallet, until its LSP has signed what it will publish", gateway | selling | truster},
		{invoices + "LookupInvoiceV2", "how an invoice stands", both | selling},
		{invoices + "SubscribeSingleInvoice", "the moment an invoice is paid", both | selling},
		{invoices + "SettleInvoice", "to take a held payment", gateway | selling | truster},
		{invoices + "CancelInvoice", "to give a held payment back", both | selling},
		{lightning + "AddInvoice", "to ask for a payment; to sell tokens (L402) to swap clients", wallet | swaps},

		{lightning + "SubscribeChannelBackups", "to back up the channels at every change", wallet},
		{lightning + "ExportAllChannelBackups", "to back them up at the start", wallet},
		{lightning + "VerifyChanBackup", "to prove that a stored backup opens", wallet},
		// Whoever may call it can also act as the node towards peers, so that the
		// daemon's macaroon has no such right.
		{signer + "DeriveSharedKey", "the key of each swap, from lnd's seed; the backup's key is made with admin.macaroon", swaps},
		{signer + "SignMessage", "to show payers an invoice with a longer final CLTV delta, signed with the node's key; whoever may call it can sign for the channels, too", resigning},
		{lightning + "RestoreChannelBackups", "a restore, with admin.macaroon", nobody},
		{walletKit + "ListAccounts", "whether a remote signer has the keys, when a backup's key is made with admin.macaroon", nobody},

		{wtclient + "AddTower", "to upload to a watchtower", guarded},
		{wtclient + "DeactivateTower", "to leave one", guarded},
		{wtclient + "ListTowers", "what was uploaded to which", guarded},
		{wtclient + "Stats", "what waits to be uploaded", guarded},

		{walletKit + "ListUnspent", "coins for channels", gateway},
		{walletKit + "LeaseOutput", "to keep a coin for one channel", gateway | funder},
		{walletKit + "ReleaseOutput", "to free it again", gateway | funder},
		{walletKit + "ListLeases", "what is kept already", gateway | funder},
		{walletKit + "NextAddr", "change addresses, and addresses for orders; of a wallet, where a refund goes", gateway | funder | swapper},
		{walletKit + "FinalizePsbt", "to sign a funding transaction; of a wallet, to take its coins back", gateway | funder},
		{walletKit + "PublishTransaction", "to publish it; justice transactions; the refund of a swap", gateway | tower | funder | swapper},
		{walletKit + "BumpFee", "to hurry it", gateway | funder},
		{walletKit + "EstimateFee", "what it should pay", gateway | swapper},
		{lightning + "WalletBalance", "to reconcile the books", gateway},
		{lightning + "GetTransactions", "to reconcile the books, and to see payments of orders; of a wallet, which blocks hold its coins", gateway | funder},
		{lightning + "SubscribeTransactions", "the moment an order is paid on chain", gateway},
		{walletKit + "FundPsbt", "to fund a swap's output with leased coins; of a wallet, to choose coins for a channel", swaps | funder},
		{walletKit + "RemoveTransaction", "to take a transaction out of the wallet that can never confirm, of a swap or a joint funding", swaps | collab},
		{walletKit + "SignPsbt", "to sign a wallet's part of a channel's funding", funder},
		{walletKit + "DeriveKey", "its public key in a channel, to check what it signs; whoever may call it can read channel backups", funder},
		{"/chainrpc.ChainNotifier/RegisterConfirmationsNtfn", "when a swap's output confirms; of a wallet, which blocks hold coins that another wallet brings to a channel", swaps | funder | swapper},
		{"/chainrpc.ChainNotifier/RegisterSpendNtfn", "how a swap's output, or a coin in a joint funding, is spent", swaps | collab | funder | swapper},
		// It shows all of lnd's settings, passwords blanked, and its log.
		{lightning + "GetDebugInfo", "how early lnd cancels a hold invoice (invoices.holdexpirydelta)", gateway},
	}
}

func rightsOf(p party) []Right {
	var out []Right
	for _, r := range rights() {
		if r.who&p != 0 {
			out = append(out, r)
		}
	}
	return out
}

// GatewayRightsTable is what sluiced may do at the gateway's lnd, with reasons.
func GatewayRightsTable() []Right { return rightsOf(gateway) }

// WalletRightsTable is what the wallet's agent may do at the wallet's lnd.
func WalletRightsTable() []Right { return rightsOf(wallet) }

// TowerRightsTable is what a sluiced that runs nothing but the watchtower may do.
func TowerRightsTable() []Right { return rightsOf(tower) }

// TowerRights are the same as URIs.
func TowerRights() []string { return uris(TowerRightsTable()) }

// TowerSalesRightsTable is what it needs besides while its updates have a price.
func TowerSalesRightsTable() []Right { return rightsOf(selling) }

// TowerSalesRights are the same as URIs.
func TowerSalesRights() []string { return uris(TowerSalesRightsTable()) }

// GatewayRights are sluiced's rights as URIs for `lncli bakemacaroon`: the
// least that it works with.
func GatewayRights() []string { return uris(GatewayRightsTable()) }

// SwapsRightsTable is what sluiced needs besides while it offers swaps.
func SwapsRightsTable() []Right { return rightsOf(swaps) }

// GatewayAndSwapsRights are sluiced's rights while it offers swaps.
func GatewayAndSwapsRights() []string { return append(GatewayRights(), uris(SwapsRightsTable())...) }

// JointRightsTable is what sluiced needs besides while it offers joint fundings.
func JointRightsTable() []Right { return rightsOf(collab) }

// JointRights are the same as URIs.
func JointRights() []string { return uris(JointRightsTable()) }

// What rights are needed for that an operator turns on or leaves off.
const (
	ForClosing = "closing channels"
	ForJoint   = "joint fundings"
	ForSwaps   = "swaps"
	ForSelling = "a price for the watchtower's updates"
)

// Extra are the rights that are needed only for one such thing.
type Extra struct {
	For string
	// Setting turns it on.
	Setting string
	Rights  []Right
}

// GatewayExtras are those of a gateway's macaroon.
func GatewayExtras() []Extra {
	return []Extra{
		{ForClosing, "lsp.orders.close_at_lease_end or lsp.close_unused_after_blocks", ClosingRightsTable()},
		{ForJoint, "joint.enabled", JointRightsTable()},
		{ForSwaps, "swaps.enabled", SwapsRightsTable()},
	}
}

// TowerExtras are those of a sluiced that runs nothing but the watchtower.
func TowerExtras() []Extra {
	return []Extra{{ForSelling, "watchtower.price_msat_per_update", TowerSalesRightsTable()}}
}

// WalletFundRights are what the wallet's macaroon needs besides to bring coins to
// a channel: whoever holds them can spend the wallet's coins.
func WalletFundRights() []string { return uris(rightsOf(funder)) }

// WalletRights are the same for the wallet's agent.
func WalletRights() []string { return uris(WalletRightsTable()) }

// WalletTrustRights are what the wallet's macaroon needs besides to claim payments
// over channels that are funded afterwards.
func WalletTrustRights() []string { return uris(rightsOf(truster)) }

// WalletSwapRights are what the wallet's macaroon needs besides to swap in for a
// channel.
func WalletSwapRights() []string { return uris(rightsOf(swapper)) }

// WalletTowerRights are what the wallet's macaroon needs besides for the towers
// commands.
func WalletTowerRights() []string { return uris(rightsOf(guarded)) }

// WalletResigningRights are what the wallet's macaroon needs besides to re-sign invoices.
func WalletResigningRights() []string { return uris(rightsOf(resigning)) }

// ClosingRightsTable is what sluiced's macaroon needs besides to close channels
// whose lease is over, or that nobody uses.
func ClosingRightsTable() []Right { return rightsOf(closing) }

// ClosingRights are the same as URIs.
func ClosingRights() []string { return uris(ClosingRightsTable()) }

func uris(table []Right) []string {
	out := make([]string, 0, len(table))
	for _, r := range table {
		out = append(out, r.URI())
	}
	return out
}

// The root keys that our recipes bake under. lnd refuses to delete number 0, its
// default: a stolen macaroon of that one ends only with every other macaroon.
const (
	GatewayRootKeyID = 10_200
	WalletRootKeyID  = 10_300
)

// BakeCommand is the shell command that makes a macaroon file with exactly
// these rights, under a root key of its own.
func BakeCommand(file string, rootKeyID uint64, rights []string) string {
	return fmt.Sprintf("lncli bakemacaroon --save_to %s --root_key_id %d \\\n  %s", shellQuote(file), rootKeyID, strings.Join(rights, " \\\n  "))
}

// shellQuote leaves ordinary paths alone, a leading ~ included.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-~+=:@", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Permission is lnd's answer about one method.
type Permission string

// The answers. Absent: this lnd has no such method, because it was built
// without the tag of its service or is too old.
const (
	Allowed Permission = "allowed"
	Refused Permission = "refused"
	Absent  Permission = "absent"
)

// CheckPermission asks lnd whether a macaroon (binary) may call a method, by
// lnrpc.CheckMacaroonPermissions rather than by trying it. Both kinds of
// macaroons count: those baked from URIs and those with lnd's broad entities,
// like admin.macaroon.
func (c *Client) CheckPermission(ctx context.Context, macaroon []byte, method string) (Permission, error) {
	resp, err := c.lightning.CheckMacaroonPermissions(ctx, &lnrpc.CheckMacPermRequest{
		Macaroon: macaroon, FullMethod: method, CheckDefaultPermsFromFullMethod: true,
	})
	if err == nil && resp.Valid {
		return Allowed, nil
	}
	// The call itself refused is code Unknown; only a verdict on the macaroon
	// comes as InvalidArgument.
	switch s, _ := status.FromError(err); {
	case err == nil, s.Code() == codes.InvalidArgument:
		return Refused, nil
	case strings.Contains(s.Message(), "no permissions found for full method"):
		return Absent, nil
	}
	return "", mapError(fmt.Sprintf("check the macaroon for %s", shortMethod(method)), err)
}

// SettingsMethod is the right to ask for lnd's settings.
const SettingsMethod = "/lnrpc.Lightning/GetDebugInfo"

// Settings are lnd's settings by their name in lnd.conf, as it runs with them
// (lnrpc.GetDebugInfo). lnd blanks passwords.
type Settings map[string]string

// Settings asks lnd for its settings. sluiced's macaroon may, and lnd's
// readonly.macaroon.
func (c *Client) Settings(ctx context.Context) (Settings, error) {
	resp, err := c.lightning.GetDebugInfo(ctx, &lnrpc.GetDebugInfoRequest{})
	if err != nil {
		return nil, mapError("ask lnd for its settings", err)
	}
	return resp.Config, nil
}

// HoldExpiryDelta is lnd's invoices.holdexpirydelta, as it runs now: how many
// blocks before the earliest expiry it cancels an accepted hold invoice.
func (c *Client) HoldExpiryDelta(ctx context.Context) (uint32, error) {
	settings, err := c.Settings(ctx)
	if err != nil {
		return 0, err
	}
	delta, err := strconv.ParseUint(settings["invoices.holdexpirydelta"], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("lnd's invoices.holdexpirydelta: %w", err)
	}
	return uint32(delta), nil
}
