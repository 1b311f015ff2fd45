package remotesigner

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// MessageRequest is a request to sign a message.
type MessageRequest struct {
	Key    ln.KeyLocator
	Text   []byte
	Double bool
	// Compact is a signature that tells its key.
	Compact bool
	// Schnorr: that, or a tag or tweak that belongs to it.
	Schnorr bool
}

// SharedKeyRequest is a request for a shared secret.
type SharedKeyRequest struct {
	Key  ln.KeyLocator
	Raw  []byte
	With []byte
}

// MuSig2Request is a request to open a session.
type MuSig2Request struct {
	Key   ln.KeyLocator
	Nonce []byte
}

// Judge decides about each request before the signer hears of it. An error is what the
// host is told. What Psbt gives is what the signer is given.
type Judge interface {
	Psbt(raw []byte) (pass []byte, err error)
	Message(MessageRequest) error
	SharedKey(SharedKeyRequest) error
	MuSig2(MuSig2Request) error
	Key(ln.KeyLocator) error
}

// Proxy speaks the signer's RPC to the host of a watch-only node, as far as such a node
// needs it, and asks the signer what a judge lets through.
//
// It promises that no other method reaches the signer, no request with a field that this
// program does not know, and none of a host without the right macaroon; and that the
// signer gets its own macaroon, which the host never has.
type Proxy struct {
	signrpc.UnimplementedSignerServer
	up      *Client
	judge   Judge
	refused func(method, why string) error
}

// maxRequest is more than any request of a node's.
const maxRequest = 8 << 20

// NewProxy makes a server. admit says whether a macaroon is the host's; refused hears of
// what never came to the judge.
func NewProxy(up *Client, judge Judge, transport *tls.Config, admit func(raw []byte) error, refused func(method, why string) error) *grpc.Server {
	p := &Proxy{up: up, judge: judge, refused: refused}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(transport)), grpc.MaxRecvMsgSize(maxRequest),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if info.FullMethod == stateMethod {
				return next(ctx, req) // as lnd's own: no macaroon
			}
			if err := admitted(ctx, admit); err != nil {
				return nil, err
			}
			if m, ok := req.(proto.Message); !ok || hasUnknown(m.ProtoReflect()) {
				return nil, denied(refused(short(info.FullMethod), "a field that the guard does not know"))
			}
			got, err := next(ctx, req)
			if status.Code(err) == codes.Unimplemented {
				err = status.Error(codes.Unimplemented, refused(short(info.FullMethod), noNeed).Error())
			}
			return got, err
		}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			if err := admitted(stream.Context(), admit); err != nil {
				return err
			}
			return status.Error(codes.Unimplemented, refused(short(method), noNeed).Error())
		}),
	)
	signrpc.RegisterSignerServer(server, p)
	const wallet, state = "walletrpc.WalletKit", "lnrpc.State"
	server.RegisterService(&grpc.ServiceDesc{ServiceName: wallet, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		unary(wallet, "SignPsbt", walletPart.signPsbt), unary(wallet, "DeriveKey", walletPart.deriveKey),
	}}, walletPart{p})
	server.RegisterService(&grpc.ServiceDesc{ServiceName: state, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		unary(state, "GetState", statePart.getState),
	}}, statePart{p})
	return server
}

func short(method string) string {
	const longest = 80
	method = method[strings.LastIndexByte(method, '/')+1:]
	return method[:min(len(method), longest)]
}

// noNeed is said of methods that are not spoken.
const noNeed = "a method that no watch-only node needs"

func admitted(ctx context.Context, admit func(raw []byte) error) error {
	raw, err := macaroonOf(ctx)
	if err == nil {
		err = admit(raw)
	}
	if err != nil {
		return status.Error(codes.PermissionDenied, "permission denied: "+err.Error())
	}
	return nil
}

func macaroonOf(ctx context.Context) ([]byte, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("macaroon")
	if len(values) != 1 {
		return nil, errors.New("one macaroon is needed")
	}
	return hex.DecodeString(values[0])
}

