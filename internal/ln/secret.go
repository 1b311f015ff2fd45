package ln

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Secret is a preimage inside a stored state. It prints as the prefix of its
// hash; only its JSON form, which goes to the database and nowhere else, holds
// the secret: states with a Secret must not be logged as JSON.
type Secret struct{ preimage Preimage }

// NewSecret keeps a preimage for storage.
func NewSecret(p Preimage) Secret { return Secret{preimage: p} }

// Preimage gives the secret back.
func (s Secret) Preimage() Preimage { return s.preimage }

// IsZero reports that no preimage is known.
func (s Secret) IsZero() bool { return s.preimage.IsZero() }

func (s Secret) String() string { return s.preimage.String() }

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return s.preimage.String() }

// MarshalJSON is the stored form.
func (s Secret) MarshalJSON() ([]byte, error) {
	return []byte(`"` + hex.EncodeToString(s.preimage.Bytes()) + `"`), nil
}

// UnmarshalJSON reads the stored form.
func (s *Secret) UnmarshalJSON(b []byte) error {
	if len(b) != 2+2*len(s.preimage) || b[0] != '"' || b[len(b)-1] != '"' {
		return fmt.Errorf("stored preimage has %d bytes of JSON, not %d", len(b), 2+2*len(s.preimage))
	}
	if _, err := hex.Decode(s.preimage[:], b[1:len(b)-1]); err != nil {
		// The error of hex names the offending byte: a part of the secret.
		return errors.New("stored preimage is not hexadecimal")
	}
	return nil
}
