package tasks

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// expandBackups binds what the fleet's [[backup]] tables need on an instance, as if tasks at the end of the list said it: age, the role
// that dumps, and what Backup is about. A role that several backups share is there once.
func expandBackups(fleet *inventory.Fleet, in inventory.Instance, o Options) ([]*Bound, inventory.Errors) {
	var bound []*Bound
	var errs inventory.Errors
	var roles []string
	age := false
	add := func(b *inventory.Backup, kind, name string, t Task, body map[string]any) {
		node, ok := inventory.NewNode(b.Pos, body)
		if !ok {
			panic("tasks: " + kind + " of a backup has a value that TOML does not know")
		}
		errs = append(errs, inventory.Decode(node, t)...)
		c := commonOf(t)
		c.Name, c.node, c.fleet = name, node, fleet
		errs = append(errs, t.Check(in)...)
		bound = append(bound, &Bound{
			Name: name, Kind: kind, Pos: b.Pos, On: "all", Instance: in, Task: t,
			Selected: len(o.Tags) == 0 || slices.Contains(o.Tags, "backup"),
		})
	}
	for i := range fleet.Backups {
		b := &fleet.Backups[i]
		if !b.Means(in) && !onClusterOf(fleet, b, in) {
			continue
		}
		if !b.Absent && !slices.Contains(roles, b.Role) {
			roles = append(roles, b.Role)
			add(b, "role", "Backups: role "+b.Role, new(Role), backupRole(in, b.Role))
		}
		if !b.Absent {
			add(b, "grant", "Backup "+b.Name+": databases", &backupConnect{backup: b}, map[string]any{})
		}
		if !b.Means(in) {
			continue // a member whose standby makes the backup: the role comes from here
		}
		if !b.Absent && b.Hosted() && !age {
			age = true
			add(b, "package", "Backups: age", new(Package), map[string]any{"packages": "age"})
		}
		t := &Backup{backup: b}
		if !b.Absent {
			var err error
			read := func(name string) ([]byte, error) { return o.Local(name) }
			var list []string
			for _, r := range b.Recipients {
				list = append(list, r.Value)
			}
			var at int
			if t.recipients, at, err = secrets.Recipients(list, read); err != nil {
				errs.Add(b.Recipients[at].Pos(), "recipients: %v", err)
			}
		}
		add(b, "backup", "Backup "+b.Name, t, map[string]any{})
	}
	return bound, errs
}

// onClusterOf reports whether a backup is for another member of the instance's cluster: roles are made on the primary.
func onClusterOf(fleet *inventory.Fleet, b *inventory.Backup, in inventory.Instance) bool {
	return slices.ContainsFunc(fleet.Replication(in.Replication), b.Means)
}

// backupRole returns the keys of the role that dumps. pg_read_all_data (14 and later) reads every table and the passwords' verifiers, but for
// large objects, which lo_compat_privileges is for; pg_read_all_stats tells members of a cluster who streams. 13 has nothing less than a superuser
// that can read all.
func backupRole(in inventory.Instance, role string) map[string]any {
	body := map[string]any{
		"role": role, "login": true, "bypassrls": true, "password": "none", "connection_limit": 8,
		"settings": map[string]any{"default_transaction_read_only": "on", "lo_compat_privileges": "on"},
	}
	if in.Version < 14 {
		body["superuser"] = true
	} else {
		body["member_of"] = []string{"pg_read_all_data", "pg_read_all_stats"}
	}
	return body
}

// Backup is what a [[backup]] needs on one instance's host: the account, and, where the host makes the backup itself, the folder, the script and the
// units of systemd. It is no kind of task: expandBackups makes it.
type Backup struct {
	Common
	backup     *inventory.Backup
	recipients []string
}

// Check has nothing to find that loading the fleet has not.
func (t *Backup) Check(inventory.Instance) inventory.Errors { return nil }

