package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	agelib "filippo.io/age"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// onboardingKeyFile is the operator's key, to which tenants encrypt their bundles.
const onboardingKeyFile = "onboarding.key"

// TenantKeyCmd prints the operator's public key for bundles.
type TenantKeyCmd struct{}

// Run implements the command.
func (TenantKeyCmd) Run(w *world, g *Globals) error {
	path := filepath.Join(g.DataDir, onboardingKeyFile)
	key, err := readOnboardingKey(path)
	if errors.Is(err, os.ErrNotExist) {
		if key, err = agelib.GenerateX25519Identity(); err == nil {
			err = auth.WriteFileAtomic(path, []byte(key.String()+"\n"))
		}
	}
	if err != nil {
		return err
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]string{"recipient": key.Recipient().String(), "file": path})
	}
	p := w.printer()
	p.Printf("%s\n", key.Recipient())
	return p.Err
}

func readOnboardingKey(path string) (*agelib.X25519Identity, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := agelib.ParseX25519Identity(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("%s holds no onboarding key: %w", path, err)
	}
	return key, nil
}

// TenantAddCmd onboards a hosted tenant.
type TenantAddCmd struct {
	Tenant      string        `arg:"" help:"Its name."`
	Bundle      string        `arg:"" type:"path" help:"The file that it sent."`
	Dir         string        `required:"" type:"path" placeholder:"DIR" help:"The directory of its watch-only lnd; it is made if it is not there."`
	Network     string        `default:"mainnet" enum:"mainnet,testnet,signet,regtest" help:"The gateway's network (${default})."`
	Key         string        `type:"path" placeholder:"FILE" help:"The operator's key for bundles (onboarding.key in the data directory)."`
	NodeRPC     string        `name:"node-rpc" default:"127.0.0.1:10109" placeholder:"HOST:PORT" help:"Where the node's RPC shall listen (${default})."`
	NodePeers   string        `name:"node-peers" default:"0.0.0.0:9736" placeholder:"HOST:PORT" help:"Where it shall listen for peers (${default})."`
	Backend     string        `type:"path" placeholder:"FILE" help:"Lines of lnd.conf for the chain backend that all nodes share."`
	DSNFile     string        `name:"dsn-file" type:"path" placeholder:"FILE" help:"Connection string of a PostgreSQL database of its own; SQLite without."`
	Form        string        `default:"plain" enum:"plain,systemd,kubernetes" help:"How it shall run: plain, systemd or kubernetes (${default})."`
	Namespace   string        `default:"default" placeholder:"NAME" help:"The namespace in Kubernetes (${default})."`
	User        string        `placeholder:"NAME" help:"The user of the systemd unit (you; lnd, if you are root)."`
	Lnd         string        `default:"/usr/local/bin/lnd" placeholder:"PATH" help:"The lnd that systemd or sluicectl tenant supervise starts (${default})."`
	Plan        string        `default:"standard" help:"Its plan (${default})."`
	Gateway     string        `placeholder:"KEY@HOST:PORT" help:"Connect the node to this gateway."`
	First       int           `name:"first-channels" default:"0" placeholder:"N" help:"Have the node open channels with the gateway, from its own coins, until there are so many (${default})."`
	FirstSat    int64         `name:"first-channel-sat" default:"1000000" placeholder:"SAT" help:"Of this capacity each (${default})."`
	FirstHidden bool          `name:"first-private" help:"Do not announce them."`
	Admin       string        `default:"admin" help:"The name of its first user (${default})."`
	Out         string        `type:"path" placeholder:"FILE" help:"Where to write that user's macaroon (TENANT.macaroon)."`
	CheckOnly   bool          `name:"check" help:"Run the checks and change nothing."`
	AnyBirthday bool          `help:"Take a wallet of unknown age; the node searches the chain from August 2017."`
	Migrate     bool          `help:"Its node is in --dir, runs, and has its keys: make it watch-only. This cannot be undone."`
	Moved       bool          `help:"The node was at another place, which its claim names, and NEVER starts again there: its directory was moved here, or its machine is gone for good. Two nodes of one seed lose their channels' money."`
	Host        string        `placeholder:"NAME" help:"What this machine is called in the node's claim (its host name)."`
	Wait        time.Duration `default:"30m" help:"How long to wait for the node (${default})."`
}

