package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/collab"
)

// Phase is how far a joint funding has come, as the wallet knows by itself.
type Phase string

// The phases. Until PhaseSigned nothing can be published.
const (
	// PhaseChosen: coins are leased, or about to be; the LSP may know the offer.
	PhaseChosen Phase = "chosen"
	// PhaseReady: all was checked; the user reviews.
	PhaseReady Phase = "ready"
	// PhaseSigned: the signature has left, or may have.
	PhaseSigned Phase = "signed"
	// PhaseDone: final; the channel's funding is buried.
	PhaseDone Phase = "done"
	// PhaseGivenUp: final; nothing was signed, the coins are free.
	PhaseGivenUp Phase = "given_up"
	// PhaseVoid: final; another spend of a coin is buried, the channel is forgotten.
	PhaseVoid Phase = "void"
)

// Over says that nothing more will happen.
func (p Phase) Over() bool { return p == PhaseDone || p == PhaseGivenUp || p == PhaseVoid }

// Record is one joint funding on the wallet's disk.
type Record struct {
	Nonce   [32]byte  `json:"nonce"`
	LSP     string    `json:"lsp"`
	NodeKey ln.PubKey `json:"node_key"`
	// Self is this wallet's node: with the nonce it makes the negotiation's id.
	Self ln.PubKey `json:"self"`
	// ID is the LSP's.
	ID    string `json:"id,omitempty"`
	Phase Phase  `json:"phase"`

	WalletSat     ln.Sat         `json:"wallet_sat"`
	InboundSat    ln.Sat         `json:"inbound_sat"`
	ServiceFeeSat ln.Sat         `json:"service_fee_sat"`
	MaxChainFee   ln.Sat         `json:"max_chain_fee_sat"`
	ZeroConf      bool           `json:"zero_conf,omitempty"`
	Taproot       bool           `json:"taproot,omitempty"`
	Inputs        []collab.Input `json:"inputs,omitempty"`
	ChangeScript  []byte         `json:"change_script,omitempty"`
	// Own is the wallet's packet of its coins: it has the paths of their keys, and
	// is itself a transaction that pays them back to the wallet, unless it is of
	// another wallet.
	Own []byte `json:"own,omitempty"`
	// Elsewhere: the coins are another wallet's. FeeRate is set then.
	Elsewhere bool               `json:"elsewhere,omitempty"`
	FeeRate   ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw,omitempty"`

	// Replaces is the record whose place this one takes, LeasedAs the nonce under
	// which the coins of both are leased.
	Replaces string   `json:"replaces,omitempty"`
	LeasedAs [32]byte `json:"leased_as,omitzero"`

	Channel     ln.Outpoint `json:"channel,omitzero"`
	Psbt        []byte      `json:"psbt,omitempty"`
	ChainFeeSat ln.Sat      `json:"chain_fee_sat,omitempty"`
	ChangeSat   ln.Sat      `json:"change_sat,omitempty"`
	Signed      []byte      `json:"signed,omitempty"`
	BuriedConfs uint32      `json:"buried_confs,omitempty"`
	// Restored: it comes from a backup. lnd knows its channel by lnd's own backup, as one
	// to be closed, so that nothing is handed over any more that would open it.
	Restored bool `json:"restored,omitempty"`
	// ChangeKnown: the restored wallet has derived the address of its change again.
	ChangeKnown bool `json:"change_known,omitempty"`
	// Hurry is what the person agreed to for a child of the change.
	Hurry *Hurry `json:"hurry,omitempty"`

	// State and Reason are the LSP's last word, Alarm what the user must know.
	State     string    `json:"state,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Alarm     string    `json:"alarm,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// Key names the record.
func (r Record) Key() string { return hex.EncodeToString(r.Nonce[:8]) }

// CapacitySat is the whole channel.
func (r Record) CapacitySat() ln.Sat { return r.WalletSat + r.InboundSat }

// leaseID is the id of the leases of its coins.
func (r Record) leaseID() [32]byte {
	nonce := r.Nonce
	if r.LeasedAs != [32]byte{} {
		nonce = r.LeasedAs
	}
	return sha256.Sum256(append([]byte("sluice/wallet/joint/"), nonce[:]...))
}

// records keeps them, one file each.
type records struct{ dir string }

func openRecords(dir string) (*records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("joint fundings: %w", err)
	}
	return &records{dir: dir}, nil
}

const recordSuffix = ".json"

// put is durable when it returns.
func (s *records) put(r Record) error {
	content, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("joint funding %s: %w", r.Key(), err)
	}
	path := filepath.Join(s.dir, r.Key()+recordSuffix)
	if err := durable.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("joint funding %s: %w", r.Key(), err)
	}
	return nil
}

// all reads every record, oldest first. One that cannot be read is an error: it
// may be of a channel that must not be forgotten.
func (s *records) all() ([]Record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("joint fundings: %w", err)
	}
	var out []Record
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("joint fundings: %w", err)
		}
		var r Record
		if err := json.Unmarshal(content, &r); err != nil {
			return nil, fmt.Errorf("joint funding %s is damaged: bring it back from a backup, or move it away once its channel is known to be open or void: %w", e.Name(), err)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out, nil
}
