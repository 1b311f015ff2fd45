package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// place is a wallet's lnd with one tower that may be dishonest.
type place struct {
	towerv1.TowerServiceClient

	mu       sync.Mutex
	at       time.Time
	sessions []ln.ClientSession
	stats    ln.ClientTowerStats
	statsErr error
	peers    []ln.Channel
	key      *btcec.PrivateKey
	away     error
	kind     blob.Type
	// held is what the tower holds: blobs by session and number.
	held     map[ln.PubKey]map[uint16][]byte
	left     int64
	asked    int
	forget   func(*watchtower.Statement)
	onTowers func()
}

func newPlace() *place {
	k, _ := btcec.PrivKeyFromBytes([]byte{1})
	p := &place{at: now(), key: k, kind: blob.TypeAltruistTaprootFinalCommit, held: map[ln.PubKey]map[uint16][]byte{}, left: 1_000_000}
	for i := byte(10); i < 13; i++ {
		p.upload(key(i), 40)
	}
	return p
}

func (p *place) upload(session ln.PubKey, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.sessions, func(s ln.ClientSession) bool { return s.ID == session })
	if i < 0 {
		p.sessions, p.held[session] = append(p.sessions, ln.ClientSession{ID: session, Max: 1024}), map[uint16][]byte{}
		i = len(p.sessions) - 1
	}
	for range n {
		p.sessions[i].Acknowledged++
		raw := make([]byte, p.size())
		_, _ = rand.Read(raw)
		p.held[session][uint16(p.sessions[i].Acknowledged)] = raw
	}
}

func (p *place) size() int {
	commitment, err := p.kind.CommitmentType(nil)
	if err != nil {
		panic(err)
	}
	kit, err := commitment.EmptyJusticeKit()
	if err != nil {
		panic(err)
	}
	return blob.Size(kit)
}

func (p *place) Towers(context.Context) ([]ln.ClientTower, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.onTowers != nil {
		p.onTowers()
	}
	return []ln.ClientTower{{Key: key(1), Active: true, Sessions: slices.Clone(p.sessions)}}, nil
}

func (p *place) TowerStats(context.Context) (ln.ClientTowerStats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats, p.statsErr
}

func (p *place) ListChannels(context.Context) ([]ln.Channel, error) { return p.peers, nil }

func (p *place) GetTower(context.Context, *towerv1.GetTowerRequest, ...grpc.CallOption) (*towerv1.GetTowerResponse, error) {
	return &towerv1.GetTowerResponse{Tower: &towerv1.Tower{
		Standing: towerv1.Standing_STANDING_ACTIVE, ExpiresMs: p.at.Add(1000 * time.Hour).UnixMilli(), UpdatesLeft: p.left, PriceMsat: 100,
	}}, nil
}

func (p *place) GetStatement(_ context.Context, r *towerv1.GetStatementRequest, _ ...grpc.CallOption) (*towerv1.GetStatementResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := watchtower.Statement{Identity: "node:02", Nonce: r.GetNonce(), AtMs: p.at.UnixMilli()}
	for _, session := range p.sessions {
		s.Sessions = append(s.Sessions, watchtower.StatedSession{
			ID: session.ID, BlobType: uint16(p.kind), LastApplied: uint16(session.Acknowledged), Updates: int64(session.Acknowledged),
		})
	}
	if p.forget != nil {
		p.forget(&s)
	}
	copy(s.ServerKey[:], schnorr.SerializePubKey(p.key.PubKey()))
	digest := sha256.Sum256(s.Text())
	sig, err := schnorr.Sign(p.key, digest[:])
	if err != nil {
		return nil, err
	}
	copy(s.Signature[:], sig.Serialize())
	return api.StatementToWire(s), nil
}

func (p *place) GetUpdates(_ context.Context, r *towerv1.GetUpdatesRequest, _ ...grpc.CallOption) (*towerv1.GetUpdatesResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	held, ok := p.held[ln.PubKey(r.GetSessionId())]
	if !ok {
		return nil, errkind.New(errkind.NotFound, "The tower holds no such session of this registration.")
	}
	raw, ok := held[uint16(r.GetSeq())]
	if !ok {
		return &towerv1.GetUpdatesResponse{}, nil
	}
	return &towerv1.GetUpdatesResponse{Updates: []*towerv1.HeldUpdate{{Hint: bytes.Repeat([]byte{7}, 16), Blob: raw}}}, nil
}

