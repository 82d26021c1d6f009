package tasks

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/inventory"
)

// CRLFile keeps the revocation lists of the fleet's CAs on the host, for
// ssl_crl_file. They are signed here while applying. PostgreSQL has OpenSSL look for
// a list of every CA from the certificate of a client up to the root
// (X509_V_FLAG_CRL_CHECK_ALL in be-secure-openssl.c), so that a list which is missing
// or has expired refuses every client certificate of its CA.
type CRLFile struct {
	Common
	File  inventory.Positioned[string]   `toml:"file" required:"true" doc:"Where the lists go, in one PEM file; relative to the folder of postgresql.conf."`
	Owner string                         `toml:"owner" doc:"User that owns the file; postgres by default, and root outside of the folder of postgresql.conf. Its mode is 0644, or what it is where that is tighter."`
	With  []inventory.Positioned[string] `toml:"with" doc:"Lists of CAs whose keys are elsewhere, such as that of the root above [ca].intermediate: PEM files beside fleet.toml, which you keep up to date."`

	with []givenList
	text []byte // of all files of with
}

// A givenList is a list from a file of with.
type givenList struct {
	file inventory.Positioned[string]
	list pki.CRL
}

// Load reads the files of with.
func (t *CRLFile) Load(local Local) inventory.Errors {
	var errs inventory.Errors
	t.with, t.text = nil, nil
	for _, file := range t.With {
		text, err := local(file.Value)
		if err != nil {
			errs.Add(file.Pos(), "with: %v", err)
			continue
		}
		lists, err := pki.InspectCRL(text)
		if err != nil {
			errs.Add(file.Pos(), "with: %s: %v", file.Value, err)
			continue
		}
		for _, l := range lists {
			t.with = append(t.with, givenList{file, l})
		}
		t.text = append(t.text, bytes.TrimRight(text, "\n")...)
		t.text = append(t.text, '\n')
	}
	return errs
}

// Check finds out whose lists are missing.
func (t *CRLFile) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if t.fleet.CA == nil {
		errs.Add(t.at("file"), "crl_file: %s", needsCA)
		return errs
	}
	if t.File.Value == "" {
		errs.Add(t.File.Pos(), "file: it is empty")
	}
	if len(t.ca.Bundle) == 0 {
		return errs // which was reported
	}
	for _, g := range t.with {
		if !slices.ContainsFunc(t.ca.CAs(), g.list.SignedBy) {
			errs.Add(g.file.Pos(), "with: %s is the list of %s, which is not among the certificates of [ca]", g.file.Value, g.list.Issuer)
		}
	}
	for _, ca := range t.ca.CAs() {
		switch {
		case t.hasList(ca):
		case t.ca.Signing == nil:
			errs.Add(t.File.Pos(), "crl_file: the key of %q is with the program that signs, and so a list of it has to come from there: name its file in with", ca.Subject)
		case len(t.ca.Chain) > 0 && !ca.Equal(t.ca.Signing) && !t.ca.older(ca):
			errs.Add(t.File.Pos(), "crl_file: OpenSSL wants a list of %q too, whose key is not here, and without it refuses every client certificate: name its file in with, such as with = [\"root.crl\"]", ca.Subject)
		}
	}
	return errs
}

// hasList reports whether with holds the list of a CA.
func (t *CRLFile) hasList(ca *x509.Certificate) bool {
	return slices.ContainsFunc(t.with, func(g givenList) bool { return g.list.SignedBy(ca) })
}

// Reads asks for the file.
func (t *CRLFile) Reads(_ inventory.Instance, s *State) []facts.Read {
	return []facts.Read{facts.File{Path: s.inConfDir(t.File.Value)}}
}

