package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Mode says who pays the opening fee.
type Mode string

// The modes.
const (
	PayerPays    Mode = "payer_pays"
	ReceiverPays Mode = "receiver_pays"
)

// Agreement is a payment that an LSP agreed to deliver. It holds no secret.
type Agreement struct {
	LSP       string    `json:"lsp"`
	NodeKey   ln.PubKey `json:"node_key"`
	PaymentID string    `json:"payment_id"`
	Hash      ln.Hash   `json:"payment_hash"`
	Mode      Mode      `json:"mode"`
	// Bolt11 is the invoice to show to the payer.
	Bolt11    string  `json:"bolt11"`
	PayerMsat ln.Msat `json:"payer_msat"`
	// WalletMsat is what arrives.
	WalletMsat   ln.Msat `json:"wallet_msat"`
	FeeMsat      ln.Msat `json:"fee_msat"`
	OpensChannel bool    `json:"opens_channel"`
	CapacitySat  ln.Sat  `json:"capacity_sat,omitempty"`
	ZeroConf     bool    `json:"zero_conf"`
	// Confirmations that the payment waits for without zero-conf.
	Confirmations uint32 `json:"confirmations,omitempty"`
	// MaxWaitBlocks is how long the LSP holds the payment for them.
	MaxWaitBlocks uint32    `json:"max_wait_blocks,omitempty"`
	CreatedAt     time.Time `json:"created_at"`
	ExpiresAt     time.Time `json:"expires_at"`
	// OwnExpiresAt is until when the LSP can pay the wallet's own invoice, if the LSP
	// wrapped it.
	OwnExpiresAt time.Time `json:"own_expires_at,omitzero"`
}

// lastChannel is until when a channel may be proposed for it.
func (g Agreement) lastChannel() time.Time {
	if last := g.ExpiresAt.Add(openGrace); last.After(g.OwnExpiresAt) {
		return last
	}
	return g.OwnExpiresAt
}

const (
	// openGrace is how long after an agreement's end its channel may still be
	// proposed: the payment came in at the last moment.
	openGrace = time.Hour
	// keepFor is how long ended agreements are remembered for `receive --wait`.
	keepFor       = 7 * 24 * time.Hour
	maxAgreements = 10_000
)

// agreements remembers what was agreed over restarts, so that the acceptor
// keeps asking for the confirmations that the user asked for.
type agreements struct {
	path string

	mu   sync.Mutex
	list []Agreement
}

func openAgreements(path string) (*agreements, error) {
	list, err := readList[Agreement]("agreements", path)
	if err != nil {
		return nil, err
	}
	return &agreements{path: path, list: list}, nil
}

// add stores an agreement before its invoice is shown.
func (a *agreements) add(g Agreement, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(a.list), func(old Agreement) bool {
		return now.After(old.lastChannel().Add(keepFor))
	})
	if len(next) >= maxAgreements {
		return errkind.Newf(errkind.Exhausted, "%d payments wait already: let some expire first", len(next))
	}
	next = append(next, g)
	if err := writeList("agreements", a.path, next); err != nil {
		return err
	}
	a.list = next
	return nil
}

func (a *agreements) byHash(hash ln.Hash) (Agreement, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range slices.Backward(a.list) {
		if g.Hash == hash {
			return g, true
		}
	}
	return Agreement{}, false
}

// wish is what the standing agreements with a node say of its next channel.
func (a *agreements) wish(node ln.PubKey, now time.Time) Wish {
	a.mu.Lock()
	defer a.mu.Unlock()
	var w Wish
	for _, g := range a.list {
		if g.NodeKey != node || !g.OpensChannel || now.After(g.lastChannel()) {
			continue
		}
		if g.ZeroConf {
			w.Trusting = true
			continue
		}
		w.Declined = true
		w.Confirmations = max(w.Confirmations, g.Confirmations)
	}
	w.Declined = w.Declined && !w.Trusting
	return w
}
