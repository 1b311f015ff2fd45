package ln

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Channel is one open channel as the gateway's (or a wallet's) lnd lists it.
type Channel struct {
	// ChanID is lnd's name for it: the alias for a zero-conf channel, for ever;
	// else the confirmed SCID. It is the base for AddAlias.
	ChanID   SCID
	Outpoint Outpoint
	Peer     PubKey
	Active   bool
	// SeenFor is for how long this run of the node has followed it, in whole seconds; 0 is
	// not known. It only ever falls when the node has been restarted.
	SeenFor time.Duration
	// Commitments counts the local commitments so far: the peer has signed each.
	Commitments uint64
	Private     bool
	// Initiator pays the commitment fee and the anchors.
	Initiator bool
	ZeroConf  bool
	// ConfirmedSCID is zero while a zero-conf channel is unconfirmed.
	ConfirmedSCID SCID
	Aliases       []SCID

	CapacitySat  Sat
	LocalSat     Sat
	RemoteSat    Sat
	CommitFeeSat Sat
	UnsettledSat Sat
	// PushSat is what the opener gave the other side at the start.
	PushSat Sat
	// SentSat is what we have sent to the peer over it, settled.
	SentSat          Sat
	LocalReserveSat  Sat
	RemoteReserveSat Sat
	// LocalCSV is how long our own funds wait after we force-close; RemoteCSV
	// is the same for the peer (to_self_delay, in blocks).
	LocalCSV, RemoteCSV uint32
	// CommitmentType is lnd's name, e.g. "ANCHORS" or "SIMPLE_TAPROOT".
	CommitmentType string
	Memo           string
	Htlcs          []ChannelHtlc
}

// ChannelHtlc is an HTLC on a channel's local commitment.
type ChannelHtlc struct {
	Incoming bool
	Index    uint64
	AmtMsat  Msat
	Hash     Hash
	Expiry   uint32
	// LockedIn says that both sides are committed to it.
	LockedIn bool
	// Unproven, of an incoming one: the node had it when it was connected to, and its
	// channel has not been active for long enough since. A node that was killed while it
	// took the HTLC in may yet fail it (DoubtUnproven).
	Unproven bool
	// ForwardingChan is the other side of the circuit: nonzero means lnd has
	// signed the outgoing HTLC. In a running lnd zero proves nothing: the
	// forward may still wait in a mailbox (replays.md, "Candidates").
	ForwardingChan  SCID
	ForwardingIndex uint64
}

const (
	// nearOutgoing is how many blocks before its expiry an HTLC that we offered
	// should be gone. A node that knows its preimage closes the channel before
	// it expires (lnd was seen to do it 16 blocks before, LDK does it 18 before);
	// what is between is time to do something about it.
	nearOutgoing = 36
	// nearIncoming is the same for HTLCs that we were offered. lnd fails what
	// its interceptor still holds 19 blocks before the expiry: whatever is there
	// later was answered. lnd closes the channel 10 blocks before, if it knows the
	// preimage.
	nearIncoming = 18
)

// NearExpiry says that an HTLC which is still in an active channel at that
// height should be gone: if it stays, somebody closes the channel by force.
func (h ChannelHtlc) NearExpiry(height uint32) bool {
	if h.Incoming {
		return h.Expiry <= height+nearIncoming
	}
	return h.Expiry <= height+nearOutgoing
}

// IncomingKey is the circuit key of an incoming HTLC on channel c.
func (h ChannelHtlc) IncomingKey(c SCID) CircuitKey {
	return CircuitKey{ChanID: c, HtlcID: h.Index}
}

// PendingKind says why a channel is not open.
type PendingKind string

// The ways in which lnd lists a channel as pending.
const (
	PendingOpen         PendingKind = "opening"
	PendingWaitingClose PendingKind = "waiting_close"
	PendingForceClose   PendingKind = "force_closing"
)

