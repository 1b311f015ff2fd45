package lnd

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/peersrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/verrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/lightningnetwork/lnd/lnrpc/wtclientrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// services maps the client interfaces to the services they call.
func services() map[reflect.Type]grpc.ServiceDesc {
	return map[reflect.Type]grpc.ServiceDesc{
		reflect.TypeFor[lnrpc.LightningClient]():        lnrpc.Lightning_ServiceDesc,
		reflect.TypeFor[lnrpc.StateClient]():            lnrpc.State_ServiceDesc,
		reflect.TypeFor[routerrpc.RouterClient]():       routerrpc.Router_ServiceDesc,
		reflect.TypeFor[invoicesrpc.InvoicesClient]():   invoicesrpc.Invoices_ServiceDesc,
		reflect.TypeFor[walletrpc.WalletKitClient]():    walletrpc.WalletKit_ServiceDesc,
		reflect.TypeFor[chainrpc.ChainNotifierClient](): chainrpc.ChainNotifier_ServiceDesc,
		reflect.TypeFor[chainrpc.ChainKitClient]():      chainrpc.ChainKit_ServiceDesc,
		reflect.TypeFor[signrpc.SignerClient]():         signrpc.Signer_ServiceDesc,
		reflect.TypeFor[peersrpc.PeersClient]():         peersrpc.Peers_ServiceDesc,
		reflect.TypeFor[verrpc.VersionerClient]():       verrpc.Versioner_ServiceDesc,

		reflect.TypeFor[wtclientrpc.WatchtowerClientClient](): wtclientrpc.WatchtowerClient_ServiceDesc,
	}
}

// stubs maps the adapter's fields to the services behind them.
func stubs(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for field := range reflect.TypeFor[Client]().Fields() {
		if !strings.HasSuffix(field.Type.Name(), "Client") || field.Type.Kind() != reflect.Interface {
			continue
		}
		desc, known := services()[field.Type]
		require.True(t, known, "add %s to the test's services", field.Type)
		out[field.Name] = desc.ServiceName
	}
	return out
}

func parseDir(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	return files
}

// callsByMethod reads which of lnd's methods each method of the adapter calls,
// by itself or through another.
func callsByMethod(t *testing.T) map[string]map[string]bool {
	t.Helper()
	stub := stubs(t)
	direct, inner := map[string]map[string]bool{}, map[string][]string{}
	for _, f := range parseDir(t, ".") {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			direct[fn.Name.Name] = map[string]bool{}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.SelectorExpr); ok {
					if service := stub[x.Sel.Name]; service != "" {
						direct[fn.Name.Name]["/"+service+"/"+sel.Sel.Name] = true
					}
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "c" {
					inner[fn.Name.Name] = append(inner[fn.Name.Name], sel.Sel.Name)
				}
				return true
			})
		}
	}
	for changed := true; changed; {
		changed = false
		for name, others := range inner {
			for _, other := range others {
				for method := range direct[other] {
					if !direct[name][method] {
						direct[name][method], changed = true, true
					}
				}
			}
		}
	}
	return direct
}

func TestRightsNameEveryMethodThatIsCalledAndNoOther(t *testing.T) {
	called := map[string]bool{}
	for _, methods := range callsByMethod(t) {
		for m := range methods {
			if !strings.HasPrefix(m, "/lnrpc.State/") {
				called[m] = true
			}
		}
	}
	require.Greater(t, len(called), 40, "the test no longer finds the adapter's calls")
	// The interceptor's stream is the one method that another package calls.
	interceptorStream := "/" + routerrpc.Router_ServiceDesc.ServiceName + "/HtlcInterceptor"
	var seen bool
	for _, f := range parseDir(t, filepath.Join("..", "..", "interceptor", "stream")) {
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			seen = seen || ok && sel.Sel.Name == "HtlcInterceptor"
			return true
		})
	}
	require.True(t, seen)
	called[interceptorStream] = true

	table := map[string]bool{}
	for _, r := range rights() {
		require.False(t, table[r.Method], "%s stands twice in the table", r.Method)
		table[r.Method] = true
		require.True(t, called[r.Method], "nothing calls %s any more: drop the right", r.Method)
		require.NotEmpty(t, r.Why)
	}
	for m := range called {
		require.True(t, table[m], "%s is called, but the table of rights does not name it", m)
	}
}

// Every method must exist in lnd, or baking the macaroon fails.
func TestRightsExistInLnd(t *testing.T) {
	exists := map[string]bool{}
	for _, desc := range services() {
		for _, m := range desc.Methods {
			exists["/"+desc.ServiceName+"/"+m.MethodName] = true
		}
		for _, s := range desc.Streams {
			exists["/"+desc.ServiceName+"/"+s.StreamName] = true
		}
	}
	for _, r := range rights() {
		require.True(t, exists[r.Method], r.Method)
	}
}

