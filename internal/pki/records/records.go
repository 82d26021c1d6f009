// Package records keeps what has to be known of client certificates that are on no
// host: a folder beside fleet.toml, in git as that is, with a PEM file for each
// certificate that was made here, and revoked.toml. All of it is public; keys are
// refused.
package records

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgfleet/pgfleet/internal/pki"
)

// extension is that of the certificates' files. Others are not looked at.
const extension = ".pem"

// A Folder is the folder of records. What it is asked it reads anew; several
// processes may write to it at once.
type Folder struct {
	dir string
}

// Open returns the folder with that path, which need not exist: it is made when
// something is written.
func Open(dir string) *Folder { return &Folder{dir} }

// Path returns the folder's path.
func (f *Folder) Path() string { return f.dir }

// A Certificate is a certificate in the folder.
type Certificate struct {
	File string // its name in the folder
	Leaf pki.Leaf
	Cert *x509.Certificate
}

// List returns the certificates, ordered by the names of their files; none if there
// is no folder. The error joins what is wrong with each file, and names it.
func (f *Folder) List() ([]Certificate, error) {
	entries, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Certificate
	var errs []error
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != extension || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(f.dir, e.Name()))
		var c Certificate
		if err == nil {
			c, err = parse(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Join(f.dir, e.Name()), err))
			continue
		}
		c.File = e.Name()
		list = append(list, c)
	}
	return list, errors.Join(errs...)
}

// parse reads the first certificate of a PEM file.
func parse(text []byte) (Certificate, error) {
	var c Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		switch {
		case block == nil && c.Cert == nil:
			return c, errors.New("there is no certificate in it")
		case block == nil:
			return c, nil
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return c, errors.New("there is a private key in it, which does not belong among the records: take it out, and treat the key as lost if others could read the file")
		case block.Type == "CERTIFICATE" && c.Cert == nil:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return c, err
			}
			if c.Leaf, err = pki.InspectDER(block.Bytes); err != nil {
				return c, err
			}
			c.Cert = cert
		}
	}
}

// Add writes the first certificate of a PEM text, durably, and returns its file's
// name. One that is there already is left as it is.
func (f *Folder) Add(pemBytes []byte) (string, error) {
	c, err := parse(pemBytes)
	if err != nil {
		return "", fmt.Errorf("certificate: %w", err)
	}
	name := FileName(c.Leaf)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Cert.Raw})
	return name, f.locked(func() error {
		switch old, err := os.ReadFile(filepath.Join(f.dir, name)); {
		case errors.Is(err, fs.ErrNotExist):
			return f.write(name, text)
		case err != nil:
			return err
		default:
			if there, err := parse(old); err != nil || !bytes.Equal(there.Cert.Raw, c.Cert.Raw) {
				return fmt.Errorf("%s is there already, and is another certificate", filepath.Join(f.dir, name))
			}
			return nil
		}
	})
}

// maxName is how much of a name stands in a file's name, which may have 255 bytes
// on Linux's file systems: a role's name, of at most 63 bytes, in any case.
const maxName = 63 * 3

// FileName returns the name of a certificate's file: its common name, as [Name] writes
// it, and its serial number.
func FileName(l pki.Leaf) string {
	return Name(cmp.Or(l.CommonName, "certificate")) + "-" + l.Serial + extension
}

// Name returns the name of a role for a file's name: what is not a letter, a digit,
// ".", "_" or "-" is written as in a URL, and so is a dot or dash at the beginning. Of a
// name that is too long for that there is the beginning and a part of its SHA-256.
func Name(role string) string {
	var b strings.Builder
	for i := range len(role) {
		c := role[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', i > 0 && (c == '.' || c == '-'):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() > maxName {
		sum := sha256.Sum256([]byte(role))
		end := "-" + hex.EncodeToString(sum[:8])
		return b.String()[:maxName-len(end)] + end
	}
	return b.String()
}

// Issuer returns what the records know a CA by, whatever certificates it has: the
// SHA-256 of its SubjectPublicKeyInfo, hexadecimal, lower case.
func Issuer(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// locked makes the folder and runs do while no other process does.
func (f *Folder) locked(do func() error) error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer dir.Close() // and with it goes the lock
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock of %s: %w", f.dir, err)
	}
	return do()
}

// write writes a file, whole or not at all, and durably.
func (f *Folder) write(name string, text []byte) error {
	temp, err := os.CreateTemp(f.dir, ".pgfleet-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), filepath.Join(f.dir, name)); err != nil {
		return err
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Of returns the certificates of a role, those whose common name it is.
func Of(list []Certificate, role string) []Certificate {
	return slices.DeleteFunc(slices.Clone(list), func(c Certificate) bool { return c.Leaf.CommonName != role })
}
