package rollout

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// setPassword gives a role the SCRAM verifier of a password, and then makes sure
// that this is what the server has stored: what it does not take for a verifier,
// it hashes as if it were a password. No error holds the text of the statement.
func (t *transaction) setPassword(ctx context.Context, st catalog.SetPassword) error {
	before, err := t.parameters(ctx)
	if err != nil {
		return err
	}
	verifier, err := t.verifier(st, before["scram_iterations"])
	if err != nil {
		return err
	}
	hush, restore := map[string]string{}, map[string]string{}
	for _, q := range postgres.QuietParameters() {
		if value, ok := before[q.Name]; ok && value != q.Value {
			hush[q.Name], restore[q.Name] = q.Value, value
		}
	}
	if err := t.setParameters(ctx, hush); err != nil {
		return err
	}
	// The simple protocol: with the other one a server that logs debug messages
	// would log the text as it parses it.
	_, err = t.conn.PgConn().Exec(ctx, "ALTER ROLE "+postgres.QuoteIdent(st.Role)+" PASSWORD "+postgres.QuoteLiteral(verifier)).ReadAll()
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return errors.New(serverSays(pg))
	} else if err != nil {
		return because(ctx, err)
	}
	if err := t.setParameters(ctx, restore); err != nil {
		return err
	}
	var stored string
	err = t.conn.QueryRow(ctx, "SELECT coalesce(rolpassword, '') FROM pg_catalog.pg_authid WHERE rolname = "+postgres.QuoteLiteral(st.Role),
		pgx.QueryExecModeSimpleProtocol).Scan(&stored)
	if err != nil {
		return because(ctx, err)
	}
	if subtle.ConstantTimeCompare([]byte(stored), []byte(verifier)) != 1 {
		return errors.New("the server did not store the SCRAM verifier that it was given")
	}
	return nil
}

// verifier computes what the server is to store.
func (t *transaction) verifier(st catalog.SetPassword, iterations string) (string, error) {
	if t.stored != nil {
		return string(t.stored.Expose()), nil
	}
	password, ok := t.reveal(st.Secret)
	if !ok {
		return "", fmt.Errorf("the password %s was not read", st.Secret)
	}
	if err := postgres.CheckPassword(string(password.Expose())); err != nil {
		return "", fmt.Errorf("the password %s: %w", st.Secret, err)
	}
	n, _ := strconv.Atoi(iterations) // from 16 on
	salt := make([]byte, postgres.SCRAMSaltLen)
	_, _ = rand.Read(salt) // never returns an error
	return postgres.SCRAMVerifier(string(password.Expose()), salt, max(n, postgres.SCRAMIterations))
}

// parameters returns the values of the parameters that setPassword looks at.
func (t *transaction) parameters(ctx context.Context) (map[string]string, error) {
	names := []string{"'scram_iterations'"}
	for _, q := range postgres.QuietParameters() {
		names = append(names, postgres.QuoteLiteral(q.Name))
	}
	rows, err := t.conn.Query(ctx, "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ("+strings.Join(names, ", ")+")", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, because(ctx, err)
	}
	values := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		values[name] = value
		return nil
	})
	return values, because(ctx, err)
}

// setParameters sets parameters for the rest of the transaction, in one message.
func (t *transaction) setParameters(ctx context.Context, values map[string]string) error {
	if len(values) == 0 {
		return nil
	}
	var calls []string
	for _, q := range postgres.QuietParameters() {
		if value, ok := values[q.Name]; ok {
			calls = append(calls, "pg_catalog.set_config("+postgres.QuoteLiteral(q.Name)+", "+postgres.QuoteLiteral(value)+", true)")
		}
	}
	return t.send(ctx, "SELECT "+strings.Join(calls, ", "))
}
