package rpcserver

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// errorDomain marks our reasons in gRPC's error details.
const errorDomain = "sluice"

// Code is the one mapping from kinds to gRPC codes.
func Code(kind errkind.Kind) codes.Code {
	switch kind {
	case errkind.Invalid:
		return codes.InvalidArgument
	case errkind.NotFound:
		return codes.NotFound
	case errkind.Conflict:
		return codes.FailedPrecondition
	case errkind.Exhausted:
		return codes.ResourceExhausted
	case errkind.Unavailable:
		return codes.Unavailable
	case errkind.Unauthenticated:
		return codes.Unauthenticated
	case errkind.Denied:
		return codes.PermissionDenied
	case errkind.Unimplemented:
		return codes.Unimplemented
	case errkind.Internal:
		return codes.Internal
	}
	return codes.Internal
}

// HTTPStatus is the one mapping from our gRPC codes to HTTP.
func HTTPStatus(code codes.Code) int {
	switch code {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return 499 // the client closed the request
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

// ErrPaymentRequired is L402's own answer, whose code and words its clients look
// for; the challenge stands in the trailer.
var ErrPaymentRequired = errors.New("payment required")

// ownStatus is an error that a service has made a status of itself, for callers that
// act on its reasons: ErrorInfo's domain is "<service>.sluice". gRPC's own services
// (health, reflection) speak gRPC's codes.
func ownStatus(method string, err error) (*status.Status, bool) {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.Internal || s.Code() == codes.Unknown {
		return nil, false
	}
	if strings.HasPrefix(method, "/grpc.") {
		return s, true
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && strings.HasSuffix(info.GetDomain(), "."+errorDomain) {
			return s, true
		}
	}
	return nil, false
}

// toStatus makes what the caller sees of an error. Only an error with a kind
// is shown, and of it only the sentence: a status that a handler passed on
// from another server (lnd's, say) tells of our insides and counts as
// internal.
func toStatus(ctx context.Context, method string, err error, requestID string) *status.Status {
	kind := errkind.Of(err)
	hasKind := kind != errkind.Internal
	if s, own := ownStatus(method, err); own {
		return s
	}
	switch {
	case hasKind:
	case errors.Is(err, ErrPaymentRequired):
		return status.New(codes.Internal, ErrPaymentRequired.Error())
	case ctx.Err() != nil && (errors.Is(err, ctx.Err()) || status.Code(err) == status.FromContextError(ctx.Err()).Code()):
		return status.FromContextError(ctx.Err())
	case status.Code(err) == codes.Unimplemented:
		return detailed(codes.Unimplemented, "This server does not offer that call: check the client's version against the server's.", errkind.NotFound, requestID)
	default:
		return detailed(codes.Internal, "Something went wrong on the server. Quote request "+requestID+" to its operator.", errkind.Internal, requestID)
	}
	sentence := errkind.Sentence(err)
	if sentence == "" {
		sentence = "The call was refused (" + string(kind) + "). Quote request " + requestID + " to the server's operator."
	}
	return detailed(Code(kind), sentence, kind, requestID)
}

func detailed(code codes.Code, sentence string, kind errkind.Kind, requestID string) *status.Status {
	s := status.New(code, sentence)
	with, err := s.WithDetails(
		&errdetails.ErrorInfo{Reason: string(kind), Domain: errorDomain},
		&errdetails.RequestInfo{RequestId: requestID},
	)
	if err != nil {
		return s
	}
	return with
}

// FromStatus is the client's side: it gives an error from a call its kind and
// sentence back. An error that is not from our server keeps its text and gets
// the kind nearest to its code.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return errkind.Wrap(errkind.Kind(info.GetReason()), err, s.Message())
		}
	}
	for _, kind := range errkind.Kinds() {
		if Code(kind) == s.Code() {
			return errkind.Wrap(kind, err, s.Message())
		}
	}
	return errkind.Wrap(errkind.Internal, err, s.Message())
}