// calledFrom reads which of lnd's methods packages call through the adapter: by
// the ports that they declare, and by name.
func calledFrom(t *testing.T, calls map[string]map[string]bool, dirs ...string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	use := func(name string) {
		for method := range calls[name] {
			if !strings.HasPrefix(method, "/lnrpc.State/") {
				out[method] = true
			}
		}
	}
	for _, dir := range dirs {
		for _, f := range parseDir(t, filepath.Join("..", "..", filepath.FromSlash(dir))) {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.InterfaceType:
					for _, m := range n.Methods.List {
						for _, name := range m.Names {
							use(name.Name)
						}
					}
				case *ast.CallExpr:
					if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
						use(sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
	return out
}

// Each macaroon has what its programs call, and no more.
func TestRightsAreWhatEachProgramCalls(t *testing.T) {
	calls := callsByMethod(t)
	hold := "/" + routerrpc.Router_ServiceDesc.ServiceName + "/HtlcInterceptor"
	for _, c := range []struct {
		table []Right
		dirs  []string
		plus  []string
		// besides is what only some of these programs' macaroons have.
		besides party
	}{
		{
			GatewayRightsTable(),
			[]string{"lsp/engine", "lsp/links", "lsp/peerrpc", "interceptor/engine", "interceptor/acceptor", "internal/app", "internal/doctor", "cmd/sluiced"},
			[]string{hold},
			nobody,
		},
		{WalletRightsTable(), []string{"lsp/agent", "lsp/peerclient", "backupsvc/agent", "cmd/sluice-wallet"}, nil, truster},
	} {
		called := calledFrom(t, calls, c.dirs...)
		for _, m := range c.plus {
			called[m] = true
		}
		for _, r := range rights() {
			// What only some want is not in every macaroon.
			if r.who&(gateway|wallet) == 0 || r.who&c.besides != 0 {
				delete(called, r.Method)
			}
		}
		granted := map[string]bool{}
		for _, r := range c.table {
			granted[r.Method] = true
		}
		require.Greater(t, len(called), 8, "the test no longer finds the calls")
		require.Equal(t, called, granted)
	}
}

// A gateway with swaps has what they call besides, and no more.
func TestRightsOfSwaps(t *testing.T) {
	called := calledFrom(t, callsByMethod(t), "swaps/engine")
	require.Greater(t, len(called), 15, "the test no longer finds the calls")
	for _, r := range GatewayRightsTable() {
		delete(called, r.Method)
	}
	granted := map[string]bool{}
	for _, r := range SwapsRightsTable() {
		granted[r.Method] = true
	}
	require.Equal(t, called, granted)
	require.Len(t, GatewayAndSwapsRights(), len(GatewayRights())+len(granted))
}

// What joint fundings need besides, on either side, and no more.
func TestRightsOfJointFundings(t *testing.T) {
	calls := callsByMethod(t)
	for _, c := range []struct {
		dir        string
		base, plus []Right
		atLeast    int
	}{
		{"lsp/collab/engine", GatewayRightsTable(), JointRightsTable(), 10},
		{"lsp/collab/agent", WalletRightsTable(), rightsOf(funder), 10},
	} {
		called := calledFrom(t, calls, c.dir)
		require.Greater(t, len(called), c.atLeast, "the test no longer finds the calls")
		for _, r := range c.base {
			delete(called, r.Method)
		}
		granted := map[string]bool{}
		for _, r := range c.plus {
			granted[r.Method] = true
		}
		require.Equal(t, called, granted, c.dir)
	}
}

// TestWhatMacaroonsSpend: a gateway's macaroon signs any transaction of the wallet's
// coins (FinalizePsbt), and our texts say so. The calls that send coins in one step, and
// of a wallet's macaroon all that spends, are in none.
func TestWhatMacaroonsSpend(t *testing.T) {
	require.Contains(t, GatewayRights(), "uri:/walletrpc.WalletKit/FinalizePsbt",
		"if it is gone, the texts that say what the macaroon can spend are wrong")
	for _, list := range [][]string{GatewayRights(), WalletRights()} {
		for _, uri := range list {
			for _, dangerous := range []string{"SendCoins", "SendMany", "SendPayment", "CloseChannel", "BakeMacaroon", "SendOutputs", "FundPsbt"} {
				require.NotContains(t, uri, dangerous)
			}
		}
	}
	for _, uri := range WalletRights() {
		for _, gatewayOnly := range []string{"SettleInvoice", "FinalizePsbt", "OpenChannel", "SendToRoute", "HtlcInterceptor"} {
			require.NotContains(t, uri, gatewayOnly)
		}
	}
}

func TestBakeCommandQuotes(t *testing.T) {
	require.Equal(t, "lncli bakemacaroon --save_to ~/.sluice/lnd.macaroon --root_key_id 7 \\\n  uri:/a.B/C \\\n  uri:/a.B/D",
		BakeCommand("~/.sluice/lnd.macaroon", 7, []string{"uri:/a.B/C", "uri:/a.B/D"}))
	require.Contains(t, BakeCommand("it's here", 7, nil), `--save_to 'it'\''s here' --root_key_id`)
	require.NotZero(t, GatewayRootKeyID, "lnd deletes every root key but 0")
	require.NotZero(t, WalletRootKeyID)
}
