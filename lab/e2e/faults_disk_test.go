//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pgfleet/pgfleet/lab/labtest"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// startedAt is when a host's server started.
func startedAt(t *testing.T, host string) string {
	t.Helper()
	return sql(t, host, "SELECT pg_postmaster_start_time()")
}

// small puts a file system of few MB in the place of a folder of a host, with what
// is in the folder.
func small(t *testing.T, host, dir string, megabytes int) {
	t.Helper()
	look(t, host, strings.ReplaceAll("set -e; mkdir -p -m 0755 "+dir+"; cd "+dir+`; d=$PWD; s=$(mktemp -d -p /root); cp -a . $s/; o=size=SIZE,mode=$(stat -c %a .),uid=$(stat -c %u .),gid=$(stat -c %g .)
mount -t tmpfs -o $o none $d; cp -a $s/. $d/; rm -r $s`, "SIZE", fmt.Sprintf("%dm", megabytes)))
	t.Cleanup(func() {
		look(t, host, "cd "+dir+"; s=$(mktemp -d -p /root); rm -f .full; cp -a . $s/; cd /; umount "+dir+"; cp -a $s/. "+dir+"/; rm -r $s")
	})
}

// full leaves so many blocks of 4 kB free in the file system of a folder; fewer
// than 0 are all.
func full(t *testing.T, host, dir string, blocks int) {
	t.Helper()
	look(t, host, fmt.Sprintf(`set -e; cd %s; rm -f .full; [ %[2]d -ge 0 ] || exit 0
n=$(($(df --output=avail -B4096 . | tail -n 1) - %[2]d)); head -c $((n * 4096)) /dev/zero >.full; [ $(df --output=avail -B4096 . | tail -n 1) = %[2]d ]`, dir, blocks))
}

// threeFiles change three files of a server's configuration, and restart it.
const threeFiles = `
[[task]]
name = "Memory"
kind = "settings"
file = "50-fault.conf"
settings = { max_connections = "77" }

[[task]]
name = "More memory"
kind = "settings"
file = "51-fault.conf"
settings = { work_mem = "5MB" }
` + appRules + `
[[task]]
name = "PostgreSQL"
kind = "service"
`

// An untouched is a host as it was, for what must change nothing.
type untouched struct {
	t                     *testing.T
	host, before, started string
}

func untouchedYet(t *testing.T, host string) untouched {
	t.Helper()
	return untouched{t, host, whole(t, host), startedAt(t, host)}
}

// by demands that a run has failed and said why, and has changed nothing.
func (u untouched) by(s labtest.Said, words ...string) {
	u.t.Helper()
	if s.Code != 1 {
		u.t.Errorf("exit %d\n%s", s.Code, s.All())
	}
	wantWords(u.t, s.All(), append(words, u.host+": ")...)
	if after := whole(u.t, u.host); after != u.before {
		u.t.Errorf("the host is not as before:\n%s\n%s", unlike(u.before, after), s.All())
	}
	if now := startedAt(u.t, u.host); now != u.started {
		u.t.Errorf("the server was restarted\n%s", s.All())
	}
	if left := stillArmed(u.t, u.host); left != "" {
		u.t.Errorf("armed: %s\n%s", left, s.All())
	}
	clientLogsIn(u.t, u.host)
}

