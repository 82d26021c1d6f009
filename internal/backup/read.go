package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/transport"
)

// A Reader reads the files of one set: from its target, decrypted here. What it
// decrypts is in memory only. Its methods may be called concurrently.
type Reader struct {
	Target     Target
	Set        *Set // with a manifest
	Identities []age.Identity
	// Read counts the bytes of encrypted files that were read; it may be nil.
	Read *atomic.Int64
}

// ErrEnough is what a sink returns that wants no more of a file.
var ErrEnough = errors.New("no more is wanted")

// A DamagedError says what is wrong with a file of a set.
type DamagedError struct {
	Set, File string // the set's folder in its target
	Why       string
}

// Error says which file it is, what is wrong, and what to do.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s/%s %s; restore from another set, and have this one made again", e.Set, e.File, e.Why)
}

// Stream passes what a file holds to sink, and compares size and SHA-256 of the
// encrypted file with the manifest's at the end. The error is nil only if all was read and equal
// and sink had no error: until then what sink got may be cut off or, but for what
// age has authenticated, wrong. A sink that returns [ErrEnough] ends it without an error, and without the
// comparison.
func (r *Reader) Stream(ctx context.Context, f File, sink func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cipher, fill := io.Pipe()
	sum := &summing{hash: sha256.New(), count: r.Read}
	var got error
	var getting sync.WaitGroup
	getting.Go(func() {
		got = r.Target.Get(ctx, path.Join(r.Set.Folder(), f.Name), io.MultiWriter(sum, fill))
		fill.CloseWithError(got)
	})
	plain, err := age.Decrypt(cipher, r.Identities...)
	if err == nil {
		note := &noting{r: plain}
		if err = sink(note); err == nil {
			// What is left behind the end of what the sink wanted, such as padding.
			_, _ = io.Copy(io.Discard, note)
		}
		if errors.Is(err, ErrEnough) {
			cancel()
			cipher.CloseWithError(ErrEnough)
			getting.Wait()
			return nil
		}
		if first := note.first(); first != nil { // the sink's error is but a consequence
			err = first
		}
	}
	// Whether the file or what reads it is at fault is seen by the digest alone.
	_, _ = io.Copy(io.Discard, cipher)
	getting.Wait()
	if got != nil {
		return got
	}
	if why := sum.differs(f); why != "" {
		return &DamagedError{r.Set.Folder(), f.Name, why}
	}
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		var recipients []string
		recipients = append(recipients, r.Set.Manifest.Encryption.Recipients...)
		return fmt.Errorf("none of the identities opens %s/%s, which is encrypted to %s: name the file of one of these keys among the identities of the backup",
			r.Set.Folder(), f.Name, strings.Join(recipients, ", "))
	}
	return err
}

// Text returns what a file holds, which is small.
func (r *Reader) Text(ctx context.Context, f File) ([]byte, error) {
	var text limited
	err := r.Stream(ctx, f, func(plain io.Reader) error {
		_, err := io.Copy(&text, plain)
		return err
	})
	return text.Bytes(), err
}

// Globals reads the set's roles.
func (r *Reader) Globals(ctx context.Context) (*Globals, error) {
	for _, f := range r.Set.Manifest.Files {
		if f.Kind != KindGlobals {
			continue
		}
		text, err := r.Text(ctx, f)
		if err != nil {
			return nil, err
		}
		return ParseGlobals(string(text))
	}
	return nil, errors.New("the set has no dump of roles") // no manifest without is read
}

// Checks reads the checks of a database; nil if the set has none.
func (r *Reader) Checks(ctx context.Context, database string) (Checks, error) {
	f, ok := r.find(KindChecks, database)
	if !ok {
		return nil, nil
	}
	var checks Checks
	err := r.Stream(ctx, f, func(plain io.Reader) (err error) {
		checks, err = ParseChecks(plain)
		return err
	})
	if err != nil {
		return nil, err
	}
	return checks, nil
}

// Schema has pg_restore in binDir, on a host, say what a dump needs. Only the dump's
// beginning is read.
func (r *Reader) Schema(ctx context.Context, conn transport.Conn, binDir, database string) (*Schema, error) {
	f, ok := r.find(KindDatabase, database)
	if !ok {
		return nil, fmt.Errorf("the set has no database %q; it has %s", database, strings.Join(r.Set.Manifest.Databases(), ", "))
	}
	var text limited
	read := func(options string, unfinished bool) error {
		return r.Stream(ctx, f, func(plain io.Reader) error {
			c := transport.Command{Script: "exec " + transport.Quote(binDir+"/pg_restore") + " --schema-only " + options + " -f -", User: "postgres", Unfenced: true}
			err := pgRestore(ctx, conn, c, plain, &text)
			if _, ok := errors.AsType[*UnrestorableError](err); err != nil && !(ok && unfinished && text.Len() > 0) {
				return err
			}
			return ErrEnough
		})
	}
	cut := unconnectable(database)
	err := read("--create", cut)
	if err == nil && cut {
		_, _ = text.WriteString("\n")
		err = read("", false)
	}
	if err != nil {
		return nil, err
	}
	s, err := ParseSchema(text.String(), database)
	if err == nil {
		s.Bare = cut
	}
	return s, err
}

// unconnectable reports whether pg_restore --create ends after the statement that makes the database, because psql has no \connect for its
// name (appendPsqlMetaConnect in string_utils.c).
func unconnectable(database string) bool { return strings.ContainsAny(database, "\n\r") }

