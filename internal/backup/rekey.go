package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"
)

// generation takes apart the name of a file that was encrypted anew: appdb.dump.r2.age
// is appdb.dump.age in its generation 2. A file as it was made has generation 0.
func generation(name string) (base string, n int) {
	stem, ok := strings.CutSuffix(name, ".age")
	if !ok {
		return name, 0
	}
	i := strings.LastIndex(stem, ".r")
	if i < 0 {
		return name, 0
	}
	n, err := strconv.Atoi(stem[i+2:])
	if err != nil || n < 1 || strconv.Itoa(n) != stem[i+2:] {
		return name, 0
	}
	return stem[:i] + ".age", n
}

// inGeneration returns the name of a file in a generation.
func inGeneration(base string, n int) string {
	return strings.TrimSuffix(base, ".age") + ".r" + strconv.Itoa(n) + ".age"
}

// Stale reports whether the set is encrypted to others than these recipients.
func (m *Manifest) Stale(recipients []string) bool {
	keys := func(list []string) []string {
		var out []string
		for _, r := range list {
			out = append(out, recipientKey(r))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return !slices.Equal(keys(m.Encryption.Recipients), keys(recipients))
}

// recipientKey is a recipient without the comment of an SSH key.
func recipientKey(r string) string {
	if fields := strings.Fields(r); len(fields) > 2 {
		return fields[0] + " " + fields[1]
	}
	return strings.TrimSpace(r)
}

// Leftovers returns the names in the target of files of other generations than those
// that the manifest lists: what an interrupted rekey has left.
func (s *Set) Leftovers() []string {
	var names []string
	if s.Manifest == nil {
		return nil
	}
	for _, o := range s.Objects {
		base, n := generation(strings.TrimSuffix(o.Name, PartialSuffix))
		for _, f := range s.Manifest.Files {
			if listed, m := generation(f.Name); listed == base && (m != n || strings.HasSuffix(o.Name, PartialSuffix)) {
				names = append(names, path.Join(s.Folder(), o.Name))
			}
		}
	}
	return names
}

// CheckRecipients refuses recipients of which no identity of the reader is one: what is encrypted
// to them could not be compared, nor be read from here ever after.
func (r *Reader) CheckRecipients(recipients []age.Recipient) error {
	var text bytes.Buffer
	w, err := age.Encrypt(&text, recipients...)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err = age.Decrypt(&text, r.Identities...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return errors.New("none of the identities here is among the recipients, so what is encrypted anew could not be read again: add its public key to the recipients")
	}
	return err
}

// Rekey encrypts the set's files anew, to the recipients, which are also given as they are written in
// the manifest. Each file is written beside the old one and read again; the manifest comes last, and then the old
// files are removed. So the set is good all the time, whenever it ends.
func (r *Reader) Rekey(ctx context.Context, recipients []age.Recipient, written []string, tool string, tell func(string)) error {
	if tell == nil {
		tell = func(string) {}
	}
	old := r.Set.Manifest
	next := 1
	for _, f := range old.Files {
		_, n := generation(f.Name)
		next = max(next, n+1)
	}
	m := *old
	m.Encryption = Encryption{Tool: tool, Recipients: slices.Clone(written)}
	m.Files = nil
	var remove []string
	for _, f := range old.Files {
		tell("encrypting " + f.Name)
		base, _ := generation(f.Name)
		made, err := r.rekeyFile(ctx, f, inGeneration(base, next), recipients)
		if err != nil {
			return r.named(f, err)
		}
		m.Files = append(m.Files, made)
		remove = append(remove, path.Join(r.Set.Folder(), f.Name))
	}
	text, err := Encode(&m)
	if err != nil {
		return err
	}
	if _, err := ParseManifest(text); err != nil {
		return err
	}
	if _, _, err := r.Target.Put(ctx, path.Join(r.Set.Folder(), ManifestName), bytes.NewReader(text)); err != nil {
		return err
	}
	// The contents are proven as before.
	if p := r.Set.Proven(); p != nil {
		carried := *p
		sum := sha256.Sum256(text)
		carried.ManifestSHA256 = hex.EncodeToString(sum[:])
		if err := PutProof(ctx, r.Target, r.Set, &carried); err != nil {
			return err
		}
	}
	// What an interrupted rekey has left may have the names that the files have now.
	for _, name := range r.Set.Leftovers() {
		if _, listed := m.File(path.Base(name)); !listed {
			remove = append(remove, name)
		}
	}
	return r.Target.Remove(ctx, remove...)
}

// rekeyFile encrypts one file anew, and compares what both hold.
func (r *Reader) rekeyFile(ctx context.Context, f File, name string, recipients []age.Recipient) (File, error) {
	was := sha256.New()
	made := f
	made.Name = name
	err := r.Stream(ctx, f, func(plain io.Reader) (err error) {
		cipher, fill := io.Pipe()
		go func() { fill.CloseWithError(encrypt(fill, io.TeeReader(plain, was), recipients)) }()
		made.Bytes, made.SHA256, err = r.Target.Put(ctx, path.Join(r.Set.Folder(), name), cipher)
		cipher.CloseWithError(io.ErrClosedPipe) // a target that failed leaves the rest
		return err
	})
	if err != nil {
		return File{}, err
	}
	is := sha256.New()
	err = r.Stream(ctx, made, func(plain io.Reader) error {
		_, err := io.Copy(is, plain)
		return err
	})
	if err != nil {
		return File{}, err
	}
	if !bytes.Equal(was.Sum(nil), is.Sum(nil)) {
		return File{}, fmt.Errorf("%s holds something else than %s after it was encrypted anew; the set is as it was", name, f.Name)
	}
	return made, nil
}

func encrypt(w io.Writer, plain io.Reader, recipients []age.Recipient) error {
	sealed, err := age.Encrypt(w, recipients...)
	if err != nil {
		return err
	}
	if _, err := io.Copy(sealed, plain); err != nil {
		return err // not closed: it must not look whole
	}
	return sealed.Close()
}

// PutProof writes what verifying a set has come to.
func PutProof(ctx context.Context, t Target, s *Set, p *Proof) error {
	text, err := Encode(p)
	if err != nil {
		return err
	}
	_, _, err = t.Put(ctx, path.Join(s.Folder(), ProofName), bytes.NewReader(text))
	return err
}
