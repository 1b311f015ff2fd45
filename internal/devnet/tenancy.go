package devnet

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Tenancy is an operator that runs watch-only nodes for tenants beside its gateway, by
// the commands that people use.
type Tenancy struct {
	net     *Net
	gateway *Node
	s       *Sluiced
	ctl     string
	// operator is the key to which tenants encrypt their bundles, backend a file with what
	// all nodes have as their chain.
	operator, backend string
}

// NewTenancy readies a gateway for tenants.
func (n *Net) NewTenancy(ctx context.Context, gateway *Node, s *Sluiced) (*Tenancy, error) {
	bin, err := FindSluice()
	if err != nil {
		return nil, err
	}
	t := &Tenancy{net: n, gateway: gateway, s: s, ctl: filepath.Join(bin, "sluicectl"), backend: filepath.Join(n.dir, "backend.conf")}
	out, err := t.Ctl(ctx, "tenant", "key")
	if err != nil {
		return nil, err
	}
	t.operator = strings.TrimSpace(out)
	return t, os.WriteFile(t.backend, []byte(n.BackendConf()), 0o600)
}

// BackendConf are the lines of lnd.conf for this network's chain.
func (n *Net) BackendConf() string {
	btcd := n.miner.RPC()
	return fmt.Sprintf("bitcoin.node=btcd\nbtcd.rpchost=%s\nbtcd.rpcuser=%s\nbtcd.rpcpass=%s\nbtcd.rpccert=%s\nfee.url=%s\n", btcd.Host, btcd.User, btcd.Pass, btcd.Cert, n.fees.URL())
}

// Ctl runs sluicectl as the operator, or as a tenant beside it.
func (t *Tenancy) Ctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, t.ctl, append([]string{"--server", t.s.GRPC, "--data-dir", t.s.Dir}, args...)...).CombinedOutput() //nolint:gosec // our own program
	if err != nil {
		return "", fmt.Errorf("sluicectl %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, out)
	}
	return string(out), nil
}

// beside runs sluicectl while start runs what it waits for, once a file is there.
func (t *Tenancy) beside(ctx context.Context, file string, start func(context.Context) error, args ...string) (out string, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		out, err = t.Ctl(ctx, args...)
		return err
	})
	group.Go(func() error {
		if err := WaitFor(ctx, file, func(context.Context) (bool, error) {
			_, err := os.Stat(file)
			return err == nil, nil
		}); err != nil {
			return err
		}
		return start(ctx)
	})
	return out, group.Wait()
}

// SignUp is what a tenant's signer is made with.
type SignUp struct {
	Name string
	// Via has the host reach the signer, or its guard, by another address, given where it
	// listens.
	Via func(listen string) (address string)
	// Guarded puts a guard before it.
	Guarded bool
}

// TenantSigner is a tenant's side.
type TenantSigner struct {
	Name   string
	Signer *Node
	// Bundle is what the operator is handed.
	Bundle string
	Guard  *Proc
}

// SignUp makes a signer from nothing, with its wallet, and its bundle.
func (t *Tenancy) SignUp(ctx context.Context, s SignUp) (*TenantSigner, error) {
	rpc, err := t.net.Port()
	if err != nil {
		return nil, err
	}
	out := &TenantSigner{Name: s.Name, Bundle: filepath.Join(t.net.dir, s.Name+".bundle")}
	dir, guard := filepath.Join(t.net.dir, s.Name+"-signer"), filepath.Join(t.net.dir, s.Name+"-guard")
	args := []string{"signer", "init", "--dir", dir, "--rpc", rpc, "--listen", rpc, "--network", "regtest", "--tenant", s.Name, "--operator", t.operator, "--out", out.Bundle, "--wait", "3m"}
	// Where what the host reaches listens, and how the host reaches it.
	listen := rpc
	if s.Guarded {
		if listen, err = t.net.Port(); err != nil {
			return nil, err
		}
		args = append(args, "--guard", guard, "--guard-listen", listen)
	}
	address := listen
	if s.Via != nil {
		address = s.Via(listen)
	}
	if _, err := t.beside(ctx, filepath.Join(dir, "lnd.conf"), func(ctx context.Context) (err error) {
		if out.Signer, err = t.net.Adopt(ctx, Adopted{Name: s.Name + "-signer", Dir: dir, RPC: rpc, MakeWallet: true}); err != nil {
			return err
		}
		return t.net.Served(ctx, out.Signer)
	}, append(args, "--address", address)...); err != nil {
		return nil, err
	}
	if !s.Guarded {
		return out, nil
	}
	out.Guard = t.net.NewProc(Command{Name: s.Name + "-guard", Path: t.ctl, Args: []string{"signer", "guard", "run", "--dir", guard, "--listen", listen, "--signer", rpc}, Ready: func(ctx context.Context) error {
		return WaitFor(ctx, s.Name+"'s guard to listen", func(ctx context.Context) (bool, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", listen)
			if err != nil {
				return false, nil //nolint:nilerr // not yet
			}
			return true, conn.Close()
		})
	}})
	return out, out.Guard.Start(ctx)
}

// Host onboards a tenant: its watch-only node, from nothing to a connected peer of the
// gateway's. said is what the command printed.
func (t *Tenancy) Host(ctx context.Context, x *TenantSigner) (node *Node, said string, err error) {
	var ports [2]string
	for i := range ports {
		if ports[i], err = t.net.Port(); err != nil {
			return nil, "", err
		}
	}
	rpc, peers := ports[0], ports[1]
	dir := filepath.Join(t.net.dir, x.Name+"-node")
	said, err = t.beside(ctx, filepath.Join(dir, "lnd.conf"), func(ctx context.Context) (err error) {
		node, err = t.net.Adopt(ctx, Adopted{Name: x.Name + "-node", Dir: dir, RPC: rpc, P2P: peers, Chain: true, Args: []string{"--nobootstrap", "--trickledelay=50", "--minbackoff=200ms", "--maxbackoff=1s"}})
		return err
	}, "tenant", "add", x.Name, x.Bundle, "--dir", dir, "--network", "regtest", "--node-rpc", rpc, "--node-peers", peers, "--backend", t.backend,
		"--gateway", t.gateway.PubKey+"@"+t.gateway.P2PAddr, "--out", filepath.Join(t.net.dir, x.Name+".macaroon"), "--wait", "3m")
	if err != nil {
		return nil, said, err
	}
	return node, said, t.net.Served(ctx, node)
}