func (p *place) checker(t testing.TB, dir string, change func(*CheckConfig)) (*Checker, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	c := DefaultCheckConfig(dir)
	c.LookAgain = time.Millisecond
	if change != nil {
		change(&c)
	}
	out, err := NewChecker(c, CheckPorts{
		Node: p, Random: rand.Reader, Log: zap.New(core),
		Now: func() time.Time {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.at
		},
		Connect: func(ctx context.Context, _ Service, call func(context.Context, towerv1.TowerServiceClient) error) error {
			if p.away != nil {
				return p.away
			}
			return call(ctx, p)
		},
	})
	require.NoError(t, err)
	return out, logs
}

func (p *place) pass(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.at.Add(d)
}

func registeredDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, SaveServices(dir, []Service{{Name: "friend", Node: key(60), TowerKey: key(1)}}))
	return dir
}

func alarmsOf(t testing.TB, c *Checker) []string {
	t.Helper()
	result, err := c.Check(t.Context())
	require.NoError(t, err)
	var out []string
	for _, r := range result.Towers {
		out = append(out, r.Alarms...)
	}
	return append(out, result.Alarms...)
}

// TestEveryDifferenceIsAnAlarm: a tower that lost, changed or never held something
// is found out, by its statement or by what it gives back.
func TestEveryDifferenceIsAnAlarm(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *place)
		alarm  string
	}{
		"nothing": {},
		"a session that it does not state": {func(p *place) {
			p.forget = func(s *watchtower.Statement) { s.Sessions = s.Sessions[1:] }
		}, "does not hold session"},
		"it went back": {func(p *place) {
			p.forget = func(s *watchtower.Statement) { s.Sessions[0].LastApplied-- }
		}, "its last update is number 39, and it had acknowledged 40"},
		"updates that are gone": {func(p *place) {
			p.forget = func(s *watchtower.Statement) { s.Sessions[1].Updates = 37 }
		}, "holds 37 updates, and had acknowledged 40: 3 are lost"},
		"all updates gone, as it says": {func(p *place) {
			p.forget = func(s *watchtower.Statement) {
				for i := range s.Sessions {
					s.Sessions[i].Updates = 0
				}
			}
		}, "holds 0 updates, and had acknowledged 40: 40 are lost"},
		"more than lnd gave it": {func(p *place) {
			p.forget = func(s *watchtower.Statement) { s.Sessions[2].LastApplied, s.Sessions[2].Updates = 41, 41 }
		}, "is number 41, and lnd gave it 40"},
		"another key":           {func(p *place) { p.key, _ = btcec.PrivKeyFromBytes([]byte{2}) }, "another key"},
		"blobs that are gone":   {func(p *place) { clear(p.held[key(11)]); clear(p.held[key(10)]); clear(p.held[key(12)]) }, "is not there"},
		"a session that is":     {func(p *place) { clear(p.held) }, "is not there"},
		"blobs of another size": {func(p *place) { cut(p) }, "does not have its size"},
		"blobs that changed":    {func(p *place) { replaceAll(p) }, "is not what it gave back before"},
		"it is away":            {func(p *place) { p.away = errors.New("no route to host") }, "could not be asked: no route to host"},
		"it takes no more":      {func(p *place) { p.left = 0 }, "stores nothing more"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, p := registeredDir(t), newPlace()
			checker, _ := p.checker(t, dir, nil)
			require.Empty(t, alarmsOf(t, checker), "an honest tower")
			if c.change == nil {
				for range 30 {
					p.pass(time.Hour)
					p.upload(key(12), 3)
					require.Empty(t, alarmsOf(t, checker))
				}
				return
			}
			c.change(p)
			found := alarmsOf(t, checker)
			require.NotEmpty(t, found)
			require.Contains(t, found[0], c.alarm)
			if strings.Contains(c.alarm, "are lost") {
				result, err := checker.Check(t.Context())
				require.NoError(t, err)
				require.Less(t, result.Towers[0].Held, result.Towers[0].Acknowledged, "what the list shows is what it states that it holds")
			}
			began := p.at
			p.pass(time.Hour)
			result, err := checker.Check(t.Context())
			require.NoError(t, err)
			require.True(t, result.Towers[0].AlarmSince.Equal(began), "the alarm has its age")
			require.True(t, result.Wrong())
			for range 10 {
				require.NotEmpty(t, alarmsOf(t, checker), "it lasts until the tower makes it good")
			}
		})
	}
}

