package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// SCRAMIterations is the iteration count of the server's own verifiers, and the least that RFC 7677 allows.
const SCRAMIterations = 4096

// SCRAMSaltLen is the length in bytes of the salt in the server's own verifiers.
const SCRAMSaltLen = 16

const (
	scramPrefix = "SCRAM-SHA-256$"
	maxPassword = 1024 // what libpq and psql take
)

// CheckPassword returns an error if a password cannot be used with the same meaning everywhere: empty, or with a character outside of printable
// ASCII, which the server (SASLprep) and clients (libpq, pgx) normalise in different ways. The error does not hold the password.
func CheckPassword(password string) error {
	if password == "" {
		return errors.New("the password is empty")
	}
	if len(password) > maxPassword {
		return fmt.Errorf("the password has more than %d characters", maxPassword)
	}
	for i, c := range []byte(password) {
		if c < 0x20 || c > 0x7e {
			return fmt.Errorf("character %d of the password is not printable ASCII: clients and server would normalise it differently", i+1)
		}
	}
	return nil
}

// SCRAMVerifier returns what the server stores for a password (RFC 5803): ALTER ROLE ... PASSWORD 'verifier' keeps it
// verbatim. The salt is random, [SCRAMSaltLen] bytes or more; iterations is at least [SCRAMIterations].
func SCRAMVerifier(password string, salt []byte, iterations int) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	if len(salt) < SCRAMSaltLen {
		return "", fmt.Errorf("the salt has %d bytes; at least %d are needed", len(salt), SCRAMSaltLen)
	}
	if iterations < SCRAMIterations {
		return "", fmt.Errorf("%d iterations are too few; at least %d are needed", iterations, SCRAMIterations)
	}
	v, err := computeVerifier(password, salt, iterations)
	if err != nil {
		return "", err
	}
	return v.String(), nil
}

// A Verifier is a stored SCRAM-SHA-256 password taken apart. It is no plaintext, and still a secret: it lets one guess
// passwords offline and play the server.
type Verifier struct {
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// String returns the verifier as the server stores it.
func (v Verifier) String() string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s%d:%s$%s:%s", scramPrefix, v.Iterations, encode(v.Salt), encode(v.StoredKey), encode(v.ServerKey))
}

func computeVerifier(password string, salt []byte, iterations int) (Verifier, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return Verifier{}, err
	}
	clientKey := keyed(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	return Verifier{Iterations: iterations, Salt: salt, StoredKey: stored[:], ServerKey: keyed(salted, "Server Key")}, nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// errVerifier never holds the text: it may be a password.
var errVerifier = errors.New("not a SCRAM-SHA-256 verifier: the server would take it for a password in clear")

// ParseVerifier takes a stored password apart. It accepts exactly what the server accepts as a verifier; anything else the
// server silently hashes as if it were a password in clear. The error does not hold the text.
func ParseVerifier(stored string) (Verifier, error) {
	rest, ok := strings.CutPrefix(stored, scramPrefix)
	if !ok {
		return Verifier{}, errVerifier
	}
	head, keys, ok := strings.Cut(rest, "$")
	count, salt, ok2 := strings.Cut(head, ":")
	storedKey, serverKey, ok3 := strings.Cut(keys, ":")
	if !ok || !ok2 || !ok3 {
		return Verifier{}, errVerifier
	}
	iterations, err := strconv.Atoi(count)
	if err != nil || iterations < 1 || count != strconv.Itoa(iterations) {
		return Verifier{}, errVerifier
	}
	v := Verifier{Iterations: iterations}
	for _, part := range []struct {
		text string
		into *[]byte
		size int
	}{{salt, &v.Salt, 0}, {storedKey, &v.StoredKey, sha256.Size}, {serverKey, &v.ServerKey, sha256.Size}} {
		b, err := base64.StdEncoding.Strict().DecodeString(part.text)
		if err != nil || len(b) == 0 || part.size > 0 && len(b) != part.size || strings.ContainsAny(part.text, "\r\n") {
			return Verifier{}, errVerifier
		}
		*part.into = b
	}
	return v, nil
}

// Matches reports, in constant time, whether a stored verifier is that of a password. It is false for what is no verifier and
// for a password that [CheckPassword] refuses.
func Matches(verifier, password string) bool {
	v, err := ParseVerifier(verifier)
	if err != nil || CheckPassword(password) != nil {
		return false
	}
	want, err := computeVerifier(password, v.Salt, v.Iterations)
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(want.StoredKey, v.StoredKey)&subtle.ConstantTimeCompare(want.ServerKey, v.ServerKey) == 1
}
