package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

func (w *wallet) AddHoldInvoice(_ context.Context, r ln.HoldInvoiceRequest) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := "lnbcrt-held-" + r.Hash.Short()
	b := ln.Bolt11{
		Text: text, Network: network, Hash: r.Hash, Payee: w.key, HasPaymentAddr: true, AmountMsat: r.AmountMsat,
		Description: r.Memo, CreatedAt: startTime(), Expiry: r.Expiry, FinalCltvDelta: r.FinalCltvDelta,
	}
	for _, h := range r.RouteHints {
		b.RouteHints = append(b.RouteHints, []ln.RouteHint{h})
	}
	w.decoded[text] = b
	w.invoices[r.Hash] = &ln.Invoice{Hash: r.Hash, Bolt11: text, State: ln.InvoiceOpen, AmountMsat: r.AmountMsat}
	return text, nil
}

func (w *wallet) SettleInvoice(_ context.Context, preimage ln.Preimage) error {
	w.set(preimage.Hash(), ln.InvoiceSettled)
	return nil
}

func (w *wallet) AbandonChannel(_ context.Context, op ln.Outpoint) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandoned = append(w.abandoned, op)
	return nil
}

// held is a payment that arrived over a channel.
func (w *wallet) held(hash ln.Hash, over ln.SCID) {
	w.mu.Lock()
	inv := w.invoices[hash]
	inv.Htlcs = []ln.InvoiceHtlc{{Key: ln.CircuitKey{ChanID: over, HtlcID: 1}, AmtMsat: inv.AmountMsat, State: ln.InvoiceAccepted}}
	w.mu.Unlock()
	w.set(hash, ln.InvoiceAccepted)
}

func (w *wallet) stateOf(hash ln.Hash) ln.InvoiceState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.invoices[hash].State
}

func (f *fakeLSP) PromiseFunding(_ context.Context, r *lspv1.PromiseFundingRequest) (*lspv1.PromiseFundingResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.promisesAsked++
	if f.promise == nil {
		return nil, status.Error(codes.FailedPrecondition, "no channel waits")
	}
	text := f.promise.Text()
	digest := chainhash.DoubleHashB([]byte("Lightning Signed Message:" + text))
	signature, err := auth.EncodeSignature(ecdsa.SignCompact(f.signer, digest, true))
	return &lspv1.PromiseFundingResponse{FundingOutpoint: f.promise.Outpoint.String(), Text: text, Signature: signature}, err
}

func (f *fakeLSP) GetPayment(_ context.Context, r *lspv1.GetPaymentRequest) (*lspv1.GetPaymentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &lspv1.GetPaymentResponse{Payment: &lspv1.Payment{PaymentId: r.PaymentId, Terminal: true, GivenUpOutpoints: f.givenUp}}, nil
}

const trustAmount = ln.Msat(100_000_000)

// trusting is an LSP under attack, with a key of its own, and a wallet that allows
// so much.
func trusting(t *testing.T, most ln.Sat) (*wallet, *fakeLSP, *world) {
	t.Helper()
	signer, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	key, err := ln.PubKeyFromBytes(signer.PubKey().SerializeCompressed())
	require.NoError(t, err)
	w := newWallet()
	l := newFakeLSP(w, key, 2_000_000, 10_000)
	l.signer, l.trusts, l.refuseTrust = signer, true, true
	w.trustSat = most
	return w, l, start(t, map[string]*fakeLSP{"alpha": l}, w)
}

var trustedChannel = ln.Outpoint{TxID: ln.TxID{7}, Index: 1}

// arrives lets the payment come over the LSP's new channel.
func (w *wallet) arrives(l *fakeLSP, hash ln.Hash) {
	w.mu.Lock()
	w.channels = append(w.channels, ln.Channel{
		Outpoint: trustedChannel, Peer: l.key, ChanID: 77, ZeroConf: true, Active: true, CapacitySat: 200_000,
	})
	w.mu.Unlock()
	w.held(hash, 77)
}

func (f *fakeLSP) promises(p lsp.FundingPromise) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.promise = &p
}

func eventually(t *testing.T, why string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !f(); {
		require.True(t, time.Now().Before(until), why)
		time.Sleep(10 * time.Millisecond)
	}
}

