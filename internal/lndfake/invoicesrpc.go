package lndfake

import (
	"context"
	"errors"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type invoicesServer struct {
	invoicesrpc.UnimplementedInvoicesServer
	*instance
}

// AddInvoice implements lnrpc.LightningServer.
func (s *lightningServer) AddInvoice(_ context.Context, r *lnrpc.Invoice) (*lnrpc.AddInvoiceResponse, error) {
	var out *lnrpc.AddInvoiceResponse
	err := s.do(func() error {
		n := s.node
		pre := n.w.random32()
		if len(r.RPreimage) == 32 {
			pre = [32]byte(r.RPreimage)
		}
		inv := &invoice{
			hash: sha(pre), preimage: &pre, addr: n.w.random32(), memo: r.Memo, descHash: r.DescriptionHash,
			valueMsat: r.ValueMsat + r.Value*1000, expiry: time.Duration(r.Expiry) * time.Second, cltv: uint32(r.CltvExpiry),
			hints: r.RouteHints, private: r.Private,
		}
		if len(r.DescriptionHash) == 0 {
			inv.descHash = nil
		}
		if len(r.RHash) == 32 && len(r.RPreimage) == 0 {
			return errors.New("preimage must be given, or use AddHoldInvoice")
		}
		if err := n.invoices.add(inv); err != nil {
			return err
		}
		out = &lnrpc.AddInvoiceResponse{
			RHash: inv.hash[:], PaymentRequest: inv.request, AddIndex: inv.addIndex, PaymentAddr: inv.addr[:],
		}
		return nil
	})
	return out, err
}

// AddHoldInvoice implements invoicesrpc.InvoicesServer.
func (s *invoicesServer) AddHoldInvoice(_ context.Context, r *invoicesrpc.AddHoldInvoiceRequest) (*invoicesrpc.AddHoldInvoiceResp, error) {
	var out *invoicesrpc.AddHoldInvoiceResp
	err := s.do(func() error {
		n := s.node
		if len(r.Hash) != 32 {
			return errors.New("invalid hash length")
		}
		inv := &invoice{
			hash: [32]byte(r.Hash), hold: true, addr: n.w.random32(), memo: r.Memo, valueMsat: r.ValueMsat + r.Value*1000,
			expiry: time.Duration(r.Expiry) * time.Second, cltv: uint32(r.CltvExpiry), hints: r.RouteHints, private: r.Private,
		}
		if len(r.DescriptionHash) > 0 {
			inv.descHash = r.DescriptionHash
		}
		if err := n.invoices.add(inv); err != nil {
			return err
		}
		out = &invoicesrpc.AddHoldInvoiceResp{PaymentRequest: inv.request, AddIndex: inv.addIndex, PaymentAddr: inv.addr[:]}
		return nil
	})
	return out, err
}

func (r *invoiceRegistry) find(hash []byte) (*invoice, error) {
	if len(hash) != 32 {
		return nil, errors.New("invalid hash length")
	}
	inv := r.byHash[[32]byte(hash)]
	if inv == nil {
		return nil, errNoInvoice
	}
	return inv, nil
}

// SettleInvoice implements invoicesrpc.InvoicesServer.
func (s *invoicesServer) SettleInvoice(_ context.Context, r *invoicesrpc.SettleInvoiceMsg) (*invoicesrpc.SettleInvoiceResp, error) {
	err := s.do(func() error {
		if len(r.Preimage) != 32 {
			return errors.New("invalid preimage length")
		}
		pre := [32]byte(r.Preimage)
		h := sha(pre)
		inv, err := s.node.invoices.find(h[:])
		if err != nil {
			return err
		}
		switch inv.state {
		case lnrpc.Invoice_ACCEPTED:
			inv.preimage = &pre
			s.node.invoices.settle(inv)
			return nil
		case lnrpc.Invoice_OPEN:
			return errors.New("invoice still open")
		case lnrpc.Invoice_CANCELED:
			return errors.New("invoice already canceled")
		default:
			return nil // lnd: settling again is no error
		}
	})
	return &invoicesrpc.SettleInvoiceResp{}, err
}

// CancelInvoice implements invoicesrpc.InvoicesServer.
func (s *invoicesServer) CancelInvoice(_ context.Context, r *invoicesrpc.CancelInvoiceMsg) (*invoicesrpc.CancelInvoiceResp, error) {
	err := s.do(func() error {
		inv, err := s.node.invoices.find(r.PaymentHash)
		if err != nil {
			return err
		}
		switch inv.state {
		case lnrpc.Invoice_SETTLED:
			return errors.New("invoice already settled")
		case lnrpc.Invoice_CANCELED:
			return nil
		}
		s.node.invoices.cancel(inv)
		return nil
	})
	return &invoicesrpc.CancelInvoiceResp{}, err
}

// LookupInvoiceV2 implements invoicesrpc.InvoicesServer.
func (s *invoicesServer) LookupInvoiceV2(_ context.Context, r *invoicesrpc.LookupInvoiceMsg) (out *lnrpc.Invoice, err error) {
	err = s.do(func() error {
		for _, inv := range s.node.invoices.order {
			if h := r.GetPaymentHash(); len(h) == 32 && inv.hash == [32]byte(h) {
				out = inv.rpc()
			}
			if a := r.GetPaymentAddr(); len(a) == 32 && inv.addr == [32]byte(a) {
				out = inv.rpc()
			}
		}
		if out == nil {
			return errNoInvoice
		}
		return nil
	})
	return out, err
}

// LookupInvoice implements lnrpc.LightningServer.
func (s *lightningServer) LookupInvoice(_ context.Context, r *lnrpc.PaymentHash) (out *lnrpc.Invoice, err error) {
	err = s.do(func() error {
		inv, err := s.node.invoices.find(r.RHash)
		if err == nil {
			out = inv.rpc()
		}
		return err
	})
	return out, err
}

// newest are the last ones before an index (0: of all), oldest first, as lnd lists them
// in reverse.
func newest[T any](all []T, index func(T) uint64, before, most uint64) []T {
	for before > 0 && len(all) > 0 && index(all[len(all)-1]) >= before {
		all = all[:len(all)-1]
	}
	if n := uint64(len(all)); most > 0 && n > most {
		all = all[n-most:]
	}
	return all
}

// ListInvoices implements lnrpc.LightningServer.
func (s *lightningServer) ListInvoices(_ context.Context, r *lnrpc.ListInvoiceRequest) (*lnrpc.ListInvoiceResponse, error) {
	out := &lnrpc.ListInvoiceResponse{}
	err := s.do(func() error {
		order := s.node.invoices.order
		if r.Reversed {
			order = newest(order, func(inv *invoice) uint64 { return inv.addIndex }, r.IndexOffset, r.NumMaxInvoices)
		}
		for _, inv := range order {
			if !r.Reversed && inv.addIndex <= r.IndexOffset || r.PendingOnly && inv.state != lnrpc.Invoice_OPEN && inv.state != lnrpc.Invoice_ACCEPTED {
				continue
			}
			if r.NumMaxInvoices > 0 && uint64(len(out.Invoices)) >= r.NumMaxInvoices {
				break
			}
			out.Invoices = append(out.Invoices, inv.rpc())
			if out.FirstIndexOffset == 0 {
				out.FirstIndexOffset = inv.addIndex
			}
			out.LastIndexOffset = inv.addIndex
		}
		return nil
	})
	return out, err
}

// SubscribeInvoices implements lnrpc.LightningServer.
func (s *lightningServer) SubscribeInvoices(r *lnrpc.InvoiceSubscription, stream lnrpc.Lightning_SubscribeInvoicesServer) error {
	reg := &s.node.invoices
	return pump(s.instance, stream.Context(), &s.mem.invoices, func(f *feed[*lnrpc.Invoice]) {
		for _, inv := range reg.order {
			if r.AddIndex > 0 && inv.addIndex > r.AddIndex {
				f.push(inv.rpc())
			}
		}
		for _, inv := range reg.settled {
			if r.SettleIndex > 0 && inv.settleIdx > r.SettleIndex {
				f.push(inv.rpc())
			}
		}
	}, stream.Send)
}

// SubscribeSingleInvoice implements invoicesrpc.InvoicesServer.
func (s *invoicesServer) SubscribeSingleInvoice(r *invoicesrpc.SubscribeSingleInvoiceRequest, stream invoicesrpc.Invoices_SubscribeSingleInvoiceServer) error {
	if len(r.RHash) != 32 {
		return status.Error(codes.InvalidArgument, "invalid hash length")
	}
	n, hash := s.node, [32]byte(r.RHash)
	var t *topic[*lnrpc.Invoice]
	if err := s.do(func() error {
		if t = n.mem.oneInvoice[hash]; t == nil {
			t = &topic[*lnrpc.Invoice]{}
			n.mem.oneInvoice[hash] = t
		}
		return nil
	}); err != nil {
		return err
	}
	return pump(s.instance, stream.Context(), t, func(f *feed[*lnrpc.Invoice]) {
		if inv := n.invoices.byHash[hash]; inv != nil {
			f.push(inv.rpc())
		}
	}, func(m *lnrpc.Invoice) error {
		return stream.Send(m)
	})
}
