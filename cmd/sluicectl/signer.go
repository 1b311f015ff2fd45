package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// SignerCmd is what a tenant does at its own signer.
type SignerCmd struct {
	Init    SignerInitCmd    `cmd:"" help:"Prepare a signer lnd, wait for its wallet, and write the bundle for the operator."`
	Revoke  SignerRevokeCmd  `cmd:"" help:"End the macaroon that the operator has: the node stops being able to sign."`
	Replica SignerReplicaCmd `cmd:"" help:"Follow the node's database at the operator, so that you can close its channels without anybody."`
	Recover SignerRecoverCmd `cmd:"" help:"When operator and gateway are gone: prove that the replica is fresh, run the node, close its channels."`
	Guard   GuardCmd         `cmd:"" help:"Stand between the operator's machine and the signer, and hold each request to your policy."`
}

// signerAt is an lnd on this machine that is a signer.
type signerAt struct {
	Dir     string `required:"" type:"path" placeholder:"DIR" help:"The signer lnd's directory (its --lnddir)."`
	RPC     string `default:"127.0.0.1:10019" placeholder:"HOST:PORT" help:"Where its RPC answers on this machine (${default})."`
	Network string `default:"mainnet" enum:"mainnet,testnet,signet,regtest" help:"The bitcoin network (${default})."`
}

// lookEvery is how often something is looked at while it is waited for.
const lookEvery = 200 * time.Millisecond

// Files of ours in the signer's directory.
const (
	signerStateFile    = "sluice-signer.json"
	signerMacaroonFile = "sluice-signer.macaroon"
)

// signerState is what init remembers, so that doing it again changes nothing that is
// right.
type signerState struct {
	// RootKey is the id under which the operator's macaroon was baked.
	RootKey uint64 `json:"root_key_id"`
	// Earlier are those of macaroons that another one took the place of: the operator may
	// have them still, and they are as good.
	Earlier []uint64 `json:"earlier_root_key_ids,omitempty"`
	// BirthdayUnix is when the directory was seen without a wallet: no coin is older.
	BirthdayUnix int64 `json:"birthday_unix"`
}

// good says whether the operator may have a macaroon that is not revoked.
func (s signerState) good() bool { return s.RootKey != 0 || len(s.Earlier) > 0 }

// rootKeys are the keys under which a signer's macaroons are baked.
type rootKeys interface {
	RootKeys(ctx context.Context) ([]uint64, error)
	Bake(ctx context.Context, methods []string, rootKey uint64) ([]byte, error)
	DeleteRootKey(ctx context.Context, id uint64) error
}

func (s signerAt) state() (out signerState, err error) {
	raw, err := os.ReadFile(filepath.Join(s.Dir, signerStateFile))
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Join(s.Dir, signerStateFile), err)
	}
	return out, err
}

func (s signerAt) keep(state signerState) error {
	raw, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(s.Dir, signerStateFile), append(raw, '\n'))
}

// dirLock is the file by which a directory is locked.
const dirLock = ".sluicectl.lock"

