package records

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/pgfleet/pgfleet/inventory"
)

// RevokedFile is the name of the file, in the folder, of what is revoked.
const RevokedFile = "revoked.toml"

// head is what a new file begins with.
const head = `# Certificates that are revoked. pgfleet certs revoke adds to it; the revocation
# lists on the hosts (tasks of the kind crl_file) hold what stands here. What is taken
# out here stays in them; with reason = "removeFromCRL" an entry is left out of them.
`

// A Revocation says that a certificate is revoked.
type Revocation struct {
	Serial  string // hexadecimal, lower case, as [pki.Leaf] has it
	Issuer  string // as [Issuer] says it
	Subject string // for people
	At      time.Time
	Reason  string // one of [Reasons], [RemoveFromCRL], or empty
}

// RemoveFromCRL is the reason, by its name in RFC 5280, 5.3.1, of an entry that takes a
// revocation back.
const RemoveFromCRL = "removeFromCRL"

// Restored reports whether the entry takes a revocation back.
func (r Revocation) Restored() bool { return r.Reason == RemoveFromCRL }

// InForce returns those that are not taken back.
func InForce(list []Revocation) []Revocation {
	return slices.DeleteFunc(slices.Clone(list), Revocation.Restored)
}

// reasons are the names that OpenSSL's ca -crl_reason has for the reasons of RFC
// 5280, 5.3.1, and their numbers. Those that do not end a certificate are left away.
var reasons = []struct {
	name string
	code int
}{
	{"unspecified", 0}, {"keyCompromise", 1}, {"CACompromise", 2}, {"affiliationChanged", 3}, {"superseded", 4}, {"cessationOfOperation", 5},
}

// Reasons returns the reasons that there are, as `openssl ca -crl_reason` names them.
func Reasons() []string {
	var names []string
	for _, r := range reasons {
		names = append(names, r.name)
	}
	return names
}

// Number returns the serial number.
func (r Revocation) Number() *big.Int {
	n, _ := new(big.Int).SetString(r.Serial, 16)
	return n
}

// ReasonCode returns the reason's number in a revocation list (RFC 5280, 5.3.1), 0
// for none.
func (r Revocation) ReasonCode() int {
	for _, known := range reasons {
		if known.name == r.Reason {
			return known.code
		}
	}
	return 0
}

// ReasonOf returns the name of a reason by its number in a revocation list; "" for none
// and for those that are not among [Reasons].
func ReasonOf(code int) string {
	for _, known := range reasons {
		if known.code == code && code != 0 {
			return known.name
		}
	}
	return ""
}

// check returns what is wrong with the revocation, by its key.
func (r Revocation) check() (key string, err error) {
	if n, ok := new(big.Int).SetString(r.Serial, 16); !ok || n.Sign() <= 0 {
		return "serial", fmt.Errorf("serial %q is not a serial number in hexadecimal digits", r.Serial)
	}
	if b, err := hex.DecodeString(r.Issuer); err != nil || len(b) != 32 {
		return "issuer", fmt.Errorf("issuer %q is not the SHA-256 of a CA's public key: 64 hexadecimal digits", r.Issuer)
	}
	if r.Reason != "" && !r.Restored() && !slices.Contains(Reasons(), r.Reason) {
		return "reason", fmt.Errorf("reason %q is none of %s, and %s", r.Reason, strings.Join(Reasons(), ", "), RemoveFromCRL)
	}
	if r.At.IsZero() {
		return "at", errors.New("at, the time of the revocation, is missing")
	}
	return "", nil
}

// normal returns the revocation with its numbers as others compare them.
func (r Revocation) normal() Revocation {
	serial := strings.ToLower(strings.ReplaceAll(r.Serial, ":", ""))
	if n, ok := new(big.Int).SetString(serial, 16); ok {
		serial = n.Text(16)
	}
	r.Serial, r.Issuer = serial, strings.ToLower(r.Issuer)
	r.At = r.At.UTC()
	return r
}

func (r Revocation) same(other Revocation) bool {
	return r.Serial == other.Serial && r.Issuer == other.Issuer
}

