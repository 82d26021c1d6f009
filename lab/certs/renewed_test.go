//go:build lab

package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// short is a CA whose leaves and lists live two minutes.
const short = `
lifetime = "2m"
crl_lifetime = "2m"
overlap = "45s"
`

// overlap is how long clients have to fetch the new CA, as in [short]: longer than a
// busy machine takes to find that they have it not.
const overlap = 45 * time.Second

// runFor is how long the clients log in: longer than certificates and lists live.
const runFor = 150 * time.Second

// TestLabRenewed lets certificates and revocation lists of two minutes be renewed by
// what a timer runs, and replaces the whole CA, by runs that are killed, while a client
// of each server makes a new connection ten times a second. None fails.
func TestLabRenewed(t *testing.T) {
	b := newBench(t, short)
	b.Want(0, "certs", "export", "guest", "--out", "guest", "--lifetime", "1d")
	b.place("trusted.pem", b.read("ca.pem"))
	b.fetchApp()
	list := []*client{b.client("a1", "app"), b.client("b1", "app"), b.client("a1", "guest")}
	apps := list[:2]
	for _, c := range list {
		if _, err := c.once(); err != nil {
			t.Fatalf("%s on %s is not let in: %v", c.role, c.host, err)
		}
	}
	began := time.Now()
	stop := clients(apps...)
	defer stop()

	b.renew()
	b.firstPhase(t)
	for introduced := time.Now(); time.Since(introduced) < overlap; {
		b.renewUntil(time.Now().Add(10 * time.Second))
	}
	b.secondPhase(t)
	b.thirdPhase(t, list[2])
	for time.Since(began) < runFor {
		b.renewUntil(time.Now().Add(10 * time.Second))
	}
	has(t, b.Want(0, "certs", "list").All(), "server", "client", "yes", "revoked", "REVOCATION LIST", "ends first, in")
	stop()
	for i, c := range apps {
		t.Run(fmt.Sprintf("postgres-%d", hosts()[i].Postgres), func(t *testing.T) {
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Logf("%d connections, %d certificates of the server", c.attempts, len(c.served))
			if len(c.failures) > 0 {
				t.Errorf("%d of %d connections failed:\n%s", len(c.failures), c.attempts, strings.Join(c.failures[:min(10, len(c.failures))], "\n"))
			}
			if c.attempts < int(runFor/every)*2/3 { // a busy machine takes its time
				t.Errorf("%d connections are too few", c.attempts)
			}
			if len(c.served) < 3 {
				t.Errorf("the server's certificate changed %d times, want twice at least", len(c.served)-1)
			}
			if _, err := list[2].once(); err == nil {
				t.Error("the revoked client is let in")
			}
		})
	}
}

func (b *bench) client(host, role string) *client {
	c := &client{host: host, role: role, roots: filepath.Join(b.Dir, "trusted.pem"), cert: filepath.Join(b.Dir, "app.pem"), key: filepath.Join(b.Dir, "app.pem")}
	if role == "guest" {
		c.cert, c.key = filepath.Join(b.Dir, "guest/guest.crt"), filepath.Join(b.Dir, "guest/guest.key")
	}
	return c
}

// renew is what a timer runs.
func (b *bench) renew() {
	b.T.Helper()
	b.Want(0, "certs", "renew", "--yes", "--lock-wait", "30s")
	b.fetchApp()
}

func (b *bench) renewUntil(end time.Time) {
	b.T.Helper()
	b.renew()
	time.Sleep(time.Until(end))
}

// firstPhase introduces a new CA, killed twice, and then goes too far.
func (b *bench) firstPhase(t *testing.T) {
	t.Helper()
	// Killed between the store and the file: only the key is there.
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store().Put(t.Context(), "ca", secrets.Change{Set: map[string]secrets.Secret{"key": key}}); err != nil {
		t.Fatal(err)
	}
	b.stage(t, pki.Begun)
	b.renew()
	b.killed(t, 7, "certs", "rotate-ca", "--yes")
	b.next(t, "Phase 1")
	b.stage(t, pki.Introduced)
	b.renew()
	if n := strings.Count(b.read("ca.pem"), "BEGIN CERTIFICATE"); n != 2 {
		t.Fatalf("there are %d CAs, want 2", n)
	}
	s := b.Want(1, "certs", "rotate-ca", "--yes")
	has(t, s.All(), "phase 2 cannot begin; nothing was changed", "clients have until", "--clients-ready")
	has(t, b.Want(0, "plan").All(), "the CA is being changed from", "clients have")
	b.place("trusted.pem", b.read("ca.pem"))
}