// Plan judges the lists in the file, and compares it with what the server has loaded.
func (t *CRLFile) Plan(in inventory.Instance, s *State) (Outcome, error) {
	file := s.inConfDir(t.File.Value)
	part := s.tlsPart(in, file, "ssl_crl_file")
	var out Outcome
	if part != "" {
		out.Warnings = t.notStarted(s)
	}
	found, err := s.File(file)
	if err != nil {
		return out, err
	}
	switch {
	case found.Exists && !found.Regular:
		return out, fmt.Errorf("%s is not a regular file", file)
	case found.TooLarge: // what it holds has to stay in it
		return out, fmt.Errorf("%s is too large to be read, with %d bytes", file, found.Size)
	}
	if found.Changed.Equal(foreseen) {
		return out, nil // an earlier task writes it
	}
	now := s.Clock()
	for _, g := range t.with {
		left := g.list.Left(now)
		switch {
		case left < 0:
			return out, fmt.Errorf("%s: the list of %s has expired on %s, and with it every client certificate would be refused; fetch a new one from there", g.file.Value, g.list.Issuer, g.list.NextUpdate.Format(time.DateOnly))
		case left < g.list.NextUpdate.Sub(g.list.ThisUpdate)/4:
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s: the list of %s expires on %s, and with it every client certificate is refused; fetch a new one from there", g.file.Value, g.list.Issuer, g.list.NextUpdate.Format("2006-01-02 15:04 MST")))
		}
	}
	a := WriteRevocationLists{
		Path: file, Owner: s.ownerOf(file, t.Owner), Mode: keepMode(found, 0o644), Lifetime: time.Duration(t.fleet.CA.CRLLifetime.Value), With: t.text,
	}
	a.Group = a.Owner
	var reasons, names []string
	lists, err := pki.InspectCRL(found.Content)
	switch {
	case !found.Exists:
		reasons = append(reasons, "there is none")
	case err != nil && len(lists) == 0:
		reasons = append(reasons, "the file holds no list")
	case err != nil:
		reasons = append(reasons, fmt.Sprintf("not all of it can be read as lists: %v", err))
	}
	if err := t.ca.newerLists(lists, string(in.ID())); err != nil {
		return out, err
	}
	signed := 0
	for _, ca := range t.ca.CAs() {
		if t.hasList(ca) {
			continue
		}
		want, name := t.ca.WantCRL(ca, now), ca.Subject.CommonName
		l := RevocationList{
			CA: t.certificates(ca), Name: name, Key: t.ca.Issuer.Key, Revoked: want.Revoked, Restored: want.Restored,
			Expired: !now.Before(ca.NotAfter), Older: t.ca.older(ca),
		}
		a.Lists = append(a.Lists, l)
		for _, r := range pki.KeepRevoked(lists, want) {
			serial := r.Serial.Text(16)
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s: the certificate of %s with the serial number %s is revoked there and not in %s: pull the newest, or pgfleet certs revoke %s writes it down",
				in.ID(), name, serial, path.Join(t.fleet.CA.Records, records.RevokedFile), serial))
		}
		names = append(names, name)
		if l.Expired {
			continue // its certificates are refused anyway
		}
		signed++
		if len(lists) == 0 {
			continue
		}
		for _, r := range pki.JudgeCRL(lists, want) {
			// It is signed anew whenever the others are, as long as there is a key.
			if !l.Older || r.Code != pki.Expiring {
				reasons = append(reasons, r.Text)
			}
		}
	}
	known := func(c pki.CRL) bool { return slices.ContainsFunc(t.ca.CAs(), c.SignedBy) }
	if signed+len(t.with) == 0 && !slices.ContainsFunc(lists, known) {
		return out, fmt.Errorf("there is no list to write: the CA %s has expired on %s: pgfleet certs rotate-ca goes over to a new one", t.ca.Bundle[0].Subject.CommonName, t.ca.Bundle[0].NotAfter.Format(time.DateOnly))
	}
	for _, g := range t.with {
		names = append(names, g.list.Issuer)
		if len(lists) > 0 && !slices.ContainsFunc(lists, g.list.Equal) {
			reasons = append(reasons, fmt.Sprintf("the list of %s is not that of %s", g.list.Issuer, g.file.Value))
		}
	}
	if slices.ContainsFunc(lists, func(c pki.CRL) bool { return !known(c) }) {
		reasons = append(reasons, "there are lists of CAs that are not trusted any more")
	}
	if found.Exists && (found.Owner != a.Owner || found.Mode.Perm() != a.Mode) {
		reasons = append(reasons, fmt.Sprintf("it is %s's with mode %s rather than %s's with %s", found.Owner, octal(found.Mode), a.Owner, octal(a.Mode)))
	}
	if len(reasons) == 0 {
		out.Changes = s.tlsNotLoaded(file, "ssl_crl_file", found)
		return out, nil
	}
	out.Changes = []Change{{
		Key: "crl:" + file, Before: DigestFile(found),
		Intent: fmt.Sprintf("write the revocation lists of %s into %s (%s): known after apply", strings.Join(names, ", "), file, strings.Join(reasons, "; ")),
		Action: a, Part: part,
	}}
	return out, nil
}

// certificates returns the certificate of a CA, as PEM, and after it all those that
// may be above it.
func (t *CRLFile) certificates(ca *x509.Certificate) []byte {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	for _, c := range t.ca.CAs() {
		if !c.Equal(ca) {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return text
}

func (t *CRLFile) declares(s *State) []string { return []string{s.inConfDir(t.File.Value)} }
