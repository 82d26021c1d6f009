package tasks

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// A created is something that a script is declared to make.
type created struct {
	relation catalog.Relation // without its privileges
	pos      inventory.Position
}

// parseCreates reads what the script is declared to make.
func (t *Psql) parseCreates(errs *inventory.Errors) {
	t.creates = nil
	for _, p := range t.Creates {
		c, err := parseCreated(p.name)
		if err != nil {
			errs.Add(p.pos, "creates: %v", err)
			continue
		}
		c.relation.Owner = orElse(c.relation.Owner, t.As.Value)
		c.pos = p.pos
		t.creates = append(t.creates, c)
	}
}

// parseCreated reads "table public.orders owner appowner". What is made is named
// as in SQL, and the role, as in every task, without quotes.
func parseCreated(text string) (created, error) {
	rest := strings.TrimSpace(text)
	for _, relkind := range []byte("rvmS") {
		word := relationWord(relkind)
		n := len(word)
		if len(rest) <= n || !strings.EqualFold(rest[:n], word) || rest[n] != ' ' {
			continue
		}
		name, owner := strings.TrimSpace(rest[n:]), ""
		if at := strings.LastIndex(strings.ToLower(name), " owner "); at >= 0 {
			name, owner = name[:at], strings.TrimSpace(name[at+len(" owner "):])
			if err := postgres.CheckIdent(owner); err != nil {
				return created{}, fmt.Errorf("owner: %w", err)
			}
		}
		parsed, err := catalog.ParseName(name)
		return created{relation: catalog.Relation{Name: parsed, Kind: relkind, Owner: owner}}, err
	}
	return created{}, fmt.Errorf("%q: want \"table SCHEMA.NAME\", \"view …\", \"materialized view …\" or \"sequence …\", and \"owner ROLE\" behind it where that is not the role that the script runs as", text)
}

// missing returns what the script is declared to make and is not there, with the
// owners that it will have.
func (t *Psql) missing(s *State) ([]catalog.Relation, error) {
	held, err := s.Contents(t.database())
	if err != nil {
		return nil, err
	}
	var list []catalog.Relation
	var problems []error
	for _, c := range t.creates {
		found := held.Relations[c.relation.Name]
		switch {
		case found == nil:
			r := c.relation
			r.Owner = orElse(r.Owner, s.cluster.Bootstrap)
			list = append(list, r)
			problems = append(problems, needRole(s.cluster, r.Owner, c.pos))
		case relationWord(found.Kind) != relationWord(c.relation.Kind):
			problems = append(problems, problemAt(c.pos, "creates: %s is there and is a %s", c.relation.Name, relationWord(found.Kind)))
		}
	}
	return list, errors.Join(problems...)
}

// made returns an error unless a rehearsal has made what the script is declared
// to make.
func (t *Psql) made(held *catalog.Contents) error {
	var problems []error
	for _, c := range t.creates {
		found := held.Relations[c.relation.Name]
		switch owner := c.relation.Owner; {
		case found == nil:
			problems = append(problems, problemAt(c.pos, "creates: the script does not make %s, as a rehearsal of it shows", c.relation.Name))
		case owner != "" && found.Owner != owner:
			problems = append(problems, problemAt(c.pos, "creates: %s will be owned by %s and not by %s, as a rehearsal of the script shows", c.relation.Name, found.Owner, owner))
		}
	}
	return errors.Join(problems...)
}

// relationWord names a relkind. What is partitioned or foreign is a table.
func relationWord(kind byte) string {
	switch kind {
	case 'v':
		return "view"
	case 'm':
		return "materialized view"
	case 'S':
		return "sequence"
	}
	return "table"
}
