package agent

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// RecordsFile is the records' name in the data directory.
const RecordsFile = "swaps.json"

// Phase is how far a swap has come, as the wallet knows by itself.
type Phase string

// The phases.
const (
	// PhaseMade: keys and invoice exist; nobody was told an address.
	PhaseMade Phase = "made"
	// PhaseAgreed: the address may have been shown, and money may be on its way.
	PhaseAgreed Phase = "agreed"
	// PhasePaid: the wallet was paid; the deposit is the gateway's.
	PhasePaid Phase = "paid"
	// PhaseRefunding: the invoice is cancelled; the deposit is being taken back.
	PhaseRefunding Phase = "refunding"
	// PhaseDone, PhaseRefunded, PhaseLapsed and PhaseGivenUp are final: paid and the
	// deposit taken, refunded, nothing ever deposited, never agreed.
	PhaseDone     Phase = "done"
	PhaseRefunded Phase = "refunded"
	PhaseLapsed   Phase = "lapsed"
	PhaseGivenUp  Phase = "given_up"
)

// Over says that nothing more will happen.
func (p Phase) Over() bool {
	switch p {
	case PhaseDone, PhaseRefunded, PhaseLapsed, PhaseGivenUp:
		return true
	}
	return false
}

// Secret is 32 bytes that only the record holds. It prints as nothing.
type Secret [32]byte

func (Secret) String() string { return "(secret)" }

// GoString is String.
func (Secret) GoString() string { return "(secret)" }

// MarshalText is the stored form.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(s[:])), nil }

// UnmarshalText reads it.
func (s *Secret) UnmarshalText(b []byte) error {
	if len(b) != 2*len(s) {
		return errors.New("a stored secret has another length")
	}
	if _, err := hex.Decode(s[:], b); err != nil {
		return errors.New("a stored secret is not hexadecimal")
	}
	return nil
}

// Refund is a signed spend of a deposit, and what has become of the deposit.
type Refund struct {
	Raw    []byte             `json:"raw"`
	FeeSat ln.Sat             `json:"fee_sat"`
	Rate   ln.FeeRateSatPerKW `json:"rate_sat_per_kw"`
	// Height is the tip when it was signed.
	Height uint32 `json:"height"`
}

// Deposit is an output that pays the contract, in a block.
type Deposit struct {
	Outpoint ln.Outpoint `json:"outpoint"`
	ValueSat ln.Sat      `json:"value_sat"`
	Height   uint32      `json:"height"`
	Refund   *Refund     `json:"refund,omitempty"`
	// Spent is how it was spent in the best chain.
	Spent       htlc.Spend `json:"spent,omitempty"`
	SpentHeight uint32     `json:"spent_height,omitempty"`
}

// Record is one swap on the wallet's disk: with a deposit's outpoint and value it
// makes a refund.
type Record struct {
	Gateway    string    `json:"gateway"`
	GatewayKey ln.PubKey `json:"gateway_key"`
	Network    string    `json:"network"`
	Phase      Phase     `json:"phase"`
	Hash       ln.Hash   `json:"payment_hash"`
	Preimage   Secret    `json:"preimage"`
	// RefundKey alone takes the deposit back after the expiry; InternalKey is half
	// of the key path.
	RefundKey   Secret     `json:"refund_key"`
	InternalKey Secret     `json:"internal_key"`
	Terms       htlc.Terms `json:"terms"`
	Address     string     `json:"address,omitempty"`
	Invoice     string     `json:"invoice"`

	AmountSat       ln.Sat  `json:"amount_sat"`
	InvoiceSat      ln.Sat  `json:"invoice_sat"`
	SwapFeeSat      ln.Sat  `json:"swap_fee_sat"`
	OpeningFeeMsat  ln.Msat `json:"opening_fee_msat"`
	CapacitySat     ln.Sat  `json:"capacity_sat"`
	Confs           uint32  `json:"confs"`
	ChannelConfs    uint32  `json:"channel_confs"`
	BeginHeight     uint32  `json:"begin_height"`
	DepositByHeight uint32  `json:"deposit_by_height"`

	Deposits []Deposit `json:"deposits,omitempty"`
	// RefundScript is where a refund goes: the same for all of one swap's.
	RefundScript []byte `json:"refund_script,omitempty"`
	KeyGiven     bool   `json:"key_given,omitempty"`
	// State and Reason are the gateway's last word.
	State     string    `json:"state,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// keepFor is how long records of swaps that are over are kept.
const keepFor = 90 * 24 * time.Hour

// maxLive bounds the swaps that are not over.
const maxLive = 100

// Records keeps them in one file, which is replaced as a whole.
type Records struct {
	path string

	mu   sync.Mutex
	list []Record
}

// OpenRecords reads the file of a data directory. One that cannot be read is an
// error: it may hold the keys of a deposit.
func OpenRecords(dir string) (*Records, error) {
	s := &Records{path: filepath.Join(dir, RecordsFile)}
	content, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("swaps: %w", err)
	}
	if err := json.Unmarshal(content, &s.list); err != nil {
		return nil, fmt.Errorf("%s is damaged: bring it back from a backup, it may hold the keys of a deposit: %w", s.path, err)
	}
	return s, nil
}

// add stores a new record, durably, and forgets old ones.
func (s *Records) add(r Record, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := 0
	next := slices.DeleteFunc(slices.Clone(s.list), func(old Record) bool {
		if !old.Phase.Over() {
			live++
		}
		return old.Phase.Over() && now.After(old.CreatedAt.Add(keepFor))
	})
	if live >= maxLive {
		return errkind.Newf(errkind.Exhausted, "%d swaps are under way already: wait for some to end", live)
	}
	return s.write(append(next, r))
}

// change changes one record, durably; f says whether there is anything to write.
func (s *Records) change(hash ln.Hash, f func(*Record) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := slices.Clone(s.list)
	for i := range next {
		if next[i].Hash != hash {
			continue
		}
		next[i].Deposits = slices.Clone(next[i].Deposits)
		if !f(&next[i]) {
			return nil
		}
		return s.write(next)
	}
	return errNoSwap
}

var errNoSwap = errkind.New(errkind.NotFound, "there is no such swap: `sluice-wallet swap status` lists them")

// Get finds one.
func (s *Records) Get(hash ln.Hash) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.list {
		if r.Hash == hash {
			r.Deposits = slices.Clone(r.Deposits)
			return r, nil
		}
	}
	return Record{}, errNoSwap
}

// All lists them, newest first.
func (s *Records) All() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.list)
	for i := range out {
		out[i].Deposits = slices.Clone(out[i].Deposits)
	}
	slices.Reverse(out)
	return out
}

// write replaces the file; what is in memory follows what is on disk.
func (s *Records) write(next []Record) error {
	content, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return fmt.Errorf("swaps: %w", err)
	}
	if err := durable.WriteFile(s.path, content, 0o600); err != nil {
		return fmt.Errorf("swaps: %w", err)
	}
	s.list = next
	return nil
}