// Run implements the command.
func (c TenantAddCmd) Run(w *world, g *Globals) error {
	if err := c.checkFirst(); err != nil {
		return err
	}
	if c.Form == formSystemd && !c.Migrate {
		// Before anything is registered.
		if _, err := thisRunner().unitOwner(c.User); err != nil {
			return err
		}
	}
	if err := c.ownPort(g); err != nil {
		return err
	}
	b, err := c.open(g)
	if err != nil {
		return err
	}
	print, err := b.Print()
	if err != nil {
		return err
	}
	p := w.printer()
	say := func(format string, args ...any) {
		if !g.JSON {
			p.Printf(format, args...)
		}
	}
	report, err := c.checks(w, b)
	if err != nil {
		return err
	}
	say("Bundle of %s, fingerprint %s\nThe node's key will be %s\n\n", b.Tenant, print, report.Node)
	if !g.JSON {
		printChecks(w, report.Results)
	}
	if first, failed := report.FirstFailed(); failed || c.CheckOnly {
		if g.JSON {
			if err := cli.WriteJSON(w.stdout, onboarded{Fingerprint: print, Node: report.Node.String(), Checks: report.Results}); err != nil {
				return err
			}
		}
		if failed {
			say("\nNothing was changed. The tenant's next step:\n  %s\n", first.Next)
			return exitCode(first.Code)
		}
		return p.Err
	}
	ctx, cancel := context.WithTimeout(w.ctx, c.Wait)
	defer cancel()
	if c.Migrate {
		if err := c.migratable(ctx, report.Node); err != nil {
			return err
		}
	}
	return g.with(func(s *session) error {
		// From here on the node is made here and nowhere else.
		held, err := c.begin(ctx, w, s, g, report.Node)
		if err != nil {
			return err
		}
		defer held.release()
		if c.Migrate {
			ready, err := c.migrate(ctx, b, say)
			if err != nil || !ready {
				return errors.Join(err, p.Err)
			}
		} else if err := c.write(w, b, say); err != nil {
			return err
		}
		node, err := c.make(ctx, s, b, held, say)
		if err != nil {
			return err
		}
		defer func() { _ = node.Close() }()
		last, err := c.verify(ctx, node, b)
		if err != nil {
			return err
		}
		all := append(report.Results, last)
		if !g.JSON {
			printChecks(w, []onboard.Result{last})
		}
		if last.Verdict != onboard.Passed {
			if g.JSON {
				if err := cli.WriteJSON(w.stdout, onboarded{Fingerprint: print, Node: report.Node.String(), Checks: all}); err != nil {
					return err
				}
			}
			say("\n%s\n", last.Next)
			return exitCode(last.Code)
		}
		if err := held.still(ctx, s); err != nil {
			return err
		}
		file, err := c.activate(ctx, s, node, report.Node)
		if err != nil {
			return err
		}
		if err := c.note(g, b, held); err != nil {
			return err
		}
		opened, err := c.firstChannels(ctx, node, say)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, onboarded{Fingerprint: print, Node: report.Node.String(), Checks: all, Macaroon: file, Opened: opened})
		}
		if file == "" {
			say("\n%s is active. It has its first macaroon.\n", c.Tenant)
			return p.Err
		}
		say("\n%s is active. Its first macaroon is %s: give it to the tenant, who replaces it with sluicectl my rotate, and remove it here.\n", c.Tenant, file)
		return p.Err
	})
}

