// Package hosted holds what a database host needs to make backups by itself: the script that dumps, the units of systemd that run it, and the SQL
// of the checks, which proves a restore too. It is text, and what makes it: nothing here does any I/O.
package hosted

import (
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ChecksBegin and ChecksRest are the SQL of a database's checks, for psql -XAtq with the variable check set to "rows" or "counts": one JSON
// object on each line, of kind "sequence" (last_value, is_called, increment), "table" and "materialized view" (rows, and with "rows" sum), and "large
// objects" once. They are one session: the first begins a transaction, in which the snapshot is exported that pg_dump takes, and the second ends
// it. Sums do not depend on the order of rows. Of a restored database, tables and large objects are to be equal, sequences at least as far, and
// a materialized view that had not been refreshed lately differs.
//
//go:embed checks_begin.sql
var ChecksBegin string

// ChecksRest is the second part; see [ChecksBegin].
//
//go:embed checks_rest.sql
var ChecksRest string

//go:embed backup.sh
var backupScript string

// Dir is the folder of the scripts and of the lists of recipients on a host.
const Dir = "/etc/pgfleet/backup"

// A Config is what the script and the units of one backup on one instance say.
type Config struct {
	Header     string // the comment at the top of each file
	Backup     string
	Instance   string // its name in the fleet
	Target     string // the folder that the unit may write to
	Base       string // the folder of the instance's sets, in Target
	Unit       string // without .service
	Server     string // the unit of the PostgreSQL server
	Role       string // of the database, and the account
	SocketDir  string
	Port       int
	BinDir     string
	Recipients []string // public keys

	Wanted, Excluded []string // regular expressions of databases
	Named            []string // databases that have to be there
	Aside            string   // regular expression of databases that Named alone can mean; empty for none
	Keep             int
	LockTimeout      time.Duration
	Compression      string
	Check            string
	On               string // "primary" or "standby"
	// Members are the cluster's members that the backup is for, in the order of the fleet, each with its names and addresses; Place is that of the
	// instance among them, from 0.
	Members [][]string
	Place   int

	Schedule        string
	RandomizedDelay time.Duration
}

// ScriptPath returns the path of the script.
func (c Config) ScriptPath() string {
	return Dir + "/" + strings.TrimPrefix(c.Unit, "pgfleet-backup-") + ".sh"
}

// RecipientsPath returns the path of the list of recipients.
func (c Config) RecipientsPath() string {
	return Dir + "/" + strings.TrimPrefix(c.Unit, "pgfleet-backup-") + ".recipients"
}

// ServicePath returns the path of the service.
func (c Config) ServicePath() string { return "/etc/systemd/system/" + c.Unit + ".service" }

// TimerPath returns the path of the timer.
func (c Config) TimerPath() string { return "/etc/systemd/system/" + c.Unit + ".timer" }

// RecipientsFile returns the file for age -R.
func (c Config) RecipientsFile() string {
	return "# " + c.Header + "\n" + strings.Join(c.Recipients, "\n") + "\n"
}

// Script returns the script, for the POSIX shell. Its folder is root's, and it runs as the account.
func (c Config) Script() (string, error) {
	named, err := json.Marshal(append([]string{}, c.Named...))
	if err != nil {
		return "", err
	}
	place, first, second := 0, "", ""
	if len(c.Members) > 1 {
		place, first, second = c.Place+1, strings.Join(c.Members[0], " "), strings.Join(c.Members[1], " ")
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# " + c.Header + "\n")
	for _, v := range []struct{ name, value string }{
		{"backup", c.Backup}, {"instance", c.Instance}, {"base", c.Base}, {"recipients", c.RecipientsPath()},
		{"role", c.Role}, {"socket_dir", c.SocketDir}, {"port", strconv.Itoa(c.Port)}, {"bin_dir", c.BinDir},
		{"wanted", strings.Join(c.Wanted, "|")}, {"excluded", strings.Join(c.Excluded, "|")}, {"named", string(named)}, {"aside", c.Aside},
		{"keep", strconv.Itoa(c.Keep)}, {"lock_timeout", strconv.FormatInt(c.LockTimeout.Milliseconds(), 10)}, {"compression", c.Compression}, {"check", c.Check},
		{"on", c.On}, {"place", strconv.Itoa(place)}, {"first", first}, {"second", second},
	} {
		b.WriteString(v.name + "=" + quote(v.value) + "\n")
	}
	b.WriteString(programBegins)
	fmt.Fprintf(&b, "checks_begin() {\n\tcat <<'END_OF_CHECKS'\n%sEND_OF_CHECKS\n}\nchecks_rest() {\n\tcat <<'END_OF_CHECKS'\n%sEND_OF_CHECKS\n}\n\n%s", ChecksBegin, ChecksRest, backupScript)
	return b.String(), nil
}

// programBegins divides what a script says from the program, which is the same in all of them.
const programBegins = "# The program.\n"

// Summary returns a script for the reader: what it says, and of the program how long it is and a digest.
func Summary(script string) string {
	says, program, ok := strings.Cut(script, programBegins)
	if !ok {
		return script
	}
	return fmt.Sprintf("%s# The program: %d lines, SHA-256 %x\n", says, strings.Count(program, "\n"), sha256.Sum256([]byte(program)))
}

// quote returns a word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// CheckAbove returns a command of the shell, for root, that fails and says why on its standard error if somebody else than root could put another folder in
// the place of dir: each folder above it that there is has to be root's, no symbolic link, and not writable by others unless it is sticky.
func CheckAbove(dir string) string {
	return "(d=" + quote(dir) + `
while [ "$d" != / ]; do
	d=$(dirname -- "$d")
	[ ! -L "$d" ] || { echo "$d is a symbolic link, and leads to $(readlink -f -- "$d")" >&2; exit 1; }
	[ -e "$d" ] || continue
	case $(stat -c '%u %a' -- "$d") in
	'0 '[1357]???) ;;
	'0 '*[2367]? | '0 '*[2367]) echo "$d can be written to by others than root" >&2; exit 1 ;;
	'0 '*) ;;
	*) echo "$d belongs to $(stat -c %U -- "$d") and not to root" >&2; exit 1 ;;
	esac
done)`
}

// Service returns the service. What it may do is as little as dumping needs: it writes into the target alone, and speaks to the server over its
// socket.
func (c Config) Service() string {
	families := "AF_UNIX"
	if c.On == "standby" && len(c.Members) > 1 {
		families += " AF_INET AF_INET6 AF_NETLINK" // it looks up the members' names (getent), which may be a server's to answer
	}
	return fmt.Sprintf(`# %[1]s
[Unit]
Description=Backup %[2]s of %[3]s
After=%[4]s.service

[Service]
Type=oneshot
ExecStart=%[5]s
User=%[6]s
Group=%[6]s
UMask=0077
TimeoutStartSec=infinity
RuntimeDirectory=%[7]s
RuntimeDirectoryMode=0700
ReadWritePaths=%[8]s
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
LimitCORE=0
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=%[9]s
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
`, c.Header, c.Backup, c.Instance, c.Server, c.ScriptPath(), c.Role, c.Unit, c.Target, families)
}

// Timer returns the timer. A time at which the host was down is made up for.
func (c Config) Timer() string {
	return fmt.Sprintf(`# %s
[Unit]
Description=Backup %s of %s

[Timer]
OnCalendar=%s
RandomizedDelaySec=%ds
Persistent=true

[Install]
WantedBy=timers.target
`, c.Header, c.Backup, c.Instance, c.Schedule, int64(c.RandomizedDelay.Seconds()))
}
