package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/transport"
)

// A Place is a host with the programs of PostgreSQL.
type Place struct {
	Conn  transport.Conn
	Host  string // its name
	Major int    // of the programs
}

// Bin returns the folder of the programs.
func (p Place) Bin() string { return BinDir(p.Major) }

// preloaded are extensions that can only be made where their library is among
// shared_preload_libraries.
func preloaded() []string { return []string{"citus", "pg_cron", "pgaudit", "timescaledb"} }

// Verify reads every file of the set, decrypts it here, and has each dump read by
// pg_restore at a place. Tell is told what it does; it may be nil. The error names the file.
func (r *Reader) Verify(ctx context.Context, at Place, tell func(string)) error {
	if tell == nil {
		tell = func(string) {}
	}
	for _, f := range r.Set.Manifest.Files {
		tell("reading " + f.Name)
		var err error
		switch f.Kind {
		case KindGlobals:
			_, err = r.Globals(ctx)
		case KindChecks:
			_, err = r.Checks(ctx, f.Database)
		case KindDatabase:
			err = r.ReadThrough(ctx, at.Conn, at.Bin(), f)
		}
		if err != nil {
			return r.named(f, err)
		}
	}
	return nil
}

// named says which file an error is about, if it does not yet.
func (r *Reader) named(f File, err error) error {
	if strings.Contains(err.Error(), f.Name) {
		return err
	}
	return fmt.Errorf("%s: %w", f.Name, err)
}

// VerifyRestore restores the whole set into a scratch cluster at a place, and compares
// what came of it with the checks of when it was dumped. It returns that server's version. The
// cluster is gone afterwards; if it is not, that is an error.
func (r *Reader) VerifyRestore(ctx context.Context, at Place, tell func(string)) (version string, err error) {
	if tell == nil {
		tell = func(string) {}
	}
	tell("reading what the dumps need")
	globals, err := r.Globals(ctx)
	if err != nil {
		return "", r.named(File{Name: GlobalsName}, err)
	}
	schemas := map[string]*Schema{}
	var preload []string
	for _, f := range r.Set.Manifest.Files {
		if f.Kind != KindDatabase {
			continue
		}
		s, err := r.Schema(ctx, at.Conn, at.Bin(), f.Database)
		if err != nil {
			return "", r.named(f, err)
		}
		schemas[f.Database] = s
		for _, e := range s.Extensions {
			if slices.Contains(preloaded(), e) && !slices.Contains(preload, e) {
				preload = append(preload, e)
			}
		}
	}
	tell("making a scratch cluster")
	scratch, err := StartScratch(ctx, at.Conn, at.Bin(), preload)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, scratch.Close(ctx)) }()
	if version, err = scratch.roles(ctx, globals); err != nil {
		return version, err
	}
	for _, f := range r.Set.Manifest.Files {
		if f.Kind != KindDatabase {
			continue
		}
		tell("restoring " + f.Database)
		if err := scratch.create(ctx, schemas[f.Database].CreateDatabase(f.Database, false)); err != nil {
			return version, r.named(f, err)
		}
		if err := r.RestoreInto(ctx, at.Conn, at.Bin(), scratch.Endpoint(f.Database), f, "--no-tablespaces"); err != nil {
			return version, r.named(f, err)
		}
		tell("checking " + f.Database)
		differences, err := r.Compare(ctx, at, scratch.Endpoint(f.Database), f.Database)
		if err != nil {
			return version, r.named(f, err)
		}
		if len(differences) > 0 {
			return version, &DifferenceError{f.Database, differences}
		}
	}
	return version, nil
}

// A DifferenceError says how a restored database is not the one that was dumped.
type DifferenceError struct {
	Database    string
	Differences []string
}

// Error names the first relations.
func (e *DifferenceError) Error() string {
	const most = 10
	list := e.Differences
	more := ""
	if len(list) > most {
		more = fmt.Sprintf("; and %d more", len(list)-most)
		list = list[:most]
	}
	return fmt.Sprintf("database %s is not as it was dumped: %s%s", e.Database, strings.Join(list, "; "), more)
}

// Compare computes the checks of a restored database and compares them with those of
// the one that was dumped. It returns the differences; none if the set has no checks.
func (r *Reader) Compare(ctx context.Context, at Place, endpoint transport.Endpoint, database string) ([]string, error) {
	dumped, err := r.Checks(ctx, database)
	if err != nil || dumped == nil {
		return nil, err
	}
	now, err := CheckDatabase(ctx, at.Conn, at.Bin(), endpoint, dumped)
	if err != nil {
		return nil, err
	}
	return CompareChecks(dumped, now), nil
}

// roles makes the roles in the scratch cluster, and returns the server's version.
func (s *Scratch) roles(ctx context.Context, g *Globals) (version string, err error) {
	session, err := s.conn.Postgres(ctx, s.Endpoint("template1"))
	if err != nil {
		return "", err
	}
	defer closeSession(ctx, session)
	if err := session.QueryRow(ctx, "SHOW server_version", pgx.QueryExecModeSimpleProtocol).Scan(&version); err != nil {
		return "", err
	}
	// The set may have a database of that name.
	if _, err := session.PgConn().Exec(ctx, "DROP DATABASE postgres").ReadAll(); err != nil {
		return version, err
	}
	run, _ := g.WithoutTablespaces().Missing(map[string]bool{"postgres": true}, nil)
	for _, st := range run {
		if _, err := session.PgConn().Exec(ctx, st.Text).ReadAll(); err != nil {
			return version, statementFailure(fmt.Sprintf("%s: %s: %v", GlobalsName, st.What, serverError(err)), err)
		}
	}
	return version, nil
}

// statementFailure is the error of a statement that a scratch cluster did not run: the set's fault if the server says so, unless it
// had no room or was about to end (Appendix A of the manual: classes 08, 53, 57P, 58 and XX).
func statementFailure(why string, err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return &PlaceError{why}
	}
	for _, class := range []string{"08", "53", "57P", "58", "XX"} {
		if strings.HasPrefix(pg.Code, class) {
			return &PlaceError{why}
		}
	}
	return &UnrestorableError{why}
}

// create runs the statements that make a database.
func (s *Scratch) create(ctx context.Context, statements []string) error {
	session, err := s.conn.Postgres(ctx, s.Endpoint("template1"))
	if err != nil {
		return err
	}
	defer closeSession(ctx, session)
	return runStatements(ctx, session, statements)
}

func runStatements(ctx context.Context, session *pgx.Conn, statements []string) error {
	for _, st := range statements {
		if _, err := session.PgConn().Exec(ctx, st).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", st, serverError(err))
		}
	}
	return nil
}

// quoteAll returns names as a list of literals for an array.
func quoteAll(names []string) string {
	var list []string
	for _, n := range names {
		list = append(list, postgres.QuoteLiteral(n))
	}
	return "ARRAY[" + strings.Join(list, ", ") + "]::text[]"
}
