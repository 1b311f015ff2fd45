package onboard

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
)

// Name names a check, in output and in the documentation.
type Name string

// The checks, in their order.
const (
	Reachable   Name = "reachable"
	Unlocked    Name = "unlocked"
	Permissions Name = "permissions"
	Excess      Name = "excess"
	Accounts    Name = "accounts"
	Keys        Name = "keys"
	Proof       Name = "proof"
	Network     Name = "network"
	Birthday    Name = "birthday"
	// Identity is asked of the node, after it was made.
	Identity Name = "identity"
)

// Names lists the checks in their order.
func Names() []Name {
	return []Name{Reachable, Unlocked, Permissions, Excess, Accounts, Keys, Proof, Network, Birthday, Identity}
}

// firstExit keeps clear of 1 (a call failed) and 2 (a wrong command line).
const firstExit = 21

// ExitCode is that of a check that failed: 21 for the first, 30 for the last.
func (n Name) ExitCode() int {
	for i, x := range Names() {
		if x == n {
			return firstExit + i
		}
	}
	return 1
}

// Verdict is how a check ended. The words stand in JSON.
type Verdict string

// The verdicts. Skipped: another check that failed keeps it from being asked.
const (
	Passed  Verdict = "passed"
	Failed  Verdict = "failed"
	Skipped Verdict = "skipped"
)

// Result is one check.
type Result struct {
	Check   Name    `json:"check"`
	Verdict Verdict `json:"verdict"`
	Code    int     `json:"exit_code"`
	// Said is what was found.
	Said string `json:"said"`
	// Next is what the tenant does when it failed.
	Next string `json:"next,omitempty"`
}

// Report is all of them.
type Report struct {
	Results []Result `json:"checks"`
	// Node is the key that the watch-only node will have.
	Node ln.PubKey `json:"-"`
}

// FirstFailed is the check that decides the exit code.
func (r Report) FirstFailed() (Result, bool) {
	for _, x := range r.Results {
		if x.Verdict == Failed {
			return x, true
		}
	}
	return Result{}, false
}

// Signer is a tenant's signer as the checks ask it, with the bundle's macaroon.
type Signer interface {
	Reach
	KeyHolder
	// Try calls a method with a request that does nothing, and says whether the
	// macaroon lets it through.
	Try(ctx context.Context, method string) (allowed bool, err error)
}

// Reach is what needs no macaroon.
type Reach interface {
	// Certificate is what is shown to whoever connects, not yet trusted.
	Certificate(ctx context.Context) (*x509.Certificate, error)
	// State is lnd's word for how its wallet and its server stand.
	State(ctx context.Context) (string, error)
}

// KeyHolder signs with keys of lnd's own families, m/1017'/coin'/family'/0/index.
type KeyHolder interface {
	PublicKey(ctx context.Context, key ln.KeyLocator) (ln.PubKey, error)
	// SignMessage gives the DER signature over the SHA-256 of a message.
	SignMessage(ctx context.Context, key ln.KeyLocator, msg []byte) ([]byte, error)
	SignPsbt(ctx context.Context, packet []byte) ([]byte, error)
	// MuSig2 opens a session of two keys and ends it.
	MuSig2(ctx context.Context, key ln.KeyLocator, own, other ln.PubKey) error
}

// Active is lnd's word for a server that serves every call.
const Active = "SERVER_ACTIVE"

// minCertificateLife is how long a certificate must last.
const minCertificateLife = 30 * 24 * time.Hour

// Input is what the checks need besides the signer.
type Input struct {
	Bundle bundle.Bundle
	// Ops are what the bundle's macaroon says of itself.
	Ops []Op
	// Caveats narrow it further, in lnd's words.
	Caveats []string
	// Network is the gateway's.
	Network string
	// AnyBirthday takes a wallet of unknown age.
	AnyBirthday bool
	Now         time.Time
	Random      io.Reader
}

// errSkipped says that a check cannot be asked.
var errSkipped = errors.New("skipped")

// failure is why a check failed, and what to do.
type failure struct{ said, next string }

func (f failure) Error() string { return f.said }

func fail(next, format string, args ...any) error {
	return failure{said: fmt.Sprintf(format, args...), next: next}
}

// again is what a tenant does about most of it.
const again = "sluicectl signer init (with the same flags), and send the new bundle"

