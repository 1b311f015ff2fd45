package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
	"github.com/sluice-lsp/sluice/lws/tenant/guard/gate"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// GuardCmd is the guard before a signer.
type GuardCmd struct {
	Run    GuardRunCmd    `cmd:"" default:"withargs" help:"Run the guard."`
	Pause  GuardPauseCmd  `cmd:"" help:"Have the guard sign nothing from now on."`
	Resume GuardResumeCmd `cmd:"" help:"Have the guard sign again."`
	Show   GuardShowCmd   `cmd:"" help:"What the guard allows, what counted in the last 24 hours, and what it refused."`
}

// guardAt is a guard's directory, which signer init makes.
type guardAt struct {
	Dir string `required:"" type:"path" placeholder:"DIR" help:"The guard's directory (--guard of signer init)."`
}

// Files of the guard's connections, in its directory.
const (
	guardSignerCert     = "signer.cert"
	guardSignerMacaroon = "signer.macaroon"
	guardCert           = "tls.cert"
	guardKey            = "tls.key"
)

// guard prepares the guard's directory, and has the bundle lead to the guard. The
// signer's macaroon stays with the guard; with a new one of the signer's the host gets a
// new one of the guard's, so that revoking ends both.
func (c SignerInitCmd) guard(w *world, b *bundle.Bundle, say func(string, ...any)) error {
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	path := func(name string) string { return filepath.Join(c.Guard, name) }
	var accounts []guard.Account
	for _, a := range b.Accounts {
		accounts = append(accounts, guard.Account(a))
	}
	before, err := os.ReadFile(path(guardSignerMacaroon))
	fresh := err != nil || !slices.Equal(before, b.Macaroon)
	if _, err := os.Stat(path(gate.FileHostKey)); err != nil {
		fresh = true
	}
	var hostKey []byte
	if fresh {
		hostKey = make([]byte, 32)
		if _, err := rand.Read(hostKey); err != nil {
			return err
		}
	}
	if err := gate.Prepare(c.Guard, guard.DefaultPolicy(c.Tenant, c.Network), accounts, hostKey); err != nil {
		return fmt.Errorf("the guard's directory: %w", err)
	}
	// Last what says that the key belongs to this macaroon.
	for _, f := range []struct {
		name    string
		content []byte
	}{{guardSignerCert, b.Certificate}, {guardSignerMacaroon, b.Macaroon}} {
		if err := durable.WriteFile(path(f.name), f.content, 0o600); err != nil {
			return err
		}
	}
	if _, err := guardTLS(c.Guard, []string{host}, w.now); err != nil {
		return err
	}
	if b.Certificate, err = os.ReadFile(path(guardCert)); err != nil {
		return err
	}
	g, err := gate.ReadHostKey(c.Guard)
	if err != nil {
		return err
	}
	if b.Macaroon, err = remotesigner.MintHost(g, onboard.Rights()); err != nil {
		return err
	}
	run := fmt.Sprintf("sluicectl signer guard run --dir %s --listen %s --signer %s", c.Guard, c.GuardAt, c.RPC)
	if c.Form == formSystemd {
		of, err := thisRunner().unitOwner(c.User)
		if err != nil {
			return err
		}
		unit, err := onboard.GuardUnit(c.Tenant, of.name, c.Guard, c.GuardAt, c.RPC)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(path("signer-guard.service"), []byte(unit), 0o600); err != nil {
			return err
		}
		if err := of.take(c.Guard, gate.FilePolicy, gate.FileAccounts, gate.FileHostKey, gate.FileLog, gate.FileStates, guardSignerCert, guardSignerMacaroon, guardCert, guardKey); err != nil {
			return err
		}
		run = "cp " + path("signer-guard.service") + " /etc/systemd/system/ && systemctl enable --now signer-guard"
	}
	say("\nThe guard's policy is %s: look at it.\nStart the guard, or start it again if it runs:  %s\n", path(gate.FilePolicy), run)
	return nil
}

func guardTLS(dir string, hosts []string, now func() time.Time) (*selfcert.Keeper, error) {
	return selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, guardCert), KeyPath: filepath.Join(dir, guardKey), Hosts: hosts, Now: now})
}

// GuardRunCmd runs it.
type GuardRunCmd struct {
	guardAt
	Listen string `default:"0.0.0.0:10029" placeholder:"HOST:PORT" help:"Where the operator's machine connects (${default})."`
	Signer string `default:"127.0.0.1:10019" placeholder:"HOST:PORT" help:"Where the signer's RPC answers (${default})."`
}

// summaryEvery is how often the log gets the numbers of what passed.
const summaryEvery = 10 * time.Minute