// hasUnknown looks for fields, at any depth, that this program's copy of the protocol
// does not have: the signer's may.
func hasUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = found || hasUnknown(v.Message())
		}
		return !found
	})
	return found
}

// denied is how a refusal is told: never as unavailable, at which the node would end.
func denied(err error) error {
	return status.Error(codes.PermissionDenied, err.Error())
}

// passed gives what the signer answered. An answer that failed keeps its code: of an
// unavailable signer the node must hear as if there were no guard.
func passed[T any](got T, err error) (T, error) {
	if err == nil {
		return got, nil
	}
	var none T
	return none, status.Error(status.Code(err), status.Convert(err).Message())
}

// waiting has a request wait for a signer that comes back, as long as the node waits.
func waiting() grpc.CallOption { return grpc.WaitForReady(true) }

func at(loc *signrpc.KeyLocator) ln.KeyLocator {
	return ln.KeyLocator{Family: loc.GetKeyFamily(), Index: loc.GetKeyIndex()}
}

// SignMessage implements lnd's.
func (p *Proxy) SignMessage(ctx context.Context, r *signrpc.SignMessageReq) (*signrpc.SignMessageResp, error) {
	if r.KeyLoc == nil {
		return nil, status.Error(codes.InvalidArgument, "a key locator MUST be passed in")
	}
	if err := p.judge.Message(MessageRequest{
		Key: at(r.KeyLoc), Text: r.Msg, Double: r.DoubleHash, Compact: r.CompactSig,
		Schnorr: r.SchnorrSig || len(r.SchnorrSigTapTweak) > 0 || len(r.Tag) > 0,
	}); err != nil {
		return nil, denied(err)
	}
	return passed(p.up.signer.SignMessage(ctx, r, waiting()))
}

// DeriveSharedKey implements lnd's, in the form in which a watch-only node asks.
func (p *Proxy) DeriveSharedKey(ctx context.Context, r *signrpc.SharedKeyRequest) (*signrpc.SharedKeyResponse, error) {
	if r.KeyLoc != nil || r.KeyDesc.GetKeyLoc() == nil { //nolint:staticcheck // the deprecated field is refused
		return nil, status.Error(codes.InvalidArgument, "a key descriptor with a locator is needed")
	}
	if err := p.judge.SharedKey(SharedKeyRequest{Key: at(r.KeyDesc.KeyLoc), Raw: r.KeyDesc.RawKeyBytes, With: r.EphemeralPubkey}); err != nil {
		return nil, denied(err)
	}
	return passed(p.up.signer.DeriveSharedKey(ctx, r, waiting()))
}

// MuSig2CreateSession implements lnd's. No session comes to a signature here: the other
// methods of MuSig2 are refused.
func (p *Proxy) MuSig2CreateSession(ctx context.Context, r *signrpc.MuSig2SessionRequest) (*signrpc.MuSig2SessionResponse, error) {
	if r.KeyLoc == nil {
		return nil, status.Error(codes.InvalidArgument, "missing key_loc")
	}
	if err := p.judge.MuSig2(MuSig2Request{Key: at(r.KeyLoc), Nonce: r.PregeneratedLocalNonce}); err != nil {
		return nil, denied(err)
	}
	return passed(p.up.signer.MuSig2CreateSession(ctx, r, waiting()))
}

// MuSig2Cleanup implements lnd's: it ends a session.
func (p *Proxy) MuSig2Cleanup(ctx context.Context, r *signrpc.MuSig2CleanupRequest) (*signrpc.MuSig2CleanupResponse, error) {
	return passed(p.up.signer.MuSig2Cleanup(ctx, r, waiting()))
}

