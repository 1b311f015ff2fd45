package lnd

import (
	"context"
	"slices"

	"github.com/lightningnetwork/lnd/lnrpc/wtclientrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// AddTower lets lnd's watchtower client upload to a tower at an address. One that
// is there already is success.
func (c *Client) AddTower(ctx context.Context, key ln.PubKey, address string) error {
	_, err := c.towers.AddTower(ctx, &wtclientrpc.AddTowerRequest{Pubkey: key[:], Address: address})
	return mapError("add a watchtower", err)
}

// DeactivateTower ends uploads to a tower. What it holds it goes on watching.
func (c *Client) DeactivateTower(ctx context.Context, key ln.PubKey) error {
	_, err := c.towers.DeactivateTower(ctx, &wtclientrpc.DeactivateTowerRequest{Pubkey: key[:]})
	return mapError("leave a watchtower", err)
}

// Towers lists the towers of lnd's client with their sessions.
func (c *Client) Towers(ctx context.Context) ([]ln.ClientTower, error) {
	resp, err := c.towers.ListTowers(ctx, &wtclientrpc.ListTowersRequest{IncludeSessions: true})
	if err != nil {
		return nil, mapError("list watchtowers", err)
	}
	out := make([]ln.ClientTower, 0, len(resp.Towers))
	for _, t := range resp.Towers {
		key, err := ln.PubKeyFromBytes(t.Pubkey)
		if err != nil {
			return nil, err
		}
		tower := ln.ClientTower{Key: key, Addresses: t.Addresses}
		for _, info := range t.SessionInfo {
			tower.Active = tower.Active || info.ActiveSessionCandidate
			for _, s := range info.Sessions {
				id, err := ln.PubKeyFromBytes(s.Id)
				if err != nil {
					return nil, err
				}
				session := ln.ClientSession{ID: id, Acknowledged: s.NumBackups, Pending: s.NumPendingBackups, Max: s.MaxBackups}
				// Each kind of channels lists the sessions of its own; none twice.
				if !slices.ContainsFunc(tower.Sessions, func(known ln.ClientSession) bool { return known.ID == id }) {
					tower.Sessions = append(tower.Sessions, session)
				}
			}
		}
		out = append(out, tower)
	}
	return out, nil
}

// TowerStats tells what waits for any tower at all.
func (c *Client) TowerStats(ctx context.Context) (ln.ClientTowerStats, error) {
	resp, err := c.towers.Stats(ctx, &wtclientrpc.StatsRequest{})
	if err != nil {
		return ln.ClientTowerStats{}, mapError("ask the watchtower client", err)
	}
	return ln.ClientTowerStats{Pending: resp.NumPendingBackups, Failed: resp.NumFailedBackups}, nil
}
