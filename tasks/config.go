package tasks

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// OwnedFiles is the path of the list of the files that pgfleet wrote for an
// instance, one a line. What stands in it and is no longer declared is an
// orphan.
func OwnedFiles(in inventory.Instance) string { return "/var/lib/pgfleet/" + in.Unit() + ".files" }

// ServerRead is the question that asks an instance's server about itself.
func ServerRead(in inventory.Instance) facts.Postgres {
	return facts.Postgres{Port: in.Port, SocketDir: socketDir}
}

// socketDir is Debian's and RHEL's default for unix_socket_directories.
const socketDir = "/var/run/postgresql"

// Questions returns what is asked of every instance, whatever its tasks: who it
// is, how its server is configured, and what it runs with. Call it twice, as
// Task.Reads: the second call asks for what the first one's answers point to.
func Questions(in inventory.Instance, s *State) []facts.Read {
	reads := []facts.Read{
		facts.OS{},
		ServerRead(in),
		facts.Unit{Name: in.Unit()},
		facts.Sockets{},
		facts.File{Path: OwnedFiles(in)},
		undoRead(in),
	}
	p := s.paths()
	reads = append(reads,
		facts.Files{Glob: p.confDir + "/*.conf"},
		facts.Files{Glob: p.confDir + "/conf.d/*.conf"},
		facts.File{Path: s.autoConf()},
		stagingRead(s),
	)
	for _, f := range s.owned() {
		if _, err := s.File(f); errors.Is(err, errUnasked) {
			reads = append(reads, facts.File{Path: f})
		}
	}
	if staged, err := s.staging(); err == nil && len(staged) > 0 {
		reads = append(reads, abandonedRead(staged))
	}
	if s.Server() == nil {
		return reads
	}
	// The files that the configuration names are known only now.
	conf := s.configuration()
	reads = append(reads, conf.missing...)
	for _, f := range []string{p.config, p.hba, p.ident} {
		if _, err := s.File(f); err != nil {
			reads = append(reads, facts.File{Path: f})
		}
	}
	if conf.value("ssl") == "on" {
		reads = append(reads,
			facts.CertificateFile{Path: s.inDataDir(conf.value("ssl_cert_file"))},
			servedRead(in))
		for _, name := range []string{"ssl_ca_file", "ssl_crl_file"} {
			if f := conf.value(name); f != "" {
				reads = append(reads, facts.CertificateFile{Path: s.inDataDir(f)})
			}
		}
	}
	return reads
}

// servedRead asks for the certificate that the instance presents, over loopback
// first and then over the address by which the fleet knows the host, because
// listen_addresses may leave either out.
func servedRead(in inventory.Instance) facts.Certificate {
	return facts.Certificate{Port: in.Port, Addresses: "127.0.0.1,::1," + in.Host.Address}
}

// paths are where an instance's configuration is: the server's own word where
// it could be asked, Debian's convention otherwise.
type paths struct{ confDir, config, hba, ident, dataDir string }

func (s *State) paths() paths {
	in := s.instance
	p := paths{
		confDir: in.ConfDir(),
		config:  path.Join(in.ConfDir(), "postgresql.conf"),
		hba:     path.Join(in.ConfDir(), "pg_hba.conf"),
		ident:   path.Join(in.ConfDir(), "pg_ident.conf"),
		dataDir: in.DataDir(),
	}
	if srv := s.Server(); srv != nil {
		p = paths{path.Dir(srv.ConfigFile), srv.ConfigFile, srv.HBAFile, srv.IdentFile, srv.DataDirectory}
	}
	return p
}

// autoConf is the file of ALTER SYSTEM, which the server reads after all others.
func (s *State) autoConf() string { return path.Join(s.paths().dataDir, "postgresql.auto.conf") }

// inDataDir resolves a path as the server does: relative to its data directory.
func (s *State) inDataDir(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join(s.paths().dataDir, p)
}

// serverOf is the Server that a configuration step of the instance is about.
func (s *State) serverOf() Server {
	p := s.paths()
	return Server{
		Unit: s.instance.Unit(), Port: s.instance.Port, SocketDir: socketDir,
		BinDir: binDir(s), ConfDir: p.confDir, DataDir: p.dataDir,
	}
}

