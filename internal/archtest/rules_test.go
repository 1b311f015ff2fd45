package archtest_test

import "strings"

// module is the import path that every package of ours starts with.
const module = "github.com/sluice-lsp/sluice"

// importRule forbids imports to packages.
type importRule struct {
	name string
	// in tells the packages it is for, by their path within the module.
	in func(pkg string) bool
	// forbids tells what they may not import, by full import path.
	forbids func(pkg, imported string) bool
	reason  string
}

// exception lifts a rule for one package, or for one file.
type exception struct{ rule, where, reason string }

// services don't know each other.
func services() []string {
	return []string{
		"interceptor", "interceptor/ballot", "lsp", "lsp/batch", "lsp/books", "lsp/collab", "lsp/funding", "lsp/jit", "lsp/liquidity", "lsp/lsps0", "lsp/lsps1", "lsp/lsps2", "lsp/lsps5", "lsp/opening", "lsp/order", "lsp/refund", "lsp/wrap", "lws", "lws/hold", "lws/tenant", "swaps", "watchtower", "backupsvc",
	}
}

// domain packages are pure: they decide, others act.
func domain() []string {
	return []string{
		"interceptor", "interceptor/ballot", "lsp", "lsp/batch", "lsp/books", "lsp/collab", "lsp/funding", "lsp/jit", "lsp/liquidity", "lsp/lsps0", "lsp/lsps1", "lsp/lsps2", "lsp/lsps5", "lsp/opening", "lsp/order", "lsp/refund", "lsp/wrap", "lws", "lws/hold", "lws/tenant", "lws/tenant/guard", "lws/tenant/hosting", "lws/tenant/recovery", "swaps", "swaps/out", "swaps/in", "swaps/htlc", "swaps/quote", "swaps/batch", "watchtower/credit", "backupsvc/vault", "backupsvc/recovery",
	}
}

