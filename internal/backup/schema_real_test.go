package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
	"github.com/pgfleet/pgfleet/transport"
)

// Pipe runs a script on this machine.
func (c serverConn) Pipe(ctx context.Context, cmd transport.Command, stdin io.Reader, stdout io.Writer) (transport.Output, error) {
	sh := exec.CommandContext(ctx, "/bin/sh", "-c", cmd.Script)
	var stderr bytes.Buffer
	sh.Env, sh.Stdout, sh.Stderr = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}, stdout, &stderr
	in, err := sh.StdinPipe()
	if err != nil {
		return transport.Output{}, err
	}
	if err := sh.Start(); err != nil {
		return transport.Output{}, err
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	err = sh.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil
	}
	return transport.Output{ExitCode: sh.ProcessState.ExitCode(), Stderr: stderr.Bytes()}, err
}

// A oneObject target has one object, whatever its name.
type oneObject struct {
	backup.Target
	text []byte
}

func (o oneObject) Get(_ context.Context, _ string, w io.Writer) error {
	_, err := w.Write(o.text)
	return err
}

// What a dump needs is learned of a database whose name pg_restore --create gives up on.
func TestSchemaOfNewline(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		const name = "two\nlines\r"
		s.Exec(t, "CREATE ROLE app")
		s.Exec(t, `CREATE DATABASE "`+name+`" ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0`)
		psql := exec.Command(program(t, s, "psql"), "-XAtq", "-c", "CREATE TABLE t (a int); ALTER TABLE t OWNER TO app", s.URL(name, "postgres"))
		if out, err := psql.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		dump, err := exec.Command(program(t, s, "pg_dump"), "-Fc", "-C", s.URL(name, "postgres")).Output()
		if err != nil {
			t.Fatal(err)
		}
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		var cipher bytes.Buffer
		w, err := age.Encrypt(&cipher, identity.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(dump)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(cipher.Bytes())
		file := backup.File{SHA256: hex.EncodeToString(sum[:]), Kind: backup.KindDatabase, Database: name, Name: backup.DumpName(name), Bytes: int64(cipher.Len())}
		set := &backup.Set{Backup: "b", Instance: "i", ID: "20260101T000000Z", Manifest: &backup.Manifest{Files: []backup.File{file}}}
		r := &backup.Reader{Target: oneObject{text: cipher.Bytes()}, Set: set, Identities: []age.Identity{identity}}
		schema, err := r.Schema(t.Context(), serverConn{server: s}, strings.TrimSuffix(program(t, s, "pg_restore"), "/pg_restore"), name)
		if err != nil {
			t.Fatal(err)
		}
		if !schema.Bare || !slices.Contains(schema.Roles, "app") {
			t.Errorf("%+v", schema)
		}
		if got := schema.CreateDatabase("copy", false); !strings.HasPrefix(got[0], `CREATE DATABASE copy WITH `) && !strings.HasPrefix(got[0], `CREATE DATABASE "copy" WITH `) {
			t.Errorf("%q", got)
		}
	})
}
