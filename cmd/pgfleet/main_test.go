package main

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pgfleet": main})
}

// TestScripts runs whole command lines. No script reaches a host: the addresses
// are ports of the loopback interface where nobody listens.
func TestScripts(t *testing.T) {
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hangs.Close() })
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/home/.config")
			e.Setenv("HANGS", hangs.Addr().String())
			if err := os.MkdirAll(e.WorkDir+"/home", 0o700); err != nil {
				return err
			}
			return writeKey(e.WorkDir + "/key")
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"journal": writeJournal,
			"agekey":  writeAgeKey,
			"pending": writePending,
			// exits CODE COMMAND...: the command ends with this exit code.
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				if err != nil || neg {
					ts.Fatalf("usage: exits CODE COMMAND...")
				}
				got := 0
				var exit *exec.ExitError
				if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
					got = exit.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
		},
	})
}

// writeAgeKey writes an age identity, post-quantum with pq, and its public key:
//
//	agekey FILE [pq]
func writeAgeKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: agekey FILE [pq]")
	}
	var private, public string
	if len(args) > 1 {
		id, err := age.GenerateHybridIdentity()
		ts.Check(err)
		private, public = id.String(), id.Recipient().String()
	} else {
		id, err := age.GenerateX25519Identity()
		ts.Check(err)
		private, public = id.String(), id.Recipient().String()
	}
	file := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(file, []byte(private+"\n"), 0o600))
	ts.Check(os.WriteFile(file+".pub", []byte(public+"\n"), 0o600))
}

// writePending does what a rotation does that dies before it is done: a version of a
// secret of the age store is written, and not made the current one.
//
//	pending PATH KEY VALUE
func writePending(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: pending PATH KEY VALUE")
	}
	resolver, err := secrets.NewResolver(secrets.Config{
		Dir: ts.MkAbs("."), Age: secrets.AgeConfig{Identities: []string{"me"}, Recipients: []string{"me.pub"}},
	})
	ts.Check(err)
	store, err := resolver.WritableStore("age")
	ts.Check(err)
	_, err = store.Put(context.Background(), args[0], secrets.Change{Set: map[string]secrets.Secret{args[1]: secrets.NewString(args[2])}})
	ts.Check(err)
}

// writeKey writes an SSH key that no host knows.
func writeKey(path string) error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

func TestExitCode(t *testing.T) {
	input := &inputError{errors.New("x")}
	tests := []struct {
		err             error
		plain, detailed int
	}{
		{nil, 0, 0},
		{errChangesDue, 2, 2},
		{errHostFailed, 1, 1},
		{input, 2, 1},
		{errors.New("x"), 1, 1},
	}
	for _, test := range tests {
		if got := exitCode(test.err, false); got != test.plain {
			t.Errorf("%v: %d, want %d", test.err, got, test.plain)
		}
		if got := exitCode(test.err, true); got != test.detailed {
			t.Errorf("%v with --detailed-exitcode: %d, want %d", test.err, got, test.detailed)
		}
	}
}

func TestInterrupts(t *testing.T) {
	var calls []string
	i := newInterrupts(func() { calls = append(calls, "cancel") })
	undo := i.onFirst(func() { calls = append(calls, "first") })
	i.interrupt()
	i.interrupt()
	undo()
	i.interrupt()
	want := []string{"first", "cancel", "cancel"}
	if len(calls) != 3 || calls[0] != want[0] || calls[1] != want[1] || calls[2] != want[2] {
		t.Errorf("got %v, want %v", calls, want)
	}
}