// onboarded is the command's JSON.
type onboarded struct {
	Fingerprint string           `json:"fingerprint"`
	Node        string           `json:"node"`
	Checks      []onboard.Result `json:"checks"`
	Macaroon    string           `json:"macaroon_file,omitempty"`
	Opened      []string         `json:"opened_channels,omitempty"`
}

func printChecks(w *world, results []onboard.Result) {
	t := cli.NewTable("CHECK", "", "")
	for _, r := range results {
		verdict := string(r.Verdict)
		if r.Verdict == onboard.Failed {
			verdict = strings.ToUpper(verdict)
		}
		t.Row(string(r.Check), verdict, cli.Clean(r.Said))
	}
	w.printer().Table(t)
}

// open reads the bundle.
func (c TenantAddCmd) open(g *Globals) (bundle.Bundle, error) {
	path := c.Key
	if path == "" {
		path = filepath.Join(g.DataDir, onboardingKeyFile)
	}
	key, err := readOnboardingKey(path)
	if err != nil {
		return bundle.Bundle{}, fmt.Errorf("the key for bundles: %w; sluicectl tenant key makes it", err)
	}
	file, err := os.ReadFile(c.Bundle)
	if err != nil {
		return bundle.Bundle{}, err
	}
	return bundle.Open(file, key, bundle.Expect{Tenant: c.Tenant, Network: c.Network})
}

// checks asks the signer.
func (c TenantAddCmd) checks(w *world, b bundle.Bundle) (onboard.Report, error) {
	signer, err := remotesigner.Dial(remotesigner.Config{Address: b.Address, Certificate: b.Certificate, Macaroon: b.Macaroon})
	if err != nil {
		return onboard.Report{}, err
	}
	defer func() { _ = signer.Close() }()
	mac, err := remotesigner.ReadMacaroon(b.Macaroon)
	if err != nil {
		return onboard.Report{}, err
	}
	in := onboard.Input{Bundle: b, Caveats: mac.Caveats, Network: c.Network, AnyBirthday: c.AnyBirthday, Now: w.now(), Random: rand.Reader}
	for _, op := range mac.Ops {
		in.Ops = append(in.Ops, onboard.Op(op))
	}
	return onboard.Run(w.ctx, in, signer), nil
}