func (t *Backup) config(in inventory.Instance, s *State) hosted.Config {
	b := t.backup
	server := s.serverOf()
	c := hosted.Config{
		Header: header(t.Name), Backup: b.Name, Instance: string(in.ID()), Target: b.To.Path, Base: b.To.Path + "/" + b.Dir(in.ID()), Unit: b.Unit(in),
		Server: in.Unit(), Role: b.Role, SocketDir: socketDir, Port: in.Port, BinDir: server.BinDir, Recipients: t.recipients, Named: b.DatabaseNames(),
		Keep: b.Keep, LockTimeout: b.LockTimeout, Compression: b.Compression, Check: b.Check, On: b.On,
		Schedule: b.Schedule.Value, RandomizedDelay: b.RandomizedDelay,
	}
	c.Wanted, c.Excluded = b.DatabasePatterns()
	c.Aside = inventory.SetAside
	for _, m := range t.members(in) {
		if m.ID() == in.ID() {
			c.Place = len(c.Members)
		}
		names := []string{m.Host.Address}
		if m.Host.Name != m.Host.Address {
			names = append(names, m.Host.Name)
		}
		c.Members = append(c.Members, names)
	}
	return c
}

// members returns the members of the instance's cluster that the backup is for, the instance among them; alone where it stands alone.
func (t *Backup) members(in inventory.Instance) []inventory.Instance {
	members := slices.DeleteFunc(t.fleet.Replication(in.Replication), func(m inventory.Instance) bool { return !t.backup.Means(m) })
	if len(members) == 0 {
		return []inventory.Instance{in}
	}
	return members
}

// hosted reports whether units are to be on the host.
func (t *Backup) hosted() bool { return !t.backup.Absent && t.backup.Hosted() }

// account is the question whether the account of the operating system is there.
func (t *Backup) account() facts.Probe {
	return facts.Probe{User: "root", Script: "getent passwd " + t.backup.Role + " >/dev/null"}
}

// above is the question whether others than root could put a folder in the place of the one that the backups go to.
func (t *Backup) above() facts.Probe {
	return facts.Probe{User: "root", Script: hosted.CheckAbove(t.backup.To.Path)}
}

// calendar is the question whether systemd understands the schedule.
func (t *Backup) calendar() facts.Probe {
	return facts.Probe{User: "root", Script: "LC_ALL=C systemd-analyze calendar '" + strings.ReplaceAll(t.backup.Schedule.Value, "'", `'\''`) + "'"}
}

// subscriptions and mappings are questions about what only a superuser can dump.
func subscriptions(in inventory.Instance) facts.Query {
	return facts.Query{Port: in.Port, SocketDir: socketDir, Database: maintenanceDatabase, SQL: "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription)"}
}

func mappings(in inventory.Instance, database string) facts.Query {
	return facts.Query{Port: in.Port, SocketDir: socketDir, Database: database, SQL: "SELECT EXISTS (SELECT FROM pg_catalog.pg_user_mappings)"}
}

// Reads asks for the account, the files and the units, and for the databases.
func (t *Backup) Reads(in inventory.Instance, s *State) []facts.Read {
	c := t.config(in, s)
	reads := []facts.Read{
		t.account(), facts.File{Path: c.ScriptPath()}, facts.File{Path: c.RecipientsPath()}, facts.File{Path: c.ServicePath()}, facts.File{Path: c.TimerPath()},
		facts.Unit{Name: c.Unit + ".service"}, facts.Unit{Name: c.Unit + ".timer"},
	}
	if t.backup.Absent {
		return reads
	}
	reads = append(reads, facts.File{Path: s.paths().hba}, facts.File{Path: s.paths().ident}, clusterRead(in))
	if in.Version >= 14 {
		reads = append(reads, subscriptions(in))
		for _, db := range backedUp(t.backup, s) {
			reads = append(reads, mappings(in, db))
		}
	}
	if t.hosted() {
		reads = append(reads, facts.File{Path: hosted.Dir}, facts.File{Path: c.Target}, t.above())
		if c.Schedule != "" {
			reads = append(reads, t.calendar())
		}
	}
	return reads
}

// backedUp returns the databases that there are now, or will be, and that a backup means.
func backedUp(b *inventory.Backup, s *State) []string {
	c, err := s.Cluster()
	if err != nil {
		return nil
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.Databases)) {
		if d := c.Databases[name]; d.AllowConn && name != "template0" && name != "template1" && b.MeansDatabase(name) {
			list = append(list, name)
		}
	}
	return list
}

// Plan says what is missing on the host, or too much there.
func (t *Backup) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	c := t.config(in, s)
	if !t.backup.Absent {
		if err := t.letIn(s); err != nil {
			return out, err
		}
		out.Warnings = append(out.Warnings, t.warnings(in, s)...)
		if err := t.makeAccount(s, &out); err != nil {
			return out, err
		}
	}
	if t.hosted() {
		if err := t.makeFolders(s, c, &out); err != nil {
			return out, err
		}
	}
	return out, t.files(s, c, &out)
}

