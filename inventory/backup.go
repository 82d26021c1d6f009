package inventory

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Backup is one entry of [[backup]]: logical dumps of databases, encrypted, and where they go. Its values are no templates.
type Backup struct {
	Name   string
	Pos    Position // of the name
	Limit  Selector // everything when not given
	Absent bool     // what apply made for it is to go; the backups stay

	Databases   []Positioned[string] // patterns, see MeansDatabase; none for all
	On          string               // "primary" or "standby"
	Recipients  []Positioned[string] // age or SSH public keys, or files that list them, see Fleet.File
	Identities  []string             // files, here; those of [secrets.age] if there are none
	Encrypt     string               // "host" or "operator": where the stream is encrypted
	Keep        int                  // how many good backups of an instance stay
	MaxAge      Age                  // how old the newest good backup may be; 0 when not said
	VerifyOn    string               // a host's name; empty when not said
	Role        string               // of the database, and the account of the operating system
	LockTimeout time.Duration        // 0 waits for ever
	Compression string               // of pg_dump -Z; empty when not said
	Check       string               // "rows", "counts" or "none"

	Schedule        Positioned[string] // systemd's OnCalendar; empty for no timer
	RandomizedDelay time.Duration
	To              BackupTarget
}

// A BackupTarget is where backups go. Exactly one of Path (without Host), Host with Path, Here, S3 and Command is set.
type BackupTarget struct {
	Pos     Position
	Path    string   // a folder on the database host, or on Host; clean and absolute
	Host    string   // another host of the fleet
	Here    string   // a folder on the operator's machine, see Fleet.File
	S3      *S3      // a bucket
	Command []string // a program on the operator's machine and its arguments
}

// S3 is a bucket of a service that speaks the protocol of Amazon S3.
type S3 struct {
	Bucket          Positioned[string] `toml:"bucket" required:"true" doc:"The bucket's name."`
	Prefix          string             `toml:"prefix" doc:"What the names of all objects begin with."`
	Region          string             `toml:"region" doc:"The region; else AWS_REGION or ~/.aws/config decides."`
	Endpoint        Positioned[string] `toml:"endpoint" doc:"The URL of another service than Amazon's."`
	AccessKeyID     Positioned[string] `toml:"access_key_id" doc:"Where the key's name is: a secret such as \"age:s3#id\"; the usual environment variables and files of AWS by default."`
	SecretAccessKey Positioned[string] `toml:"secret_access_key" doc:"Where the key is: a secret such as \"age:s3#key\"."`
}

// Hosted reports whether the database host makes the backups itself, by a unit of systemd; else pgfleet backup run pulls them.
func (b *Backup) Hosted() bool {
	return b.To.Path != "" && b.To.Host == "" && b.Encrypt != "operator"
}

// Means reports whether the backup is for an instance. Which of a cluster's members makes it is another question: On.
func (b *Backup) Means(in Instance) bool { return b.Limit.Match(in, nil) != No }

// Unit returns the name of the units that make the backup of an instance, without .service and .timer.
func (b *Backup) Unit(in Instance) string {
	return fmt.Sprintf("pgfleet-backup-%s-%d-%s", b.Name, in.Version, in.Cluster)
}

// Dir returns the folder of an instance's sets within a target: BACKUP/INSTANCE. The slash in an instance's name is a plus sign there.
func (b *Backup) Dir(id InstanceID) string {
	return b.Name + "/" + strings.ReplaceAll(string(id), "/", "+")
}

// MeansDatabase reports whether the patterns mean a database: one of those without an exclamation mark does, or there are none of
// these, and none of those with one does. What a restore that goes on makes is never meant, nor what it has put aside unless it is named; see SetAside.
func (b *Backup) MeansDatabase(name string) bool {
	wanted, excluded := b.DatabasePatterns()
	matches := func(pattern string) bool { return regexp.MustCompile("(?s)" + pattern).MatchString(name) }
	return (len(wanted) == 0 || slices.ContainsFunc(wanted, matches)) && !slices.ContainsFunc(excluded, matches) &&
		(!matches(SetAside) || slices.Contains(b.DatabaseNames(), name))
}

