package devnet

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lightningnetwork/lnd/lnrpc"
)

// ErrNoSluice says that our own programs have not been built.
var ErrNoSluice = errors.New("sluiced is not built: run `make build`, or name its directory in SLUICE_BIN")

// FindSluice finds the directory of our own programs: SLUICE_BIN, or
// .build/bin of the repository that the working directory is in.
func FindSluice() (string, error) {
	if dir := os.Getenv("SLUICE_BIN"); dir != "" {
		return dir, nil
	}
	peers, err := FindPeers()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(peers), "bin")
	if !isFile(filepath.Join(dir, "sluiced")) {
		return "", ErrNoSluice
	}
	return dir, nil
}

// SluicedConfig says how one sluiced runs.
type SluicedConfig struct {
	// Name tells several from each other ("sluiced").
	Name string
	// DSN makes it use PostgreSQL.
	DSN string
	// Settings are added to its configuration, by key.
	Settings map[string]string
	// File is a configuration file's content, for what cannot be set by key.
	File string
	// Services are the arguments of `sluiced run`; none means all.
	Services []string
	// NoWait returns once it was started, for a standby.
	NoWait bool
}

// Sluiced is a sluiced beside one of the network's lnds.
type Sluiced struct {
	*Proc
	Dir       string
	GRPC      string
	REST      string
	Admin     string
	TLSCert   string
	Macaroon  string
	ConfigArg []string
}

// StartSluiced runs sluiced beside a node, with a macaroon of its own that has
// the rights given, and returns when it is ready to do business.
func (n *Net) StartSluiced(ctx context.Context, node *Node, rights []string, config SluicedConfig) (*Sluiced, error) {
	bin, err := FindSluice()
	if err != nil {
		return nil, err
	}
	if config.Name == "" {
		config.Name = "sluiced"
	}
	s := &Sluiced{Dir: filepath.Join(n.dir, config.Name)}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of %s: %w", config.Name, err)
	}
	for _, addr := range []*string{&s.GRPC, &s.REST, &s.Admin} {
		if *addr, err = n.Port(); err != nil {
			return nil, err
		}
	}
	s.TLSCert, s.Macaroon = filepath.Join(s.Dir, "tls.cert"), filepath.Join(s.Dir, "operator.macaroon")
	lndMacaroon := filepath.Join(s.Dir, "lnd.macaroon")
	if err := node.Bake(ctx, lndMacaroon, rights); err != nil {
		return nil, err
	}
	settings := map[string]string{
		"data_dir": s.Dir, "lnd.address": node.RPCAddr, "lnd.tls_cert": node.TLSCertPath, "lnd.macaroon_file": lndMacaroon,
		"lnd.network": "regtest", "rpc.listen": s.GRPC, "rpc.rest_listen": s.REST, "rpc.admin_listen": s.Admin, "log.level": "debug",
	}
	if config.DSN != "" {
		file := filepath.Join(s.Dir, "dsn")
		if err := os.WriteFile(file, []byte(config.DSN+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("PostgreSQL's connection string: %w", err)
		}
		settings["database.engine"], settings["database.dsn_file"] = "postgres", file
	}
	for k, v := range config.Settings {
		settings[k] = v
	}
	if config.File != "" {
		file := filepath.Join(s.Dir, "sluiced.toml")
		if err := os.WriteFile(file, []byte(config.File), 0o600); err != nil {
			return nil, fmt.Errorf("configuration of %s: %w", config.Name, err)
		}
		s.ConfigArg = append(s.ConfigArg, "--config", file)
	}
	for k, v := range settings {
		s.ConfigArg = append(s.ConfigArg, "--set", k+"="+v)
	}
	s.Proc = n.NewProc(Command{
		Name: config.Name, Path: filepath.Join(bin, "sluiced"),
		Args: append(append([]string{"run"}, s.ConfigArg...), config.Services...),
		Ready: func(ctx context.Context) error {
			if config.NoWait {
				return nil
			}
			return s.WaitReady(ctx)
		},
	})
	return s, s.Start(ctx)
}

// WaitReady waits until sluiced says that it does business.
func (s *Sluiced) WaitReady(ctx context.Context) error {
	return WaitFor(ctx, "sluiced to be ready", func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/ready", nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, nil
		}
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode == http.StatusOK, nil
	})
}

// Bake writes a macaroon of the node with exactly these rights, each as
// uri:/package.Service/Method.
func (n *Node) Bake(ctx context.Context, path string, rights []string) error {
	req := &lnrpc.BakeMacaroonRequest{}
	for _, r := range rights {
		entity, action, ok := strings.Cut(r, ":")
		if !ok {
			return fmt.Errorf("right %q: want entity:action", r)
		}
		req.Permissions = append(req.Permissions, &lnrpc.MacaroonPermission{Entity: entity, Action: action})
	}
	resp, err := n.LN.BakeMacaroon(ctx, req)
	if err != nil {
		return fmt.Errorf("bake a macaroon: %w", err)
	}
	raw, err := hex.DecodeString(resp.Macaroon)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return fmt.Errorf("macaroon: %w", err)
	}
	return nil
}

// WalletAgent is a sluice-wallet daemon beside one of the network's lnds.
type WalletAgent struct {
	*Proc
	Dir    string
	binary string
	// ready is what its status says once it is ready.
	ready string
}

// StartWalletAgent runs sluice-wallet beside a node, with a gateway's sluiced
// as its one LSP, and returns when it is logged in there. Without a sluiced it asks
// the gateway's node over the peer connection, as any LSP (LSPS).
func (n *Net) StartWalletAgent(ctx context.Context, node, gateway *Node, s *Sluiced, rights []string) (*WalletAgent, error) {
	bin, err := FindSluice()
	if err != nil {
		return nil, err
	}
	a := &WalletAgent{Dir: filepath.Join(n.dir, "sluice-"+node.Name), binary: filepath.Join(bin, "sluice-wallet")}
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of sluice-wallet: %w", err)
	}
	lsp := fmt.Sprintf("gateway,%s@%s", gateway.PubKey, gateway.P2PAddr)
	a.ready = `"accepting": true`
	if s != nil {
		lsp += fmt.Sprintf(",grpc=%s,cert=%s", s.GRPC, s.TLSCert)
		a.ready = `"logged_in": true`
	}
	macaroon := filepath.Join(a.Dir, "sluice-wallet.macaroon")
	if err := node.Bake(ctx, macaroon, rights); err != nil {
		return nil, err
	}
	a.Proc = n.NewProc(Command{
		Name: "sluice-" + node.Name, Path: a.binary,
		Args: []string{
			"--data-dir", a.Dir, "run", "--lnd.address", node.RPCAddr, "--lnd.tls", node.TLSCertPath, "--lnd.macaroon", macaroon,
			"--lsp", lsp,
		},
		Ready: a.waitReady,
	})
	return a, a.Start(ctx)
}

func (a *WalletAgent) waitReady(ctx context.Context) error {
	return WaitFor(ctx, "sluice-wallet to be logged in at its LSP", func(ctx context.Context) (bool, error) {
		out, err := a.Command(ctx, "status", "--json")
		if err != nil {
			return false, nil //nolint:nilerr // not up yet: asked again
		}
		text := string(out)
		return strings.Contains(text, a.ready) && strings.Contains(text, `"acceptor_attached": true`), nil
	})
}

// Command runs one of the agent's commands, as a person would, and returns
// what it prints.
func (a *WalletAgent) Command(ctx context.Context, args ...string) ([]byte, error) {
	return runCommand(exec.CommandContext(ctx, a.binary, append([]string{"--data-dir", a.Dir}, args...)...), args[0])
}