// backupConnect lets the role of a backup connect to the databases where PUBLIC may not.
type backupConnect struct {
	Common
	backup *inventory.Backup
}

// Check has nothing to find.
func (t *backupConnect) Check(inventory.Instance) inventory.Errors { return nil }

// Reads asks for the databases.
func (t *backupConnect) Reads(in inventory.Instance, _ *State) []facts.Read { return catalogReads(in) }

// Plan grants CONNECT where it is missing.
func (t *backupConnect) Plan(_ inventory.Instance, s *State) (Outcome, error) {
	role := t.backup.Role
	return t.planSQL(s, nil, func(x *script, _ *Outcome) error {
		found := x.catalogs.Roles[role]
		if found == nil || found.Superuser {
			return nil
		}
		names := backedUp(t.backup, s)
		if !slices.Contains(names, maintenanceDatabase) {
			names = append(names, maintenanceDatabase)
		}
		for _, name := range names {
			o := catalog.Object{Kind: catalog.DatabaseKind, Name: name}
			acl, ok := x.catalogs.Effective(maintenanceDatabase, o)
			all, _ := acl.Of("")
			own, _ := acl.Of(role)
			if owner, _ := x.catalogs.Owner(maintenanceDatabase, o); ok && owner != role && (all|own)&catalog.Connect == 0 {
				x.do(maintenanceDatabase, catalog.Grant{On: []catalog.Object{o}, To: role, Privileges: catalog.Connect})
			}
		}
		return nil
	})
}

// letIn finds rules with which the account could not log in.
func (t *Backup) letIn(s *State) error {
	rules, ok := s.hbaRules()
	if !ok {
		return nil // whoever is to write it says so
	}
	role := t.backup.Role
	conn := postgres.HBAConn{Local: true, User: role, Version: s.version(), MemberOf: func(of string) bool {
		c, err := s.Cluster()
		return of == role || err == nil && c.MemberOf(role, of)
	}}
	for _, db := range append([]string{maintenanceDatabase}, backedUp(t.backup, s)...) {
		conn.Database = db
		m, ok, _ := postgres.Evaluate(rules, conn)
		why := "no rule matches"
		if ok {
			usermap, mapped := m.Option("map")
			lets, _ := postgres.MatchIdent(s.identRules(), usermap, role, role, s.version(), nil)
			if m.Method == "trust" || m.Method == "peer" && (!mapped || lets) {
				continue
			}
			why = matchesFirst(m)
		}
		return problemAt(t.backup.Pos, "the account %s could not log in to database %q over the local socket: %s in %s; a task of kind \"hba\" adds the line by itself, or put \"local all %s peer\" before it",
			role, db, why, s.paths().hba, role)
	}
	return nil
}

// warnings are what somebody who counts on the backup should know.
func (t *Backup) warnings(in inventory.Instance, s *State) []string {
	var said []string
	if in.Version < 14 {
		said = append(said, fmt.Sprintf("PostgreSQL %d has no role that may read everything and no more, so %s is a superuser there, and whoever becomes the account can change the server; 13 is out of support since November 2025", in.Version, t.backup.Role))
	}
	if len(t.recipients) == 1 {
		said = append(said, "there is one recipient: with its key every backup is lost; add a second one, whose key is kept somewhere else")
	}
	if r, err := ask[facts.QueryResult](s, subscriptions(in)); err == nil && r.True {
		said = append(said, "there are subscriptions, which only a superuser can dump: make them again by hand after a restore")
	}
	var mapped []string
	for _, db := range backedUp(t.backup, s) {
		if r, err := ask[facts.QueryResult](s, mappings(in, db)); err == nil && r.True {
			mapped = append(mapped, db)
		}
	}
	if len(mapped) > 0 {
		said = append(said, "there are user mappings of foreign servers, whose options only a superuser can dump: make them again by hand after a restore of "+strings.Join(mapped, ", "))
	}
	for _, db := range backedUp(t.backup, s) {
		if strings.ContainsAny(db, "\n\r") {
			said = append(said, fmt.Sprintf("the name of the database %q holds a line break, and pg_restore --create does not restore such a database: rename it", db))
		}
	}
	if c, err := s.Cluster(); err == nil {
		for _, name := range t.backup.DatabaseNames() {
			if d := c.Databases[name]; d == nil || !d.AllowConn {
				said = append(said, fmt.Sprintf("there is no database %q that allows connections%s, and every run will fail for it", name, inventory.DidYouMean(name, slices.Sorted(maps.Keys(c.Databases)))))
			}
		}
	}
	for _, other := range hosted.Others(evidence(s)) {
		said = append(said, other+"; these dumps are beside it, and no part of point-in-time recovery")
	}
	return said
}

