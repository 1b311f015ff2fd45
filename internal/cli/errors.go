package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
)

// Target is which server a command talks to and with what, for the sentences
// about calls that fail.
type Target struct {
	// Program is the server's name, "sluiced" or "lnd".
	Program string
	Address string
	// CertFlag, MacaroonFlag and AddressFlag are the flags to name.
	AddressFlag, CertFlag, MacaroonFlag string
	CertFile, MacaroonFile              string
	// DirFlag names the directory where both files are unless they are named.
	DirFlag string
	// MacaroonHint says where a missing macaroon comes from; empty: the server
	// writes it.
	MacaroonHint string
}

// Explain turns what a call returned into a sentence that says what to do
// next. What the server itself wrote stays as it is.
func (t Target) Explain(err error) error {
	if err == nil {
		return nil
	}
	if missing := t.explainFile(err); missing != nil {
		return missing
	}
	s, isStatus := status.FromError(err)
	text := err.Error()
	switch {
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return fmt.Errorf("what listens at %s does not speak TLS, so it is not %s's gRPC port: check %s", t.Address, t.Program, t.AddressFlag)
	case strings.Contains(text, "the server's TLS key is not that of"),
		strings.Contains(text, "x509:"), strings.Contains(text, "tls: "):
		return fmt.Errorf("%s at %s shows a TLS certificate that %s does not vouch for. If the server was set up anew, copy its tls.cert again, by a way you trust, and name it with %s; otherwise check %s: something else may be listening there",
			t.Program, t.Address, orNone(t.CertFile, "the given file"), t.CertFlag, t.AddressFlag)
	case errors.Is(err, context.Canceled), isStatus && s.Code() == codes.Canceled:
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded), isStatus && s.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("%s at %s did not answer in time. It may be busy or out of reach: try again, give it longer with --timeout, or look at its log", t.Program, t.Address)
	case (isStatus && s.Code() == codes.Unavailable || errors.Is(err, ln.ErrUnavailable)) && isConnectionError(text):
		return fmt.Errorf("%s does not answer at %s. Is it running (systemctl status %s)? Is that its address? Another one is named with %s. (%s)",
			t.Program, t.Address, t.Program, t.AddressFlag, lastPart(text))
	case isStatus && s.Code() == codes.Unimplemented:
		return fmt.Errorf("%s at %s does not offer this call: its version and that of this program differ, or the service is not started there", t.Program, t.Address)
	}
	return t.explainKind(rpcserver.FromStatus(err))
}

// explainKind adds the flag to look at to what the server refused.
func (t Target) explainKind(err error) error {
	said := Clean(errkind.Sentence(err))
	if said == "" {
		said = Clean(err.Error())
	}
	switch errkind.Of(err) {
	case errkind.Invalid:
		return Usage{Err: errors.New(said)}
	case errkind.Unauthenticated, errkind.Denied:
		return fmt.Errorf("%s refused the macaroon %s: %s Name another with %s", t.Program, orNone(t.MacaroonFile, "(none)"), Stop(said), t.MacaroonFlag)
	default:
		return errors.New(said)
	}
}

func (t Target) explainFile(err error) error {
	pathErr, ok := errors.AsType[*os.PathError](err)
	if !ok {
		return nil
	}
	var what, flag string
	switch pathErr.Path {
	case "":
		return nil
	case t.CertFile:
		what, flag = "TLS certificate", t.CertFlag
	case t.MacaroonFile:
		what, flag = "macaroon", t.MacaroonFlag
	default:
		return nil
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		origin := t.Program + " writes it when it first starts"
		if what == "macaroon" && t.MacaroonHint != "" {
			origin = t.MacaroonHint
		}
		next := "name another place with " + flag
		if t.DirFlag != "" {
			next = fmt.Sprintf("name %s's data directory with %s, or this file alone with %s", t.Program, t.DirFlag, flag)
		}
		return fmt.Errorf("there is no file %s, where %s's %s should be: %s; %s", pathErr.Path, t.Program, what, origin, next)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("you may not read %s, %s's %s: run this as the user that %s runs as, or have a copy made for you and name it with %s",
			pathErr.Path, t.Program, what, t.Program, flag)
	}
	return nil
}

// isConnectionError tells a server that is not there from one that says that
// something it needs is away.
func isConnectionError(text string) bool {
	for _, sign := range []string{
		"connection error", "connection refused", "name resolver error", "no such host", "produced zero addresses",
		"transport is closing", "error reading from server", "error reading server preface", "connection reset", "closing transport",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// lastPart is the innermost cause that a transport error quotes.
func lastPart(text string) string {
	text = strings.TrimRight(Clean(text), `")`)
	if i := strings.LastIndex(text, `desc = "`); i >= 0 {
		text = text[i+len(`desc = "`):]
	}
	return text
}

// Stop ends a sentence with a full stop unless it ends with a mark already.
func Stop(s string) string {
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}

func orNone(s, none string) string {
	if s == "" {
		return none
	}
	return s
}
