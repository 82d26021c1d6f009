package rollout

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

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
