package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/btcsuite/btcd/chaincfg"
	"github.com/lightningnetwork/lnd/lnrpc/watchtowerrpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// How the tower is measured.
const (
	towerRounds   = 4
	towerRound    = 5 * time.Second
	towerHits     = 40
	towerBlockTxs = 4000
	// towerChild is how the program calls itself for a search, so that the memory
	// of one is that of its process alone.
	towerChild = "tower-search"
)

// runTower measures uploads against a stock lnd tower, both as processes of their
// own on one disk and fully synced, and the search of a block against lnd's lookout
// on lnd's database with the same updates.
func runTower(ctx context.Context, b *bench) (res result, err error) {
	ours, theirs, closeNet, err := b.startTowers(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNet()) }()
	ratios := map[int]float64{}
	for _, clients := range []int{1, 32} {
		var rates [2][]float64
		for round := range towerRounds {
			for arm, uri := range []string{ours, theirs} {
				n, took, err := towertest.Flood(ctx, uri, *chaincfg.RegressionNetParams.GenesisHash, clients, towerRound)
				if err != nil {
					return nil, fmt.Errorf("%d clients at %s: %w", clients, []string{"sluiced", "lnd"}[arm], err)
				}
				rates[arm] = append(rates[arm], float64(n)/took.Seconds())
			}
			b.say("%2d client(s), round %d: sluiced %6.0f updates/s, lnd %6.0f updates/s", clients, round+1, rates[0][round], rates[1][round])
		}
		ratios[clients] = median(rates[0]) / median(rates[1])
	}
	res.add("ratio_1", "%.2f", ratios[1])
	res.add("ratio_32", "%.2f", ratios[32])
	seconds, ratio, mib, err := b.searches(ctx)
	if err != nil {
		return res, err
	}
	res.add("search_s", "%.3f", seconds)
	res.add("search_ratio", "%.2f", ratio)
	res.add("search_mib", "%.0f", mib)
	if ratios[1] < 1 || ratios[32] < 1 {
		return res, fmt.Errorf("%w: uploads are slower than lnd's", errMissed)
	}
	return res, nil
}

// startTowers starts one network with an lnd that has a tower and a sluiced that is
// one, and gives the URIs of both.
func (b *bench) startTowers(ctx context.Context) (ours, theirs string, closeNet func() error, err error) {
	b.say("starting btcd, an lnd with a tower, and sluiced as a tower")
	net, err := devnet.Start(ctx, devnet.Config{KeepDir: b.keep})
	if err != nil {
		return "", "", nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, net.Close())
		}
	}()
	stockAt, err := net.Port()
	if err != nil {
		return "", "", nil, err
	}
	node, err := net.NewNode(ctx, "stock", devnet.NodeConfig{ExtraArgs: []string{"--watchtower.active", "--watchtower.listen=" + stockAt}})
	if err != nil {
		return "", "", nil, err
	}
	info, err := watchtowerrpc.NewWatchtowerClient(node.Conn).GetInfo(ctx, &watchtowerrpc.GetInfoRequest{})
	if err != nil {
		return "", "", nil, err
	}
	listen, err := net.Port()
	if err != nil {
		return "", "", nil, err
	}
	s, err := net.StartSluiced(ctx, node, lnd.TowerRights(), devnet.SluicedConfig{Services: []string{"watchtower"}, Settings: map[string]string{
		"watchtower.listen": listen, "watchtower.addresses": listen, "watchtower.handshakes.burst": "100000", "log.level": "info",
	}})
	if err != nil {
		return "", "", nil, err
	}
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	if err != nil {
		return "", "", nil, err
	}
	key, err := ln.ParsePubKey(node.PubKey)
	if err != nil {
		return "", "", nil, err
	}
	client, err := lnd.Dial(lnd.Config{Address: node.RPCAddr, TLSCertFile: node.TLSCertPath, MacaroonFile: node.AdminMacaroonPath(), Network: "regtest"})
	if err != nil {
		return "", "", nil, err
	}
	defer func() { _ = client.Close() }()
	conn, _, err := auth.Dial(s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: key}, Node: key, Services: []string{towerapi.Name}, Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) },
	})
	if err != nil {
		return "", "", nil, err
	}
	defer func() { _ = conn.Close() }()
	got, err := towerv1.NewTowerServiceClient(conn).Register(ctx, &towerv1.RegisterRequest{})
	if err != nil {
		return "", "", nil, err
	}
	return got.GetTower().GetUris()[0], hex.EncodeToString(info.Pubkey) + "@" + stockAt, net.Close, nil
}

// searched is what a child measured.
type searched struct{ Seconds, MiB float64 }

func (b *bench) searches(ctx context.Context) (seconds, ratio, mib float64, err error) {
	hay := towertest.Hay{Updates: b.updates, Breaches: towerHits, BlockTxs: towerBlockTxs}
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b.say("storing %d updates in our database", hay.Updates)
	if err := hay.FillOurs(ctx, dir); err != nil {
		return 0, 0, 0, err
	}
	b.say("storing the same in lnd's database (in memory, then copied to the disk)")
	scratch, err := towertest.Scratch()
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	if err := hay.FillTheirs(scratch); err != nil {
		return 0, 0, 0, err
	}
	if err := os.CopyFS(filepath.Join(dir, "lnd"), os.DirFS(scratch)); err != nil {
		return 0, 0, 0, err
	}
	var times [2][]float64
	for round := range 3 {
		for arm, what := range []string{"ours", "lnd"} {
			at := dir
			if arm == 1 {
				at = filepath.Join(dir, "lnd")
			}
			// Each round searches the same state.
			work := filepath.Join(dir, fmt.Sprintf("round-%s", what))
			if err := copyFiles(at, work); err != nil {
				return 0, 0, 0, err
			}
			got, err := b.searchChild(ctx, what, work)
			if err != nil {
				return 0, 0, 0, err
			}
			times[arm] = append(times[arm], got.Seconds)
			if arm == 0 {
				mib = max(mib, got.MiB)
			}
			b.say("search of %d transactions, round %d, %s: %.3f s until %d justice transactions were published, %.0f MiB", towerBlockTxs, round+1, what, got.Seconds, towerHits, got.MiB)
			if err := os.RemoveAll(work); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	return median(times[0]), median(times[1]) / median(times[0]), mib, nil
}

func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		in, err := os.Open(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		out, err := os.Create(filepath.Join(to, e.Name()))
		if err != nil {
			return errors.Join(err, in.Close())
		}
		_, err = io.Copy(out, in)
		if err = errors.Join(err, in.Close(), out.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) searchChild(ctx context.Context, what, dir string) (searched, error) {
	self, err := os.Executable()
	if err != nil {
		return searched{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-updates", strconv.Itoa(b.updates), towerChild, what, dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return searched{}, fmt.Errorf("search of %s: %w", what, err)
	}
	var got searched
	return got, json.Unmarshal(out, &got)
}

// searchHere is the child's part.
func (b *bench) searchHere(ctx context.Context, what, dir string) error {
	hay := towertest.Hay{Updates: b.updates, Breaches: towerHits, BlockTxs: towerBlockTxs}
	search := hay.SearchOurs
	if what == "lnd" {
		search = hay.SearchTheirs
	}
	took, err := search(ctx, dir)
	if err != nil {
		return err
	}
	mib, err := peakMiB()
	if err != nil {
		return err
	}
	return json.NewEncoder(b.out).Encode(searched{Seconds: took.Seconds(), MiB: mib})
}

// peakMiB is the most memory that this process had (VmHWM).
func peakMiB() (float64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("no VmHWM")
}
