package tasks

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
)

// A FoundCertificate is a file that a task about certificates keeps, as it was found on
// a host. One of Leaf, Trusted and Lists is set, or none where there is nothing yet.
type FoundCertificate struct {
	Kind  string // of the task
	File  string
	Usage pki.Usage // of a leaf

	Leaf   *pki.Leaf
	Served *pki.Leaf // what the server presents, where the file is the one it is to present
	// NotServed says why Served is not known; "" as well where the server is not
	// configured to present the file.
	NotServed string

	Trusted []*x509.Certificate
	// Loaded reports whether the server has read the file since it was written.
	Loaded bool

	Lists []pki.CRL
	// Due says why the task has something to do.
	Due []string
}

// FoundCertificates returns what was found of the task, which is of a kind about
// certificates; nothing for other kinds. The error says what could not be read.
func (b *Bound) FoundCertificates(s *State) ([]FoundCertificate, error) {
	if t, ok := b.Task.(interface {
		found(*State) (FoundCertificate, error)
	}); ok {
		f, err := t.found(s)
		if err != nil {
			return nil, err
		}
		f.Kind = b.Kind
		return []FoundCertificate{f}, nil
	}
	return nil, nil
}

func (t *Certificate) found(s *State) (FoundCertificate, error) {
	f := FoundCertificate{File: t.path(s), Usage: t.usage()}
	info, _, err := s.CertificateFile(f.File)
	if err != nil {
		return f, err
	}
	f.Due = t.due(s, info)
	if leaf, err := pki.Inspect(info.Certificates); err == nil {
		f.Leaf = &leaf
	}
	if t.client() {
		return f, nil
	}
	c := s.configuration()
	if c.value("ssl") != "on" || s.inDataDir(c.value("ssl_cert_file")) != f.File {
		return f, nil // it is not configured to present it
	}
	served, err := ask[facts.Served](s, servedRead(s.instance))
	switch {
	case err != nil:
		f.NotServed = err.Error()
	case len(served.Chain) == 0:
		f.NotServed = served.Problem
	default:
		leaf, err := pki.InspectDER(served.Chain[0])
		if err != nil {
			f.NotServed = err.Error()
			break
		}
		f.Served = &leaf
	}
	return f, nil
}

func (t *CAFile) found(s *State) (FoundCertificate, error) {
	f := FoundCertificate{File: s.inConfDir(t.File.Value)}
	info, err := s.File(f.File)
	if err != nil {
		return f, err
	}
	switch {
	case !info.Exists:
		f.Due = []string{"there is none"}
	case string(info.Content) != string(t.ca.BundlePEM):
		f.Due = []string{"it is not what " + t.fleet.CA.Certificate.Value + " holds"}
	}
	// What cannot be read as certificates trusts nobody.
	f.Trusted, _ = pki.ParseBundle(info.Content)
	// Where the server does not use it there is nothing that it would have to read.
	f.Loaded = s.loaded(info) || info.Exists && !s.named(f.File, "ssl_ca_file")
	return f, nil
}

func (t *CRLFile) found(s *State) (FoundCertificate, error) {
	f := FoundCertificate{File: s.inConfDir(t.File.Value)}
	info, err := s.File(f.File)
	if err != nil {
		return f, err
	}
	f.Lists, _ = pki.InspectCRL(info.Content) // none, where it holds something else
	f.Loaded = s.loaded(info) || info.Exists && !s.named(f.File, "ssl_crl_file")
	out, err := t.Plan(s.instance, s)
	for _, c := range out.Changes {
		if strings.HasPrefix(c.Key, "crl:") {
			f.Due = append(f.Due, c.Intent)
		}
	}
	return f, err
}

// loaded reports whether the server has read a file since it was written.
func (s *State) loaded(f facts.FileInfo) bool {
	return s.Server() != nil && f.Exists && !f.Changed.After(s.Server().Loaded)
}

// ListsOfServer returns the file or folder of revocation lists that the server goes by;
// "" for none.
func (s *State) ListsOfServer() string {
	c := s.configuration()
	if c.value("ssl") != "on" {
		return ""
	}
	if name := cmp.Or(c.value("ssl_crl_file"), c.value("ssl_crl_dir")); name != "" {
		return s.inDataDir(name)
	}
	return ""
}

// TrustedByServer returns the file that the running server's ssl_ca_file names and the
// CAs in it; "" where there is none.
func (s *State) TrustedByServer() (file string, trusted []*x509.Certificate, loaded bool, err error) {
	c := s.configuration()
	name := c.value("ssl_ca_file")
	if c.value("ssl") != "on" || name == "" {
		return "", nil, false, nil
	}
	file = s.inDataDir(name)
	info, _, err := s.CertificateFile(file)
	if err != nil {
		return file, nil, false, err
	}
	if len(info.Certificates) > 0 {
		if trusted, err = pki.ParseBundle(info.Certificates); err != nil {
			return file, nil, false, fmt.Errorf("%s: %w", file, err)
		}
	}
	return file, trusted, s.loaded(info.File), nil
}

// WantsClientCertificates returns the rules of pg_hba.conf that let nobody in without a
// client's certificate; none where that cannot be told.
func (s *State) WantsClientCertificates() (rules []string) {
	all, _ := s.hbaRules()
	for _, r := range all {
		option, ok := r.Option("clientcert")
		if r.Method == "cert" || ok && option != "no-verify" && option != "0" {
			rules = append(rules, r.Summary())
		}
	}
	return rules
}

// KnownAs returns the names by which a certificate can be meant: its names, addresses,
// role and file, as fleet.toml has them.
func (t *Certificate) KnownAs() []string {
	names := append(slices.Clone(t.names), text(t.addresses)...)
	if t.client() {
		names = append(names, t.Role.Value)
	}
	return append(names, t.File.Value)
}
