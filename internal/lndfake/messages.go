package lndfake

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
)

const signedPrefix = "Lightning Signed Message:"

const zbase32 = "ybndrfg8ejkmcpqxot1uwisza345h769"

func zEncode(b []byte) string {
	var sb strings.Builder
	for bit := 0; bit < len(b)*8; bit += 5 {
		v := 0
		for k := range 5 {
			v <<= 1
			if i := bit + k; i < len(b)*8 && b[i/8]>>(7-i%8)&1 == 1 {
				v |= 1
			}
		}
		sb.WriteByte(zbase32[v])
	}
	return sb.String()
}

func zDecode(s string) ([]byte, error) {
	out := make([]byte, len(s)*5/8)
	for i, r := range s {
		v := strings.IndexRune(zbase32, r)
		if v < 0 {
			return nil, errors.New("failed to decode signature")
		}
		for k := range 5 {
			if bit := i*5 + k; bit/8 < len(out) && v>>(4-k)&1 == 1 {
				out[bit/8] |= 1 << (7 - bit%8)
			}
		}
	}
	return out, nil
}

// SignMessage implements lnrpc.LightningServer.
func (s *lightningServer) SignMessage(_ context.Context, r *lnrpc.SignMessageRequest) (*lnrpc.SignMessageResponse, error) {
	if r.Msg == nil {
		return nil, errors.New("need a message to sign")
	}
	msg := append([]byte(signedPrefix), r.Msg...)
	digest := chainhash.DoubleHashB(msg)
	if r.SingleHash {
		digest = chainhash.HashB(msg)
	}
	return &lnrpc.SignMessageResponse{Signature: zEncode(ecdsa.SignCompact(s.node.key, digest, true))}, nil
}

// VerifyMessage implements lnrpc.LightningServer; valid means that the key is a node of the world's, as lnd's means
// a node of the graph.
func (s *lightningServer) VerifyMessage(_ context.Context, r *lnrpc.VerifyMessageRequest) (*lnrpc.VerifyMessageResponse, error) {
	sig, err := zDecode(r.Signature)
	if err != nil {
		return nil, err
	}
	pub, _, err := ecdsa.RecoverCompact(sig, chainhash.DoubleHashB(append([]byte(signedPrefix), r.Msg...)))
	if err != nil {
		return &lnrpc.VerifyMessageResponse{}, nil //nolint:nilerr // as lnd: a bad signature is an answer, not an error
	}
	out := &lnrpc.VerifyMessageResponse{Pubkey: hex.EncodeToString(pub.SerializeCompressed())}
	err = s.do(func() error { out.Valid = s.node.w.byPub[out.Pubkey] != nil; return nil })
	return out, err
}