// lockDir keeps two of these commands from working on one directory: each would write
// what the other one does not know of, the wallet's password among it.
func lockDir(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, dirLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		return nil, errors.Join(fmt.Errorf("another sluicectl works on %s: wait until it has ended", dir), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// writeWhole writes a file that only its owner reads, all of it or nothing.
func writeWhole(path string, content []byte) error { return auth.WriteFileAtomic(path, content) }

// dial connects with the admin's macaroon once there is one.
func (s signerAt) dial(admin bool) (*remotesigner.Client, error) {
	cert, err := os.ReadFile(filepath.Join(s.Dir, "tls.cert"))
	if err != nil {
		return nil, fmt.Errorf("the signer's certificate: %w; lnd writes it when it first starts with this directory", err)
	}
	cfg := remotesigner.Config{Address: s.RPC, Certificate: cert}
	if admin {
		if cfg.Macaroon, err = os.ReadFile(filepath.Join(s.Dir, "data", "chain", "bitcoin", s.Network, "admin.macaroon")); err != nil {
			return nil, fmt.Errorf("the signer's admin macaroon: %w; lnd writes it when its wallet is made", err)
		}
	}
	return remotesigner.Dial(cfg)
}

// SignerInitCmd prepares a signer.
type SignerInitCmd struct {
	signerAt
	Tenant   string        `required:"" placeholder:"NAME" help:"The name under which the operator registers you."`
	Operator string        `required:"" placeholder:"KEY" help:"The operator's key (age1...), which sluicectl tenant key prints there."`
	Address  string        `required:"" placeholder:"HOST:PORT" help:"How the operator's machine reaches the signer's RPC."`
	Listen   string        `default:"0.0.0.0:10019" placeholder:"HOST:PORT" help:"Where the signer's RPC shall listen (${default})."`
	Form     string        `default:"plain" enum:"plain,systemd,container" help:"How it shall run: plain, systemd or container (${default})."`
	User     string        `placeholder:"NAME" help:"The user of the systemd unit (you; lnd, if you are root)."`
	Lnd      string        `default:"/usr/local/bin/lnd" placeholder:"PATH" help:"The lnd of the systemd unit (${default})."`
	Birthday string        `placeholder:"YYYY-MM-DD" help:"When the wallet was made, for one that was there before."`
	Out      string        `required:"" type:"path" placeholder:"FILE" help:"Where to write the bundle."`
	Guard    string        `type:"path" placeholder:"DIR" help:"Put a guard before the signer: --address is then the guard's, and its files go into this directory."`
	GuardAt  string        `name:"guard-listen" default:"0.0.0.0:10029" placeholder:"HOST:PORT" help:"Where the guard shall listen (${default})."`
	Wait     time.Duration `default:"30m" help:"How long to wait for lnd and its wallet (${default})."`
}

// Run implements the command.
func (c SignerInitCmd) Run(w *world, g *Globals) error {
	to, birthday, err := c.flags()
	if err != nil {
		return cli.Usage{Err: err}
	}
	p := w.printer()
	say := func(format string, args ...any) {
		if !g.JSON {
			p.Printf(format, args...)
		}
	}
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.configure(say); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.ctx, c.Wait)
	defer cancel()
	state, err := c.awaitWallet(ctx, w, say)
	if err != nil {
		return err
	}
	if birthday.IsZero() && state.BirthdayUnix > 0 {
		birthday = time.Unix(state.BirthdayUnix, 0).UTC()
	}
	admin, err := c.dial(true)
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close() }()
	b, err := c.collect(ctx, admin, birthday, w.now())
	if err != nil {
		return err
	}
	if b.Macaroon, err = c.macaroon(ctx, admin, state); err != nil {
		return err
	}
	if c.Guard != "" {
		if err := c.guard(w, &b, say); err != nil {
			return err
		}
	}
	file, err := bundle.Seal(b, to)
	if err != nil {
		return err
	}
	if err := writeWhole(c.Out, file); err != nil {
		return err
	}
	return c.tell(ctx, w, g, admin, b)
}

// configure writes what is not there. What is there is the tenant's.
func (c SignerInitCmd) configure(say func(string, ...any)) error {
	listen, address := c.Listen, c.Address
	if c.Guard != "" {
		// The guard alone reaches the signer.
		listen, address = c.RPC, c.RPC
	}
	published := listen
	if c.Form == formContainer {
		// What publishes the port decides who reaches it: loopback is the container's own.
		listen = "0.0.0.0:" + containerPort
	}
	conf, err := onboard.SignerConf{Network: c.Network, Dir: c.Dir, Listen: listen, Address: address}.LndConf()
	if err != nil {
		return err
	}
	files := map[string]string{"lnd.conf": conf}
	start := "lnd --lnddir=" + c.Dir
	var unit owner
	switch c.Form {
	case formSystemd:
		if unit, err = thisRunner().unitOwner(c.User); err != nil {
			return err
		}
		if files["lnd-signer.service"], err = onboard.Unit("lnd, the signer of "+c.Tenant, unit.name, c.Lnd, c.Dir); err != nil {
			return err
		}
		start = "cp " + filepath.Join(c.Dir, "lnd-signer.service") + " /etc/systemd/system/ && systemctl enable --now lnd-signer"
	case formContainer:
		files["Containerfile"] = onboard.Containerfile()
		start = "podman build -t lnd-signer - < " + filepath.Join(c.Dir, "Containerfile") + " && podman run -d --name lnd-signer -v " + c.Dir + ":/signer -p " + published + ":" + containerPort + " lnd-signer"
	}
	fresh := false
	for name, text := range files {
		path := filepath.Join(c.Dir, name)
		switch have, err := os.ReadFile(path); {
		case errors.Is(err, os.ErrNotExist):
			if err := writeWhole(path, []byte(text)); err != nil {
				return err
			}
			say("Wrote %s.\n", path)
			fresh = fresh || name == "lnd.conf"
		case err != nil:
			return err
		case string(have) != text:
			say("%s is there and is not what this command would write: it is left as it is. What a signer needs:\n\n%s\n", path, text)
		}
	}
	if c.Form == formSystemd {
		if err := unit.take(c.Dir, "lnd.conf", dirLock); err != nil {
			return err
		}
	}
	if fresh {
		say("Start the signer:  %s\n", start)
	}
	return nil
}

