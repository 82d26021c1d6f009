package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A swap is a set of files to be replaced or removed as one, and what is needed
// to put back what was there.
type swap struct {
	write  []transport.File
	remove []string
	before []facts.FileInfo // of all paths, as found just before
}

// prepare finds again what planning found, and puts the values of secrets in.
// Nothing is written yet.
func (x *executor) prepare(ctx context.Context) (*swap, error) {
	var reads []facts.Read
	for _, c := range x.step.Changes {
		switch a := c.Action.(type) {
		case tasks.WriteFile:
			reads = append(reads, facts.File{Path: a.Path})
		case tasks.WriteRevocationLists:
			reads = append(reads, facts.File{Path: a.Path})
		case tasks.RemoveFile:
			reads = append(reads, facts.File{Path: a.Path})
		}
	}
	if len(reads) == 0 {
		return new(swap), nil
	}
	list := facts.File{Path: tasks.OwnedFiles(x.instance)}
	answers, err := x.conn.Read(ctx, append(reads, list))
	if err != nil {
		return nil, err
	}
	s := new(swap)
	owned, err := fileAnswer(answers, list)
	if err != nil {
		return nil, err
	}
	paths := ownedPaths(owned)
	for _, c := range x.step.Changes {
		switch a := c.Action.(type) {
		case tasks.WriteFile:
			if err := s.find(answers, a.Path, c); err != nil {
				return nil, err
			}
			content, err := secrets.Expand(a.Content, x.run.reveal)
			if err != nil {
				return nil, err
			}
			s.write = append(s.write, transport.File{Path: a.Path, Content: content.Expose(), Owner: a.Owner, Group: a.Group, Mode: a.Mode})
			if !slices.Contains(paths, a.Path) && a.Path != path.Join(x.step.Server.DataDir, autoConf) { // of that one, only lines went
				paths = append(paths, a.Path)
			}
		case tasks.WriteRevocationLists:
			if err := s.find(answers, a.Path, c); err != nil {
				return nil, err
			}
			lists, err := x.run.revocationLists(ctx, a, s.before[len(s.before)-1].Content)
			if err != nil {
				return nil, err
			}
			s.write = append(s.write, transport.File{Path: a.Path, Content: lists, Owner: a.Owner, Group: a.Group, Mode: a.Mode})
			if !slices.Contains(paths, a.Path) {
				paths = append(paths, a.Path)
			}
		case tasks.RemoveFile:
			if err := s.find(answers, a.Path, c); err != nil {
				return nil, err
			}
			s.remove = append(s.remove, a.Path)
			paths = slices.DeleteFunc(paths, func(p string) bool { return p == a.Path })
		}
	}
	if text := ownedText(paths); text != string(owned.Content) {
		s.before = append(s.before, owned)
		s.write = append(s.write, transport.File{Path: list.Path, Content: []byte(text), Owner: "root", Group: "root", Mode: 0o644})
	}
	return s, nil
}

// stillThere demands, after the trial and a wait, that the files and certificates
// which the step replaces are as planning found them: somebody may have worked on the
// host since.
func (x *executor) stillThere(ctx context.Context, s *swap) error {
	was := map[facts.Read]tasks.Digest{}
	for _, f := range s.before {
		was[facts.File{Path: f.Path}] = tasks.DigestFile(f)
	}
	for _, c := range x.step.Changes {
		if a, ok := c.Action.(tasks.IssueCertificate); ok {
			was[facts.CertificateFile{Path: a.Path}] = c.Before
		}
	}
	if len(was) == 0 {
		return nil
	}
	answers, err := x.conn.Read(ctx, slices.Collect(maps.Keys(was)))
	if err != nil {
		return err
	}
	for read, digest := range was {
		name, now := "", tasks.Digest("")
		switch q := read.(type) {
		case facts.File:
			f, err := fileAnswer(answers, q)
			if err != nil {
				return err
			}
			name, now = q.Path, tasks.DigestFile(f)
		case facts.CertificateFile:
			f, _ := answers[q].Value.(facts.CertificateFileInfo)
			name, now = q.Path, tasks.DigestCertificate(f)
		}
		if now != digest {
			return fmt.Errorf("%s was %w", name, errDrifted)
		}
	}
	return nil
}

// find takes note of a file as it is, and refuses when that is not what
// planning found.
func (s *swap) find(answers map[facts.Read]facts.Answer, file string, c tasks.Change) error {
	f, err := fileAnswer(answers, facts.File{Path: file})
	if err != nil {
		return err
	}
	if tasks.DigestFile(f) != c.Before {
		return fmt.Errorf("%s was %w", file, errDrifted)
	}
	s.before = append(s.before, f)
	return nil
}

