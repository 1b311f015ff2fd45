package onboard

import (
	"context"
	"slices"
	"strings"
)

// Op is one entry of a macaroon: what may be done with what.
type Op struct {
	Entity  string
	Actions []string
}

// uriEntity is the entity of permissions that name a method.
const uriEntity = "uri"

// Rights are the methods of the signer that a watch-only node calls (observed on lnd
// v0.21.2: start, messages, spends of every kind, anchor and taproot channels, payments),
// and one that only the checks call.
func Rights() []string {
	const signer = "/signrpc.Signer/"
	return []string{
		"/walletrpc.WalletKit/SignPsbt",
		"/walletrpc.WalletKit/DeriveKey",
		signer + "SignMessage",
		signer + "DeriveSharedKey",
		signer + "MuSig2CreateSession",
		signer + "MuSig2RegisterNonces",
		signer + "MuSig2RegisterCombinedNonce",
		signer + "MuSig2GetCombinedNonce",
		signer + "MuSig2Sign",
		signer + "MuSig2CombineSig",
		signer + "MuSig2Cleanup",
	}
}

// Documented is the macaroon of lnd's own documentation (docs/remote-signing.md).
func Documented() []Op {
	return []Op{{"message", []string{"write"}}, {"signer", []string{"generate"}}, {"address", []string{"read"}}, {"onchain", []string{"write"}}}
}

// Forbidden are methods that a host must not be able to call: to look into the wallet,
// to make itself more rights, to spend by itself. Each is tried with a request that
// does nothing even where it is allowed.
func Forbidden() []string {
	return []string{
		"/lnrpc.Lightning/GetInfo", "/lnrpc.Lightning/BakeMacaroon", "/lnrpc.Lightning/NewAddress", "/lnrpc.Lightning/SendCoins",
		"/walletrpc.WalletKit/ListAccounts", "/walletrpc.WalletKit/FinalizePsbt", "/signrpc.Signer/SignOutputRaw",
	}
}

// permissions: the macaroon says that it allows everything, and the signer agrees.
func permissions(ctx context.Context, in Input, s Signer) (string, error) {
	if len(in.Caveats) > 0 {
		// A time that it ends at, an address that it is locked to: good now, and the node's
		// death later.
		return "", fail(again, "the macaroon is good under conditions only (%s): the node would die when one of them is not met", strings.Join(in.Caveats, "; "))
	}
	var missing []string
	for _, method := range Rights() {
		allowed, err := s.Try(ctx, method)
		if err != nil {
			return "", err
		}
		if !allowed {
			missing = append(missing, method)
		}
	}
	if len(missing) == len(Rights()) {
		return "", fail(again, "the signer takes the macaroon for nothing at all: it was revoked, or is another signer's")
	}
	if len(missing) > 0 {
		return "", fail(again, "the macaroon does not allow %s: the node would die at its first such call", strings.Join(missing, ", "))
	}
	return "the signer allows all calls that a node makes", nil
}

// excess: nothing besides is allowed, by the macaroon's own word and when it is tried.
func excess(ctx context.Context, in Input, s Signer) (string, error) {
	var more []string
	for _, op := range in.Ops {
		if op.Entity != uriEntity {
			more = append(more, op.Entity+":"+strings.Join(op.Actions, ","))
			continue
		}
		for _, a := range op.Actions {
			if !slices.Contains(Rights(), a) {
				more = append(more, a)
			}
		}
	}
	for _, method := range Forbidden() {
		allowed, err := s.Try(ctx, method)
		if err != nil {
			return "", err
		}
		if allowed && !slices.Contains(more, method) {
			more = append(more, method)
		}
	}
	if len(more) > 0 {
		return "", fail(again+"; destroy the wide macaroon: sluicectl signer revoke", "the macaroon allows more than a node needs (%s): whoever has the host could use it", strings.Join(more, ", "))
	}
	return "nothing besides is allowed", nil
}
