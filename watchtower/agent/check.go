package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/watchtower/blob"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// Node is what is asked of the wallet's lnd.
type Node interface {
	Towers(ctx context.Context) ([]ln.ClientTower, error)
	TowerStats(ctx context.Context) (ln.ClientTowerStats, error)
	ListChannels(ctx context.Context) ([]ln.Channel, error)
}

// Connect calls a tower's service as the wallet's node.
type Connect func(ctx context.Context, s Service, call func(context.Context, towerv1.TowerServiceClient) error) error

// CheckConfig says how checks are made.
type CheckConfig struct {
	DataDir string
	// Every is the time between checks that run by themselves.
	Every time.Duration
	// BacklogAfter is how long updates may wait without any being acknowledged.
	BacklogAfter time.Duration
	// Samples is how many updates each check asks back from each tower.
	Samples int
	// LookAgain is when a difference is looked at once more before it is an alarm:
	// lnd may have ended a session between two questions.
	LookAgain time.Duration
}

// DefaultCheckConfig checks every hour.
func DefaultCheckConfig(dir string) CheckConfig {
	return CheckConfig{DataDir: dir, Every: time.Hour, BacklogAfter: time.Hour, Samples: 8, LookAgain: 3 * time.Second}
}

// Validate names the first setting that cannot work.
func (c CheckConfig) Validate() error {
	if c.Every < time.Minute || c.BacklogAfter < time.Minute || c.Samples < 1 || c.Samples > 100 {
		return errkind.New(errkind.Invalid, "Towers are checked at most every minute, with 1 to 100 samples, and a backlog is an alarm after a minute at the earliest.")
	}
	return nil
}

// CheckPorts connect a checker with the world.
type CheckPorts struct {
	Node    Node
	Connect Connect
	Now     func() time.Time
	// Random draws nonces and samples: a tower must not foresee them.
	Random io.Reader
	// Tell is called with what is wrong when a check that ran by itself found an
	// alarm, once a day while it lasts, and with over once there is none. May be nil.
	Tell func(ctx context.Context, over bool, text string) error
	Log  *zap.Logger
}

// Checker asks towers for proof of what they hold.
type Checker struct {
	c CheckConfig
	p CheckPorts
}

// NewChecker makes a checker.
func NewChecker(c CheckConfig, p CheckPorts) (*Checker, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Checker{c: c, p: p}, nil
}

// Result is what a check found.
type Result struct {
	Towers []*Report `json:"towers"`
	// Alarms are about all towers together.
	Alarms  []string `json:"alarms,omitempty"`
	Notices []string `json:"notices,omitempty"`
	// Backlog is what waits for any tower at all.
	Backlog        uint64    `json:"backlog"`
	BacklogSeconds int64     `json:"backlog_seconds"`
	At             time.Time `json:"at"`
	// Scheduled is when a check last ran by itself.
	Scheduled time.Time `json:"scheduled,omitzero"`
}

// Wrong says that there is any alarm.
func (r *Result) Wrong() bool {
	return len(r.Alarms) > 0 || slices.ContainsFunc(r.Towers, func(t *Report) bool { return len(t.Alarms) > 0 })
}

