package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/transport"
)

// A Restore restores one database of a set to a running server.
type Restore struct {
	Reader   *Reader
	At       Place              // where the server runs
	Server   transport.Endpoint // of it; its database is ignored
	Database string             // which one of the set
	Name     string             // what it is to be called
	// Overwrite says that there is a database of that name, whose place is to be
	// taken. It is kept under another name.
	Overwrite bool
	Tell      func(string) // what is being done; may be nil

	schema      *Schema
	single      bool // in one transaction
	tablespaces bool // that are asked for are there
	version     string
}

// Restored says what came of a restore.
type Restored struct {
	Kept          string // what the database is called now whose place was taken; "" for none
	ServerVersion string
	Compared      bool     // its contents were compared with those when it was dumped
	Notes         []string // what is otherwise than it was
}

// A RefusedError says why a restore was not begun.
type RefusedError struct{ Why string }

// Error implements error.
func (e *RefusedError) Error() string { return e.Why }

// Prepare finds out whether the database can be restored there, with everything that
// can be known before, and reads the dump to its end. Nothing is changed. A
// *RefusedError says what is in the way.
func (r *Restore) Prepare(ctx context.Context) error {
	f, ok := r.Reader.find(KindDatabase, r.Database)
	if !ok {
		return &RefusedError{fmt.Sprintf("the set %s has no database %q; it has %s", r.Reader.Set.Folder(), r.Database, strings.Join(r.Reader.Set.Manifest.Databases(), ", "))}
	}
	if n := len(r.Name); n == 0 || n > maxName {
		return &RefusedError{fmt.Sprintf("%q cannot be a database's name: it has %d bytes, and at most %d are taken", r.Name, n, maxName)}
	}
	r.tell("asking the server")
	session, err := r.session(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, session)
	if err := r.nameIsFree(ctx, session); err != nil {
		return err
	}
	r.tell("reading what the dump needs")
	if r.schema, err = r.Reader.Schema(ctx, r.At.Conn, r.At.Bin(), r.Database); err != nil {
		return r.Reader.named(f, err)
	}
	if err := r.serverHas(ctx, session); err != nil {
		return err
	}
	if r.Overwrite {
		if err := r.canBeReplaced(ctx, session); err != nil {
			return err
		}
	}
	// Nothing of the dump reaches the server before all of it is known to be right.
	r.tell("reading " + f.Name)
	return r.namedError(f, r.Reader.ReadThrough(ctx, r.At.Conn, r.At.Bin(), f))
}

func (r *Restore) namedError(f File, err error) error {
	if err == nil {
		return nil
	}
	return r.Reader.named(f, err)
}

// maxName is how many bytes a name may have (NAMEDATALEN).
const maxName = 63

func (r *Restore) tell(what string) {
	if r.Tell != nil {
		r.Tell(what)
	}
}

// session opens a session in the database postgres.
func (r *Restore) session(ctx context.Context) (*pgx.Conn, error) {
	at := r.Server
	at.Database = "postgres"
	return r.At.Conn.Postgres(ctx, at)
}

func (r *Restore) nameIsFree(ctx context.Context, session *pgx.Conn) error {
	var standby, exists bool
	var major int
	err := session.QueryRow(ctx, `SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = `+postgres.QuoteLiteral(r.Name)+`),
		current_setting('server_version_num')::int / 10000, current_setting('server_version')`, pgx.QueryExecModeSimpleProtocol).Scan(&standby, &exists, &major, &r.version)
	if err != nil {
		return serverError(err)
	}
	dumped, _ := MajorOf(r.Reader.Set.Manifest.ServerVersion)
	switch {
	case standby:
		return &RefusedError{"this server is a standby: restore on its primary"}
	case exists && !r.Overwrite:
		return &RefusedError{fmt.Sprintf("there is a database %q: restore under another name with --as, or take its place with --overwrite %s", r.Name, transport.Word(r.Name))}
	case !exists && r.Overwrite:
		return &RefusedError{fmt.Sprintf("there is no database %q whose place could be taken: leave --overwrite out", r.Name)}
	case major < dumped:
		return &RefusedError{fmt.Sprintf("the dump is of PostgreSQL %d, and the server is of version %s: restore to one of version %d or newer", dumped, r.version, dumped)}
	}
	return nil
}