// restoring is the regular expression of what a database is called while backup restore fills it, and SetAside of one whose place backup restore --overwrite has
// taken.
const (
	restoring = "^pgfleet_restoring_[0-9]{8}t[0-9]{6}z_[0-9a-f]{8}$"
	SetAside  = "_before_[0-9]{8}t[0-9]{6}z$"
)

// DatabasePatterns returns the patterns as regular expressions, which mean the same to PostgreSQL and to Go with the flag s.
func (b *Backup) DatabasePatterns() (wanted, excluded []string) {
	for _, p := range b.Databases {
		if rest, ok := strings.CutPrefix(p.Value, "!"); ok {
			excluded = append(excluded, globExpression(rest))
		} else {
			wanted = append(wanted, globExpression(p.Value))
		}
	}
	return wanted, append(excluded, restoring)
}

// DatabaseNames returns the patterns that are names: a backup without these databases is not what was asked for.
func (b *Backup) DatabaseNames() []string {
	var names []string
	for _, p := range b.Databases {
		if !strings.HasPrefix(p.Value, "!") && !strings.ContainsAny(p.Value, "*?") {
			names = append(names, p.Value)
		}
	}
	return names
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._+-]+$`)

// globExpression returns the regular expression of a glob, in which * stands for any text and ? for any character.
func globExpression(glob string) string {
	text := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(glob))
	return "^" + text + "$"
}

// backupTable is what an entry of [[backup]] may hold.
type backupTable struct {
	Name            Positioned[string]        `toml:"name" required:"true" doc:"What the backup is called; unique in the fleet, and part of the names of units and folders."`
	Limit           Positioned[string]        `toml:"limit" doc:"A selector: which instances the backup is for; all by default."`
	State           string                    `toml:"state" enum:"present,absent" doc:"absent removes the timer, the service and the script from the hosts; never the backups."`
	Databases       []Positioned[string]      `toml:"databases" doc:"Names of databases, with * and ?; with ! before it one is left out. All that allow connections by default; template0 and template1 never, and those that a restore has put aside (shop_before_20260301t081500z) only if they are named."`
	On              string                    `toml:"on" enum:"primary,standby" doc:"primary (the default), or standby: a standby of the cluster if it has one that runs, the first in the order of this file; otherwise the primary."`
	Recipients      []Positioned[string]      `toml:"recipients" doc:"Whom the backups are encrypted to: age or SSH public keys, or files that list them. Two at least: who loses the only key loses every backup."`
	Identities      Strings                   `toml:"identities" doc:"Files with the age or SSH identities that decrypt, on this machine and never on a host; those of [secrets.age] by default."`
	Encrypt         string                    `toml:"encrypt" enum:"host,operator" doc:"host (the default): age encrypts on the database host. operator: on this machine, for hosts that cannot have age; then pgfleet backup run has to be run here."`
	Schedule        Positioned[string]        `toml:"schedule" doc:"When: systemd's OnCalendar, such as \"*-*-* 02:30:00\". Without it there is no timer. Only where the host makes the backup itself: to.path without to.host."`
	RandomizedDelay Positioned[time.Duration] `toml:"randomized_delay" doc:"A random time up to this is added, so that not all hosts begin at once; none by default."`
	Keep            Positioned[int]           `toml:"keep" min:"1" max:"100000" doc:"How many good backups of an instance are kept; 7 by default."`
	MaxAge          Positioned[Age]           `toml:"max_age" doc:"How old the newest good backup of an instance may be before backup list and backup verify say that something is wrong, such as \"36h\" or \"2d\"; not looked at by default."`
	VerifyOn        Positioned[string]        `toml:"verify_on" doc:"A host with PostgreSQL on which scratch clusters may be made to prove that a backup can be restored."`
	Role            Positioned[string]        `toml:"role" doc:"The role that dumps, and the account of the operating system; pgfleet_backup by default."`
	LockTimeout     *time.Duration            `toml:"lock_timeout" doc:"How long a lock on a table is waited for before the backup fails; 60s by default."`
	Compression     Positioned[string]        `toml:"compression" doc:"What pg_dump -Z is told, such as \"0\" or \"zstd:3\" (16 and later); pg_dump's own default otherwise."`
	Check           string                    `toml:"check" enum:"rows,counts,none" doc:"What is kept to prove a restore with: rows (the default) counts and sums up the rows of each table, counts only counts, none neither."`
	To              Positioned[backupTo]      `toml:"to" doc:"Where the backups go."`
}

// backupTo is the table [backup.to].
type backupTo struct {
	Path    Positioned[string]  `toml:"path" doc:"A folder on the database host itself; with host, on that one."`
	Host    Positioned[string]  `toml:"host" doc:"Another host of this fleet; path is a folder there. The backups go there through the operator's machine, encrypted."`
	Here    Positioned[string]  `toml:"here" doc:"A folder on the operator's machine, beside this file."`
	S3      *S3                 `toml:"s3" doc:"A bucket that speaks the protocol of Amazon S3; written from the operator's machine."`
	Command Positioned[Strings] `toml:"command" doc:"A program on the operator's machine, and its arguments, as a list."`
}

// checkBackups makes the list of backups.
func (l *loader) checkBackups() {
	first, units := map[string]Position{}, map[string]string{}
	for i := range l.backups {
		n, t := l.backups[i].Node, l.backups[i].Value
		if n.Kind != KindTable {
			continue // reported as a wrong type
		}
		b := Backup{
			Name: t.Name.Value, Pos: n.Pos, Absent: t.State == "absent",
			Databases: t.Databases, On: cmp.Or(t.On, "primary"), Recipients: t.Recipients, Identities: t.Identities,
			Encrypt: cmp.Or(t.Encrypt, "host"), Keep: cmp.Or(t.Keep.Value, 7), MaxAge: t.MaxAge.Value, VerifyOn: t.VerifyOn.Value,
			Role: cmp.Or(t.Role.Value, "pgfleet_backup"), LockTimeout: time.Minute, Compression: t.Compression.Value, Check: cmp.Or(t.Check, "rows"),
			Schedule: t.Schedule, RandomizedDelay: t.RandomizedDelay.Value,
		}
		if t.LockTimeout != nil {
			b.LockTimeout = *t.LockTimeout
		}
		before := len(l.errs)
		if name := t.Name.Node; name != nil && name.Kind == KindString {
			b.Pos = name.Pos
			if pos, ok := first[b.Name]; ok {
				l.errs.Add(name.Pos, "backup %q is here for the second time; the first is at %s", b.Name, pos)
			} else if first[b.Name] = name.Pos; l.name(name.Pos, "backup", b.Name) && len(b.Name) > 64 {
				l.errs.Add(name.Pos, "name: %d characters; want at most 64, because it becomes part of the names of units", len(b.Name))
			}
		}
		limit, ok := l.limit(t.Limit)
		b.Limit = limit
		if limit.NeedsRole() {
			l.errs.Add(t.Limit.Pos(), "limit: which member of a cluster makes the backup is said by on; let limit name hosts, groups or clusters only")
		}
		l.backupKeys(n, &t, &b)
		l.backupTarget(n, &t, &b)
		for _, in := range l.fleet.Instances() {
			key := in.Host.Name + "\x00" + b.Unit(in)
			if !ok || !b.Means(in) {
				continue
			}
			if other, taken := units[key]; taken && other != b.Name {
				l.errs.Add(b.Pos, "name: on host %q the backups %q and %q would have the same unit, %s", in.Host.Name, b.Name, other, b.Unit(in))
			}
			units[key] = b.Name
		}
		if ok && len(l.errs) == before && b.Name != "" {
			l.fleet.Backups = append(l.fleet.Backups, b)
		}
	}
}

// backupAccount is what useradd(8) takes as a name on every distribution.
var backupAccount = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)

// compressionForm is what pg_dump -Z may be told: a level, or from 16 on a method and its details. Which of them the version takes, it
// says itself.
var compressionForm = regexp.MustCompile(`^[a-z0-9]+(:[a-z0-9=,]+)?$`)

func (l *loader) backupKeys(n *Node, t *backupTable, b *Backup) {
	wrong := func(p Positioned[string], format string, args ...any) {
		if p.Node != nil && p.Node.Kind == KindString {
			l.errs.Add(p.Pos(), format, args...)
		}
	}
	for _, d := range t.Databases {
		if strings.TrimPrefix(d.Value, "!") == "" {
			wrong(d, "databases: a name is missing")
		}
	}
	if !b.Absent && n.Get("recipients") == nil {
		l.errs.Add(n.Pos, `missing key "recipients": backups are always encrypted; "age-keygen -o identity.txt" makes a key and prints its public half`)
	} else if r := n.Get("recipients"); r != nil && len(t.Recipients) == 0 && r.Kind == KindList {
		l.errs.Add(r.Pos, "recipients: want at least one: backups are always encrypted")
	}
	for _, r := range t.Recipients {
		switch {
		case strings.HasPrefix(r.Value, "AGE-SECRET-KEY-"):
			wrong(r, "recipients: this is a secret key; want its public half, which begins with age1 (age-keygen -y prints it)")
		case strings.TrimSpace(r.Value) == "":
			wrong(r, "recipients: want an age or SSH public key, or a file of them")
		}
	}
	if s := t.Schedule; s.Node != nil && (strings.TrimSpace(s.Value) == "" || strings.ContainsFunc(s.Value, func(r rune) bool { return r < ' ' || r > '~' || r == '%' })) {
		wrong(s, "schedule: want a time in systemd's form, such as \"*-*-* 02:30:00\" or \"daily\" (systemd.time(7))")
	}
	if t.RandomizedDelay.Node != nil && t.Schedule.Node == nil && !b.Absent {
		l.errs.Add(t.RandomizedDelay.Pos(), "randomized_delay: there is no schedule that it could delay")
	}
	if m := t.MaxAge; m.Node != nil && m.Value == 0 && len(new(Age).UnmarshalNode(m.Node)) == 0 {
		l.errs.Add(m.Pos(), "max_age: want a length of time more than none, such as \"36h\" or \"2d\"")
	}
	if v := t.VerifyOn; v.Node != nil && v.Node.Kind == KindString && l.fleet.Host(v.Value) == nil {
		l.missing(v.Pos(), fmt.Sprintf("verify_on: no host %q%s", v.Value, DidYouMean(v.Value, l.hostNames())))
	}
	switch r := t.Role; {
	case r.Node == nil:
	case !backupAccount.MatchString(r.Value):
		wrong(r, "role: %q is no name of an account: want lower-case letters, digits, dashes and underscores, at most 31, no digit or dash first", r.Value)
	case r.Value == "postgres" || r.Value == "root" || strings.HasPrefix(r.Value, "pg_"):
		wrong(r, "role: want an account that has no other use: who can write as %s must not be able to delete backups, nor the other way round", r.Value)
	}
	if c := t.Compression; c.Node != nil && !compressionForm.MatchString(c.Value) {
		wrong(c, "compression: want what pg_dump -Z takes, such as \"0\", \"9\" or \"zstd:3\"")
	}
	if d := b.LockTimeout; d%time.Millisecond != 0 {
		l.errs.Add(n.Get("lock_timeout").Pos, "lock_timeout: want whole milliseconds")
	}
}

func (l *loader) hostNames() []string {
	var names []string
	for _, h := range l.fleet.Hosts {
		names = append(names, h.Name)
	}
	return names
}

// backupTarget reads [backup.to].
func (l *loader) backupTarget(n *Node, t *backupTable, b *Backup) {
	to := t.To.Value
	if t.To.Node == nil {
		if !b.Absent {
			l.errs.Add(n.Pos, `missing key "to": where the backups go, such as to.path = "/var/backups/pgfleet"`)
		}
		return
	}
	if t.To.Node.Kind != KindTable {
		return // reported as a wrong type
	}
	b.To = BackupTarget{Pos: t.To.Pos(), Path: to.Path.Value, Host: to.Host.Value, Here: to.Here.Value, S3: to.S3, Command: to.Command.Value}
	var given []string
	for _, k := range t.To.Node.Keys {
		if k.Name != "path" || to.Host.Node == nil {
			given = append(given, k.Name)
		}
	}
	switch {
	case len(given) == 0:
		l.errs.Add(t.To.Pos(), "to: want one of path, host with path, here, s3 and command")
	case len(given) > 1:
		l.errs.Add(t.To.Pos(), "to: want one target, found %s", strings.Join(given, " and "))
	case to.Host.Node != nil && to.Path.Node == nil:
		l.errs.Add(to.Host.Pos(), "to: host needs path, the folder there")
	}
	if p := to.Path; p.Node != nil && p.Node.Kind == KindString {
		plain := plainPath.MatchString(p.Value) // it stands in units and in scripts
		if b.To.Path = path.Clean(p.Value); !plain || !path.IsAbs(p.Value) || b.To.Path == "/" {
			l.errs.Add(p.Pos(), "path: want an absolute path of a folder such as \"/var/backups/pgfleet\", of letters, digits and /._+-")
		}
		for _, dir := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/etc"} {
			if b.To.Host == "" && (b.To.Path == dir || strings.HasPrefix(b.To.Path, dir+"/")) {
				l.errs.Add(p.Pos(), "path: the unit that makes backups does not see %s (ProtectHome, PrivateTmp and ProtectSystem of systemd.exec(5)); want a folder such as \"/var/backups/pgfleet\"", dir)
			}
		}
	}
	if h := to.Host; h.Node != nil && h.Node.Kind == KindString && l.fleet.Host(h.Value) == nil {
		l.missing(h.Pos(), fmt.Sprintf("host: no host %q%s", h.Value, DidYouMean(h.Value, l.hostNames())))
	}
	if h := to.Here; h.Node != nil && h.Node.Kind == KindString && h.Value == "" {
		l.errs.Add(h.Pos(), "here: want a folder")
	}
	if c := to.Command; c.Node != nil && (c.Node.Kind == KindList || c.Node.Kind == KindString) && (len(c.Value) == 0 || c.Value[0] == "") {
		l.errs.Add(c.Pos(), "command: want a program and its arguments, such as [\"/usr/local/bin/target\"]")
	}
	if s := to.S3; s != nil {
		checkURL(s.Endpoint, "endpoint", &l.errs)
		if v := s.Bucket; v.Node != nil && v.Node.Kind == KindString && (v.Value == "" || strings.Contains(v.Value, "/")) {
			l.errs.Add(v.Pos(), "bucket: want a bucket's name; folders in it go into prefix")
		}
		for name, v := range map[string]Positioned[string]{"access_key_id": s.AccessKeyID, "secret_access_key": s.SecretAccessKey} {
			// What stands there may be the key itself.
			if store, ref, ok := strings.Cut(v.Value, ":"); v.Node != nil && v.Node.Kind == KindString && (!ok || ref == "" || !isStoreName(store)) {
				l.errs.Add(v.Pos(), "%s: want where it is, such as \"age:s3#key\", not what it is", name)
			}
		}
		if (s.AccessKeyID.Node == nil) != (s.SecretAccessKey.Node == nil) {
			l.errs.Add(t.To.Pos(), "s3: want both access_key_id and secret_access_key, or neither")
		}
	}
	if s := t.Schedule; s.Node != nil && !b.Hosted() {
		l.errs.Add(s.Pos(), "schedule: this backup is pulled by pgfleet, which runs nowhere by itself; let cron or a timer of this machine run \"pgfleet backup run %s --yes\"", b.Name)
	}
}
