package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	wallet "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Dir is where records are, in the data directory.
const Dir = "fundings"

const (
	// leaseFor is how long coins stay chosen without being renewed.
	leaseFor = 24 * time.Hour
	// callTimeout bounds one call to an LSP, readyTimeout a negotiation.
	callTimeout  = 30 * time.Second
	readyTimeout = 3 * time.Minute
)

// Agent brings coins to channels. Run must be running for channels to be accepted
// and for what was signed to be seen through.
type Agent struct {
	ports   Ports
	records *records
	log     *zap.Logger

	mu sync.Mutex
	// all are the records by key; busy are those that somebody works on.
	all  map[string]Record
	busy map[string]bool
	// hurried is at which height lnd was asked for a child last.
	hurried map[string]uint32
	// poke wakes Run.
	poke chan struct{}
}

// New reads the records; it makes no call.
func New(dataDir string, ports Ports) (*Agent, error) {
	if ports.Now == nil {
		ports.Now = time.Now
	}
	if ports.Random == nil {
		ports.Random = rand.Reader
	}
	if ports.Log == nil {
		ports.Log = zap.NewNop()
	}
	kept, err := openRecords(filepath.Join(dataDir, Dir))
	if err != nil {
		return nil, err
	}
	list, err := kept.all()
	if err != nil {
		return nil, err
	}
	a := &Agent{ports: ports, records: kept, log: ports.Log, all: make(map[string]Record), busy: make(map[string]bool), hurried: make(map[string]uint32), poke: make(chan struct{}, 1)}
	for _, r := range list {
		a.all[r.Key()] = r
	}
	return a, nil
}

// Expects says that a channel that is proposed is one that the wallet asked for:
// then what is pushed to it is its own. It answers from memory.
func (a *Agent) Expects(o ln.OpenProposal) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.all {
		if r.Phase != PhaseChosen || r.NodeKey != o.Peer || collab.PendingID(r.Self, r.Nonce) != o.PendingID {
			continue
		}
		push, err := r.WalletSat.Msat()
		kind := ln.CommitmentAnchors
		if r.Taproot {
			kind = ln.CommitmentSimpleTaproot
		}
		return err == nil && o.CapacitySat == r.CapacitySat() && o.PushMsat == push && o.WantsZeroConf == r.ZeroConf && o.CommitmentType == kind && !o.Announce
	}
	return false
}

// Request asks for a channel.
type Request struct {
	// LSP is a name; empty takes the only one.
	LSP string
	// WalletSat of the wallet's coins become its balance, InboundSat is the LSP's.
	WalletSat, InboundSat ln.Sat
	ZeroConf, Taproot     bool
	// MaxServiceFeeSat and MaxFeeRate bound what the LSP may ask; 0 leaves that to
	// the review.
	MaxServiceFeeSat ln.Sat
	MaxFeeRate       ln.FeeRateSatPerKW
	// Elsewhere are coins of another wallet; nil takes this wallet's.
	Elsewhere *Elsewhere
}

func (a *Agent) lsp(name string) (wallet.LSP, error) {
	list := a.ports.LSPs()
	switch {
	case name == "" && len(list) == 1:
		return list[0], nil
	case name == "" && len(list) == 0:
		return wallet.LSP{}, errkind.New(errkind.Invalid, "there is no LSP: add one with `sluice-wallet lsps add`")
	case name == "":
		return wallet.LSP{}, errkind.New(errkind.Invalid, "there are several LSPs: name one with --lsp")
	}
	i := slices.IndexFunc(list, func(l wallet.LSP) bool { return l.Name == name })
	if i < 0 {
		return wallet.LSP{}, errkind.Newf(errkind.NotFound, "there is no LSP %q: `sluice-wallet lsps` lists them", name)
	}
	return list[i], nil
}

// call reaches the LSP of a record for one conversation.
func (a *Agent) call(ctx context.Context, l wallet.LSP, self ln.PubKey, f func(context.Context, collabv1.JointFundingServiceClient) error) error {
	client, end, err := a.ports.Connect(l, self)
	if err != nil {
		return err
	}
	defer func() { _ = end() }()
	err = f(ctx, client)
	if err == nil {
		return nil
	}
	err = rpcserver.FromStatus(err)
	said := errkind.Sentence(err)
	if said == "" {
		said = err.Error()
	}
	return errkind.Wrap(errkind.Of(err), err, "LSP "+l.Name+": "+said)
}

