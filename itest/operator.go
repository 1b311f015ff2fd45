//go:build itest

package itest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// operator is the operator of a sluiced.
type operator struct {
	t   *testing.T
	api lspv1.OperatorServiceClient
	// swaps are shown where they are offered.
	swaps  swapsv1.SwapsOperatorServiceClient
	joint  collabv1.JointFundingOperatorServiceClient
	orders lspv1.OrdersOperatorServiceClient
}

func newOperator(t *testing.T, s *devnet.Sluiced) *operator {
	t.Helper()
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	macaroon, err := auth.NewFileCredentials(s.Macaroon)
	require.NoError(t, err)
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithPerRPCCredentials(macaroon))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &operator{
		t: t, api: lspv1.NewOperatorServiceClient(conn), swaps: swapsv1.NewSwapsOperatorServiceClient(conn), joint: collabv1.NewJointFundingOperatorServiceClient(conn),
		orders: lspv1.NewOrdersOperatorServiceClient(conn),
	}
}

// reconcile opens the books, or takes in what happened.
func (o *operator) reconcile(ctx context.Context) *lspv1.ReconcileResponse {
	o.t.Helper()
	report, err := o.api.Reconcile(ctx, &lspv1.ReconcileRequest{})
	require.NoError(o.t, err)
	return report
}

// status is the operator's overview.
func (o *operator) status(ctx context.Context) *lspv1.GetStatusResponse {
	o.t.Helper()
	got, err := o.api.GetStatus(ctx, &lspv1.GetStatusRequest{})
	require.NoError(o.t, err)
	return got
}

// waitBalanced waits until the books equal lnd's to the sat, in all and in each
// channel, without any entry that no event explains. lnd writes its forwarding
// history up to 15 s late.
func (o *operator) waitBalanced(ctx context.Context) {
	o.t.Helper()
	o.waitBooks(ctx, true)
}

// waitBalancedInAll is for days on which lnd was killed: it loses the forwards of its
// last 15 s, and which channel they went over.
func (o *operator) waitBalancedInAll(ctx context.Context) {
	o.t.Helper()
	o.waitBooks(ctx, false)
}

func (o *operator) waitBooks(ctx context.Context, each bool) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second)
	defer cancel()
	var last *lspv1.ReconcileResponse
	err := devnet.WaitFor(ctx, "the books to equal lnd's", func(ctx context.Context) (bool, error) {
		report, err := o.api.Reconcile(ctx, &lspv1.ReconcileRequest{})
		if err != nil {
			return false, err
		}
		last = report
		off := each && slices.ContainsFunc(report.Details, func(d *lspv1.ReconcileDetail) bool { return strings.HasPrefix(d.Account, "channels/") })
		return report.Balanced && !off, nil
	})
	text := ""
	for _, l := range last.GetLines() {
		text += fmt.Sprintf("\n  %-16s books %d lnd %d difference %d (%s)", l.Account, l.BooksMsat, l.LndMsat, l.DifferenceMsat, l.Note)
	}
	for _, d := range last.GetDetails() {
		text += fmt.Sprintf("\n    %s (%s): books %d lnd %d (%s)", d.Account, d.Reference, d.BooksMsat, d.LndMsat, d.Note)
	}
	require.NoError(o.t, err, "books:%s", text)
	o.t.Logf("books:%s", text)
}
