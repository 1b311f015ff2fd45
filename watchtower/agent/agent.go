// Package agent is the wallet's side of the watchtower: which towers guard it,
// whether they hold what its lnd sent, and what to do when they don't.
//
// It promises to believe a tower's word only as far as its signature and lnd's own
// record of what was acknowledged bear it out, and to say every difference.
package agent

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower"
)

// Service is a tower that the wallet registered at.
type Service struct {
	Name string `json:"name"`
	// Node is the node that the tower logs its callers in as, and watches the
	// chain through.
	Node ln.PubKey `json:"node"`
	// GRPC is where the service is, Certificate its TLS certificate's file.
	GRPC        string `json:"grpc"`
	Certificate string `json:"certificate,omitempty"`
	// TowerKey is the key that it gave to this wallet; StatementKey the key of its
	// statements, kept from the first one on.
	TowerKey     ln.PubKey `json:"tower_key"`
	StatementKey string    `json:"statement_key,omitempty"`
}

// Report is what is known of one tower.
type Report struct {
	Name  string `json:"name,omitempty"`
	Tower string `json:"tower"`
	// Sessions are lnd's with it; Acknowledged and Pending its updates.
	Sessions     int    `json:"sessions"`
	Acknowledged uint64 `json:"acknowledged"`
	Pending      uint64 `json:"pending"`
	// Held is how many updates the tower states that it holds in the sessions that
	// this wallet's lnd knows; Checked says that it was asked.
	Held    uint64 `json:"held"`
	Checked bool   `json:"checked"`
	// Standing and Expires are the registration's.
	Standing string    `json:"standing,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	// Alarms are differences that may cost money, Notices the rest.
	Alarms  []string `json:"alarms,omitempty"`
	Notices []string `json:"notices,omitempty"`
	// BacklogSeconds is for how long updates have waited without any being
	// acknowledged.
	BacklogSeconds int64 `json:"backlog_seconds"`
	// Sampled is how many updates it was asked for and gave back, or did not.
	Sampled int `json:"sampled"`
	// Agreed is when a check last found no difference, AlarmSince when the present
	// alarm began.
	Agreed     time.Time `json:"agreed,omitzero"`
	AlarmSince time.Time `json:"alarm_since,omitzero"`
	// UpdatesLeft, PriceMsat and CreditMsat are what may still be stored, and what
	// it costs.
	UpdatesLeft int64 `json:"updates_left,omitempty"`
	PriceMsat   int64 `json:"price_msat,omitempty"`
	CreditMsat  int64 `json:"credit_msat,omitempty"`
}

// Label names the tower for people.
func (r *Report) Label() string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("%.16s", r.Tower)
}

// Compare judges a tower's statement by what lnd's client knew before it was made,
// and knew afterwards: the tower must hold all that it had acknowledged before, and
// cannot hold more than lnd had given to the session afterwards. That it does hold
// the very blobs cannot be shown beside a stock client, which does not keep them.
func Compare(r *Report, before, after ln.ClientTower, s watchtower.Statement, expect Service, nonce []byte, now time.Time) {
	alarm := func(format string, args ...any) { r.Alarms = append(r.Alarms, fmt.Sprintf(format, args...)) }
	r.Checked = true
	if err := s.Verify(); err != nil {
		alarm("its statement is not valid: %v", err)
		return
	}
	if !bytes.Equal(s.Nonce, nonce) {
		alarm("its statement is an old one: it does not answer our question")
		return
	}
	if expect.StatementKey != "" && hex.EncodeToString(s.ServerKey[:]) != expect.StatementKey {
		alarm("its statement is signed by another key than before: it is another tower, or it lost its secret")
		return
	}
	if age := now.Sub(time.UnixMilli(s.AtMs)); age > maxSkew || age < -maxSkew {
		alarm("its clock, or ours, is off by %s", age.Round(time.Second))
	}
	stated := map[ln.PubKey]watchtower.StatedSession{}
	for _, session := range s.Sessions {
		stated[session.ID] = session
	}
	given := map[ln.PubKey]uint32{}
	for _, session := range after.Sessions {
		given[session.ID] = session.Acknowledged + session.Pending
	}
	for _, session := range before.Sessions {
		held, ok := stated[session.ID]
		most, still := given[session.ID]
		switch {
		case !ok && session.Acknowledged > 0:
			alarm("it does not hold session %s, of which it acknowledged %d updates", session.ID.Short(), session.Acknowledged)
		case uint32(held.LastApplied) < session.Acknowledged:
			alarm("session %s went back: its last update is number %d, and it had acknowledged %d", session.ID.Short(), held.LastApplied, session.Acknowledged)
		case held.Updates < int64(session.Acknowledged):
			// lnd gives each state to a session once, so that no two share a row.
			alarm("of session %s it holds %d updates, and had acknowledged %d: %d are lost", session.ID.Short(), held.Updates, session.Acknowledged, int64(session.Acknowledged)-held.Updates)
		case still && uint32(held.LastApplied) > most:
			alarm("of session %s its last update is number %d, and lnd gave it %d: lnd can upload nothing more to it", session.ID.Short(), held.LastApplied, most)
		}
		r.Held += uint64(max(0, held.Updates)) //nolint:gosec // not negative
	}
}

// maxSkew is how far a tower's clock may be from ours.
const maxSkew = 10 * time.Minute

// Overall is what is to be said about all towers together: peers are whom the wallet
// has channels with, and services where it registered. Only of those is known whose
// they are: another tower may be a peer's, whose tower has a key of its own, so it
// counts as nobody's.
func Overall(towers []ln.ClientTower, services []Service, peers map[ln.PubKey]bool) (alarms, notices []string) {
	active, independent, unknown := 0, 0, 0
	for _, t := range towers {
		if !t.Active {
			continue
		}
		active++
		i := slices.IndexFunc(services, func(s Service) bool { return s.TowerKey == t.Key })
		switch {
		case peers[t.Key], i >= 0 && peers[services[i].Node]:
		case i < 0:
			unknown++
		default:
			independent++
		}
	}
	switch {
	case active == 0:
		alarms = append(alarms, "no watchtower guards this wallet: while it is offline its peers can cheat it. Add one with `sluice-wallet towers add`.")
	case independent > 0 || len(peers) == 0:
	case unknown == 0:
		alarms = append(alarms, "every watchtower belongs to a node that this wallet has channels with: who could cheat is who should punish. Add a tower of somebody else's.")
	default:
		notices = append(notices, "no watchtower is known to be independent of this wallet's channel partners: whose a tower is that was added with `lncli wtclient add` is not known. If its operator offers registration, `sluice-wallet towers add` finds out.")
	}
	return alarms, notices
}

// Standing takes over what the registration says.
func Standing(r *Report, standing, reason string, expires, watchedUntil time.Time, now time.Time) {
	r.Standing, r.Expires = standing, expires
	switch standing {
	case "expiring":
		r.Notices = append(r.Notices, fmt.Sprintf("the registration ends in %d days: `sluice-wallet towers renew`", int(expires.Sub(now).Hours()/24)))
	case "expired":
		r.Alarms = append(r.Alarms, fmt.Sprintf("the registration has expired: nothing is stored any more, and what was stored is watched until %s", watchedUntil.UTC().Format(time.DateOnly)))
	case "suspended":
		r.Alarms = append(r.Alarms, "the operator suspended the registration ("+reason+"): nothing is stored any more")
	}
}

// Backlog judges what waits to be uploaded, of which none has been acknowledged
// for a while.
func Backlog(r *Report, age, alarmAfter time.Duration) {
	switch {
	case r.Pending == 0:
	case age >= alarmAfter:
		r.Alarms = append(r.Alarms, fmt.Sprintf("%d updates were sent, and it has acknowledged none for %s", r.Pending, age.Round(time.Minute)))
	default:
		r.Notices = append(r.Notices, fmt.Sprintf("%d updates were sent and not acknowledged yet", r.Pending))
	}
}

// fewUpdates is when the end of what may be stored is near.
const fewUpdates = 1000

// Room judges how much more may be stored.
func Room(r *Report, left, priceMsat, creditMsat int64) {
	r.UpdatesLeft, r.PriceMsat, r.CreditMsat = left, priceMsat, creditMsat
	advice := "ask its operator for more, or add another tower"
	if priceMsat > 0 {
		advice = fmt.Sprintf("`sluice-wallet towers credit %s` buys more", r.Label())
	}
	switch {
	case left <= 0:
		r.Alarms = append(r.Alarms, "it stores nothing more for this wallet: its limit, or the credit, is used up; "+advice)
	case left < fewUpdates:
		r.Notices = append(r.Notices, fmt.Sprintf("it stores %d more updates for this wallet; %s", left, advice))
	}
}
