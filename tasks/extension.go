package tasks

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Extension is an extension of one database.
type Extension struct {
	Common
	Database  inventory.Positioned[string] `toml:"database" required:"true" doc:"The database that it is in."`
	Extension inventory.Positioned[string] `toml:"extension" required:"true" doc:"The extension's name."`
	Version   inventory.Positioned[string] `toml:"version" doc:"Its version; left out, a new one has the default version, and one that is there is left as it is."`
	Schema    inventory.Positioned[string] `toml:"schema" doc:"The schema of its objects. Left out, the server decides."`
	State     string                       `toml:"state" enum:"present,absent" doc:"absent drops it; the server refuses that while something depends on it."`
}

// Check finds mistakes in names.
func (t *Extension) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("database", t.Database, &errs)
	checkName("extension", t.Extension, &errs)
	checkName("schema", t.Schema, &errs)
	return errs
}

// Reads asks for the catalogs, and where the extension is not as wanted for
// those that there could be.
func (t *Extension) Reads(in inventory.Instance, s *State) []facts.Read {
	reads := catalogReads(in, t.Database.Value)
	c, err := s.Cluster()
	if err != nil {
		return reads
	}
	if held := c.Contents[t.Database.Value]; held != nil {
		found := held.Extensions[t.Extension.Value]
		if found != nil && (t.Version.Value == "" || found.Version == t.Version.Value) {
			return reads
		}
	}
	return append(reads, availableRead(in))
}

// Plan compares the extension.
func (t *Extension) Plan(in inventory.Instance, s *State) (Outcome, error) {
	database, name := t.Database.Value, t.Extension.Value
	return t.planSQL(s, []string{database}, func(x *script, out *Outcome) error {
		held, err := needDatabase(x.catalogs, s, database, t.Database.Pos())
		if err != nil {
			return err
		}
		found := held.Extensions[name]
		if t.State == "absent" {
			if found != nil {
				x.do(database, catalog.DropExtension{Name: name})
			}
			return nil
		}
		if want := t.Schema.Value; want != "" && held.Schemas[want] == nil && want != "pg_catalog" {
			return problemAt(t.Schema.Pos(), "there is no schema %q in database %s%s; a task of kind \"schema\" before this one makes it",
				want, database, inventory.DidYouMean(want, slices.Sorted(maps.Keys(held.Schemas))))
		}
		if found == nil {
			if err := t.available(in, s, held, out); err != nil {
				return err
			}
			x.do(database, catalog.CreateExtension{Name: name, Version: t.Version.Value, Schema: t.Schema.Value})
			return nil
		}
		if want := t.Version.Value; want != "" && found.Version != want {
			if err := t.hasVersion(held, want); err != nil {
				return err
			}
			x.do(database, catalog.UpdateExtension{Name: name, Version: want})
		}
		if want := t.Schema.Value; want != "" && found.Schema != want {
			if !found.Relocatable {
				return problemAt(t.Schema.Pos(), "the extension %s is in schema %s and cannot be moved: drop it and make it anew, or declare that schema", name, found.Schema)
			}
			x.do(database, catalog.MoveExtension{Name: name, Schema: want})
		}
		return nil
	})
}

// available refuses an extension whose files the server does not have, and one
// whose library has to be loaded at the server's start before it can be made.
func (t *Extension) available(in inventory.Instance, s *State, held *catalog.Contents, out *Outcome) error {
	name := t.Extension.Value
	info, err := ask[facts.AvailableInfo](s, availableRead(in))
	if err == nil && info.Problem != "" {
		err = errors.New(info.Problem)
	}
	if err != nil {
		return err
	}
	if _, ok := info.Versions[name]; !ok {
		if !s.installed {
			return problemAt(t.Extension.Pos(), "the server has no extension %q%s; install its package with a task of kind \"package\" before this one (Debian: postgresql-%d-%s)",
				name, inventory.DidYouMean(name, slices.Sorted(maps.Keys(info.Versions))), in.Version, strings.ReplaceAll(name, "_", "-"))
		}
		out.Unknown = append(out.Unknown, fmt.Sprintf("extension %s: known after its package is installed", name))
	} else if want := t.Version.Value; want != "" {
		if err := t.hasVersion(held, want); err != nil {
			return err
		}
	}
	if !slices.Contains(loadedFirst(), name) || s.preloaded(name) {
		return nil
	}
	why := "add it to shared_preload_libraries with a task of kind \"settings\" or \"audit_logging\", and restart with one of kind \"service\", before this one"
	if slices.ContainsFunc(s.pending(), func(p pending) bool { return p.Name == "shared_preload_libraries" && strings.Contains(p.Wanted, name) }) {
		why = "it is in shared_preload_libraries, and only a restart loads it: put the task of kind \"service\" that restarts the server before this one"
	}
	return problemAt(t.Extension.Pos(), "the extension %s can be made only once its library is loaded: %s", name, why)
}

// loadedFirst are extensions whose CREATE EXTENSION fails unless their library
// is in shared_preload_libraries.
func loadedFirst() []string {
	return []string{"pgaudit", "pg_cron", "timescaledb", "citus", "pg_partman_bgw"}
}

func (t *Extension) hasVersion(held *catalog.Contents, want string) error {
	versions := held.Available[t.Extension.Value]
	if len(versions) == 0 || slices.Contains(versions, want) {
		return nil
	}
	return problemAt(t.Version.Pos(), "the server has no version %q of the extension %s; it has %s", want, t.Extension.Value, strings.Join(versions, ", "))
}

// needsServer: the library that a new configuration loads has to be loaded.
func (t *Extension) needsServer() {}