// ReadThrough has pg_restore in binDir, on a host, read the whole of a database's dump, with its data,
// and drop it.
func (r *Reader) ReadThrough(ctx context.Context, conn transport.Conn, binDir string, f File) error {
	return r.Stream(ctx, f, func(plain io.Reader) error {
		c := transport.Command{Script: "exec " + transport.Quote(binDir+"/pg_restore") + " -f /dev/null", User: "postgres", Unfenced: true}
		return pgRestore(ctx, conn, c, plain, io.Discard)
	})
}

// RestoreInto has pg_restore in binDir, on a host, restore a dump into a database, which is there and
// empty, with more options.
func (r *Reader) RestoreInto(ctx context.Context, conn transport.Conn, binDir string, at transport.Endpoint, f File, options ...string) error {
	words := []string{
		"exec", transport.Quote(binDir + "/pg_restore"), "--no-password", "--exit-on-error",
		"--host=" + transport.Quote(at.SocketDir), fmt.Sprintf("--port=%d", at.Port), "--username=" + transport.Quote(at.User),
		"--dbname=" + transport.Quote("dbname="+conninfo(at.Database)),
	}
	for _, o := range options {
		words = append(words, transport.Quote(o))
	}
	// The database's own settings are there already, as they are with pg_restore --create.
	script := "unset PGSERVICE PGSERVICEFILE\nPGOPTIONS='-c default_transaction_read_only=off'; PGAPPNAME=pgfleet; export PGOPTIONS PGAPPNAME\n" + strings.Join(words, " ")
	return r.Stream(ctx, f, func(plain io.Reader) error {
		return pgRestore(ctx, conn, transport.Command{Script: script, User: "postgres"}, plain, io.Discard)
	})
}

// conninfo quotes a value of a connection string (libpq, "Keyword/Value Connection Strings").
func conninfo(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// pgRestore runs pg_restore, and says why it failed.
func pgRestore(ctx context.Context, conn transport.Conn, c transport.Command, stdin io.Reader, stdout io.Writer) error {
	out, err := conn.Pipe(ctx, c, stdin, stdout)
	if err != nil {
		return err
	}
	if out.ExitCode != 0 {
		return restoreFailure(out.ExitCode, string(out.Stderr))
	}
	return nil
}

// restoreFailure is the error of a pg_restore that has failed.
func restoreFailure(exitCode int, stderr string) error {
	why := RestoreError(stderr)
	// 126 and 127: there is no such program; beyond it was ended by a signal (POSIX, "Exit Status for Commands").
	if exitCode < 0 || exitCode >= 126 || isPlacesFault(stderr) {
		return &PlaceError{why}
	}
	return &UnrestorableError{why}
}

// placesFaults are what PostgreSQL's programs and server say when the host has not got what a restore takes, or is in trouble. pg_restore
// prints no SQLSTATE, and the messages are in English (LC_ALL, and the scratch cluster's locale).
func placesFaults() []string {
	return []string{
		"No space left on device", "Disk quota exceeded", "Input/output error", "Read-only file system", "Too many open files", "Cannot allocate memory",
		"could not extend file", "could not resize shared memory", "out of memory", "out of shared memory", "could not fork",
		"server closed the connection", "connection to server", "could not connect to server", "could not send data to server", "could not receive data from server",
		"no connection to the server", "terminating connection", "the database system is", "remaining connection slots", "too many clients",
		"could not open extension control file", "is not available", "has no installation script", "could not access file", "could not load library",
		"must be loaded via shared_preload_libraries", "could not write to output file", "could not open output file", "error while loading shared libraries",
	}
}

// isPlacesFault reports whether the messages of a failed program tell of the host's fault. What rows hold stands in other lines than
// those with an error.
func isPlacesFault(stderr string) bool {
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "error") || strings.Contains(line, "fatal: ") {
			if slices.ContainsFunc(placesFaults(), func(f string) bool { return strings.Contains(line, f) }) {
				return true
			}
		}
	}
	return false
}

// A PlaceError says why a host could not read or restore a dump, which says nothing about the dump.
type PlaceError struct{ why string }

// Error implements error.
func (e *PlaceError) Error() string {
	return e.why + "; this is the host's fault and says nothing about the set"
}

// An UnrestorableError says why pg_restore, or the server that it restores to, does not take a dump.
type UnrestorableError struct{ why string }

// Error implements error.
func (e *UnrestorableError) Error() string { return e.why }

func (r *Reader) find(kind, database string) (File, bool) {
	for _, f := range r.Set.Manifest.Files {
		if f.Kind == kind && f.Database == database {
			return f, true
		}
	}
	return File{}, false
}

// A summing writer computes what the manifest has of a file.
type summing struct {
	hash  hash.Hash
	bytes int64
	count *atomic.Int64
}

func (s *summing) Write(b []byte) (int, error) {
	s.bytes += int64(len(b))
	if s.count != nil {
		s.count.Add(int64(len(b)))
	}
	return s.hash.Write(b)
}

// differs says how what was read is not what the manifest says; "" if it is.
func (s *summing) differs(f File) string {
	switch sum := hex.EncodeToString(s.hash.Sum(nil)); {
	case s.bytes < f.Bytes:
		return fmt.Sprintf("is cut off: it has %d bytes and had %d", s.bytes, f.Bytes)
	case s.bytes > f.Bytes:
		return fmt.Sprintf("has %d bytes and had %d", s.bytes, f.Bytes)
	case sum != f.SHA256:
		return fmt.Sprintf("was changed since it was made: its SHA-256 is %s… and was %s…", sum[:16], f.SHA256[:16])
	}
	return ""
}

// A noting reader keeps the first error but io.EOF. Conn.Pipe may be reading still when it
// has returned.
type noting struct {
	mu  sync.Mutex
	r   io.Reader
	err error
}

func (n *noting) Read(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k, err := n.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && n.err == nil {
		n.err = err
	}
	return k, err
}

func (n *noting) first() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}