// Check asks lnd and every tower that the wallet registered at, and keeps what it
// learned.
func (c *Checker) Check(ctx context.Context) (*Result, error) {
	services, err := LoadServices(c.c.DataDir)
	if err != nil {
		return nil, err
	}
	memory, err := LoadMemory(c.c.DataDir)
	if err != nil {
		return nil, err
	}
	towers, err := c.p.Node.Towers(ctx)
	if err != nil {
		return nil, err
	}
	channels, err := c.p.Node.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	peers := map[ln.PubKey]bool{}
	for _, ch := range channels {
		peers[ch.Peer] = true
	}
	now := c.p.Now()
	out := &Result{At: now, Scheduled: memory.Scheduled}
	out.Alarms, out.Notices = Overall(towers, services, peers)
	for _, s := range services {
		if !slices.ContainsFunc(towers, func(t ln.ClientTower) bool { return t.Key == s.TowerKey }) {
			out.Notices = append(out.Notices, fmt.Sprintf("%s was registered at, and lnd has no such tower: `sluice-wallet towers add` again, or it guards nothing", s.Name))
		}
	}
	var acknowledged uint64
	for _, t := range towers {
		r, err := c.tower(ctx, t, services, memory.Towers[t.Key.String()])
		if err != nil {
			return nil, err
		}
		out.Towers = append(out.Towers, r)
		acknowledged += r.Acknowledged
	}
	if err := c.backlog(ctx, out, memory, acknowledged); err != nil {
		return nil, err
	}
	return out, nil
}

// backlog judges what waits for any tower at all.
func (c *Checker) backlog(ctx context.Context, out *Result, memory Memory, acknowledged uint64) error {
	stats, err := c.p.Node.TowerStats(ctx)
	if errors.Is(err, ln.ErrPermission) {
		out.Notices = append(out.Notices, "what waits for a tower is not known: bake the macaroon again (`sluice-wallet macaroon --towers`)")
		return nil
	}
	if err != nil {
		return err
	}
	waiting := memory.Backlog.Next(uint64(stats.Pending), acknowledged, out.At)
	out.Backlog, out.BacklogSeconds = waiting.Updates, int64(waiting.Age(out.At)/time.Second)
	if age := waiting.Age(out.At); age >= c.c.BacklogAfter {
		out.Alarms = append(out.Alarms, fmt.Sprintf("%d updates wait, and no tower has acknowledged any for %s: these states are not guarded", waiting.Updates, age.Round(time.Minute)))
	}
	if stats.Failed > 0 {
		out.Alarms = append(out.Alarms, fmt.Sprintf("lnd gave up %d updates since it started: its log says why", stats.Failed))
	}
	return updateMemory(c.c.DataDir, func(m *Memory) { m.Backlog = waiting })
}

