package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Messages carries custom messages.
type Messages interface {
	// SubscribeMessages hands over what peers send until its stream ends.
	SubscribeMessages(ctx context.Context, handle func(ln.PeerMessage)) error
	// SendMessage is ln.ErrPeerOffline when the peer is not connected.
	SendMessage(ctx context.Context, m ln.PeerMessage) error
}

// Peers tells who comes and goes.
type Peers interface {
	// SubscribePeers has no replay.
	SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error
}

// Method serves one method for an authenticated client: BOLT 8 proves the key.
// The result is an object. An error that is an *lsps0.Error is answered as it
// is, any other as an internal error whose text only the log has.
type Method func(ctx context.Context, client ln.PubKey, params lsps0.Params) (result any, err error)

// Options are what the server runs on.
type Options struct {
	Messages Messages
	Peers    Peers
	// Methods by their full name.
	Methods map[string]Method
	Limits  Limits
	Now     func() time.Time
	Log     *zap.Logger
}

// Server answers requests of peers.
type Server struct {
	opt Options
	log *zap.Logger

	mu      sync.Mutex
	peers   map[ln.PubKey]*peer
	pending int
	all     buckets
	stats   Stats
	wg      sync.WaitGroup
}

// peer is what is remembered of one.
type peer struct {
	share buckets
	// pending are the requests in flight on this connection.
	pending map[lsps0.ID]struct{}
	// connection ends with the connection to the peer; nil while it has none
	// that we know of.
	connection context.Context //nolint:containedctx // its end is what it is for
	end        context.CancelFunc
	// plain: it could not read an answer of ours, so errors go without data.
	plain bool
}

// Stats count messages since the start.
type Stats struct {
	// Requests were served; Rejected answered for want of room; Dropped not
	// answered at all; BadFormat unreadable; Complaints told us the same of ours.
	Requests, Rejected, Dropped, BadFormat, Complaints uint64
	// Lost answers found their peer gone.
	Lost uint64
	// Serving is the time from a request's arrival until its answer was handed to
	// lnd, of all that were answered: Answered.
	Serving  time.Duration
	Answered uint64
	// Pending and Peers are as of now.
	Pending, Peers int
}