// write puts the node's configuration in place. Files that are right stay; a
// configuration that is another one is the operator's, and is not overwritten.
func (c TenantAddCmd) write(w *world, b bundle.Bundle, say func(string, ...any)) error {
	conf := onboard.NodeConf{Tenant: c.Tenant, Network: c.Network, Dir: c.Dir, RPC: c.NodeRPC, Peers: c.NodePeers, Signer: b.Address}
	if c.Form == formKubernetes {
		conf.Dir, conf.Secrets, conf.RPC, conf.Peers = onboard.KubernetesDir, onboard.KubernetesSecrets, onboard.KubernetesRPC, onboard.KubernetesPeers
	}
	if c.Backend != "" {
		raw, err := os.ReadFile(c.Backend)
		if err != nil {
			return fmt.Errorf("the chain backend: %w", err)
		}
		conf.Backend = string(raw)
	}
	if c.DSNFile != "" {
		raw, err := os.ReadFile(c.DSNFile)
		if err != nil {
			return fmt.Errorf("the database: %w", err)
		}
		conf.DSN = strings.TrimSpace(string(raw))
	}
	text, err := conf.LndConf()
	if err != nil {
		return err
	}
	path := func(name string) string { return filepath.Join(c.Dir, name) }
	switch have, err := os.ReadFile(path(onboard.FileConf)); {
	case errors.Is(err, os.ErrNotExist):
		if err := c.ownDatabase(w.ctx, conf.DSN); err != nil {
			return err
		}
		if err := auth.WriteFileAtomic(path(onboard.FileConf), []byte(text)); err != nil {
			return err
		}
		say("\nWrote %s.\n", path(onboard.FileConf))
	case err != nil:
		return err
	case string(have) != text:
		return fmt.Errorf("%s is there and is not what these flags give: use the flags of the first time, or move it away if it should change", path(onboard.FileConf))
	}
	// A new bundle of the same signer brings another certificate or macaroon.
	for name, content := range map[string][]byte{onboard.FileCert: b.Certificate, onboard.FileMacaroon: b.Macaroon} {
		if err := auth.WriteFileAtomic(path(name), content); err != nil {
			return err
		}
	}
	if _, err := os.Stat(path(onboard.FilePassword)); errors.Is(err, os.ErrNotExist) {
		raw := make([]byte, 24)
		if _, err := rand.Read(raw); err != nil {
			return err
		}
		if err := auth.WriteFileAtomic(path(onboard.FilePassword), []byte(hex.EncodeToString(raw))); err != nil {
			return err
		}
	}
	switch c.Form {
	case formKubernetes:
		return c.manifests(w, say)
	case formSystemd:
		of, err := thisRunner().unitOwner(c.User)
		if err != nil {
			return err
		}
		unit, err := onboard.Unit("lnd, the watch-only node of "+c.Tenant, of.name, c.Lnd, c.Dir)
		if err != nil {
			return err
		}
		if err := of.take(c.Dir, nodeFiles()...); err != nil {
			return err
		}
		name := "lnd-" + c.Tenant + ".service"
		if err := auth.WriteFileAtomic(path(name), []byte(unit)); err != nil {
			return err
		}
		say("Start the node, unless it runs:  cp %s /etc/systemd/system/ && systemctl enable --now lnd-%s\n", path(name), c.Tenant)
		return nil
	}
	say("Start the node, unless it runs:  %s --lnddir=%s\n", filepath.Base(c.Lnd), c.Dir)
	return ownedLikeDir(c.Dir, nodeFiles()...)
}

// nodeFiles are those that its lnd reads, and the lock.
func nodeFiles() []string {
	return []string{onboard.FileConf, onboard.FileCert, onboard.FileMacaroon, onboard.FilePassword, dirLock}
}

// dial connects to the node, with its admin macaroon or without.
func (c TenantAddCmd) dial(admin bool) (*remotesigner.Client, error) {
	cert, err := os.ReadFile(filepath.Join(c.Dir, "tls.cert"))
	if err != nil {
		return nil, err
	}
	cfg := remotesigner.Config{Address: c.NodeRPC, Certificate: cert, Timeout: 2 * time.Minute}
	if admin {
		if cfg.Macaroon, err = os.ReadFile(c.adminMacaroon()); err != nil {
			return nil, fmt.Errorf("the node's macaroon: %w%s", err, c.macaroonHint())
		}
	}
	return remotesigner.Dial(cfg)
}

func (c TenantAddCmd) adminMacaroon() string {
	return filepath.Join(c.Dir, "data", "chain", "bitcoin", c.Network, "admin.macaroon")
}

// recoveryWindow is how many unused addresses in a row end the search for coins.
const recoveryWindow = 2500

