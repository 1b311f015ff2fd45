package remotesigner

import (
	"errors"
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/protobuf/proto"
	"gopkg.in/macaroon.v2"
)

// MintHost makes the macaroon that a guard gives its host, in lnd's form, so that lnd
// and the checks read it like a signer's. Another root key makes it worth nothing.
func MintHost(rootKey []byte, methods []string) ([]byte, error) {
	id, err := proto.Marshal(&lnrpc.MacaroonId{Nonce: []byte("sluice guard"), StorageId: []byte("guard"), Ops: []*lnrpc.Op{{Entity: "uri", Actions: methods}}})
	if err != nil {
		return nil, err
	}
	m, err := macaroon.New(rootKey, append([]byte{idVersion}, id...), "lnd", macaroon.LatestVersion)
	if err != nil {
		return nil, fmt.Errorf("make the host's macaroon: %w", err)
	}
	return m.MarshalBinary()
}

// VerifyHost says whether a macaroon is of a root key. One that was narrowed is refused:
// nobody narrows it, and a guard would have to know how.
func VerifyHost(rootKey, raw []byte) error {
	var m macaroon.Macaroon
	if err := m.UnmarshalBinary(raw); err != nil {
		return errors.New("the macaroon cannot be read")
	}
	if err := m.Verify(rootKey, func(string) error { return errors.New("a caveat") }, nil); err != nil {
		return errors.New("cannot get macaroon: it is not the one that this guard gave its host, or was revoked")
	}
	return nil
}
