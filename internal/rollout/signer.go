package rollout

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/execca"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
)

// signer returns who signs the fleet's certificates.
func (r *Run) signer(ctx context.Context, i tasks.Issuer) (pki.Signer, error) {
	if i.Sign != nil {
		roots, err := pki.ParseBundle(i.Bundle)
		if err != nil {
			return nil, err
		}
		return execca.New(execca.Config{Command: i.Sign, Dir: filepath.Dir(r.Fleet.Path), Timeout: i.Timeout, Roots: roots, Redactor: r.Redactor})
	}
	return r.authority(ctx, i.Chain, i.Key)
}

// Signer returns who signs the fleet's certificates, for one that is for no host. The
// key is read now.
func (r *Run) Signer(ctx context.Context, i tasks.Issuer) (pki.Signer, error) {
	if i.Sign == nil {
		if err := r.Resolve(ctx, []secrets.Ref{i.Key}); err != nil {
			return nil, err
		}
	}
	return r.signer(ctx, i)
}

// authority returns the CA of the first certificate in certPEM. While the CA is
// being changed its key may be the one that is pending, or the previous one: that only
// if the certificate of the current one follows in certPEM, because otherwise the file is
// older than the store, and the rotation had ended.
func (r *Run) authority(ctx context.Context, certPEM []byte, ref secrets.Ref) (*pki.CA, error) {
	key, ok := r.reveal(ref)
	if !ok {
		return nil, fmt.Errorf("the CA's key %s was not read", ref)
	}
	ca, err := pki.ParseCA(certPEM, key)
	if !errors.Is(err, pki.ErrOtherKey) || ref.Version != "" {
		return ca, err
	}
	for _, stage := range []secrets.Stage{secrets.Pending, secrets.Previous} {
		key, _, lookErr := r.Resolver.Resolve(ctx, ref.At(string(stage)))
		if errors.Is(lookErr, secrets.ErrNotFound) {
			continue
		}
		if lookErr != nil {
			return nil, lookErr
		}
		other, otherErr := pki.ParseCA(certPEM, key)
		if otherErr != nil {
			continue
		}
		if stage == secrets.Previous && !r.holdsCurrent(certPEM, ref) {
			return nil, pki.NewerKey(other.Certificate())
		}
		return other, nil
	}
	return nil, err
}

// holdsCurrent reports whether one of the certificates is that of the current key.
func (r *Run) holdsCurrent(certPEM []byte, ref secrets.Ref) bool {
	key, _ := r.reveal(ref) // it was read, see authority
	current, err := pki.PublicKeyOf(key)
	certs, bundleErr := pki.ParseBundle(certPEM)
	return err == nil && bundleErr == nil && slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return pki.KeyOf(c) == current })
}

// revocationLists signs the lists of an action, and returns the file's content. There is
// what the host has now.
func (r *Run) revocationLists(ctx context.Context, a tasks.WriteRevocationLists, there []byte) ([]byte, error) {
	old, _ := pki.InspectCRL(there) // none, where it holds something else
	var text []byte
	for _, l := range a.Lists {
		want, err := wantCRL(l)
		if err != nil {
			return nil, err
		}
		own := pki.NewestCRL(old, want.CA)
		if l.Expired {
			if own != nil {
				text = append(text, own.PEM()...)
			}
			continue
		}
		ca, err := r.authority(ctx, l.CA, l.Key)
		if errors.Is(err, pki.ErrOtherKey) && l.Older && own != nil && stillGood(*own, want) {
			text = append(text, own.PEM()...)
			continue
		}
		if errors.Is(err, pki.ErrOtherKey) {
			return nil, fmt.Errorf("a revocation list of %s cannot be signed, and without one every client certificate of it would be refused: %s holds no key of it; take its certificate out of ca.pem, or name a file with its list in with", l.Name, l.Key)
		}
		if err != nil {
			return nil, err
		}
		list, err := ca.RevocationList(append(slices.Clone(l.Revoked), pki.KeepRevoked(old, want)...), want.Now, a.Lifetime)
		if err != nil {
			return nil, err
		}
		text = append(text, list...)
	}
	return append(text, a.With...), nil
}

func wantCRL(l tasks.RevocationList) (pki.WantCRL, error) {
	certs, err := pki.ParseBundle(l.CA)
	if err != nil {
		return pki.WantCRL{}, err
	}
	return pki.WantCRL{CA: certs[0], Revoked: l.Revoked, Restored: l.Restored, Now: time.Now()}, nil
}

// stillGood reports whether a list that cannot be made anew can stay: only that it
// expires some day speaks against it.
func stillGood(c pki.CRL, want pki.WantCRL) bool {
	return !slices.ContainsFunc(pki.JudgeCRL([]pki.CRL{c}, want), func(r pki.Reason) bool { return r.Code != pki.Expiring })
}
