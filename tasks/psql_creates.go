package tasks

import (
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/inventory"
)

// parseCreates reads what a script is declared to make.
func (t *Psql) parseCreates(errs *inventory.Errors) {
	t.relations = nil
	for _, p := range t.Creates {
		r, err := parseRelation(p.name)
		if err != nil {
			errs.Add(p.pos, "creates: %v", err)
			continue
		}
		if r.Owner == "" {
			r.Owner = t.As.Value
		}
		t.relations = append(t.relations, r)
	}
}

// parseRelation reads "table public.orders owner appowner".
func parseRelation(text string) (catalog.Relation, error) {
	for _, k := range []struct {
		words string
		kind  byte
	}{{"table ", 'r'}, {"view ", 'v'}, {"materialized view ", 'm'}, {"sequence ", 'S'}} {
		if len(text) < len(k.words) || !strings.EqualFold(text[:len(k.words)], k.words) {
			continue
		}
		name, owner, _ := strings.Cut(text[len(k.words):], " owner ")
		n, err := catalog.ParseName(strings.TrimSpace(name))
		return catalog.Relation{Name: n, Kind: k.kind, Owner: strings.TrimSpace(owner)}, err
	}
	return catalog.Relation{}, fmt.Errorf("%q: want \"table SCHEMA.NAME\", \"view …\", \"materialized view …\" or \"sequence …\", and \"owner ROLE\" behind it where that is not the role that the script runs as", text)
}

// missing returns what the script is declared to make and is not there, with the
// owners that it will have.
func (t *Psql) missing(s *State) ([]catalog.Relation, error) {
	held, err := s.Contents(t.database())
	if err != nil {
		return nil, err
	}
	var list []catalog.Relation
	for _, r := range t.relations {
		if held.Relations[r.Name] == nil {
			if r.Owner == "" {
				r.Owner = s.cluster.Bootstrap
			}
			list = append(list, r)
		}
	}
	return list, nil
}
