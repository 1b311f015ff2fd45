package webhooks

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// followBlocks looks at the HTLCs of clients that are away, at each block.
func (s *Service) followBlocks(ctx context.Context) {
	s.keep(ctx, "blocks", func(ctx context.Context) error {
		return s.opt.Node.SubscribeBlocks(ctx, func(b ln.Block) {
			if err := s.expirySoon(ctx, b.Height); err != nil && ctx.Err() == nil {
				s.log.Warn("could not look for HTLCs that are about to time out", zap.Uint32("height", b.Height), zap.Error(err))
			}
		})
	})
}

// expiryFor is how long a webhook is told of an HTLC that is about to time out:
// the next block tells it again, after the cooldown.
const expiryFor = time.Hour

// expirySoon tells clients that are away of HTLCs that would close a channel.
func (s *Service) expirySoon(ctx context.Context, height uint32) error {
	s.mu.Lock()
	none := len(s.hooked) == 0
	s.mu.Unlock()
	if none {
		return nil
	}
	channels, err := s.opt.Node.ListChannels(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for client, timeout := range timeouts(channels, height) {
		err := s.notify(ctx, client, lsps5.ExpirySoon, lsps5.ExpiryBody(timeout), s.opt.Now().Add(expiryFor))
		if !errors.Is(err, ErrNoWebhook) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// timeouts are the first heights at which the gateway has to close a channel of
// each client, of those that are near. That is so for an HTLC to the client
// that it neither claims nor fails. One from the client only closes a channel
// if the gateway has the preimage, and then the gateway claims it.
func timeouts(channels []ln.Channel, height uint32) map[ln.PubKey]uint32 {
	out := map[ln.PubKey]uint32{}
	for _, c := range channels {
		for _, h := range c.Htlcs {
			if h.Incoming || !h.LockedIn || h.Expiry > height+lsps5.ExpiryBlocks {
				continue
			}
			if was, ok := out[c.Peer]; !ok || h.Expiry < was {
				out[c.Peer] = h.Expiry
			}
		}
	}
	return out
}