func importRules() []importRule {
	return []importRule{
		{
			name: "pure domain",
			in:   oneOf(domain()...),
			forbids: func(pkg, imported string) bool {
				if under(imported, module) && oneOf(domain()...)(strings.TrimPrefix(imported, module+"/")) {
					return false // another room of the same service; "services apart" holds the rest
				}
				return !isStd(imported) && !under(imported, "github.com/btcsuite/btcd") &&
					!oneOf(ours("internal/ln"), ours("internal/fsm"), ours("internal/errkind"), ours("internal/psbts"))(imported) &&
					!(pkg == "swaps/htlc" && oneOf("github.com/lightninglabs/loop/swap", "golang.org/x/crypto/ripemd160")(imported))
			},
			reason: "a domain package decides and holds no SQL, gRPC, logging or lnd: it may import the standard library, internal/ln, internal/fsm, internal/errkind, internal/psbts and btcd's primitives (rule 1)",
		},
		{
			name: "pure domain has no I/O",
			in:   oneOf(domain()...),
			forbids: func(_, imported string) bool {
				return oneOf("database/sql", "net", "net/http", "os", "os/exec", "log", "log/slog")(imported)
			},
			reason: "a domain package gets what it needs as values and events, and does no I/O (rule 1)",
		},
		{
			name: "foundations are std only",
			in:   oneOf("internal/ln", "internal/errkind"),
			forbids: func(_, imported string) bool {
				return !isStd(imported)
			},
			reason: "every package may import these, so they import nothing (rule 1)",
		},
		{
			name: "lnd's RPC in few hands",
			in: func(pkg string) bool {
				return !under(pkg, "internal/lnd") && !under(pkg, "interceptor/stream") && !under(pkg, "interceptor/proxy") && !harness(pkg)
			},
			forbids: func(_, imported string) bool {
				return under(imported, "github.com/lightningnetwork/lnd/lnrpc") || under(imported, "github.com/lightninglabs/lndclient")
			},
			reason: "lnrpc and lndclient belong to internal/lnd, interceptor/stream and interceptor/proxy: others speak internal/ln, so that lnd's wire format changes in one place (rule 2)",
		},
		{
			name: "no interceptor through lndclient",
			in:   func(pkg string) bool { return under(pkg, "interceptor") },
			forbids: func(_, imported string) bool {
				return under(imported, "github.com/lightninglabs/lndclient")
			},
			reason: "lndclient sends from many goroutines on one stream and drops auto_fail_height (rule 2)",
		},
		{
			name: "lnd's watchtower at home",
			in:   func(pkg string) bool { return !under(pkg, "watchtower") },
			forbids: func(_, imported string) bool {
				return under(imported, "github.com/lightningnetwork/lnd/watchtower")
			},
			reason: "lnd's watchtower packages are for watchtower/ only (rule 2)",
		},
		{
			name: "services apart",
			in:   func(pkg string) bool { return serviceOf(pkg) != "" },
			forbids: func(pkg, imported string) bool {
				other := serviceOf(strings.TrimPrefix(imported, module+"/"))
				return under(imported, module) && other != "" && other != serviceOf(pkg)
			},
			reason: "services don't import each other: declare an interface of your own, internal/app wires it (rule 4)",
		},
		{
			name: "wiring in one place",
			in: func(pkg string) bool {
				return under(pkg, "internal") && !under(pkg, "internal/app") && !harness(pkg)
			},
			forbids: func(_, imported string) bool {
				return under(imported, module) && (serviceOf(strings.TrimPrefix(imported, module+"/")) != "" || under(imported, ours("internal/app")))
			},
			reason: "internal packages serve the services and don't know them; only internal/app wires (rule 4)",
		},
		{
			name: "nobody imports commands or the harness",
			in:   func(pkg string) bool { return !under(pkg, "cmd") && !harness(pkg) && pkg != "internal/app" },
			forbids: func(_, imported string) bool {
				p := strings.TrimPrefix(imported, module+"/")
				return under(imported, module) && (under(p, "cmd") || harness(p))
			},
			reason: "what runs in production does not depend on commands or on the test network",
		},
		{
			name: "no test code in production",
			in:   func(pkg string) bool { return !harness(pkg) },
			forbids: func(_, imported string) bool {
				return oneOf("testing", "github.com/stretchr/testify/require", "github.com/stretchr/testify/assert", "pgregory.net/rapid")(imported)
			},
			reason: "test libraries register flags and pull code into the daemons",
		},
		{
			name: "one logger, one registry",
			in:   func(string) bool { return true },
			forbids: func(_, imported string) bool {
				return oneOf("log", "log/slog", "github.com/sirupsen/logrus", "github.com/prometheus/client_golang/prometheus/promauto", "math/rand")(imported)
			},
			reason: "loggers are *zap.Logger and passed in; promauto registers globally; randomness is passed in (rule 5)",
		},
	}
}

// exceptions are all there are.
func exceptions() []exception {
	const (
		state = "no package-level state"
		small = "small interfaces"
	)
	return []exception{
		{small, "internal/devnet/standard.go", "TB is the part of testing.TB that the harness needs, for programs that are no tests"},
		{small, "internal/lndfake/lndsuite/network.go", "the one suite drives the fake and real nodes through it: every verb is a thing that happens to a network"},
		{state, "internal/store/storetest/postgres.go", "one PostgreSQL server for a test process, whose scope is the process"},
	}
}

// harness packages run networks and tests, never in production.
func harness(pkg string) bool {
	return under(pkg, "itest") || under(pkg, "internal/devnet") || under(pkg, "internal/lndfake") || under(pkg, "cmd/sluice-devnet") ||
		under(pkg, "internal/tools") || strings.HasSuffix(pkg, "test") || under(pkg, "internal/store/storetest")
}

func serviceOf(pkg string) string {
	for _, s := range services() {
		if under(pkg, s) {
			return s
		}
	}
	return ""
}

func ours(pkg string) string { return module + "/" + pkg }

func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func oneOf(list ...string) func(string) bool {
	return func(s string) bool {
		for _, l := range list {
			if l == s {
				return true
			}
		}
		return false
	}
}

// isStd reports the standard library: its paths' first element has no dot.
func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