// binDir is where the server's programs are: Debian's layout, or PGDG's on
// RHEL.
func binDir(s *State) string {
	os, err := s.OS()
	if err == nil && (strings.Contains(os.Like, "rhel") || strings.Contains(os.Like, "fedora")) {
		return fmt.Sprintf("/usr/pgsql-%d/bin", s.instance.Version)
	}
	return fmt.Sprintf("/usr/lib/postgresql/%d/bin", s.instance.Version)
}

// configuration is an instance's configuration files, read as the server reads
// them. Settings are known by their names of the server's version.
type configuration struct {
	settings map[string]postgres.EffectiveSetting
	problems []error
	missing  []facts.Read // files and folders that are named and were not read
	files    []string     // those that were read
	catalog  *postgres.Catalog
	version  postgres.Version
}

// configuration reads the files as they are, or will be.
func (s *State) configuration() configuration {
	p := s.paths()
	c := configuration{settings: map[string]postgres.EffectiveSetting{}, catalog: s.Catalog(), version: s.version()}
	read := func(file string) (string, bool) {
		f, err := s.File(file)
		if err != nil {
			c.missing = append(c.missing, facts.File{Path: file})
			return "", false
		}
		c.files = append(c.files, file)
		return string(f.Content), f.Exists
	}
	glob := func(dir string) []string {
		pattern := path.Join(dir, "*.conf")
		files, err := s.Files(pattern)
		if err != nil {
			c.missing = append(c.missing, facts.Files{Glob: pattern})
			return nil
		}
		var names []string
		for _, f := range files {
			names = append(names, path.Base(f.Path))
		}
		return names
	}
	effective, problems := postgres.Effective(p.config, read, glob, s.autoConf())
	c.problems = problems
	for _, e := range effective {
		c.settings[postgres.CanonicalName(e.Name, c.version)] = e
	}
	return c
}

// value returns what the server would use for a setting: the files' value, or
// its built-in default where no file names it.
func (c configuration) value(name string) string {
	name = postgres.CanonicalName(name, c.version)
	if e, ok := c.settings[name]; ok {
		if x, ok := c.catalog.Lookup(name); ok {
			if v, err := x.Normalize(e.Value); err == nil {
				return v
			}
		}
		return e.Value
	}
	if x, ok := c.catalog.Lookup(name); ok {
		if fromElsewhere(x.Source) {
			return x.Setting
		}
		// boot_val of a file mode is decimal where setting is octal.
		if v, err := x.Normalize(x.BootVal); err == nil {
			return v
		}
		return x.BootVal
	}
	return ""
}

// fromElsewhere reports whether a setting's value comes from where no file
// decides: the command line, initdb, the server itself.
func fromElsewhere(source string) bool {
	return slices.Contains([]string{"command line", "override", "environment variable", "default"}, source)
}

// ofSession reports whether a value is one of our own session's or of the
// role that it uses, so that it says nothing of what the files gave. The global
// ones are those of ALTER ROLE ALL (GucSource_Names in guc_tables.c).
func ofSession(source string) bool {
	return slices.Contains([]string{"client", "session", "user", "database", "database user", "global", "interactive"}, source)
}

// Running returns the value that the server runs with, or will, in pg_settings'
// form. False where it cannot be known.
func (s *State) Running(name string) (string, bool) {
	name = postgres.CanonicalName(name, s.version())
	if v, ok := s.running[name]; ok {
		return v, true
	}
	x, ok := s.Catalog().Lookup(name)
	if !ok || ofSession(x.Source) {
		return "", false
	}
	return x.Running(), true
}

// A pending setting is one whose value in the files is not the one that the
// server runs with.
type pending struct {
	Name           string
	Wanted, Actual string // as in pg_settings
	wanted, actual string // as SHOW prints them
	Restart        bool   // only a restart applies it
}

