package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/watchtower/agent"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

type towersCmd struct {
	List   towersListCmd   `cmd:"" default:"withargs" help:"Show the towers, what they hold, and whether that is what lnd sent; exit code 1 when something is wrong."`
	Add    towersAddCmd    `cmd:"" help:"Register at a tower and let lnd upload to it."`
	Renew  towersRenewCmd  `cmd:"" help:"Prolong a registration."`
	Leave  towersLeaveCmd  `cmd:"" help:"Stop uploading to a tower. What it holds it goes on watching."`
	Credit towersCreditCmd `cmd:"" help:"Buy updates beyond those that a tower holds without a price, or list what was bought."`
	Events towersEventsCmd `cmd:"" help:"Breaches of this wallet's channels that a tower found, with their stories."`
}

// towerTimeout bounds one tower's answers: one that is away must not hide the
// others.
const towerTimeout = 20 * time.Second

// node reaches the wallet's lnd with the daemon's settings.
func (c *nodeFlags) node(w *world, g *Globals) (*lnd.Client, error) {
	s, err := c.load(w, g.DataDir)
	if err != nil {
		return nil, err
	}
	client, err := lnd.Dial(lnd.Config{Address: s.LND.Address, TLSCertFile: s.LND.TLS, MacaroonFile: s.LND.Macaroon})
	if err != nil {
		return nil, fmt.Errorf("%w\n`sluice-wallet macaroon --towers` prints how to bake the macaroon", err)
	}
	return client, nil
}

// tower is the wallet's lnd, and a tower that it registered at.
func (c *nodeFlags) tower(w *world, g *Globals, name string) (*lnd.Client, agent.Service, error) {
	client, err := c.node(w, g)
	if err != nil {
		return nil, agent.Service{}, err
	}
	services, err := agent.LoadServices(g.DataDir)
	if err != nil {
		return nil, agent.Service{}, errors.Join(err, client.Close())
	}
	service, err := agent.Find(services, name)
	if err != nil {
		return nil, agent.Service{}, errors.Join(err, client.Close())
	}
	return client, service, nil
}

// withTower calls a tower's service as the wallet's node.
func withTower(ctx context.Context, client *lnd.Client, s agent.Service, call func(context.Context, towerv1.TowerServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, towerTimeout)
	defer cancel()
	info, err := client.Info(ctx)
	if err != nil {
		return err
	}
	transport := credentials.NewTLS(nil)
	if s.Certificate != "" {
		tlsConfig, err := selfcert.ClientTLS(s.Certificate)
		if err != nil {
			return err
		}
		transport = credentials.NewTLS(tlsConfig)
	}
	conn, _, err := auth.Dial(s.GRPC, transport, auth.ClientConfig{
		Server: auth.Server{NodeKey: s.Node}, Node: info.PubKey, Services: []string{towerapi.Name}, Now: time.Now,
		Sign: func(ctx context.Context, text string) (string, error) { return client.SignMessage(ctx, []byte(text)) },
	})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return rpcserver.FromStatus(call(ctx, towerv1.NewTowerServiceClient(conn)))
}

type towersListCmd struct{ nodeFlags }

