package adopt

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A Result is what becomes of one instance.
type Result struct {
	Tasks    string            // the tasks, as a part of fleet.toml
	Files    map[string][]byte // the copies that they refer to, by their paths beside fleet.toml
	Warnings []string          // what was not taken over, and why
}

// Reads says what has to be asked beside what package tasks always asks. Call it
// like tasks.Questions, again once there are answers.
func Reads(in inventory.Instance, s *tasks.State) []facts.Read {
	var reads []facts.Read
	for _, name := range packages(in, s) {
		reads = append(reads, facts.Package{Name: name})
	}
	server := tasks.ServerRead(in)
	reads = append(reads, facts.Cluster(server))
	if c, err := s.Cluster(); err == nil {
		for _, name := range slices.Sorted(maps.Keys(c.Databases)) {
			if c.Databases[name].AllowConn {
				reads = append(reads, facts.Contents{Port: server.Port, SocketDir: server.SocketDir, Database: name})
			}
		}
	}
	return reads
}

// A describer writes the tasks of one instance.
type describer struct {
	text
	in      inventory.Instance
	id      string
	state   *tasks.State
	server  *facts.Server
	conf    conf
	catalog *postgres.Catalog
	result  Result
}

// Describe returns the tasks of an instance, from a State that holds the answers
// to tasks.Questions and to Reads. The error says why the server cannot be
// described.
func Describe(in inventory.Instance, s *tasks.State) (Result, error) {
	server := s.Server()
	if server == nil {
		return Result{}, fmt.Errorf("%s does not answer, so it cannot be described: %s", in.Unit(), s.ServerProblem())
	}
	d := &describer{
		in: in, id: string(in.ID()), state: s, server: server, conf: readConf(s, server),
		catalog: postgres.NewCatalog(server.Version, server.Settings),
		result:  Result{Files: map[string][]byte{}},
	}
	d.intro()
	d.packages()
	d.settings()
	d.hba()
	d.ident()
	d.service()
	d.catalogs()
	d.proofs()
	d.result.Tasks = d.b.String()
	return d.result, nil
}

func (d *describer) warn(format string, args ...any) {
	d.result.Warnings = append(d.result.Warnings, fmt.Sprintf("%s: "+format, append([]any{d.id}, args...)...))
}

// name makes a task's name that is unique in the fleet.
func (d *describer) name(what string) string { return what + " of " + d.id }

func (d *describer) intro() {
	what := "PostgreSQL " + d.server.Version.String()
	if role := d.state.Role(); role != "" {
		what += ", a " + role
	}
	if os, err := d.state.OS(); err == nil && os.Pretty != "" {
		what += ", on " + strings.Trim(oneLine(os.Pretty), `"`)
	}
	d.blank()
	d.remark("---------------------------------------------------------------------------------------")
	d.remark("%s: %s", d.id, what)
	if d.server.InRecovery {
		d.remark("A standby: give it and its primary the same replication = \"…\" above.")
	} else if len(d.server.Standbys) > 0 {
		d.remark("It has standbys: give it and them the same replication = \"…\" above.")
	}
	d.certificate()
	d.autoConf()
	d.overrides()
}

// certificate tells of the server's certificate, which pgfleet leaves alone: a
// task of kind certificate would replace it by one of the fleet's own CA.
func (d *describer) certificate() {
	if v, _ := d.server.Setting("ssl"); v.Setting != "on" {
		d.remark("\nTLS is off.")
		return
	}
	file, _ := d.server.Setting("ssl_cert_file")
	p := file.Setting
	if !path.IsAbs(p) {
		p = path.Join(d.server.DataDirectory, p)
	}
	info, _, err := d.state.CertificateFile(p)
	if err != nil {
		return
	}
	leaf, err := pki.Inspect(info.Certificates)
	if err != nil {
		return
	}
	d.remark("\nTLS is on, with the certificate in %s,\nissued by %s, until %s. It is left alone.", oneLine(p), oneLine(leaf.Issuer), leaf.NotAfter.Format("2006-01-02"))
}

// autoConf tells what ALTER SYSTEM has set.
func (d *describer) autoConf() {
	var lines, names []string
	for _, e := range d.conf.settings {
		if e.File != d.conf.auto {
			continue
		}
		value := oneLine(e.Value)
		if why := secretSetting(e.Name, e.Value); why != "" {
			value = "(not shown: " + why + ")"
		}
		lines, names = append(lines, "  "+e.Name+" = "+value), append(names, e.Name)
	}
	if len(lines) == 0 {
		return
	}
	d.remark("\nALTER SYSTEM has set what follows. It wins over every file here, and pgfleet leaves it\nalone; ALTER SYSTEM RESET … gives it up.\n%s", strings.Join(lines, "\n"))
	d.warn("ALTER SYSTEM has set %s, which wins over every configuration file", strings.Join(names, ", "))
}