// Revoked returns what is revoked of an issuer's certificates, or of all if issuer is
// empty, in the file's order and each once, by its last entry; nothing if there is no
// file. Those that were taken back are among them. Mistakes in the file have their
// positions ([inventory.Errors]).
func (f *Folder) Revoked(issuer string) ([]Revocation, error) {
	_, list, err := f.readRevoked()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(r Revocation) bool { return issuer != "" && r.Issuer != strings.ToLower(issuer) }), nil
}

// Revoke adds to the file what is not in it, behind all that is, durably and at once.
// It returns what was added.
func (f *Folder) Revoke(revocations ...Revocation) ([]Revocation, error) {
	var added []Revocation
	err := f.locked(func() error {
		text, list, err := f.readRevoked()
		if err != nil {
			return err
		}
		if len(text) == 0 {
			text = []byte(head)
		}
		if !bytes.HasSuffix(text, []byte("\n")) {
			text = append(text, '\n')
		}
		for _, r := range revocations {
			r = r.normal()
			r.At = r.At.Truncate(time.Second)
			if _, err := r.check(); err != nil {
				return err
			}
			if slices.ContainsFunc(list, func(o Revocation) bool { return o.same(r) && o.Restored() == r.Restored() }) {
				continue
			}
			entry, err := r.toml()
			if err != nil {
				return err
			}
			list, added = append(slices.DeleteFunc(list, r.same), r), append(added, r)
			text = append(text, entry...)
		}
		if len(added) == 0 {
			return nil
		}
		// What cannot be read again must not replace what can.
		if _, err := parseRevoked(f.revokedPath(), text); err != nil {
			return err
		}
		return f.write(RevokedFile, text)
	})
	if err != nil {
		return nil, err
	}
	return added, nil
}

func (f *Folder) revokedPath() string { return filepath.Join(f.dir, RevokedFile) }

func (f *Folder) readRevoked() ([]byte, []Revocation, error) {
	text, err := os.ReadFile(f.revokedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	list, err := parseRevoked(f.revokedPath(), text)
	return text, list, err
}

// revokedTable is an entry of the file.
type revokedTable struct {
	Serial  inventory.Positioned[string]    `toml:"serial"`
	Issuer  inventory.Positioned[string]    `toml:"issuer"`
	Subject string                          `toml:"subject"`
	At      inventory.Positioned[time.Time] `toml:"at"`
	Reason  inventory.Positioned[string]    `toml:"reason"`
}

func parseRevoked(path string, text []byte) ([]Revocation, error) {
	root, errs := inventory.Parse(path, text)
	if root == nil {
		return nil, errs.Err()
	}
	var file struct {
		Revoked []inventory.Positioned[revokedTable] `toml:"revoked"`
	}
	errs = append(errs, inventory.Decode(root, &file)...)
	var list []Revocation
	for _, p := range file.Revoked {
		t := p.Value
		r := Revocation{Serial: t.Serial.Value, Issuer: t.Issuer.Value, Subject: t.Subject, At: t.At.Value, Reason: t.Reason.Value}.normal()
		if key, err := r.check(); err != nil {
			pos := map[string]inventory.Position{"serial": t.Serial.Pos(), "issuer": t.Issuer.Pos(), "at": t.At.Pos(), "reason": t.Reason.Pos()}[key]
			if pos == (inventory.Position{}) {
				pos = p.Pos()
			}
			errs.Add(pos, "%v", err)
			continue
		}
		if i := slices.IndexFunc(list, r.same); i >= 0 {
			list[i] = r
		} else {
			list = append(list, r)
		}
	}
	return list, errs.Sorted().Err()
}

// toml is the entry for the file.
func (r Revocation) toml() ([]byte, error) {
	type entry struct {
		Serial  string    `toml:"serial"`
		Issuer  string    `toml:"issuer"`
		Subject string    `toml:"subject,omitempty"`
		At      time.Time `toml:"at"`
		Reason  string    `toml:"reason,omitempty"`
	}
	file := struct {
		Revoked []entry `toml:"revoked"`
	}{[]entry{{r.Serial, r.Issuer, strings.ToValidUTF8(r.Subject, "\ufffd"), r.At, r.Reason}}}
	b := bytes.NewBufferString("\n")
	e := toml.NewEncoder(b)
	e.Indent = ""
	err := e.Encode(file)
	return b.Bytes(), err
}