func cut(p *place) {
	for _, held := range p.held {
		for seq := range held {
			held[seq] = held[seq][1:]
		}
	}
}

func replaceAll(p *place) {
	for _, held := range p.held {
		for seq, raw := range held {
			held[seq] = bytes.Repeat([]byte{9}, len(raw))
		}
	}
}

// TestChecksSurviveRestarts: what a tower gave back to an earlier process it must
// give to the next, also a long time later, and one blob that is lost of many is
// found by checking again and again.
func TestChecksSurviveRestarts(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	for range 20 {
		checker, _ := p.checker(t, dir, nil) // a new process each time
		require.Empty(t, alarmsOf(t, checker))
	}
	memory, err := LoadMemory(dir)
	require.NoError(t, err)
	samples := memory.Towers[key(1).String()].Samples
	require.Greater(t, len(samples), 40)
	lost := samples[slices.IndexFunc(samples, func(s Sample) bool { return s.Session != key(12) })]
	delete(p.held[lost.Session], lost.Seq)
	found := false
	for range 400 {
		checker, _ := p.checker(t, dir, nil)
		if found = len(alarmsOf(t, checker)) > 0; found {
			break
		}
	}
	require.True(t, found, "a lost update of 120 is found")
	// Sessions that lnd has no more are not asked for any more.
	p.mu.Lock()
	p.sessions = p.sessions[2:]
	p.mu.Unlock()
	checker, _ := p.checker(t, dir, nil)
	require.Empty(t, alarmsOf(t, checker))
	memory, err = LoadMemory(dir)
	require.NoError(t, err)
	for _, s := range memory.Towers[key(1).String()].Samples {
		require.Equal(t, p.sessions[0].ID, s.Session)
	}
}

// TestASessionThatEndsBetweenTwoQuestions is no alarm: lnd is asked once more.
func TestASessionThatEndsBetweenTwoQuestions(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	checker, _ := p.checker(t, dir, nil)
	asked := 0
	p.onTowers = func() {
		if asked++; asked == 2 {
			delete(p.held, p.sessions[0].ID)
			p.sessions = p.sessions[1:]
		}
	}
	p.forget = func(s *watchtower.Statement) {
		if asked == 1 {
			s.Sessions = s.Sessions[1:]
		}
	}
	require.Empty(t, alarmsOf(t, checker))
	require.Equal(t, 4, asked, "before and after each statement")
}

// TestUploadsDuringACheck are no difference: what lnd acknowledges between its answer
// and the tower's, and what it has sent and the tower has not answered.
func TestUploadsDuringACheck(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	p.sessions[1].Pending = 2
	p.forget = func(s *watchtower.Statement) {
		// p.mu is held: what is uploaded while it makes its statement is in it.
		p.sessions[0].Acknowledged += 5
		s.Sessions[0].LastApplied, s.Sessions[0].Updates = 45, 45
		s.Sessions[1].LastApplied, s.Sessions[1].Updates = 42, 42
	}
	checker, _ := p.checker(t, dir, nil)
	result, err := checker.Check(t.Context())
	require.NoError(t, err)
	require.False(t, result.Wrong(), "%v", result.Towers[0].Alarms)
	require.EqualValues(t, 45+42+40, result.Towers[0].Held)
}