// PendingChannel is a channel that is opening or closing.
type PendingChannel struct {
	Kind        PendingKind
	Outpoint    Outpoint
	Peer        PubKey
	CapacitySat Sat
	LocalSat    Sat
	RemoteSat   Sat
	Initiator   bool
	Memo        string
	// CommitFeeSat is only known for channels that are opening.
	CommitFeeSat Sat
	// LimboSat is what a closing channel still owes us on chain. lnd counts
	// HTLCs among it that may end either way: incoming ones that it may claim,
	// and outgoing ones until what the peer claimed is final.
	LimboSat Sat
	// CloseTx is the closing transaction that lnd knows of; zero when only the
	// peer has one. CloseRaw is its bytes, until it is confirmed.
	CloseTx  TxID
	CloseRaw []byte
	// Commitment says that the closing transaction is a commitment.
	Commitment bool
	// RecoveredSat is what of it is back in the wallet.
	RecoveredSat Sat
	// LimboHtlcSat is the part of LimboSat that are HTLCs.
	LimboHtlcSat Sat
	// OpenHtlcSat is the part of those HTLCs that nobody has taken yet.
	OpenHtlcSat Sat
	// Stages are the HTLC outputs in limbo: those of second-stage transactions
	// already where we need them, made or not.
	Stages []StageOutput
}

// StageOutput is an output on its way to the wallet.
type StageOutput struct {
	Outpoint  Outpoint
	AmountSat Sat
}

// The kinds of close, in lnd's words.
const (
	CloseCooperative     = "COOPERATIVE_CLOSE"
	CloseLocalForce      = "LOCAL_FORCE_CLOSE"
	CloseRemoteForce     = "REMOTE_FORCE_CLOSE"
	CloseBreach          = "BREACH_CLOSE"
	CloseFundingCanceled = "FUNDING_CANCELED"
	CloseAbandoned       = "ABANDONED"
)

// ClosedChannel is a channel whose funding output is spent and resolved, or
// that lnd was told to forget.
type ClosedChannel struct {
	ChanID        SCID
	ConfirmedSCID SCID
	Aliases       []SCID
	Outpoint      Outpoint
	Peer          PubKey
	CapacitySat   Sat
	Initiator     bool
	// SettledSat is what our output of the closing transaction held.
	SettledSat  Sat
	CloseTx     TxID
	CloseHeight uint32
	// Kind is one of the kinds of close.
	Kind        string
	Resolutions []Resolved
}

// Resolved is how one output of a commitment ended. Resolved outputs of a
// second-stage transaction are entries of their own.
type Resolved struct {
	Outpoint  Outpoint
	AmountSat Sat
	// Ours: our wallet has it, by SweepTx. FirstStage: it went into a
	// second-stage transaction of ours. Lost: it was ours, or may have been,
	// and is not. None of them: the peer took what was the peer's.
	Ours, FirstStage, Lost bool
	SweepTx                TxID
}

// ChannelEventKind is what happened to a channel.
type ChannelEventKind string

// The channel events that services wait for. For a zero-conf open the order is
// pending, open, active; only active means that HTLCs may flow.
const (
	ChannelPending  ChannelEventKind = "pending"
	ChannelOpened   ChannelEventKind = "open"
	ChannelActive   ChannelEventKind = "active"
	ChannelInactive ChannelEventKind = "inactive"
	ChannelClosed   ChannelEventKind = "closed"
	ChannelResolved ChannelEventKind = "fully_resolved"
)

// ChannelEvent carries the outpoint always, and the whole channel for an open.
type ChannelEvent struct {
	Kind     ChannelEventKind
	Outpoint Outpoint
	Channel  *Channel
}

// PeerEvent says that a peer came or went.
type PeerEvent struct {
	Peer   PubKey
	Online bool
}

