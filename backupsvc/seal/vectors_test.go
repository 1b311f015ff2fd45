package seal_test

import (
	"crypto/sha256"
	"encoding/hex"
)

// The vectors of docs/backups.md, on regtest: 32 bytes of 07 in the place of
// the ECDH, and a nonce of zeros.
const (
	vectorPoint      = "02968b065a431c50209ca9ff1322904fe0f37352d097cccd38fa49e21a931ff21e"
	vectorKeyFile    = "sluice-backup-key-1 seed regtest cf164c14497013c4317f776fefcba9569afa0d4cce51da8389cb6eb40b776f65\n"
	vectorPassphrase = "sluice-backup-key-1 passphrase regtest da358e145a1b61f49c2a775e4093a7a09cb6f958ac758f178c07d1a2c5ca4cdb\n"
	vectorID         = "5d09eff5f9948944457ff3a642fea87a"
	vectorPlace      = "ddb2f5ff4374ba7e69f5733ad1b46a68"
	vectorAuth       = "027793c5e5f686c96ff53a9feb86498e155553d11629e11a78b991c029857eecb6"
	vectorBegin      = "534c55494345424b01010000000000000000000000000000000000000000000000006c25e9f592b36dfa7b9c3e22203d067c2e1e670a5364f8531b7ec2b65c52aa4db7739380648c6ad8"
	vectorSealed     = "b90264ae41e905f4dcfdc4329b6e3cc5366d0f6ad3d470f9decb03ba588f52b2"
)

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