// stillArmed is armed, without a file system of the test's own.
func stillArmed(t *testing.T, host string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(armed(t, host)) {
		if !strings.Contains(line, "var-lib-pgfleet.mount") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// fullDisk applies with little room in a folder. Each run leaves the host as it
// was, and says what there is no room for; with room again, the first run is gone
// on with.
func fullDisk(t *testing.T, host, tasks, dir string, blocks []int, words ...string) {
	served(t, host)
	dir = strings.ReplaceAll(dir, "VERSION", fmt.Sprint(fleet.Lab.Host(host).Postgres))
	b := newBench(t, tasks+declaredClient, host)
	b.withCA()
	small(t, host, dir, 64)
	u := untouchedYet(t, host)
	for _, n := range blocks {
		full(t, host, dir, n)
		s := b.Run("apply", "--yes", "--dead-man", "5s")
		full(t, host, dir, -1)
		if s.Code == 0 {
			t.Fatalf("%d blocks are enough\n%s", n, s.All())
		}
		u.by(s, append(words, "No space left on device")...)
	}
	b.resumed()
	clientLogsIn(t, host)
	if got := sql(t, host, "SHOW max_connections"); got != "77" {
		t.Errorf("max_connections is %s", got)
	}
	t.Logf("PROOF: PostgreSQL %d, %s full: %d applies failed and changed nothing; with room resume finished\n", fleet.Lab.Host(host).Postgres, dir, len(blocks))
}

// fullConfiguration has no room for the new files, or for all but one of them.
func fullConfiguration(t *testing.T, host string) {
	fullDisk(t, host, threeFiles, "/etc/postgresql/VERSION/main", []int{0, 2}, "/etc/postgresql/")
}

// fullCopies has no room for the lease, the copies of the old files, or pgfleet's own
// list of files.
func fullCopies(t *testing.T, host string) {
	fullDisk(t, host, threeFiles, "/var/lib/pgfleet", []int{1, 4, 10}, "/var/lib/pgfleet/")
}

// fullTrial has no room for the trial of the new files.
func fullTrial(t *testing.T, host string) { fullDisk(t, host, threeFiles, "/tmp", []int{0}, "/tmp/") }

// larger has pg_hba.conf take more room than all that replaces it, in a small file
// system.
func larger(t *testing.T, host, dir string) {
	t.Helper()
	small(t, host, dir, 1)
	look(t, host, "yes '# a long comment' | head -n 3000 >>"+dir+"/pg_hba.conf")
}

// noRoomForTheHost: the network is cut and the disk is full when the host has to
// put back. It does what it can, the server runs, and with room the rest follows.
func noRoomForTheHost(t *testing.T, host string) {
	dir := fmt.Sprintf("/etc/postgresql/%d/main", fleet.Lab.Host(host).Postgres)
	var p *sshtest.Proxy
	c := change{tasks: threeFiles, at: "grep -q pgfleet /etc/postgresql/VERSION/main/pg_hba.conf"}
	b, r, _ := c.during(t, host, func(b *bench) {
		larger(t, host, dir)
		p = b.through(host)
	})
	p.Refuse()
	full(t, host, dir, 0)
	r.end(1)
	until(t, host, "grep -q '^failed ' /var/lib/pgfleet/undo/*/fired.note && runuser -u postgres -- pg_isready -q")
	clientLogsIn(t, host)
	p.Mend()
	s := b.Run("plan")
	wantWords(t, s.All(), "it could not do all of it", dir+"/pg_hba.conf", "No space left on device", "the next apply tries again")
	s = b.Want(1, "apply", "--yes")
	wantWords(t, s.All(), "No space left on device", "mend that and apply again")
	clientLogsIn(t, host)
	full(t, host, dir, -1)
	b.resumed()
	clientLogsIn(t, host)
}

// noRoomForUs: the disk is full when pgfleet has to put back. The host is left to
// try again.
func noRoomForUs(t *testing.T, host string) {
	dir := fmt.Sprintf("/etc/postgresql/%d/main", fleet.Lab.Host(host).Postgres)
	good := "settings = { max_connections = \"77\" }"
	c := change{
		tasks: strings.Replace(threeFiles, good, `settings = { max_connections = "77", listen_addresses = "192.0.2.1" }`, 1),
		at:    "grep -q pgfleet /etc/postgresql/VERSION/main/pg_hba.conf",
	}
	b, r, _ := c.during(t, host, func(*bench) { larger(t, host, dir) })
	full(t, host, dir, 0)
	s := r.end(1)
	wantWords(t, s, "No space left on device", "putting the old state back failed as well", undo)
	until(t, host, "runuser -u postgres -- pg_isready -q")
	clientLogsIn(t, host)
	full(t, host, dir, -1)
	b.edit("fleet.toml", ", listen_addresses = \"192.0.2.1\"", "")
	b.resumed()
	clientLogsIn(t, host)
}

// readOnly makes a folder of a host one that cannot be written to, until the
// function that it returns is called. A server that runs in it goes on.
func readOnly(t *testing.T, host, dir string) (undo func()) {
	t.Helper()
	look(t, host, "set -e; mount --bind "+dir+" "+dir+"; mount -o remount,ro,bind "+dir)
	undo = sync.OnceFunc(func() { look(t, host, "umount "+dir) })
	t.Cleanup(undo)
	return undo
}

// readOnlyEtc: whatever writes there is refused before anything was changed.
func readOnlyEtc(t *testing.T, host string) {
	served(t, host)
	u := untouchedYet(t, host)
	end := readOnly(t, host, "/etc")
	var first *bench
	for _, tasks := range []string{
		threeFiles,
		changes()[3].tasks, // a certificate
		changes()[4].tasks, // a unit
		"\n[[task]]\nname = \"File\"\nkind = \"file\"\npath = \"/etc/fault-file\"\ncontent = \"x\"\n",
	} {
		b := newBench(t, tasks+declaredClient, host)
		b.withCA()
		u.by(b.Run("apply", "--yes"), "Read-only file system", "/etc/")
		if first == nil {
			first = b
		}
	}
	end()
	first.resumed()
	clientLogsIn(t, host)
}

// readOnlyData: what ALTER SYSTEM has set cannot be taken out, so the files in
// /etc are not written either.
func readOnlyData(t *testing.T, host string) {
	served(t, host)
	sql(t, host, "ALTER SYSTEM SET work_mem = '9MB'")
	sql(t, host, "SELECT pg_reload_conf()")
	until(t, host, "[ \"$(cd /; runuser -u postgres -- psql -XAtqc 'SHOW work_mem')\" = 9MB ]")
	u := untouchedYet(t, host)
	end := readOnly(t, host, fmt.Sprintf("/var/lib/postgresql/%d/main", fleet.Lab.Host(host).Postgres))
	b := newBench(t, threeFiles+declaredClient, host)
	u.by(b.Run("apply", "--yes"), "Read-only file system", "postgresql.auto.conf")
	end()
	b.resumed()
	clientLogsIn(t, host)
}