// Run implements the command.
func (c GuardRunCmd) Run(w *world, _ *Globals) (err error) {
	g, err := gate.Open(c.Dir, w.now)
	if err != nil {
		return fmt.Errorf("the guard: %w", err)
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	cfg := remotesigner.Config{Address: c.Signer}
	for name, to := range map[string]*[]byte{guardSignerCert: &cfg.Certificate, guardSignerMacaroon: &cfg.Macaroon} {
		if *to, err = os.ReadFile(filepath.Join(c.Dir, name)); err != nil {
			return fmt.Errorf("the way to the signer: %w; sluicectl signer init --guard writes it", err)
		}
	}
	up, err := remotesigner.Dial(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = up.Close() }()
	// The names of the certificate are those that signer init gave it; a renewal keeps them.
	hosts, err := certificateHosts(filepath.Join(c.Dir, guardCert))
	if err != nil {
		return err
	}
	cert, err := guardTLS(c.Dir, hosts, w.now)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(w.ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	server := remotesigner.NewProxy(up, judge{g}, cert.TLS(), func(raw []byte) error {
		key, err := g.HostKey()
		if err != nil {
			return errors.New("cannot get macaroon: the host's was revoked")
		}
		return remotesigner.VerifyHost(key, raw)
	}, func(method, why string) error { return g.Refuse(method, guard.RuleUnknown, why) })
	p := w.printer()
	p.Printf("Guarding the signer of node %s at %s for whoever connects to %s.\n", g.Node(), c.Signer, listener.Addr())
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	summed := make(chan error, 1)
	go func() {
		var failed error
		pace.Every(ctx, summaryEvery, func(context.Context) { failed = errors.Join(failed, g.Summarise()) })
		server.GracefulStop()
		summed <- failed
	}()
	served := server.Serve(listener)
	cancel()
	return errors.Join(served, <-summed, p.Err)
}

// judge has the gate decide about what the proxy hears.
type judge struct{ g *gate.Gate }

func (j judge) Psbt(raw []byte) ([]byte, error)             { return j.g.Psbt(raw) }
func (j judge) Message(r remotesigner.MessageRequest) error { return j.g.Message(guard.Message(r)) }
func (j judge) SharedKey(r remotesigner.SharedKeyRequest) error {
	return j.g.SharedKey(guard.SharedKey(r))
}
func (j judge) MuSig2(r remotesigner.MuSig2Request) error { return j.g.MuSig2(guard.MuSig2Session(r)) }
func (j judge) Key(at ln.KeyLocator) error                { return j.g.Key(at) }

// certificateHosts are the names that a certificate of ours was made for, besides those
// that every one of ours has: with others it would be made anew, and the host's copy would
// be another one's.
func certificateHosts(path string) ([]string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := bundle.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	const localNames, localAddresses = 1, 2
	if len(cert.DNSNames) < localNames || len(cert.IPAddresses) < localAddresses {
		return nil, fmt.Errorf("%s is not the certificate that signer init made", path)
	}
	hosts := slices.Clone(cert.DNSNames[localNames:])
	for _, ip := range cert.IPAddresses[localAddresses:] {
		hosts = append(hosts, ip.String())
	}
	return hosts, nil
}

// there: with a slip in the directory nothing would be paused, nor go on.
func (c guardAt) there() error {
	if _, err := os.Stat(filepath.Join(c.Dir, gate.FilePolicy)); err != nil {
		return fmt.Errorf("there is no guard in %s: %w", c.Dir, err)
	}
	return nil
}

// GuardPauseCmd has it sign nothing.
type GuardPauseCmd struct{ guardAt }

// Run implements the command.
func (c GuardPauseCmd) Run(w *world, _ *Globals) error {
	if err := c.there(); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.Dir, gate.FilePaused), nil, 0o600); err != nil {
		return err
	}
	p := w.printer()
	p.Printf("Paused: the guard passes nothing on to the signer. The node cannot pay, be paid or connect meanwhile, and a payment that is\nunder way can be lost when it runs out. To go on: sluicectl signer guard resume --dir %s\n", c.Dir)
	return p.Err
}

// GuardResumeCmd has it sign again.
type GuardResumeCmd struct{ guardAt }

// Run implements the command.
func (c GuardResumeCmd) Run(w *world, _ *Globals) error {
	if err := c.there(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.Dir, gate.FilePaused)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	p := w.printer()
	p.Printf("The guard holds requests to the policy again.\n")
	return p.Err
}

// GuardShowCmd shows what its log says.
type GuardShowCmd struct {
	guardAt
	Last int `default:"20" placeholder:"N" help:"How many lines of the log to show (${default})."`
}

// Run implements the command.
func (c GuardShowCmd) Run(w *world, g *Globals) error {
	if err := c.there(); err != nil {
		return err
	}
	report, err := gate.Read(c.Dir, w.now(), max(0, c.Last))
	if err != nil {
		return err
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, report)
	}
	p := w.printer()
	if report.Paused {
		p.Printf("PAUSED: nothing is signed.\n\n")
	}
	t := cli.NewTable("SATS LEAVING", "LAST 24 HOURS", "PER DAY", "PER TRANSACTION")
	t.Row("to unknown addresses", sat(report.Day.AddressSat), sat(report.Policy.AddressSatPerDay), sat(report.Policy.AddressSatPerTx))
	t.Row("into channels", sat(report.Day.ChannelSat), sat(report.Policy.ChannelSatPerDay), sat(report.Policy.ChannelSatPerTx))
	t.Row("to miners", sat(report.Day.FeeSat), sat(report.Policy.FeeSatPerDay), sat(report.Policy.FeeSatPerTx))
	p.Table(t)
	if len(report.Counts) > 0 {
		p.Printf("\n")
		t := cli.NewTable("REQUESTS IN 24 HOURS", "")
		var what []string
		for k := range report.Counts {
			what = append(what, k)
		}
		slices.Sort(what)
		for _, k := range what {
			t.Row(k, fmt.Sprint(report.Counts[k]))
		}
		p.Table(t)
	}
	if len(report.Lines) > 0 {
		p.Printf("\n")
		t := cli.NewTable("TIME", "", "REQUEST", "")
		for _, l := range report.Lines {
			said := l.Said
			if l.Counted != nil {
				said = fmt.Sprintf("%s %s: %d sat to addresses, %d into channels, %d to miners", l.What, l.Counted.TxID, l.Counted.AddressSat, l.Counted.ChannelSat, l.Counted.FeeSat)
			}
			t.Row(l.At.UTC().Format(time.DateTime), strings.TrimSpace(string(l.Kind)+" "+l.Rule), l.Method, cli.Clean(said))
		}
		p.Table(t)
	}
	return p.Err
}

func sat(n int64) string { return cli.Sat(uint64(max(0, n))) }
