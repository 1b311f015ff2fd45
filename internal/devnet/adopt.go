package devnet

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lightningnetwork/lnd/lnrpc"
)

// Adopted is an lnd whose directory and lnd.conf somebody else made: a program under
// test.
type Adopted struct {
	Name, Dir string
	// RPC and P2P are where its lnd.conf has it listen.
	RPC, P2P string
	// MakeWallet makes a wallet of a new seed, as a person would; otherwise somebody
	// else makes it.
	MakeWallet bool
	// Seed are the words of the wallet to make instead of new ones.
	Seed []string
	// Chain says that it has a chain backend: it counts among the network's nodes.
	Chain bool
	// Args are added to the command line.
	Args []string
}

// Adopt runs it and returns once it has written its certificate. Its clients have every
// right once Served has returned.
func (n *Net) Adopt(ctx context.Context, a Adopted) (*Node, error) {
	node := &Node{Name: a.Name, Dir: a.Dir, RPCAddr: a.RPC, P2PAddr: a.P2P, seeded: a.MakeWallet, restore: a.Seed, chainless: !a.Chain, password: "devnet-" + a.Name}
	node.TLSCertPath = filepath.Join(node.Dir, "tls.cert")
	node.MacaroonDir = filepath.Join(node.Dir, "data", "chain", "bitcoin", "regtest")
	node.proc = NewProc(Command{
		Name: a.Name, Path: n.lnd, Args: append([]string{"--lnddir=" + a.Dir, "--logging.file.disable", "--healthcheck.diskspace.attempts=0"}, a.Args...),
		LogFile: n.LogFile(a.Name), Dir: a.Dir,
	})
	if err := node.proc.Start(ctx); err != nil {
		return nil, err
	}
	err := WaitFor(ctx, a.Name+" to write its certificate", func(context.Context) (bool, error) {
		// The file is there before it is written.
		text, _ := os.ReadFile(node.TLSCertPath)
		block, _ := pem.Decode(text)
		return block != nil, nil
	})
	if err == nil {
		err = node.dial()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", a.Name, err), node.proc.Kill())
	}
	if !a.Chain {
		n.OnClose(node.close)
		return node, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = append(n.nodes, node)
	return node, nil
}

// Served waits until an adopted lnd serves every call, and makes its wallet where that
// was wished.
func (n *Net) Served(ctx context.Context, node *Node) error {
	if err := node.WaitServerActive(ctx); err != nil {
		return err
	}
	info, err := node.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	if err != nil {
		return fmt.Errorf("%s: %w", node.Name, err)
	}
	node.PubKey = info.IdentityPubkey
	return nil
}