// tower asks one, where this wallet registered there.
func (c *Checker) tower(ctx context.Context, t ln.ClientTower, services []Service, record Record) (*Report, error) {
	now := c.p.Now()
	r := c.local(t, record)
	i := slices.IndexFunc(services, func(s Service) bool { return s.TowerKey == t.Key })
	if i < 0 {
		return r, updateMemory(c.c.DataDir, func(m *Memory) {
			after := m.Towers[r.Tower]
			after.Backlog = after.Backlog.Next(r.Pending, r.Acknowledged, now)
			m.Towers[r.Tower] = after
		})
	}
	service := services[i]
	r.Name = service.Name
	got, err := c.ask(ctx, r, t, service, record, record.Wrong)
	if err == nil && len(r.Alarms) > 0 {
		// Once more, from the beginning, and for the same updates.
		if again, found, waitErr := c.again(ctx, t.Key); waitErr != nil {
			return nil, waitErr
		} else if found {
			t = again
			r = c.local(t, record)
			r.Name = service.Name
			got, err = c.ask(ctx, r, t, service, record, got.wrong)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		r.Alarms = append(r.Alarms, "it could not be asked: "+err.Error())
	}
	if service.StatementKey == "" && got.key != "" && len(r.Alarms) == 0 {
		if err := UpdateServices(c.c.DataDir, func(list []Service) []Service {
			// The list may have changed meanwhile: only the key is ours to add.
			if s, err := Find(list, service.Name); err == nil && s.TowerKey == service.TowerKey && s.StatementKey == "" {
				s.StatementKey = got.key
				list = Put(list, s)
			}
			return list
		}); err != nil {
			return nil, err
		}
	}
	return r, updateMemory(c.c.DataDir, func(m *Memory) {
		after := m.Towers[r.Tower].remember(got.seen, t)
		after.Backlog = after.Backlog.Next(r.Pending, r.Acknowledged, now)
		if err == nil {
			after.Checked, after.Wrong = now, got.wrong[:min(len(got.wrong), mostWrong)]
		}
		after.Alarms = r.Alarms
		switch {
		case len(r.Alarms) == 0:
			after.AlarmSince, after.Agreed = time.Time{}, now
		case after.AlarmSince.IsZero():
			after.AlarmSince = now
		}
		r.Agreed, r.AlarmSince = after.Agreed, after.AlarmSince
		m.Towers[r.Tower] = after
	})
}

// local is what lnd itself knows of a tower.
func (c *Checker) local(t ln.ClientTower, record Record) *Report {
	r := &Report{Tower: t.Key.String(), Sessions: len(t.Sessions), Agreed: record.Agreed}
	for _, s := range t.Sessions {
		r.Acknowledged += uint64(s.Acknowledged)
		r.Pending += uint64(s.Pending)
	}
	age := record.Backlog.Next(r.Pending, r.Acknowledged, c.p.Now()).Age(c.p.Now())
	r.BacklogSeconds = int64(age / time.Second)
	Backlog(r, age, c.c.BacklogAfter)
	return r
}

// again waits a moment and asks lnd once more about a tower.
func (c *Checker) again(ctx context.Context, key ln.PubKey) (ln.ClientTower, bool, error) {
	if err := pace.Pause(ctx, c.c.LookAgain); err != nil {
		return ln.ClientTower{}, false, err
	}
	return c.known(ctx, key)
}

// known is what lnd knows of a tower now; false when it does not know it any more.
func (c *Checker) known(ctx context.Context, key ln.PubKey) (ln.ClientTower, bool, error) {
	towers, err := c.p.Node.Towers(ctx)
	if err != nil {
		return ln.ClientTower{}, false, err
	}
	for _, t := range towers {
		if t.Key == key {
			return t, true, nil
		}
	}
	return ln.ClientTower{}, false, nil
}

// answer is what a tower showed.
type answer struct {
	// key signed its statement.
	key string
	// seen are the updates that it gave back, wrong those that it did not, or that
	// differ.
	seen, wrong []Sample
}

// ask has the tower state and show what it holds, of it what is suspected in any
// case.
func (c *Checker) ask(ctx context.Context, r *Report, t ln.ClientTower, service Service, record Record, suspected []Sample) (out answer, err error) {
	nonce := make([]byte, watchtower.NonceSize)
	if _, err := io.ReadFull(c.p.Random, nonce); err != nil {
		return out, fmt.Errorf("draw a nonce: %w", err)
	}
	err = c.p.Connect(ctx, service, func(ctx context.Context, tower towerv1.TowerServiceClient) error {
		got, err := tower.GetTower(ctx, &towerv1.GetTowerRequest{})
		if err != nil {
			return err
		}
		standing := strings.ToLower(strings.TrimPrefix(got.GetTower().GetStanding().String(), "STANDING_"))
		Standing(r, standing, got.GetTower().GetReason(), time.UnixMilli(got.GetTower().GetExpiresMs()), time.UnixMilli(got.GetTower().GetWatchedUntilMs()), c.p.Now())
		Room(r, got.GetTower().GetUpdatesLeft(), got.GetTower().GetPriceMsat(), got.GetTower().GetCreditMsat())
		raw, err := tower.GetStatement(ctx, &towerv1.GetStatementRequest{Nonce: nonce})
		if err != nil {
			return err
		}
		statement, err := api.StatementFromWire(raw)
		if err != nil {
			return err
		}
		later, _, err := c.known(ctx, t.Key)
		if err != nil {
			return err
		}
		Compare(r, t, later, statement, service, nonce, c.p.Now())
		out.key = hex.EncodeToString(statement.ServerKey[:])
		types := map[ln.PubKey]blob.Type{}
		for _, s := range statement.Sessions {
			types[s.ID] = blob.Type(s.BlobType)
		}
		picked, err := pick(t, record, suspected, c.c.Samples, c.p.Random)
		if err != nil {
			return err
		}
		out.seen, out.wrong, err = samples(ctx, r, picked, types, record, tower)
		return err
	})
	return out, err
}

// Run checks again and again until ctx ends; the first time when it is due by
// the record of an earlier process. What it cannot read or keep ends nothing: the
// wallet's other business goes on.
func (c *Checker) Run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := c.c.Every
		if memory, err := LoadMemory(c.c.DataDir); err == nil {
			// A clock that was put back must not put off the next check for long.
			wait = min(max(memory.Scheduled.Add(c.c.Every).Sub(c.p.Now()), 0), c.c.Every)
		} else {
			c.p.Log.Error("watchtowers are not checked", zap.Error(err))
		}
		if pace.Pause(ctx, wait) != nil {
			return
		}
		c.scheduled(ctx)
		now := c.p.Now()
		if ctx.Err() != nil {
			return
		}
		if err := updateMemory(c.c.DataDir, func(m *Memory) { m.Scheduled = now }); err != nil {
			c.p.Log.Error("that watchtowers were checked is not kept", zap.Error(err))
			// Nor does it know when the next check is due.
			if pace.Pause(ctx, c.c.Every) != nil {
				return
			}
		}
	}
}

