package adopt

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
)

// conf is a server's configuration files as it reads them.
type conf struct {
	dir      string // of postgresql.conf
	main     string
	auto     string
	files    []string // those that were read, in order, without postgresql.auto.conf
	settings []postgres.EffectiveSetting
}

func readConf(s *tasks.State, server *facts.Server) conf {
	c := conf{dir: path.Dir(server.ConfigFile), main: server.ConfigFile, auto: path.Join(server.DataDirectory, "postgresql.auto.conf")}
	read := func(file string) (string, bool) {
		f, err := s.File(file)
		if err != nil || !f.Exists {
			return "", false
		}
		if file != c.auto && !slices.Contains(c.files, file) {
			c.files = append(c.files, file)
		}
		return string(f.Content), true
	}
	glob := func(dir string) []string {
		files, err := s.Files(path.Join(dir, "*.conf"))
		if err != nil {
			return nil
		}
		var names []string
		for _, f := range files {
			names = append(names, path.Base(f.Path))
		}
		return names
	}
	c.settings, _ = postgres.Effective(c.main, read, glob, c.auto) // a server that runs has read them
	return c
}

// settings describes postgresql.conf and what it includes.
func (d *describer) settings() {
	for _, file := range d.conf.files {
		f, err := d.state.File(file)
		if err != nil {
			d.warn("%s is not taken over: %v", file, err)
			continue
		}
		if path.Dir(file) == path.Join(d.conf.dir, "conf.d") && d.fragment(f) {
			continue
		}
		d.copied(f)
		d.equivalent(file)
	}
}

// fragment writes a settings task for a file in conf.d, and reports whether it
// could: what loses to a later file, or is not as the kind would take it, is
// left to a copy.
func (d *describer) fragment(f facts.FileInfo) bool {
	entries, err := postgres.ParseConf(string(f.Content))
	if err != nil || len(entries) == 0 || len(secretLines(string(f.Content))) > 0 {
		return false
	}
	var settings []postgres.ConfEntry
	var exact []string
	for _, e := range entries {
		if e.Include() != "" || ofTheHost(e.Name) || !writable(e.Value) || secrets.HasPlaceholder(e.Value) || !d.wins(e) || d.catalog.Check(e.Name, e.Value) != nil {
			return false
		}
		settings = slices.DeleteFunc(settings, func(x postgres.ConfEntry) bool { return strings.EqualFold(x.Name, e.Name) })
		settings = append(settings, e)
		if strings.HasSuffix(strings.ToLower(e.Name), "_preload_libraries") && !slices.Contains(exact, e.Name) {
			exact = append(exact, e.Name)
		}
	}
	pairs := []pair{{"file", literal(path.Base(f.Path))}}
	if len(exact) > 0 {
		pairs = append(pairs, pair{"exact", list(exact)})
	}
	d.blank()
	d.task(false, d.name("conf.d/"+path.Base(f.Path)), "settings", d.id, pairs...)
	d.b.WriteString("[task.settings]\n")
	for _, e := range settings {
		fmt.Fprintf(&d.b, "%s = %s\n", Key(e.Name), literal(e.Value))
	}
	return true
}

// ofTheHost reports whether a parameter is one that a settings task refuses,
// because it says where the server and its files are found. A fragment with one
// is kept as a copy.
func ofTheHost(name string) bool {
	switch strings.ToLower(name) {
	case "port", "unix_socket_directories", "data_directory", "hba_file", "ident_file", "config_file", "external_pid_file":
		return true
	}
	return false
}

// wins reports whether the server uses an entry's value.
func (d *describer) wins(e postgres.ConfEntry) bool {
	x, known := d.catalog.Lookup(e.Name)
	same := func(value string) bool { return value == e.Value || known && x.Equal(value, e.Value) }
	for _, s := range d.conf.settings {
		if strings.EqualFold(s.Name, e.Name) {
			return same(s.Value) && (x.Source != "command line" || same(x.Setting))
		}
	}
	return false
}

// copied writes a file task with a copy.
func (d *describer) copied(f facts.FileInfo) {
	source := copyPath(d.id, f.Path)
	var why string
	found := secretLines(string(f.Content))
	switch {
	case !f.Regular || f.TooLarge:
		why = "it is not a regular file of a usual size"
	case source == "":
		why = "its name has unusual characters"
	case secrets.HasPlaceholder(string(f.Content)):
		why = "it holds what looks like a placeholder of pgfleet's"
	case len(found) > 0:
		why = strings.Join(found, "; ")
	}
	d.blank()
	if why != "" {
		d.remark("Not copied, because of what is in it (%s).\nMove that to where it belongs (a passfile, a file that only the server reads, a secret of\npgfleet's in a template), copy the file yourself, and take the # off.", oneLine(why))
		d.warn("%s was not copied: %s", f.Path, why)
	} else {
		d.remark("A copy, to the byte: a change made by hand on the host is found and undone.")
		d.result.Files[source] = f.Content
	}
	if source == "" {
		return
	}
	d.task(why != "", d.name(path.Base(f.Path)), "file", d.id,
		pair{"path", literal(f.Path)}, pair{"source", literal(source)}, pair{"literal", "true"},
		pair{"owner", literal(f.Owner)}, pair{"group", literal(f.Group)}, pair{"mode", String(octal(f.Mode))})
}

func octal(m fs.FileMode) string { return fmt.Sprintf("%04o", m.Perm()) }

// equivalent writes, as a comment, the settings task that would take the place
// of a copy: what the file sets and the server would not have by itself.
func (d *describer) equivalent(file string) {
	var b strings.Builder
	listed := false
	for _, e := range d.conf.settings {
		if e.File != file || slices.Contains(places(), strings.ToLower(e.Name)) || !writable(e.Value) {
			continue
		}
		x, known := d.catalog.Lookup(e.Name)
		if known && x.Equal(e.Value, x.BootVal) {
			continue
		}
		if why := secretSetting(e.Name, e.Value); why != "" {
			fmt.Fprintf(&b, "# %s: line %d, not copied: %s\n", Key(e.Name), e.Line, why)
			continue
		}
		fmt.Fprintf(&b, "%s = %s # line %d\n", Key(e.Name), literal(e.Value), e.Line)
		listed = true
	}
	if !listed {
		return
	}
	d.blank()
	d.remark("What differs in it from PostgreSQL's own defaults, as a settings task. To let a fragment in\nconf.d own these instead of the whole file: take the # off here, and the task above out.\n")
	name, fragment := "Settings", "50-settings.conf"
	if file != d.conf.main {
		name, fragment = "Settings in "+path.Base(file), path.Base(file)
		if path.Ext(fragment) != ".conf" {
			fragment += ".conf"
		}
	}
	d.task(true, d.name(name), "settings", d.id, pair{"file", literal(fragment)})
	d.block(true, "[task.settings]\n"+b.String())
}

// places are parameters that say where things are, and belong to the
// distribution's own file.
func places() []string {
	return []string{"data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"}
}
