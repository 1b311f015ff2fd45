package gate

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// The files in a guard's directory.
const (
	// FilePolicy is the tenant's; its changes count at once.
	FilePolicy = "policy.toml"
	// FileAccounts are the public keys of the signer's accounts.
	FileAccounts = "accounts.json"
	// FileLog is what was asked and refused, and what counts against the limits.
	FileLog = "guard.log"
	// FilePaused: while it is there, nothing is signed.
	FilePaused = "paused"
	// FileHostKey is the root key of the macaroon that the host has.
	FileHostKey = "host.key"
)

// Gate decides about requests, one at a time.
type Gate struct {
	dir string
	now func() time.Time

	mu     sync.Mutex
	ring   *guard.Keyring
	book   *guard.Book
	log    *journal
	states *states
	policy watched[guard.Policy]
	host   watched[[]byte]
	// counts are what passed since the last summary, by what it was.
	counts map[string]int64
	paused bool
}

// Open starts from what the directory has.
func Open(dir string, now func() time.Time) (*Gate, error) {
	g := &Gate{dir: dir, now: now, book: guard.NewBook(), counts: map[string]int64{}}
	g.policy = watched[guard.Policy]{path: join(dir, FilePolicy), parse: ParsePolicy}
	g.host = watched[[]byte]{path: join(dir, FileHostKey), parse: parseHostKey}
	p, err := g.policy.get()
	if err != nil {
		return nil, err
	}
	accounts, err := readAccounts(join(dir, FileAccounts))
	if err != nil {
		return nil, err
	}
	if g.ring, err = guard.NewKeyring(p.Network, accounts, p.Lookahead); err != nil {
		return nil, fmt.Errorf("%s: %w", FileAccounts, err)
	}
	if g.log, err = openJournal(join(dir, FileLog), func(l Line) error {
		if l.Counted == nil {
			return nil
		}
		return g.book.Apply(*l.Counted)
	}); err != nil {
		return nil, err
	}
	if g.states, err = openStates(join(dir, FileStates)); err != nil {
		return nil, errors.Join(err, g.log.close())
	}
	return g, g.log.write(Line{At: now(), Kind: Started}, true)
}

// Close ends it with a last summary.
func (g *Gate) Close() error {
	return errors.Join(g.Summarise(), g.states.close(), g.log.close())
}

// Node is the key of the node that is guarded.
func (g *Gate) Node() ln.PubKey { return g.ring.Node() }

// Policy is the one that counts now.
func (g *Gate) Policy() (guard.Policy, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.policy.get()
}

// HostKey is the root key of the host's macaroon.
func (g *Gate) HostKey() ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.host.get()
}