// evidence is what the server has said of itself that tells of other programs.
func evidence(s *State) hosted.Evidence {
	var e hosted.Evidence
	srv := s.Server()
	if srv == nil {
		return e
	}
	value := func(name string) string {
		row, _ := srv.Setting(name)
		return row.Setting
	}
	e.ArchiveMode, e.ArchiveCommand, e.ArchiveLibrary, e.RestoreCommand = value("archive_mode"), value("archive_command"), value("archive_library"), value("restore_command")
	for _, x := range srv.Standbys {
		e.Clients = append(e.Clients, x.Name)
	}
	return e
}

// asRoot is a command that makes something on the host once.
func asRoot(script, done string) RunCommand {
	return RunCommand{Script: script, User: "root", Timeout: time.Minute, Probes: []Probe{{done, true}}}
}

// makeAccount makes the account of the operating system, which has no shell, no home and no password.
func (t *Backup) makeAccount(s *State, out *Outcome) error {
	r, err := ask[facts.ProbeResult](s, t.account())
	if err != nil {
		return err
	}
	role := t.backup.Role
	a := asRoot("useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "+role, t.account().Script)
	if r.ExitCode != 0 && !s.ran[a.key()] && !s.ranBefore[a.key()] {
		out.Changes = append(out.Changes, Change{Key: "account:" + role, Before: Absent, Intent: "make the account " + role + ", which nobody can log in to", Action: a})
	}
	return nil
}

// makeFolders makes the folder of scripts, and the one that the backups go to. One that belongs to somebody else is refused: its owner could delete them.
func (t *Backup) makeFolders(s *State, c hosted.Config, out *Outcome) error {
	scripts, err := s.File(hosted.Dir)
	if err != nil {
		return err
	}
	a := asRoot("install -d -m 0755 -o root -g root "+hosted.Dir, "test -d "+hosted.Dir)
	if !scripts.Exists && !s.ran[a.key()] && !s.ranBefore[a.key()] {
		out.Changes = append(out.Changes, Change{Key: "folder:" + hosted.Dir, Before: Absent, Intent: "make the folder " + hosted.Dir, Action: a})
	}
	target, err := s.File(c.Target)
	if err != nil {
		return err
	}
	switch {
	case target.Exists && !target.Dir:
		return problemAt(t.backup.To.Pos, "path: %s is there, and no folder", c.Target)
	case target.Exists && target.Owner != c.Role:
		return problemAt(t.backup.To.Pos, "path: %s belongs to %s, who could delete what is in it; name a folder that is not there yet, such as %s/pgfleet", c.Target, target.Owner, c.Target)
	}
	if r, err := ask[facts.ProbeResult](s, t.above()); err != nil {
		return err
	} else if r.ExitCode != 0 {
		return problemAt(t.backup.To.Pos, "path: backups would not be safe in %s: %s; name a folder that root alone can move, such as /var/backups/pgfleet", c.Target, lastLine(r.Output))
	}
	a = asRoot(makeTarget(c), fmt.Sprintf(`[ "$(stat -c '%%U %%a' %s 2>/dev/null)" = '%s 700' ]`, c.Target, c.Role))
	if target.Exists && target.Mode.Perm() == 0o700 || s.ran[a.key()] || s.ranBefore[a.key()] {
		return nil
	}
	change := Change{Key: "folder:" + c.Target, Before: Absent, Intent: fmt.Sprintf("make the folder %s (%s 0700)", c.Target, c.Role), Action: a}
	if target.Exists {
		change.Before, change.Intent = Digest("mode "+octal(target.Mode)), fmt.Sprintf("change the folder %s (mode %s becomes 0700)", c.Target, octal(target.Mode))
	}
	out.Changes = append(out.Changes, change)
	return nil
}