// TestBacklogHasItsAge: what waits is a notice at first and an alarm when nothing
// of it moves; any progress begins its age anew; and a restart does not.
func TestBacklogHasItsAge(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	p.mu.Lock()
	p.stats.Pending, p.sessions[0].Pending = 5, 2
	p.mu.Unlock()
	look := func() *Result {
		checker, _ := p.checker(t, dir, nil)
		result, err := checker.Check(t.Context())
		require.NoError(t, err)
		return result
	}
	require.False(t, look().Wrong())
	p.pass(50 * time.Minute)
	r := look()
	require.False(t, r.Wrong())
	require.EqualValues(t, 3000, r.BacklogSeconds)
	require.EqualValues(t, 3000, r.Towers[0].BacklogSeconds)
	p.upload(key(12), 1)
	require.Zero(t, look().BacklogSeconds, "something moved")
	p.pass(time.Hour)
	r = look()
	require.Contains(t, r.Alarms[0], "5 updates wait, and no tower has acknowledged any for 1h")
	require.Contains(t, r.Towers[0].Alarms[0], "acknowledged none for 1h")
	p.mu.Lock()
	p.stats.Pending, p.sessions[0].Pending = 0, 0
	p.mu.Unlock()
	require.False(t, look().Wrong())
	p.mu.Lock()
	p.stats.Failed = 1
	p.mu.Unlock()
	require.Contains(t, look().Alarms[0], "gave up 1")
	p.mu.Lock()
	p.stats, p.statsErr = ln.ClientTowerStats{}, ln.ErrPermission
	p.mu.Unlock()
	r = look()
	require.False(t, r.Wrong(), "a macaroon of before")
	require.Contains(t, r.Notices[0], "bake the macaroon again")
}

// TestChecksRunByThemselves: at once when one is due, then every hour, in the next
// process when the last one's hour is over and not before; alarms go to the log.
func TestChecksRunByThemselves(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	checks := func(t *testing.T, run time.Duration) (n int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			first := p.at
			checker, logs := p.checker(t, dir, nil)
			checker.p.Now = func() time.Time { return first.Add(time.Since(began)) }
			ctx, cancel := context.WithTimeout(t.Context(), run)
			defer cancel()
			checker.Run(ctx)
			n = logs.FilterMessage("the watchtowers hold what they acknowledged").Len() + logs.FilterMessage("watchtower: alarm").Len()
			p.at = first.Add(run)
		})
		return n
	}
	require.Equal(t, 3, checks(t, 2*time.Hour+time.Minute), "at once, and after one and two hours")
	require.Equal(t, 0, checks(t, 50*time.Minute), "a restart")
	require.Equal(t, 1, checks(t, 10*time.Minute))
	memory, err := LoadMemory(dir)
	require.NoError(t, err)
	require.False(t, memory.Scheduled.IsZero())
	clear(p.held[key(10)])
	clear(p.held[key(11)])
	clear(p.held[key(12)])
	require.Positive(t, checks(t, time.Hour))
	memory, err = LoadMemory(dir)
	require.NoError(t, err)
	require.NotEmpty(t, memory.Towers[key(1).String()].Alarms, "for who asks later")

	// Who registered nowhere is left in peace.
	alone := t.TempDir()
	checker, logs := p.checker(t, alone, nil)
	checker.scheduled(t.Context())
	require.Zero(t, logs.Len())
}

func TestWhatTheAgentKeepsIsBounded(t *testing.T) {
	p := newPlace()
	p.upload(key(13), mostSamples+200)
	known := ln.ClientTower{Sessions: p.sessions}
	var r Record
	for seq := uint16(1); seq <= mostSamples+100; seq++ {
		r = r.remember([]Sample{{Session: key(13), Seq: seq}}, known)
	}
	require.Len(t, r.Samples, mostSamples)
	require.EqualValues(t, 101, r.Samples[0].Seq)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, memoryFile), []byte("{"), 0o600))
	_, err := LoadMemory(dir)
	require.ErrorContains(t, err, "damaged")
	require.Error(t, CheckConfig{Every: time.Second, BacklogAfter: time.Hour, Samples: 1}.Validate())
}

