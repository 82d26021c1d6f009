package tasks

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// clusterRead is the question what an instance's databases share.
func clusterRead(in inventory.Instance) facts.Cluster {
	return facts.Cluster{Port: in.Port, SocketDir: socketDir}
}

// contentsRead is the question what one database holds.
func contentsRead(in inventory.Instance, database string) facts.Contents {
	return facts.Contents{Port: in.Port, SocketDir: socketDir, Database: database}
}

// availableRead is the question which extensions a server could make.
func availableRead(in inventory.Instance) facts.Available {
	return facts.Available{Port: in.Port, SocketDir: socketDir}
}

// readCatalogs puts the answers about the server's catalogs together.
func (s *State) readCatalogs() {
	info, err := ask[facts.ClusterInfo](s, clusterRead(s.instance))
	if err != nil || info.Cluster == nil {
		return
	}
	c := *info.Cluster
	c.Contents = map[string]*catalog.Contents{}
	available, _ := ask[facts.AvailableInfo](s, availableRead(s.instance))
	for r, a := range s.answers {
		q, ok := r.(facts.Contents)
		if !ok || q.Port != s.instance.Port || a.Err != nil {
			continue
		}
		if found, ok := a.Value.(facts.ContentsInfo); ok && found.Contents != nil {
			held := *found.Contents
			held.Available = available.Versions
			c.Contents[q.Database] = &held
		}
	}
	s.cluster = &c
}

// Cluster returns what the server's catalogs hold, or will. It is shared and is
// not to be changed: work on a Clone. The error says why it is not known.
func (s *State) Cluster() (*catalog.Cluster, error) {
	if s.cluster != nil {
		return s.cluster, nil
	}
	info, err := ask[facts.ClusterInfo](s, clusterRead(s.instance))
	if err == nil && info.Problem != "" {
		err = errors.New(info.Problem)
	}
	return nil, err
}

// Contents returns what a database holds, or will. The error says why that is
// not known; a database that does not exist is an errNoDatabase.
func (s *State) Contents(database string) (*catalog.Contents, error) {
	c, err := s.Cluster()
	if err != nil {
		return nil, err
	}
	if found := c.Contents[database]; found != nil {
		return found, nil
	}
	if c.Databases[database] == nil {
		return nil, &noDatabaseError{database, slices.Sorted(maps.Keys(c.Databases))}
	}
	info, err := ask[facts.ContentsInfo](s, contentsRead(s.instance, database))
	switch {
	case err != nil:
		return nil, err
	case info.Problem != "":
		return nil, fmt.Errorf("database %s cannot be read: %s", database, info.Problem)
	}
	return nil, fmt.Errorf("database %s was made while it was being asked about; plan again", database)
}

// A noDatabaseError says that there is no such database.
type noDatabaseError struct {
	name  string
	known []string
}

// Error names the database, and the nearest that there is.
func (e *noDatabaseError) Error() string {
	return fmt.Sprintf("there is no database %q%s; a task of kind \"database\" before this one makes it", e.name, inventory.DidYouMean(e.name, e.known))
}

// uncertainSince names the script that makes what a database holds unknowable;
// "" where there is none.
func (s *State) uncertainSince(database string) string { return s.uncertain[database] }

// foreseeStatement moves the catalogs on.
func (s *State) foreseeStatement(database string, st catalog.Statement) {
	if s.cluster == nil {
		return
	}
	s.cluster = s.cluster.Clone()
	st.Apply(s.cluster, database)
}

// foreseeScript moves the catalogs on by what a script of SQL is known to do, or
// notes that nobody knows.
func (s *State) foreseeScript(a RunScript) {
	switch {
	case s.cluster == nil:
	case a.Rehearsed != nil:
		inside := a.Rehearsed.Clone()
		for name, held := range s.cluster.Contents {
			if name != a.Database {
				inside.Contents[name] = held
			}
		}
		s.cluster = inside
	case len(a.Creates) > 0:
		s.cluster = s.cluster.Clone()
		for _, r := range a.Creates {
			if held := s.cluster.Contents[a.Database]; held != nil && held.Relations[r.Name] == nil {
				s.cluster.AddRelation(a.Database, r)
			}
		}
	case !a.Always:
		s.uncertain = with(s.uncertain, a.Database, a.Name)
	}
}