// Peer is a peer that is connected.
type Peer struct {
	Key PubKey
	// Address is host:port of this connection. Of an Inbound one the port leads
	// nowhere: the peer dialled us.
	Address string
	Inbound bool
}

// PeerMessage is a custom message of a peer's (BOLT 1, types from 32768 on).
type PeerMessage struct {
	Peer PubKey
	Type uint32
	Data []byte
}

// CommitmentType names the channel type to open.
type CommitmentType string

// The types that zero-conf opens may name.
const (
	CommitmentAnchors       CommitmentType = "ANCHORS"
	CommitmentSimpleTaproot CommitmentType = "SIMPLE_TAPROOT"
)

// PendingChanID is the 32-byte id that ties a funding flow to its PSBT shim.
type PendingChanID [32]byte

// OpenRequest asks lnd to open a channel through a PSBT shim with no_publish:
// lnd negotiates and stops to be told the funding transaction.
type OpenRequest struct {
	PendingID   PendingChanID
	Peer        PubKey
	CapacitySat Sat
	PushSat     Sat
	Private     bool
	ZeroConf    bool
	ScidAlias   bool
	Type        CommitmentType
	// MaxLocalCSV bounds the to_self_delay that the peer may ask of us.
	MaxLocalCSV uint16
	// RemoteCSV is the to_self_delay that we ask of the peer (0: lnd's rule).
	RemoteCSV uint16
	// MinConfs of the peer's acceptor decide when a non-zero-conf channel is
	// usable; lnd gives its opener no say.
	BaseFeeMsat Msat
	FeePPM      uint64
	// RemoteReserveSat is what the peer must keep (0: lnd's 1 %).
	RemoteReserveSat Sat
	Memo             string
}

// OpenUpdate is one message of an open: exactly one field is set.
type OpenUpdate struct {
	// Fund asks for a funding transaction with this output.
	Fund *FundRequest
	// Pending says that both sides hold the other's commitment signature.
	Pending *Outpoint
	// Open says that lnd treats the channel as open.
	Open *Outpoint
}

// FundRequest is the funding output that the PSBT must contain.
type FundRequest struct {
	Address   string
	AmountSat Sat
	// Psbt is lnd's template with the funding output only.
	Psbt []byte
}

// OpenProposal is a channel that a peer proposes to us (BOLT 2,
// open_channel), as the acceptor sees it.
type OpenProposal struct {
	Peer           PubKey
	PendingID      PendingChanID
	CapacitySat    Sat
	PushMsat       Msat
	DustLimitSat   Sat
	ReserveSat     Sat
	CsvDelay       uint32
	MaxHtlcs       uint32
	MinHtlcMsat    Msat
	FeeRate        FeeRateSatPerKW
	WantsZeroConf  bool
	WantsScidAlias bool
	Announce       bool
	CommitmentType CommitmentType
	// Wire is lnd's own message, for programs that speak its interface; nobody
	// else looks into it.
	Wire any
}

// AcceptVerdict answers an OpenProposal. A refusal carries a sentence of at
// most 500 characters for the peer; an acceptance may set what follows.
type AcceptVerdict struct {
	Accept   bool
	Refusal  string
	ZeroConf bool
	// MinDepth is how many confirmations we want before the channel is used;
	// it is 0 when ZeroConf.
	MinDepth uint32
	// CsvDelay and ReserveSat of zero leave lnd's own choice.
	CsvDelay   uint32
	ReserveSat Sat
	// The rest, where zero, is lnd's own choice as well.
	InFlightMaxMsat Msat
	MaxHtlcs        uint32
	MinHtlcInMsat   Msat
	UpfrontShutdown string
}

// ChannelPolicy is one side's forwarding policy of one channel.
type ChannelPolicy struct {
	BaseFeeMsat   Msat
	FeePPM        uint64
	TimeLockDelta uint32
	MinHtlcMsat   Msat
	MaxHtlcMsat   Msat
	Disabled      bool
}