// pending compares the files with the running server. pg_settings' own flag
// pending_restart is not used: it stays set when the line has gone again.
func (s *State) pending() []pending {
	c := s.configuration()
	var list []pending
	for name, x := range c.catalog.All() {
		if x.Context == "internal" || name == "config_file" || name == "data_directory" || name == "hba_file" || name == "ident_file" {
			continue
		}
		actual, known := s.Running(name)
		if !known {
			continue
		}
		_, inFile := c.settings[name]
		_, moved := s.running[name]
		if !inFile && !moved && x.Source != "configuration file" {
			continue
		}
		wanted := c.value(name)
		if x.Equal(wanted, actual) {
			continue
		}
		p := pending{x.Name, wanted, actual, x.Show(wanted), x.Show(actual), x.NeedsRestart()}
		if !inFile && slices.Contains([]string{"max_stack_depth", "client_encoding", "timezone_abbreviations"}, name) {
			p.wanted = "the server's own choice" // it works that out from boot_val on (InitializeGUCOptions)
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b pending) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// afterReload is what the server runs with once it has loaded the files.
func (s *State) afterReload() map[string]string { return s.after(false) }

// afterRestart is what the server runs with once it has started anew.
func (s *State) afterRestart() map[string]string { return s.after(true) }

func (s *State) after(restart bool) map[string]string {
	m := map[string]string{}
	for k, v := range s.running {
		m[k] = v
	}
	for _, p := range s.pending() {
		if !p.Restart || restart {
			m[strings.ToLower(p.Name)] = p.Wanted
		}
	}
	if restart {
		// Settings that no catalog knows yet, because their library was not
		// loaded, are what the files say.
		for name, e := range s.configuration().settings {
			if _, ok := m[name]; !ok {
				if _, known := s.Catalog().Lookup(name); !known {
					m[name] = e.Value
				}
			}
		}
	}
	return m
}

// configurationChanged is when a file of the configuration last changed, and
// which: the newest ctime, which a rename sets and nobody can set back.
func (s *State) configurationChanged() (time.Time, string) {
	p := s.paths()
	paths := append([]string{p.hba, p.ident}, s.configuration().files...)
	var newest time.Time
	var which string
	consider := func(info facts.FileInfo, f string, err error) {
		if err == nil && info.Exists && info.Changed.After(newest) {
			newest, which = info.Changed, f
		}
	}
	for _, f := range paths {
		info, err := s.File(f)
		consider(info, f, err)
	}
	if !s.tlsRuns() {
		return newest, which
	}
	// A reload reads these as well, and no view shows whether it has.
	for _, name := range []string{"ssl_ca_file", "ssl_crl_file"} {
		v := s.configuration().value(name)
		if v == "" {
			continue
		}
		f := s.inDataDir(v)
		if info, ok := s.files[f]; ok {
			consider(info, f, nil)
			continue
		}
		info, _, err := s.CertificateFile(f)
		consider(info.File, f, err)
	}
	return newest, which
}

// reloadOwed says why the server has to read its configuration again; nil when
// it does not.
func (s *State) reloadOwed() []string {
	srv := s.Server()
	if srv == nil || s.activated {
		return nil
	}
	var why []string
	for _, p := range s.pending() {
		if !p.Restart {
			why = append(why, fmt.Sprintf("%s is %s and should be %s", p.Name, shown(p.actual), shown(p.wanted)))
		}
	}
	if changed, file := s.configurationChanged(); changed.Equal(foreseen) && len(why) == 0 {
		why = append(why, path.Base(file)+" changes")
	} else if changed.After(srv.Loaded) && len(why) == 0 {
		why = append(why, path.Base(file)+" is newer than what the server has loaded")
	}
	if w := s.servedDiffers(); w != "" {
		why = append(why, w)
	}
	if w := s.clientCAsDiffer(); w != "" {
		why = append(why, w)
	}
	return why
}

// restartOwed says which settings only a restart applies; nil when none is due.
func (s *State) restartOwed() []string {
	var why []string
	for _, p := range s.pending() {
		if p.Restart {
			why = append(why, fmt.Sprintf("%s is %s and should be %s", p.Name, shown(p.actual), shown(p.wanted)))
		}
	}
	return why
}

// shown is a parameter's value for the reader. Some hold passwords, such as
// primary_conninfo.
func shown(v string) string {
	if v == "" {
		return "''"
	}
	return secrets.NewRedactor().String(v)
}

// globMatches reports whether a path is one that a glob of a single folder
// would list. The shell's * does not match a leading dot.
func globMatches(glob, file string) bool {
	if path.Dir(glob) != path.Dir(file) {
		return false
	}
	base := path.Base(file)
	if strings.HasPrefix(base, ".") && !strings.HasPrefix(path.Base(glob), ".") {
		return false
	}
	ok, err := path.Match(path.Base(glob), base)
	return ok && err == nil
}

// unitOfPath returns the unit that a file configures when it is one of
// systemd's own.
func unitOfPath(file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, "/etc/systemd/system/")
	if !ok {
		return "", false
	}
	unit, dropIn, _ := strings.Cut(rest, "/")
	if dropIn != "" {
		unit, ok = strings.CutSuffix(unit, ".d")
		if !ok {
			return "", false
		}
	}
	return unit, strings.Contains(unit, ".")
}
