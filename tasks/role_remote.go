package tasks

import (
	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// keptOut returns an error if some rule of pg_hba.conf, as it is or will be,
// lets the role in over TCP.
func (t *Role) keptOut(s *State, c *catalog.Cluster) error {
	file, err := s.File(s.paths().hba)
	if err != nil {
		return err
	}
	lines, err := postgres.ParseHBA(string(file.Content), s.version())
	if err != nil {
		return err
	}
	rules, err := postgres.HBARules(lines)
	if err != nil {
		return problemAt(t.at("remote"), "remote: pg_hba.conf cannot be judged: %v", err)
	}
	role := t.Role.Value
	rule, ok := postgres.RemoteRule(rules, postgres.HBAConn{
		User: role, MemberOf: func(of string) bool { return c.MemberOf(role, of) }, Version: c.Version,
	})
	if !ok {
		return nil
	}
	return problemAt(t.at("remote"), "pg_hba.conf lets %s in over TCP: line %d: %s; put \"host all,replication %s all reject\" before it",
		role, rule.Line, rule.Summary(), postgres.QuoteHBA(role))
}