// ask runs a decision, and logs a refusal.
func (g *Gate) ask(method string, decide func(guard.Policy) (string, *guard.Entry, error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	what, entry, err := "", (*guard.Entry)(nil), g.stopped()
	if err == nil {
		var p guard.Policy
		if p, err = g.policy.get(); err != nil {
			err = guard.Refusal{Rule: guard.RulePaused, Said: "the policy cannot be read: " + err.Error()}
		} else {
			what, entry, err = decide(p)
		}
	}
	if err == nil && entry != nil {
		if werr := g.log.write(Line{At: entry.At, Kind: Counted, Method: method, What: what, Counted: entry}, true); werr != nil {
			err = guard.Refusal{Rule: guard.RuleUnavailable, Said: "the log cannot be written: " + werr.Error()}
		} else {
			err = g.book.Apply(*entry)
		}
	}
	if err != nil {
		return g.refused(method, err)
	}
	g.counts[what]++
	return nil
}

// stopped is the pause, by a file, so that it outlasts a restart and needs no port.
func (g *Gate) stopped() error {
	_, err := os.Lstat(join(g.dir, FilePaused))
	paused := !errors.Is(err, os.ErrNotExist)
	if paused != g.paused {
		g.paused = paused
		kind := Resumed
		if paused {
			kind = Paused
		}
		if err := g.log.write(Line{At: g.now(), Kind: kind}, true); err != nil {
			return guard.Refusal{Rule: guard.RuleUnavailable, Said: "the log cannot be written: " + err.Error()}
		}
	}
	if paused {
		return guard.Refusal{Rule: guard.RulePaused, Said: "the tenant has paused its signer"}
	}
	return nil
}

// refused logs a refusal. A host that asks for much is counted rather than written down.
func (g *Gate) refused(method string, err error) error {
	r, ok := errors.AsType[guard.Refusal](err)
	if !ok {
		r = guard.Refusal{Rule: guard.RuleUnavailable, Said: err.Error()}
	}
	g.counts["refused "+string(r.Rule)]++
	line := Line{At: g.now(), Kind: Refused, Method: method, Rule: string(r.Rule), Said: r.Said}
	if werr := g.log.refused(line); werr != nil {
		return errors.Join(r, werr)
	}
	return r
}

// Psbt gives what the signer may be shown of a PSBT.
func (g *Gate) Psbt(raw []byte) (pass []byte, err error) {
	err = g.ask("SignPsbt", func(p guard.Policy) (string, *guard.Entry, error) {
		s, err := g.ring.ReadPsbt(raw)
		if err != nil {
			return "", nil, err
		}
		e, err := g.ring.Judge(p, g.book, s, g.now())
		if c, ok := s.Signed(); ok && err == nil {
			if werr := g.states.note(c); werr != nil {
				err = guard.Refusal{Rule: guard.RuleUnavailable, Said: "the channel's state cannot be noted: " + werr.Error()}
			}
		}
		pass = s.Packet
		return s.What(), e, err
	})
	if err != nil {
		return nil, err
	}
	return pass, nil
}

// Message decides about a message.
func (g *Gate) Message(m guard.Message) error {
	return g.ask("SignMessage", func(p guard.Policy) (string, *guard.Entry, error) {
		what, err := g.ring.JudgeMessage(p, m)
		return what, nil, err
	})
}

// SharedKey decides about a shared secret.
func (g *Gate) SharedKey(r guard.SharedKey) error {
	return g.ask("DeriveSharedKey", func(p guard.Policy) (string, *guard.Entry, error) {
		what, err := g.ring.JudgeSharedKey(p, r)
		return what, nil, err
	})
}

// MuSig2 decides about a session.
func (g *Gate) MuSig2(r guard.MuSig2Session) error {
	return g.ask("MuSig2CreateSession", func(guard.Policy) (string, *guard.Entry, error) {
		what, err := g.ring.JudgeMuSig2(r)
		return what, nil, err
	})
}

// Key decides about a public key.
func (g *Gate) Key(at ln.KeyLocator) error {
	return g.ask("DeriveKey", func(guard.Policy) (string, *guard.Entry, error) {
		what, err := g.ring.JudgeKey(at)
		return what, nil, err
	})
}

// Refuse is for what the guard does not speak at all.
func (g *Gate) Refuse(method string, rule guard.Rule, said string) error {
	return g.ask(method, func(guard.Policy) (string, *guard.Entry, error) {
		return "", nil, guard.Refusal{Rule: rule, Said: said}
	})
}

// Summarise writes down what passed since the last time.
func (g *Gate) Summarise() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.counts) == 0 {
		return nil
	}
	if err := g.log.write(Line{At: g.now(), Kind: Summary, Counts: maps.Clone(g.counts)}, true); err != nil {
		return err
	}
	clear(g.counts)
	return nil
}

// ParsePolicy reads a policy; what it does not know is an error.
func ParsePolicy(raw []byte) (guard.Policy, error) {
	p := guard.Policy{Lookahead: guard.DefaultLookahead}
	if err := strict(raw, &p); err != nil {
		return guard.Policy{}, fmt.Errorf("%s: %w", FilePolicy, err)
	}
	if err := p.Check(); err != nil {
		return guard.Policy{}, fmt.Errorf("%s: %w", FilePolicy, err)
	}
	return p, nil
}

// RenderPolicy writes one, with what each line means.
func RenderPolicy(p guard.Policy) ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	body, err := toml.Marshal(p)
	return append([]byte(policyHead), body...), err
}

const policyHead = `# What this signer signs for the host of the node. Changes count from the next request on.
# docs/tenant.md explains each line. Amounts are in satoshi, of the wallet's coins; a day is
# any 24 hours.
#
#   address_sat_*    may leave to addresses that are not the wallet's or known_addresses
#   channel_sat_*    may go into scripts, which can be channels
#   fee_sat_*        may go to miners
#   known_addresses  yours elsewhere: not counted
#   sign_texts       lncli signmessage; the host can then log in as the node
#   watchtower       lnd's watchtower client
#   lookahead        how many unused addresses in a row the wallet may have

`
