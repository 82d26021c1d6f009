package backup

import (
	"context"
	"crypto/rand"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgfleet/pgfleet/transport"
)

//go:embed scratch.sh
var scratchScript string

//go:embed scratch_start.sh
var scratchStart string

//go:embed scratch_stop.sh
var scratchStop string

const (
	// scratchSilence is after how many minutes without a word of ours a scratch
	// cluster removes itself, and scratchWord how often it gets one.
	scratchSilence = 5
	scratchWord    = 30 * time.Second
	stopTimeout    = 2 * time.Minute
)

// A Scratch is a server of its own on an empty cluster of a host, which is removed
// when it is closed; when nobody is heard of for five minutes; and when the host
// boots anew. It runs as the account pgfleet_scratch, has no network, sees no other cluster, and lets nobody in but the accounts
// postgres and root: what is restored into it can run programs. Its only
// databases are template0 and template1. It may be used concurrently.
type Scratch struct {
	conn transport.Conn
	unit string
	bin  string

	cancel context.CancelFunc
	words  sync.WaitGroup
}

// StartScratch makes a scratch cluster with the PostgreSQL in binDir, with preload
// as shared_preload_libraries. It runs in a transient unit of systemd
// (systemd-run(1)), by an account that is made if it is missing; that takes root. Close it.
func StartScratch(ctx context.Context, conn transport.Conn, binDir string, preload []string) (*Scratch, error) {
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never returns an error
	s := &Scratch{conn: conn, unit: "pgfleet-scratch-" + hex.EncodeToString(random), bin: binDir}
	script := assign("unit", s.unit) + assign("script", scratchScript) + assign("bin_dir", binDir) +
		assign("preload", strings.Join(preload, ",")) + assign("minutes", strconv.Itoa(scratchSilence)) + assign("alive", s.alive()) + scratchStart
	out, err := conn.Run(ctx, transport.Command{Script: script, User: "root", Unfenced: true})
	if err == nil && out.ExitCode != 0 {
		err = fmt.Errorf("the scratch cluster did not start: %s", said(out))
	}
	if err != nil {
		// It may have been started all the same.
		return nil, errors.Join(err, s.stop(ctx))
	}
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.words.Go(func() { s.keepAlive(alive) })
	return s, nil
}

// keepAlive tells the cluster that it is still wanted.
func (s *Scratch) keepAlive(ctx context.Context) {
	tick := time.NewTicker(scratchWord)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// Where it fails, what is done with the cluster fails as well.
			_, _ = s.conn.Run(ctx, transport.Command{Script: "touch -c " + transport.Quote(s.alive()), User: "root", Unfenced: true})
		case <-ctx.Done():
			return
		}
	}
}

// SocketDir returns the folder of the server's socket.
func (s *Scratch) SocketDir() string { return "/run/" + s.unit }

// alive is the file whose time says when the cluster was wanted last.
func (s *Scratch) alive() string { return s.SocketDir() + ".alive" }

// Endpoint returns where a database of it is reached.
func (s *Scratch) Endpoint(database string) transport.Endpoint {
	return transport.Endpoint{SocketDir: s.SocketDir(), Port: 5432, Database: database, User: "postgres"}
}

// Close removes the cluster, also when ctx has ended. The error names what is left.
func (s *Scratch) Close(ctx context.Context) error {
	s.cancel()
	s.words.Wait()
	return s.stop(ctx)
}

func (s *Scratch) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	out, err := s.conn.Run(ctx, transport.Command{Script: assign("unit", s.unit) + assign("alive", s.alive()) + scratchStop, User: "root", Unfenced: true})
	if err != nil {
		return &LeftError{fmt.Sprintf("whether the scratch cluster is gone is not known (%v); it removes itself within %d minutes, or: systemctl stop %s", err, scratchSilence, s.unit)}
	}
	if left := strings.TrimSpace(string(out.Stdout)); left != "" || out.ExitCode != 0 {
		return &LeftError{"the scratch cluster could not be removed: " + said(out)}
	}
	return nil
}

// A LeftError says what is left of a scratch cluster.
type LeftError struct{ what string }

// Error implements error.
func (e *LeftError) Error() string { return e.what }

// assign returns a line that sets a variable of a script.
func assign(name, value string) string { return name + "=" + transport.Quote(value) + "\n" }

// said is what a command printed that failed, on one line.
func said(out transport.Output) string {
	text := strings.TrimSpace(string(out.Stderr))
	if text == "" {
		text = strings.TrimSpace(string(out.Stdout))
	}
	if text == "" {
		return fmt.Sprintf("exit status %d", out.ExitCode)
	}
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// Binaries are the major versions of PostgreSQL that a host has the programs of.
type Binaries []int

// FindBinaries asks a host for them. They are looked for where Debian puts them.
func FindBinaries(ctx context.Context, conn transport.Conn) (Binaries, error) {
	const script = `for f in /usr/lib/postgresql/*/bin/pg_restore; do
	if [ -x "$f" ]; then f=${f#/usr/lib/postgresql/}; echo "${f%%/*}"; fi
done`
	out, err := conn.Run(ctx, transport.Command{Script: script, Unfenced: true})
	if err != nil {
		return nil, err
	}
	var found Binaries
	for word := range strings.FieldsSeq(string(out.Stdout)) {
		if n, err := strconv.Atoi(word); err == nil {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return found, nil
}

// For returns the version to read a dump with that pg_dump of version major wrote:
// the same, or else the next newer one. An older pg_restore may not know the format,
// and what was dumped may not exist in an older server.
func (b Binaries) For(major int) (int, error) {
	for _, n := range b {
		if n >= major {
			return n, nil
		}
	}
	if len(b) == 0 {
		return 0, fmt.Errorf("there is no pg_restore in /usr/lib/postgresql/*/bin: install postgresql-client-%d there", major)
	}
	var have []string
	for _, n := range b {
		have = append(have, strconv.Itoa(n))
	}
	return 0, fmt.Errorf("the dump was made by pg_dump %d, and pg_restore there is of version %s: install postgresql-client-%d, or a newer one", major, strings.Join(have, " and "), major)
}

// BinDir returns where Debian has the programs of a major version.
func BinDir(major int) string { return fmt.Sprintf("/usr/lib/postgresql/%d/bin", major) }