// make waits for the node, makes its wallet if it has none, and waits until it serves.
func (c TenantAddCmd) make(ctx context.Context, s *session, b bundle.Bundle, held *held, say func(string, ...any)) (*remotesigner.Client, error) {
	if err := waitForCert(ctx, filepath.Join(c.Dir, "tls.cert")); err != nil {
		return nil, fmt.Errorf("the node did not start within %s: start it, and run this command again", c.Wait)
	}
	bare, err := c.dial(false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = bare.Close() }()
	state, err := bare.Await(ctx, remotesigner.NoWallet, remotesigner.Active)
	if err != nil {
		return nil, fmt.Errorf("%w: see its log", err)
	}
	if state == remotesigner.NoWallet {
		// The wait may have been long: the claim can have been taken over.
		if err := held.still(ctx, s); err != nil {
			return nil, err
		}
		if err := c.noOther(ctx, s, held.node); err != nil {
			return nil, err
		}
		w := remotesigner.WatchOnly{Birthday: b.Birthday, Fingerprint: b.Fingerprint, Window: recoveryWindow}
		if w.Password, err = os.ReadFile(filepath.Join(c.Dir, onboard.FilePassword)); err != nil {
			return nil, err
		}
		for _, a := range b.Accounts {
			purpose, coin, account, err := a.Numbers()
			if err != nil {
				return nil, err
			}
			w.Accounts = append(w.Accounts, remotesigner.WatchAccount{Purpose: purpose, Coin: coin, Account: account, Key: a.Key})
		}
		say("Making the watch-only wallet.\n")
		macaroon, err := bare.InitWatchOnly(ctx, w)
		if err != nil {
			return nil, err
		}
		if c.Form == formKubernetes {
			// lnd's own is in the pod.
			if err := auth.WriteFileAtomic(c.adminMacaroon(), macaroon); err != nil {
				return nil, err
			}
		}
		if _, err := bare.Await(ctx, remotesigner.Active); err != nil {
			return nil, fmt.Errorf("%w: see its log", err)
		}
	}
	return c.dial(true)
}

// verify is the check that comes after.
func (c TenantAddCmd) verify(ctx context.Context, node *remotesigner.Client, b bundle.Bundle) (onboard.Result, error) {
	shown, err := node.Identity(ctx)
	if err != nil {
		return onboard.Result{}, err
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return onboard.Result{}, err
	}
	text := "sluice onboarding of " + c.Tenant + ": " + hex.EncodeToString(raw)
	signature, err := node.SignText(ctx, text)
	if err != nil {
		return onboard.Result{}, err
	}
	signer, err := auth.RecoverSigner(text, signature)
	if err != nil {
		return onboard.Result{}, err
	}
	return onboard.CheckIdentity(b, shown, signer), nil
}

// activate tells the registry of the node and makes the tenant's first macaroon.
func (c TenantAddCmd) activate(ctx context.Context, s *session, node *remotesigner.Client, key ln.PubKey) (string, error) {
	got, err := call(ctx, s, tenantsOf(s).ShowTenant, &tenantv1.ShowTenantRequest{Tenant: c.Tenant})
	if err != nil {
		return "", err
	}
	t := got.GetTenant()
	if !hasNode(t, key) {
		gateway, err := call(ctx, s, tenantsOf(s).GetGateway, &tenantv1.GetGatewayRequest{})
		if err != nil {
			return "", err
		}
		gatewayKey, err := ln.PubKeyFromBytes(gateway.GetNodeKey())
		if err != nil {
			return "", err
		}
		signature, err := node.SignText(ctx, tenant.Statement(gatewayKey, c.Tenant, key))
		if err != nil {
			return "", err
		}
		if _, err := call(ctx, s, tenantsOf(s).AddTenantNode, &tenantv1.AddTenantNodeRequest{Tenant: c.Tenant, NodeKey: key[:], Signature: signature}); err != nil {
			return "", err
		}
	}
	if t.GetStatus() == tenantv1.TenantStatus_TENANT_STATUS_ONBOARDING {
		if _, err := call(ctx, s, tenantsOf(s).SetTenantStatus, &tenantv1.SetTenantStatusRequest{Tenant: c.Tenant, Status: tenantv1.TenantStatus_TENANT_STATUS_ACTIVE}); err != nil {
			return "", err
		}
	}
	if c.Gateway != "" {
		peer, address, err := c.gateway()
		if err != nil {
			return "", err
		}
		if err := node.Connect(ctx, peer, address); err != nil {
			return "", err
		}
	}
	return c.firstMacaroon(ctx, s, t, key)
}

func hasNode(t *tenantv1.Tenant, key ln.PubKey) bool {
	for _, n := range t.GetNodes() {
		if string(n.GetNodeKey()) == string(key[:]) {
			return true
		}
	}
	return false
}
