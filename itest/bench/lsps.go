package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
)

const (
	lspsClients = 1_000
	lspsWorkers = 64
	aimLSPSRps  = 3_000
	aimLSPSP99  = 50
)

// runLSPS asks as 1,000 clients, by bytes into the server and replies out of it:
// half of the requests buy, and each of these is in the database before its
// reply. The figures of the last line are those of the slower database.
func runLSPS(ctx context.Context, b *bench) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 14*time.Minute)
	defer cancel()
	var rps, p99 float64
	var res result
	for _, kind := range databases() {
		m, err := b.measureLSPS(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		b.say("%s: %d requests, %d of them buy, by %d clients, %d at once: %.0f requests/s; p50 %.1f ms, p99 %.1f ms (buy: p50 %.1f, p99 %.1f)",
			kind, len(m.all), len(m.buys), lspsClients, lspsWorkers, m.rps, median(m.all), quantile(m.all, 0.99), median(m.buys), quantile(m.buys, 0.99))
		res.add(string(kind)+"_rps", "%.0f", m.rps)
		res.add(string(kind)+"_p99_ms", "%.1f", quantile(m.all, 0.99))
		if rps == 0 || m.rps < rps {
			rps = m.rps
		}
		p99 = max(p99, quantile(m.all, 0.99))
	}
	var share result
	if !b.noPeers {
		var err error
		if share, err = b.lspsOverPeers(ctx); err != nil {
			return nil, err
		}
	}
	out := result{}
	out.add("rps", "%.0f", rps)
	out.add("p99_ms", "%.1f", p99)
	out = append(out, res...)
	out = append(out, share...)
	b.say("aims: %d requests/s and a p99 of %d ms on two cores that do nothing else", aimLSPSRps, aimLSPSP99)
	return out, nil
}

// measured is one run.
type measured struct {
	rps       float64
	all, buys []float64 // milliseconds
}

func (b *bench) measureLSPS(ctx context.Context, kind store.Engine) (measured, error) {
	d, err := openDesk(ctx, kind, lspsClients, false)
	if err != nil {
		return measured{}, err
	}
	defer d.close()
	line := newPipe()
	limits := peerrpc.DefaultLimits()
	limits.PeerPerSecond, limits.PeerBurst, limits.AllPerSecond, limits.AllBurst = 1e6, 1e6, 1e6, 1e6
	limits.PeerBytesPerSecond, limits.AllBytesPerSecond = 1<<30, 1<<30
	business := engine.LSPS2{Engine: d.engine}
	server, err := peerrpc.New(peerrpc.Options{
		Messages: line, Peers: line, Limits: limits,
		Methods: map[string]peerrpc.Method{lsps2.MethodGetInfo: lsps2.GetInfo(business), lsps2.MethodBuy: lsps2.Buy(business)},
	})
	if err != nil {
		return measured{}, err
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { server.Run(serving); close(done) }()
	defer func() { stop(); <-done }()
	<-line.ready

	menus := make([]lsp.OpeningFeeParams, lspsClients)
	for i := range menus {
		raw, err := line.call(ctx, clientKey(i), lsps2.MethodGetInfo, lsps2.GetInfoRequest{})
		if err != nil {
			return measured{}, err
		}
		menu, err := lsps2.ReadMenu(raw)
		if err != nil || len(menu) == 0 {
			return measured{}, fmt.Errorf("the menu of client %d: %d items, %w", i, len(menu), err)
		}
		menus[i] = menu[0]
	}
	var m measured
	var mu sync.Mutex
	var next atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	began := time.Now()
	for w := range lspsWorkers {
		random := mathrand.New(mathrand.NewPCG(b.seed, uint64(w))) //nolint:gosec // a load, and repeatable
		group.Go(func() error {
			for next.Add(1) <= int64(b.requests) {
				i := random.IntN(lspsClients)
				buys := random.IntN(2) == 0
				asked := time.Now()
				var err error
				if buys {
					size := ln.Msat(20_000_000 + random.IntN(1_000_000)*100) //nolint:gosec // bounded
					_, err = line.call(groupCtx, clientKey(i), lsps2.MethodBuy, lsps2.BuyRequest{Params: menus[i], SizeMsat: size, HasSize: true})
				} else {
					_, err = line.call(groupCtx, clientKey(i), lsps2.MethodGetInfo, lsps2.GetInfoRequest{})
				}
				if err != nil {
					return err
				}
				took := ms(time.Since(asked))
				mu.Lock()
				if m.all = append(m.all, took); buys {
					m.buys = append(m.buys, took)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return measured{}, err
	}
	m.rps = float64(len(m.all)) / time.Since(began).Seconds()
	return m, b.countBought(ctx, d, len(m.buys))
}

// countBought holds that every answer to a buy had its payment in the database.
func (b *bench) countBought(ctx context.Context, d *desk, want int) error {
	var have int
	err := d.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM lsp_payments`).Scan(&have)
	})
	if err == nil && have != want {
		err = fmt.Errorf("%d buys were answered, %d are in the database", want, have)
	}
	return err
}

// pipe carries messages between clients and the server, in memory.
type pipe struct {
	ready  chan struct{}
	handle func(ln.PeerMessage)
	mu     sync.Mutex
	wait   map[lsps0.ID]chan lsps0.Message
}

func newPipe() *pipe {
	return &pipe{ready: make(chan struct{}), wait: map[lsps0.ID]chan lsps0.Message{}}
}

// SubscribeMessages implements peerrpc.Messages.
func (w *pipe) SubscribeMessages(ctx context.Context, handle func(ln.PeerMessage)) error {
	w.handle = handle
	close(w.ready)
	<-ctx.Done()
	return ctx.Err()
}

// SendMessage implements peerrpc.Messages.
func (w *pipe) SendMessage(_ context.Context, m ln.PeerMessage) error {
	answer, err := lsps0.ParseMessage(m.Data)
	if err != nil {
		return err
	}
	w.mu.Lock()
	waiting := w.wait[answer.ID]
	delete(w.wait, answer.ID)
	w.mu.Unlock()
	if waiting == nil {
		return errors.New("an answer that nobody waits for")
	}
	waiting <- answer
	return nil
}

// SubscribePeers implements peerrpc.Peers.
func (w *pipe) SubscribePeers(ctx context.Context, _ func(ln.PeerEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (w *pipe) call(ctx context.Context, client ln.PubKey, method string, params any) ([]byte, error) {
	id := lsps0.StringID(rand.Text())
	payload, err := lsps0.EncodeRequest(id, method, params)
	if err != nil {
		return nil, err
	}
	answered := make(chan lsps0.Message, 1)
	w.mu.Lock()
	w.wait[id] = answered
	w.mu.Unlock()
	w.handle(ln.PeerMessage{Peer: client, Type: lsps0.MessageType, Data: payload})
	select {
	case m := <-answered:
		if m.Error != nil {
			return nil, fmt.Errorf("%s: %w (%s)", method, m.Error, m.Error.Data)
		}
		return m.Result, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("%s: no answer", method)
	}
}
