package interceptor

import (
	"maps"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Verdict is what is known of an offer.
type Verdict string

// The verdicts.
const (
	// VerdictNew: no RESUME can have moved it. Decide freely.
	VerdictNew Verdict = "new"
	// VerdictNeedListing: only a channel listing requested from now on tells.
	VerdictNeedListing Verdict = "need_listing"
	// VerdictResumeOnly: a RESUME may have moved it. Failing it, or settling it
	// with anything but its own preimage, could lose its amount.
	VerdictResumeOnly Verdict = "resume_only"
	// VerdictUnrecorded: it was there before this tenure, and has no row, but no
	// predecessor can have resumed it without one: a predecessor died between
	// the offer and its record, or this process was offered it before it had
	// listed. Decide freely, once lnd has denied a payment of ours for its hash.
	VerdictUnrecorded Verdict = "unrecorded"
	// VerdictInFlight: lnd has forwarded it, and its end will come without an
	// answer. A RESUME changes nothing while it is in flight, but if it ends in
	// the moment before, lnd would forward it anew. So it is best left, until
	// it is gone (then it is a phantom) or lnd's auto-fail comes near (then it
	// is resumed: the auto-fail would fail what is in flight).
	VerdictInFlight Verdict = "in_flight"
	// VerdictEnding: lnd has forwarded it, and shows no forward any more. The
	// outgoing HTLC has ended, and the incoming one is still there until its payer
	// signs, which a payer can put off for as long as it likes; or the forward
	// waits in a mailbox. A RESUME of the first would forward it anew, and the
	// second needs none. So it is left until it is gone or in flight.
	VerdictEnding Verdict = "ending"
	// VerdictMayBeEnding: the same, but lnd may also never have got the RESUME, or
	// have lost it in a crash: then it waits for another. It is resumed once it has
	// been there for longer than what ends takes to leave its channel.
	VerdictMayBeEnding Verdict = "may_be_ending"
	// VerdictTrimmed: lnd had forwarded it, was restarted since, and shows no forward any
	// more. Either the outgoing HTLC was never signed, and lnd forgot it, or it has ended.
	// It is failed: nothing is in flight, a RESUME could not revive the first, and would
	// forward the second anew.
	VerdictTrimmed Verdict = "trimmed"
	// VerdictPhantom: lnd no longer has it. Fail it, and never resume it,
	// whatever any record says.
	VerdictPhantom Verdict = "phantom"
	// VerdictRecorded: it is still there and a row exists: the row decides.
	VerdictRecorded Verdict = "recorded"
	// VerdictSettleOnly: its channel is on chain or not listed. A preimage
	// settles it; every other answer would only end the stream.
	VerdictSettleOnly Verdict = "settle_only"
)

// Classifier tells new offers from replays and phantoms, without an RPC per
// ordinary forward. One lives as long as one tenure of the lease.
//
// It assumes that lnd runs with requireinterceptor, so that lnd moves no HTLC
// by itself; that one client at a time answers; and that rows are committed
// before anything but a plain RESUME is sent.
//
// Why it never allows a FAIL after a RESUME. Only a RESUME moves an HTLC. Each
// RESUME of this tenure is in resumed, which is written before the send. Each
// earlier one whose HTLC is still there is in inherited, which is listed after
// lnd accepted our stream, hence after the last predecessor's answer took
// effect. What is in neither was never moved.
//
// Why an inherited HTLC of a guarded route may still be decided freely. Every
// owner writes a row before it resumes an HTLC whose SCID is claimed, lapsed
// claims and handlers that are away included. A guarded SCID was claimed before
// anybody knew it, hence before the HTLC, and the claim stands: whoever owned
// the stream when the HTLC was offered had the claim in view, because claims
// are durable before they count and are deleted before they stop counting. So
// without a row there was no RESUME, just as there was none of an HTLC whose
// row says held. It rests on what holding rests on anyway (nobody but the
// owners of this ledger answers, and the ledger is not older than what was
// answered), and guards end wherever that is in doubt: after a restore, after
// an owner that did not record itself (Handlers.Begin), after a foreign client.
//
// Why it never allows a RESUME of a phantom. A phantom is absent from every
// listing requested after its offer, so only offers taken as new without a
// listing matter: those above tip on a channel marked fresh. A channel becomes
// fresh when some HTLC h is missing in the listing made after the stream was
// accepted and present in one made after h's offer: h was added during this
// stream. Indexes rise with time, so any HTLC above h was added during this
// stream as well, and its first offer came to us and raised tip. Its phantom
// is therefore never above tip. (Without the first listing this would not
// hold: while no client is attached lnd fails newer HTLCs by itself, and their
// phantoms have indexes that we never saw, above those of older held HTLCs.)
//
// Why it never allows a RESUME of what is ending. Once lnd has signed the end of
// an HTLC it forgets the circuit, lists the HTLC without a forward, and would take
// a RESUME for the first. Only what was resumed gets there: what lnd fails by
// itself it does not offer again: while the failure waits to be signed it is in the
// link's mailbox, and then the HTLC counts as answered. That lnd has a circuit, or had
// one, is certain if a listing showed the forward, or if this stream sent a RESUME
// and was offered the HTLC again, which lnd does not do while it waits for an
// answer. An lnd that was restarted has lost the circuit of what it had not signed,
// and only that: after a restart no forward means that nothing is in flight
// (VerdictTrimmed). Of all others time tells: what ends is gone within a few round
// trips, unless its payer does not sign. This is what is left open: a forward that no
// listing ever showed, of a payer that signs nothing from the end of its HTLC until
// this process, or lnd's stream, has begun anew and has waited; and a forward that
// leaves its mailbox, flies and is about to end just between the last two listings of
// that time.
//
// It is not safe for concurrent use; its owner serialises.
type Classifier struct {
	resumed map[ln.CircuitKey]sent
	// flown are HTLCs, under lnd's names, that a listing showed as forwarded, and in
	// which of lnd's lives the last one did.
	flown map[ln.CircuitKey]uint64
	// life counts lnd's restarts as listings tell of them; seenFor and aliases are the
	// last listing's.
	life      uint64
	seenFor   map[ln.SCID]time.Duration
	aliases   map[ln.SCID]ln.SCID
	inherited map[ln.CircuitKey]struct{}
	names     map[ln.SCID]ln.SCID
	base      *Listing
	begun     bool
	fresh     map[ln.SCID]bool
	tip       map[ln.SCID]uint64
	seq       uint64
	stream    uint64
}

// sent is a RESUME: after which ticket, and in which stream; 0 is none for certain.
type sent struct{ at, stream uint64 }

// Known is what the ledger says of an offer.
type Known struct {
	// Recorded: the key has a row.
	Recorded bool
	// Guarded: the route is (Chain.Guarded).
	Guarded bool
	// Resumed: its row says so, or else a RESUME is its answer.
	Resumed bool
	// Waited: it has been there without a forward for longer than what ends takes.
	Waited bool
}

// NewClassifier begins a tenure. Nothing is new before Baseline.
func NewClassifier() *Classifier {
	c := &Classifier{
		resumed:   make(map[ln.CircuitKey]sent),
		flown:     make(map[ln.CircuitKey]uint64),
		inherited: make(map[ln.CircuitKey]struct{}),
	}
	c.Connected()
	return c
}

// Listing is one answer of ListChannels.
type Listing struct {
	seq     uint64
	names   map[ln.SCID]ln.SCID
	active  map[ln.SCID]bool
	seenFor map[ln.SCID]time.Duration
	pending map[ln.CircuitKey]ln.ChannelHtlc
}

// Ticket orders listings with what happens meanwhile: take one before the call.
type Ticket uint64

// Begin gives a ticket for a listing that is about to be requested.
func (c *Classifier) Begin() Ticket {
	c.seq++
	return Ticket(c.seq)
}

// NewListing reads lnd's answer. Channels are known under each of their names.
func NewListing(t Ticket, channels []ln.Channel) *Listing {
	l := &Listing{
		seq:     uint64(t),
		names:   make(map[ln.SCID]ln.SCID, len(channels)),
		active:  make(map[ln.SCID]bool, len(channels)),
		seenFor: make(map[ln.SCID]time.Duration, len(channels)),
		pending: make(map[ln.CircuitKey]ln.ChannelHtlc),
	}
	for _, ch := range channels {
		for _, alias := range ch.Aliases {
			l.names[alias] = ch.ChanID
		}
		if ch.ConfirmedSCID != 0 {
			l.names[ch.ConfirmedSCID] = ch.ChanID
		}
		for _, h := range ch.Htlcs {
			if h.Incoming {
				l.pending[h.IncomingKey(ch.ChanID)] = h
			}
		}
	}
	for _, ch := range channels {
		l.names[ch.ChanID] = ch.ChanID
		l.active[ch.ChanID], l.seenFor[ch.ChanID] = ch.Active, ch.SeenFor
	}
	return l
}

// Channel reports whether the channel is listed under this name.
func (l *Listing) Channel(scid ln.SCID) bool {
	_, ok := l.names[scid]
	return ok
}

// Active reports that the channel's peer is there.
func (l *Listing) Active(scid ln.SCID) bool { return l.active[l.names[scid]] }

// Htlc finds an incoming HTLC.
func (l *Listing) Htlc(key ln.CircuitKey) (ln.ChannelHtlc, bool) {
	if name, ok := l.names[key.ChanID]; ok {
		key.ChanID = name
	}
	h, ok := l.pending[key]
	return h, ok
}

// Absent reports that lnd no longer has the HTLC, though its channel is open.
func (l *Listing) Absent(key ln.CircuitKey) bool {
	if !l.Channel(key.ChanID) {
		return false
	}
	_, ok := l.Htlc(key)
	return !ok
}

// Since reports that the listing was requested after the ticket was given.
func (l *Listing) Since(t Ticket) bool { return l.seq > uint64(t) }

// Connected forgets what only holds within one stream. Call it before the
// first offer of each stream.
func (c *Classifier) Connected() {
	c.stream++
	c.base = nil
	c.fresh = make(map[ln.SCID]bool)
	c.tip = make(map[ln.SCID]uint64)
}

// Foreign notes that another client had the stream after all: what it resumed
// is in the next baseline, which is added to what was inherited.
func (c *Classifier) Foreign() { c.begun = false }

// Ready reports that this stream has its baseline.
func (c *Classifier) Ready() bool { return c.base != nil }

// Baseline takes the listing requested after lnd accepted the stream. The
// first of a tenure also says what predecessors may have resumed.
func (c *Classifier) Baseline(l *Listing) {
	c.base = l
	if c.begun {
		return
	}
	c.begun = true
	if c.names == nil {
		c.names = make(map[ln.SCID]ln.SCID, len(l.names))
	}
	maps.Copy(c.names, l.names)
	for key := range l.pending {
		c.inherited[key] = struct{}{}
	}
}

// Seen takes what a listing shows of all HTLCs. Call it before anything is judged by it,
// in the order of the listings' tickets.
func (c *Classifier) Seen(l *Listing) {
	for scid, now := range l.seenFor {
		if now > 0 && now < c.seenFor[scid] {
			c.life++
			break
		}
	}
	c.seenFor, c.aliases = l.seenFor, l.names
	for key, h := range l.pending {
		if h.ForwardingChan != 0 {
			c.flown[key] = c.life
		}
	}
}

// Offer judges an offer as it arrives. recorded says that a row exists.
func (c *Classifier) Offer(o ln.InterceptedHtlc, recorded bool) Verdict {
	tip, seen := c.tip[o.Key.ChanID]
	above := !seen || o.Key.HtlcID > tip
	if above {
		c.tip[o.Key.ChanID] = o.Key.HtlcID
	}
	switch {
	case settleOnly(o):
		return VerdictSettleOnly
	case recorded, c.MayHaveMoved(o.Key):
		return VerdictNeedListing
	case above && c.fresh[o.Key.ChanID]:
		return VerdictNew
	}
	return VerdictNeedListing
}

// Listed judges an offer by a listing that was requested after it arrived. It
// gives VerdictNeedListing only while the stream has no baseline.
func (c *Classifier) Listed(o ln.InterceptedHtlc, known Known, l *Listing) Verdict {
	if c.base == nil {
		return VerdictNeedListing
	}
	if settleOnly(o) || !l.Channel(o.Key.ChanID) {
		return VerdictSettleOnly
	}
	h, ok := l.Htlc(o.Key)
	switch {
	case !ok:
		return VerdictPhantom
	case h.ForwardingChan != 0:
		return VerdictInFlight
	case c.trimmed(o.Key) && (!known.Recorded || known.Resumed):
		return VerdictTrimmed
	case c.hasMoved(o.Key):
		return VerdictEnding
	case known.Resumed && !known.Waited:
		return VerdictMayBeEnding
	case known.Recorded:
		return VerdictRecorded
	case known.Guarded && !c.ResumedHere(o.Key) && c.Inherited(o.Key):
		return VerdictUnrecorded
	case c.MayHaveMoved(o.Key) && !known.Waited:
		return VerdictMayBeEnding
	case c.MayHaveMoved(o.Key):
		return VerdictResumeOnly
	}
	if _, before := c.base.Htlc(o.Key); !before {
		c.fresh[o.Key.ChanID] = true
	}
	return VerdictNew
}

// Inherited reports that the HTLC was there before this tenure, so that a
// predecessor may have resumed it.
func (c *Classifier) Inherited(key ln.CircuitKey) bool {
	if name, ok := c.names[key.ChanID]; ok {
		key.ChanID = name
	}
	_, ok := c.inherited[key]
	return ok
}

// ResumedHere reports that this tenure sent a RESUME.
func (c *Classifier) ResumedHere(key ln.CircuitKey) bool {
	_, ok := c.resumed[key]
	return ok
}

// MayHaveMoved reports that a RESUME was, or may have been, sent.
func (c *Classifier) MayHaveMoved(key ln.CircuitKey) bool {
	if _, ok := c.resumed[key]; ok {
		return true
	}
	return c.Inherited(key)
}

// hasMoved reports that lnd has, or had, a circuit for an HTLC that it offers again.
func (c *Classifier) hasMoved(key ln.CircuitKey) bool {
	if _, ok := c.flown[c.canonical(key)]; ok {
		return true
	}
	return c.resumedInStream(key)
}

// trimmed reports that lnd had forwarded it in an earlier life, and was not told to in
// this one.
func (c *Classifier) trimmed(key ln.CircuitKey) bool {
	life, ok := c.flown[c.canonical(key)]
	return ok && life < c.life && !c.resumedInStream(key)
}

func (c *Classifier) resumedInStream(key ln.CircuitKey) bool {
	s, ok := c.resumed[key]
	return ok && s.stream == c.stream
}

// canonical is the key under lnd's name of the channel.
func (c *Classifier) canonical(key ln.CircuitKey) ln.CircuitKey {
	if name, ok := c.aliases[key.ChanID]; ok {
		key.ChanID = name
	}
	return key
}

// Resuming notes that a RESUME is about to be sent. Call it before the send.
func (c *Classifier) Resuming(key ln.CircuitKey) { c.resumed[key] = sent{c.seq, c.stream} }

// NotResumed notes that the RESUME was not sent after all. An earlier one may have been.
func (c *Classifier) NotResumed(key ln.CircuitKey) {
	if s, ok := c.resumed[key]; ok {
		c.resumed[key] = sent{at: s.at}
	}
}

// Prune forgets HTLCs that a later listing shows to be gone: their offers, if
// any come, are phantoms, which Listed recognises by itself.
func (c *Classifier) Prune(l *Listing) {
	for key, s := range c.resumed {
		if s.at < l.seq && l.Absent(key) {
			delete(c.resumed, key)
		}
	}
	for key := range c.flown {
		// One whose channel is gone is settled only, if it is ever offered again.
		if _, pending := l.pending[key]; !pending {
			delete(c.flown, key)
		}
	}
	if c.base == nil || l.seq <= c.base.seq {
		return
	}
	for key := range c.inherited {
		if l.Absent(key) {
			delete(c.inherited, key)
		}
	}
}

// Remembered counts the keys kept, for metrics.
func (c *Classifier) Remembered() int { return len(c.resumed) + len(c.inherited) }

// settleOnly recognises an HTLC whose channel is on chain; lnd before 0.21.1
// gives such an offer the height 0.
func settleOnly(o ln.InterceptedHtlc) bool { return o.OnChain() || o.AutoFailHeight == 0 }