// save keeps a record on disk, then in memory.
func (a *Agent) save(r Record) error {
	if err := a.records.put(r); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[r.Key()] = r
	return nil
}

// wake has Run look now.
func (a *Agent) wake() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// claim is take for a person, who waits for what runs in the background.
func (a *Agent) claim(ctx context.Context, key string) (Record, func(), error) {
	for deadline := time.After(callTimeout); ; {
		r, release, err := a.take(key)
		if !errors.Is(err, errBusy) {
			return r, release, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			return r, nil, err
		case <-ctx.Done():
			return r, nil, ctx.Err()
		}
	}
}

var errBusy = errkind.New(errkind.Unavailable, "the joint funding is being worked on: try again in a few seconds")

// take makes sure that one conversation at a time works on a record.
func (a *Agent) take(key string) (Record, func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.all[key]
	switch {
	case !ok:
		return r, nil, errkind.Newf(errkind.NotFound, "there is no joint funding %q: `sluice-wallet fund list` lists them", key)
	case a.busy[key]:
		return r, nil, errBusy
	}
	a.busy[key] = true
	return r, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.busy, key)
	}, nil
}

// List is every record, oldest first.
func (a *Agent) List() []Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Record, 0, len(a.all))
	for _, r := range a.all {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out
}

// Open chooses coins, offers them, and returns once all is checked and ready to be
// signed. Whatever goes wrong, the coins are free again.
func (a *Agent) Open(ctx context.Context, q Request) (Record, error) { return a.begin(ctx, q, nil) }

// begin is Open; old is what the channel takes the place of, if it is not nil.
func (a *Agent) begin(ctx context.Context, q Request, old *Record) (Record, error) {
	l, err := a.lsp(q.LSP)
	if err != nil {
		return Record{}, err
	}
	info, err := a.ports.Chain.Info(ctx)
	if err != nil {
		return Record{}, err
	}
	r := Record{
		LSP: l.Name, NodeKey: l.NodeKey, Self: info.PubKey, Phase: PhaseChosen, WalletSat: q.WalletSat, InboundSat: q.InboundSat,
		ZeroConf: q.ZeroConf, Taproot: q.Taproot, CreatedAt: a.ports.Now().UTC(),
	}
	if _, err := a.ports.Random.Read(r.Nonce[:]); err != nil {
		return Record{}, fmt.Errorf("draw a nonce: %w", err)
	}
	var terms *collabv1.GetTermsResponse
	err = a.call(ctx, l, info.PubKey, func(ctx context.Context, c collabv1.JointFundingServiceClient) (err error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		terms, err = c.GetTerms(ctx, &collabv1.GetTermsRequest{})
		return err
	})
	if err != nil {
		return Record{}, err
	}
	if err := judgeTerms(q, l, info, terms); err != nil {
		return Record{}, err
	}
	r.ServiceFeeSat = serviceFee(terms, q.InboundSat)
	r.BuriedConfs = buriedConfs(terms.GetBuriedConfirmations())
	if old != nil {
		r.Replaces = old.Key()
	}
	// On disk before a coin is leased, so that it is let go after a crash.
	a.mu.Lock()
	a.busy[r.Key()] = true
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.busy, r.Key())
	}()
	if err := a.save(r); err != nil {
		return Record{}, err
	}
	opened, err := a.open(ctx, l, r, q.Elsewhere, old, terms)
	if err != nil {
		return Record{}, errors.Join(err, a.giveUp(context.WithoutCancel(ctx), opened, "it could not be opened: "+err.Error()))
	}
	return opened, nil
}

// maxServicePercent is the most of its part that an LSP may ask without the user's
// own bound.
const maxServicePercent = 10

