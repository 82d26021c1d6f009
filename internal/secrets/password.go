package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
)

// passwordBytes is how many random bytes a generated password has: 256 bits.
const passwordBytes = 32

// GeneratePassword returns a new password of 32 random bytes in base64url without
// padding (43 characters): unlike base64's '+' and '/', all of its characters may
// stand in a connection URI as they are.
func GeneratePassword() Secret {
	b := make([]byte, passwordBytes)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return NewString(base64.RawURLEncoding.EncodeToString(b))
}

// NewPassword returns a password of length characters, each one of alphabet, which
// are single bytes, with the same probability. It panics if alphabet is empty.
func NewPassword(length int, alphabet string) Secret {
	b := make([]byte, length)
	most := big.NewInt(int64(len(alphabet)))
	for i := range b {
		n, _ := rand.Int(rand.Reader, most) // never fails: crypto/rand ends the program instead
		b[i] = alphabet[n.Int64()]
	}
	return New(b)
}

// CheckPassword returns an error if PostgreSQL and its clients might disagree on
// the password: it must be printable ASCII and not empty. The server normalises
// other characters with SASLprep (RFC 4013, NFKC), pgx with OpaqueString (RFC 8265,
// NFC), so the same password hashes differently. The error does not hold the
// password.
func CheckPassword(password Secret) error {
	b := password.bytes()
	if len(b) == 0 {
		return errors.New("the password is empty")
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			return fmt.Errorf("the password's byte %d of %d is not printable ASCII: servers and clients normalise such characters differently, and logins would fail", i+1, len(b))
		}
	}
	return nil
}