// SharedFundingMemo begins the memo of every channel that we opened with coins
// of another's in its funding transaction.
const SharedFundingMemo = "sluice joint "

// JointTerms are what the memo of such a channel says.
type JointTerms struct {
	// ID is the joint funding's.
	ID string
	// SpendSat is what the peer may spend over the channel before it is buried.
	SpendSat Sat
	// Since is when that was agreed, before the channel was there. In seconds.
	Since time.Time
}

// Memo writes them. lnd keeps it for the life of the channel: whoever decides on that
// money needs no database for it, and it never changes.
func (t JointTerms) Memo() string {
	if t.SpendSat == 0 {
		return SharedFundingMemo + t.ID
	}
	return fmt.Sprintf("%s%s spend %d since %d", SharedFundingMemo, t.ID, uint64(t.SpendSat), t.Since.Unix())
}

// ReadJointTerms is the reverse. A limit that cannot be read is none.
func ReadJointTerms(memo string) (t JointTerms, ok bool) {
	rest, ok := strings.CutPrefix(memo, SharedFundingMemo)
	if !ok {
		return JointTerms{}, false
	}
	words := strings.Split(rest, " ")
	t.ID = words[0]
	if len(words) != 5 || words[1] != "spend" || words[3] != "since" {
		return t, true
	}
	spend, err := strconv.ParseUint(words[2], 10, 64)
	since, sinceErr := strconv.ParseInt(words[4], 10, 64)
	if err == nil && sinceErr == nil {
		t.SpendSat, t.Since = Sat(spend), time.Unix(since, 0)
	}
	return t, true
}

// IsJoint says that another's coins are in the funding of a channel that we opened.
func (c Channel) IsJoint() bool {
	return c.Initiator && strings.HasPrefix(c.Memo, SharedFundingMemo)
}

// JointConfs are those after which nobody's double-spend is expected to take a
// joint channel's funding away.
const JointConfs = 6

// IsYoung says that the channel is used although its funding is not buried. Of a
// joint channel its peer, who accepts it, chose how soon it is used: so its own
// block counts, and not that lnd takes it for confirmed.
func (c Channel) IsYoung(tip uint32) bool {
	if c.IsJoint() {
		return c.ConfirmedSCID == 0 || Confirmations(c.ConfirmedSCID.Block(), tip) < JointConfs
	}
	return c.ZeroConf && c.ConfirmedSCID == 0
}

// FundingIsSafe says that nobody but us could still take the channel's funding
// away: it is buried, or all of its coins were ours.
func (c Channel) FundingIsSafe(tip uint32) bool {
	return !c.IsYoung(tip) || c.Initiator && !c.IsJoint()
}

// Joint are the terms of a joint channel; zero for others.
func (c Channel) Joint() JointTerms {
	if !c.IsJoint() {
		return JointTerms{}
	}
	t, _ := ReadJointTerms(c.Memo)
	return t
}

// WithinLimit says that all that the peer of a joint channel has offered over it and
// did not get back, what it offers right now included, is within what it may spend. It
// is what its balance lacks of its first one and of what we sent it. That balance is of
// one commitment: an HTLC is neither missing in it nor counted twice. What we sent may
// be counted a moment late; it was paid for.
//
// Whoever asks for each HTLC before the first step that cannot be undone, by a listing
// that was requested after lnd offered it, takes no more than the limit in all: the
// last one that was taken saw every other.
func (c Channel) WithinLimit() bool {
	limit := c.Joint().SpendSat
	had, err := c.PushSat.Add(c.SentSat)
	return limit > 0 && err == nil && had <= c.RemoteSat+min(limit, had)
}

// TakesMoney says that what comes in over the channel may be accepted or passed on:
// its funding is safe, or the loss is one that the operator agreed to (law 12).
func (c Channel) TakesMoney(tip uint32) bool { return c.FundingIsSafe(tip) || c.WithinLimit() }