// scheduled is one check that runs by itself: what it finds goes to the log and
// to who is to be told, and stays for `towers list` and `status`.
func (c *Checker) scheduled(ctx context.Context) {
	services, err := LoadServices(c.c.DataDir)
	if err == nil && len(services) == 0 {
		return
	}
	result, err := c.Check(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.p.Log.Error("the watchtowers could not be checked", zap.Error(err))
		c.tell(ctx, []string{"the watchtowers could not be checked: " + err.Error()})
		return
	}
	var wrong []string
	for _, alarm := range result.Alarms {
		wrong = append(wrong, alarm)
		c.p.Log.Error("watchtowers: alarm", zap.String("alarm", alarm))
	}
	for _, r := range result.Towers {
		for _, alarm := range r.Alarms {
			wrong = append(wrong, r.Label()+": "+alarm)
			c.p.Log.Error("watchtower: alarm", zap.String("tower", r.Label()), zap.String("alarm", alarm), zap.Time("since", r.AlarmSince))
		}
		for _, notice := range r.Notices {
			c.p.Log.Warn("watchtower: notice", zap.String("tower", r.Label()), zap.String("notice", notice))
		}
	}
	if len(wrong) == 0 {
		c.p.Log.Info("the watchtowers hold what they acknowledged", zap.Int("towers", len(result.Towers)), zap.Uint64("backlog", result.Backlog))
	}
	c.tell(ctx, wrong)
}

// tellAgain is how often an alarm is told while it lasts.
const tellAgain = 24 * time.Hour

// tell tells who is to be told. What could not be told is told by the next check.
func (c *Checker) tell(ctx context.Context, wrong []string) {
	if c.p.Tell == nil {
		return
	}
	memory, err := LoadMemory(c.c.DataDir)
	now, told := c.p.Now(), time.Time{}
	switch {
	case err != nil:
	case len(wrong) > 0 && !memory.Told.IsZero() && now.Sub(memory.Told) < tellAgain && !now.Before(memory.Told):
		return
	case len(wrong) > 0:
		told, err = now, c.p.Tell(ctx, false, strings.Join(wrong, "\n")+"\n")
	case memory.Told.IsZero():
		return
	default:
		err = c.p.Tell(ctx, true, "the watchtowers hold what they acknowledged\n")
	}
	if err == nil {
		err = updateMemory(c.c.DataDir, func(m *Memory) { m.Told = told })
	}
	if err != nil && ctx.Err() == nil {
		c.p.Log.Error("the alarm about watchtowers was not told", zap.Error(err))
	}
}
