package webhooks

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// followPeers keeps who is connected. The list is read once the subscription
// stands, so that nobody who comes in between is missed.
func (s *Service) followPeers(ctx context.Context) {
	s.keep(ctx, "peers", func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		seen := &seenSince{peers: map[ln.PubKey]bool{}}
		s.wg.Go(func() { s.readPeers(ctx, seen) })
		return s.opt.Node.SubscribePeers(ctx, func(ev ln.PeerEvent) { s.onPeer(ev, seen) })
	})
}

// seenSince are the peers that events told of since a subscription began: they
// know better than a list that was asked for before.
type seenSince struct {
	listed bool
	peers  map[ln.PubKey]bool
}

func (s *Service) onPeer(ev ln.PeerEvent, seen *seenSince) {
	s.mu.Lock()
	if !seen.listed {
		seen.peers[ev.Peer] = true
	}
	s.set(ev.Peer, ev.Online)
	hooked := s.hooked[ev.Peer]
	s.mu.Unlock()
	if hooked {
		s.wake() // what is pending is needless now
	}
}

// set takes in that a peer is, or is not, connected (under mu).
func (s *Service) set(peer ln.PubKey, online bool) {
	switch {
	case online:
		s.online[peer] = true
	case s.online[peer]:
		delete(s.online, peer)
		if s.hooked[peer] {
			s.left[peer] = s.opt.Now()
		}
	}
}

func (s *Service) readPeers(ctx context.Context, seen *seenSince) {
	for ctx.Err() == nil {
		list, err := s.opt.Node.ConnectedPeers(ctx)
		if err == nil {
			s.takeList(list, seen)
			return
		}
		s.log.Warn("could not read who is connected; trying again", zap.Error(err))
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (s *Service) takeList(list []ln.PubKey, seen *seenSince) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := make(map[ln.PubKey]bool, len(list))
	for _, p := range list {
		now[p] = true
		if !seen.peers[p] {
			s.set(p, true)
		}
	}
	for p := range s.online {
		if !now[p] && !seen.peers[p] {
			s.set(p, false)
		}
	}
	seen.listed, seen.peers = true, nil
	select {
	case <-s.peersKnown:
	default:
		close(s.peersKnown)
	}
}

func (s *Service) isOnline(client ln.PubKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.online[client]
}