// Run asks the nine checks that come before anything irreversible.
func Run(ctx context.Context, in Input, s Signer) Report {
	r := Report{}
	failed := map[Name]bool{}
	needs := map[Name][]Name{
		Unlocked: {Reachable}, Permissions: {Reachable, Unlocked}, Excess: {Reachable, Unlocked},
		Keys: {Reachable, Unlocked, Accounts}, Proof: {Reachable, Unlocked, Accounts, Permissions},
	}
	run := map[Name]func() (string, error){
		Reachable:   func() (string, error) { return reachable(ctx, in, s) },
		Unlocked:    func() (string, error) { return unlocked(ctx, in, s) },
		Permissions: func() (string, error) { return permissions(ctx, in, s) },
		Excess:      func() (string, error) { return excess(ctx, in, s) },
		Accounts:    func() (string, error) { return accounts(in.Bundle) },
		Keys:        func() (string, error) { return keys(ctx, in, s) },
		Proof:       func() (string, error) { return proof(ctx, in, s) },
		Network:     func() (string, error) { return network(in) },
		Birthday:    func() (string, error) { return birthday(in) },
	}
	for _, name := range Names() {
		check, asked := run[name]
		if !asked {
			continue
		}
		said, err := "", error(nil)
		for _, n := range needs[name] {
			if failed[n] {
				said, err = fmt.Sprintf("not asked, because %s did not pass", n), errSkipped
				break
			}
		}
		if err == nil {
			said, err = check()
		}
		failed[name] = err != nil
		r.Results = append(r.Results, result(name, said, err))
	}
	if key, err := childKey(in.Bundle, identityKey()); err == nil {
		r.Node = key
	}
	return r
}

func result(name Name, said string, err error) Result {
	out := Result{Check: name, Verdict: Passed, Code: name.ExitCode(), Said: said}
	switch f, known := errors.AsType[failure](err); {
	case errors.Is(err, errSkipped):
		out.Verdict = Skipped
	case known:
		out.Verdict, out.Said, out.Next = Failed, f.said, f.next
	case err != nil:
		out.Verdict, out.Said, out.Next = Failed, "the signer did not answer: "+err.Error(), "see that the signer runs (systemctl status lnd-signer) and can be reached from the gateway; then run the command again"
	}
	return out
}

func reachable(ctx context.Context, in Input, s Signer) (string, error) {
	shown, err := s.Certificate(ctx)
	if err != nil {
		return "", fail("open the signer's port for the gateway's address, and see that it listens there: ss -ltn", "nobody answers at %s, or not with TLS: %v", in.Bundle.Address, err)
	}
	pinned, err := bundle.ParseCertificate(in.Bundle.Certificate)
	if err != nil {
		return "", err
	}
	host, _, err := splitHost(in.Bundle.Address)
	if err != nil {
		return "", err
	}
	switch {
	case !shown.Equal(pinned):
		return "", fail(again, "what answers at %s shows another certificate than the bundle has: the signer made a new one since, or it is not the signer", in.Bundle.Address)
	case shown.VerifyHostname(host) != nil:
		return "", fail("set tlsextradomain (a name) or tlsextraip (an address) in the signer's lnd.conf to "+host+", remove its tls.cert and tls.key, restart it; then "+again, "the certificate is not for %s, so that lnd would refuse it", host)
	case in.Now.Before(shown.NotBefore):
		return "", fail("set the clocks of both machines", "the certificate is not valid yet")
	case shown.NotAfter.Before(in.Now.Add(minCertificateLife)):
		return "", fail("remove the signer's tls.cert and tls.key, restart it; then "+again, "the certificate ends on %s: a node whose signer's certificate has ended cannot sign, and dies", shown.NotAfter.UTC().Format(time.DateOnly))
	}
	return "the certificate is the bundle's, for " + host + ", until " + shown.NotAfter.UTC().Format(time.DateOnly), nil
}

func unlocked(ctx context.Context, in Input, s Signer) (string, error) {
	state, err := s.State(ctx)
	if err != nil {
		return "", err
	}
	lncli := "lncli --lnddir=DIR --rpcserver=127.0.0.1:10019 --network=" + in.Bundle.Network
	switch state {
	case Active:
		return "the wallet is open and lnd serves", nil
	case "LOCKED":
		return "", fail(lncli+" unlock (at the signer, DIR is its directory)", "the signer's wallet is locked")
	case "NON_EXISTING":
		return "", fail(lncli+" create (at the signer, DIR is its directory), then "+again, "the signer has no wallet")
	}
	return "", fail("wait until the signer has started, then run the command again", "the signer is starting: %s", state)
}