// secondPhase lets the new CA sign, killed twice.
func (b *bench) secondPhase(t *testing.T) {
	t.Helper()
	// Killed between the store and the file: the key is promoted, and no more.
	versions, err := b.store().Versions(t.Context(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(versions, func(v secrets.Version) bool { return v.Stage == secrets.Pending })
	if i < 0 {
		t.Fatalf("no version is pending: %v", versions)
	}
	if err := b.store().Promote(t.Context(), "ca", versions[i].ID); err != nil {
		t.Fatal(err)
	}
	b.stage(t, pki.Promoted)
	b.renew()
	b.killed(t, 7, "certs", "rotate-ca", "--yes")
	b.next(t, "Phase 2")
	b.stage(t, pki.Switched)
	b.renew()
}

// thirdPhase is refused for the sake of a client whose certificate is the old CA's. Once
// that is revoked, the old CA goes.
func (b *bench) thirdPhase(t *testing.T, guest *client) {
	t.Helper()
	s := b.Want(1, "certs", "rotate-ca", "--yes")
	has(t, s.All(), "phase 3 cannot begin; nothing was changed", "certs/guest-", "guest is of")
	if _, err := guest.once(); err != nil {
		t.Errorf("the client with a certificate of the old CA is not let in: %v", err)
	}
	has(t, b.Want(0, "certs", "revoke", "guest", "--reason", "superseded", "--yes", "--lock-wait", "30s").All(), "is added to certs/revoked.toml")
	if _, err := guest.once(); err == nil {
		t.Error("the revoked client is let in")
	}
	b.resumed(t, b.killed(t, 4, "certs", "rotate-ca", "--yes"))
	b.stage(t, pki.Settled)
	b.place("trusted.pem", b.read("ca.pem"))
	if got, want := trusted(t), "a1: 1 CAs, 1 lists; b1: 1 CAs, 1 lists"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// next goes on with a phase that was killed, if it was.
func (b *bench) next(t *testing.T, phase string) {
	t.Helper()
	args := []string{"certs", "rotate-ca", "--yes", "--lock-wait", "30s"}
	if phase != "Phase 1" {
		args = append(args, "--clients-ready")
	}
	s := b.Run(args...)
	t.Logf("%.1fs\n%s", s.Took.Seconds(), s.All())
	if s.Code != 0 && !strings.Contains(s.All(), "cannot begin") {
		t.Fatalf("%s: exit code %d\n%s", phase, s.Code, s.All())
	}
	b.fetchApp()
}

// resumed goes on with a run by its journal.
func (b *bench) resumed(t *testing.T, home string) {
	t.Helper()
	own := b.Home
	b.Home = home
	defer func() { b.Home = own }()
	paths, _ := filepath.Glob(filepath.Join(home, ".local/state/pgfleet/runs/*.jsonl"))
	if len(paths) != 1 {
		t.Fatalf("there are %d journals", len(paths))
	}
	id := strings.TrimSuffix(filepath.Base(paths[0]), ".jsonl")
	has(t, b.Want(0, "runs", "resume", id, "--yes", "--lock-wait", "30s").All(), "2 changed")
}

// stage wants the rotation to stand somewhere.
func (b *bench) stage(t *testing.T, want pki.RotationStage) {
	t.Helper()
	s := b.Want(0, "certs", "rotate-ca", "--status", "--json")
	var doc struct {
		Rotation struct{ Stage pki.RotationStage }
	}
	if err := json.Unmarshal([]byte(s.Stdout), &doc); err != nil {
		t.Fatalf("--status: %v\n%s", err, s.All())
	}
	if doc.Rotation.Stage != want {
		t.Fatalf("the rotation is %s, want %s", doc.Rotation.Stage, want)
	}
}

// killed begins a run and kills it once its journal has so many records. It returns the
// home of the user who began it.
func (b *bench) killed(t *testing.T, records int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	home := b.Home
	b.Home = t.TempDir()
	defer func() { b.Home = home }()
	cmd := b.Command(ctx, append(args, "--lease-ttl", "3s", "--lock-wait", "30s", "--clients-ready")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	for b.records() < records {
		select {
		case <-ended:
			t.Logf("it ended before it was killed:\n%s", out.String())
			return b.Home
		case <-time.After(time.Millisecond):
		}
	}
	_ = cmd.Process.Kill()
	<-ended
	t.Logf("killed:\n%s", out.String())
	return b.Home
}

// records counts those of the only journal of the user.
func (b *bench) records() int {
	paths, _ := filepath.Glob(filepath.Join(b.Home, ".local/state/pgfleet/runs/*.jsonl"))
	if len(paths) == 0 {
		return 0
	}
	text, _ := os.ReadFile(paths[0])
	return bytes.Count(text, []byte("\n"))
}

func has(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}
