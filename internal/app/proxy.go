package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/proxy"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// ProxyConfig lets programs of others share lnd's interceptor.
type ProxyConfig struct {
	Listen       string          `toml:"listen" help:"host:port where programs that are written for lnd's HtlcInterceptor and ChannelAcceptor connect instead of to lnd; empty turns it off"`
	AnswerWithin config.Duration `toml:"answer_within" help:"a program that has not answered about a forward so long is slow, and its policy answers" min:"100ms" max:"10m"`
	AwayGrace    config.Duration `toml:"away_grace" help:"how long a program may be away before its policy applies to what waits for it; new forwards do not wait" min:"0s" max:"10m"`
	Programs     []ProxyProgram  `toml:"programs" help:"programs with policies of their own; others may attach as well, and are not asked while they are away"`
}

// ProxyProgram registers one of them.
type ProxyProgram struct {
	Name         string            `toml:"name" help:"lower-case letters, digits and '-'"`
	Macaroon     config.SecretFile `toml:"macaroon_file" help:"path of the lnd macaroon that it connects with, which tells it from others: bake one for each"`
	WhileAway    string            `toml:"while_away" help:"what happens to forwards while it is not attached: resume (also when empty), fail, or hold"`
	WhenSlow     string            `toml:"when_slow" help:"what happens to one that it does not answer in time: resume (also when empty), fail, or hold: it may take until the forward's deadline"`
	AnswerWithin config.Duration   `toml:"answer_within" help:"its own bound; 0s is proxy.answer_within"`
	MaySettle    bool              `toml:"may_settle" help:"it may settle forwards with a preimage"`
}

func defaultProxy() ProxyConfig {
	return ProxyConfig{AnswerWithin: config.Duration(5 * time.Second), AwayGrace: config.Duration(5 * time.Second)}
}

// programs reads the registrations; each macaroon's identifier is in its file.
func (c ProxyConfig) programs() ([]proxy.Program, error) {
	out := make([]proxy.Program, 0, len(c.Programs))
	for _, p := range c.Programs {
		raw, err := os.ReadFile(string(p.Macaroon))
		if err != nil {
			return nil, fmt.Errorf("proxy.programs: the macaroon of %q: %w", p.Name, err)
		}
		id, err := proxy.MacaroonID(raw)
		if err != nil {
			return nil, fmt.Errorf("proxy.programs: %s: %w", p.Macaroon, err)
		}
		out = append(out, c.program(p, id))
	}
	return out, nil
}

func (c ProxyConfig) program(p ProxyProgram, id string) proxy.Program {
	policy := func(s string) interceptor.Absent {
		if s == "" {
			return interceptor.AbsentResume
		}
		return interceptor.Absent(s)
	}
	within := p.AnswerWithin
	if within == 0 {
		within = c.AnswerWithin
	}
	return proxy.Program{
		Name: p.Name, MacaroonID: id, WhileAway: policy(p.WhileAway), WhenSlow: policy(p.WhenSlow),
		AnswerWithin: within.Std(), MaySettle: p.MaySettle,
	}
}

// validate checks what needs no file.
func (c ProxyConfig) validate() error {
	if len(c.Programs) > 0 && c.Listen == "" {
		return fmt.Errorf("proxy.programs are registered, but proxy.listen is empty: nobody could attach, and their policies would apply for ever")
	}
	for _, p := range c.Programs {
		q := c.program(p, "to be read")
		if err := q.Validate(); err != nil {
			return fmt.Errorf("proxy.programs: %w", err)
		}
		if p.Macaroon == "" {
			return fmt.Errorf("proxy.programs: %s has no macaroon_file: it is what tells the program from others", p.Name)
		}
	}
	return nil
}

// newPrograms makes the hub, before the interceptor that it is wired to; nil when
// nobody may attach.
func (d *Daemon) newPrograms() error {
	c := d.cfg.Proxy
	if c.Listen == "" {
		return nil
	}
	programs, err := c.programs()
	if err != nil {
		return err
	}
	d.programs, err = proxy.NewHub(proxy.HubConfig{
		Programs: programs, Stranger: c.program(ProxyProgram{}, ""), AwayGrace: c.AwayGrace.Std(),
		Now: d.now, Log: d.log.Named("programs"),
	})
	return err
}

// runPrograms listens, and keeps the hub attached to the interceptor.
func (d *Daemon) runPrograms(ctx context.Context, group *errgroup.Group, certificate *tls.Config) error {
	if d.programs == nil {
		return nil
	}
	// Without a macaroon of ours: each call brings its caller's.
	conn, err := lnd.Dial(lnd.Config{
		Address: d.cfg.Lnd.Address, TLSCertFile: d.cfg.Lnd.TLSCert, Network: d.cfg.Lnd.Network, Log: d.log,
	})
	if err != nil {
		return err
	}
	server, err := proxy.Listen(ctx, proxy.ServerConfig{
		Address: d.cfg.Proxy.Listen, TLS: certificate, Hub: d.programs, Lnd: conn.Conn(), Log: d.log.Named("programs"),
		Allowed: func(ctx context.Context, macaroon []byte, method string) (bool, error) {
			p, err := d.lnd.CheckPermission(ctx, macaroon, method)
			return p == lnd.Allowed, err
		},
	})
	if err != nil {
		_ = conn.Close()
		return err
	}
	group.Go(func() error { d.programs.Run(ctx, d.hold, d.hold); return nil })
	group.Go(func() error {
		defer func() { _ = conn.Close() }()
		return server.Run(ctx)
	})
	return nil
}

// holdStatus is the interceptor's status with the programs of others in it.
type holdStatus struct{ d *Daemon }

func (s holdStatus) Status() interceptor.Status {
	st := s.d.hold.Status()
	if s.d.programs != nil {
		st.Programs = s.d.programs.Status()
	}
	return st
}
