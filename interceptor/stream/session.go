package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Errors of answers. None of them touches the stream.
var (
	// ErrNotOutstanding: lnd does not wait for an answer to this offer: it was
	// answered, offered again since, or never offered in this session.
	ErrNotOutstanding = errors.New("lnd waits for no answer to this offer")
	// ErrBadAnswer: the answer is one that lnd would end the stream for.
	ErrBadAnswer = errors.New("an answer that lnd would not take")
	// ErrClosed: the session ended because its owner closed it.
	ErrClosed = errors.New("the stream was closed here")
)

// Config says how to reach lnd.
type Config struct {
	// Conn is a connection to lnd that authenticates each call.
	Conn grpc.ClientConnInterface
	// ProbeTimeout bounds the wait for lnd's verdict (0: 5 s).
	ProbeTimeout time.Duration
	// Log may be nil.
	Log *zap.Logger
}

// Session is one accepted stream.
type Session struct {
	log    *zap.Logger
	stream routerrpc.Router_HtlcInterceptorClient
	cancel context.CancelFunc

	mu          sync.Mutex
	seq         uint64
	offers      []interceptor.Offer
	outstanding map[ln.CircuitKey]interceptor.Offer
	answers     []interceptor.Answer
	closing     bool
	halfClosed  bool
	err         error

	// offered and answered hold one wake-up each.
	offered  chan struct{}
	answered chan struct{}
	done     chan struct{}
	workers  sync.WaitGroup
}

// Open opens a stream and waits until lnd has accepted it. It gives
// ln.ErrStreamTaken when another client has the interceptor, and
// ln.ErrUnavailable when lnd cannot say.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.ProbeTimeout == 0 {
		cfg.ProbeTimeout = 5 * time.Second
	}
	pctx, cancel := context.WithTimeout(ctx, cfg.ProbeTimeout)
	defer cancel()
	client := routerrpc.NewRouterClient(cfg.Conn)
	s, err := begin(ctx, client, cfg.Log)
	if err != nil {
		return nil, err
	}
	// lnd handles both streams at the same time, so the probe may be the one
	// that is accepted: then it takes the stream's place. Two refusals of
	// probes and then silence on the stream for several round trips show that
	// it was taken. Nothing of value rests on that silence: a stream refused
	// even later ends with ln.ErrStreamTaken, whereupon its owner distrusts what
	// it listed meanwhile (Classifier.Foreign).
	started := time.Now()
	refused, swaps := 0, 0
	for refused < 2 {
		probe, err := begin(ctx, client, cfg.Log)
		if err != nil {
			s.Abort()
			return nil, err
		}
		select {
		case <-probe.done:
			refused++
			if err := probe.Err(); !errors.Is(err, ln.ErrStreamTaken) {
				s.Abort()
				return nil, err
			}
		case <-s.done:
			if err := s.Err(); !errors.Is(err, ln.ErrStreamTaken) || swaps == 3 {
				probe.Abort()
				return nil, err
			}
			swaps++
			refused = 0
			s, probe = probe, s
		case <-pctx.Done():
			probe.Abort()
			s.Abort()
			return nil, fmt.Errorf("lnd neither took nor refused the stream: %w: %w", ln.ErrUnavailable, pctx.Err())
		}
		probe.Abort()
	}
	quiet := time.NewTimer(min(max(4*time.Since(started), 10*time.Millisecond), 250*time.Millisecond))
	defer quiet.Stop()
	select {
	case <-quiet.C:
		return s, nil
	case <-s.done:
		return nil, s.Err()
	case <-pctx.Done():
		s.Abort()
		return nil, fmt.Errorf("%w: %w", ln.ErrUnavailable, pctx.Err())
	}
}