// noSignature refuses what would bring a session of MuSig2 to its end. An empty request
// is what the onboarding asks with: it is refused as lnd refuses it, for its form.
func (p *Proxy) noSignature(method string, session []byte) error {
	if len(session) == 0 {
		return status.Error(codes.InvalidArgument, "a session id is needed")
	}
	return denied(p.refused(method, "a signature of MuSig2: behind a guard there are no taproot channels"))
}

// MuSig2RegisterNonces implements lnd's.
func (p *Proxy) MuSig2RegisterNonces(_ context.Context, r *signrpc.MuSig2RegisterNoncesRequest) (*signrpc.MuSig2RegisterNoncesResponse, error) {
	return nil, p.noSignature("MuSig2RegisterNonces", r.SessionId)
}

// MuSig2RegisterCombinedNonce implements lnd's.
func (p *Proxy) MuSig2RegisterCombinedNonce(_ context.Context, r *signrpc.MuSig2RegisterCombinedNonceRequest) (*signrpc.MuSig2RegisterCombinedNonceResponse, error) {
	return nil, p.noSignature("MuSig2RegisterCombinedNonce", r.SessionId)
}

// MuSig2GetCombinedNonce implements lnd's.
func (p *Proxy) MuSig2GetCombinedNonce(_ context.Context, r *signrpc.MuSig2GetCombinedNonceRequest) (*signrpc.MuSig2GetCombinedNonceResponse, error) {
	return nil, p.noSignature("MuSig2GetCombinedNonce", r.SessionId)
}

// MuSig2Sign implements lnd's.
func (p *Proxy) MuSig2Sign(_ context.Context, r *signrpc.MuSig2SignRequest) (*signrpc.MuSig2SignResponse, error) {
	return nil, p.noSignature("MuSig2Sign", r.SessionId)
}

// MuSig2CombineSig implements lnd's.
func (p *Proxy) MuSig2CombineSig(_ context.Context, r *signrpc.MuSig2CombineSigRequest) (*signrpc.MuSig2CombineSigResponse, error) {
	return nil, p.noSignature("MuSig2CombineSig", r.SessionId)
}

// walletPart is the part of lnd's WalletKit that a watch-only node calls. It is
// registered by hand: of the whole service a new method would come with a new lnd.
type walletPart struct{ p *Proxy }

func (w walletPart) signPsbt(ctx context.Context, r *walletrpc.SignPsbtRequest) (*walletrpc.SignPsbtResponse, error) {
	if len(r.FundedPsbt) == 0 {
		// As the onboarding asks whether the method is allowed: nothing that a tenant
		// should find among what was refused.
		return nil, status.Error(codes.InvalidArgument, "a PSBT is needed")
	}
	pass, err := w.p.judge.Psbt(r.FundedPsbt)
	if err != nil {
		return nil, denied(err)
	}
	return passed(w.p.up.wallet.SignPsbt(ctx, &walletrpc.SignPsbtRequest{FundedPsbt: pass}, waiting()))
}

func (w walletPart) deriveKey(ctx context.Context, r *signrpc.KeyLocator) (*signrpc.KeyDescriptor, error) {
	if err := w.p.judge.Key(at(r)); err != nil {
		return nil, denied(err)
	}
	return passed(w.p.up.wallet.DeriveKey(ctx, r, waiting()))
}

type statePart struct{ p *Proxy }

func (s statePart) getState(ctx context.Context, r *lnrpc.GetStateRequest) (*lnrpc.GetStateResponse, error) {
	return passed(s.p.up.state.GetState(ctx, r))
}

const stateMethod = "/lnrpc.State/GetState"

// unary describes a method for grpc, as the generated code does.
func unary[S, Req, Resp any](service, method string, call func(S, context.Context, *Req) (*Resp, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: method, Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := new(Req)
		if err := decode(req); err != nil {
			return nil, err
		}
		part := srv.(S) //nolint:forcetypeassert // registered with it
		info := &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + service + "/" + method}
		return intercept(ctx, req, info, func(ctx context.Context, _ any) (any, error) { return call(part, ctx, req) })
	}}
}
