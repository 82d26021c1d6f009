package rollout

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

//go:embed issue.sh
var issueScript string

// A staged certificate waits beside the file that it will replace, in a folder
// that only its owner can read.
type stagedCertificate struct {
	target, dir, owner string
	placed             bool
}

// issue makes the step's certificates: key and request on the host, signed
// here, put together there.
func (x *executor) issue(ctx context.Context) ([]*stagedCertificate, error) {
	var staged []*stagedCertificate
	for _, c := range x.step.Changes {
		a, ok := c.Action.(tasks.IssueCertificate)
		if !ok {
			continue
		}
		x.phase("issuing a certificate")
		x.begun = true // a key in the staging folder is something as well
		q := facts.CertificateFile{Path: a.Path}
		answers, err := x.conn.Read(ctx, []facts.Read{q})
		if err != nil {
			return staged, err
		}
		found, ok := answers[q].Value.(facts.CertificateFileInfo)
		if !ok || tasks.DigestCertificate(found) != c.Before {
			return staged, fmt.Errorf("%s was %w", a.Path, errDrifted)
		}
		signer, err := x.run.signer(ctx, a.Issuer)
		if err != nil {
			return staged, err
		}
		out, err := x.conn.Run(ctx, transport.Command{
			Script: fmt.Sprintf("target=%s common_name=%s\n%s", transport.Quote(a.Path), transport.Quote(escapeSubject(a.CommonName)), issueScript), User: a.Owner,
		})
		if err != nil {
			return staged, err
		}
		dir, csr, found2 := strings.Cut(string(out.Stdout), "\n")
		if out.ExitCode != 0 || !found2 {
			return staged, fmt.Errorf("making a key for %s: %s", a.Path, message(out))
		}
		s := &stagedCertificate{target: a.Path, dir: dir, owner: a.Owner}
		staged = append(staged, s)
		pem, err := signer.Issue(ctx, []byte(csr), pki.Options{
			CommonName: a.CommonName, DNSNames: a.DNSNames, IPs: a.Addresses, Usage: a.Usage, Validity: a.Lifetime, Now: time.Now(),
		})
		if err != nil {
			return staged, err
		}
		err = x.must(ctx, transport.Command{
			Script: fmt.Sprintf("set -eu; umask 077; cd %s; cat key - >pem; chmod %04o pem; rm key csr; sync pem", transport.Quote(dir), a.Mode.Perm()),
			User:   a.Owner, Stdin: pem,
		})
		if err != nil {
			return staged, err
		}
	}
	return staged, nil
}

// escapeSubject writes a name for the option -subj of openssl-req(1).
func escapeSubject(name string) string {
	return strings.NewReplacer(`\`, `\\`, "/", `\/`, "+", `\+`).Replace(name)
}

func (x *executor) putCertificates(ctx context.Context, staged []*stagedCertificate) error {
	for _, s := range staged {
		s.placed = true
		// Who owns the folder may rename what is in it, also what he may not link.
		script := fmt.Sprintf("set -eu; f=%s; cd %s; [ ! -e \"$f\" ] || ln \"$f\" old 2>/dev/null || mv -T \"$f\" old; mv -T pem \"$f\"; sync \"$(dirname \"$f\")\"", transport.Quote(s.target), transport.Quote(s.dir))
		if err := x.must(ctx, transport.Command{Script: script, User: s.owner}); err != nil {
			return err
		}
	}
	return nil
}

func (x *executor) putBackCertificates(ctx context.Context, staged []*stagedCertificate) error {
	var errs []error
	for _, s := range staged {
		if s.placed {
			script := fmt.Sprintf("set -eu; f=%s; cd %s; if [ -e old ]; then mv -T old \"$f\"; elif [ ! -e pem ]; then rm -f \"$f\"; fi", transport.Quote(s.target), transport.Quote(s.dir))
			errs = append(errs, x.must(ctx, transport.Command{Script: script, User: s.owner}))
		}
	}
	return errors.Join(errs...)
}

// discard removes what staging left, also when the run is being stopped: it may
// hold a key.
func (x *executor) discard(ctx context.Context, staged []*stagedCertificate) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reloadTimeout)
	defer cancel()
	for _, s := range staged {
		_ = x.must(ctx, transport.Command{Script: "rm -rf " + transport.Quote(s.dir), User: s.owner, Unfenced: true})
	}
}

// issueAlone is a step of one certificate that no server of the host loads, such as a
// client's: made, put in place, and found again.
func (x *executor) issueAlone(ctx context.Context) error {
	staged, err := x.issue(ctx)
	defer x.discard(ctx, staged)
	if err == nil {
		err = x.stillThere(ctx, new(swap))
	}
	if err != nil {
		return err
	}
	x.phase("writing")
	err = x.putCertificates(ctx, staged)
	if err == nil {
		var left string
		if left, err = x.stillLeft(ctx); err == nil && left != "" {
			err = fmt.Errorf("still due after the change: %s", left)
		}
	}
	if err == nil {
		return nil
	}
	return x.restored(ctx, reason(ctx, err), func(ctx context.Context) error { return x.putBackCertificates(ctx, staged) })
}
