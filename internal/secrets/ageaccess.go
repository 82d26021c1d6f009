package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"
)

// An Access says who can open a secret's file, and who should. Public keys are as
// they were written in fleet.toml; SSH keys that differ in their comments alone are
// the same.
type Access struct {
	Recipients []string // to whom the file was encrypted
	Added      []string // are configured, and cannot open it yet
	Removed    []string // can open it, and are configured no longer
	// Foreign is set when the file's header does not fit Recipients: something else
	// than pgfleet has encrypted it, and who can open it is not known.
	Foreign bool
}

// Stale reports whether the secret has to be encrypted anew for the configured
// recipients, and no others, to be able to open it.
func (a Access) Stale() bool {
	return a.Foreign || len(a.Added) > 0 || len(a.Removed) > 0
}

// Access compares the recipients of the secret at path with those that are
// configured. The header of an age file does not name its recipients, so whoever
// writes one keeps the list inside; the number and the types of the header's stanzas,
// and the tags that those of SSH keys have, must fit it.
func (s *AgeStore) Access(ctx context.Context, path string) (Access, error) {
	_, configured, err := s.parseRecipients()
	if err != nil {
		return Access{}, s.fail(path, err)
	}
	name, cipher, err := s.readFile(ctx, path)
	if err != nil {
		return Access{}, s.fail(path, err)
	}
	f, err := s.decrypt(name, cipher)
	if err != nil {
		return Access{}, s.fail(path, err)
	}
	return Access{
		Recipients: f.Recipients,
		Added:      recipientsWithout(configured, f.Recipients),
		Removed:    recipientsWithout(f.Recipients, configured),
		Foreign:    !slices.Equal(stanzasOf(f.Recipients), stanzasIn(cipher)),
	}, nil
}

// CheckRecipients returns an error if the configured recipients cannot be used, or
// if none of the identities is among them: what is written could not be read.
func (s *AgeStore) CheckRecipients() error {
	recipients, _, err := s.parseRecipients()
	if err == nil {
		err = s.checkOwn(recipients)
	}
	if err != nil {
		return fmt.Errorf("secret store age: %w", err)
	}
	return nil
}

func (s *AgeStore) checkOwn(recipients []age.Recipient) error {
	cipher, err := (&ageFile{Format: ageFormat}).encrypt(recipients)
	if err != nil {
		return err
	}
	_, err = s.decrypt("", cipher)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return &hintedError{
			fmt.Errorf("none of the identities (%s) is among the recipients in fleet.toml: you could not read what you write", strings.Join(s.identities.names, ", ")),
			s.ownRecipients(),
		}
	}
	return err
}

// recipientsWithout returns those of list that are not among others.
func recipientsWithout(list, others []string) []string {
	var left []string
	for _, r := range list {
		if !slices.ContainsFunc(others, func(o string) bool { return recipientKey(o) == recipientKey(r) }) {
			left = append(left, r)
		}
	}
	return left
}

// recipientKey returns a recipient without the comment that an SSH key may have.
func recipientKey(s string) string {
	fields := strings.Fields(s)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

// stanzasOf returns what is known of the stanzas that a file for these recipients
// has, sorted; nil if one of them cannot be read.
func stanzasOf(written []string) []string {
	var all []string
	for _, w := range written {
		r, err := parseRecipient(w)
		if err != nil {
			return nil
		}
		// The key of no file: only the form of the stanza is looked at.
		stanzas, err := r.Wrap(make([]byte, 16))
		if err != nil {
			return nil
		}
		for _, stanza := range stanzas {
			all = append(all, stanzaForm(stanza))
		}
	}
	slices.Sort(all)
	return all
}

// stanzasIn returns the same of a file.
func stanzasIn(cipher []byte) []string {
	var seen stanzaReader
	// That no identity fits is what the reader makes of every file.
	_, _ = age.Decrypt(bytes.NewReader(cipher), &seen)
	slices.Sort(seen.forms)
	return seen.forms
}

// stanzaForm returns a stanza's type, and of an SSH key the tag that tells which.
func stanzaForm(s *age.Stanza) string {
	if strings.HasPrefix(s.Type, "ssh-") && len(s.Args) > 0 {
		return s.Type + " " + s.Args[0]
	}
	return s.Type
}

// A stanzaReader is an identity that opens nothing, and sees the stanzas.
type stanzaReader struct{ forms []string }

// Unwrap implements [age.Identity].
func (r *stanzaReader) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	r.forms = nil
	for _, s := range stanzas {
		// Stanzas that rage adds to keep other programs from relying on there being
		// none, as https://c2sp.org/age has it, are nobody's.
		if !strings.HasSuffix(s.Type, "-grease") {
			r.forms = append(r.forms, stanzaForm(s))
		}
	}
	return nil, age.ErrIncorrectIdentity
}