// awaitWallet waits until the signer serves. A wallet that was seen to be missing has
// its birthday from that moment.
func (c SignerInitCmd) awaitWallet(ctx context.Context, w *world, say func(string, ...any)) (signerState, error) {
	state, err := c.state()
	if err != nil {
		return state, err
	}
	if err := waitForCert(ctx, filepath.Join(c.Dir, "tls.cert")); err != nil {
		return state, fmt.Errorf("the signer did not start within %s: %w; start it, and run this command again", c.Wait, err)
	}
	client, err := c.dial(false)
	if err != nil {
		return state, err
	}
	defer func() { _ = client.Close() }()
	told := ""
	for {
		now, err := client.Await(ctx, remotesigner.NoWallet, remotesigner.Locked, remotesigner.Active)
		if err != nil {
			return state, err
		}
		if now == remotesigner.Active {
			return state, nil
		}
		if now == remotesigner.NoWallet && state.BirthdayUnix == 0 {
			state.BirthdayUnix = w.now().Unix()
			if err := c.keep(state); err != nil {
				return state, err
			}
		}
		if now != told {
			next := c.lncli() + "unlock"
			if now == remotesigner.NoWallet {
				next = c.lncli() + "create        (and keep the seed on paper: nobody else has it)"
			}
			say("Waiting for the wallet. Run:  %s\n", next)
			told = now
		}
		if pace.Pause(ctx, lookEvery) != nil {
			return state, fmt.Errorf("the signer's wallet is still not open after %s: run this command again when it is", c.Wait)
		}
	}
}

// lncli is the beginning of a command to the signer.
func (c SignerInitCmd) lncli() string {
	if c.Form == formContainer {
		return fmt.Sprintf("podman exec -it lnd-signer lncli --lnddir=/signer --rpcserver=127.0.0.1:%s --network=%s ", containerPort, c.Network)
	}
	return fmt.Sprintf("lncli --lnddir=%s --rpcserver=%s --network=%s ", c.Dir, c.RPC, c.Network)
}

// waitForCert waits until lnd has written its certificate: the file is there a moment
// before its content is.
func waitForCert(ctx context.Context, path string) error {
	for {
		if text, err := os.ReadFile(path); err == nil {
			if block, _ := pem.Decode(text); block != nil {
				return nil
			}
		}
		if pace.Pause(ctx, lookEvery) != nil {
			return fmt.Errorf("there is no %s", path)
		}
	}
}

// collect makes the bundle but for its macaroon.
func (c SignerInitCmd) collect(ctx context.Context, admin *remotesigner.Client, birthday, now time.Time) (bundle.Bundle, error) {
	network, err := admin.Network(ctx)
	if err != nil {
		return bundle.Bundle{}, err
	}
	if network != c.Network {
		return bundle.Bundle{}, fmt.Errorf("the signer is on %s, not on %s: name it with --network", network, c.Network)
	}
	cert, err := os.ReadFile(filepath.Join(c.Dir, "tls.cert"))
	if err != nil {
		return bundle.Bundle{}, err
	}
	b := bundle.Bundle{Tenant: c.Tenant, Network: c.Network, Made: now.UTC(), Birthday: birthday, Address: c.Address, Certificate: cert}
	accounts, fingerprint, err := admin.Accounts(ctx)
	if err != nil {
		return bundle.Bundle{}, err
	}
	b.Fingerprint = fingerprint
	for _, a := range accounts {
		b.Accounts = append(b.Accounts, bundle.Account(a))
	}
	if r := onboard.CheckAccounts(onboard.Input{Bundle: b, Network: c.Network}); r.Verdict != onboard.Passed {
		return bundle.Bundle{}, errors.New(r.Said)
	}
	return b, nil
}