// makeTarget returns the script that makes the folder of backups. What it changes is the folder that it stands in, whatever its name may lead to by then.
func makeTarget(c hosted.Config) string {
	return fmt.Sprintf(`umask 022
%[3]s || exit
mkdir -p -- %[4]s && %[3]s && { mkdir -m 0700 -- %[1]s 2>/dev/null || [ -d %[1]s ]; } && cd -P -- %[1]s && [ "$(pwd -P)" = %[1]s ] || exit
case $(stat -c %%U .) in root | %[2]s) ;; *) echo "%[1]s belongs to $(stat -c %%U .)" >&2; exit 1 ;; esac
chown %[2]s:%[2]s . && chmod 0700 .`, c.Target, c.Role, hosted.CheckAbove(c.Target), path.Dir(c.Target))
}

// files compares script, recipients and units, and has systemd know of them.
func (t *Backup) files(s *State, c hosted.Config, out *Outcome) error {
	part := "unit " + c.Unit
	timed := t.hosted() && c.Schedule != ""
	timer, err := s.Unit(c.Unit + ".timer")
	if err != nil {
		return err
	}
	if !timed && (timer.ActiveState == "active" || timer.UnitFileState == "enabled") {
		out.Changes = append(out.Changes, t.setTimer(c, timer, false))
	}
	wanted := map[string]string{}
	if t.hosted() {
		script, err := c.Script()
		if err != nil {
			return err
		}
		wanted[c.ScriptPath()], wanted[c.RecipientsPath()], wanted[c.ServicePath()] = script, c.RecipientsFile(), c.Service()
	}
	if timed {
		if r, err := ask[facts.ProbeResult](s, t.calendar()); err != nil {
			return err
		} else if r.ExitCode != 0 {
			return problemAt(t.backup.Schedule.Pos(), "schedule: systemd on %s does not understand %q (man systemd.time): %s", c.Instance, c.Schedule, lastLine(r.Output))
		}
		wanted[c.TimerPath()] = c.Timer()
	}
	told := true
	for _, file := range []string{c.ScriptPath(), c.RecipientsPath(), c.ServicePath(), c.TimerPath()} {
		found, err := s.File(file)
		if err != nil {
			return err
		}
		var changes []Change
		text, ok := wanted[file]
		switch {
		case ok:
			w := WriteFile{Path: file, Content: text, Owner: "root", Group: "root", Mode: 0o644}
			if file == c.ScriptPath() {
				w.Mode = 0o755
			}
			changes = writeFile(s, found, w, part)
			if len(changes) > 0 && file == c.ScriptPath() {
				changes[0].Diff = &Diff{Path: file, Old: hosted.Summary(string(found.Content)), New: hosted.Summary(text)}
			}
		case found.Exists && found.Regular && strings.HasPrefix(firstLine(strings.TrimPrefix(string(found.Content), "#!/bin/sh\n")), "# "+c.Header):
			changes = removeFile(s, found, part)
		}
		if _, unit := unitOfPath(file); unit && len(changes) > 0 {
			told = false
		}
		out.Changes = append(out.Changes, changes...)
	}
	service, err := s.Unit(c.Unit + ".service")
	if err != nil {
		return err
	}
	if !told || service.NeedDaemonReload || timer.NeedDaemonReload {
		out.Changes = append(out.Changes, Change{Key: "systemd:daemon-reload", Intent: "systemctl daemon-reload, for " + c.Unit, Action: DaemonReload{}, Part: part})
	}
	if timed && (timer.ActiveState != "active" || timer.UnitFileState != "enabled") {
		out.Changes = append(out.Changes, t.setTimer(c, timer, true))
	}
	return nil
}

func (t *Backup) setTimer(c hosted.Config, found facts.UnitInfo, on bool) Change {
	name := c.Unit + ".timer"
	return Change{
		Key: "unit:" + name, Before: Digest(found.ActiveState + "," + found.UnitFileState),
		Intent: map[bool]string{true: "enable, start (", false: "disable, stop ("}[on] + name + ")",
		Action: SetUnit{Name: name, Enabled: &on, Running: &on},
	}
}

// lastLine is what a program said last, which usually is why it failed.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// declares lists the files that are no orphans.
func (t *Backup) declares(s *State) []string {
	if !t.hosted() {
		return nil
	}
	c := t.config(s.instance, s)
	files := []string{c.ScriptPath(), c.RecipientsPath(), c.ServicePath()}
	if c.Schedule != "" {
		files = append(files, c.TimerPath())
	}
	return files
}
