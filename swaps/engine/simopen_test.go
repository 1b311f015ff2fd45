package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// simChannels opens channels for the wallets of a sim: each name at most once. It remembers
// whatever happens to sluiced, and says now and then that a wallet is away, or that an
// open failed.
type simChannels struct {
	node  *simNode
	opens map[string]*simOpening
	told  map[string]int
}

type simOpening struct {
	request ChannelRequest
	// usable is the height from which it can be paid over; failed ends it.
	usable uint32
	failed bool
	id     ln.SCID
}

func (c *simChannels) PriceChannel(_ context.Context, _ ln.PubKey, size ln.Msat) (ln.Msat, ln.Sat, error) {
	return openFee, size.ToSatFloor() + 50_000, c.node.unanswered()
}

func (c *simChannels) OpenChannel(ctx context.Context, r ChannelRequest) (id ln.SCID, err error) {
	if err := c.node.unanswered(); err != nil {
		return 0, err
	}
	away := false
	c.node.change(func() {
		o := c.opens[r.OpeningID]
		switch {
		case o == nil && !c.node.steady && c.node.luck.IntN(6) == 0:
			away = true
		case o == nil:
			o = &simOpening{request: r, usable: c.node.chain.height() + r.Confs, failed: !c.node.steady && c.node.luck.IntN(6) == 0, id: ln.SCID(1_000 + len(c.opens))}
			c.opens[r.OpeningID] = o
		case o.request != r:
			c.node.bad = fmt.Errorf("the opening %s is asked for as %+v and as %+v", r.OpeningID, o.request, r)
		}
	})
	if away {
		return 0, &NotOpenedError{Text: "the wallet is away"}
	}
	err = c.node.stream(ctx, func() bool {
		c.node.mu.Lock()
		defer c.node.mu.Unlock()
		o := c.opens[r.OpeningID]
		if !o.failed && c.node.chain.height() >= o.usable {
			id = o.id
		}
		return o.failed || id > 0
	})
	if err != nil {
		return 0, ln.ErrUnavailable
	}
	if id == 0 {
		return 0, &NotOpenedError{Text: "the open failed", Begun: true}
	}
	return id, c.node.unanswered()
}

// AbandonChannel ends what is not usable yet.
func (c *simChannels) AbandonChannel(_ context.Context, id, _ string) error {
	return c.node.twice(func() error {
		c.node.change(func() {
			if o := c.opens[id]; o == nil {
				c.opens[id] = &simOpening{failed: true}
			} else if c.node.chain.height() < o.usable {
				o.failed = true
			}
		})
		return nil
	})
}

func (c *simChannels) ChannelPaid(_ context.Context, id string, _ ln.PubKey) error {
	return c.node.twice(func() error {
		c.node.change(func() { c.told[id]++ })
		return nil
	})
}

// PayDirect pays over one channel: lnd would send a second time what is in flight.
func (n *simNode) PayDirect(ctx context.Context, r ln.DirectPayment) (ln.Payment, error) {
	if err := n.unanswered(); err != nil {
		return ln.Payment{}, err
	}
	n.change(func() {
		switch known := n.payments[r.Hash]; {
		case known.State == ln.PaymentInFlight || known.State == ln.PaymentSucceeded:
			n.bad = errors.New("a payment over a channel of a client's was sent twice")
			return
		case r.ExpiryHeight < n.chain.height():
			n.bad = errors.New("a payment was sent that had expired")
			return
		}
		n.sent++
		n.direct = append(n.direct, r)
		n.payments[r.Hash] = ln.Payment{Hash: r.Hash, State: ln.PaymentInFlight, InFlight: 1}
		n.held[r.Hash] = n.chain.height() + uint32(n.luck.IntN(int(min(r.ExpiryHeight-n.chain.height()+1, 30))))
		if n.steady || n.luck.IntN(3) > 0 {
			n.resolve(r.Hash)
		}
	})
	if err := n.unanswered(); err != nil {
		return ln.Payment{}, err
	}
	return n.WaitPayment(ctx, r.Hash)
}

// simWallet is the node of a swap's wallet that has no channel.
func (sw *simSwap) simWallet() ln.PubKey { return ln.PubKey{2, 6, 32: sw.preimage[0]} }

func (s *sim) beginOpen(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, patient)
	defer cancel()
	hash := sw.preimage.Hash()
	q, err := s.e.QuoteOpen(ctx, sw.simWallet(), sw.amount)
	if err != nil {
		return
	}
	msat, _ := q.InvoiceSat.Msat()
	internal, _ := htlc.KeyFromShared(sw.internal)
	s.node.change(func() {
		s.node.foreign["open"+hash.Short()] = ln.Bolt11{
			Hash: hash, AmountMsat: msat, CreatedAt: time.Now(), Expiry: 20 * 24 * time.Hour, FinalCltvDelta: 40, Payee: sw.simWallet(), HasPaymentAddr: true, PaymentAddr: [32]byte{8},
		}
		s.takesPayment(sw, simPay{sw.preimage, msat, 0})
	})
	offer, err := s.e.OfferOpen(ctx, OpenWish{
		Hash: hash, Node: sw.simWallet(), Sender: sw.key.PubKey(), SenderInternal: internal.PubKey(), AmountSat: sw.amount, Invoice: "open" + hash.Short(), Client: "sim",
	})
	sw.begun = true
	s.note("open %d of %s: %v", sw.preimage[0], sw.amount, err)
	if err != nil {
		return
	}
	sw.opened = offer.Quote
	sw.contract, _ = htlc.New(htlc.Terms{
		Hash: hash, ExpiryHeight: offer.ExpiryHeight, Sender: sw.key.PubKey(), Receiver: offer.Receiver, SenderInternal: internal.PubKey(), ReceiverInternal: offer.ReceiverInternal,
	})
	s.node.change(func() { s.node.chain.contracts[string(sw.contract.PkScript)] = true })
}

