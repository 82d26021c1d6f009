package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// tellUserlist gives PgBouncer the verifier that the server has: PgBouncer logs in
// with the keys of the client's own login, so both have to be the same to the byte
// (PgBouncer's documentation, auth_type scram-sha-256).
func (x *executor) tellUserlist(ctx context.Context, a tasks.TellUserlist) error {
	conn, err := x.session(ctx, a.Server)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	verifier, err := storedVerifier(ctx, conn, a.User)
	if err != nil {
		return because(ctx, err)
	}
	if verifier.IsEmpty() {
		return fmt.Errorf("%s has no password, so there is nothing to write to %s", a.User, a.Path)
	}
	if x.run.Redactor != nil {
		x.run.Redactor.Add(verifier)
	}
	return x.onHosts(ctx, a.Hosts, func(y *executor) error {
		return y.edit(ctx, a.Path, func(text string) (string, error) {
			return postgres.SetUserlist(text, a.User, string(verifier.Expose()))
		})
	})
}

// tellPassfile gives a password file the new password.
func (x *executor) tellPassfile(ctx context.Context, a tasks.TellPassfile) error {
	password, ok := x.run.reveal(a.Password)
	if !ok {
		return fmt.Errorf("the password %s was not read", a.Password)
	}
	return x.onHosts(ctx, a.Hosts, func(y *executor) error {
		return y.edit(ctx, a.Path, func(text string) (string, error) {
			servers := passfileServers(a.Members, y.instance.Host.Name)
			text, n, err := postgres.SetPassfile(text, servers, append(a.Others, a.User), a.User, string(password.Expose()))
			switch {
			case err != nil:
				return "", fmt.Errorf("%s: %w", a.Path, err)
			case n == 0:
				return "", fmt.Errorf("%s has no line for %s at %s: write one, host:port:database:user:password, whose password pgfleet then keeps", a.Path, a.User, serverList(servers))
			}
			return text, nil
		})
	})
}

// passfileServers returns how a password file on a host names the members of a
// cluster: one that is on the same host may be called localhost.
func passfileServers(members []tasks.Member, on string) []postgres.PassfileServer {
	var list []postgres.PassfileServer
	for _, m := range members {
		names := m.Addresses
		if m.Host == on {
			names = append(slices.Clone(names), "localhost", "127.0.0.1", "::1")
		}
		for _, name := range names {
			if s := (postgres.PassfileServer{Host: name, Port: strconv.Itoa(m.Port)}); !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	return list
}

// serverList is servers for the reader.
func serverList(list []postgres.PassfileServer) string {
	var names []string
	for _, s := range list {
		names = append(names, s.Host+":"+s.Port)
	}
	return strings.Join(names, ", ")
}

// edit replaces a file that is there by what becomes of its text. Owner and mode
// stay as they are.
func (x *executor) edit(ctx context.Context, path string, change func(string) (string, error)) error {
	q := facts.File{Path: path}
	answers, err := x.conn.Read(ctx, []facts.Read{q})
	if err != nil {
		return err
	}
	f, err := fileAnswer(answers, q)
	switch {
	case err != nil:
		return err
	case !f.Exists:
		return fmt.Errorf("there is no %s; make it first, with the owner and the mode that it needs", path)
	case !f.Regular || f.TooLarge:
		return errors.New(path + " is no regular file of less than 4 MiB")
	}
	text, err := change(string(f.Content))
	if err != nil || text == string(f.Content) {
		return err
	}
	return x.conn.WriteFiles(ctx, []transport.File{{Path: path, Content: []byte(text)}})
}