// Run checks and lists.
func (c *towersListCmd) Run(w *world, g *Globals) error {
	settings, err := c.load(w, g.DataDir)
	if err != nil {
		return err
	}
	client, err := c.node(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	checker, err := newChecker(g.DataDir, settings.Towers, client, zap.NewNop())
	if err != nil {
		return err
	}
	result, err := checker.Check(w.ctx)
	if err != nil {
		return noClient(err)
	}
	if g.JSON {
		err = cli.WriteJSON(w.stdout, result)
	} else {
		err = printTowers(w, result)
	}
	if err == nil && result.Wrong() {
		return exitCode(exitFailed)
	}
	return err
}

// towerSettings say how the daemon checks towers.
type towerSettings struct {
	CheckEvery   config.Duration `toml:"check_every" help:"how often the daemon asks each watchtower for proof of what it holds; what differs is an alarm in its log, in status and in towers list" min:"1m" max:"30d"`
	BacklogAfter config.Duration `toml:"backlog_alarm_after" help:"how long updates may wait without any being acknowledged" min:"1m"`
	AlarmProgram string          `toml:"alarm_program" help:"path of a program that is called when a check by the daemon finds something wrong, once a day while it lasts, and once it is over: what is wrong is on its standard input, SLUICE_TOWERS is alarm or over"`
	Samples      int             `toml:"samples" help:"how many updates each check asks back from each tower" min:"1" max:"100"`
}

func defaultTowerSettings() towerSettings {
	d := agent.DefaultCheckConfig("")
	return towerSettings{CheckEvery: config.Duration(d.Every), BacklogAfter: config.Duration(d.BacklogAfter), Samples: d.Samples}
}

// newChecker asks towers as the wallet's node.
func newChecker(dir string, s towerSettings, client *lnd.Client, log *zap.Logger) (*agent.Checker, error) {
	c := agent.DefaultCheckConfig(dir)
	c.Every, c.BacklogAfter, c.Samples = s.CheckEvery.Std(), s.BacklogAfter.Std(), s.Samples
	ports := agent.CheckPorts{
		Node: client, Now: time.Now, Random: rand.Reader, Log: log.Named("towers"),
		Connect: func(ctx context.Context, s agent.Service, call func(context.Context, towerv1.TowerServiceClient) error) error {
			return withTower(ctx, client, s, call)
		},
	}
	if s.AlarmProgram != "" {
		ports.Tell = agent.Program(s.AlarmProgram)
	}
	return agent.NewChecker(c, ports)
}

func noClient(err error) error {
	if strings.Contains(err.Error(), "not active") {
		return errkind.Wrap(errkind.Unavailable, err, "lnd's watchtower client is off: set `wtclient.active=true` under [wtclient] in lnd.conf and restart lnd.")
	}
	return err
}

func channelPeers(ctx context.Context, client *lnd.Client) (map[ln.PubKey]bool, error) {
	channels, err := client.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	out := map[ln.PubKey]bool{}
	for _, ch := range channels {
		out[ch.Peer] = true
	}
	return out, nil
}

func printTowers(w *world, result *agent.Result) error {
	p := w.printer()
	if len(result.Towers) > 0 {
		t := cli.NewTable("TOWER", "KEY", ">SESSIONS", ">ACKNOWLEDGED", ">PENDING", "FOR", ">IT HOLDS", ">ASKED BACK", "STANDING", "UNTIL", "AGREED")
		for _, r := range result.Towers {
			name, held, sampled, until := r.Name, "not asked", "", ""
			if name == "" {
				name = "-"
			}
			if r.Checked {
				held, sampled = cli.Group(r.Held), fmt.Sprint(r.Sampled)
			}
			if !r.Expires.IsZero() {
				until = r.Expires.UTC().Format(time.DateOnly)
			}
			t.Row(name, fmt.Sprintf("%.16s", r.Tower), fmt.Sprint(r.Sessions), cli.Group(r.Acknowledged), cli.Group(r.Pending), waitingFor(r.Pending, r.BacklogSeconds),
				held, sampled, r.Standing, until, agoOrNever(r.Agreed, result.At))
		}
		p.Table(t)
	}
	for _, r := range result.Towers {
		since := ""
		if !r.AlarmSince.IsZero() && result.At.Sub(r.AlarmSince) > time.Minute {
			since = " (since " + r.AlarmSince.UTC().Format(time.DateTime) + ")"
		}
		for _, a := range r.Alarms {
			p.Printf("  ! %s: %s%s\n", r.Label(), cli.Clean(a), since)
		}
		for _, n := range r.Notices {
			p.Printf("  - %s: %s\n", r.Label(), cli.Clean(n))
		}
	}
	for _, a := range result.Alarms {
		p.Printf("  ! %s\n", cli.Clean(a))
	}
	for _, n := range result.Notices {
		p.Printf("  - %s\n", cli.Clean(n))
	}
	if result.Backlog > 0 {
		p.Printf("  - %s updates wait for a tower%s\n", cli.Group(result.Backlog), waitingText(result.BacklogSeconds))
	}
	if len(result.Towers) > 0 {
		if result.Scheduled.IsZero() {
			p.Printf("No check has run by itself yet: `sluice-wallet run` does that.\n")
		} else {
			p.Printf("A check last ran by itself %s.\n", cli.Ago(result.Scheduled.UnixMilli(), result.At))
		}
	}
	return p.Err
}

// waitingFor is how long nothing of what waits has moved.
func waitingFor(updates uint64, seconds int64) string {
	if updates == 0 {
		return ""
	}
	return cli.Duration(time.Duration(seconds) * time.Second)
}

func waitingText(seconds int64) string {
	if seconds < 1 {
		return ""
	}
	return ", none acknowledged for " + cli.Duration(time.Duration(seconds)*time.Second)
}

func agoOrNever(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return cli.Ago(at.UnixMilli(), now)
}

// towerAlarms shows what the daemon's last checks found wrong.
func towerAlarms(p *cli.Printer, dir string) {
	services, err := agent.LoadServices(dir)
	if err != nil || len(services) == 0 {
		return
	}
	memory, err := agent.LoadMemory(dir)
	if err != nil {
		p.Printf("  ! %s\n", cli.Clean(err.Error()))
		return
	}
	for _, s := range services {
		for _, a := range memory.Towers[s.TowerKey.String()].Alarms {
			p.Printf("  ! watchtower %s: %s\n", s.Name, cli.Clean(a))
		}
	}
}

type towersAddCmd struct {
	nodeFlags
	Name string `arg:"" help:"A short name of your choice."`
	Node string `arg:"" name:"node-key" help:"The node that the tower belongs to (66 hex digits), as its operator publishes it."`
	GRPC string `name:"grpc" required:"" placeholder:"HOST:PORT" help:"The tower's service."`
	Cert string `type:"existingfile" placeholder:"FILE" help:"The service's TLS certificate; its key is pinned. Without it the system's roots decide."`
}

// Run registers and adds.
func (c *towersAddCmd) Run(w *world, g *Globals) error {
	key, err := ln.ParsePubKey(c.Node)
	if err != nil {
		return errkind.Wrap(errkind.Invalid, err, "The node key has 66 hex digits.")
	}
	cert, err := absolute(c.Cert)
	if err != nil {
		return err
	}
	client, err := c.node(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	service := agent.Service{Name: c.Name, Node: key, GRPC: c.GRPC, Certificate: cert}
	tower, err := register(w.ctx, client, &service)
	if err != nil {
		return err
	}
	// The list first: what lnd uploads to must be checked.
	if err := agent.UpdateServices(g.DataDir, func(list []agent.Service) []agent.Service { return agent.Put(list, service) }); err != nil {
		return err
	}
	for _, uri := range tower.GetUris() {
		_, address, _ := strings.Cut(uri, "@")
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("the tower's address %q: %w", cli.Clean(address), err)
		}
		if err := client.AddTower(w.ctx, service.TowerKey, address); err != nil {
			return noClient(err)
		}
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, tower)
	}
	p := w.printer()
	p.Printf("Registered at %s until %s; lnd uploads to it from now on.\n", c.Name, time.UnixMilli(tower.GetExpiresMs()).UTC().Format(time.DateOnly))
	peers, err := channelPeers(w.ctx, client)
	if err == nil && peers[key] {
		p.Printf("  ! %s belongs to a node that you have channels with: who could cheat is who should punish. Add a tower of somebody else's as well.\n", c.Name)
	}
	return errors.Join(p.Err, err)
}