// checkOpen holds what is so of a swap that opens a channel besides: it is paid over the
// channel that was opened for it, which its opener was told, and nobody else's.
func (s *sim) checkOpen(sw *simSwap, inst in.State, paid bool) error {
	o := in.PlanOf(inst).Open
	used := 0
	for _, p := range s.node.direct {
		if p.Hash != sw.preimage.Hash() {
			continue
		}
		used++
		found := false
		for _, x := range s.channels.opens {
			found = found || x.id == p.ChanID && !x.failed && x.request.Client == sw.simWallet() && x.request.PaymentID == o.ID && x.request.FeeMsat == sw.opened.OpeningFeeMsat
		}
		if !found || p.Peer != sw.simWallet() {
			return errors.New("paid over a channel that was not opened for it")
		}
	}
	switch told := s.channels.told[o.ID]; {
	case paid && used == 0:
		return errors.New("paid, and not over its channel")
	case paid && told == 0:
		return errors.New("whoever opened the channel was not told that it is paid")
	case !paid && told > 0:
		return errors.New("the opener was told that a channel is paid that is not")
	}
	return nil
}

// cosweeps has a client sweep its output with the gateway's signature, as stock clients
// do, whether the payment is settled or not. It reports whether it did.
func (s *sim) cosweeps(ctx context.Context, sw *simSwap, op wire.OutPoint, invoices out.Invoices) bool {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&op, nil, nil))
	tx.AddTxOut(wire.NewTxOut(int64(sw.amount)-int64(300+s.rng.IntN(2_000)), []byte{txscript.OP_TRUE}))
	hash, packet, prevouts, err := s.sweepOf(sw, op, tx)
	if err != nil {
		s.node.blame(err)
		return false
	}
	private, own := btcec.PrivKeyFromBytes([]byte{31: sw.preimage[0]})
	nonces, err := musig2.GenNonces(musig2.WithPublicKey(own))
	if err != nil {
		s.node.blame(err)
		return false
	}
	nonce, partial, err := s.e.SignSweep(ctx, SweepWish{Hash: sw.preimage.Hash(), PaymentAddr: invoices.PaymentAddr[:], Nonce: nonces.PubNonce, Psbt: packet, Prevouts: prevouts})
	if err != nil {
		return false
	}
	s.node.mu.Lock()
	settled := s.state(sw.preimage.Hash()) == ln.InvoiceSettled
	s.node.mu.Unlock()
	if !settled {
		s.node.blame(errors.New("the gateway signed a sweep of an output that was not paid for"))
		return false
	}
	sig, err := sw.combine(private, nonces, nonce, partial, hash)
	if err != nil {
		s.node.blame(err)
		return false
	}
	tx.TxIn[0].Witness = wire.TxWitness{sig}
	err = s.send(rawOf(tx))
	s.note("client %d sweeps with both keys: %v", sw.preimage[0], err)
	return err == nil
}

func (s *sim) sweepOf(sw *simSwap, op wire.OutPoint, tx *wire.MsgTx) (hash [32]byte, raw []byte, prevouts []htlc.Prevout, err error) {
	packet, err := psbt.NewFromUnsignedTx(tx.Copy())
	if err != nil {
		return hash, nil, nil, err
	}
	var b bytes.Buffer
	if err := packet.Serialize(&b); err != nil {
		return hash, nil, nil, err
	}
	ours := ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}
	prevouts = []htlc.Prevout{{Outpoint: ours, ValueSat: sw.amount, PkScript: sw.contract.PkScript}}
	hash, err = sw.contract.SweepHash(b.Bytes(), prevouts, ours, sw.amount)
	return hash, b.Bytes(), prevouts, err
}

// combine makes the client's half and puts both together.
func (sw *simSwap) combine(private *btcec.PrivateKey, nonces *musig2.Nonces, theirs [66]byte, partial, hash [32]byte) ([]byte, error) {
	// The scripts' root is in the proof that a script belongs to the output.
	spend, err := sw.contract.Claim(sw.key, sw.preimage, ln.Outpoint{TxID: ln.TxID{1}}, sw.amount, []byte{txscript.OP_TRUE}, 500)
	if err != nil {
		return nil, err
	}
	var by wire.MsgTx
	if err := by.Deserialize(bytes.NewReader(spend.Raw)); err != nil {
		return nil, err
	}
	witness := by.TxIn[0].Witness
	control, err := txscript.ParseControlBlock(witness[3])
	if err != nil {
		return nil, err
	}
	root := control.RootHash(witness[2])
	sender, err := btcec.ParsePubKey(sw.contract.SenderInternal[:])
	if err != nil {
		return nil, err
	}
	keys := []*btcec.PublicKey{sender, private.PubKey()}
	combined, err := musig2.AggregateNonces([][66]byte{nonces.PubNonce, theirs})
	if err != nil {
		return nil, err
	}
	mine, err := musig2.Sign(nonces.SecNonce, private, combined, keys, hash, musig2.WithSortedKeys(), musig2.WithTaprootSignTweak(root))
	if err != nil {
		return nil, err
	}
	var scalar btcec.ModNScalar
	scalar.SetBytes(&partial)
	other := musig2.NewPartialSignature(&scalar, mine.R)
	return musig2.CombineSigs(mine.R, []*musig2.PartialSignature{mine, &other}, musig2.WithTaprootTweakedCombine(hash, keys, root, true)).Serialize(), nil
}
