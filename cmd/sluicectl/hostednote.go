package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// hostedNode is what the supervisor needs to know of one.
type hostedNode struct {
	Tenant  string `json:"tenant"`
	Dir     string `json:"dir"`
	RPC     string `json:"rpc"`
	Network string `json:"network"`
	Signer  string `json:"signer"`
	// Node is its key, which its signer must have.
	Node string `json:"node,omitempty"`
	// Probe is a spend of nothing, by which the signer is timed.
	Probe []byte `json:"probe_psbt,omitempty"`
	// Unit is that of systemd; without it the supervisor runs Lnd itself.
	Unit string `json:"unit,omitempty"`
	// Set is that of Kubernetes, which starts it by itself.
	Set string `json:"stateful_set,omitempty"`
	Lnd string `json:"lnd,omitempty"`
	// PlaceID and Place are where it was made: moved to another place it is not run here.
	PlaceID string `json:"place_id,omitempty"`
	Place   string `json:"place,omitempty"`
	// MovedTo is another place for which its key was claimed: a supervisor that begins
	// while sluiced is away must not start it.
	MovedTo string `json:"moved_to,omitempty"`
}

// note tells the supervisor of a node.
func (c TenantAddCmd) note(g *Globals, b bundle.Bundle, held *held) error {
	probe, err := onboard.ProbeSpend(b)
	if err != nil {
		return err
	}
	n := hostedNode{Tenant: c.Tenant, Dir: c.Dir, RPC: c.NodeRPC, Network: c.Network, Signer: b.Address, Node: held.node.String(), Probe: probe, Lnd: c.Lnd, PlaceID: held.place.ID, Place: held.place.Words}
	switch c.Form {
	case formSystemd:
		n.Unit = "lnd-" + c.Tenant
	case formKubernetes:
		n.Set = "lnd-" + c.Tenant + " --namespace=" + c.Namespace
	}
	return n.keep(noteFile(g, c.Tenant))
}

func (n hostedNode) keep(file string) error {
	raw, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return auth.WriteFileAtomic(file, append(raw, '\n'))
}

func readHosted(file string) (n hostedNode, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return n, err
	}
	return parseHosted(raw)
}

func parseHosted(raw []byte) (n hostedNode, err error) {
	if err := json.Unmarshal(raw, &n); err != nil {
		return n, err
	}
	if n.Tenant == "" || n.Dir == "" || n.RPC == "" || n.Signer == "" {
		return n, errors.New("it does not name tenant, directory, RPC and signer")
	}
	return n, nil
}

// renote tells the supervisor at once that the node was moved to this place; one that was
// never noted is noted when it serves.
func (h *held) renote(g *Globals) error {
	file := noteFile(g, h.c.Tenant)
	n, err := readHosted(file)
	if errors.Is(err, os.ErrNotExist) || err == nil && n.Dir == h.c.Dir && n.Place == h.place.Words && n.PlaceID == h.place.ID && n.MovedTo == "" {
		return nil
	}
	if err != nil {
		return err
	}
	n.Dir, n.PlaceID, n.Place, n.MovedTo = h.c.Dir, h.place.ID, h.place.Words, ""
	return n.keep(file)
}

func noteFile(g *Globals, tenant string) string {
	return filepath.Join(g.DataDir, hostedDir, tenant+".json")
}

// keep notes what the registry says of the node's place, before anything is done about it.
func (d desk) keep(elsewhere string) error {
	n, err := readHosted(d.file)
	if err != nil {
		return err
	}
	if n.MovedTo == elsewhere || n.PlaceID != d.place.ID || n.Place != d.place.Words {
		return nil
	}
	n.MovedTo = elsewhere
	return n.keep(d.file)
}