// TestPick: numbers are of updates that were acknowledged, and every one of them
// comes at times.
func TestPick(t *testing.T) {
	known := ln.ClientTower{Sessions: []ln.ClientSession{{ID: key(1), Acknowledged: 3}, {ID: key(2)}, {ID: key(3), Acknowledged: 5}}}
	record := Record{Samples: []Sample{{Session: key(3), Seq: 9}, {Session: key(9), Seq: 1}}}
	seen := map[Sample]bool{}
	for range 300 {
		picked, err := pick(known, record, nil, 4, rand.Reader)
		require.NoError(t, err)
		require.NotEmpty(t, picked)
		require.LessOrEqual(t, len(picked), 4)
		for _, s := range picked {
			seen[s] = true
		}
	}
	require.Len(t, seen, 8, "%v", seen)
	for range 30 {
		picked, err := pick(known, record, []Sample{{Session: key(1), Seq: 2}, {Session: key(1), Seq: 4}, {Session: key(9), Seq: 1}}, 2, rand.Reader)
		require.NoError(t, err)
		require.Equal(t, Sample{Session: key(1), Seq: 2}, picked[0], "what is suspected, as long as lnd knows it")
		require.LessOrEqual(t, len(picked), 3)
	}
	picked, err := pick(ln.ClientTower{}, record, nil, 4, rand.Reader)
	require.NoError(t, err)
	require.Empty(t, picked)
	_, err = pick(known, record, nil, 4, bytes.NewReader(nil))
	require.ErrorContains(t, err, "draw a sample")
}

func TestCheckPurchase(t *testing.T) {
	hash := ln.Hash{7}
	good := func() *towerv1.Purchase {
		return &towerv1.Purchase{PaymentHash: hash[:], AmountMsat: 5000, Bolt11: "x"}
	}
	decode := func(amount ln.Msat) func(string) (ln.Bolt11, error) {
		return func(string) (ln.Bolt11, error) { return ln.Bolt11{Hash: hash, AmountMsat: amount}, nil }
	}
	require.NoError(t, CheckPurchase(good(), 10, 500, 5, decode(5000)))
	require.NoError(t, CheckPurchase(good(), 10, 500, 0, decode(5000)))
	require.ErrorContains(t, CheckPurchase(good(), 10, 499, 0, decode(5000)), "don't pay")
	require.ErrorContains(t, CheckPurchase(good(), 10, 500, 4, decode(5000)), "more than the 4 sat")
	require.ErrorContains(t, CheckPurchase(good(), 10, 500, 0, decode(5001)), "not for this purchase")
	other := good()
	other.PaymentHash = make([]byte, 32)
	require.ErrorContains(t, CheckPurchase(other, 10, 500, 0, decode(5000)), "not for this purchase")
	require.ErrorContains(t, CheckPurchase(good(), 10, 500, 0, func(string) (ln.Bolt11, error) { return ln.Bolt11{}, errors.New("no invoice") }), "don't pay")
}

// TestAlarmsAreTold: once when they begin, once a day while they last, once when
// they are over, whatever process sees them; and again when telling failed.
func TestAlarmsAreTold(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	var told []string
	var broken error
	check := func(want ...string) {
		t.Helper()
		checker, _ := p.checker(t, dir, nil)
		told = nil
		checker.p.Tell = func(_ context.Context, over bool, text string) error {
			if broken == nil {
				told = append(told, map[bool]string{true: "over: ", false: "alarm: "}[over]+text)
			}
			return broken
		}
		checker.scheduled(t.Context())
		require.Len(t, told, len(want))
		for i := range want {
			require.Contains(t, told[i], want[i])
		}
	}
	check()
	p.left = 0
	broken = errors.New("no such program")
	check()
	broken = nil
	check("alarm: friend: it stores nothing more")
	p.pass(23 * time.Hour)
	check()
	p.pass(time.Hour)
	check("alarm: ")
	p.left = 1_000_000
	check("over: ")
	check()

	// As a program.
	out := filepath.Join(dir, "out")
	script := filepath.Join(dir, "tell")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n(echo $SLUICE_TOWERS; cat) > "+out+"\n"), 0o700))
	require.NoError(t, Program(script)(t.Context(), false, "wrong\n"))
	got, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "alarm\nwrong\n", string(got))
	require.Error(t, Program(filepath.Join(dir, "none"))(t.Context(), true, ""))
}

// TestATowerThatLndDoesNotHave is named: it was registered at, and guards nothing.
func TestATowerThatLndDoesNotHave(t *testing.T) {
	dir, p := registeredDir(t), newPlace()
	require.NoError(t, UpdateServices(dir, func(list []Service) []Service { return Put(list, Service{Name: "lost", TowerKey: key(77)}) }))
	checker, _ := p.checker(t, dir, nil)
	result, err := checker.Check(t.Context())
	require.NoError(t, err)
	require.Len(t, result.Notices, 1)
	require.Contains(t, result.Notices[0], "lost")
}