// New prepares the server; Run starts it.
func New(opt Options) (*Server, error) {
	if err := opt.Limits.Validate(); err != nil {
		return nil, err
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	l := opt.Limits
	return &Server{
		opt: opt, log: opt.Log, peers: make(map[ln.PubKey]*peer),
		all: newBuckets(l.AllPerSecond, l.AllBurst, l.AllBytesPerSecond),
	}, nil
}

// Run serves until ctx ends, and returns once nothing is in flight any more.
func (s *Server) Run(ctx context.Context) {
	defer s.wg.Wait()
	defer s.forgetAll()
	var streams sync.WaitGroup
	defer streams.Wait()
	streams.Go(func() {
		s.keep(ctx, "peer events", func(ctx context.Context) error {
			return s.opt.Peers.SubscribePeers(ctx, s.onPeer)
		}, s.forgetAll)
	})
	streams.Go(func() {
		s.keep(ctx, "custom messages", func(ctx context.Context) error {
			return s.opt.Messages.SubscribeMessages(ctx, func(m ln.PeerMessage) { s.onMessage(ctx, m) })
		}, func() {})
	})
}

// keep subscribes again whenever lnd ends a stream.
func (s *Server) keep(ctx context.Context, what string, subscribe func(context.Context) error, ended func()) {
	pace.Keep(ctx, pace.Backoff{First: 50 * time.Millisecond, Most: 2 * time.Second, Healthy: time.Minute}, func(ctx context.Context) error {
		// Who came and went while nobody looked is not known.
		defer ended()
		return subscribe(ctx)
	}, func(err error) {
		s.log.Warn("lnd ended a subscription; subscribing again", zap.String("subscription", what), zap.Error(err))
	})
}

// onPeer ends what belongs to a connection. Its word and the peer's messages
// come on different streams: a request that overtakes the news of a reconnect
// ends with the old connection, and its client asks again (bLIP-50 lets answers
// be lost, and gives them no second connection).
//
// That it came says nothing: its first request may have been faster.
func (s *Server) onPeer(ev ln.PeerEvent) {
	if ev.Online {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.peers[ev.Peer]; ok {
		s.hangUp(ev.Peer, p)
	}
}

func (s *Server) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, p := range s.peers {
		s.hangUp(key, p)
	}
}

// hangUp forgets a peer, unless it has used up some of its share (under mu).
// Requests of its in flight keep their slots until they have ended.
func (s *Server) hangUp(key ln.PubKey, p *peer) {
	if p.end != nil {
		p.end()
		p.connection, p.end = nil, nil
	}
	s.forget(key, p)
}

// forget drops a peer of which nothing need be known (under mu). That it cannot
// read data in errors is kept for its next connection, while there is room.
func (s *Server) forget(key ln.PubKey, p *peer) {
	if s.peers[key] == p && !p.plain && p.idle(s.opt.Now()) {
		delete(s.peers, key)
	}
}

func (p *peer) idle(now time.Time) bool {
	return p.connection == nil && len(p.pending) == 0 && p.share.full(now)
}

// peerFor finds or begins a peer's record; nil when too many are remembered
// (under mu).
func (s *Server) peerFor(ctx context.Context, key ln.PubKey) *peer {
	p, ok := s.peers[key]
	if !ok {
		if len(s.peers) >= s.opt.Limits.Peers {
			now := s.opt.Now()
			for other, q := range s.peers {
				if q.idle(now) {
					delete(s.peers, other)
				}
			}
			if len(s.peers) >= s.opt.Limits.Peers {
				return nil
			}
		}
		l := s.opt.Limits
		p = &peer{
			share:   newBuckets(l.PeerPerSecond, l.PeerBurst, l.PeerBytesPerSecond),
			pending: make(map[lsps0.ID]struct{}),
		}
		s.peers[key] = p
	}
	if p.connection == nil {
		p.connection, p.end = context.WithCancel(ctx)
	}
	return p
}

// onMessage must not block: lnd queues without bound behind it.
func (s *Server) onMessage(ctx context.Context, m ln.PeerMessage) {
	if m.Type != lsps0.MessageType || !s.affordable(ctx, m) {
		return
	}
	came := time.Now()
	r, err := lsps0.ParseRequest(m.Data)
	complaint := err != nil && lsps0.IsComplaint(m.Data)
	if serve := s.admit(ctx, m.Peer, r, err, complaint); serve != nil {
		s.wg.Go(func() { serve(came) })
	}
}

// affordable takes a message's cost from the peer's own share first; what that
// lets pass counts against all.
func (s *Server) affordable(ctx context.Context, m ln.PeerMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, now := s.peerFor(ctx, m.Peer), s.opt.Now()
	if p == nil || !p.share.take(now, len(m.Data)) || !s.all.take(now, len(m.Data)) {
		s.stats.Dropped++
		return false
	}
	return true
}

// admit gives a request its slot and says how to serve it; nil for what is not
// answered.
func (s *Server) admit(ctx context.Context, from ln.PubKey, r lsps0.Request, bad error, complaint bool) func(came time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peerFor(ctx, from)
	if p == nil {
		s.stats.Dropped++
		return nil
	}
	if complaint {
		s.stats.Complaints++
		p.plain = true
		s.log.Info("a peer could not read an answer of ours: its errors go without data from now on", zap.Stringer("client", from))
		return nil
	}
	limits := s.opt.Limits
	_, twice := p.pending[r.ID]
	var refusal error
	switch {
	// The first of two equal ids has the answer; refusals in flight are bounded,
	// too.
	case twice || len(p.pending) >= 2*limits.PeerPending || s.pending >= 2*limits.AllPending:
		s.stats.Dropped++
		return nil
	case bad != nil:
		s.log.Info("a peer sent what is no LSPS request", zap.Stringer("client", from), zap.Error(bad))
		refusal = lsps0.ParseError()
		s.stats.BadFormat++
	case len(p.pending) >= limits.PeerPending:
		refusal = lsps0.ClientRejected(fmt.Sprintf("%d of your requests are pending: wait for their answers, then ask again", len(p.pending)))
		s.stats.Rejected++
	case s.pending >= limits.AllPending:
		refusal = lsps0.ClientRejected("the LSP is busy: ask again in a few seconds")
		s.stats.Rejected++
	default:
		s.stats.Requests++
	}
	p.pending[r.ID] = struct{}{}
	s.pending++
	connection := p.connection
	return func(came time.Time) {
		defer s.done(from, p, r.ID)
		if refusal != nil {
			s.reply(connection, from, p, r, nil, refusal, came)
			return
		}
		result, err := s.call(connection, from, r)
		s.reply(connection, from, p, r, result, err, came)
	}
}

func (s *Server) done(key ln.PubKey, p *peer, id lsps0.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(p.pending, id)
	s.pending--
	s.forget(key, p)
}

func (s *Server) call(ctx context.Context, client ln.PubKey, r lsps0.Request) (any, error) {
	method, ok := s.opt.Methods[r.Method]
	switch {
	case !ok:
		return nil, lsps0.MethodNotFound()
	case r.ByPosition:
		return nil, lsps0.InvalidParam("", "parameters are passed by name, in an object")
	}
	ctx, cancel := context.WithTimeout(ctx, s.opt.Limits.CallFor)
	defer cancel()
	return method(ctx, client, r.Params)
}

// reply sends the one answer, if the connection that asked is still there.
func (s *Server) reply(ctx context.Context, to ln.PubKey, p *peer, r lsps0.Request, result any, err error, came time.Time) {
	log := s.log.With(zap.Stringer("client", to), zap.String("method", lsps0.Printable(r.Method)), zap.Stringer("id", r.ID))
	payload, err := s.answer(log, p, r.ID, result, err)
	if err != nil {
		log.Error("an answer cannot be written", zap.Error(err))
		return
	}
	s.mu.Lock()
	s.stats.Serving += time.Since(came)
	s.stats.Answered++
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.opt.Limits.SendFor)
	defer cancel()
	if ctx.Err() == nil {
		err = s.opt.Messages.SendMessage(ctx, ln.PeerMessage{Peer: to, Type: lsps0.MessageType, Data: payload})
	} else {
		err = ctx.Err()
	}
	if err != nil {
		// bLIP-50: no different from an answer that came and was not followed up.
		s.mu.Lock()
		s.stats.Lost++
		s.mu.Unlock()
		log.Info("an answer did not reach its client", zap.Error(err))
	}
}