// serverHas finds out whether the server has what the dump needs.
func (r *Restore) serverHas(ctx context.Context, session *pgx.Conn) error {
	missing := func(names []string, from string) ([]string, error) {
		rows, err := session.Query(ctx, "SELECT n FROM pg_catalog.unnest("+quoteAll(names)+") n WHERE n NOT IN ("+from+")", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return nil, serverError(err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		return list, serverError(err)
	}
	roles, err := missing(r.schema.Roles, "SELECT rolname FROM pg_catalog.pg_roles")
	if err != nil {
		return err
	}
	extensions, err := missing(r.schema.Extensions, "SELECT name FROM pg_catalog.pg_available_extensions")
	if err != nil {
		return err
	}
	tablespaces, err := missing(r.schema.Tablespaces, "SELECT spcname FROM pg_catalog.pg_tablespace")
	if err != nil {
		return err
	}
	switch {
	case len(roles) > 0:
		return &RefusedError{fmt.Sprintf("the server has no %s, which the dump needs: restore the roles first, with --globals", list("role", roles))}
	case len(extensions) > 0:
		return &RefusedError{fmt.Sprintf("the extension %s cannot be had on this server: install its package there", strings.Join(extensions, ", "))}
	}
	r.tablespaces = len(tablespaces) == 0
	// One transaction takes a lock on each object, and the table of locks has so much room at least
	// (max_locks_per_transaction in the manual, "Lock Management").
	var locks int
	err = session.QueryRow(ctx, `SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)`,
		pgx.QueryExecModeSimpleProtocol).Scan(&locks)
	if err != nil {
		return serverError(err)
	}
	objects := r.schema.Statements
	checks, err := r.Reader.Checks(ctx, r.Database)
	if err != nil {
		return err
	}
	for _, c := range checks {
		if c.Kind == CheckLargeObjects {
			objects += int(c.Rows)
		}
	}
	r.single = objects < locks/2
	return nil
}

func list(what string, names []string) string {
	if len(names) > 1 {
		what += "s"
	}
	return what + " " + strings.Join(names, ", ")
}

// canBeReplaced finds out what would stand in the way of renaming the database.
func (r *Restore) canBeReplaced(ctx context.Context, session *pgx.Conn) error {
	name := postgres.QuoteLiteral(r.Name)
	var prepared, slots, subscriptions int
	var template bool
	err := session.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_catalog.pg_prepared_xacts WHERE database = `+name+`),
		(SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE database = `+name+`),
		(SELECT count(*) FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = `+name+`),
		(SELECT datistemplate FROM pg_catalog.pg_database WHERE datname = `+name+`)`, pgx.QueryExecModeSimpleProtocol).Scan(&prepared, &slots, &subscriptions, &template)
	if err != nil {
		return serverError(err)
	}
	switch {
	case r.Name == "postgres" || template:
		return &RefusedError{fmt.Sprintf("the database %q is not replaced: restore under another name with --as", r.Name)}
	case prepared > 0:
		return &RefusedError{fmt.Sprintf("the database %q has %d prepared transactions (pg_prepared_xacts): end them first", r.Name, prepared)}
	case slots > 0:
		return &RefusedError{fmt.Sprintf("the database %q has %d logical replication slots (pg_replication_slots), which would stay with the old one: drop them first", r.Name, slots)}
	case subscriptions > 0:
		return &RefusedError{fmt.Sprintf("the database %q has %d subscriptions (pg_subscription), which would stay with the old one: drop them first", r.Name, subscriptions)}
	}
	return nil
}

// Run restores the database, after Prepare. It is restored under a name that nobody uses, and gets its own
// once it is complete and its contents were compared. Whatever fails before leaves nothing behind but where
// the contents differ: then the error says under which name they can be looked at.
func (r *Restore) Run(ctx context.Context) (*Restored, error) {
	f, _ := r.Reader.find(KindDatabase, r.Database)
	session, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	defer closeSession(ctx, session)
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never returns an error
	temporary := "pgfleet_restoring_" + strings.ToLower(r.Reader.Set.ID) + "_" + hex.EncodeToString(random)
	done := &Restored{ServerVersion: r.version}
	if err := r.fill(ctx, session, f, temporary); err != nil {
		return nil, r.drop(ctx, temporary, r.Reader.named(f, err))
	}
	r.tell("comparing the contents")
	at := r.Server
	at.Database = temporary
	differences, err := r.Reader.Compare(ctx, r.At, at, r.Database)
	if err != nil {
		return nil, r.drop(ctx, temporary, err)
	}
	if len(differences) > 0 {
		return nil, fmt.Errorf("%w; what was restored is in database %s, and %s is as it was", &DifferenceError{r.Database, differences}, temporary, r.Name)
	}
	_, done.Compared = r.Reader.find(KindChecks, r.Database)
	r.tell("renaming")
	if done.Kept, err = r.rename(ctx, session, temporary); err != nil {
		return nil, r.drop(ctx, temporary, err)
	}
	if !r.tablespaces {
		done.Notes = append(done.Notes, "tablespaces of the dump are not there ("+strings.Join(r.schema.Tablespaces, ", ")+"): everything is in the default one")
	}
	if r.schema.Bare {
		done.Notes = append(done.Notes, "settings, comment and privileges of the database itself were not restored: pg_restore writes none where a database's name holds the end of a line")
	}
	if !r.single {
		done.Notes = append(done.Notes, "it was not restored in a single transaction, because its objects need more locks than the server has room for")
	}
	return done, nil
}

// fill makes the database and restores into it.
func (r *Restore) fill(ctx context.Context, session *pgx.Conn, f File, temporary string) error {
	r.tell("restoring")
	if err := runStatements(ctx, session, r.schema.CreateDatabase(temporary, r.tablespaces)); err != nil {
		return err
	}
	var options []string
	if r.single {
		options = append(options, "--single-transaction")
	}
	if !r.tablespaces {
		options = append(options, "--no-tablespaces")
	}
	at := r.Server
	at.Database = temporary
	return r.Reader.RestoreInto(ctx, r.At.Conn, r.At.Bin(), at, f, options...)
}

// dropTimeout is how long removing an unfinished database may take.
const dropTimeout = 5 * time.Minute

// drop removes what was begun, and says so together with why.
func (r *Restore) drop(ctx context.Context, temporary string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	err := func() error {
		session, err := r.session(ctx)
		if err != nil {
			return err
		}
		defer closeSession(ctx, session)
		for _, st := range []string{
			"SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = " + postgres.QuoteLiteral(temporary),
			"DROP DATABASE IF EXISTS " + postgres.QuoteIdent(temporary) + " WITH (FORCE)",
		} {
			if _, err := session.PgConn().Exec(ctx, st).ReadAll(); err != nil {
				return serverError(err)
			}
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("%w\nthe unfinished database %s could not be dropped: %w", why, temporary, err)
	}
	return why
}

// rename gives the restored database its name, and the one that has it another one, in
// one transaction.
func (r *Restore) rename(ctx context.Context, session *pgx.Conn, temporary string) (kept string, err error) {
	exec := func(session *pgx.Conn, text string) error {
		_, err := session.PgConn().Exec(ctx, text).ReadAll()
		return serverError(err)
	}
	name := postgres.QuoteIdent(r.Name)
	become := "ALTER DATABASE " + postgres.QuoteIdent(temporary) + " RENAME TO " + name
	if !r.Overwrite {
		return "", exec(session, become)
	}
	kept = keptName(r.Name, time.Now())
	swap := "BEGIN; ALTER DATABASE " + name + " RENAME TO " + postgres.QuoteIdent(kept) + "; " + become + "; COMMIT"
	for try := 0; ; try++ {
		// RENAME locks the database, so that who connects waits, and then gives the sessions in it 5 seconds to end
		// (CountOtherDBBackends in procarray.c). Ending them meanwhile needs nothing that would be left behind by a kill.
		stop, err := r.endSessions(ctx)
		if err != nil {
			return "", err
		}
		err = exec(session, swap)
		if e := stop(); err == nil {
			return kept, nil
		} else if e != nil {
			err = fmt.Errorf("%w; %w", err, e)
		}
		_ = exec(session, "ROLLBACK")
		// 55006, object_in_use.
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "55006" || try == 5 {
			return "", err
		}
	}
}

// endSessions ends the sessions in the database whose place is taken, until the function that it returns
// is called.
func (r *Restore) endSessions(ctx context.Context) (stop func() error, err error) {
	session, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() {
		defer closeSession(ctx, session)
		text := "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = " + postgres.QuoteLiteral(r.Name)
		for {
			if _, err := session.PgConn().Exec(ctx, text).ReadAll(); err != nil {
				done <- serverError(err)
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				done <- nil
				return
			}
		}
	}()
	return func() error {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}, nil
}

// keptName is what a database is called whose place was taken.
func keptName(name string, now time.Time) string {
	suffix := "_before_" + strings.ToLower(NewID(now))
	for len(name)+len(suffix) > maxName {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name + suffix
}

// MajorOf returns the major version of a server's or a program's version: "17.5 (Debian 17.5-1)".
func MajorOf(version string) (int, error) {
	digits := version
	if i := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = version[:i]
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("%q is not a version of PostgreSQL", version)
	}
	return n, nil
}

// serverError is what the server says, with its detail and hint, on one line.
func serverError(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	return &saidError{pg}
}

// A saidError prints a server's error with what it says beside.
type saidError struct{ pg *pgconn.PgError }

func (e *saidError) Error() string {
	text := e.pg.Message
	if e.pg.Detail != "" {
		text += "; " + e.pg.Detail
	}
	if e.pg.Hint != "" {
		text += "; " + e.pg.Hint
	}
	return text
}

func (e *saidError) Unwrap() error { return e.pg }

// closeSession ends a session, without waiting long for a server that does not answer.
func closeSession(ctx context.Context, session *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = session.Close(ctx)
}

// RestoreGlobals makes the roles and tablespaces of a set on a server that has not got them.
// Those that it has stay as they are, and are returned as kept; what failed is a tablespace whose folder is not there.
func RestoreGlobals(ctx context.Context, g *Globals, conn transport.Conn, at transport.Endpoint) (made, kept, failed []string, err error) {
	at.Database = "postgres"
	session, err := conn.Postgres(ctx, at)
	if err != nil {
		return nil, nil, nil, err
	}
	defer closeSession(ctx, session)
	names := func(query string) (map[string]bool, error) {
		rows, err := session.Query(ctx, query, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return nil, serverError(err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		set := map[string]bool{}
		for _, n := range list {
			set[n] = true
		}
		return set, serverError(err)
	}
	roles, err := names("SELECT rolname FROM pg_catalog.pg_roles")
	if err != nil {
		return nil, nil, nil, err
	}
	tablespaces, err := names("SELECT spcname FROM pg_catalog.pg_tablespace")
	if err != nil {
		return nil, nil, nil, err
	}
	run, kept := g.Missing(roles, tablespaces)
	exec := func(text string) error {
		_, err := session.PgConn().Exec(ctx, text).ReadAll()
		return serverError(err)
	}
	if err := beQuiet(ctx, session); err != nil {
		return nil, kept, nil, err
	}
	// Tablespaces stand behind the roles in the dump, and cannot be made in a transaction.
	if err := exec("BEGIN"); err != nil {
		return nil, kept, nil, err
	}
	inside, lost := true, map[string]bool{}
	for _, st := range run {
		if st.Outside && inside {
			if err := exec("COMMIT"); err != nil {
				return nil, kept, nil, err
			}
			inside = false
		}
		if st.tablespace != "" && lost[st.tablespace] {
			continue
		}
		if err := exec(st.Text); err != nil {
			if inside {
				return nil, kept, nil, fmt.Errorf("%s: %w; nothing was changed", st.What, err)
			}
			lost[st.tablespace] = true
			failed = append(failed, fmt.Sprintf("%s: %v", st.What, err))
			continue
		}
		if name, ok := strings.CutPrefix(st.What, "CREATE ROLE "); ok {
			made = append(made, "role "+name)
		} else if name, ok := strings.CutPrefix(st.What, "CREATE TABLESPACE "); ok {
			made = append(made, "tablespace "+name)
		}
	}
	if inside {
		if err := exec("COMMIT"); err != nil {
			return nil, kept, nil, err
		}
	}
	return made, kept, failed, nil
}

// beQuiet has the server write nothing of what the session sends, which holds verifiers of passwords, into its log,
// its statistics or its views.
func beQuiet(ctx context.Context, session *pgx.Conn) error {
	// What a server has not got is not in pg_settings.
	texts := []string{"SET log_transaction_sample_rate = 0; SET default_transaction_read_only = off"}
	for _, q := range postgres.QuietParameters() {
		name := postgres.QuoteLiteral(q.Name)
		texts = append(texts, "SELECT pg_catalog.set_config(name, "+postgres.QuoteLiteral(q.Value)+", false) FROM pg_catalog.pg_settings WHERE name = "+name)
	}
	for _, text := range texts { // one message each: a sample is decided about when a transaction begins
		if _, err := session.PgConn().Exec(ctx, text).ReadAll(); err != nil {
			return serverError(err)
		}
	}
	return nil
}