// The wallet claims once the LSP has signed for exactly the channel that its own
// node shows; then it waits for the chain, and raises an alarm when that is late.
func TestTrustedPayment(t *testing.T) {
	for _, mode := range []agent.Mode{agent.PayerPays, agent.ReceiverPays} {
		t.Run(string(mode), func(t *testing.T) {
			w, l, world := trusting(t, 200_000)
			g, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: trustAmount, Mode: mode})
			require.NoError(t, err)
			honest := lsp.FundingPromise{Gateway: l.key, Wallet: w.key, Hash: g.Hash, Outpoint: trustedChannel, CapacitySat: 200_000}
			l.promises(honest)
			w.arrives(l, g.Hash)
			eventually(t, "the payment is claimed", func() bool { return w.stateOf(g.Hash) == ln.InvoiceSettled })

			record := filepath.Join(world.dir, "trusted.json")
			content, err := os.ReadFile(record)
			require.NoError(t, err)
			require.Contains(t, string(content), honest.Text(), "the promise is kept")
			alarms := func() []string {
				s, err := world.agent.Status(t.Context())
				require.NoError(t, err)
				return s.Alarms
			}
			require.Empty(t, alarms())
			w.setHeight(agent.DefaultAlarmBlocks)
			require.Len(t, alarms(), 1)
			require.Contains(t, alarms()[0], trustedChannel.TxID.String())
			// What is not confirmed counts.
			_, err = world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: 150_000_000, Mode: mode})
			require.ErrorContains(t, err, "wants trust")

			w.mu.Lock()
			w.channels[0].ConfirmedSCID = ln.NewSCID(800_000, 1, 1)
			w.mu.Unlock()
			eventually(t, "nothing is left to wait for", func() bool {
				content, err := os.ReadFile(record)
				return err == nil && string(content) == "[]"
			})
			require.Empty(t, alarms())
		})
	}
}

// TestPromiseOfARestoredWallet: lnd was made anew from its seed and knows neither the
// payment nor the channel. The promise that came from the backup is kept, alarms when it
// is late, and ends once the channel's close is on the chain.
func TestPromiseOfARestoredWallet(t *testing.T) {
	for name, ends := range map[string]func(*wallet){
		"it is being closed": func(w *wallet) {
			w.pending = []ln.PendingChannel{{Outpoint: trustedChannel, Kind: ln.PendingForceClose}}
		},
		"it was closed": func(w *wallet) { w.closed = []ln.ClosedChannel{{Outpoint: trustedChannel, CloseHeight: 5}} },
		"it is open": func(w *wallet) {
			w.channels = []ln.Channel{{Outpoint: trustedChannel, ConfirmedSCID: ln.NewSCID(1, 1, 1)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, l, world := trusting(t, 200_000)
			g, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: trustAmount, Mode: agent.PayerPays})
			require.NoError(t, err)
			honest := lsp.FundingPromise{Gateway: l.key, Wallet: w.key, Hash: g.Hash, Outpoint: trustedChannel, CapacitySat: 200_000}
			l.promises(honest)
			w.arrives(l, g.Hash)
			eventually(t, "the payment is claimed", func() bool { return w.stateOf(g.Hash) == ln.InvoiceSettled })
			w.mu.Lock()
			delete(w.invoices, g.Hash)
			w.channels = nil
			w.pending = []ln.PendingChannel{{Outpoint: trustedChannel, Kind: ln.PendingWaitingClose}}
			w.mu.Unlock()
			w.setHeight(agent.DefaultAlarmBlocks)
			record := filepath.Join(world.dir, "trusted.json")
			content, err := os.ReadFile(record)
			require.NoError(t, err)

			fresh := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(fresh, "trusted.json"), content, 0o600))
			restored := startIn(t, fresh, map[string]*fakeLSP{"alpha": l}, w, nil)
			eventually(t, "the alarm is raised", func() bool {
				s, err := restored.agent.Status(t.Context())
				return err == nil && len(s.Alarms) == 1
			})
			kept, err := os.ReadFile(filepath.Join(restored.dir, "trusted.json"))
			require.NoError(t, err)
			require.Contains(t, string(kept), honest.Text())
			w.mu.Lock()
			w.pending = nil
			ends(w)
			w.mu.Unlock()
			eventually(t, "nothing is left to wait for", func() bool {
				content, err := os.ReadFile(filepath.Join(restored.dir, "trusted.json"))
				return err == nil && string(content) == "[]"
			})
		})
	}
}