// begin opens a stream that lnd has yet to take or refuse.
func begin(ctx context.Context, client routerrpc.RouterClient, log *zap.Logger) (*Session, error) {
	// The stream outlives the call that opens it.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := client.HtlcInterceptor(streamCtx)
	if err != nil {
		cancel()
		return nil, mapError(err)
	}
	s := &Session{
		log: log, stream: stream, cancel: cancel,
		outstanding: make(map[ln.CircuitKey]interceptor.Offer),
		offered:     make(chan struct{}, 1), answered: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	s.workers.Go(s.read)
	s.workers.Go(s.write)
	return s, nil
}

// Next waits for offers and gives all that have come, in lnd's order. It fails
// once the session has ended; offers read before that are dropped, because lnd
// makes them again.
func (s *Session) Next(ctx context.Context) ([]interceptor.Offer, error) {
	for {
		s.mu.Lock()
		batch, err := s.offers, s.err
		s.offers = nil
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if len(batch) > 0 {
			return batch, nil
		}
		select {
		case <-s.offered:
		case <-s.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Answer checks the answer and hands it to the writer. After nil it is sent
// unless the session ends first: then lnd makes the offer again.
func (s *Session) Answer(a interceptor.Answer) error {
	if _, err := encode(a); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.closing {
		return ErrClosed
	}
	o, ok := s.outstanding[a.Key]
	if !ok || o.Seq != a.Seq {
		return fmt.Errorf("%s: %w", a.Key, ErrNotOutstanding)
	}
	if err := check(o, a); err != nil {
		return err
	}
	delete(s.outstanding, a.Key)
	s.answers = append(s.answers, a)
	wake(s.answered)
	return nil
}

func check(o interceptor.Offer, a interceptor.Answer) error {
	if a.Action == interceptor.AnswerSettle {
		if a.Preimage.Hash() != o.Hash {
			return fmt.Errorf("%s: preimage %s for hash %s: %w", a.Key, a.Preimage, o.Hash.Short(), ErrBadAnswer)
		}
		return nil
	}
	if o.OnChain() || o.AutoFailHeight == 0 {
		return fmt.Errorf("%s is on chain, %s is no answer: %w", a.Key, a.Action, ErrBadAnswer)
	}
	// lnd takes an amount of 0 for "as the onion asks".
	if a.ExtraFeeMsat > 0 && (a.Action != interceptor.AnswerResume || a.OutgoingMsat == 0 || a.ExtraFeeMsat >= o.OutgoingMsat ||
		a.OutgoingMsat != o.OutgoingMsat-a.ExtraFeeMsat) {
		return fmt.Errorf("%s: %s withheld of %s leaves %s: %w", a.Key, a.ExtraFeeMsat, o.OutgoingMsat, a.OutgoingMsat, ErrBadAnswer)
	}
	// Whatever the records say: nobody makes the gateway forward more than it is
	// paid for.
	if a.OutgoingMsat > min(o.OutgoingMsat, o.IncomingMsat) {
		return fmt.Errorf("%s: %s of %s that came in for %s: %w", a.Key, a.OutgoingMsat, o.IncomingMsat, o.OutgoingMsat, ErrBadAnswer)
	}
	return nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended; nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session: what was answered is sent first, as far as ctx
// allows; nothing else is answered, so that lnd goes on holding it.
func (s *Session) Close(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	wake(s.answered)
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-ctx.Done():
		s.end(ErrClosed)
	}
	s.workers.Wait()
}

// Abort ends the session at once: answers that wait are not sent.
func (s *Session) Abort() {
	s.end(ErrClosed)
	s.workers.Wait()
}

func (s *Session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	close(s.done)
	s.cancel()
}

func (s *Session) read() {
	for {
		in, err := s.stream.Recv()
		if err != nil {
			s.end(s.reason(err))
			return
		}
		o, err := decode(in)
		if err != nil {
			// lnd's own auto-fail will resolve it.
			s.log.Error("lnd made an offer that cannot be read", zap.Error(err))
			continue
		}
		s.mu.Lock()
		s.seq++
		offer := interceptor.Offer{InterceptedHtlc: o, Seq: s.seq, Wire: in}
		s.outstanding[o.Key] = offer
		s.offers = append(s.offers, offer)
		wake(s.offered)
		s.mu.Unlock()
	}
}

func (s *Session) reason(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrClosed
	}
	return mapError(err)
}

// write is the only sender on the stream (law 5).
func (s *Session) write() {
	for {
		a, ok := s.take()
		if !ok {
			select {
			case <-s.answered:
				continue
			case <-s.done:
				return
			}
		}
		msg, err := encode(a)
		if err == nil {
			err = s.stream.Send(msg)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				// The reader learns the true reason.
				<-s.done
				return
			}
			s.end(mapError(err))
			return
		}
	}
}

// take gives the next answer that still is one: an HTLC that went to chain, or
// was offered again since, is left to its newer offer.
func (s *Session) take() (interceptor.Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.answers) > 0 {
		a := s.answers[0]
		s.answers = s.answers[1:]
		if newer, again := s.outstanding[a.Key]; again && a.Action != interceptor.AnswerSettle {
			s.log.Info("answer dropped, the HTLC was offered again", zap.Stringer("key", a.Key), zap.Uint64("offer", newer.Seq))
			continue
		}
		return a, true
	}
	s.answers = nil
	if s.closing && !s.halfClosed {
		s.halfClosed = true
		if err := s.stream.CloseSend(); err != nil {
			s.log.Debug("half-close", zap.Error(err))
		}
	}
	return interceptor.Answer{}, false
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// mapError gives lnd's and gRPC's errors their names of internal/ln.
func mapError(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("lnd ended the interceptor stream: %w", ln.ErrUnavailable)
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch {
	case strings.Contains(st.Message(), "interceptor already exists"):
		return fmt.Errorf("%w: %w", ln.ErrStreamTaken, err)
	case st.Code() == codes.PermissionDenied, st.Code() == codes.Unauthenticated,
		strings.Contains(st.Message(), "permission denied"), strings.Contains(st.Message(), "verification failed"):
		return fmt.Errorf("%w: %w", ln.ErrPermission, err)
	}
	return fmt.Errorf("interceptor stream: %w: %w", ln.ErrUnavailable, err)
}
