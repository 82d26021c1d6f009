package tasks

import (
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
)

// What is older here than on the hosts is not rolled out, unless that is asked for.
func TestOlderThanWhatWasRolledOut(t *testing.T) {
	made := func(name string, at time.Time) *pki.CA {
		ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Now: at})
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	here, next := made("prod CA 2026", longAgo), made("prod CA 2026-2", now.Add(-time.Hour))
	earlier := made("prod CA 2025", longAgo.Add(-time.Hour))
	d := desk{"ca.pem": string(here.CertificatePEM())}
	key := newKeyPair(t)
	both := string(here.CertificatePEM()) + string(next.CertificatePEM())
	for name, test := range map[string]struct {
		tasks, want string
		files       map[string]string
		leaf        *pki.CA
	}{
		"a newer CA":            {caFile, "pg01 has a newer CA, prod CA 2026-2: ca.pem here is older than what was rolled out: pull the newest", map[string]string{"root.pem": both}, nil},
		"an earlier CA":         {caFile, "", map[string]string{"root.pem": string(earlier.CertificatePEM())}, nil},
		"a newer list":          {crlFile, "pg01 has a newer CA, prod CA 2026-2", map[string]string{"root.crl": listOf(t, here, now, 0) + listOf(t, next, now, 0)}, nil},
		"a newer certificate":   {certificate(""), "pg01 has a newer CA, prod CA 2026-2", nil, next},
		"an earlier one":        {certificate(""), "", nil, earlier},
		"one of somebody else":  {certificate(""), "", nil, made("snakeoil 2027", now)},
		"one of before here":    {certificate(""), "", nil, next},
		"one of the CA of here": {certificate(""), "", nil, here},
	} {
		for _, takesBack := range []bool{false, true} {
			d := d
			if name == "one of before here" { // a CA that was lost, and made anew under its first name
				d = desk{"ca.pem": string(made("prod CA 2026", now).CertificatePEM())}
			}
			w := d.world(t, test.files, false)
			if test.leaf != nil {
				w[facts.CertificateFile{Path: conf + "/server.pem"}] = facts.Answer{Value: facts.CertificateFileInfo{
					File:         facts.FileInfo{Path: conf + "/server.pem", Exists: true, Regular: true, Owner: "postgres", Group: "postgres", Mode: 0o600},
					Certificates: []byte(key.certificate(t, test.leaf)), PublicKey: key.public,
				}}
				w[facts.Certificate{Port: 5432, Addresses: "127.0.0.1,::1,10.77.0.11"}] = facts.Answer{Value: facts.Served{}}
			}
			in, bound, errs := d.expandAt(t, usual, test.tasks, Options{TakeBackCA: takesBack})
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			_, err := PlanInstance(in, NewState(in, w, nil), bound)
			if wanted := test.want != "" && !takesBack; wanted && (err == nil || !strings.Contains(err.Error(), test.want)) || !wanted && err != nil {
				t.Errorf("%s, %v: %v", name, takesBack, err)
			}
		}
	}
}

// A first name that is longer than a common name may be is none.
func TestLongFirstName(t *testing.T) {
	ca := newAuthority(t, "CA one")
	d := desk{"ca.pem": string(ca.CertificatePEM())}
	long := strings.Repeat("a", 60) + ".example.org"
	for names, want := range map[string]string{`"` + long + `"`: "", `"` + long + `", "db"`: "db"} {
		w := d.world(t, nil, false)
		w[facts.CertificateFile{Path: conf + "/server.pem"}] = facts.Answer{Value: facts.CertificateFileInfo{File: facts.FileInfo{Path: conf + "/server.pem"}}}
		w[facts.Certificate{Port: 5432, Addresses: "127.0.0.1,::1,10.77.0.11"}] = facts.Answer{Value: facts.Served{}}
		p := d.plan(t, w, certificate("names = ["+names+"]"), Options{})
		if a := p.Steps[0].Changes[0].Action.(IssueCertificate); a.CommonName != want {
			t.Errorf("%s: the common name is %q, want %q", names, a.CommonName, want)
		}
	}
}