// A promise of anything else keeps the preimage here.
func TestNoPreimageForABadPromise(t *testing.T) {
	other, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	for name, bend := range map[string]func(*fakeLSP, *lsp.FundingPromise){
		"another channel":     func(_ *fakeLSP, p *lsp.FundingPromise) { p.Outpoint.Index++ },
		"a smaller channel":   func(_ *fakeLSP, p *lsp.FundingPromise) { p.CapacitySat-- },
		"another payment":     func(_ *fakeLSP, p *lsp.FundingPromise) { p.Hash[0]++ },
		"another wallet":      func(_ *fakeLSP, p *lsp.FundingPromise) { p.Wallet = nodeKey(3) },
		"another's word":      func(_ *fakeLSP, p *lsp.FundingPromise) { p.Gateway = nodeKey(3) },
		"another's signature": func(l *fakeLSP, _ *lsp.FundingPromise) { l.signer = other },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, l, world := trusting(t, 200_000)
			g, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: trustAmount, Mode: agent.PayerPays})
			require.NoError(t, err)
			p := lsp.FundingPromise{Gateway: l.key, Wallet: w.key, Hash: g.Hash, Outpoint: trustedChannel, CapacitySat: 200_000}
			bend(l, &p)
			l.promises(p)
			w.arrives(l, g.Hash)
			eventually(t, "it asks again", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.promisesAsked > 1
			})
			require.Equal(t, ln.InvoiceAccepted, w.stateOf(g.Hash))
		})
	}
}

// Without the user's word no LSP is trusted with anything, and with it with no more.
func TestTrustIsTheUsers(t *testing.T) {
	for _, most := range []ln.Sat{0, 97_999} {
		w, l, world := trusting(t, most)
		for _, mode := range []agent.Mode{agent.PayerPays, agent.ReceiverPays} {
			_, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: trustAmount, Mode: mode})
			require.ErrorContains(t, err, "wants trust")
		}
		// Nor does an answer make it so.
		l.mu.Lock()
		l.refuseTrust = false
		l.mu.Unlock()
		for _, mode := range []agent.Mode{agent.PayerPays, agent.ReceiverPays} {
			_, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: trustAmount, Mode: mode})
			require.ErrorContains(t, err, "not agreed")
		}
		require.Empty(t, w.abandoned)
	}
}

// The payment goes back: lnd forgets the channel that the LSP gave up, and no other.
func TestTrustedPaymentGoesBack(t *testing.T) {
	w, l, world := trusting(t, 200_000)
	g, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: trustAmount, Mode: agent.PayerPays})
	require.NoError(t, err)
	w.arrives(l, g.Hash)
	confirmed := ln.Channel{Outpoint: ln.Outpoint{TxID: ln.TxID{8}}, Peer: l.key, ZeroConf: true, ConfirmedSCID: 9}
	another := ln.Channel{Outpoint: ln.Outpoint{TxID: ln.TxID{9}}, Peer: l.key, ZeroConf: true}
	strangers := ln.Channel{Outpoint: ln.Outpoint{TxID: ln.TxID{10}}, Peer: nodeKey(4), ZeroConf: true}
	w.mu.Lock()
	w.channels = append(w.channels, confirmed, another, strangers)
	w.mu.Unlock()
	l.mu.Lock()
	l.givenUp = []string{trustedChannel.String(), confirmed.Outpoint.String(), strangers.Outpoint.String()}
	l.mu.Unlock()
	require.NoError(t, w.CancelInvoice(t.Context(), g.Hash))
	eventually(t, "it is forgotten", func() bool {
		content, err := os.ReadFile(filepath.Join(world.dir, "trusted.json"))
		return err == nil && string(content) == "[]"
	})
	require.Equal(t, []ln.Outpoint{trustedChannel}, w.abandoned)
}