func (s *Server) answer(log *zap.Logger, p *peer, id lsps0.ID, result any, err error) ([]byte, error) {
	if err == nil {
		payload, err := lsps0.EncodeResult(id, result)
		if err == nil {
			return payload, nil
		}
		log.Error("a result cannot be sent", zap.Error(err))
		return lsps0.EncodeError(id, lsps0.Internal(), true)
	}
	refusal, ok := errors.AsType[*lsps0.Error](err)
	if !ok {
		log.Warn("a request failed", zap.String("kind", string(errkind.Of(err))), zap.Error(err))
		refusal = lsps0.Internal()
	}
	s.mu.Lock()
	plain := p.plain
	s.mu.Unlock()
	return lsps0.EncodeError(id, refusal, plain)
}

// Stats are the counts until now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Pending, out.Peers = s.pending, len(s.peers)
	return out
}

// buckets bound requests and bytes over time.
type buckets struct{ requests, bytes *rate.Limiter }

func newBuckets(perSecond float64, burst, bytesPerSecond int) buckets {
	return buckets{
		requests: rate.NewLimiter(rate.Limit(perSecond), burst),
		bytes:    rate.NewLimiter(rate.Limit(bytesPerSecond), max(bytesPerSecond, lsps0.MaxPayload)),
	}
}

// take uses up one request of n bytes, also when only one of both is there: who
// floods with what is too large gains nothing.
func (b buckets) take(now time.Time, n int) bool {
	count, size := b.requests.AllowN(now, 1), b.bytes.AllowN(now, n)
	return count && size
}

func (b buckets) full(now time.Time) bool {
	return b.requests.TokensAt(now) >= float64(b.requests.Burst()) && b.bytes.TokensAt(now) >= float64(b.bytes.Burst())
}
