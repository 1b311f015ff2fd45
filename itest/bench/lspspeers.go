package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
)

// peerRounds is how many requests go over a real peer connection, one after the
// other, within what a peer may ask per second.
const peerRounds = 200

// lspsOverPeers asks over a real peer connection and tells Sluice's share of the
// round trip from lnd's: two lnds carry the message there and the answer back.
func (b *bench) lspsOverPeers(ctx context.Context) (_ result, err error) {
	b.say("starting btcd and three lnds")
	net, err := devnet.StartStandardNet(ctx, devnet.StandardConfig{Net: devnet.Config{KeepDir: b.keep}, GatewayCoins: 10})
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(&nodes{Net: net.Net}, err) }()
	s, err := startSluice(ctx, net.Net, net.Gateway, net.Wallet, map[string]string{"lsps.requests_per_second_per_peer": "10000"})
	if err != nil {
		return nil, err
	}
	defer s.hangUp()
	gateway, err := ln.ParsePubKey(net.Gateway.PubKey)
	if err != nil {
		return nil, err
	}
	client := peerrpctest.New(s.wallet, gateway)
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { client.Run(listening); close(done) }()
	defer func() { stop(); <-done }()
	if err := devnet.WaitFor(ctx, "an LSPS answer over the peer connection", func(ctx context.Context) (bool, error) {
		_, err := client.Call(ctx, lsps2.MethodGetInfo, lsps2.GetInfoRequest{})
		return err == nil, nil
	}); err != nil {
		return nil, err
	}
	before, served, err := servingOf(ctx, s)
	if err != nil {
		return nil, err
	}
	var trips []float64
	for i := range peerRounds {
		asked := time.Now()
		if i%2 == 0 {
			_, err = client.Call(ctx, lsps2.MethodGetInfo, lsps2.GetInfoRequest{})
			trips = append(trips, ms(time.Since(asked)))
		} else {
			// Buy asks twice: for the menu and for the channel.
			_, _, err = client.Buy(ctx, 100_000_000)
			trips = append(trips, ms(time.Since(asked))/2)
		}
		if err != nil {
			return nil, err
		}
	}
	after, servedAfter, err := servingOf(ctx, s)
	if err != nil {
		return nil, err
	}
	ours := 1000 * (after - before) / (servedAfter - served)
	b.say("over a real peer connection, one request at a time: %.1f ms there and back (median), %.2f ms of them Sluice's (mean), the rest two lnds'", median(trips), ours)
	var res result
	res.add("peer_ms", "%.1f", median(trips))
	res.add("peer_sluice_ms", "%.2f", ours)
	return res, nil
}

// servingOf is how long answers took within sluiced, and how many there were.
func servingOf(ctx context.Context, s *sluice) (seconds, answers float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.daemon.Admin+"/metrics", nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	found := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		for name, into := range map[string]*float64{"sluice_lsps_serving_seconds_sum ": &seconds, "sluice_lsps_serving_seconds_count ": &answers} {
			if text, ok := strings.CutPrefix(lines.Text(), name); ok {
				if *into, err = strconv.ParseFloat(text, 64); err != nil {
					return 0, 0, err
				}
				found++
			}
		}
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("sluiced shows no %s", "sluice_lsps_serving_seconds")
	}
	return seconds, answers, nil
}