func fileAnswer(answers map[facts.Read]facts.Answer, r facts.File) (facts.FileInfo, error) {
	a, ok := answers[r]
	if !ok {
		return facts.FileInfo{}, fmt.Errorf("%s: the host did not say", r.Path)
	}
	if a.Err != nil {
		return facts.FileInfo{}, a.Err
	}
	return a.Value.(facts.FileInfo), nil
}

// put replaces and removes the files. touched is false if none of them can have
// changed, so that there is nothing to put back.
func (x *executor) put(ctx context.Context, s *swap) (touched bool, err error) {
	var missing []string
	for _, f := range s.write {
		if dir := path.Dir(f.Path); strings.HasPrefix(dir, "/var/lib/pgfleet") || path.Base(dir) == "conf.d" {
			missing = append(missing, dir)
		}
	}
	if err := x.makeFolders(ctx, missing); err != nil {
		return false, err
	}
	if len(s.write) > 0 {
		if err := x.conn.WriteFiles(ctx, s.write); err != nil {
			return !refused(err), err
		}
		touched = true
	}
	if len(s.remove) > 0 {
		if err := x.conn.Remove(ctx, s.remove...); err != nil {
			return touched || !refused(err), err
		}
	}
	return true, nil
}

// makeFolders makes pgfleet's own folder, and a conf.d beside postgresql.conf
// with that folder's owner.
func (x *executor) makeFolders(ctx context.Context, dirs []string) error {
	slices.Sort(dirs)
	var script strings.Builder
	script.WriteString("set -eu\n")
	for _, dir := range slices.Compact(dirs) {
		if path.Base(dir) == "conf.d" {
			fmt.Fprintf(&script, "[ -d %[1]s ] || runuser -u \"$(stat -c %%U %[2]s)\" -- mkdir -m 0755 %[1]s\n", transport.Quote(dir), transport.Quote(path.Dir(dir)))
			continue
		}
		fmt.Fprintf(&script, "mkdir -p -m 0755 %s\n", transport.Quote(dir))
	}
	if len(dirs) == 0 {
		return nil
	}
	return x.must(ctx, transport.Command{Script: script.String(), User: "root"})
}

// putBack restores the files as they were found: those that are not so already.
// A file that its folder's owner would not have been allowed to make, such as
// one that root had put into a folder of postgres's, gets back its content and
// its mode, and the owner that it was given when it was replaced. wrote reports
// whether any was not.
func (x *executor) putBack(ctx context.Context, s *swap) (wrote bool, err error) {
	var reads []facts.Read
	for _, f := range s.before {
		reads = append(reads, facts.File{Path: f.Path})
	}
	if len(reads) == 0 {
		return false, nil
	}
	answers, err := x.conn.Read(ctx, reads)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, f := range s.before {
		now, err := fileAnswer(answers, facts.File{Path: f.Path})
		switch {
		case err == nil && tasks.DigestFile(now) == tasks.DigestFile(f):
			continue
		case !f.Exists:
			wrote = true
			errs = append(errs, x.conn.Remove(ctx, f.Path))
			continue
		}
		wrote = true
		old := transport.File{Path: f.Path, Content: f.Content, Owner: f.Owner, Group: f.Group, Mode: f.Mode}
		if x.conn.WriteFiles(ctx, []transport.File{old}) == nil {
			continue
		}
		old.Owner, old.Group = s.ownerOf(f.Path)
		errs = append(errs, x.conn.WriteFiles(ctx, []transport.File{old}))
	}
	return wrote, errors.Join(errs...)
}

// ownerOf returns the owner that the swap gives a file.
func (s *swap) ownerOf(path string) (owner, group string) {
	for _, f := range s.write {
		if f.Path == path {
			return f.Owner, f.Group
		}
	}
	return "", ""
}

// replaceFiles is a step of files that are not PostgreSQL's configuration, with
// the daemon-reload and the unit that go with them.
func (x *executor) replaceFiles(ctx context.Context) error {
	s, err := x.prepare(ctx)
	if err != nil {
		return err
	}
	if err := x.checkFiles(ctx); err != nil {
		return err
	}
	x.phase("writing")
	ctx, dead, err := x.arm(ctx, x.undoFiles(s))
	if err != nil {
		return err
	}
	defer dead.end()
	touched, err := x.put(ctx, s)
	for _, c := range x.step.Changes {
		if err != nil {
			break
		}
		switch c.Action.(type) {
		case tasks.WriteFile, tasks.WriteRevocationLists, tasks.RemoveFile:
		default:
			err = x.single(ctx, c)
		}
	}
	if err == nil {
		err = dead.succeed(ctx, x.conn)
	}
	if err == nil {
		return nil
	}
	if !touched {
		return x.settle(ctx, dead, reason(ctx, err))
	}
	return x.settle(ctx, dead, x.restored(ctx, reason(ctx, err), func(ctx context.Context) error {
		if _, err := x.putBack(ctx, s); err != nil {
			return err
		}
		if slices.ContainsFunc(x.step.Changes, func(c tasks.Change) bool { _, ok := c.Action.(tasks.DaemonReload); return ok }) {
			return x.must(ctx, transport.Command{Script: "systemctl daemon-reload", User: "root"})
		}
		return nil
	}))
}