// overrides tells what ALTER ROLE ALL has set, which no task declares; what is
// one role's or one database's stands in its task.
func (d *describer) overrides() {
	var lines []string
	for _, o := range d.server.Overrides {
		if o.Role != "" || o.Database != "" {
			continue
		}
		value := oneLine(o.Value)
		if _, known := d.catalog.Lookup(o.Name); !known || secretSetting(o.Name, o.Value) != "" {
			value = "(not shown)" // an application's own may be anything
		}
		lines = append(lines, fmt.Sprintf("  %s = %s", o.Name, value))
	}
	if len(lines) == 0 {
		return
	}
	d.remark("\nALTER ROLE ALL has set what follows. It wins in all sessions, and pgfleet leaves it alone.\n%s", strings.Join(lines, "\n"))
	d.warn("ALTER ROLE ALL has set parameters, which win in all sessions; fleet.toml lists them")
}

// packages returns the names of packages that the server's software may have
// come from: its own, and those of the libraries that it loads, whose names
// follow no strict rule.
func packages(in inventory.Instance, s *tasks.State) []string {
	names := []string{fmt.Sprintf("postgresql-%d", in.Version)}
	server := s.Server()
	if server == nil {
		return names
	}
	for _, library := range preloaded(server) {
		plain := strings.ReplaceAll(library, "_", "-")
		names = append(names,
			fmt.Sprintf("postgresql-%d-%s", in.Version, plain),
			fmt.Sprintf("postgresql-%d-%s", in.Version, strings.TrimPrefix(plain, "pg-")),
			fmt.Sprintf("%s-postgresql-%d", plain, in.Version))
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !plainPath.MatchString(n) })
	slices.Sort(names)
	return slices.Compact(names)
}

func preloaded(server *facts.Server) []string {
	x, _ := server.Setting("shared_preload_libraries")
	names, err := postgres.ParseList("shared_preload_libraries", x.Setting)
	if err != nil {
		return nil
	}
	for i, n := range names {
		names[i] = strings.TrimSuffix(path.Base(n), ".so")
	}
	return names
}

func (d *describer) packages() {
	var installed []string
	for _, name := range packages(d.in, d.state) {
		if p, err := d.state.Package(name); err == nil && p.Installed {
			installed = append(installed, name)
		}
	}
	if len(installed) == 0 {
		return
	}
	d.blank()
	d.task(false, d.name("Packages"), "package", d.id, pair{"packages", list(installed)})
}

func (d *describer) service() {
	var pairs []pair
	if u, err := d.state.Unit(d.in.Unit()); err == nil && strings.HasPrefix(u.UnitFileState, "enabled") {
		pairs = append(pairs, pair{"enabled", "true"})
	}
	d.blank()
	d.remark("A restart that is owed is told and not made; \"owed\" makes it.")
	d.task(false, d.name("Service"), "service", d.id, append(pairs, pair{"restart", `"never"`})...)
}

// catalogs describes roles, and databases with what they hold.
func (d *describer) catalogs() {
	d.blank()
	c, err := d.state.Cluster()
	if err != nil {
		d.remark("Roles and databases could not be read: %s.", oneLine(err.Error()))
		d.warn("roles and databases are not taken over: %v", err)
		return
	}
	d.remark("Roles, and databases with what they hold. A role that is not here, and what a role has that no\ntask speaks of, is left alone; exact = true in a grant takes back what is not declared.")
	d.roles(c)
	d.databases(c)
}

// proofs writes tasks that prove at every apply what is true now.
func (d *describer) proofs() {
	if address := d.listens(); address != "" {
		d.blank()
		d.task(false, d.name("Port"), "verify", d.id, pair{"port", fmt.Sprintf("{ address = %s, from = %s }", literal(address), String(d.in.Host.Name))})
	}
	for _, name := range []string{"ssl", "shared_preload_libraries"} {
		x, ok := d.server.Setting(name)
		if !ok || !writable(x.Setting) {
			continue
		}
		d.blank()
		d.task(false, d.name(name), "verify", d.id, pair{"query", String("SHOW " + name)}, pair{"expect", literal(x.Setting)})
	}
}

// listens returns an address at which the server can be reached from its host.
func (d *describer) listens() string {
	x, _ := d.server.Setting("listen_addresses")
	addresses, err := postgres.ParseList("listen_addresses", x.Setting)
	if err != nil || len(addresses) == 0 {
		return ""
	}
	for _, a := range addresses {
		if a == "*" || a == "0.0.0.0" || a == "localhost" || a == "127.0.0.1" {
			return "127.0.0.1"
		}
	}
	if addresses[0] == "::" {
		return "::1"
	}
	return addresses[0]
}
