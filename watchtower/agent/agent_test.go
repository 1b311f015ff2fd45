package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower"
)

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func key(i byte) ln.PubKey { return ln.PubKey{2, i} }

func signed(t *testing.T, k *btcec.PrivateKey, s watchtower.Statement) watchtower.Statement {
	t.Helper()
	copy(s.ServerKey[:], schnorr.SerializePubKey(k.PubKey()))
	digest := sha256.Sum256(s.Text())
	sig, err := schnorr.Sign(k, digest[:])
	require.NoError(t, err)
	copy(s.Signature[:], sig.Serialize())
	return s
}

// TestCompare: any difference that matters is an alarm, and nothing else is.
func TestCompare(t *testing.T) {
	k, _ := btcec.PrivKeyFromBytes([]byte{1})
	other, _ := btcec.PrivKeyFromBytes([]byte{2})
	nonce := bytes.Repeat([]byte{9}, watchtower.NonceSize)
	known := ln.ClientTower{Key: key(1), Active: true, Sessions: []ln.ClientSession{
		{ID: key(10), Acknowledged: 5, Max: 1024}, {ID: key(11), Acknowledged: 7, Pending: 1, Max: 1024}, {ID: key(12), Max: 1024},
	}}
	good := watchtower.Statement{Identity: "node:02", Nonce: nonce, AtMs: now().UnixMilli(), Sessions: []watchtower.StatedSession{
		{ID: key(10), LastApplied: 5, Updates: 5}, {ID: key(11), LastApplied: 8, Updates: 8}, {ID: key(99), LastApplied: 1, Updates: 1},
	}}
	service := Service{StatementKey: hex.EncodeToString(schnorr.SerializePubKey(k.PubKey()))}
	for name, c := range map[string]struct {
		change func(*watchtower.Statement)
		by     *btcec.PrivateKey
		alarm  string
	}{
		"all is held":           {},
		"a session is missing":  {change: func(s *watchtower.Statement) { s.Sessions = s.Sessions[1:] }, alarm: "does not hold session"},
		"it went back":          {change: func(s *watchtower.Statement) { s.Sessions[1].LastApplied, s.Sessions[1].Updates = 6, 6 }, alarm: "number 6, and it had acknowledged 7"},
		"one is lost":           {change: func(s *watchtower.Statement) { s.Sessions[0].Updates = 4 }, alarm: "holds 4 updates, and had acknowledged 5: 1 are lost"},
		"all are lost":          {change: func(s *watchtower.Statement) { s.Sessions[0].Updates = 0 }, alarm: "holds 0 updates, and had acknowledged 5: 5 are lost"},
		"less than nothing":     {change: func(s *watchtower.Statement) { s.Sessions[0].Updates = -1 }, alarm: "6 are lost"},
		"more than it was sent": {change: func(s *watchtower.Statement) { s.Sessions[1].LastApplied, s.Sessions[1].Updates = 9, 9 }, alarm: "number 9, and lnd gave it 8"},
		"an old answer":         {change: func(s *watchtower.Statement) { s.Nonce = make([]byte, 32) }, alarm: "does not answer our question"},
		"another key":           {by: other, alarm: "another key"},
		"a clock that is wrong": {change: func(s *watchtower.Statement) { s.AtMs -= time.Hour.Milliseconds() }, alarm: "off by 1h"},
	} {
		s := good
		s.Sessions = append([]watchtower.StatedSession{}, good.Sessions...)
		if c.change != nil {
			c.change(&s)
		}
		if c.by == nil {
			c.by = k
		}
		r := Report{}
		Compare(&r, known, known, signed(t, c.by, s), service, nonce, now())
		require.True(t, r.Checked)
		if c.alarm == "" {
			require.Empty(t, r.Alarms, name)
		} else {
			require.Len(t, r.Alarms, 1, name)
			require.Contains(t, r.Alarms[0], c.alarm, name)
		}
		require.Empty(t, r.Notices, name)
	}
	forged := signed(t, k, good)
	forged.Sessions[0].LastApplied = 500
	r := Report{}
	Compare(&r, known, known, forged, service, nonce, now())
	require.Len(t, r.Alarms, 1)
	require.Contains(t, r.Alarms[0], "not valid")
}

// TestOverall: a tower counts as independent only when it is known whose it is, and
// that is nobody whom the wallet has channels with.
func TestOverall(t *testing.T) {
	const none, allPeers, notKnown = "no watchtower guards", "every watchtower belongs to a node", "not known"
	peers := map[ln.PubKey]bool{key(50): true}
	services := []Service{{Name: "peer's", TowerKey: key(1), Node: key(50)}, {Name: "friend's", TowerKey: key(2), Node: key(60)}}
	on := func(keys ...byte) (out []ln.ClientTower) {
		for _, k := range keys {
			out = append(out, ln.ClientTower{Key: key(k), Active: true})
		}
		return out
	}
	for name, c := range map[string]struct {
		towers        []ln.ClientTower
		peers         map[ln.PubKey]bool
		alarm, notice string
	}{
		"no tower":                      {nil, peers, none, ""},
		"one that was left":             {[]ln.ClientTower{{Key: key(2)}}, peers, none, ""},
		"a peer's, by its registration": {on(1), peers, allPeers, ""},
		"a peer's, by its node's key":   {on(50), peers, allPeers, ""},
		"both":                          {on(1, 50), peers, allPeers, ""},
		"a friend's":                    {on(2), peers, "", ""},
		"a peer's and a friend's":       {on(1, 2), peers, "", ""},
		"a plain one":                   {on(90), peers, "", notKnown},
		"a peer's and a plain one":      {on(1, 90), peers, "", notKnown},
		"a friend's and a plain one":    {on(2, 90), peers, "", ""},
		"no channels yet":               {on(1, 90), nil, "", ""},
	} {
		alarms, notices := Overall(c.towers, services, c.peers)
		require.Len(t, alarms, min(1, len(c.alarm)), name)
		require.Len(t, notices, min(1, len(c.notice)), name)
		require.Contains(t, strings.Join(alarms, ""), c.alarm, name)
		require.Contains(t, strings.Join(notices, ""), c.notice, name)
	}
}

func TestStandings(t *testing.T) {
	for standing, c := range map[string]struct{ alarms, notices int }{"active": {}, "expiring": {0, 1}, "expired": {1, 0}, "suspended": {1, 0}} {
		r := Report{Pending: 0}
		Standing(&r, standing, "why", now().Add(72*time.Hour), now().Add(1000*time.Hour), now())
		Backlog(&r, 0, time.Hour)
		require.Len(t, r.Alarms, c.alarms, standing)
		require.Len(t, r.Notices, c.notices, standing)
	}
}

func TestServicesFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	list, err := LoadServices(dir)
	require.NoError(t, err)
	require.Empty(t, list)
	list = Put(Put(list, Service{Name: "a", Node: key(1), GRPC: "h:1"}), Service{Name: "b", Node: key(2), GRPC: "h:2"})
	list = Put(list, Service{Name: "a", Node: key(3), GRPC: "h:3", TowerKey: key(4)})
	require.NoError(t, SaveServices(dir, list))
	got, err := LoadServices(dir)
	require.NoError(t, err)
	require.Equal(t, list, got)
	require.Len(t, got, 2)
	s, err := Find(got, "a")
	require.NoError(t, err)
	require.Equal(t, key(3), s.Node)
	_, err = Find(got, "c")
	require.Error(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, servicesFile), []byte("{"), 0o600))
	_, err = LoadServices(dir)
	require.ErrorContains(t, err, "damaged")
}