// macaroon gives the narrow macaroon: the one that was baked before, if it is still
// good, or a new one under a root key of its own, so that it alone can be revoked.
func (c SignerInitCmd) macaroon(ctx context.Context, admin rootKeys, state signerState) ([]byte, error) {
	ids, err := admin.RootKeys(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir, signerMacaroonFile)
	if have, err := os.ReadFile(path); err == nil && state.RootKey != 0 && slices.Contains(ids, state.RootKey) {
		if m, err := remotesigner.ReadMacaroon(have); err == nil && len(m.Ops) == 1 && m.Ops[0].Entity == "uri" && sameWords(m.Ops[0].Actions, onboard.Rights()) {
			return have, nil
		}
	}
	if state.RootKey != 0 {
		state.Earlier = append(state.Earlier, state.RootKey)
	}
	state.RootKey = 1
	for _, id := range ids {
		state.RootKey = max(state.RootKey, id+1)
	}
	// Before it is baked: a root key that revoke knows of and that does not exist does
	// no harm, one that it does not know of could not be revoked.
	if err := c.keep(state); err != nil {
		return nil, err
	}
	raw, err := admin.Bake(ctx, onboard.Rights(), state.RootKey)
	if err != nil {
		return nil, err
	}
	return raw, writeWhole(path, raw)
}

func sameWords(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// tell says what is in the bundle, and how its macaroon differs from lnd's documented
// one.
func (c SignerInitCmd) tell(ctx context.Context, w *world, g *Globals, admin *remotesigner.Client, b bundle.Bundle) error {
	print, err := b.Print()
	if err != nil {
		return err
	}
	node, err := onboard.NodeKey(b)
	if err != nil {
		return err
	}
	var ops []remotesigner.Op
	for _, op := range onboard.Documented() {
		ops = append(ops, remotesigner.Op(op))
	}
	documented, err := admin.MethodsOf(ctx, ops)
	if err != nil {
		return err
	}
	var more, less []string
	for _, m := range documented {
		if !slices.Contains(onboard.Rights(), m) {
			more = append(more, m)
		}
	}
	for _, m := range onboard.Rights() {
		if !slices.Contains(documented, m) {
			less = append(less, m)
		}
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]any{
			"bundle": c.Out, "fingerprint": print, "node": node.String(), "rights": onboard.Rights(),
			"documented_macaroon_also_allows": more, "documented_macaroon_lacks": less,
		})
	}
	p := w.printer()
	p.Printf("\nThe macaroon in the bundle allows these calls and no other:\n")
	for _, m := range onboard.Rights() {
		p.Printf("  %s\n", m)
	}
	p.Printf("The one of lnd's documentation would also allow %d more, among them %s,\nand would lack %s.\n", len(more), strings.Join(notable(more), ", "), strings.Join(less, ", "))
	p.Printf("With it the operator's machine can have your signer sign for the node: spends included. It cannot make itself more rights.\n\n")
	p.Printf("The bundle is %s. Send it to the operator, and compare by telephone:\n  its fingerprint  %s\n  the node's key   %s\n", c.Out, print, node)
	return p.Err
}

// notable picks a few that everybody understands.
func notable(methods []string) []string {
	var out []string
	for _, m := range methods {
		for _, word := range []string{"SendCoins", "SendOutputs", "FinalizePsbt", "SignOutputRaw", "PublishTransaction"} {
			if strings.HasSuffix(m, "/"+word) {
				out = append(out, word)
			}
		}
	}
	if len(out) == 0 {
		return methods[:min(3, len(methods))]
	}
	return out
}

// SignerRevokeCmd ends the operator's macaroon.
type SignerRevokeCmd struct {
	signerAt
}

// Run implements the command.
func (c SignerRevokeCmd) Run(w *world, g *Globals) error {
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	state, err := c.state()
	if err != nil {
		return err
	}
	if !state.good() {
		return fmt.Errorf("no macaroon was baked here that is not revoked: there is no root key in %s", filepath.Join(c.Dir, signerStateFile))
	}
	admin, err := c.dial(true)
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close() }()
	return c.revoke(w, g, admin, state)
}

func (c SignerRevokeCmd) revoke(w *world, g *Globals, admin rootKeys, state signerState) error {
	ids, err := admin.RootKeys(w.ctx)
	if err != nil {
		return err
	}
	revoked := state.RootKey
	for _, id := range append(state.Earlier, state.RootKey) {
		if id == 0 || !slices.Contains(ids, id) {
			continue
		}
		if err := admin.DeleteRootKey(w.ctx, id); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(c.Dir, signerMacaroonFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	state.RootKey, state.Earlier = 0, nil
	if err := c.keep(state); err != nil {
		return err
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]any{"revoked_root_key_id": revoked})
	}
	p := w.printer()
	p.Printf("Revoked: the signer takes the operator's macaroon for nothing any more.\n")
	p.Printf("The node there cannot sign from now on and stops at its next attempt. What was signed before stays signed: the latest state of each\nchannel can be published, by both sides.\n")
	p.Printf("To serve the node again: sluicectl signer init (with the same flags), and send the new bundle.\n")
	return p.Err
}
