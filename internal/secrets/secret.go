package secrets

import (
	"crypto/subtle"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
)

// Mask is what stands in the place of a secret wherever it is printed.
const Mask = "••••"

// A Secret is a value that must not be seen: a password, a verifier, a private
// key. However it is printed, formatted, logged or encoded, it shows as [Mask],
// also when it is empty, and also from within another value. [Secret.Expose] is
// the only way to the bytes.
//
// The zero value is an empty secret. A Secret is immutable and may be copied and
// used by several goroutines at once. It cannot be compared with ==; use
// [Secret.Equal]. The bytes stay in memory until they are collected: Go gives no
// means to wipe them for certain.
type Secret struct {
	// The bytes are held by a closure rather than by a field, because fmt does
	// not call the methods of a value in an unexported field but prints what it
	// finds there by reflection, and reflection cannot look into a closure.
	reveal func() []byte
}

// New returns a secret that holds a copy of value.
func New(value []byte) Secret {
	if len(value) == 0 {
		return Secret{}
	}
	held := append([]byte(nil), value...)
	return Secret{reveal: func() []byte { return held }}
}

// NewString returns a secret that holds value.
func NewString(value string) Secret {
	return New([]byte(value))
}

// bytes returns the secret's own bytes, which must not be changed.
func (s Secret) bytes() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Expose returns a copy of the secret's bytes, nil if it is empty. It is the only
// way out: what it returns may be sent to a host or written to a store, and
// nowhere else.
func (s Secret) Expose() []byte {
	return append([]byte(nil), s.bytes()...)
}

// IsEmpty reports whether the secret holds nothing.
func (s Secret) IsEmpty() bool {
	return len(s.bytes()) == 0
}

// Equal reports whether both secrets hold the same bytes, in a time that depends
// on their lengths alone.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.bytes(), other.bytes()) == 1
}

// String returns [Mask].
func (Secret) String() string { return Mask }

// GoString returns [Mask].
func (Secret) GoString() string { return Mask }

// Format writes [Mask], whatever the verb and its flags.
func (Secret) Format(f fmt.State, _ rune) {
	// A failed write to a fmt.State is the caller's own writer failing.
	_, _ = f.Write([]byte(Mask))
}

// LogValue returns [Mask], for log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(Mask) }

// MarshalText returns [Mask]. There is no UnmarshalText: what was written masked
// cannot be read back.
func (Secret) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// MarshalJSON returns [Mask] as a JSON string.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + Mask + `"`), nil }

// MarshalTOML returns [Mask] as a TOML string.
func (Secret) MarshalTOML() ([]byte, error) { return []byte(`"` + Mask + `"`), nil }

// Value refuses: as a query's argument the mask would be stored in the secret's
// place without anybody noticing.
func (Secret) Value() (driver.Value, error) {
	return nil, errors.New("a secret cannot be an argument of a query: expose it where the statement is sent")
}
