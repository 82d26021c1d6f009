// Package execca asks a program to sign certificates, one process for each. The
// protocol is documented for those who write such programs in docs/exec-ca.md.
package execca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/program"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

const protocol = 1

// A Config says which program is asked.
type Config struct {
	Command []string            // the program and its arguments; one with a slash is seen from Dir
	Dir     string              // where it runs: the folder of fleet.toml
	Timeout time.Duration       // program.DefaultTimeout if zero
	Roots   []*x509.Certificate // the bundle: a certificate must lead to one of them
	// Redactor masks what the program says on standard error; nil for one that knows
	// no secrets.
	Redactor *secrets.Redactor
}

// A Signer is a [pki.Signer] that asks a program. It may be used by several goroutines
// at once, and the program must bear to run several times at once.
type Signer struct {
	program program.Program
	roots   []*x509.Certificate
}

var _ pki.Signer = (*Signer)(nil)

// New returns the signer. Nothing is run yet.
func New(c Config) (*Signer, error) {
	switch {
	case len(c.Command) == 0 || c.Command[0] == "":
		return nil, errors.New("the program that signs: no command is named")
	case len(c.Roots) == 0:
		return nil, errors.New("the program that signs: no CA is trusted")
	}
	if c.Redactor == nil {
		c.Redactor = secrets.NewRedactor()
	}
	return &Signer{
		program.Program{Command: c.Command, Dir: c.Dir, Timeout: c.Timeout, Named: "sign in [ca]", Redactor: c.Redactor},
		c.Roots,
	}, nil
}

// String returns the program's name.
func (s *Signer) String() string { return s.program.Name() }

// A request is what the program reads from its standard input.
type request struct {
	Version         int      `json:"version"`
	Op              string   `json:"op"`
	CSR             string   `json:"csr"`
	Usage           string   `json:"usage"`
	CommonName      string   `json:"common_name"`
	DNSNames        []string `json:"dns_names"`
	Addresses       []string `json:"addresses"`
	LifetimeSeconds int64    `json:"lifetime_seconds"`
}

// An answer is what it writes to its standard output.
type answer struct {
	program.Answer
	Certificate string `json:"certificate"`
}

// Issue implements [pki.Signer]. What the program answers is judged before it is
// returned ([pki.CheckIssued]).
func (s *Signer) Issue(ctx context.Context, csrPEM []byte, o pki.Options) ([]byte, error) {
	o, err := o.Complete()
	if err != nil {
		return nil, fmt.Errorf("new certificate: %w", err)
	}
	r := request{
		Version: protocol, Op: "sign", CSR: string(csrPEM), Usage: o.Usage.String(), CommonName: o.CommonName,
		DNSNames: append([]string{}, o.DNSNames...), Addresses: []string{}, LifetimeSeconds: int64(o.Validity / time.Second),
	}
	for _, ip := range o.IPs {
		r.Addresses = append(r.Addresses, ip.Unmap().String())
	}
	started := time.Now()
	var a answer
	if err := s.program.Ask(ctx, r, &a); err != nil {
		if f, ok := errors.AsType[*program.AnswerError](err); ok {
			return nil, s.refusal(f)
		}
		return nil, err
	}
	if a.Certificate == "" {
		return nil, fmt.Errorf(`%s: its answer lacks "certificate"`, s.program.Name())
	}
	o.Now = o.Now.Add(time.Since(started)) // what it took may be longer than a CA's backdating
	cert, err := pki.CheckIssued([]byte(a.Certificate), csrPEM, o, s.roots)
	if err != nil {
		return nil, fmt.Errorf("%s answers with a certificate that is not used: %w", s.program.Name(), err)
	}
	return cert, nil
}

// refusal is the error that the program has answered with.
func (s *Signer) refusal(f *program.AnswerError) error {
	format := "%s: %s"
	switch f.Code {
	case "refused":
		format = "%s: the CA does not sign this: %s"
	case "unavailable":
		format = "%s cannot reach its CA: %s"
	}
	err := fmt.Errorf(format, s.program.Name(), f.Message)
	if f.Hint != "" {
		err = &program.Error{Err: err, Hint: f.Hint}
	}
	return err
}