func judgeTerms(q Request, l wallet.LSP, info ln.NodeInfo, t *collabv1.GetTermsResponse) error {
	wrong := func(format string, args ...any) error {
		return errkind.Newf(errkind.Invalid, "LSP "+l.Name+": "+format, args...)
	}
	const most = 21_000_000 * 100_000_000
	key, err := ln.PubKeyFromBytes(t.GetGatewayNodeKey())
	switch {
	case err != nil || key != l.NodeKey:
		return wrong("it answers for another node")
	case t.GetNetwork() != info.Network:
		return wrong("it is on %s, this wallet on %s", t.GetNetwork(), info.Network)
	case t.GetRefusal() != "":
		return errkind.New(errkind.Unavailable, "LSP "+l.Name+": "+t.GetRefusal())
	case uint64(q.WalletSat) > most || uint64(q.InboundSat) > most:
		return wrong("there is no such amount")
	case uint64(q.WalletSat) < t.GetMinWalletSat():
		return wrong("the wallet's part must be at least %d sat", t.GetMinWalletSat())
	case uint64(q.InboundSat) < t.GetMinInboundSat():
		return wrong("its part must be at least %d sat", t.GetMinInboundSat())
	case uint64(q.WalletSat+q.InboundSat) > t.GetMaxCapacitySat():
		return wrong("the largest channel has %d sat", t.GetMaxCapacitySat())
	case q.ZeroConf && !t.GetZeroConf():
		return wrong("it opens these channels only with confirmations: leave --zero-conf out")
	case t.GetFeePpm() > 1_000_000 || t.GetBaseFeeSat() > most:
		return wrong("its fee is out of all reason")
	}
	fee := serviceFee(t, q.InboundSat)
	if limit := q.MaxServiceFeeSat; limit > 0 && fee > limit {
		return wrong("it asks %s for its part, more than %s", fee, limit)
	} else if limit == 0 && fee > q.InboundSat*maxServicePercent/100+1_000 {
		return wrong("it asks %s for its part: allow that with --max-service-fee if you mean it", fee)
	}
	rate := ln.FeeRateSatPerKW(t.GetFeeRateSatPerKw())
	if rate < ln.MinFeeRate || rate > 1_000_000 || q.MaxFeeRate > 0 && rate > q.MaxFeeRate {
		return wrong("the transaction would pay %d sat/kw", rate)
	}
	return nil
}

// leastBuried and mostBuried bound after how many confirmations an LSP may say that
// nothing is undone: a channel that is forgotten too soon is worth nothing if a reorg
// brings it back.
const leastBuried, mostBuried = 3, 144

func buriedConfs(said uint32) uint32 { return min(max(said, leastBuried), mostBuried) }

func serviceFee(t *collabv1.GetTermsResponse, inbound ln.Sat) ln.Sat {
	return ln.Sat(t.GetBaseFeeSat() + (uint64(inbound)*t.GetFeePpm()+999_999)/1_000_000)
}

// open is Open once the record is on disk; the record that it returns says how far
// it came, also with an error.
func (a *Agent) open(ctx context.Context, l wallet.LSP, r Record, from *Elsewhere, old *Record, terms *collabv1.GetTermsResponse) (Record, error) {
	rate := ln.FeeRateSatPerKW(terms.GetFeeRateSatPerKw())
	var err error
	replaces := ""
	switch {
	case old != nil:
		r, err = r.again(*old, rate)
		replaces = old.ID
	case from != nil:
		r, err = a.bring(ctx, r, *from, rate)
	default:
		r, err = a.choose(ctx, r, rate, max(int32(terms.GetMinInputConfirmations()), 1)) //nolint:gosec // a small count
	}
	if err != nil {
		return r, err
	}
	// The LSP's name for it follows from ours: it can be ended even if the answer is lost.
	r.ID = collab.ID(r.Self, r.Nonce)
	if err := a.save(r); err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err = a.call(ctx, l, r.Self, func(ctx context.Context, c collabv1.JointFundingServiceClient) error {
		offer := &collabv1.OfferInputsRequest{
			Nonce: r.Nonce[:], WalletSat: uint64(r.WalletSat), InboundSat: uint64(r.InboundSat), ChangeScript: r.ChangeScript,
			MaxServiceFeeSat: uint64(r.ServiceFeeSat), MaxChainFeeSat: uint64(r.MaxChainFee), ZeroConf: r.ZeroConf, Taproot: r.Taproot,
			ReplacesFundingId: replaces,
		}
		for _, in := range r.Inputs {
			offer.Inputs = append(offer.Inputs, &collabv1.Input{
				Outpoint: in.Outpoint.String(), AmountSat: uint64(in.AmountSat), PkScript: in.PkScript, Height: in.Height,
			})
		}
		got, err := c.OfferInputs(ctx, offer)
		if err != nil {
			return err
		}
		if got.GetFunding().GetFundingId() != r.ID {
			return errkind.New(errkind.Conflict, "it answers for another funding")
		}
		stream, err := c.WatchFunding(ctx, &collabv1.WatchFundingRequest{FundingId: r.ID})
		if err != nil {
			return err
		}
		for {
			word, err := stream.Recv()
			if err != nil {
				return err
			}
			f := word.GetFunding()
			r = r.heard(f)
			switch {
			case f.GetTerminal():
				return errkind.New(errkind.Conflict, r.Reason)
			case f.GetState() != (collab.Ready{}).StateName():
				continue
			}
			if r.Channel.IsZero() {
				return errkind.New(errkind.Conflict, "it names no channel")
			}
			return nil
		}
	})
	if err != nil {
		return r, err
	}
	if err := a.save(r); err != nil {
		return r, err
	}
	if r, err = a.check(ctx, r); err != nil {
		return r, err
	}
	r.Phase = PhaseReady
	return r, a.save(r)
}