// refused reports whether the host refused a batch of files before it changed
// one of them.
func refused(err error) bool {
	e, ok := errors.AsType[*transport.Error](err)
	return ok && (e.Kind == transport.KindRefused || e.Kind == transport.KindFenced)
}

// restored puts things back after a failure and says how that went. It does so
// even when the run is being stopped: nothing is left half done.
func (x *executor) restored(ctx context.Context, why error, undo func(context.Context) error) error {
	if leaseLost(why) {
		return fmt.Errorf("%w; %w", why, errNotPutBack)
	}
	x.phase("putting back")
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout)
	defer cancel()
	err := undo(back)
	if err != nil && x.lost(back) != nil {
		_ = x.conn.Close() // also where it is not yet known to have ended
		conn, dialErr := x.redialled(ctx, back)
		if err = dialErr; err == nil {
			x.conn = conn
			err = undo(back)
		}
	}
	if err != nil {
		return &halfDoneError{fmt.Errorf("%w; putting the old state back failed as well: %w", why, x.explained(ctx, err))}
	}
	return fmt.Errorf("%w; everything was put back", why)
}

// A halfDoneError says that a step failed, and that putting back failed as well.
type halfDoneError struct{ error }

// Unwrap returns both reasons.
func (e *halfDoneError) Unwrap() error { return e.error }

// lost returns why the connection has ended, or nil if it has not.
func (x *executor) lost(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reloadTimeout)
	defer cancel()
	_, err := x.conn.Run(ctx, transport.Command{Script: ":", Unfenced: true})
	return err
}

// gone reports whether an error says that the host is not reached any more, so
// that asking again on the same connection is of no use.
func gone(err error) bool {
	e, ok := errors.AsType[*transport.Error](err)
	return ok && (e.Kind == transport.KindUnreachable || e.Kind == transport.KindSilent)
}

// redialled returns a connection in the place of one that was lost. A network may
// be back soon, so it tries for as long as the host waits for us, and no longer
// than redialTime; once ctx has ended it tries only once.
func (x *executor) redialled(ctx, back context.Context) (transport.Conn, error) {
	deadline := time.Now().Add(min(x.run.deadMan(), redialTime))
	for {
		conn, err := x.run.Conn(back, x.instance.Host)
		if err == nil || !gone(err) || time.Now().After(deadline) || ctx.Err() != nil {
			return conn, err
		}
		x.phase("putting back: the connection was lost; trying to connect again")
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// checkFiles runs the checks that the step's files have of their own.
func (x *executor) checkFiles(ctx context.Context) error {
	for _, c := range x.step.Changes {
		if a, ok := c.Action.(tasks.WriteFile); ok && a.Check != "" {
			x.phase("checking")
			if err := x.checkStaged(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkStaged runs a file's own check on a copy that only root can read.
func (x *executor) checkStaged(ctx context.Context, a tasks.WriteFile) error {
	content, err := secrets.Expand(a.Content, x.run.reveal)
	if err != nil {
		return err
	}
	script := "set -eu; umask 077; d=$(mktemp -d); trap 'rm -rf \"$d\"' EXIT; f=\"$d\"/" + transport.Quote(path.Base(a.Path)) + "; cat >\"$f\"; " +
		strings.ReplaceAll(a.Check, "%s", `"$f"`)
	out, err := x.conn.Run(ctx, transport.Command{Script: script, User: "root", Stdin: content.Expose(), Unfenced: true})
	if err != nil {
		return err
	}
	if out.ExitCode != 0 {
		said := message(out)
		if secrets.HasPlaceholder(a.Content) {
			said = "what it said is not shown, because the file holds a secret"
		}
		return fmt.Errorf("%s was not written: its check %q exited with %d: %s", a.Path, a.Check, out.ExitCode, said)
	}
	return nil
}

// ownedPaths reads the list of files that pgfleet wrote.
func ownedPaths(f facts.FileInfo) []string {
	var paths []string
	for line := range strings.Lines(string(f.Content)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
			paths = append(paths, line)
		}
	}
	return paths
}

func ownedText(paths []string) string {
	slices.Sort(paths)
	return "# Files that pgfleet wrote on this host, one a line.\n" + strings.Join(paths, "\n") + "\n"
}
