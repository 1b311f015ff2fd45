package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/ln"
)

const (
	thousand = 1000
	// thousandBytes is about what lnd's own backup of so many channels takes.
	thousandBytes  = thousand * 380
	thousandRounds = 20
)

// largeNode stands in for an lnd with 1,000 channels, which no test network
// has: its backup is as large, and changes when told.
type largeNode struct {
	mu     sync.Mutex
	key    ln.PubKey
	backup ln.ChannelBackup
	tell   func(ln.ChannelBackup)
}

func (n *largeNode) SubscribeBackups(ctx context.Context, handle func(ln.ChannelBackup)) error {
	n.mu.Lock()
	n.tell = handle
	n.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (n *largeNode) ExportBackup(context.Context) (ln.ChannelBackup, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.backup, nil
}

func (n *largeNode) VerifyBackup(context.Context, []byte) ([]ln.Outpoint, error) {
	return nil, errors.New("not measured")
}

func (n *largeNode) Info(context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{PubKey: n.key, Network: "regtest"}, nil
}

func (*largeNode) ListChannels(context.Context) ([]ln.Channel, error)           { return nil, nil }
func (*largeNode) PendingChannels(context.Context) ([]ln.PendingChannel, error) { return nil, nil }
func (*largeNode) ClosedChannels(context.Context) ([]ln.ClosedChannel, error)   { return nil, nil }
func (*largeNode) ConnectedPeers(context.Context) ([]ln.PubKey, error)          { return nil, nil }

// change opens one more channel, and tells of it as lnd's stream does.
func (n *largeNode) change() error {
	n.mu.Lock()
	var op ln.Outpoint
	multi := make([]byte, thousandBytes)
	if _, err := rand.Read(op.TxID[:]); err != nil {
		n.mu.Unlock()
		return err
	}
	if _, err := rand.Read(multi); err != nil {
		n.mu.Unlock()
		return err
	}
	n.backup = ln.ChannelBackup{Multi: multi, Channels: append(n.backup.Channels[:len(n.backup.Channels):len(n.backup.Channels)], op)}
	tell, b := n.tell, n.backup
	n.mu.Unlock()
	if tell != nil {
		tell(b)
	}
	return nil
}

// thousandChannels gives, for each of several changes, how long it took until
// both vaults had acknowledged the backup. What lnd needs to notice and export
// is not in it.
func (v *vaults) thousandChannels(ctx context.Context) ([]float64, error) {
	key, err := btcec.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	node := &largeNode{key: ln.PubKey(key.PubKey().SerializeCompressed())}
	for range thousand {
		if err := node.change(); err != nil {
			return nil, err
		}
	}
	cfg := agent.DefaultConfig()
	cfg.DataDir = filepath.Join(v.net.Dir(), "large-wallet")
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	if cfg.Secret, err = seal.OfSeed("regtest", sha256.Sum256([]byte("large"))); err != nil {
		return nil, err
	}
	gateway, err := ln.ParsePubKey(v.gateway.PubKey)
	if err != nil {
		return nil, err
	}
	settings := agent.DefaultSettings()
	for i, d := range v.daemons {
		p := agent.ProviderConfig{Name: "v" + string(rune('1'+i)), Kind: agent.KindGateway, Address: d.GRPC, NodeKey: gateway, Certificate: d.TLSCert}
		if i > 0 {
			// Both sluiceds are beside one node, and each place may be named once.
			p.NodeKey[1] ^= 1
		}
		settings.Providers = append(settings.Providers, p)
	}
	if err := agent.SaveSettings(cfg.DataDir, settings); err != nil {
		return nil, err
	}
	sign := func(_ context.Context, text string) (string, error) { return signText(key, text) }
	open := agent.Opener(cfg.Secret, sign, time.Now)
	a, err := agent.New(cfg, agent.Ports{Backups: node, Channels: node, Open: reopened(open, gateway)})
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(run) }()
	defer func() { stop(); <-done }()
	var took []float64
	for range thousandRounds + 1 {
		began := time.Now()
		if len(took) > 0 || a.Status().BackedUp {
			if err := node.change(); err != nil {
				return nil, err
			}
		}
		for !a.Status().BackedUp {
			if time.Since(began) > time.Minute {
				return nil, errors.New("a wallet with 1,000 channels was not backed up within a minute")
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		took = append(took, ms(time.Since(began)))
		// What the others acknowledged is noted meanwhile.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	return took[1:], nil // the first has the logins in it
}

// reopened gives every provider the one gateway's key back.
func reopened(open agent.Open, gateway ln.PubKey) agent.Open {
	return func(p agent.ProviderConfig, self ln.NodeInfo) (provider.Place, error) {
		p.NodeKey = gateway
		return open(p, self)
	}
}
