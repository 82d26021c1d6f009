package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// newCASession is a fleet whose CA was made and ends when it is said, opened.
func newCASession(t *testing.T, made time.Time, lifetime time.Duration) (*session, string) {
	t.Helper()
	dir, _, err := initIn(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	outFile, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outFile.Close() })
	term := terminal{Out: outFile, Err: outFile, LookupEnv: os.LookupEnv}
	a := &app{ui: newUI(term), term: term, fleet: filepath.Join(dir, fleetFile), forks: 1}
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "prod CA 2020", Now: made, Validity: lifetime})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, caFile), ca.CertificatePEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, secretFile(caSecret))); err != nil {
		t.Fatal(err)
	}
	s, err := a.open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	store, err := s.secrets.WritableStore("age")
	if err != nil {
		t.Fatal(err)
	}
	id, err := store.Put(t.Context(), caSecret, secrets.Change{Set: map[string]secrets.Secret{"key": key}})
	if err == nil {
		err = store.Promote(t.Context(), caSecret, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.secrets.Forget("age", caSecret)
	if err := (&certsRun{}).prepare(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// Phase 1 of a CA that is valid signs nothing with it; where it has expired one call does
// the phases 1 and 2, and goes on from each of its writes.
func TestRotateExpiredCA(t *testing.T) {
	s, _ := newCASession(t, time.Now(), time.Hour)
	p, err := caRotation{}.next(t.Context(), s, []inventory.Instance{})
	if err != nil || !strings.HasPrefix(p.title, "Phase 1:") || !slices.Equal(p.kinds, []string{"ca_file", "crl_file"}) {
		t.Errorf("a CA that is valid: %+v, %v", p, err)
	}

	for _, cut := range []pki.RotationStage{"", pki.Begun, pki.Introduced, pki.Promoted} {
		s, dir := newCASession(t, time.Now().Add(-2*time.Hour), time.Hour)
		before, err := os.ReadFile(filepath.Join(dir, caFile))
		if err != nil {
			t.Fatal(err)
		}
		next := func() *caPhase {
			t.Helper()
			p, err := caRotation{}.next(t.Context(), s, []inventory.Instance{})
			if err != nil {
				t.Fatalf("%s: %v", cut, err)
			}
			if !strings.Contains(p.title, "at once, because prod CA 2020 has expired on") || p.kinds != nil {
				t.Errorf("%s: %q, %v", cut, p.title, p.kinds)
			}
			return p
		}
		p := next()
		if cut != "" {
			if _, err := s.putKey(t.Context(), p.held, *p.key, p.replace); err != nil {
				t.Fatal(err)
			}
			if cut != pki.Begun {
				if err := s.writeCA(p.between); err != nil {
					t.Fatal(err)
				}
			}
			if cut == pki.Promoted {
				h, err := s.holdCA(t.Context())
				if err == nil {
					err = s.promoteKey(t.Context(), h, h.pending.ID)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			p = next()
		}
		if _, err := p.write(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", cut, err)
		}
		h, err := s.holdCA(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := pki.FindRotation(h.bundle, h.keys)
		if err != nil || r.Stage != pki.Switched || r.Old.Subject.CommonName != "prod CA 2020" {
			t.Errorf("%s: it is %+v, %v", cut, r, err)
		}

		// A ca.pem with the CA of before the rotation is this fleet's, once that is over too.
		if err := s.writeCA(pki.EncodeBundle(pki.WithoutCA(h.bundle, r.Old))); err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if err := os.WriteFile(filepath.Join(out, caFile), before, 0o644); err != nil {
			t.Fatal(err)
		}
		e, err := s.app.newExport(t.Context(), out)
		if err == nil {
			err = e.bundle(t.Context())
		}
		if err != nil {
			t.Errorf("%s: over an earlier ca.pem: %v", cut, err)
		}
	}
}

// What hosts have of a newer CA stops a rotation, is no rest of phase 3, and goes with
// --abort, which may have been cut off.
func TestNewerCAOnHosts(t *testing.T) {
	made := func(name string, at time.Time) *pki.CA {
		ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Now: at})
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	here, newer := made("prod CA 2026", time.Now().Add(-time.Hour)), made("prod CA 2026-2", time.Now())
	authority := &tasks.Authority{CA: new(inventory.CA)}
	authority.Bundle = append(authority.Bundle, here.Certificate())
	authority.Certificate.Value = "ca.pem"
	place := func(cas ...*pki.CA) pki.RotationPlace {
		f := pki.TrustedFile{Path: "/root.crt", Loaded: true, Kept: true}
		for _, ca := range cas {
			f.Certificates = append(f.Certificates, ca.Certificate())
		}
		return pki.RotationPlace{Name: "pg01", Bundles: []pki.TrustedFile{f}}
	}
	if err := newerThan(authority, place(here)); err != nil {
		t.Errorf("the CA of here: %v", err)
	}
	err := newerThan(authority, place(here, newer))
	if err == nil || !strings.Contains(err.Error(), "pg01 has a newer CA, prod CA 2026-2") || !strings.Contains(err.Error(), "rotate-ca --abort") {
		t.Fatalf("a newer CA: %v", err)
	}
	v := &caView{held: new(heldCA), newer: []string{err.Error()}}
	v.Rotation = pki.Rotation{Stage: pki.Settled, Old: here.Certificate()}
	if p, err := v.aborted(); err != nil || p.title != "The new CA is taken out again" {
		t.Errorf("an --abort that was cut off: %+v, %v", p, err)
	}
	if x := v.status(nil); x.Next != "phase 1 of a rotation" || len(x.Awaits) != 1 {
		t.Errorf("its status: %+v", x)
	}
}
