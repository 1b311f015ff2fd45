package lnd

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/sharedcall"
)

// askShared shares a request among those who want the same answer of lnd. The request
// belongs to no single caller, whose own context ends only its wait; within bounds it.
//
// lnd reads every channel from its database for each ListChannels, with a dozen keys to be
// decompressed (0.2 ms a channel): fifty payments at once, each of which lists, would
// otherwise keep a gateway with some hundred channels from everything else.
func askShared[T any](ctx context.Context, s *sharedcall.Answers[T], doing string, within time.Duration, request func(context.Context) (T, error)) (T, error) {
	value, err := s.Ask(ctx, begin, func() (T, error) {
		asked, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		return request(asked)
	})
	if err != nil && ctx.Err() != nil {
		err = mapError(doing, ctx.Err())
	}
	return value, err
}

func begin(f func()) error {
	go f()
	return nil
}