func register(ctx context.Context, client *lnd.Client, s *agent.Service) (out *towerv1.Tower, err error) {
	err = withTower(ctx, client, *s, func(ctx context.Context, tower towerv1.TowerServiceClient) error {
		got, err := tower.Register(ctx, &towerv1.RegisterRequest{})
		if err != nil {
			return err
		}
		out = got.GetTower()
		if len(out.GetUris()) == 0 {
			return errkind.New(errkind.Unavailable, "The tower gave no address.")
		}
		text, _, _ := strings.Cut(out.GetUris()[0], "@")
		s.TowerKey, err = ln.ParsePubKey(text)
		return err
	})
	return out, err
}

type towersRenewCmd struct {
	nodeFlags
	Name string `arg:"" help:"The tower's name."`
}

// Run renews.
func (c *towersRenewCmd) Run(w *world, g *Globals) error {
	client, service, err := c.tower(w, g, c.Name)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	before := service.TowerKey
	tower, err := register(w.ctx, client, &service)
	if err != nil {
		return err
	}
	if service.TowerKey != before {
		return errkind.Newf(errkind.Conflict, "%s gave another tower key than before, so it lost its secret, or is another tower: leave it and add it again, and lnd uploads its channels' states anew.", c.Name)
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, tower)
	}
	p := w.printer()
	p.Printf("Registered at %s until %s.\n", c.Name, time.UnixMilli(tower.GetExpiresMs()).UTC().Format(time.DateOnly))
	return p.Err
}

type towersLeaveCmd struct {
	nodeFlags
	Name string `arg:"" help:"The tower's name."`
}

// Run leaves.
func (c *towersLeaveCmd) Run(w *world, g *Globals) error {
	client, service, err := c.tower(w, g, c.Name)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := client.DeactivateTower(w.ctx, service.TowerKey); err != nil {
		return noClient(err)
	}
	// It stays in the list: what it holds is still worth checking.
	p := w.printer()
	p.Printf("lnd uploads nothing more to %s. What it holds it goes on watching until the registration ends.\n", c.Name)
	return p.Err
}

type towersEventsCmd struct{ nodeFlags }

// Run tells what the towers did.
func (c *towersEventsCmd) Run(w *world, g *Globals) error {
	client, err := c.node(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	services, err := agent.LoadServices(g.DataDir)
	if err != nil {
		return err
	}
	p := w.printer()
	all := map[string][]*towerv1.ShowBreachResponse{}
	for _, s := range services {
		err := withTower(w.ctx, client, s, func(ctx context.Context, tower towerv1.TowerServiceClient) error {
			list, err := tower.ListBreaches(ctx, &towerv1.ListBreachesRequest{})
			if err != nil {
				return err
			}
			for _, b := range list.GetBreaches() {
				story, err := tower.ShowBreach(ctx, &towerv1.ShowBreachRequest{Id: b.GetId()})
				if err != nil {
					return err
				}
				all[s.Name] = append(all[s.Name], story)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if g.JSON {
			continue
		}
		if len(all[s.Name]) == 0 {
			p.Printf("%s found no breach of this wallet's channels.\n", s.Name)
		}
		for _, got := range all[s.Name] {
			b := got.GetBreach()
			p.Printf("%s: %s, %d sat for you, %d sat fee\n", s.Name, b.GetState(), b.GetSweptSat(), b.GetFeeSat())
			for _, l := range got.GetStory() {
				p.Printf("  %s  %s\n", cli.Time(l.GetAtMs()), cli.Clean(l.GetText()))
			}
		}
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, all)
	}
	return p.Err
}
