package rollout

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
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
// being changed its key may be the one that is pending, or the previous one.
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
		if ca, otherErr := pki.ParseCA(certPEM, key); otherErr == nil {
			return ca, nil
		}
	}
	return nil, err
}

// revocationLists signs the lists of an action, and returns the file's content.
func (r *Run) revocationLists(ctx context.Context, a tasks.WriteRevocationLists) ([]byte, error) {
	var text []byte
	for _, l := range a.Lists {
		ca, err := r.authority(ctx, l.CA, l.Key)
		if errors.Is(err, pki.ErrOtherKey) {
			return nil, fmt.Errorf("a revocation list of %s cannot be signed, and without one every client certificate of it would be refused: %s holds no key of it; take its certificate out of ca.pem, or name a file with its list in with", l.Name, l.Key)
		}
		if err != nil {
			return nil, err
		}
		list, err := ca.RevocationList(l.Revoked, time.Now(), a.Lifetime)
		if err != nil {
			return nil, err
		}
		text = append(text, list...)
	}
	return append(text, a.With...), nil
}
