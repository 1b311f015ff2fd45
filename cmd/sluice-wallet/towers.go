package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/agent"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

type towersCmd struct {
	List   towersListCmd   `cmd:"" default:"withargs" help:"Show the towers, what they hold, and whether that is what lnd sent; exit code 1 when something is wrong."`
	Add    towersAddCmd    `cmd:"" help:"Register at a tower and let lnd upload to it."`
	Renew  towersRenewCmd  `cmd:"" help:"Prolong a registration."`
	Leave  towersLeaveCmd  `cmd:"" help:"Stop uploading to a tower. What it holds it goes on watching."`
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

// Run lists.
func (c *towersListCmd) Run(w *world, g *Globals) error {
	client, err := c.node(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	services, err := agent.LoadServices(g.DataDir)
	if err != nil {
		return err
	}
	towers, err := client.Towers(w.ctx)
	if err != nil {
		return noClient(err)
	}
	peers, err := channelPeers(w.ctx, client)
	if err != nil {
		return err
	}
	var reports []*agent.Report
	for _, t := range towers {
		r, changed := reportOf(w.ctx, client, t, services)
		reports = append(reports, r)
		if changed != nil {
			services = agent.Put(services, *changed)
			if err := agent.SaveServices(g.DataDir, services); err != nil {
				return err
			}
		}
	}
	overall := agent.Overall(towers, services, peers)
	wrong := len(overall) > 0 || slices.ContainsFunc(reports, func(r *agent.Report) bool { return len(r.Alarms) > 0 })
	if g.JSON {
		err = cli.WriteJSON(w.stdout, map[string]any{"towers": reports, "alarms": overall})
	} else {
		err = printTowers(w, reports, overall)
	}
	if err == nil && wrong {
		return exitCode(exitFailed)
	}
	return err
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

// reportOf asks a tower, where this wallet registered there, and gives the service
// with the key of its first statement.
func reportOf(ctx context.Context, client *lnd.Client, t ln.ClientTower, services []agent.Service) (r *agent.Report, changed *agent.Service) {
	r = &agent.Report{Tower: t.Key.String(), Sessions: len(t.Sessions)}
	for _, s := range t.Sessions {
		r.Acknowledged += uint64(s.Acknowledged)
		r.Pending += uint64(s.Pending)
	}
	agent.Backlog(r)
	i := slices.IndexFunc(services, func(s agent.Service) bool { return s.TowerKey == t.Key })
	if i < 0 {
		return r, nil
	}
	service := services[i]
	r.Name = service.Name
	nonce := make([]byte, watchtower.NonceSize)
	_, err := rand.Read(nonce)
	if err == nil {
		err = withTower(ctx, client, service, func(ctx context.Context, tower towerv1.TowerServiceClient) error {
			got, err := tower.GetTower(ctx, &towerv1.GetTowerRequest{})
			if err != nil {
				return err
			}
			standing := strings.ToLower(strings.TrimPrefix(got.GetTower().GetStanding().String(), "STANDING_"))
			agent.Standing(r, standing, cli.Clean(got.GetTower().GetReason()), time.UnixMilli(got.GetTower().GetExpiresMs()), time.UnixMilli(got.GetTower().GetWatchedUntilMs()), time.Now())
			raw, err := tower.GetStatement(ctx, &towerv1.GetStatementRequest{Nonce: nonce})
			if err != nil {
				return err
			}
			statement, err := towerapi.StatementFromWire(raw)
			if err != nil {
				return err
			}
			agent.Compare(r, t, statement, service, nonce, time.Now())
			if service.StatementKey == "" && len(r.Alarms) == 0 {
				service.StatementKey = hex.EncodeToString(statement.ServerKey[:])
				changed = &service
			}
			return nil
		})
	}
	if err != nil {
		r.Alarms = append(r.Alarms, "it could not be asked: "+cli.Clean(err.Error()))
	}
	return r, changed
}

func printTowers(w *world, reports []*agent.Report, overall []string) error {
	p := w.printer()
	if len(reports) > 0 {
		t := cli.NewTable("TOWER", "KEY", ">SESSIONS", ">ACKNOWLEDGED", ">PENDING", ">IT HOLDS", "STANDING", "UNTIL")
		for _, r := range reports {
			name, held, standing, until := r.Name, "not asked", r.Standing, ""
			if name == "" {
				name = "-"
			}
			if r.Checked {
				held = cli.Group(r.Held)
			}
			if !r.Expires.IsZero() {
				until = r.Expires.UTC().Format(time.DateOnly)
			}
			t.Row(name, fmt.Sprintf("%.16s", r.Tower), fmt.Sprint(r.Sessions), cli.Group(r.Acknowledged), cli.Group(r.Pending), held, standing, until)
		}
		p.Table(t)
	}
	for _, r := range reports {
		name := r.Name
		if name == "" {
			name = fmt.Sprintf("%.16s", r.Tower)
		}
		for _, a := range r.Alarms {
			p.Printf("  ! %s: %s\n", name, a)
		}
		for _, n := range r.Notices {
			p.Printf("  - %s: %s\n", name, n)
		}
	}
	for _, a := range overall {
		p.Printf("  ! %s\n", a)
	}
	return p.Err
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
	services, err := agent.LoadServices(g.DataDir)
	if err != nil {
		return err
	}
	// The list first: what lnd uploads to must be checked.
	if err := agent.SaveServices(g.DataDir, agent.Put(services, service)); err != nil {
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
	client, err := c.node(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	services, err := agent.LoadServices(g.DataDir)
	if err != nil {
		return err
	}
	service, err := agent.Find(services, c.Name)
	if err != nil {
		return err
	}
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
	client, err := c.node(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	services, err := agent.LoadServices(g.DataDir)
	if err != nil {
		return err
	}
	service, err := agent.Find(services, c.Name)
	if err != nil {
		return err
	}
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