// choose has lnd choose and lease coins. The packet that it makes pays the amount
// back to the wallet: it is the way to take the coins back later.
func (a *Agent) choose(ctx context.Context, r Record, rate ln.FeeRateSatPerKW, minConfs int32) (Record, error) {
	address, err := a.ports.Chain.NewChangeAddress(ctx)
	if err != nil {
		return r, err
	}
	outlay, err := r.WalletSat.Add(r.ServiceFeeSat)
	if err != nil {
		return r, err
	}
	packet, err := a.ports.Wallet.FundPsbt(ctx, ln.FundOutput{
		Address: address, AmountSat: outlay, FeeRate: rate, MinConfs: minConfs, LeaseID: r.leaseID(), LeaseFor: leaseFor,
	})
	if err != nil {
		return r, errkind.Wrap(errkind.Unavailable, err, fmt.Sprintf("the wallet has no confirmed coins for %s and the fees: add coins, or fund less", outlay))
	}
	p, err := funding.ParsePsbt(packet.Psbt)
	if err != nil {
		return r, err
	}
	r.Own = packet.Psbt
	// The address of the amount is fresh, and nobody was told it.
	i := slices.IndexFunc(p.UnsignedTx.TxOut, func(o *wire.TxOut) bool { return o.Value == int64(outlay) }) //nolint:gosec // bounded by all bitcoin
	if packet.ChangeIndex >= 0 {
		i = int(packet.ChangeIndex)
	}
	if i < 0 || i >= len(p.UnsignedTx.TxOut) {
		return r, errors.New("lnd's packet has no output of ours")
	}
	r.ChangeScript = p.UnsignedTx.TxOut[i].PkScript
	heights, err := a.heights(ctx)
	if err != nil {
		return r, err
	}
	for n, in := range p.UnsignedTx.TxIn {
		op := ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}
		utxo := p.Inputs[n].WitnessUtxo
		if utxo == nil && p.Inputs[n].NonWitnessUtxo != nil && int(op.Index) < len(p.Inputs[n].NonWitnessUtxo.TxOut) {
			utxo = p.Inputs[n].NonWitnessUtxo.TxOut[op.Index]
		}
		if utxo == nil || heights[op.TxID] <= 0 {
			return r, fmt.Errorf("the wallet does not say what coin %s holds, or which block it is in", op)
		}
		r.Inputs = append(r.Inputs, collab.Input{
			Coin: ln.Coin{Outpoint: op, AmountSat: ln.Sat(utxo.Value), PkScript: utxo.PkScript}, Height: uint32(heights[op.TxID]), //nolint:gosec // positive
		})
	}
	r.MaxChainFee, err = ownFee(r, rate)
	return r, err
}

// ownFee is what the wallet's share of the chain fee comes to, by its own reckoning:
// it does not depend on how many coins the LSP brings.
func ownFee(r Record, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	mine := funding.Party{Inputs: r.coins(), OutlaySat: r.WalletSat + r.ServiceFeeSat, ChangeScript: r.ChangeScript}
	theirs := funding.Party{OutlaySat: r.InboundSat - min(r.InboundSat, r.ServiceFeeSat), Inputs: []ln.Coin{{AmountSat: r.InboundSat * 2, PkScript: mine.Inputs[0].PkScript}}}
	j, err := funding.Divide(r.CapacitySat(), rate, theirs, mine)
	return j.Wallet.FeeSat, err
}

func (a *Agent) heights(ctx context.Context) (map[ln.TxID]int32, error) {
	txs, err := a.ports.Chain.Transactions(ctx, 0)
	if err != nil {
		return nil, err
	}
	out := make(map[ln.TxID]int32, len(txs))
	for _, tx := range txs {
		out[tx.TxID] = tx.Height
	}
	return out, nil
}
