package devnet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Loopd is the stock client of the Loop protocol beside one of the network's
// lnds: the unmodified binary, driven by the unmodified `loop`.
type Loopd struct {
	*Proc
	Dir string
	RPC string
	cli string
}

// StartLoopd runs loopd beside a node against a server (HOST:PORT and its
// certificate).
func (n *Net) StartLoopd(ctx context.Context, node *Node, server, serverCert string, extra ...string) (*Loopd, error) {
	peers := filepath.Dir(n.lnd)
	for _, program := range []string{"loopd", "loop"} {
		if !isFile(filepath.Join(peers, program)) {
			return nil, errors.New("loopd is not built: run `make peers`")
		}
	}
	l := &Loopd{Dir: filepath.Join(n.dir, "loopd-"+node.Name), cli: filepath.Join(peers, "loop")}
	var rest string
	var err error
	for _, addr := range []*string{&l.RPC, &rest} {
		if *addr, err = n.Port(); err != nil {
			return nil, err
		}
	}
	args := []string{
		"--network=regtest", "--loopdir=" + l.Dir, "--debuglevel=debug", "--rpclisten=" + l.RPC, "--restlisten=" + rest,
		"--lnd.host=" + node.RPCAddr, "--lnd.macaroonpath=" + node.AdminMacaroonPath(), "--lnd.tlspath=" + node.TLSCertPath,
		"--server.host=" + server, "--server.tlspath=" + serverCert,
	}
	l.Proc = n.NewProc(Command{
		Name: "loopd-" + node.Name, Path: filepath.Join(peers, "loopd"), Args: append(args, extra...),
		Ready: func(ctx context.Context) error {
			return WaitFor(ctx, "loopd to answer", func(ctx context.Context) (bool, error) {
				_, err := l.Command(ctx, "listswaps")
				return err == nil, nil //nolint:nilerr // not up yet: asked again
			})
		},
	})
	return l, l.Start(ctx)
}

// Command runs `loop`, as a person would, and returns what it prints.
func (l *Loopd) Command(ctx context.Context, args ...string) (string, error) {
	all := append([]string{"--network=regtest", "--loopdir=" + l.Dir, "--rpcserver=" + l.RPC}, args...)
	out, err := exec.CommandContext(ctx, l.cli, all...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("loop %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// LoopSwap is a swap as `loop swapinfo` shows it.
type LoopSwap struct {
	ID            string `json:"id"`
	State         string `json:"state"`
	Type          string `json:"type"`
	FailureReason string `json:"failure_reason"`
	Amount        int64  `json:"amt,string"`
	CostServer    int64  `json:"cost_server,string"`
	CostOnchain   int64  `json:"cost_onchain,string"`
	CostOffchain  int64  `json:"cost_offchain,string"`
	HtlcAddress   string `json:"htlc_address_p2tr"`
	InitiationNs  int64  `json:"initiation_time,string"`
}

// Swaps lists what this loopd ever swapped, newest first.
func (l *Loopd) Swaps(ctx context.Context) ([]LoopSwap, error) {
	text, err := l.Command(ctx, "listswaps")
	if err != nil {
		return nil, err
	}
	var list struct {
		Swaps []LoopSwap `json:"swaps"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("what loop listswaps prints: %w: %s", err, text)
	}
	slices.SortFunc(list.Swaps, func(a, b LoopSwap) int { return cmp.Compare(b.InitiationNs, a.InitiationNs) })
	return list.Swaps, nil
}
